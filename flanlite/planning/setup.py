"""How a step is laid out on a card, and the way down when it turns out too large."""

from __future__ import annotations

from dataclasses import dataclass, replace

UNSLOTH_OFFLOADS_FROM = 512
"""With shorter rows unsloth leaves the inputs of the recomputed layers on the card, whatever it is told."""


@dataclass(frozen=True, slots=True)
class Setup:
    """How a step is laid out on the card; the tokens of an optimizer step do not depend on it.

    A micro-step is one forward and backward of `micro_rows` packed rows. `kept_layers` of the model's layers keep their
    activations; the others keep their input alone, recompute the rest, and with `offload` their input waits in host
    memory.
    """

    micro_rows: int
    kept_layers: int
    offload: bool


def in_words(setup: Setup, layers: int, max_tokens: int, batch_rows: int) -> str:
    """The layout of a step as part of a sentence; more kept layers than there are mean all."""
    rows, kept = setup.micro_rows, min(setup.kept_layers, layers)
    steps = batch_rows // rows
    words = f"{rows} {'row' if rows == 1 else 'rows'} of {max_tokens:,} tokens at once"
    words += f", {steps} times a step" if steps > 1 else ""
    words += f", {'all' if kept == layers else kept or 'none'} of {layers} layers keep their activations"
    is_offloaded = setup.offload and kept < layers
    return words + (", the inputs of the others wait in the computer's memory" if is_offloaded else "")


def can_offload(backend: str, max_tokens: int) -> bool:
    """Whether a backend heeds `offload` with rows of this length."""
    return backend != "unsloth" or max_tokens >= UNSLOTH_OFFLOADS_FROM


def ladder(setup: Setup, layers: int, *, may_offload: bool = True) -> Setup | None:
    """The next setup that takes less memory with the same rows a step; None where there is none left.

    First fewer kept layers (halved, at last none; more than there are count as all), then smaller micro-steps, then
    offload, where that does anything.
    """
    if setup.kept_layers:
        return replace(setup, kept_layers=min(setup.kept_layers, layers) // 2)
    if setup.micro_rows > 1:
        return replace(setup, micro_rows=largest_part(setup.micro_rows))
    return replace(setup, offload=True) if may_offload and not setup.offload else None


def largest_part(rows: int) -> int:
    """The largest divisor of `rows` below it, so that it divides all that `rows` divides; 1 for a prime."""
    return next(part for part in range(rows // 2, 0, -1) if rows % part == 0)
