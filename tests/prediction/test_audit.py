"""The audit: exact numbers for scripted errors, and honest intervals on synthetic spaces."""

from __future__ import annotations

import numpy as np
import pytest

from upnas.prediction import Audit, LatencyModel
from upnas.prediction.audit import audit_of, reach

from .synthetic import SyntheticSpace, candidate, table_of


def trusted(num_measured: int, num_covered: int, median_error: float = 0.01) -> bool:
    return Audit(
        num_measured=num_measured,
        num_covered=num_covered,
        median_error=median_error,
        max_error=median_error,
    ).is_trusted


def test_errors_are_shares_of_what_was_measured() -> None:
    measured = np.array([1.0, 2.0, 4.0])
    audit = audit_of(measured, np.array([1.1, 2.0, 3.0]), np.full(3, 1.0))
    assert audit.median_error == pytest.approx(0.1)
    assert audit.max_error == pytest.approx(0.25)
    assert audit.num_covered == 3
    assert audit.kendall_tau == 1.0
    assert str(audit) == (
        "held-out error 10.0 % in the median, 25.0 % at most, 3 of 3 inside the 95 % interval, "
        "tau 1.00"
    )


def test_a_wide_miss_does_not_widen_its_own_interval() -> None:
    """With itself among the errors that set the width, the worst would always be covered."""
    errors = np.array([0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1, -0.1, 0.1, 5.0])
    audit = audit_of(np.full(10, 10.0), 10.0 + errors, np.full(10, 0.1))
    assert audit.num_covered == 9
    assert audit.coverage == 0.9


def test_without_measurements_there_is_nothing_to_trust() -> None:
    audit = LatencyModel.fit(table_of([0.1, 0.2]), []).audit()
    assert audit == Audit(num_measured=0)
    assert audit.coverage is None
    assert not audit.is_trusted
    assert str(audit) == "not audited: no candidate was measured"


def test_one_measurement_has_an_error_and_no_rank_correlation() -> None:
    audit = audit_of(np.array([2.0]), np.array([1.0]), np.array([1.0]))
    assert audit.median_error == 0.5
    assert audit.kendall_tau is None
    assert "tau" not in str(audit)


def test_trust_takes_eight_measurements_a_small_error_and_intervals_that_hold() -> None:
    assert trusted(8, 8)
    assert not trusted(7, 7)
    assert not trusted(8, 8, median_error=0.06)
    assert trusted(8, 7)
    assert not trusted(8, 5)
    assert trusted(100, 91)
    assert not trusted(100, 85)


def test_the_reach_is_students_for_few_and_normal_for_many() -> None:
    assert reach(np.array([])) == pytest.approx(3.18, abs=0.01)
    assert reach(np.zeros(8)) == pytest.approx(2.31, abs=0.01)
    assert reach(np.zeros(500)) == pytest.approx(1.96, abs=0.01)


def test_the_reach_grows_to_what_held_out_errors_say() -> None:
    assert reach(np.arange(1.0, 101.0)) == 96.0  # the 96th of 100: ceil(0.95 * 101)
    assert reach(np.arange(1.0, 11.0)) == 10.0  # the largest of too few


@pytest.mark.parametrize("num_measured", [12, 40, 150])
def test_intervals_hold_what_they_state(num_measured: int) -> None:
    """Both the audit and candidates that nobody measured: 95 % within what 10 spaces can show."""
    covered, audited = [], []
    for seed in range(10):
        space = SyntheticSpace(seed)
        observations, rest = space.study(num_measured, 100)
        model = LatencyModel.fit(space.table, observations)
        rows = model.predict_ratios([candidate(*codes) for codes in rest])
        truths = np.array([space.truth(codes) for codes in rest])
        covered.append(np.mean((rows[:, 1] <= truths) & (truths <= rows[:, 2])))
        audited.append(model.audit().coverage or 0.0)
    assert 0.90 <= np.mean(covered) <= 0.99
    assert 0.92 <= np.mean(audited) <= 1.0


def test_the_audit_tells_the_error_on_candidates_that_nobody_measured() -> None:
    space = SyntheticSpace(seed=11, noise=0.001)
    observations, rest = space.study(100, 300)
    model = LatencyModel.fit(space.table, observations)
    means = model.predict_ratios([candidate(*codes) for codes in rest])[:, 0]
    truths = np.array([space.truth(codes) for codes in rest])
    error = np.median(np.abs(means - truths) / truths)
    assert model.audit().median_error == pytest.approx(error, rel=0.5)


def test_more_measurements_make_smaller_errors_and_narrower_intervals() -> None:
    errors, widths = [], []
    for num_measured in (0, 20, 150):
        space = SyntheticSpace(seed=2, scale=0.7)
        observations, rest = space.study(num_measured, 200)
        rows = LatencyModel.fit(space.table, observations).predict_ratios(
            [candidate(*codes) for codes in rest]
        )
        truths = np.array([space.truth(codes) for codes in rest])
        errors.append(np.median(np.abs(rows[:, 0] - truths) / truths))
        widths.append(np.median(rows[:, 2] - rows[:, 1]))
    assert errors[0] > 2 * errors[1] > 2 * errors[2]
    assert widths[0] > widths[1] > widths[2]


def test_a_space_that_stages_do_not_explain_is_not_trusted() -> None:
    space = SyntheticSpace(seed=4, residual=0.3)
    observations, _ = space.study(60, 0)
    assert not LatencyModel.fit(space.table, observations).audit().is_trusted
