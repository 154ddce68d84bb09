"""The variants of a training that are compared, and which micro-batch of each is tried next; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from packaging.version import Version

from flanlite.errors import FlanliteError
from flanlite.planning.choose import divisors

AUTO_UNSLOTH = Version("2026.10.9")
"""The first unsloth that knows checkpoint_skip_layers="auto"."""

FIRST_MICRO_BATCH = 2


@dataclass(frozen=True)
class Layout:
    """Rows in a micro-batch, and micro-batches in a step. A row is a packed one where the variant packs."""

    micro_batch: int
    accumulation: int


@dataclass(frozen=True)
class Variant:
    """Code that trains, and how it is called; its layout is fixed, or swept, or (neither) as flanlite plans."""

    name: str
    code: Literal["flanlite", "unsloth", "peft"]
    packs: bool = False
    layout: Layout | None = None
    is_swept: bool = False
    kept_layers: Literal[0, "auto", "max"] = 0


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant("flanlite", "flanlite", packs=True),
        Variant("unsloth-defaults", "unsloth", layout=Layout(2, 4)),
        Variant("unsloth-best", "unsloth", is_swept=True),
        Variant("unsloth-best-packed", "unsloth", packs=True, is_swept=True),
        Variant("unsloth-auto", "unsloth", packs=True, is_swept=True, kept_layers="auto"),
        Variant("unsloth-kept", "unsloth", packs=True, is_swept=True, kept_layers="max"),
        Variant("peft", "peft", is_swept=True),
        Variant("peft-packed", "peft", packs=True, is_swept=True),
    )
}
"""unsloth-defaults is how `unsloth train` calls it; the others have about as many tokens in a step as flanlite.

All recompute every layer, as is unsloth's and trl's default, but for unsloth-auto, which keeps what it finds room for,
and unsloth-kept, which keeps all.
"""


def choose_variants(named: Sequence[str], *, has_card: bool, unsloth: str | None) -> tuple[list[Variant], list[str]]:
    """The variants to measure, all that can be where none is named, and sentences on those that are left out.

    `unsloth` is its version, None where it is not installed. Raises FlanliteError for a named one that is not there.
    """
    unknown = next((name for name in named if name not in VARIANTS), None)
    if unknown is not None:
        raise FlanliteError(f"There is no variant {unknown!r}.", f"They are: {', '.join(VARIANTS)}.")
    chosen: list[Variant] = []
    left_out: dict[str, list[str]] = {}
    for variant in VARIANTS.values():
        if named and variant.name not in named:
            continue
        reason = _lacking(variant, has_card=has_card, unsloth=unsloth)
        if reason and named:
            raise FlanliteError(f"{variant.name} {reason}.", "Leave it out of --variants.")
        if reason:
            left_out.setdefault(reason, []).append(variant.name)
        else:
            chosen.append(variant)
    return chosen, [f"Left out, for it {reason}: {', '.join(names)}." for reason, names in left_out.items()]


def _lacking(variant: Variant, *, has_card: bool, unsloth: str | None) -> str:
    """What a variant needs and this machine lacks, as the end of a sentence."""
    if variant.code != "unsloth":
        return ""
    if not has_card:
        return "needs a CUDA card, and torch sees none"
    if unsloth is None:
        return "needs the unsloth package"
    if variant.kept_layers == "auto" and Version(unsloth) < AUTO_UNSLOTH:
        return f"needs unsloth {AUTO_UNSLOTH}, and {unsloth} is installed"
    return ""


def next_layout(variant: Variant, speeds: Mapping[int, float | None], rows_a_step: int) -> Layout | None:
    """The layout to measure after those with `speeds`, None where there is no other.

    A sweep goes up through the divisors of a step's rows until memory or time runs out, the step has no more rows, or
    nothing is gained, and down where already the first is too large. `speeds` has, by micro-batch, None where nothing
    could be measured.
    """
    if not variant.is_swept:
        return None if speeds else variant.layout or Layout(0, 0)
    measured = {micro_batch: speed for micro_batch, speed in speeds.items() if speed is not None}
    sizes = divisors(rows_a_step)
    if not speeds:
        left = [size for size in sizes if size >= FIRST_MICRO_BATCH] or sizes
    elif not measured:
        left = [size for size in reversed(sizes) if size < min(speeds)]
    elif max(measured, key=lambda each: measured[each]) == max(speeds):
        left = [size for size in sizes if size > max(speeds)]
    else:
        left = []
    return Layout(left[0], rows_a_step // left[0]) if left else None


def rows_a_step(variant: Variant, batch_tokens: int, max_tokens: int, mean_tokens: float) -> int:
    """Rows of an optimizer step: as many packed ones as flanlite has, or a power of two of single conversations."""
    return batch_tokens // max_tokens if variant.packs else 2 ** max(0, round(math.log2(batch_tokens / mean_tokens)))
