"""How sure a mean over few cases is: percentile bootstrap intervals, for one model and for two on the same cases."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
BLOCK = 100


class Interval(NamedTuple):
    """A mean over `n` cases and the bounds of its bootstrap interval, at a confidence of 95%."""

    mean: float
    low: float
    high: float
    n: int


def mean_interval(values: Mapping[str, float], seed: int, limits: tuple[float, float] | None = None) -> Interval:
    """The mean of the values, which are given by the id of their case; their order makes no difference.

    Cases are drawn anew, with replacement, 10,000 times. Where all are equal, drawing shows nothing: then the interval
    goes as far towards `limits`, the least and the largest value there can be, as unseen cases could move the mean.
    Raises ValueError where there are no cases.
    """
    if not values:
        raise ValueError("there are no cases to take a mean of")
    found, size = np.array([values[identity] for identity in sorted(values)]), len(values)
    if limits is not None and np.ptp(found) == 0:
        return _of_equal(float(found[0]), size, *limits)
    rng = np.random.default_rng(seed)
    # All resamples at once would take gigabytes for a suite of some size.
    blocks = [found[rng.integers(size, size=(BLOCK, size))].mean(axis=1) for _ in range(RESAMPLES // BLOCK)]
    low, high = np.quantile(np.concatenate(blocks), [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
    return Interval(float(found.mean()), float(low), float(high), size)


def _of_equal(value: float, size: int, least: float, largest: float) -> Interval:
    """The exact bounds of Clopper and Pearson (1934), for none among `size` cases that is another."""
    unseen = 1 - ((1 - CONFIDENCE) / 2) ** (1 / size)
    return Interval(value, value - unseen * (value - least), value + unseen * (largest - value), size)


def difference_interval(
    before: Mapping[str, float], after: Mapping[str, float], seed: int, limits: tuple[float, float] | None = None
) -> Interval:
    """The mean of after - before, paired: a case is drawn with both of its values; `limits` are those of a difference.

    Raises ValueError where the two are not of the same cases, or there are none.
    """
    if before.keys() != after.keys():
        raise ValueError("the two are not of the same cases")
    return mean_interval({identity: after[identity] - value for identity, value in before.items()}, seed, limits)
