"""How long a step takes on a card, from the arithmetic it needs: predictions, never measurements.

A token's forward takes 2 operations a weight; its backward as many again, towards the adapters alone, since the base
stays as it is; a recomputed layer its forward once more. Beside that every pass of a micro-step unpacks the 4-bit
weights once, however many tokens it has, which is why large micro-steps are faster.
"""

from __future__ import annotations

from flanlite.planning.cards import Card
from flanlite.planning.memory import Workload
from flanlite.planning.setup import Setup

REACHED_SHARE = {"unsloth": 0.5, "peft": 0.35}
"""The share of a card's arithmetic limit that is assumed to be reached; not measured."""

UNPACKING_BYTES = 4.5
"""Moved to unpack a weight and use it once: half a byte read, 16 bits written, 16 bits read."""

HOST_GB_PER_S = 12
"""Moved between a card and the computer's memory: PCIe 3.0 with 16 lanes, 4.0 with 8. Assumed, as is that arithmetic
hides none of it."""

CPU_TFLOPS = 0.06
FLOP_PER_PARAMETER = 6.25
"""Per token and parameter: forward, recomputed forward and the backward to the adapters, 2 each, and attention."""


def flop_per_token(work: Workload, setup: Setup, trained_share: float = 1.0) -> float:
    """Floating-point operations for a token: forward, backward to the adapters, and what is recomputed.

    Only the trained tokens go through the head. Every document counts as long as a row, so this is an upper bound.
    """
    shape = work.shape
    looked_at = work.max_tokens / 2
    if work.attention == "SDPA with a mask":
        looked_at = setup.micro_rows * work.max_tokens
    attention = 4 * shape.heads * shape.head_dim * looked_at * shape.layers
    layers = 2 * (shape.linear_parameters + work.lora_parameters) + attention
    # The backward of attention makes its scores anew, so it takes 5 products where the forward takes 2.
    backward = layers + 1.5 * attention + 2 * work.lora_parameters
    head = 4 * shape.vocab * shape.hidden * trained_share
    return layers * (1 + _recomputed_share(work, setup)) + backward + head


def limit_tokens_per_s(work: Workload, setup: Setup, card: Card, trained_share: float = 1.0) -> float:
    """Tokens a second that the card's arithmetic would allow, were nothing else in the way."""
    return card.tflops * 1e12 / flop_per_token(work, setup, trained_share)


def predicted_tokens_per_s(work: Workload, setup: Setup, card: Card) -> float:
    """Tokens a second at the assumed share of the limit, with the time to unpack weights and to offload inputs."""
    passes = 2 + _recomputed_share(work, setup)
    unpacking_s = passes * UNPACKING_BYTES * work.shape.linear_parameters / (card.gb_per_s * 1e9)
    per_token_s = 1 / (REACHED_SHARE[work.backend] * limit_tokens_per_s(work, setup, card))
    return 1 / (per_token_s + _offload_s_per_token(work, setup) + unpacking_s / (setup.micro_rows * work.max_tokens))


def _offload_s_per_token(work: Workload, setup: Setup) -> float:
    """Seconds in which the inputs of the recomputed layers go to the computer's memory and come back."""
    recomputed = work.shape.layers - setup.kept_layers
    moved = 2 * work.compute_bytes * work.shape.hidden * recomputed if setup.offload else 0
    return moved / (HOST_GB_PER_S * 1e9)


def rough_tokens_per_s(parameters: int, backend: str, card: Card | None) -> float:
    """Tokens a second by the number of parameters alone, on a card or on a CPU (None)."""
    tflops = CPU_TFLOPS if card is None else card.tflops * REACHED_SHARE[backend]
    return tflops * 1e12 / (FLOP_PER_PARAMETER * parameters)


def _recomputed_share(work: Workload, setup: Setup) -> float:
    return 1 - setup.kept_layers / work.shape.layers
