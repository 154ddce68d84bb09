"""Intervals of means and of paired differences: the same for the same seed, and as wide as statistics has them."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flanlite.scoring.bootstrap import Interval, difference_interval, mean_interval

VALUES = st.dictionaries(st.text(max_size=4), st.floats(0, 1), min_size=1, max_size=12)


def numbered(values: list[float]) -> dict[str, float]:
    return {f"{number}": value for number, value in enumerate(values)}


def test_an_interval_is_as_wide_as_the_normal_one_where_that_holds() -> None:
    found = mean_interval(numbered([1.0] * 300 + [0.0] * 700), seed=1)
    half = 1.96 * sqrt(0.3 * 0.7 / 1000)
    assert (found.mean, found.n) == (pytest.approx(0.3), 1000)
    assert (found.low, found.high) == (pytest.approx(0.3 - half, abs=0.002), pytest.approx(0.3 + half, abs=0.002))


def test_an_interval_holds_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    found = [mean_interval(numbered(list(rng.random(40) < 0.4)), seed) for seed in range(60)]
    assert 0.88 <= np.mean([each.low <= 0.4 <= each.high for each in found]) <= 1


def test_a_difference_is_paired() -> None:
    before = numbered([n / 100 for n in range(100)])
    after = {identity: value + 0.1 for identity, value in before.items()}
    assert difference_interval(before, after, seed=1) == pytest.approx(Interval(0.1, 0.1, 0.1, 100))
    apart = {identity: value + 0.1 for identity, value in zip(before, reversed(before.values()), strict=True)}
    assert difference_interval(before, apart, seed=1).high > 0.2


@settings(max_examples=8)
@given(VALUES, st.integers(0, 9))
def test_the_order_of_cases_makes_no_difference_and_bounds_are_around_the_mean(values, seed) -> None:
    found = mean_interval(values, seed)
    assert mean_interval(dict(reversed(values.items())), seed) == found
    assert min(values.values()) - 1e-9 <= found.low <= found.high <= max(values.values()) + 1e-9
    assert found.low - 1e-9 <= found.mean <= found.high + 1e-9


def test_a_share_of_none_is_not_sure_to_be_none() -> None:
    found = mean_interval(numbered([0.0] * 240), 1, limits=(0, 1))
    # The exact bound: so rare that 240 cases miss it with a probability of 2.5%.
    assert (found.mean, found.low) == (0, 0)
    assert (1 - found.high) ** 240 == pytest.approx(0.025)
    assert mean_interval(numbered([1.0] * 240), 1, limits=(0, 1)).low == pytest.approx(1 - found.high)


def test_cases_that_all_stay_as_they_were_leave_room_for_change_both_ways() -> None:
    same = numbered([0.0, 1.0] * 50)
    found = difference_interval(same, same, 1, limits=(-1, 1))
    assert (found.mean, found.n) == (0, 100)
    assert found.high == -found.low == pytest.approx(0.036, abs=1e-3)
    all_better = difference_interval(numbered([0.0] * 100), numbered([1.0] * 100), 1, limits=(-1, 1))
    assert (all_better.low, all_better.high) == (pytest.approx(1 - 2 * found.high), 1)


def test_one_case_has_no_width() -> None:
    assert mean_interval({"a": 0.5}, seed=1) == (0.5, 0.5, 0.5, 1)


def test_other_cases_or_none_are_refused() -> None:
    with pytest.raises(ValueError, match="same cases"):
        difference_interval({"a": 1}, {"b": 1}, seed=1)
    with pytest.raises(ValueError, match="no cases"):
        mean_interval({}, seed=1)
