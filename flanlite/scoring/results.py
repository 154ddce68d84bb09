"""What an evaluation found of one model: measures with a value for every case, and the replies behind them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Measure:
    """One figure of one suite: `value` is the headline, `items` the value of each case that it is made of, by id.

    A share lies in 0..1; any other figure is a plain number, such as a perplexity. `group` names the kind of cases that
    it is taken over, and is empty for all of them.
    """

    suite: str
    name: str
    value: float
    items: Mapping[str, float]
    group: str = ""
    is_share: bool = True
    is_better_high: bool = True

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same measure of another model."""
        return self.suite, self.group, self.name


@dataclass(frozen=True)
class Example:
    """A case as people read it, with the model's reply and its score in 0..1, which decides whether it flipped."""

    question: str
    wanted: str
    reply: str
    score: float


@dataclass(frozen=True)
class Results:
    """All that was found of one model.

    `details` are a suite's own account for report.json, by the suite's name: for t-eval `dimensions`, `overall` and
    `files`. `notes` are sentences on what was left out or cut, and why. `examples` are by suite and case id. `settings`
    are what was asked for, for the record. `identity` is the same for the same weights, asked in the same style.
    """

    model: str
    measures: tuple[Measure, ...]
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    examples: Mapping[str, Mapping[str, Example]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    seconds: float = 0.0
    settings: Mapping[str, Any] = field(default_factory=dict)
    identity: str = ""


def notes_of(before: Sequence[str] | None, after: Sequence[str]) -> list[str]:
    """The notes of two models or, without one before, of one: each once, with the model where it is not about both."""
    if before is None:
        return list(after)
    both = [note for note in after if note in before]
    alone = [("before", note) for note in before] + [("after", note) for note in after]
    return both + [f"{model}: {note}" for model, note in alone if note not in both]
