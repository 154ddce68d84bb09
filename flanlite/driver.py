"""What NVIDIA's driver tells of the cards, and the build of torch that suits one; imports no torch."""

from __future__ import annotations

import csv
import subprocess
from dataclasses import dataclass

TESTED_TORCH = "2.13.0"

# The oldest driver for a CUDA major version: docs.nvidia.com/deploy/cuda-compatibility, "Minor Version Compatibility".
OLDEST_DRIVER = {12: 525, 13: 580}
# CUDA 13 dropped cards before compute 7.5; PyTorch's CUDA 12.6 wheels hold no kernels for compute 10 and later.
OLDEST_COMPUTE_CUDA13 = (7, 5)
FIRST_COMPUTE_NOT_IN_CU126 = (10, 0)


FIELDS = "name,driver_version,memory.total,memory.free,compute_cap"


@dataclass(frozen=True)
class Card:
    """One NVIDIA card; memory in bytes, None where the driver does not tell (memory shared with the CPU)."""

    name: str
    driver: str = ""
    total_bytes: int | None = None
    free_bytes: int | None = None
    compute: tuple[int, int] | None = None


def nvidia_smi(command: str = "nvidia-smi", timeout_s: float = 20) -> tuple[Card, ...]:
    """The cards the driver lists; none where the command is missing, fails or hangs."""
    # Older drivers refuse the whole question where they do not know a field.
    for fields in (FIELDS, FIELDS.removesuffix(",compute_cap")):
        call = [command, f"--query-gpu={fields}", "--format=csv,noheader,nounits"]
        try:
            done = subprocess.run(call, capture_output=True, text=True, timeout=timeout_s, check=True)
        except subprocess.CalledProcessError:
            continue
        except (OSError, subprocess.SubprocessError):
            break
        return parse_smi(done.stdout)
    return ()


def parse_smi(text: str) -> tuple[Card, ...]:
    """Cards from nvidia-smi's CSV (memory in MiB); what it marks [N/A] is None."""
    cards = []
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) >= 4:
            name, driver, total, free, compute = (cell.strip() for cell in (*row, "")[:5])
            pair = compute.split(".")
            known = len(pair) == 2 and all(part.isdigit() for part in pair)
            cards.append(
                Card(name, driver, _mib(total), _mib(free), (int(pair[0]), int(pair[1])) if known else None),
            )
    return tuple(cards)


def mend(card: Card) -> str:
    """The line that installs a torch with kernels for this card and its driver, from PyTorch's own index.

    The version carries the build's tag, since pip takes 2.13.0+cpu for 2.13.0 and would change nothing.
    """
    driver = major(card.driver) if card.driver[:1].isdigit() else OLDEST_DRIVER[13]
    compute = card.compute or OLDEST_COMPUTE_CUDA13
    if driver >= OLDEST_DRIVER[13] and compute >= OLDEST_COMPUTE_CUDA13:
        build = "cu130"
    elif driver >= OLDEST_DRIVER[12] and compute < FIRST_COMPUTE_NOT_IN_CU126:
        build = "cu126"
    else:
        return f"Update the NVIDIA driver to {OLDEST_DRIVER[13]} or newer, then run flanlite doctor again."
    return f'pip install "torch=={TESTED_TORCH}+{build}" --index-url https://download.pytorch.org/whl/{build}'


def major(version: str) -> int:
    """The first number of a version."""
    return int(version.split(".")[0])


def _mib(cell: str) -> int | None:
    return int(cell) * 2**20 if cell.isdigit() else None
