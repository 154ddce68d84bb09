"""How much of a plan is right: predicted steps against the right ones, matched by the likeness of their texts."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import networkx
import numpy as np

from flanlite.scoring.teval.reading import read_value

Embed = Callable[[list[str]], np.ndarray]
"""Sentence embeddings: one row of any length for each text. Only the rows' directions matter."""

NAME_WEIGHT, ARGS_WEIGHT = 0.75, 0.25
THRESHOLD = 0.8
"""Steps have to be more alike than this to be matched."""

FINISH = "FinishAction"


class Step(NamedTuple):
    """One step of a plan: a tool's name and, as text, its arguments."""

    name: str
    args: str


class Embedded:
    """Texts as vectors; every distinct text is embedded once, all of them in one call."""

    def __init__(self, texts: Iterable[str], embed: Embed) -> None:
        self._row_of = {text: row for row, text in enumerate(dict.fromkeys(texts))}
        vectors = np.asarray(embed(list(self._row_of)) if self._row_of else np.zeros((0, 1)), np.float64)
        self._units = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)

    def likeness(self, left: Sequence[str], right: Sequence[str]) -> np.ndarray:
        """The cosines of all pairs, of shape (left, right); what points away is 0, not negative."""
        rows, columns = ([self._row_of[text] for text in texts] for texts in (left, right))
        cosines: np.ndarray = self._units[rows] @ self._units[columns].T
        return cosines.clip(0, 1)


def read_steps(value: Any) -> list[Step]:
    """The steps of a plan written as a list of objects with id, name and args, in the order of their ids.

    One step that lacks a key, or whose id `int` does not take, and the whole plan is none; "7" and 7.9 are ids.
    Arguments are compared as Python writes them, whether they came as an object or as text.
    """
    try:
        rows = read_value(value, "[]")
        if not isinstance(rows, list):
            return []
        steps = [(int(row["id"]), Step(str(row["name"]), str(row["args"]))) for row in rows]
    except (LookupError, TypeError, ValueError, OverflowError, RecursionError):
        return []
    return [step for _, step in sorted(steps, key=lambda numbered: numbered[0])]


def find_steps(text: str, names: Sequence[str]) -> list[Step]:
    """The steps of a plan in words: each line or sentence that names a tool, with all of its text as the arguments.

    A line counts for the first tool that it names; where two names begin there, for the one listed first, even if it
    is only the beginning of the other. A sentence ends with a full stop and a blank, so `1. Use ...` is cut behind its
    number, and a Chinese full stop ends nothing.
    """
    lines = text.replace(". ", "\n").split("\n")
    named = [(line, [name for name in names if name in line]) for line in lines]
    return [Step(min(found, key=line.index), line) for line, found in named if found]


def without_finish(steps: Sequence[Step]) -> Sequence[Step]:
    """The steps without a last one that only says that all is done."""
    return steps[:-1] if steps and steps[-1].name == FINISH else steps


def plan_scores(predicted: Sequence[Step], gold: Sequence[Step], embedded: Embedded) -> dict[str, float]:
    """Precision, recall and their F1 of a plan that has steps, as the right one has: the share that is in order.

    Steps are matched so that the likenesses over the threshold add up to the most; of the matched ones, the longest
    run that is in the right order counts. One step always counts, even where nothing is matched.
    """
    names = embedded.likeness([step.name for step in predicted], [step.name for step in gold])
    args = embedded.likeness([step.args for step in predicted], [step.args for step in gold])
    order = _matched(NAME_WEIGHT * names + ARGS_WEIGHT * args)
    count = max(1, _longest_rise(order))
    precision, recall = count / len(predicted), count / len(gold)
    return {"precision": precision, "recall": recall, "f1_score": 2 * recall * precision / (recall + precision)}


def _matched(weights: np.ndarray) -> list[int]:
    """The right steps that the predicted ones are matched with, in the predicted order, without the unmatched."""
    # Steps that occur twice make matchings of equal weight, in order and out of order, and even the right plan may fall
    # short. In T-Eval the last bit of a float decides between them; rounding leaves it to networkx, always alike.
    weights = np.round(weights, 6)
    graph = networkx.Graph()
    for predicted, gold in np.argwhere(weights > THRESHOLD).tolist():
        graph.add_edge(predicted, len(weights) + gold, weight=weights[predicted, gold])
    pairs = sorted(sorted(pair) for pair in networkx.max_weight_matching(graph))
    return [gold - len(weights) for _, gold in pairs]


def _longest_rise(numbers: Iterable[int]) -> int:
    """The length of the longest strictly rising subsequence."""
    ends: list[int] = []
    for number in numbers:
        place = bisect_left(ends, number)
        ends[place : place + 1] = [number]
    return len(ends)
