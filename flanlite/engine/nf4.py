"""Weights as 4-bit training sees them: rounded to nf4 with double quantisation, and read back.

bitsandbytes does the arithmetic, so the values are those of its Linear4bit modules, bit for bit. The settings are those
of `BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True)`.
"""

from collections.abc import Iterable
from typing import Any

import bitsandbytes.functional
import torch
from torch import Tensor

from flanlite.engine.weights import ALL_ROWS, Weights

bnb: Any = bitsandbytes.functional
BLOCK_SIZE = 64
NESTED_BLOCK_SIZE = 256
# Quantising goes through several float32 copies: pieces of 16 MB keep them small and in the cache.
PIECE_ELEMENTS = 1 << 22


def dequantise(packed: Tensor, parts: dict[str, Tensor]) -> Tensor:
    """A stored 4-bit weight as [out, in] in the type it was quantised from; `parts` are its tensors by name suffix."""
    state = bnb.QuantState.from_dict({name[1:]: part for name, part in parts.items()}, device=torch.device("cpu"))
    weight: Tensor = bnb.dequantize_4bit(packed, state)
    return weight


def round_to_nf4(weight: Tensor) -> Tensor:
    """The weight [out, in] as nf4 training sees it, in the same type."""
    absmax, codes = [], []
    for piece in torch.split(weight.reshape(-1), PIECE_ELEMENTS):
        code, state = bnb.quantize_4bit(piece, blocksize=BLOCK_SIZE, compress_statistics=False, quant_type="nf4")
        codes.append(code)
        absmax.append(state.absmax)
    scales = torch.cat(absmax)
    offset = scales.mean()
    nested, nested_state = bnb.quantize_blockwise(scales - offset, blocksize=NESTED_BLOCK_SIZE)
    state = bnb.QuantState(
        absmax=nested,
        shape=weight.shape,
        dtype=weight.dtype,
        blocksize=BLOCK_SIZE,
        code=state.code,
        quant_type="nf4",
        offset=offset,
        state2=nested_state,
    )
    rounded: Tensor = bnb.dequantize_4bit(torch.cat(codes), state)
    return rounded


class Nf4Rounded:
    """A 16-bit checkpoint as 4-bit training sees it: the named weights cast to `dtype` and rounded to nf4."""

    def __init__(self, weights: Weights, quantised: Iterable[str], dtype: torch.dtype) -> None:
        self.weights = weights
        self.quantised = frozenset(quantised)
        self.dtype = dtype

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return self.weights.shapes

    def load(self, name: str, rows: slice = ALL_ROWS) -> Tensor:
        """The tensor, rounded whole even when only some rows are asked for: the scales' offset is over all of them."""
        if name not in self.quantised:
            return self.weights.load(name, rows)
        return round_to_nf4(self.weights.load(name).to(self.dtype))[rows]
