"""Pareto mathematics against brute force, closed forms and Monte Carlo."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upnas.pareto import Points, hypervolume, knee, non_dominated, pareto_rank, step_front

NAN, INF = math.nan, math.inf

# Few distinct values make duplicates, ties and shared coordinates the normal case.
coarse = st.sampled_from([0.0, -0.0, 1.0, 2.0, 3.0])
wild = st.sampled_from([0.0, -0.0, 1.0, 2.0, NAN, INF, -INF])


@st.composite
def point_sets(
    draw: st.DrawFn,
    values: st.SearchStrategy[float] = coarse,
    num_objectives: tuple[int, int] = (1, 4),
    max_points: int = 9,
) -> Points:
    m = draw(st.integers(*num_objectives))
    rows = draw(st.lists(st.tuples(*[values] * m), max_size=max_points))
    return np.array(rows, dtype=np.float64).reshape(-1, m)


def brute_non_dominated(points: Points) -> list[bool]:
    def dominates(a: Points, b: Points) -> bool:
        return all(x <= y for x, y in zip(a, b, strict=True)) and any(
            x < y for x, y in zip(a, b, strict=True)
        )

    return [
        not any(math.isnan(x) for x in row) and not any(dominates(other, row) for other in points)
        for row in points
    ]


def inclusion_exclusion(points: Points, reference: Points) -> float:
    """Volume of a union of boxes: sum over subsets of (-1)^(k+1) times their intersection."""
    inside = [row for row in points if (row < reference).all()]
    total = sum(
        (-1) ** (size + 1) * float(np.prod(reference - np.max(subset, axis=0)))
        for size in range(1, len(inside) + 1)
        for subset in itertools.combinations(inside, size)
    )
    return float(total)


@given(point_sets(values=wild, max_points=12))
def test_non_dominated_equals_brute_force(points: Points) -> None:
    assert non_dominated(points).tolist() == brute_non_dominated(points)


@pytest.mark.parametrize("num_objectives", [2, 3, 5])
def test_non_dominated_on_continuous_points(num_objectives: int) -> None:
    points = np.random.default_rng(0).normal(size=(200, num_objectives))
    assert non_dominated(points).tolist() == brute_non_dominated(points)


def test_front_cases() -> None:
    assert non_dominated([[1, 2], [1, 2], [2, 1], [2, 2]]).tolist() == [True, True, True, False]
    assert non_dominated([[NAN, 0.0], [1.0, 1.0]]).tolist() == [False, True]
    assert non_dominated([[-INF, INF], [INF, -INF], [INF, INF]]).tolist() == [True, True, False]
    assert non_dominated(np.empty((0, 3))).shape == (0,)
    with pytest.raises(ValueError, match=r"shape \(n, m\)"):
        non_dominated([1.0, 2.0])


@given(point_sets(values=wild))
def test_rank_peels_fronts(points: Points) -> None:
    ranks = pareto_rank(points)
    assert ((ranks == -1) == np.isnan(points).any(axis=1)).all()
    for rank in range(ranks.max(initial=-1) + 1):
        remaining = points[ranks >= rank]
        assert brute_non_dominated(remaining) == (ranks[ranks >= rank] == rank).tolist()


@given(point_sets(num_objectives=(1, 5), max_points=7))
def test_hypervolume_equals_inclusion_exclusion(points: Points) -> None:
    reference = np.full(points.shape[1], 3.0)
    expected = inclusion_exclusion(points, reference)
    assert hypervolume(points, reference) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(2, 5), st.integers(0, 2**31))
def test_hypervolume_of_continuous_points(num_objectives: int, seed: int) -> None:
    points = np.random.default_rng(seed).random((9, num_objectives))
    reference = np.full(num_objectives, 0.9)
    expected = inclusion_exclusion(points, reference)
    assert hypervolume(points, reference) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("num_objectives", [2, 3, 4])
def test_hypervolume_of_many_points_equals_monte_carlo(num_objectives: int) -> None:
    rng = np.random.default_rng(3)
    directions = np.abs(rng.normal(size=(60, num_objectives)))
    points = 1 - directions / np.linalg.norm(directions, axis=1, keepdims=True)  # concave front
    samples = rng.random((40_000, num_objectives))
    hit = (points[None] <= samples[:, None]).all(axis=2).any(axis=1)
    error = 4 * math.sqrt(0.25 / len(samples))  # four standard errors of a proportion
    assert hypervolume(points, np.ones(num_objectives)) == pytest.approx(hit.mean(), abs=error)


@pytest.mark.parametrize("num_objectives", [1, 2, 3, 4, 5])
def test_hypervolume_closed_forms(num_objectives: int) -> None:
    ones = np.ones(num_objectives)
    assert hypervolume([0.25 * ones], ones) == pytest.approx(0.75**num_objectives)
    assert hypervolume([0.25 * ones, 0.5 * ones, 0.25 * ones], ones) == pytest.approx(
        0.75**num_objectives
    )
    # Point i is 0.5 in column i, else 0: only the cube below 0.5 in every column is left out.
    assert hypervolume(0.5 * np.eye(num_objectives), ones) == pytest.approx(1 - 0.5**num_objectives)


def test_hypervolume_edges() -> None:
    assert hypervolume(np.empty((0, 2)), [1, 1]) == 0
    assert hypervolume([[1.0, 0.0], [2.0, -5.0], [NAN, 0.0], [INF, -9.0]], [1, 1]) == 0
    assert hypervolume([[-INF, 0]], [1, 1]) == INF
    assert hypervolume([[-INF, 1]], [1, 1]) == 0
    with pytest.raises(ValueError, match="2 finite numbers"):
        hypervolume([[0, 0]], [1, INF])
    with pytest.raises(ValueError, match="2 finite numbers"):
        hypervolume([[0, 0]], [1, 1, 1])


def test_knee_is_farthest_from_the_chord() -> None:
    x = np.linspace(0, 1, 11)
    points = np.column_stack([10 * x, 1000 * (1 - np.sqrt(1 - (1 - x) ** 2))])  # circle arc
    chord = [
        abs(px / 10 + py / 1000 - 1) / math.sqrt(2) for px, py in points
    ]  # distance to the line through (0, 1) and (1, 0) after normalisation
    assert knee(points) == int(np.argmax(chord))
    dominated_and_bad = np.vstack([[[9.9, 999.0], [NAN, 0.0], [-INF, INF]], points])
    assert knee(dominated_and_bad) == int(np.argmax(chord)) + 3


@pytest.mark.parametrize(
    "points",
    [
        pytest.param([[0, 1], [1, 0]], id="two points"),
        pytest.param([[0, 1], [0.5, 0.5], [1, 0]], id="straight"),
        pytest.param([[0, 1], [0.8, 0.8], [1, 0]], id="concave"),
        pytest.param([[0, 0], [0, 0], [0, 0]], id="one point thrice"),
        pytest.param([[0, 1], [0, 1], [1, 0]], id="two points, one twice"),
        pytest.param([[0, 0, 1], [0.9, 0.9, 0], [0.1, 0.1, 0.95]], id="extreme is best"),
        pytest.param(np.empty((0, 2)), id="empty"),
    ],
)
def test_no_knee(points: Points) -> None:
    assert knee(points) is None


def test_knee_of_three_objectives_ignores_a_constant_one() -> None:
    assert knee([[0.0, 1.0, 7.0], [0.2, 0.2, 7.0], [1.0, 0.0, 7.0]]) == 1
    assert knee([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [1.0, 1.0, 0.0], [0.2, 0.3, 0.2]]) == 3


@given(point_sets(num_objectives=(2, 2)), st.tuples(st.floats(-1, 4), st.floats(-1, 4)))
def test_step_front_bounds_the_dominated_region(points: Points, probe: tuple[float, float]) -> None:
    steps = step_front(points)
    assert len(steps) == max(0, 2 * len(np.unique(points[non_dominated(points)], axis=0)) - 1)
    for left, right in itertools.pairwise(steps):
        assert (left == right).sum() == 1  # each edge is horizontal or vertical
        assert right[0] >= left[0]
        assert right[1] <= left[1]
    is_dominated = bool((points <= probe).all(axis=1).any())
    assert is_dominated == bool((steps[::2] <= probe).all(axis=1).any())


def test_step_front_corners() -> None:
    assert step_front([[2, 1], [1, 3], [3, 3]]).tolist() == [[1, 3], [2, 3], [2, 1]]
    assert step_front(np.empty((0, 2))).shape == (0, 2)
    with pytest.raises(ValueError, match="2 objectives; got 3"):
        step_front(np.zeros((1, 3)))
