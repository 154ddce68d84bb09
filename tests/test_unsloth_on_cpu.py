"""unsloth's own path for cards, with its kernels interpreted on the CPU: a training that looks the same to the rest.

It needs the unsloth package, whose kernels Triton interprets here; where there is a card, tests/gpu does this for real.
"""

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from micro_steps import MicroStep
from random_llama import write_base
from safetensors.torch import load_file

from flanlite.run import Run

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available() or not all(map(importlib.util.find_spec, ("unsloth", "triton"))),
    reason="needs the unsloth package, and no card",
)

TESTS = Path(__file__).parent
SETUPS = ("1,2,false", "1,1,true", "1,0,false")
TIMEOUT_S = 300


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    return write_base(folder, width=64, intermediate=128, head_width=64, spread=0.05, dtype="float16")


def start(what: str, base: Path, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """In a process of its own, since unsloth changes transformers, trl and peft for the whole process."""
    folder.mkdir()
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS), os.environ.get("PYTHONPATH", "")]),
        "TRITON_INTERPRET": "1",
        "UNSLOTH_ALLOW_CPU": "1",
        "UNSLOTH_COMPILE_LOCATION": str(folder / "compiled"),
        "UNSLOTH_DISABLE_PINNED_MEMORY": "1",
        "UNSLOTH_DISABLE_STATISTICS": "1",
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, str(TESTS / "unsloth_on_cpu.py"), what, str(base), str(folder), *arguments]
    return subprocess.Popen(
        command, env=environment, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, f"{out}\n{err}"


@pytest.fixture(scope="module")
def folders(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What the three processes have written, which run at the same time."""
    folder = tmp_path_factory.mktemp("out")
    folders = {name: folder / name for name in ("unsloth", "peft", "tune")}
    processes = [
        start("tune", base, folders["tune"]),
        start("micro_steps", base, folders["unsloth"], *SETUPS),
        start("micro_steps_of_peft", base, folders["peft"], SETUPS[0]),
    ]
    for process in processes:
        finish(process)
    return folders


def micro_steps(folder: Path) -> list[MicroStep]:
    return [MicroStep(**each) for each in torch.load(folder / "micro_steps.pt", weights_only=False)]


def distance(gradients: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The length of the difference, in lengths of what is expected."""
    assert gradients.keys() == expected.keys()
    mine, theirs = (torch.cat([each[name].flatten().double() for name in expected]) for each in (gradients, expected))
    return float((mine - theirs).norm() / theirs.norm())


def test_a_packed_micro_step_gives_what_its_conversations_give(folders: dict[str, Path]) -> None:
    made, *_ = micro_steps(folders["unsloth"])
    assert made.types == {"torch.float16"}
    assert made.loss == pytest.approx(made.single_loss, rel=1e-5)
    assert distance(made.gradients, made.single_gradients) < 5e-3


def test_a_micro_step_gives_what_it_gives_in_peft(folders: dict[str, Path]) -> None:
    made, *_ = micro_steps(folders["unsloth"])
    [expected] = micro_steps(folders["peft"])
    assert made.loss == pytest.approx(expected.loss, rel=1e-4)
    assert distance(made.gradients, expected.gradients) < 1e-2


def test_kept_and_offloaded_layers_of_one_model_change_neither_loss_nor_gradients(folders: dict[str, Path]) -> None:
    whole, *others = micro_steps(folders["unsloth"])
    for setup, made in zip(SETUPS[1:], others, strict=True):
        assert made.loss == whole.loss
        for name, gradient in whole.gradients.items():
            assert torch.equal(made.gradients[name], gradient), name
        kept = int(setup.split(",")[1])
        assert sorted(made.forwards.values()) == [1] * kept + [2] * (2 - kept)


def test_a_training_whose_memory_runs_out_goes_on_as_if_nothing_had_happened(folders: dict[str, Path]) -> None:
    whole, small = (Run(folders["tune"] / name) for name in ("whole", "small"))
    said = (folders["tune"] / "said.txt").read_text()
    assert "The card ran out of memory before step 1; goes on with " in said
    assert "The card ran out of memory after step 1; goes on with " in said
    adapter, expected = (load_file(run.adapter_dir / "adapter_model.safetensors") for run in (small, whole))
    assert {tensor.dtype for tensor in adapter.values()} == {torch.float32}
    assert adapter.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(adapter[name], tensor), name
    assert losses(small) == losses(whole)


def losses(run: Run) -> list[list[str]]:
    with run.loss_csv.open(newline="") as stream:
        return list(csv.reader(stream))
