"""From records to the front, with small studies whose answers are known."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report.fake_study import fake_trials, make_candidate, make_header, make_trial

from upnas.front import (
    BELOW_TRIVIAL,
    Estimate,
    compare,
    hypervolume_history,
    minimised,
    short_label,
    stage_labels,
    summarise,
    ties,
)
from upnas.pareto import hypervolume, non_dominated
from upnas.records import (
    Candidate,
    Constraint,
    Objective,
    StageChoice,
    TrialRecord,
    TrialState,
)

DICE = Objective(metric="dice", direction="maximize")
LATENCY = Objective(metric="latency_ms", direction="minimize")
HEADER = make_header(objectives=(DICE, LATENCY), constraints=())

A = make_candidate("nearest", "nearest", "nearest", "nearest")
B = make_candidate("bilinear", "bilinear", "bilinear", "bilinear")
C = make_candidate("carafe", "bilinear", "bilinear", "bilinear")
D = make_candidate("dysample", "dysample", "dysample", "dysample")


def seeds(
    first_number: int, candidate: Candidate, *dice: float, **changes: float
) -> list[TrialRecord]:
    return [
        make_trial(first_number + seed, candidate, value, seed=seed, **changes)
        for seed, value in enumerate(dice)
    ]


def test_student_interval() -> None:
    samples = [0.80, 0.82, 0.84]
    # 4.3027 is the 97.5 % quantile of Student's t with two degrees of freedom (any table).
    half = 4.302653 * statistics.stdev(samples) / math.sqrt(3)
    estimate = Estimate.of(samples)
    assert estimate.mean == pytest.approx(0.82)
    assert estimate.low == pytest.approx(0.82 - half, rel=1e-6)
    assert estimate.high == pytest.approx(0.82 + half, rel=1e-6)
    assert Estimate.of([0.5]) == Estimate(mean=0.5, low=None, high=None, num_samples=1)


def test_quality_is_the_mean_of_seeds_and_costs_are_the_newest() -> None:
    trials = [
        *seeds(0, A, 0.80, 0.84, latency_ms=10.0),
        make_trial(2, A, 0.88, seed=2, latency_ms=12.0),
        make_trial(3, A, None, seed=3, latency_ms=99.0),
        make_trial(4, A, None, seed=4, state=TrialState.FAILED, reason="nan_loss"),
    ]
    (entry,) = summarise(HEADER, trials).entries
    dice, latency = entry.values
    assert dice is not None
    assert latency is not None
    assert dice.mean == pytest.approx(0.84)
    assert dice.num_samples == 3
    assert latency.mean == pytest.approx(12.0)
    measured = trials[2].costs[0].latency
    assert measured is not None
    assert (latency.low, latency.high) == measured.interval_ms
    assert (entry.number, entry.num_unfinished) == (0, 2)


def test_a_repeated_seed_counts_once() -> None:
    trials = [make_trial(0, A, 0.8, seed=7), make_trial(1, A, 0.9, seed=7)]
    (entry,) = summarise(HEADER, trials).entries
    assert entry.values[0] == Estimate.of([0.9])


def test_front_leaves_out_dominated_infeasible_and_unlearned_candidates() -> None:
    header = make_header(
        objectives=(DICE, LATENCY), constraints=(Constraint(metric="latency_ms", max=20.0),)
    )
    trials = [
        make_trial(0, A, 0.80, latency_ms=10.0),
        make_trial(1, B, 0.79, latency_ms=11.0),  # dominated by A
        make_trial(2, C, 0.90, latency_ms=21.0),  # too slow
        make_trial(3, D, 0.30, latency_ms=1.0, flags=(BELOW_TRIVIAL,)),
    ]
    summary = summarise(header, trials)
    assert [entry.number for entry in summary.front] == [0]
    assert summary.entries[2].violations == ("latency_ms 21 > 20",)
    assert not summary.entries[2].is_feasible
    assert summary.num_below_trivial == 1


def test_a_constraint_on_something_not_measured_is_broken() -> None:
    constraints = (
        Constraint(metric="exportable", equals="onnx"),
        Constraint(metric="peak_memory_mib", target="phone", max=10.0),
    )
    header = make_header(objectives=(DICE, LATENCY), constraints=constraints)
    costs = make_trial(0, A).costs[0].model_copy(update={"exportable": (("onnx", "ok"),)})
    trials = [make_trial(0, A, 0.8), make_trial(1, B, 0.8, costs=(costs,))]
    first, second = summarise(header, trials).entries
    assert first.violations == (
        "exportable to onnx: not probed",
        "peak_memory_mib was not measured",
    )
    assert second.violations == ("peak_memory_mib was not measured",)


def with_quality(trial: TrialRecord, **quality: float) -> TrialRecord:
    """The trial with more metrics on its last rung."""
    *before, last = trial.rungs
    last = last.model_copy(update={"quality": (*last.quality, *quality.items())})
    return trial.model_copy(update={"rungs": (*before, last)})


def test_a_constraint_on_quality_is_judged_by_the_mean_over_seeds() -> None:
    constraints = (Constraint(metric="hd95", max=5.0), Constraint(metric="nsd", min=0.5))
    header = make_header(objectives=(DICE, LATENCY), constraints=constraints)
    trials = [
        with_quality(make_trial(0, A, 0.9), hd95=5.5, nsd=0.6),
        with_quality(make_trial(1, A, 0.9, seed=1), hd95=4.0, nsd=0.5),
        with_quality(make_trial(2, B, 0.95), hd95=4.0, nsd=0.6),
        with_quality(make_trial(3, B, 0.95, seed=1), hd95=7.0, nsd=0.3),
        make_trial(4, C, 0.99),
    ]
    summary = summarise(header, trials)
    good, bad, unknown = summary.entries
    assert good.violations == ()
    assert bad.violations == ("hd95 5.5 > 5", "nsd 0.45 < 0.5")
    assert unknown.violations == ("hd95 was not measured", "nsd was not measured")
    assert [entry.number for entry in summary.front] == [0]
    assert good.quality["hd95"].mean == pytest.approx(4.75)
    assert hypervolume_history(summary)[-1].hypervolume == pytest.approx(summary.hypervolume)


def test_other_metrics_are_those_of_the_task_that_are_no_objectives() -> None:
    assert summarise(HEADER, []).other_metrics == ()  # a study from before they existed
    space = {"task": {"type": "segmentation", "metrics": ["dice", "hd95", "nsd"]}}
    header = make_header(objectives=(DICE, LATENCY), constraints=(), space=space)
    assert summarise(header, []).other_metrics == ("hd95", "nsd")


def test_a_missing_objective_stays_off_the_front() -> None:
    trials = [make_trial(0, A, 0.9, costs=()), make_trial(1, B, 0.8)]
    summary = summarise(HEADER, trials)
    assert summary.entries[0].values[1] is None
    assert math.isnan(minimised(HEADER, summary.entries[0])[1])
    assert [entry.number for entry in summary.front] == [1]


def test_states_are_listed_apart() -> None:
    trials = fake_trials()
    summary = summarise(make_header(), trials)
    for listed, state in (
        (summary.running, TrialState.RUNNING),
        (summary.failed, TrialState.FAILED),
        (summary.refused, TrialState.REFUSED),
    ):
        assert listed == tuple(trial for trial in trials if trial.state is state)
        assert listed
    assert summary.num_trials == len(trials)
    assert [entry.baseline for entry in summary.baselines] == [
        "all-bilinear",
        "all-transposed",
        "resolution-rule",
    ]


def test_front_equals_brute_force_on_a_whole_study() -> None:
    header = make_header()
    summary = summarise(header, fake_trials())
    eligible = [entry for entry in summary.entries if entry.is_eligible]
    points = [minimised(header, entry) for entry in eligible]
    expected = {
        entry.key
        for entry, point in zip(eligible, points, strict=True)
        if not any(np.less_equal(other, point).all() and other != point for other in points)
    }
    assert {entry.key for entry in summary.front} == expected
    assert sum(entry.is_knee for entry in summary.front) <= 1
    qualities = [minimised(header, entry)[0] for entry in summary.front]
    assert qualities == sorted(qualities)


@given(st.permutations(range(10)))
@settings(max_examples=10, deadline=None)
def test_the_order_of_records_does_not_matter(order: list[int]) -> None:
    trials = fake_trials()[:10]
    assert summarise(HEADER, [trials[i] for i in order]) == summarise(HEADER, trials)


def test_reference_point_from_baselines_ignores_replicates() -> None:
    trials = [
        make_trial(0, B, 0.80, latency_ms=10.0, baseline="all-bilinear"),
        make_trial(1, C, 0.84, latency_ms=15.0, baseline="rule"),
        make_trial(2, A, 0.10, latency_ms=100.0),
        make_trial(3, B, 0.50, latency_ms=10.0, seed=1, baseline="all-bilinear"),
    ]
    summary = summarise(HEADER, trials)
    assert summary.reference is not None
    # 0.80 - (0.84 - 0.80), and twice 15 ms.
    assert summary.reference.values == pytest.approx([0.76, 30.0])
    assert "worst baseline" in summary.reference.rule
    limited = make_header(
        objectives=(DICE, LATENCY), constraints=(Constraint(metric="latency_ms", max=17.0),)
    )
    reference = summarise(limited, trials).reference
    assert reference is not None
    assert reference.values[1] == 17.0


def test_reference_point_without_baselines() -> None:
    assert summarise(HEADER, [make_trial(0, A)]).reference is None
    summary = summarise(HEADER, [make_trial(0, A, 0.8, latency_ms=10.0)])
    assert summary.reference is not None
    assert summary.reference.values == pytest.approx([0.72, 20.0])
    assert "complete candidate" in summary.reference.rule


def test_hypervolume_and_what_lies_outside() -> None:
    trials = [
        make_trial(0, B, 0.80, latency_ms=10.0, baseline="all-bilinear"),
        make_trial(1, C, 0.90, latency_ms=15.0),
        make_trial(2, D, 0.95, latency_ms=25.0),  # beyond twice the baseline's latency
    ]
    summary = summarise(HEADER, trials)  # reference (0.72, 20)
    assert summary.baseline_hypervolume == pytest.approx(0.08 * 10)
    assert summary.hypervolume == pytest.approx(0.08 * 10 + 0.10 * 5)
    assert summary.num_outside_reference == 1


def test_history_replays_the_study() -> None:
    header = make_header()
    trials = fake_trials()
    summary = summarise(header, trials)
    history = hypervolume_history(summary)
    assert history[-1].hypervolume == pytest.approx(summary.hypervolume)
    assert summary.reference is not None
    corner = np.array([1, 1, 1]) * summary.reference.values * np.array([-1, 1, 1])
    final = [trial for trial in trials if trial.is_final]
    assert [point.number for point in history] == [trial.number for trial in final]
    for num_finished in (1, 5, 20, len(final) - 3):  # each prefix summarised on its own
        prefix = summarise(header, final[:num_finished])
        points = np.array([minimised(header, e) for e in prefix.entries if e.is_eligible])
        expected = hypervolume(points[non_dominated(points)], corner)
        assert history[num_finished - 1].num_finished == num_finished
        assert history[num_finished - 1].hypervolume == pytest.approx(expected)


def test_paired_comparison_removes_what_seeds_share() -> None:
    # The seeds differ by 0.1, the candidates by 0.01 on every seed.
    trials = [*seeds(0, A, 0.70, 0.80, 0.90), *seeds(3, B, 0.711, 0.810, 0.909)]
    summary = summarise(HEADER, trials)
    first, second = summary.entries
    comparison = compare(second, first, DICE)
    assert comparison.outcome == "better"
    assert comparison.num_seeds == 3
    assert comparison.difference is not None
    assert comparison.difference.mean == pytest.approx(0.01)
    assert compare(first, second, DICE).outcome == "worse"
    error = Objective(metric="dice", direction="minimize")
    assert compare(first, second, error).outcome == "better"


def test_comparison_needs_two_common_seeds() -> None:
    trials = [
        *seeds(0, A, 0.70, 0.80),
        make_trial(2, B, 0.9, seed=1),
        make_trial(3, C, 0.9, seed=9),
    ]
    first, second, third = summarise(HEADER, trials).entries
    one = compare(second, first, DICE)
    assert one.outcome == "undecidable"
    assert one.difference == Estimate.of([0.9 - 0.8])
    none = compare(third, first, DICE)
    assert (none.outcome, none.difference, none.num_seeds) == ("undecidable", None, 0)


def test_comparison_on_the_test_split() -> None:
    def scored(number: int, candidate: Candidate, seed: int, dice: float) -> TrialRecord:
        return make_trial(number, candidate, 0.8, seed=seed, test_quality={"dice": dice})

    trials = [
        scored(0, A, 0, 0.5),
        scored(1, A, 1, 0.6),
        scored(2, B, 0, 0.7),
        scored(3, B, 1, 0.8),
    ]
    first, second = summarise(HEADER, trials).entries
    assert compare(first, second, DICE).outcome == "indistinguishable"
    assert compare(first, second, DICE, "test").outcome == "worse"
    assert first.test_quality["dice"].mean == pytest.approx(0.55)


def test_ties_name_groups_and_what_cannot_be_decided() -> None:
    trials = [
        *seeds(0, A, 0.700, 0.701, 0.702, latency_ms=5.0),
        *seeds(3, B, 0.801, 0.799, 0.802, latency_ms=10.0),
        *seeds(6, C, 0.803, 0.801, 0.800, latency_ms=15.0),
        make_trial(9, D, 0.75, latency_ms=7.0),
    ]
    summary = summarise(HEADER, trials)
    found = ties(summary)
    assert [[member.number for member in group] for group in found.groups] == [[6, 3]]
    assert summary.cheapest(found.groups[0]).number == 3
    assert [member.number for member in found.undecidable] == [9, 0]
    costs_only = make_header(objectives=(LATENCY,), constraints=())
    assert ties(summarise(costs_only, trials)).groups == ()


def test_labels() -> None:
    candidate = make_candidate("carafe", "bilinear", "bilinear", "transposed")
    assert short_label(HEADER, candidate) == "carafe(32) | bilinear x2 | transposed(2)"
    listed = StageChoice.model_validate(
        {"upsampler": "x", "parameters": {"a": [1, 2], "b": "z", "c": 0}}
    )
    assert short_label(HEADER, candidate.model_copy(update={"stages": (listed,)})) == "x(1+2,z)"
    assert stage_labels(HEADER, candidate)["stage 3 (1/2)"] == "transposed(2)"


def test_empty_study() -> None:
    summary = summarise(HEADER, [])
    assert (summary.front, summary.hypervolume, summary.num_trials) == ((), 0.0, 0)
    assert summary.num_outside_reference == 0
    assert hypervolume_history(summary) == ()
    assert ties(summary).groups == ()
