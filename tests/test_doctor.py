import io
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from rich.console import Console

from flanlite import doctor, driver, hub
from flanlite.doctor import Check, Torch
from flanlite.driver import Card
from flanlite.errors import FlanliteError
from flanlite.planning.cards import GIB
from flanlite.planning.least import least_card_gib
from flanlite.recipe import Recipe

RTX_3090 = Card("NVIDIA GeForce RTX 3090", "581.29", 24 * GIB, 23 * GIB, (8, 6))
T4 = Card("Tesla T4", "550.54.15", 15 * GIB, 15 * GIB - 1, (7, 5))
CUDA_13 = Torch("2.13.0", "13.0", True, ("sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"))
CPU_BUILD = Torch("2.13.0+cpu")


def test_a_card_that_torch_was_not_built_for_names_the_line_that_mends_it() -> None:
    check = doctor.cuda_check([RTX_3090], CPU_BUILD)
    assert check == Check(
        "CUDA",
        "fail",
        "nvidia-smi sees NVIDIA GeForce RTX 3090, but torch 2.13.0+cpu is PyTorch's build for CPUs",
        'pip install "torch==2.13.0+cu130" --index-url https://download.pytorch.org/whl/cu130',
    )


@pytest.mark.parametrize(
    ("version", "compute", "line"),
    [
        ("581.29", (8, 6), "whl/cu130"),
        ("550.54.15", (8, 6), "whl/cu126"),
        ("581.29", (7, 0), "whl/cu126"),
        ("572.16", (12, 0), "Update the NVIDIA driver to 580"),
        ("470.10", (8, 6), "Update the NVIDIA driver to 580"),
        ("581.29", None, "whl/cu130"),
    ],
)
def test_the_build_follows_driver_and_card(version: str, compute: tuple[int, int] | None, line: str) -> None:
    assert line in driver.mend(replace(RTX_3090, driver=version, compute=compute))


def test_without_a_card_the_tiny_base_still_trains() -> None:
    check = doctor.cuda_check([], CPU_BUILD)
    assert check.state == "warn"
    assert check.detail == (
        "no CUDA card found (torch 2.13.0+cpu): the tiny base trains on the CPU; "
        f"llama2-7b-chat needs an NVIDIA card with {least_card_gib(Recipe(), doctor.LLAMA2_7B)} GiB or more"
    )


def test_a_driver_older_than_torchs_cuda_is_found() -> None:
    check = doctor.cuda_check([T4], replace(CUDA_13, available=False))
    assert check.state == "fail"
    assert check.detail == "driver 550.54.15 is too old for torch's CUDA 13.0, which needs 580 or newer"
    assert check.advice.startswith('Update the driver, or: pip install "torch==2.13.0+cu126"')


def test_hidden_and_stuck_cards_are_told_apart() -> None:
    unavailable = replace(CUDA_13, available=False)
    assert "CUDA_VISIBLE_DEVICES is ''" in doctor.cuda_check([RTX_3090], unavailable, visible="").detail
    assert doctor.cuda_check([RTX_3090], unavailable).advice.startswith("Restart the machine")


@pytest.mark.parametrize(
    ("compute", "state"), [((8, 6), "ok"), ((8, 9), "ok"), ((12, 0), "ok"), ((7, 0), "fail"), ((11, 0), "fail")]
)
def test_a_card_without_kernels_in_this_torch_is_found(compute: tuple[int, int], state: str) -> None:
    assert doctor.cuda_check([replace(RTX_3090, compute=compute)], CUDA_13).state == state


def test_a_torch_that_cannot_be_imported_is_said() -> None:
    check = doctor.cuda_check([RTX_3090], "c10.dll not found")
    assert (check.state, check.detail) == ("fail", "torch cannot be imported: c10.dll not found")


def test_bf16_follows_the_compute_capability() -> None:
    assert doctor.trains_in_bf16((8, 0))
    assert not doctor.trains_in_bf16((7, 5))
    assert doctor.card_check(RTX_3090) == Check(
        "card", "ok", "NVIDIA GeForce RTX 3090, 24 GiB, 23.0 GiB free, compute 8.6 (bf16)"
    )
    assert "compute 7.5 (fp16, since bf16 starts at compute 8.0)" in doctor.card_check(T4).detail


@pytest.mark.parametrize(
    ("card", "advice"),
    [
        (replace(RTX_3090, free_bytes=2 * GIB), "Close what uses its memory"),
        (replace(RTX_3090, total_bytes=4 * GIB, free_bytes=4 * GIB - 1), "Too small for a 7B model"),
        (replace(RTX_3090, compute=(6, 1)), "Too old for unsloth"),
    ],
)
def test_a_card_that_is_busy_small_or_old_gets_advice(card: Card, advice: str) -> None:
    check = doctor.card_check(card)
    assert check.state == "warn"
    assert check.advice.startswith(advice)


def test_the_driver_s_list_is_read() -> None:
    text = "NVIDIA GeForce RTX 3090, 581.29, 24576, 23552, 8.6\nNVIDIA GB10, 580.95, [N/A], [N/A], 12.1\n"
    assert driver.parse_smi(text) == (RTX_3090, Card("NVIDIA GB10", "580.95", None, None, (12, 1)))
    assert driver.parse_smi("No devices were found\n") == ()
    assert doctor.card_check(driver.parse_smi(text)[1]).detail == "NVIDIA GB10, compute 12.1 (bf16)"


def command(folder: Path, body: str) -> str:
    file = folder / "nvidia-smi"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    return str(file)


def test_the_driver_s_command_may_answer_fail_hang_or_be_missing(tmp_path: Path) -> None:
    said = "echo 'NVIDIA GeForce RTX 3090, 581.29, 24576, 23552, 8.6'"
    assert driver.nvidia_smi(command(tmp_path, said)) == (RTX_3090,)
    assert driver.nvidia_smi(command(tmp_path, "echo driver mismatch; exit 9")) == ()
    old = 'case "$1" in *compute_cap*) exit 2;; esac; echo "NVIDIA GeForce RTX 3090, 470.57, 24576, 24000"'
    assert [card.name for card in driver.nvidia_smi(command(tmp_path, old))] == ["NVIDIA GeForce RTX 3090"]
    assert driver.nvidia_smi(command(tmp_path, "exec sleep 5"), timeout_s=0.1) == ()
    assert driver.nvidia_smi(str(tmp_path / "missing")) == ()


WANTED = [Requirement("torch>=2.11,<2.14"), Requirement("trl>=1.14,<1.15")]
UNSLOTH = Requirement('unsloth>=2026.10.9; extra == "gpu"')


def test_packages_in_range_are_one_line() -> None:
    installed: dict[str, str | None] = {"torch": "2.13.0+cu130", "trl": "1.14.2"}
    assert list(doctor.package_checks(WANTED, installed, has_card=False)) == [
        Check("packages", "ok", "2 in the allowed range, as tested")
    ]
    installed["torch"] = "2.11.0"
    assert next(doctor.package_checks(WANTED, installed, has_card=False)).detail == (
        "2 in the allowed range; other than tested: torch 2.11.0 (tested: 2.13.0)"
    )


def test_a_missing_or_strayed_package_gets_its_line() -> None:
    found = list(doctor.package_checks(WANTED, {"torch": None, "trl": "1.16.0"}, has_card=False))
    assert [(check.name, check.state) for check in found] == [("torch", "fail"), ("trl", "fail"), ("packages", "ok")]
    assert found[0].advice == 'pip install "torch<2.14,>=2.11"'
    assert found[1].detail == "1.16.0, and flanlite needs <1.15,>=1.14"


def test_unsloth_is_missed_only_beside_a_card() -> None:
    installed: dict[str, str | None] = {"unsloth": None}
    assert [check.name for check in doctor.package_checks([UNSLOTH], installed, has_card=False)] == ["packages"]
    first = next(doctor.package_checks([UNSLOTH], installed, has_card=True))
    assert (first.name, first.state, first.advice) == ("unsloth", "warn", 'pip install "unsloth>=2026.10.9"')


def test_ranges_are_read_from_the_package_or_its_pyproject(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = {requirement.name: requirement for requirement in doctor.requirements()}
    assert {"torch", "transformers", "trl", "peft", "bitsandbytes", "unsloth"} <= set(wanted)
    assert "pytest" not in wanted
    assert set(doctor.TESTED) <= set(wanted)
    for name, version in doctor.TESTED.items():
        assert wanted[name].specifier.contains(version), f"{name} {version} was tested and is not allowed"

    def not_installed(_name: str) -> None:
        raise metadata.PackageNotFoundError

    monkeypatch.setattr(metadata, "requires", not_installed)
    monkeypatch.setattr(metadata, "metadata", not_installed)
    assert {requirement.name: requirement for requirement in doctor.requirements()}.keys() == wanted.keys()
    assert doctor.python_range() == ">=3.11"


def test_an_old_python_fails() -> None:
    assert doctor.python_check("3.10.4", ">=3.11").state == "fail"
    assert doctor.python_check("3.13.1", ">=3.11").state == "ok"


@pytest.mark.parametrize(("free", "state"), [(5 * 10**8, "fail"), (2 * 10**10, "warn"), (4 * 10**10, "ok")])
def test_the_disk_is_held_against_a_whole_7b_run(tmp_path: Path, free: int, state: str) -> None:
    check = doctor.disk_check("disk", tmp_path, free)
    assert check.state == state
    if state == "warn":
        assert check.advice == "Tuning and merging llama2-7b-chat takes 30.8 GB; HF_HOME moves the downloads."


def test_a_folder_that_cannot_be_written_is_no_disk_for_downloads(tmp_path: Path) -> None:
    check = doctor.disk_check("disk", tmp_path, 10**12, is_writable=False)
    assert (check.state, check.detail) == ("fail", f"{tmp_path} cannot be written")
    assert doctor.is_writable(tmp_path / "not" / "yet")


def test_a_hub_out_of_reach_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable() -> str:
        raise FlanliteError("The hub cannot be reached.", "Check the connection.")

    monkeypatch.setattr(hub, "reach", unreachable)
    check = doctor.hub_check()
    assert (check.state, check.detail) == ("warn", "The hub cannot be reached.")


@pytest.mark.parametrize(("worst", "code"), [("warn", 0), ("fail", 1)])
def test_the_report_is_one_line_a_check_with_advice_beneath(
    monkeypatch: pytest.MonkeyPatch, worst: doctor.State, code: int
) -> None:
    report = [Check("Python", "ok", "3.11.7"), Check("CUDA", worst, "no card [N/A]", "pip install x")]
    monkeypatch.setattr(doctor, "checks", lambda: iter(report))
    out = io.StringIO()
    assert doctor.run(Console(file=out, width=80)) == code
    lines = [line.rstrip() for line in out.getvalue().splitlines()]
    assert lines == ["ok    Python  3.11.7", f"{worst}  CUDA    no card [N/A]", "              pip install x"]


def test_every_check_of_this_machine_has_advice_or_is_ok(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "reach", lambda: "answers")
    report = list(doctor.checks())
    assert {"Python", "packages", "CUDA", "download disk", "hub"} <= {check.name for check in report}
    assert all(check.advice for check in report if check.state != "ok")
