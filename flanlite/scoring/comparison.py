"""Two models' results side by side: every measure with the interval of its difference, and the cases that flipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isclose
from typing import Literal, NamedTuple

from flanlite.scoring.bootstrap import Interval, difference_interval, mean_interval
from flanlite.scoring.results import Example, Measure, Results

Verdict = Literal["better", "worse", "unclear", "too few"]
"""What a difference is; `unclear` where its interval holds 0, `too few` where there are under FEWEST cases."""

FEWEST = 6
"""Of five cases, all change the same way by chance alone in 2 of 2**5 times, which is more than 5%."""

PASSED = 0.5
"""A case flips when its score goes from below this to it or above, or back."""


@dataclass(frozen=True)
class Row:
    """One measure of the model after, and of the one before where that has it too; `n` cases of the one after.

    `interval` is that of the paired difference, after - before, over the cases of both; None where they share none.
    Without a value before it is that of the mean over the cases after, and None where there are no cases. It is always
    about the mean over cases, also where the value is none, such as a perplexity: see `is_of_cases`.
    """

    suite: str
    group: str
    name: str
    before: float | None
    after: float
    n: int
    interval: Interval | None
    is_share: bool = True
    is_better_high: bool = True

    @property
    def key(self) -> tuple[str, str, str]:
        """What makes it the same measure of another evaluation."""
        return self.suite, self.group, self.name

    @property
    def difference(self) -> float | None:
        """The value after less the value before."""
        return None if self.before is None else self.after - self.before

    @property
    def change(self) -> float | None:
        """What is shown as the difference: the mean that the interval is around, where there is an interval."""
        return self.difference if self.before is None or self.interval is None else self.interval.mean

    @property
    def label(self) -> str:
        """The name, with an arrow where less is better."""
        return self.name if self.is_better_high else f"{self.name} ↓"

    @property
    def is_of_cases(self) -> bool:
        """Whether the interval is about another figure than the values: they are no means of the cases it is over."""
        value = self.after if self.difference is None else self.difference
        return self.interval is not None and not isclose(self.interval.mean, value, abs_tol=1e-3)

    @property
    def verdict(self) -> Verdict | None:
        """What the interval says of the difference; None where there is no interval of one."""
        if self.before is None or self.interval is None:
            return None
        if self.interval.n < FEWEST:
            return "too few"
        if self.interval.low > 0 or self.interval.high < 0:
            return "better" if (self.interval.low > 0) == self.is_better_high else "worse"
        return "unclear"


class Flip(NamedTuple):
    """A case that one of the two models passed and the other did not."""

    suite: str
    id: str
    before: Example
    after: Example


def comparison(before: Results | None, after: Results, seed: int) -> list[Row]:
    """One row for each measure of `after`, in its order; the seed is that of the bootstrap."""
    earlier = {measure.key: measure for measure in before.measures} if before else {}
    return [_row(earlier.get(measure.key), measure, seed) for measure in after.measures]


def _row(before: Measure | None, after: Measure, seed: int) -> Row:
    return Row(
        after.suite,
        after.group,
        after.name,
        None if before is None else before.value,
        after.value,
        len(after.items),
        _interval(before, after, seed),
        after.is_share,
        after.is_better_high,
    )


def _interval(before: Measure | None, after: Measure, seed: int) -> Interval | None:
    if before is None:
        return mean_interval(after.items, seed, (0, 1) if after.is_share else None) if after.items else None
    common = before.items.keys() & after.items.keys()
    if not common:
        return None
    earlier, later = ({identity: each.items[identity] for identity in common} for each in (before, after))
    return difference_interval(earlier, later, seed, (-1, 1) if after.is_share else None)


def sections(rows: Iterable[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows by suite and group, a suite's groups behind one another, each in the order of its first row."""
    suites: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        suites.setdefault(row.suite, {}).setdefault(row.group, []).append(row)
    return {(suite, group): found for suite, groups in suites.items() for group, found in groups.items()}


def flips(before: Results | None, after: Results) -> tuple[list[Flip], list[Flip]]:
    """The cases that only the model after passes, and those that only the one before does; of the cases of both."""
    if before is None:
        return [], []
    found = [
        Flip(suite, identity, before.examples[suite][identity], example)
        for suite, examples in after.examples.items()
        for identity, example in examples.items()
        if identity in before.examples.get(suite, {})
    ]
    gained = [flip for flip in found if flip.before.score < PASSED <= flip.after.score]
    lost = [flip for flip in found if flip.after.score < PASSED <= flip.before.score]
    return gained, lost
