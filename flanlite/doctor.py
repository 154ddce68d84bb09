"""Is this machine ready? Python, packages, CUDA, the card, disk and hub: each line ok, or what to do.

Ranges of versions are declared once, in the package's own metadata; TESTED says which set was run. What a check reads
from the machine comes in as an argument, so each can be tried with any answer.
"""

from __future__ import annotations

import os
import platform
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from flanlite import hub
from flanlite.bases import BASES
from flanlite.driver import OLDEST_DRIVER, TESTED_TORCH, Card, major, mend, nvidia_smi
from flanlite.errors import FlanliteError
from flanlite.planning.cards import GIB, free_bytes_of
from flanlite.planning.least import least_card_gib, least_free_bytes
from flanlite.recipe import Recipe

TESTED = {
    "torch": TESTED_TORCH,
    "transformers": "5.17.0",
    "trl": "1.14.2",
    "peft": "0.21.2",
    "bitsandbytes": "0.50.2",
    "datasets": "4.8.5",
    "accelerate": "1.15.0",
    "tokenizers": "0.23.3",
    "unsloth": "2026.10.9",
}

BF16_COMPUTE = (8, 0)
UNSLOTH_COMPUTE = (7, 0)

LLAMA2_7B = BASES["llama2-7b-chat"]
MIN_DISK_BYTES = 10**9

State = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class Check:
    """One line of the report: `advice` says what to do unless the state is ok."""

    name: str
    state: State
    detail: str
    advice: str = ""


@dataclass(frozen=True)
class Torch:
    """What the installed torch says of itself; `cuda` is None for PyTorch's build for CPUs."""

    version: str
    cuda: str | None = None
    available: bool = False
    architectures: tuple[str, ...] = ()  # sm_75, sm_86, ...: the cards its kernels were built for
    cards: tuple[Card, ...] = ()


def run(console: Console | None = None) -> int:
    """Print the report; the exit code: 1 if a check failed, else 0."""
    report = list(checks())
    (console or Console()).print(table(report))
    return int(any(check.state == "fail" for check in report))


def table(report: Sequence[Check]) -> Table:
    """The report, one line a check, with its advice beneath."""
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    grid = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for check in report:
        advice = f"\n[bold]{escape(check.advice)}[/]" if check.advice else ""
        grid.add_row(f"[{colours[check.state]}]{check.state}[/]", check.name, escape(check.detail) + advice)
    return grid


def checks() -> Iterator[Check]:
    """Every check of this machine, in the order in which they are best mended."""
    yield python_check(platform.python_version(), python_range())
    wanted = requirements()
    torch = installed_torch()
    cards = nvidia_smi() or (torch.cards if isinstance(torch, Torch) else ())
    yield from package_checks(wanted, installed_versions(wanted), bool(cards))
    yield cuda_check(cards, torch, os.environ.get("CUDA_VISIBLE_DEVICES"))
    yield from (card_check(card) for card in cards)
    yield disk_check("download disk", hub.cache_dir(), hub.free_bytes(hub.cache_dir()), is_writable(hub.cache_dir()))
    if not same_disk(hub.cache_dir(), Path.cwd()):
        yield disk_check("disk of this folder", Path.cwd(), hub.free_bytes(Path.cwd()), is_writable(Path.cwd()))
    yield hub_check()


def python_check(version: str, allowed: str) -> Check:
    if Version(version) in SpecifierSet(allowed):
        return Check("Python", "ok", f"{version} ({sys.executable})")
    return Check("Python", "fail", f"{version}, and flanlite needs {allowed}", "Make a virtual environment with it.")


def package_checks(
    wanted: Sequence[Requirement], installed: Mapping[str, str | None], has_card: bool
) -> Iterator[Check]:
    """A line for each package that is missing or outside its range, then one for all others."""
    fitting: list[str] = []
    for requirement in wanted:
        version, optional = installed[requirement.name], requirement.marker is not None
        install = f'pip install "{requirement.name}{requirement.specifier}"'
        if version is not None and requirement.specifier.contains(version, prereleases=True):
            fitting.append(requirement.name)
        elif version is not None:
            detail = f"{version}, and flanlite needs {requirement.specifier}"
            yield Check(requirement.name, "fail", detail, install)
        elif not optional:
            yield Check(requirement.name, "fail", "not installed", install)
        elif has_card:
            detail = "not installed: training on the card takes the slower peft backend"
            yield Check(requirement.name, "warn", detail, install)
    yield Check("packages", "ok", _versions_in_words(fitting, installed))


def _versions_in_words(fitting: Sequence[str], installed: Mapping[str, str | None]) -> str:
    others = []
    for name in fitting:
        version, tested = installed[name], TESTED.get(name)
        if version and tested and Version(version).public != tested:
            others.append(f"{name} {version} (tested: {tested})")
    same = f"{len(fitting)} in the allowed range"
    return f"{same}; other than tested: {', '.join(others)}" if others else f"{same}, as tested"


def cuda_check(cards: Sequence[Card], torch: Torch | str, visible: str | None = None) -> Check:
    """Whether torch can use the cards; `torch` is the reason where it cannot be imported."""
    if isinstance(torch, str):
        return Check("CUDA", "fail", f"torch cannot be imported: {torch}", f"pip install torch=={TESTED['torch']}")
    if not cards:
        detail = (
            f"no CUDA card found (torch {torch.version}): the tiny base trains on the CPU; llama2-7b-chat needs an "
            f"NVIDIA card with {least_card_gib(Recipe(), LLAMA2_7B)} GiB or more"
        )
        return Check("CUDA", "warn", detail, "If there is a card, install its driver until nvidia-smi lists it.")
    card = cards[0]
    if torch.cuda is None:
        detail = f"nvidia-smi sees {card.name}, but torch {torch.version} is PyTorch's build for CPUs"
        return Check("CUDA", "fail", detail, mend(card))
    if not torch.available:
        return _unavailable(card, torch.cuda, visible)
    if card.compute and torch.architectures and not _has_kernels(torch.architectures, card.compute):
        detail = f"torch {torch.version} holds no kernels for {card.name} (compute {_dotted(card.compute)})"
        return Check("CUDA", "fail", detail, mend(card))
    driver = f", driver {card.driver}" if card.driver else ""
    return Check("CUDA", "ok", f"torch {torch.version}, CUDA {torch.cuda}{driver}")


def _unavailable(card: Card, cuda: str, visible: str | None) -> Check:
    oldest = OLDEST_DRIVER.get(major(cuda))
    if visible is not None:
        detail = f"torch sees none of the cards: CUDA_VISIBLE_DEVICES is {visible!r}"
        return Check("CUDA", "fail", detail, "Unset it, or set it to 0.")
    if oldest and card.driver[:1].isdigit() and major(card.driver) < oldest:
        detail = f"driver {card.driver} is too old for torch's CUDA {cuda}, which needs {oldest} or newer"
        return Check("CUDA", "fail", detail, f"Update the driver, or: {mend(card)}")
    detail = f"nvidia-smi sees {card.name}, but torch (CUDA {cuda}) cannot use it"
    return Check("CUDA", "fail", detail, "Restart the machine or the container (after a driver update this is usual).")


def _has_kernels(architectures: Sequence[str], compute: tuple[int, int]) -> bool:
    """Kernels run on their own major version, from their minor version on; compute_XY is compiled for any later."""
    for architecture in architectures:
        kind, _, digits = architecture.partition("_")
        digits = digits.rstrip("af")  # sm_90a, sm_120f: variants of the same number
        built = (int(digits[:-1]), int(digits[-1]))
        if built <= compute and (kind == "compute" or built[0] == compute[0]):
            return True
    return False


def trains_in_bf16(compute: tuple[int, int]) -> bool:
    """By compute capability: torch.cuda.is_bf16_supported() says True on a T4, which only emulates it."""
    return compute >= BF16_COMPUTE


def card_check(card: Card) -> Check:
    """What the card has to offer, and whether other programs hold its memory."""
    parts = [card.name]
    if card.total_bytes:
        parts.append(f"{card.total_bytes / GIB:.0f} GiB")
    if card.free_bytes is not None:
        parts.append(f"{card.free_bytes / GIB:.1f} GiB free")
    if card.compute:
        precision = "bf16" if trains_in_bf16(card.compute) else "fp16, since bf16 starts at compute 8.0"
        parts.append(f"compute {_dotted(card.compute)} ({precision})")
    detail = ", ".join(parts)
    if card.compute and card.compute < UNSLOTH_COMPUTE:
        return Check("card", "warn", detail, "Too old for unsloth (compute 7.0): train with the peft backend.")
    if card.free_bytes is None or card.total_bytes is None:
        return Check("card", "ok", detail)
    needed = least_free_bytes(Recipe(), LLAMA2_7B)
    if card.free_bytes >= needed:
        return Check("card", "ok", detail)
    if free_bytes_of(card.total_bytes) >= needed:
        return Check("card", "warn", detail, "Close what uses its memory; nvidia-smi lists the programs.")
    return Check("card", "warn", detail, "Too small for a 7B model: take llama3.2-3b-instruct or a smaller base.")


def disk_check(name: str, folder: Path, free: int, is_writable: bool = True) -> Check:
    """Against what llama2-7b-chat takes from first to last: 4-bit weights, 16-bit weights, the merge."""
    whole_way = LLAMA2_7B.bytes_4bit + 2 * LLAMA2_7B.bytes_16bit
    detail = f"{hub.in_words(free)} free in {folder}"
    if not is_writable:
        return Check(name, "fail", f"{folder} cannot be written", "Change its rights, or set HF_HOME to another one.")
    if free < MIN_DISK_BYTES:
        return Check(name, "fail", detail, "Free some space, or set HF_HOME to a folder on a larger disk.")
    if free < whole_way:
        advice = f"Tuning and merging llama2-7b-chat takes {hub.in_words(whole_way)}; HF_HOME moves the downloads."
        return Check(name, "warn", detail, advice)
    return Check(name, "ok", detail)


def hub_check() -> Check:
    try:
        return Check("hub", "ok", hub.reach())
    except FlanliteError as error:
        advice = f"{error.hint} The tiny base, local folders and what is in the cache work without it."
        return Check("hub", "warn", error.message, advice)


def same_disk(one: Path, other: Path) -> bool:
    return existing(one).stat().st_dev == existing(other).stat().st_dev


def is_writable(folder: Path) -> bool:
    """Whether files can be made in the folder, which need not exist yet."""
    return os.access(existing(folder), os.W_OK)


def existing(folder: Path) -> Path:
    """The folder, or the nearest one above it that is there."""
    return next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())


def python_range() -> str:
    """The versions of Python the package allows, by its metadata or, in a bare checkout, by pyproject.toml."""
    try:
        return metadata.metadata("flanlite")["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return str(_pyproject()["requires-python"])


def requirements() -> list[Requirement]:
    """What the package requires, the gpu extra included (marked), the dev extra not; read like `python_range`."""
    try:
        lines = metadata.requires("flanlite") or []
    except metadata.PackageNotFoundError:
        project = _pyproject()
        lines = project["dependencies"] + [f"{it}; extra == 'gpu'" for it in project["optional-dependencies"]["gpu"]]
    wanted = [Requirement(line) for line in lines]
    return [it for it in wanted if it.marker is None or it.marker.evaluate({"extra": "gpu"})]


def _pyproject() -> dict[str, Any]:
    file = Path(__file__).parents[1] / "pyproject.toml"
    project: dict[str, Any] = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    return project


def installed_versions(wanted: Sequence[Requirement]) -> dict[str, str | None]:
    """Name -> version, None where it is not installed; nothing is imported."""
    versions: dict[str, str | None] = {}
    for requirement in wanted:
        try:
            versions[requirement.name] = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            versions[requirement.name] = None
    return versions


def installed_torch() -> Torch | str:
    """What torch says, or why it cannot be imported."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a library it needs is missing, on Windows mostly
        return str(error)
    if not torch.cuda.is_available():
        return Torch(torch.__version__, torch.version.cuda)
    cards = []
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        cards.append(Card(properties.name, "", total, free, (properties.major, properties.minor)))
    return Torch(torch.__version__, torch.version.cuda, True, tuple(torch.cuda.get_arch_list()), tuple(cards))


def _dotted(compute: tuple[int, int]) -> str:
    return f"{compute[0]}.{compute[1]}"
