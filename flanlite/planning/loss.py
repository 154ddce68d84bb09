"""The bytes at work in a loss: hidden states, their gradient, and as many rows of logits as exist at once."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flanlite.planning.memory import Workload

PEFT_ROWS = 256
"""Rows whose logits exist at once in trl's loss, in four float32 copies."""

UNSLOTH_ROWS, UNSLOTH_LOGITS = (512, 4096), 512 * 151_936
"""Rows whose logits exist at once in unsloth's: the bounds of their number, and the logits that it prefers to make."""

TILE_COLUMNS = 16_384
SMALL_CARD_BYTES = round(24.5 * 2**30)
"""unsloth takes a vocabulary of more than two tiles tile by tile: on cards from compute capability 8.0 on, always where
they are no larger than this, and on larger ones from so many rows on as there are at once."""


def loss_bytes(work: Workload, tokens: int) -> int:
    """Bytes at the peak of a loss over so many tokens, all of them trained, beside what the layers keep."""
    if work.backend == "peft":
        return _with_trl(work, tokens)
    _, most = UNSLOTH_ROWS
    is_tiled = math.ceil(work.shape.vocab / TILE_COLUMNS) > 2 and work.capability >= (8, 0)
    if not is_tiled:
        return _in_rows(work, tokens, tokens)
    if work.card_bytes <= SMALL_CARD_BYTES:
        return _in_tiles(work, tokens)
    # Fewer tokens than it takes to go by tiles may be trained in a step, and one with more follow.
    in_rows = _in_rows(work, tokens, min(tokens, most))
    return max(in_rows, _in_tiles(work, tokens)) if tokens >= most else in_rows


def _with_trl(work: Workload, tokens: int) -> int:
    hidden, s = work.shape.hidden, work.compute_bytes
    return (4 + 2 * s) * hidden * tokens + PEFT_ROWS * (16 * work.shape.vocab + (2 + 4 * s) * hidden)


def _in_rows(work: Workload, tokens: int, trained: int) -> int:
    """The norm's input and output and their gradient; of a part of the rows the logits in float32, which make room for
    their own gradient, the states, and their gradient in float32 and in 16 bits, or that of two parts."""
    hidden, vocab = work.shape.hidden, work.shape.vocab
    least, most = UNSLOTH_ROWS
    preferred = max(_power_of_two(trained * hidden / vocab), _power_of_two(UNSLOTH_LOGITS / vocab), least)
    rows = min(preferred, most, trained)
    return 6 * hidden * tokens + 4 * rows * vocab + (8 if rows == trained else 10) * rows * hidden


def _in_tiles(work: Workload, tokens: int) -> int:
    """The same with a tile of the logits, the gradient in float32 alone, and eight figures a row and tile."""
    hidden = work.shape.hidden
    rows = min(tokens, UNSLOTH_ROWS[1])
    tiles = math.ceil(work.shape.vocab / TILE_COLUMNS)
    row_bytes = 4 * TILE_COLUMNS + (6 if rows == tokens else 8) * hidden + 32 * tiles
    return 6 * hidden * tokens + rows * row_bytes


def _power_of_two(number: float) -> int:
    """The largest power of two that is no more than the number, and at least 1."""
    return 1 << max(0, math.floor(math.log2(number)))
