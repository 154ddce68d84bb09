"""The least memory that a tune takes of any card: one figure for all who tell it."""

from __future__ import annotations

from itertools import count

from flanlite.bases import Base
from flanlite.planning.cards import GIB, free_bytes_of
from flanlite.planning.choose import least_bytes, row_lengths
from flanlite.planning.memory import Workload
from flanlite.recipe import Recipe


def least_free_bytes(recipe: Recipe, base: Base) -> int:
    """Bytes that have to be free on a card, with the shortest rows and the smallest layout."""
    shortest = recipe.with_rows_of(row_lengths(recipe, base.context_length)[-1])
    return least_bytes(
        Workload(
            shape=base.known_shape,
            max_tokens=shortest.row_tokens,
            batch_rows=shortest.batch_rows,
            lora_r=recipe.lora_r,
            has_dropout=recipe.lora_dropout > 0,
            backend="unsloth",
            dtype="bfloat16",
            optimizer="adamw_8bit" if recipe.optimizer == "auto" else recipe.optimizer,
            attention="torch varlen",
            context_length=base.context_length or 0,
        )
    )


def least_card_gib(recipe: Recipe, base: Base) -> int:
    """The memory of the smallest card that will do, in whole GiB."""
    needed = least_free_bytes(recipe, base)
    return next(gib for gib in count(1) if free_bytes_of(gib * GIB) >= needed)
