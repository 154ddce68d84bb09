"""What the tests on a card look at: trainings in processes of their own, since unsloth changes transformers, trl and
peft for a whole process. A card has room for many small ones at once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from agent_flan_talk import SETTINGS as TALK_SETTINGS
from agent_flan_talk import add_end_of_turn, write_rows
from micro_steps import MicroStep
from random_llama import write_base

from flanlite.engine.checkpoints import newest_checkpoint
from flanlite.run import Run

HERE = Path(__file__).parent
TESTS = HERE.parent
TIMEOUT_S = 240
AT_ONCE = min(8, (os.cpu_count() or 2) // 2)
"""Processes: each keeps a core busy, and its libraries some more while they are imported."""

SETTINGS = ("epochs=10", "lora_dropout=0", "learning_rate=1e-3", "save_minutes=60")
STEPS = 50
LAYERS = 8
SETUPS = ("2,8,false", "2,0,false", "2,3,false", "2,0,true", "2,3,true", "2,8,false")

HAS_UNSLOTH = importlib.util.find_spec("unsloth") is not None
BACKENDS = [
    pytest.param("unsloth", marks=[] if HAS_UNSLOTH else pytest.mark.skip(reason="needs the unsloth package")),
    "peft",
]


def write_down(name: str, content: Any) -> None:
    """Add a line of figures to a file in the folder that the variable OUT names, where it is set.

    At once: a machine that is lent for minutes may be gone before the last test has ended.
    """
    if "OUT" in os.environ:
        with (Path(os.environ["OUT"]) / name).open("a") as stream:
            stream.write(json.dumps(content) + "\n")


class Child:
    """Python in a process of its own, whose output goes to files: a full pipe would hold it up.

    The code that unsloth writes and imports again lies in a folder of its own: others write theirs at the same time.
    """

    def __init__(self, *arguments: str | Path) -> None:
        # Behind ours what was there: packages may have been brought along in a folder.
        path = os.pathsep.join([*map(str, (TESTS.parent, TESTS, HERE)), os.environ.get("PYTHONPATH", "")])
        self.written = tempfile.TemporaryDirectory()
        # What a test in this process may have set is not theirs.
        inherited = {name: value for name, value in os.environ.items() if name != "PYTORCH_ALLOC_CONF"}
        environment = inherited | {
            "PYTHONPATH": path,
            "HF_HUB_OFFLINE": "1",
            "UNSLOTH_COMPILE_LOCATION": self.written.name,
            # Each would start as many processes to compile in as there are cores.
            "UNSLOTH_FORCE_SINGLE_COMPILE_WORKER": "1",
        }
        self.out, self.err = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.deadline = time.monotonic() + TIMEOUT_S
        command = [sys.executable, *map(str, arguments)]
        self.process = subprocess.Popen(command, env=environment, stdout=self.out, stderr=self.err)

    def wait_for(self, is_there: Callable[[], bool]) -> None:
        """Until something is there, the process has ended, or its time is over."""
        while self.process.poll() is None and not is_there() and time.monotonic() < self.deadline:
            time.sleep(0.01)

    def end(self, number: signal.Signals | None = None) -> tuple[int, str, str]:
        """The exit status, behind a signal or without one, and what was printed; killed where its time is over."""
        if number is not None:
            self.process.send_signal(number)
        try:
            self.process.wait(max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
        status = self.process.wait()
        texts = []
        for stream in (self.out, self.err):
            stream.seek(0)
            texts.append(stream.read())
            stream.close()
        self.written.cleanup()
        return status, texts[0], texts[1]

    def finish(self) -> str:
        """What it printed on stdout, once it has ended well."""
        [out] = finish([self])
        return out


def finish(children: Iterable[Child]) -> list[str]:
    """What each printed on stdout, once all have ended, and ended well: none is left on the card behind a failure."""
    ended = [(child, child.end()) for child in list(children)]
    for child, (status, out, err) in ended:
        assert status == 0, f"{child.process.args} ended with {status}\n{out}\n{err[-6000:]}"
    return [out for _, (_, out, _) in ended]


@dataclass(frozen=True)
class Bases:
    """Folders with random bases: one whose steps are fast, and one whose activations outweigh all else.

    Heads of 64 and widths that suit the kernels; small weights, as real ones are.
    """

    small: Path
    deep: Path

    @classmethod
    def write(cls, folder: Path) -> Bases:
        """Write them, fastest on a card."""
        common: dict[str, Any] = {"head_width": 64, "spread": 0.02, "dtype": "bfloat16"}
        return cls(
            small=write_base(folder / "small", width=256, intermediate=512, **common),
            deep=write_base(folder / "deep", layers=LAYERS, width=1024, intermediate=2816, **common),
        )


class Outcomes:
    """The outcomes of scenarios; each is run once, by a thread, in a folder of its own."""

    def __init__(self, folder: Path, bases: Bases) -> None:
        self.folder, self.bases = folder, bases
        self.pool = ThreadPoolExecutor(AT_ONCE)
        self.started: dict[tuple[Any, ...], Future[Any]] = {}

    def start(self, scenario: Callable[..., Any], **about: str) -> Future[Any]:
        """Begin with a scenario, unless that has been done."""
        key = (scenario, *sorted(about.items()))
        if key not in self.started:
            folder = self.folder / f"{len(self.started)}-{scenario.__name__}"
            folder.mkdir()
            self.started[key] = self.pool.submit(scenario, folder, self.bases, **about)
        return self.started[key]

    def __call__(self, scenario: Callable[..., Any], **about: str) -> Any:
        """What a scenario left behind. Raises what it raised."""
        return self.start(scenario, **about).result()

    def close(self) -> None:
        """Begin with nothing more, and wait for what is under way."""
        self.pool.shutdown(cancel_futures=True)


def tuning(base: Path, run: Run, *arguments: str) -> Child:
    """A small tune under way."""
    return Child(TESTS / "small_tune.py", base, run.folder, *arguments)


def finished(folder: Path, bases: Bases, backend: str) -> tuple[Run, str]:
    """A run of 50 steps in the type that suits the card, and what it printed."""
    run = Run(folder / "run")
    return run, tuning(bases.small, run, *SETTINGS, f"backend={backend}").finish()


def float16(folder: Path, bases: Bases, backend: str) -> tuple[Run, bool]:
    """The same in float16, stopped once and resumed; whether its checkpoint held the scale of the losses."""
    run = Run(folder / "run")
    settings = (*SETTINGS[:-1], f"backend={backend}", "dtype=float16", "save_minutes=1e-9")
    child = tuning(bases.small, run, *settings)
    child.wait_for(lambda: newest_checkpoint(run.checkpoints_dir) is not None)
    status, _, err = child.end(signal.SIGINT)
    assert status == 1, err
    checkpoint = newest_checkpoint(run.checkpoints_dir)
    assert checkpoint is not None
    has_scale = (checkpoint / "scaler.pt").is_file()
    tuning(bases.small, run, "--resume", *settings).finish()
    return run, has_scale


def killed(folder: Path, bases: Bases, backend: str) -> Run:
    """The same, killed some time after its first checkpoint, and resumed."""
    run, draw = Run(folder / "run"), random.Random(1)
    settings = (*SETTINGS[:-1], f"backend={backend}", "save_minutes=1e-9")
    child = tuning(bases.small, run, *settings)
    child.wait_for(lambda: newest_checkpoint(run.checkpoints_dir) is not None)
    time.sleep(draw.uniform(0, 0.3))
    child.end(signal.SIGKILL)
    if not run.adapter_dir.is_dir():
        tuning(bases.small, run, "--resume", *settings).finish()
    return run


def offloaded(folder: Path, bases: Bases, backend: str) -> str:
    """What a tune with offloaded inputs printed; unsloth offloads inputs of more than 2 MiB in rows of 512 and more."""
    settings = ("max_tokens=2048", "batch_tokens=2048", "micro_rows=1", "kept_layers=0", "offload=true")
    return tuning(bases.deep, Run(folder / "run"), *SETTINGS[1:], *settings, f"backend={backend}").finish()


def micro_steps(base: Path, folder: Path, settings: tuple[str, ...], *setups: str) -> list[MicroStep]:
    """The first micro-step with each setup, written as rows,kept,offload."""
    Child(TESTS / "micro_steps.py", base, folder, *settings, "--", *setups).finish()
    found = torch.load(folder / "micro_steps.pt", weights_only=False)
    return [MicroStep(**each) for each in found]


def laid_out(folder: Path, bases: Bases, backend: str) -> list[MicroStep]:
    """The same micro-step with each of SETUPS, on one model."""
    settings = (f"backend={backend}", "lora_dropout=0", "max_tokens=1024", "batch_tokens=4096")
    return micro_steps(bases.deep, folder, settings, *SETUPS)


def one_by_one(folder: Path, bases: Bases, backend: str, dtype: str) -> MicroStep:
    """A packed micro-step, and its conversations one by one."""
    settings = (f"backend={backend}", f"dtype={dtype}", "lora_dropout=0", "max_tokens=512", "batch_tokens=2048")
    [made] = micro_steps(bases.small, folder, settings, "2,2,false")
    return made


@dataclass
class Capped:
    """A run on the whole card, one under a cap from the start, and one under a cap from the third step on."""

    whole: Run
    least_bytes: int
    cap_bytes: int
    capped: Run
    said: str
    shrunk: Run
    said_when_shrunk: str


def capped(folder: Path, bases: Bases, backend: str) -> Capped:
    """The cap lies between what all kept layers take and what none take."""
    settings = (*SETTINGS[1:], "max_tokens=2048", "epochs=8", "micro_rows=1", "batch_tokens=2048", f"backend={backend}")
    whole, small, first, later = (Run(folder / name) for name in ("whole", "small", "capped", "shrunk"))
    finish(tuning(bases.deep, run, *settings, f"kept_layers={kept}") for run, kept in ((whole, 8), (small, 0)))
    most, least = (run.record["measured"]["peak_memory_bytes"] for run in (whole, small))
    cap = (least + most) // 2
    said, said_later = finish(
        tuning(bases.deep, run, *settings, "kept_layers=8", f"--cap={bound}")
        for run, bound in ((first, f"{cap}"), (later, f"{cap}@3"))
    )
    return Capped(whole, least, cap, first, said, later, said_later)


def planned(folder: Path, bases: Bases, backend: str, case: str) -> dict[str, Any]:
    """What was planned and what was measured of one of planned_step's cases."""
    Child(HERE / "planned_step.py", "write", case, folder).finish()
    Child(HERE / "planned_step.py", "train", case, folder, backend).finish()
    # Up to a gigabyte each.
    shutil.rmtree(folder / "base")
    found: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    found["of_the_parts"], found["of_all"] = (found["measured"] / found[key] for key in ("predicted", "planned"))
    write_down("plan.jsonl", {"backend": backend, "case": case} | found)
    return found


def profiled(folder: Path, bases: Bases, backend: str, micro_rows: str) -> dict[str, Any]:
    """What an optimizer step of four rows does on the card."""
    settings = (f"backend={backend}", f"micro_rows={micro_rows}", "max_tokens=512", "batch_tokens=2048")
    Child(HERE / "profiled_step.py", bases.small, folder, *settings, "lora_dropout=0", "kept_layers=1").finish()
    found: dict[str, Any] = json.loads((folder / "outcome.json").read_text())
    return found


def talked(folder: Path, bases: Bases, backend: str) -> tuple[Run, Path]:
    """A run on conversations with Agent-FLAN's end of turn, by the command line, and its base."""
    base = write_base(folder / "base", width=256, intermediate=512, head_width=64, spread=0.05, dtype="bfloat16")
    add_end_of_turn(base)
    data, run = write_rows(folder / "rows.jsonl"), Run(folder / "run")
    settings = (*TALK_SETTINGS, f"backend={backend}")
    Child("-m", "flanlite", "tune", "--base", base, "--data", data, "--out", run.folder, *settings).finish()
    return run, base
