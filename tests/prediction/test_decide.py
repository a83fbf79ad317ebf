"""Whether an interval decides, against limits and against a front."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from upnas.prediction import is_surely_dominated, verdict_on
from upnas.records import Constraint


def limit(*, min: float | None = None, max: float | None = None) -> Constraint:
    return Constraint(metric="latency_ms", min=min, max=max)


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ((10, 40), "feasible"),  # a limit itself is kept
        ((10, 40.1), None),
        ((39, 50), None),
        ((40.1, 50), "infeasible"),
        ((40, 40), "feasible"),
    ],
)
def test_a_maximum_decides_where_the_interval_is_on_one_side(
    interval: tuple[float, float], verdict: str | None
) -> None:
    assert verdict_on(interval, [limit(max=40)]) == verdict


def test_every_limit_must_be_kept_and_one_broken_is_enough() -> None:
    limits = [limit(min=5), limit(max=40)]
    assert verdict_on((6, 30), limits) == "feasible"
    assert verdict_on((4, 30), limits) is None
    assert verdict_on((1, 4), limits) == "infeasible"
    assert verdict_on((30, 50), [limit(max=40), limit(max=20)]) == "infeasible"


def test_without_limits_everything_is_feasible() -> None:
    assert verdict_on((0, math.inf), []) == "feasible"


def test_a_best_case_is_dominated_by_a_point_that_is_nowhere_worse() -> None:
    front = [[1.0, 3.0], [2.0, 2.0]]
    assert is_surely_dominated([2.0, 2.5], front)
    assert not is_surely_dominated([1.5, 2.5], front)  # between them
    assert not is_surely_dominated([2.0, 2.0], front)  # equal
    assert not is_surely_dominated([-math.inf, 9.0], front)
    assert not is_surely_dominated([5.0, 5.0], [])


def test_an_unknown_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="use -inf for an unknown"):
        is_surely_dominated([1.0, math.nan], [[1.0, 1.0]])


POINT = st.tuples(*[st.integers(0, 4)] * 3)


@given(POINT, st.lists(POINT, max_size=8))
def test_dominated_means_that_some_point_is_as_good_everywhere_and_better_somewhere(
    best: tuple[int, ...], front: list[tuple[int, ...]]
) -> None:
    expected = any(
        all(a <= b for a, b in zip(point, best, strict=True)) and point != best for point in front
    )
    array = np.array(front, dtype=float).reshape(-1, 3)
    assert is_surely_dominated(best, array) == expected


def test_points_of_another_number_of_objectives_are_refused() -> None:
    with pytest.raises(ValueError, match="dimension"):  # and not read as other points
        is_surely_dominated([1.0, 1.0], [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]])
