"""The model of latencies: closed forms, recovery of known numbers, and what must always hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from upnas.prediction import Deviations, LatencyModel, Observation
from upnas.prediction.encoding import Encoder
from upnas.prediction.kernel import components, covariance, variance
from upnas.prediction.regression import Regression
from upnas.records import Candidate, EncoderSpec, Latency, ModelSpec, StageChoice, StageCost

from .synthetic import MODEL, SyntheticSpace, candidate, option, stage_cost, table_of

TABLE = table_of([0.1, 0.2, 0.4], [0.05, 0.3, 0.1])
# All that is left is the constant, the scale and the errors of the measurements.
PLAIN = Deviations(option=1e-9, share=1e-9, pair=1e-9, residual=1e-9)
EVERY = [candidate(*codes) for codes in itertools.product(range(3), repeat=2)]


def seen(*codes: int, ratio: float, error: float = 1e-3) -> Observation:
    return Observation(candidate(*codes), ratio, error)


def test_without_measurements_the_mean_is_the_reference_with_its_stages_replaced() -> None:
    model = LatencyModel.fit(TABLE, [])
    ((mean, low, high),) = model.predict_ratios([candidate(2, 1)])
    assert mean == pytest.approx(1 - 0.1 - 0.05 + 0.4 + 0.3)
    assert 0.05 < (high - mean) / mean < 0.5
    assert high - mean == pytest.approx(mean - low)
    assert model.num_measured == 0


def test_the_reference_takes_once_its_own_time() -> None:
    ((mean, low, high),) = LatencyModel.fit(TABLE, []).predict_ratios([candidate(0, 0)])
    assert mean == pytest.approx(1)
    assert high - low < 0.01


def test_a_single_stage_has_the_textbook_answer() -> None:
    """Two unknowns, b and s, two observations: the reference and one candidate."""
    table = table_of([0.1, 0.2, 0.4])
    model = LatencyModel.fit(table, [seen(1, ratio=1.13)], deviations=PLAIN)
    ((mean, low, high),) = model.predict_ratios([candidate(2)])
    # y - (1 + x) = b + (s - 1) x with b ~ N(0, 0.05^2), s ~ N(1, 0.2^2), both seen to within 0.1 %.
    design = np.array([[1, 0], [1, 0.1]])
    weights = np.array([1e-3, 1.13e-3]) ** -2.0
    precision = np.diag([0.05**-2, 0.2**-2]) + design.T @ np.diag(weights) @ design
    posterior = np.linalg.solve(precision, design.T @ (weights * [0, 1.13 - 1.1]))
    at = np.array([1, 0.3])
    assert mean == pytest.approx(1.3 + at @ posterior, abs=1e-6)
    deviation = np.sqrt(at @ np.linalg.solve(precision, at))
    assert high - low == pytest.approx(2 * model.reach * deviation, rel=1e-4)


def test_the_scale_of_stages_in_the_network_is_recovered() -> None:
    observations = [
        Observation(one, 1 + 0.7 * (sum_of(one) - 0.15), 1e-3) for one in EVERY if one != EVERY[8]
    ]
    ((mean, low, high),) = LatencyModel.fit(TABLE, observations).predict_ratios([EVERY[8]])
    truth = 1 + 0.7 * (sum_of(EVERY[8]) - 0.15)
    assert mean == pytest.approx(truth, abs=0.01)
    assert low < truth < high


def sum_of(one: Candidate) -> float:
    codes = [int(choice.upsampler[1:]) for choice in one.stages]
    ratios = [stage[code].ratio for stage, code in zip(TABLE.stages, codes, strict=True)]
    return sum(ratio or 0.0 for ratio in ratios)


def test_what_an_option_costs_beyond_its_stage_is_learned_for_other_candidates() -> None:
    """Option 1 of the first stage is 0.1 dearer in the network than alone."""
    observations = [seen(1, 0, ratio=1.2), seen(1, 2, ratio=1.25), seen(2, 0, ratio=1.3)]
    model = LatencyModel.fit(TABLE, observations, deviations=Deviations(option=0.1))
    with_it, without = model.predict_ratios([candidate(1, 1), candidate(2, 1)])[:, 0]
    assert with_it == pytest.approx(1.35 + 0.1, abs=0.04)
    assert without == pytest.approx(1.55, abs=0.04)


def test_what_a_pair_of_neighbours_costs_is_learned_for_that_pair_alone() -> None:
    table = table_of([0.1, 0.1], [0.1, 0.1], [0.1, 0.1])
    observations = [
        seen(*codes, ratio=1.1 if codes[:2] == (1, 1) else 1.0)
        for codes in itertools.product(range(2), repeat=3)
        if codes != (1, 1, 1)
    ]
    model = LatencyModel.fit(table, observations, deviations=Deviations(option=1e-3, pair=0.1))
    assert model.predict_ratios([candidate(1, 1, 1)])[0, 0] == pytest.approx(1.1, abs=0.02)


def test_a_measured_candidate_is_predicted_as_it_was_measured() -> None:
    model = LatencyModel.fit(TABLE, [seen(1, 1, ratio=1.9)])
    ((mean, low, high),) = model.predict_ratios([candidate(1, 1)])
    assert mean == pytest.approx(1.9, rel=0.01)
    assert (high - low) / mean < 0.02


def test_an_imprecise_measurement_moves_the_prediction_less() -> None:
    means = [
        LatencyModel.fit(
            TABLE, [seen(1, 1, ratio=1.9, error=error)], deviations=Deviations()
        ).predict_ratios([candidate(1, 1)])[0, 0]
        for error in (0.001, 0.1, 1.0)
    ]
    assert means[0] > means[1] > means[2] > 1.35


def test_candidates_that_the_table_does_not_cover_are_not_predicted() -> None:
    table = table_of([0.1, None], [0.05, 0.3])
    other_model = ModelSpec(decoder="unet", encoder=EncoderSpec(name="resnet18"))
    uncovered = [
        candidate(1, 0),  # not timed
        Candidate(model=MODEL, stages=(option(0), StageChoice(upsampler="unknown"))),
        candidate(0),
        Candidate(model=other_model, stages=(option(0), option(1))),
    ]
    observations = [Observation(one, 5.0, 0.01) for one in uncovered]
    model = LatencyModel.fit(table, observations)
    assert model.num_measured == 0
    assert model.predict([*uncovered, candidate(0, 1)], 10.0)[:-1] == [None] * 4
    assert np.isnan(model.predict_ratios(uncovered)).all()
    predicted = model.predict([*uncovered, candidate(0, 1)], 10.0)[-1]
    assert predicted is not None
    assert predicted.median_ms == pytest.approx(12.5)


def test_nothing_to_predict_is_fine() -> None:
    model = LatencyModel.fit(TABLE, [])
    assert model.predict_ratios([]).shape == (0, 3)
    assert model.predict([], 1.0) == []


def test_a_table_without_the_reference_is_refused() -> None:
    with pytest.raises(ValueError, match="lacks a time of the reference network's own stages"):
        LatencyModel.fit(table_of([None, 0.2]), [])


def test_the_reference_as_a_candidate_teaches_nothing() -> None:
    model = LatencyModel.fit(TABLE, [seen(0, 0, ratio=1.02), seen(1, 1, ratio=1.4)])
    assert model.num_measured == 1
    assert model.audit().num_measured == 1


def test_an_absurdly_cheap_candidate_still_takes_some_time() -> None:
    table = table_of([0.9, 0.0], [0.9, 0.0])
    (predicted,) = LatencyModel.fit(table, []).predict([candidate(1, 1)], 1.0)
    assert predicted is not None
    assert 0 < predicted.ratio_low <= predicted.ratio <= predicted.ratio_high


def test_an_observation_takes_its_error_from_the_interval_of_the_ratio() -> None:
    samples = tuple(1.0 + 0.01 * k for k in range(15))
    latency = Latency(
        samples_ms=samples,
        reference_samples_ms=(1.0,) * 15,
        reference_ms=7.0,
        clock="wall",
        wall_ms=1.0,
    )
    observation = Observation.of(candidate(1, 1), latency)
    low, high = latency.ratio_interval
    assert observation.ratio == pytest.approx(1.07)
    assert observation.error == pytest.approx((high - low) / 2 / 1.96)


def test_the_covariance_is_that_of_the_model_written_out() -> None:
    encoded, _ = Encoder(TABLE).encode(EVERY)
    deviations = Deviations(option=0.03, share=0.2, pair=0.02, residual=0.04)
    expected = np.zeros((9, 9))
    for i, j in itertools.product(range(9), repeat=2):
        a, b = encoded.codes[i], encoded.codes[j]
        value = 0.05**2 + 0.2**2 * (sum_of(EVERY[i]) - 0.15) * (sum_of(EVERY[j]) - 0.15)
        for stage in range(2):
            if a[stage] == b[stage]:
                ratio = TABLE.stages[stage][a[stage]].ratio or 0.0
                value += 0.03**2 + (0.2 * ratio) ** 2
        if (a == b).all():
            value += 0.02**2 + (0.04 * (1 + sum_of(EVERY[i]) - 0.15)) ** 2
        expected[i, j] = value
    np.testing.assert_allclose(covariance(encoded, encoded, deviations), expected)
    np.testing.assert_allclose(variance(encoded, deviations), np.diag(expected))
    fixed, scaled = components(encoded, encoded)
    parts = zip(deviations.variances, scaled, strict=True)
    np.testing.assert_allclose(fixed + sum(v * part for v, part in parts), expected)


def test_a_stage_that_was_timed_badly_makes_the_interval_wider() -> None:
    steady = table_of([0.1, 0.2], [0.1, 0.2])
    shaky_stage = (steady.stages[0][0], with_ratios(0.01, 0.1, 0.2, 0.3, 0.39))
    shaky = steady.model_copy(update={"stages": (shaky_stage, steady.stages[1])})
    models = [LatencyModel.fit(table, []) for table in (steady, shaky)]
    (before, touched), (same, wider) = (
        np.ptp(model.predict_ratios([candidate(0, 1), candidate(1, 0)])[:, 1:], axis=1)
        for model in models
    )
    assert same == pytest.approx(before)
    added = (wider / 2 / models[1].reach) ** 2 - (touched / 2 / models[0].reach) ** 2
    assert added == pytest.approx(((0.39 - 0.01) / 2 / 1.96) ** 2, rel=1e-6)


def with_ratios(*ratios: float) -> StageCost:
    return stage_cost(1, 0.2).model_copy(update={"ratios": ratios})


def test_leaving_one_out_is_what_fitting_to_the_others_gives() -> None:
    space = SyntheticSpace(seed=3)
    observations, _ = space.study(12, 0)
    encoder = Encoder(space.table)
    inputs, _ = encoder.encode([one.candidate for one in observations])
    ratios = np.array([one.ratio for one in observations])
    errors = np.array([one.error for one in observations])
    whole = Regression.of(inputs, ratios, errors, Deviations())
    means, deviations = whole.leave_one_out(ratios)
    for left_out in range(12):
        kept = np.delete(np.arange(12), left_out)
        rest = Regression.of(inputs[kept], ratios[kept], errors[kept], Deviations())
        mean, deviation = rest.predict(inputs[np.array([left_out])])
        assert means[left_out] == pytest.approx(mean[0], rel=1e-6)
        spread = np.hypot(deviation[0], errors[left_out])
        assert deviations[left_out] == pytest.approx(spread, rel=1e-6)


def test_deviations_are_fitted_to_what_is_there() -> None:
    quiet, loud = (
        LatencyModel.fit(space.table, space.study(150, 0)[0]).deviations
        for space in (SyntheticSpace(1, residual=0.002), SyntheticSpace(1, residual=0.06))
    )
    assert loud.residual == pytest.approx(0.06, rel=0.4)
    assert quiet.residual < 0.01


def test_ten_thousand_candidates_at_once_are_each_predicted_as_alone() -> None:
    space = SyntheticSpace(seed=5)
    observations, _ = space.study(200, 0)
    model = LatencyModel.fit(space.table, observations)
    every = [candidate(*codes) for codes in itertools.product(range(10), repeat=4)]
    together = model.predict_ratios(every)
    assert together.shape == (10_000, 3)
    for number in range(0, 10_000, 997):
        alone = model.predict_ratios([every[number]])[0]
        np.testing.assert_allclose(together[number], alone, rtol=1e-9)


CODES = st.tuples(st.integers(0, 2), st.integers(0, 2))
OBSERVATIONS = st.lists(
    st.builds(
        lambda codes, ratio, error: Observation(candidate(*codes), ratio, error),
        CODES,
        st.floats(0.6, 3.0),
        st.floats(0.0, 0.2),
    ),
    max_size=8,
)


@settings(max_examples=60, deadline=None)
@given(OBSERVATIONS)
def test_intervals_hold_the_mean_and_are_positive(observations: list[Observation]) -> None:
    rows = LatencyModel.fit(TABLE, observations).predict_ratios(EVERY)
    assert np.isfinite(rows).all()
    assert (rows[:, 1] > 0).all()
    assert (rows[:, 1] <= rows[:, 0]).all()
    assert (rows[:, 0] <= rows[:, 2]).all()


@settings(max_examples=40, deadline=None)
@given(OBSERVATIONS, st.randoms(use_true_random=False))
def test_the_order_of_measurements_does_not_matter(
    observations: list[Observation], random: object
) -> None:
    shuffled = list(observations)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    models = [LatencyModel.fit(TABLE, some) for some in (observations, shuffled)]
    first, second = (model.predict_ratios(EVERY) for model in models)
    np.testing.assert_array_equal(first, second)
    assert models[0].audit() == models[1].audit()


@settings(max_examples=40, deadline=None)
@given(OBSERVATIONS, CODES, st.floats(1e-3, 0.2))
def test_one_more_measurement_never_makes_the_model_less_sure(
    observations: list[Observation], codes: tuple[int, int], error: float
) -> None:
    # The belief itself: rows are cut off at zero, and a surprise widens all intervals.
    more = [*observations, Observation(candidate(*codes), 1.2, error)]
    before, after = (
        model._regression.predict(model._encoder.encode(EVERY)[0])[1]
        for model in (
            LatencyModel.fit(TABLE, some, deviations=Deviations()) for some in (observations, more)
        )
    )
    assert (after <= before + 1e-9).all()
