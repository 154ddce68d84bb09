"""What the machine is taken for: device, compute type, backend, and the sentences where something is missing."""

import os
from pathlib import Path

import pytest
import torch

from flanlite import driver as nvidia_driver
from flanlite.engine import device
from flanlite.engine.device import (
    Machine,
    check_cpu_size,
    choose_backend,
    choose_dtype,
    choose_machine,
    find_unused_card,
)
from flanlite.errors import FlanliteError
from flanlite.recipe import Recipe

T4, RTX_2080, A100, RTX_4090 = (7, 5), (7, 5), (8, 0), (8, 9)


@pytest.mark.parametrize(
    ("capability", "expected"),
    [(T4, "float16"), ((6, 1), "float16"), (A100, "bfloat16"), (RTX_4090, "bfloat16"), (None, "float32")],
)
def test_the_compute_type_follows_the_compute_capability(capability: tuple[int, int] | None, expected: str) -> None:
    assert choose_dtype("auto", capability) == expected


def test_bfloat16_is_refused_below_capability_8() -> None:
    with pytest.raises(FlanliteError, match=r"needs compute capability 8\.0, and this card has 7\.5"):
        choose_dtype("bfloat16", T4)


def test_float16_can_be_forced_on_a_new_card_but_not_on_a_cpu() -> None:
    assert choose_dtype("float16", RTX_4090) == "float16"
    with pytest.raises(FlanliteError, match="float16 needs a card"):
        choose_dtype("float16", None)


@pytest.mark.parametrize(
    ("has_card", "has_unsloth", "expected"),
    [(True, True, "unsloth"), (True, False, "peft"), (False, True, "peft"), (False, False, "peft")],
)
def test_unsloth_is_taken_where_card_and_package_are_there(
    has_card: bool, has_unsloth: bool, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: object() if has_unsloth else None)
    assert choose_backend("auto", has_card=has_card) == expected


def test_a_forced_unsloth_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(FlanliteError, match="needs a CUDA card"):
        choose_backend("unsloth", has_card=False)
    with pytest.raises(FlanliteError, match="needs the unsloth package"):
        choose_backend("unsloth", has_card=True)
    assert choose_backend("peft", has_card=True) == "peft"


def test_the_choice_is_said_in_one_line() -> None:
    card = Machine("cuda", "NVIDIA GeForce RTX 4090", "unsloth", "bfloat16", RTX_4090, 24 * 2**30)
    assert card.line == (
        "Backend unsloth on NVIDIA GeForce RTX 4090 (24 GiB, compute capability 8.9), 4-bit NF4 base, "
        "bfloat16 compute, float32 adapters."
    )
    assert card.torch_dtype is torch.bfloat16


@pytest.mark.skipif(torch.cuda.is_available(), reason="this is about a machine without a card")
def test_without_a_card_the_cpu_computes_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    machine = choose_machine(Recipe())
    assert (machine.kind, machine.backend, machine.dtype, machine.unused_card) == ("cpu", "peft", "float32", "")


def test_a_big_base_without_a_card_is_one_sentence_and_the_tiny_line() -> None:
    cpu = Machine("cpu", "CPU", "peft", "float32")
    with pytest.raises(FlanliteError) as caught:
        check_cpu_size(cpu, "llama2-7b-chat", 6_738_415_616, needed_bytes=6_500_000_000)
    assert caught.value.message == (
        "llama2-7b-chat has 6.7 billion parameters; tuning it needs an NVIDIA card with 7 GiB or more, "
        "and this machine has none."
    )
    assert device.TINY_LINE in caught.value.hint
    assert "flanlite doctor" in caught.value.hint
    check_cpu_size(cpu, "tiny", 3_000_000, needed_bytes=0)


def _with_nvidia_smi(folder: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{answer}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder) + os.pathsep + os.environ["PATH"])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_a_card_that_only_the_driver_sees_is_named_with_the_line_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_nvidia_smi(tmp_path, monkeypatch, "echo NVIDIA GeForce RTX 3060, 560.35.03, 12288, 12000, 8.6")
    monkeypatch.setattr(torch.version, "cuda", None)
    sentence, mend = find_unused_card()
    assert sentence.startswith("There is an NVIDIA GeForce RTX 3060, but this PyTorch")
    assert sentence.endswith("is a CPU build.")
    # Doctor's line: the driver is too old for CUDA 13.
    assert mend == nvidia_driver.mend(nvidia_driver.nvidia_smi()[0])
    assert "+cu126" in mend
    machine = Machine("cpu", "CPU", "peft", "float32", unused_card=sentence, mend=mend)
    with pytest.raises(FlanliteError) as caught:
        check_cpu_size(machine, "llama2-7b-chat", 6_738_415_616, needed_bytes=6_500_000_000)
    assert sentence in caught.value.message
    assert mend in caught.value.hint
    assert device.TINY_LINE in caught.value.hint


def test_a_cuda_build_that_cannot_use_the_card_points_at_the_driver(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _with_nvidia_smi(tmp_path, monkeypatch, "echo NVIDIA GeForce GTX 1080, 560.35.03, 8192, 8000, 6.1")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    sentence, mend = find_unused_card()
    assert "CUDA 13.0 cannot use it" in sentence
    assert "driver" in mend


def test_a_hidden_card_or_a_failing_driver_is_no_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _with_nvidia_smi(tmp_path, monkeypatch, "echo broken >&2; exit 9")
    assert find_unused_card() == ("", "")
    _with_nvidia_smi(tmp_path, monkeypatch, "echo NVIDIA L4, 580.95, 23034, 22500, 8.9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert find_unused_card() == ("", "")
