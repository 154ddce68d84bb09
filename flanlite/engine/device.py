"""What this machine has, and what follows from it: device, compute type and backend, chosen once and said in one line.

torch's own `is_bf16_supported` is not asked: it says yes on a T4, which only emulates it. NVIDIA's compute capability
decides: bfloat16 units exist from 8.0 (Ampere) on.
"""

from __future__ import annotations

import importlib.util
import math
import os
import platform
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from flanlite.driver import mend, nvidia_smi
from flanlite.errors import FlanliteError
from flanlite.planning.memory import CUDA_CONTEXT_BYTES
from flanlite.recipe import Auto, Optimizer, Recipe

Kind = Literal["cuda", "cpu"]
Backend = Literal["unsloth", "peft"]
Dtype = Literal["bfloat16", "float16", "float32"]

CPU_PARAMETERS = 500_000_000
"""Bases above this size are refused on a CPU: a step of 16k tokens would take many minutes."""

BFLOAT16_CAPABILITY = (8, 0)

FIRST_CONTEXT_BYTES = 2**28
"""What a process holds of a card before its first tensor, at the least; more kernels are loaded as they are called."""

TINY_LINE = "flanlite tune --base tiny"
"""The command that shows the whole way on any machine."""


@dataclass(frozen=True)
class Machine:
    """The device a stage runs on and how it computes there.

    `name` is the card's name or "CPU"; `capability` is NVIDIA's compute capability; `free_bytes` is what this process
    may hold of the card's memory, its context included; `unused_card` says, in a sentence, that a card is there which
    torch cannot use, and `mend` names the line that changes it.
    """

    kind: Kind
    name: str
    backend: Backend
    dtype: Dtype
    capability: tuple[int, int] | None = None
    memory_bytes: int = 0
    unused_card: str = ""
    mend: str = ""
    free_bytes: int = 0

    @property
    def line(self) -> str:
        """What was chosen, in one line."""
        place = "the CPU"
        if self.capability is not None:
            major, minor = self.capability
            place = f"{self.name} ({self.memory_bytes / 2**30:.0f} GiB, compute capability {major}.{minor})"
        return f"Backend {self.backend} on {place}, 4-bit NF4 base, {self.dtype} compute, float32 adapters."

    @property
    def torch_dtype(self) -> torch.dtype:
        """`dtype` as torch's object."""
        dtype: torch.dtype = getattr(torch, self.dtype)
        return dtype


def choose_machine(recipe: Recipe) -> Machine:
    """The device there is, and the backend and compute type that the recipe asks for or that suit it.

    Raises FlanliteError where the recipe forces what this machine cannot do.
    """
    let_segments_grow()
    if not torch.cuda.is_available():
        unused_card, way_out = find_unused_card()
        backend = choose_backend(recipe.backend, has_card=False)
        dtype = choose_dtype(recipe.dtype, None)
        return Machine("cpu", "CPU", backend, dtype, unused_card=unused_card, mend=way_out)
    properties = torch.cuda.get_device_properties(0)
    capability = (properties.major, properties.minor)
    return Machine(
        "cuda",
        properties.name,
        choose_backend(wanted_backend(recipe), has_card=True),
        choose_dtype(recipe.dtype, capability),
        capability,
        properties.total_memory,
        free_bytes=free_card_bytes(properties.total_memory),
    )


def let_segments_grow() -> None:
    """Let torch's memory of the card grow in place, which leaves fewer fragments; unless the user has chosen otherwise.

    torch reads it once, when the card is opened: unsloth sets the same, but is imported later than that. Windows cannot
    do it, nor can Linux on top of it, nor a Tegra board.
    """
    is_windows = sys.platform == "win32" or "microsoft" in platform.release().lower()
    is_tegra = Path("/etc/nv_tegra_release").exists()
    if not (is_windows or is_tegra or "PYTORCH_CUDA_ALLOC_CONF" in os.environ):
        os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")


def free_card_bytes(total_bytes: int) -> int:
    """Bytes of the card that this process may hold: free of other processes and the desktop, and within its cap."""
    free_bytes, _ = torch.cuda.mem_get_info()
    held, used = torch.cuda.memory_reserved(), torch.cuda.memory_allocated()
    capped_bytes = int(torch.cuda.memory.get_per_process_memory_fraction() * total_bytes) - used
    return min(free_bytes + held - used + FIRST_CONTEXT_BYTES, capped_bytes + CUDA_CONTEXT_BYTES)


def wanted_backend(recipe: Recipe) -> Literal["auto", "unsloth", "peft"]:
    """The recipe's backend; peft where it leaves that open and asks for float32, which unsloth's kernels do not do."""
    return "peft" if (recipe.backend, recipe.dtype) == ("auto", "float32") else recipe.backend


def choose_backend(wanted: Literal["auto", "unsloth", "peft"], *, has_card: bool) -> Backend:
    """unsloth where card and package are there, else peft. Raises FlanliteError for a forced one that lacks them."""
    has_unsloth = importlib.util.find_spec("unsloth") is not None
    if wanted == "auto":
        return "unsloth" if has_card and has_unsloth else "peft"
    if wanted == "unsloth" and not has_card:
        raise FlanliteError("backend=unsloth needs a CUDA card, and torch sees none.", "Leave it out, or backend=peft.")
    if wanted == "unsloth" and not has_unsloth:
        raise FlanliteError(
            "backend=unsloth needs the unsloth package.", 'pip install "unsloth>=2026.10.9", or backend=peft.'
        )
    return wanted


def choose_dtype(
    wanted: Literal["auto", "bfloat16", "float16", "float32"], capability: tuple[int, int] | None
) -> Dtype:
    """The compute type for a card of this compute capability, or for a CPU (None).

    Raises FlanliteError for a forced type that the device cannot compute in.
    """
    has_bfloat16 = capability is None or capability >= BFLOAT16_CAPABILITY
    if wanted == "auto":
        return "float32" if capability is None else "bfloat16" if has_bfloat16 else "float16"
    if wanted == "bfloat16" and capability is not None and not has_bfloat16:
        major, minor = capability
        raise FlanliteError(
            f"dtype=bfloat16 needs compute capability 8.0, and this card has {major}.{minor}.", "Leave it out: float16."
        )
    if wanted == "float16" and capability is None:
        raise FlanliteError("dtype=float16 needs a card: its loss scaling has no CPU counterpart.", "Leave it out.")
    return wanted


def choose_optimizer(wanted: Optimizer | Auto, *, has_card: bool) -> Optimizer:
    """The optimizer: on a card one whose states take a byte each. Raises FlanliteError for one that a CPU lacks."""
    if wanted == "auto":
        return "adamw_8bit" if has_card else "adamw_torch"
    if wanted == "paged_adamw_8bit" and not has_card:
        raise FlanliteError(f"optimizer={wanted} moves its states off a card, and there is none.", "Leave it out.")
    return wanted


def check_cpu_size(machine: Machine, base: str, parameters: int, needed_bytes: int) -> None:
    """Raises FlanliteError where so many parameters would be tuned on a CPU; `needed_bytes` of a card would do."""
    if machine.kind == "cuda" or parameters <= CPU_PARAMETERS:
        return
    needed = f"an NVIDIA card with {math.ceil(needed_bytes / 2**30)} GiB or more"
    tiny = f"To see the whole way on this machine: {TINY_LINE}"
    size = f"{base} has {parameters / 1e9:.1f} billion parameters"
    if machine.unused_card:
        raise FlanliteError(f"{size} and needs {needed}. {machine.unused_card}", f"{machine.mend}\n{tiny}")
    raise FlanliteError(
        f"{size}; tuning it needs {needed}, and this machine has none.", f"{tiny}\nIf there is a card: flanlite doctor"
    )


def find_unused_card() -> tuple[str, str]:
    """A sentence on a card that nvidia-smi sees and torch does not, and what mends it; two empty texts without one."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "", ""
    card = next(iter(nvidia_smi()), None)
    if card is None:
        return "", ""
    if torch.version.cuda is None:
        # PyPI's torch for Windows is one.
        return f"There is an {card.name}, but this PyTorch ({torch.__version__}) is a CPU build.", mend(card)
    return (
        f"There is an {card.name}, but PyTorch {torch.__version__} for CUDA {torch.version.cuda} cannot use it.",
        "Update the NVIDIA driver; `nvidia-smi` shows the newest CUDA it can serve.",
    )
