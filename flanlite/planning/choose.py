"""The longest rows and the fastest layout of a step that fit the card, by prediction; or what would fit instead."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from typing import Any

from flanlite.bases import BASES
from flanlite.errors import NoRoomError
from flanlite.planning.cards import GIB, Card
from flanlite.planning.memory import Workload, memory_parts, peak_bytes
from flanlite.planning.setup import Setup, can_offload, in_words
from flanlite.planning.speed import limit_tokens_per_s, predicted_tokens_per_s
from flanlite.recipe import MOST_TOKENS, Recipe

LEAST_TOKENS = 1024
"""Shorter rows would cut most conversations, so they are neither chosen nor proposed."""


@dataclass(frozen=True)
class Plan:
    """A step on a card: how it is laid out, and what that is predicted to take.

    `free_bytes` is what a tune may have of the card.
    """

    work: Workload
    setup: Setup
    card: Card
    free_bytes: int

    @property
    def parts(self) -> dict[str, int]:
        """Bytes at the peak, by part."""
        return memory_parts(self.work, self.setup)

    @property
    def peak_bytes(self) -> int:
        """Bytes at the peak: what is taken should stay below it."""
        return peak_bytes(self.work, self.setup)

    @property
    def tokens_per_s(self) -> float:
        """Predicted tokens a second."""
        return predicted_tokens_per_s(self.work, self.setup, self.card)

    @property
    def limit_tokens_per_s(self) -> float:
        """Tokens a second at the card's arithmetic limit, with this layout."""
        return limit_tokens_per_s(self.work, self.setup, self.card)

    @property
    def layout(self) -> str:
        """The layout of a step as part of a sentence."""
        return in_words(self.setup, self.work.shape.layers, self.work.max_tokens, self.work.batch_rows)


def row_lengths(recipe: Recipe, context: int | None) -> list[int]:
    """Tokens that a row may have, longest first; `context` is what the base reads, where that is known.

    Of those that the recipe leaves open, only lengths whose rows its micro_rows divides, where there are any.
    """
    lengths = [recipe.longest_row(context, MOST_TOKENS)]
    rows = recipe.batch_tokens // lengths[0]
    while recipe.max_tokens == "auto" and recipe.batch_tokens // (2 * rows) >= LEAST_TOKENS:
        rows *= 2
        lengths.append(recipe.batch_tokens // rows)
    micro_rows = 1 if recipe.micro_rows == "auto" else recipe.micro_rows
    return [tokens for tokens in lengths if recipe.batch_tokens // tokens % micro_rows == 0] or lengths[:1]


def choose(works: Sequence[Workload], recipe: Recipe, card: Card, free_bytes: int) -> Plan:
    """The plan with the most predicted tokens a second, within what the recipe fixes, for the first work that fits.

    `works` differ in the length of their rows, the best first. Offloading is the last resort: beside a layout that
    does without, its gain is within the error of these predictions. Raises NoRoomError where nothing fits, with what
    would.
    """
    for offload in (False, True):
        for work in works:
            fitting = [
                Plan(work, setup, card, free_bytes)
                for setup in _setups(work, recipe)
                if setup.offload == offload and peak_bytes(work, setup) <= free_bytes
            ]
            if fitting:
                return max(fitting, key=lambda plan: plan.tokens_per_s)
    raise _too_large(works[-1], recipe, card, free_bytes)


def _setups(work: Workload, recipe: Recipe) -> Iterator[Setup]:
    layers = work.shape.layers
    rows = divisors(work.batch_rows) if recipe.micro_rows == "auto" else [recipe.micro_rows]
    kept = range(layers + 1) if recipe.kept_layers == "auto" else [min(recipe.kept_layers, layers)]
    offloads = [False, True] if recipe.offload == "auto" else [recipe.offload]
    if not can_offload(work.backend, work.max_tokens):
        offloads = [False]
    return (Setup(*values) for values in product(rows, kept, offloads))


def divisors(rows: int) -> list[int]:
    """The numbers of rows that a step of `rows` can be split into."""
    return [part for part in range(1, rows + 1) if rows % part == 0]


def least_bytes(work: Workload, recipe: Recipe | None = None) -> int:
    """Bytes of the smallest layout, within what a recipe fixes: less memory than that is never enough."""
    return min(peak_bytes(work, setup) for setup in _setups(work, recipe or Recipe()))


def _too_large(work: Workload, recipe: Recipe, card: Card, free_bytes: int) -> NoRoomError:
    """What is missing even for the shortest rows, and what would fit."""
    needed, free = math.ceil(least_bytes(work, recipe) / GIB * 10) / 10, math.floor(free_bytes / GIB * 10) / 10
    return NoRoomError(
        f"{recipe.base} with rows of {work.max_tokens:,} tokens needs {needed:.1f} GiB at the least, "
        f"and {card.name} has {free:.1f} GiB for it.",
        _what_fits(work, recipe, free_bytes),
    )


def _what_fits(work: Workload, recipe: Recipe, free_bytes: int) -> str:
    """A layout that the plan chooses; else, within what the recipe fixes of it, shorter rows or another base."""
    fixed = [field.name for field in fields(Setup) if getattr(recipe, field.name) != "auto"]
    for names in [*([name] for name in fixed), fixed]:
        opened: dict[str, Any] = dict.fromkeys(names, "auto")
        if names and least_bytes(work, replace(recipe, **opened)) <= free_bytes:
            return f"It fits if {', '.join(names)} {'is' if len(names) == 1 else 'are'} left to the plan."
    fitting = [*_shorter_rows(work, recipe, free_bytes), *_smaller_base(work, recipe, free_bytes)]
    return f"{' or '.join(fitting)} would fit." if fitting else "It takes a card with more memory."


def _shorter_rows(work: Workload, recipe: Recipe, free_bytes: int) -> list[str]:
    """The setting of the longest shorter rows that fit, if any do; where the plan chooses, it has tried them all."""
    if recipe.max_tokens == "auto":
        return []
    lengths = row_lengths(replace(recipe, max_tokens="auto"), work.max_tokens)
    works = [replace(work, max_tokens=tokens, batch_rows=recipe.batch_tokens // tokens) for tokens in lengths]
    return [f"max_tokens={other.max_tokens}" for other in works if least_bytes(other, recipe) <= free_bytes][:1]


def _smaller_base(work: Workload, recipe: Recipe, free_bytes: int) -> list[str]:
    """The option that names the largest smaller base which fits, if one does."""
    smaller = [base for base in BASES.values() if base.shape and base.parameters < work.shape.parameters]
    smaller.sort(key=lambda base: -base.parameters)
    works = {base.name: replace(work, shape=base.known_shape) for base in smaller}
    return [f"--base {name}" for name, other in works.items() if least_bytes(other, recipe) <= free_bytes][:1]
