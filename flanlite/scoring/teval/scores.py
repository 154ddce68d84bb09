"""T-Eval's scores: of one file's replies, and of all files together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from flanlite.errors import FlanliteError
from flanlite.scoring.teval.dimensions import RRU, SCORERS, Questions, Values
from flanlite.scoring.teval.matching import Embed
from flanlite.scoring.teval.questions import Form, form_of

DIMENSIONS: Mapping[str, tuple[tuple[str, str], ...]] = {
    "Instruct": (
        ("instruct", "json_format_metric"),
        ("instruct", "json_args_em_metric"),
        ("instruct", "string_format_metric"),
        ("instruct", "string_args_em_metric"),
    ),
    "Plan": (("plan_str", "f1_score"), ("plan_json", "f1_score")),
    "Reason": (("reason_str", "thought"), (RRU, "thought")),
    "Retrieve": (("retrieve_str", "name"), (RRU, "name")),
    "Understand": (("understand_str", "args"), (RRU, "args")),
    "Review": (("review_str", "review_quality"),),
}
"""The metrics, by form and name, whose mean is a dimension's score."""

ROUNDED = ("instruct", "review_str")
"""The forms whose metrics T-Eval rounds to four decimals before it goes on with them."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What the replies to one file are worth.

    `metrics` are T-Eval's, by its own names; `each` holds what every question adds to them; `items` is one value from
    0 to 1 for each question, the mean of those of its metrics that count in a dimension.
    """

    metrics: dict[str, float]
    each: Values
    items: dict[str, float]


@dataclass(frozen=True, slots=True)
class Summary:
    """The dimensions' scores and their mean, from 0 to 1; T-Eval prints them times 100.

    A dimension without any metric is not there. One that lacks some is the mean of the others, which is no score of
    T-Eval's: it is named in `partial`. `overall` is None unless all six are there and whole.
    """

    dimensions: dict[str, float]
    overall: float | None
    partial: tuple[str, ...]


def score(form: Form, items: Questions, embed: Embed | None) -> Scored:
    """Score the cut replies in questions that `read_questions` has checked, by their keys.

    Without `embed`, the metrics that compare sentences are left out, and with them the items that have no other.
    """
    each = SCORERS[form.name](items, embed)
    metrics: dict[str, list[float]] = {}
    for values in each.values():
        for metric, value in values.items():
            metrics.setdefault(metric, []).append(value)
    counted = {metric for pairs in DIMENSIONS.values() for name, metric in pairs if name == form.name}
    shown = {key: [values[metric] for metric in values if metric in counted] for key, values in each.items()}
    decimals = 4 if form.name in ROUNDED else None
    return Scored(
        {metric: _mean(values, decimals) for metric, values in metrics.items()},
        each,
        {key: _mean(values) for key, values in shown.items() if values},
    )


def summarise(metrics_by_file: Mapping[str, Mapping[str, float]]) -> Summary:
    """The dimensions' scores from the metrics of files, by the files' names.

    Raises FlanliteError where two files have the same form, or not all are of one language.
    """
    forms = [form_of(file) for file in metrics_by_file]
    if len({form.name for form in forms}) < len(forms) or len({form.is_zh for form in forms}) > 1:
        raise FlanliteError(
            f"{', '.join(metrics_by_file)} do not make up one score.",
            "Take one file of each form, all in English or all in Chinese.",
        )
    metrics = {
        (form.name, metric): value
        for form, values in zip(forms, metrics_by_file.values(), strict=True)
        for metric, value in values.items()
    }
    found = {name: [metrics[pair] for pair in pairs if pair in metrics] for name, pairs in DIMENSIONS.items()}
    dimensions = {name: _mean(values) for name, values in found.items() if values}
    partial = tuple(name for name in dimensions if len(found[name]) < len(DIMENSIONS[name]))
    is_whole = len(dimensions) == len(DIMENSIONS) and not partial
    return Summary(dimensions, _mean(list(dimensions.values())) if is_whole else None, partial)


def _mean(values: list[float], decimals: int | None = None) -> float:
    mean = np.mean(values)
    return float(mean if decimals is None else np.round(mean, decimals))
