"""What makes a block of pairs untrustworthy, in closed forms."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from upnas.measure.timing.clocks import Timing
from upnas.measure.timing.judge import Judge, Pair, half_width, spread

JUDGE = Judge(max_half_width=0.02, max_drift=0.1, max_spread=0.15)


def block(reference: Sequence[float], candidate: Sequence[float]) -> list[Pair]:
    return [
        [Timing(one, one), Timing(other, other)]
        for one, other in zip(reference, candidate, strict=True)
    ]


@pytest.mark.parametrize(
    ("reference", "candidate", "objection"),
    [
        ([1.0] * 15, [2.0] * 15, None),
        # The load of a few samples is no drift: medians do not see it.
        ([1.0] * 7 + [3.0] + [1.0] * 7, [2.0] * 15, None),
        ([1.0] * 7 + [1.2] * 8, [2.0] * 7 + [2.4] * 8, "reference drifted 20 %"),
        ([1.2] * 7 + [1.0] * 8, [2.4] * 7 + [2.0] * 8, "reference drifted 17 %"),
        ([0.8, 1.0, 1.2] * 5, [0.8, 1.0, 1.2] * 5, "reference spread 40 %"),
        ([1.0] * 15, [1.9, 2.0, 2.1] * 5, "interval +-5.0 %"),
        ([1.0] * 16, [2.0] * 8 + [2.05] * 8, "ratio drifted 2.5 %"),
    ],
)
def test_objections(reference: list[float], candidate: list[float], objection: str | None) -> None:
    assert JUDGE.objection(block(reference, candidate)) == objection


def test_only_width_can_be_mended_by_more_pairs() -> None:
    wide = [1.9, 2.0, 2.1] * 5
    assert JUDGE.is_only_wide(block([1.0] * 15, wide))
    assert not JUDGE.is_only_wide(block([1.0] * 15, [2.0] * 15))
    assert not JUDGE.is_only_wide(block([1.0] * 7 + [1.2] * 8, wide))


def test_half_width_is_that_of_the_ratio() -> None:
    # With six pairs the interval is the whole range of ratios: 1.9 to 2.1 around 2.
    pairs = block([2.0] * 6, [3.8, 4.0, 4.0, 4.0, 4.0, 4.2])
    assert half_width(pairs) == pytest.approx(0.05)


def test_spread_is_the_interquartile_range() -> None:
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(2 / 3)


@given(
    st.lists(st.floats(0.5, 2.0), min_size=6, max_size=40),
    st.floats(0.01, 100.0),
    st.floats(0.01, 100.0),
)
def test_units_do_not_matter(times: list[float], one: float, other: float) -> None:
    as_is = block(times, times[::-1])
    scaled = block([one * time for time in times], [other * time for time in times[::-1]])
    assert half_width(scaled) == pytest.approx(half_width(as_is), abs=1e-9)
    assert (JUDGE.objection(scaled) is None) == (JUDGE.objection(as_is) is None)
