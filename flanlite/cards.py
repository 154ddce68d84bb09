"""How fast a card could compute, from its datasheet: for predictions only, until a run has been measured."""

from __future__ import annotations

import re

TENSOR_TFLOPS = {
    "T4": 65,
    "RTX 3060": 25.5,
    "RTX 3070": 40.6,
    "RTX 3080": 59.5,
    "RTX 3090": 71,
    "RTX 4090": 165,
    "V100": 125,
    "A10": 125,
    "L4": 121,
    "A100": 312,
    "H100": 989,
    "H200": 989,
}
"""Dense 16-bit matrix products with 32-bit sums, in TFLOP/s, from NVIDIA's datasheets."""

UNKNOWN_TFLOPS = 40.0
CPU_TFLOPS = 0.06

FLOP_PER_PARAMETER = 6.25
"""Per token and parameter: forward, recomputed forward and the backward to the adapters, 2 each, and attention."""

REACHED_SHARE = 0.6
"""The share of the arithmetic limit that is assumed; not measured."""


def predicted_tokens_per_s(card: str | None, parameters: int) -> float:
    """Tokens a second of a base with so many parameters on a card by that name, or on a CPU (None)."""
    names = sorted(TENSOR_TFLOPS, key=len, reverse=True)
    found = next((TENSOR_TFLOPS[name] for name in names if card and re.search(rf"\b{name}\b", card)), UNKNOWN_TFLOPS)
    tflops = CPU_TFLOPS if card is None else found * REACHED_SHARE
    return tflops * 1e12 / (FLOP_PER_PARAMETER * parameters)
