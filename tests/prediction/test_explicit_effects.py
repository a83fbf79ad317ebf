"""The Gaussian process against the linear model that it integrates, with its effects written out.

Three stages, so that not every pair is the whole candidate, and stage times that have errors.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pytest

from upnas.prediction import Deviations, LatencyModel, Observation
from upnas.prediction.encoding import Encoded, Encoder
from upnas.prediction.kernel import covariance, variance
from upnas.prediction.latency import held_out
from upnas.prediction.regression import Regression
from upnas.records import Candidate, StageChoice, StageTable

from .synthetic import MODEL, Codes, SyntheticSpace, candidate, stage_cost, table_of

Floats = npt.NDArray[np.float64]

DEVIATIONS = Deviations(option=0.02, share=0.15, pair=0.01, residual=0.03)
TIMES = [[(0.1,), (0.2, 0.22), (0.4,)], [(0.1, 0.11, 0.12), (0.3,)], [(0.05,), (0.5, 0.6)]]
EVERY: list[Codes] = list(itertools.product(range(3), range(2), range(2)))


def table() -> StageTable:
    stages = tuple(
        tuple(
            stage_cost(code, 1.0).model_copy(update={"ratios": times})
            for code, times in enumerate(stage)
        )
        for stage in TIMES
    )
    return table_of([1.0], [1.0], [1.0]).model_copy(update={"stages": stages})


def encode(codes: Iterable[Codes]) -> Encoded:
    return Encoder(table()).encode([candidate(*one) for one in codes])[0]


def explicit_effects(codes: Iterable[Codes], d: Deviations) -> tuple[Floats, Floats]:
    """Prior means of candidates, and the standard deviation of each effect that they have."""
    means, rows = [], []
    for one in codes:
        own = [float(np.median(TIMES[i][k])) for i, k in enumerate(one)]
        excess = sum(own) - sum(float(np.median(stage[0])) for stage in TIMES)
        effects: dict[object, float] = {"constant": 0.05, "scale": 0.2 * excess}
        for i, k in enumerate(one):
            effects["option", i, k] = d.option
            effects["share", i, k] = d.share * own[i]
            # Half the width of the range / 1.96: there are fewer than six samples.
            effects["table", i, k] = (max(TIMES[i][k]) - min(TIMES[i][k])) / 2 / 1.96
            if i:
                effects["pair", i, one[i - 1], k] = d.pair
        effects["residual", one] = d.residual * (1 + excess)
        means.append(1 + excess)
        rows.append(effects)
    names = list(dict.fromkeys(itertools.chain.from_iterable(rows)))
    return np.array(means), np.array([[row.get(name, 0.0) for name in names] for row in rows])


def test_the_covariance_is_that_of_the_effects() -> None:
    _, effects = explicit_effects(EVERY, DEVIATIONS)
    encoded = encode(EVERY)
    np.testing.assert_allclose(covariance(encoded, encoded, DEVIATIONS), effects @ effects.T)
    np.testing.assert_allclose(variance(encoded, DEVIATIONS), (effects**2).sum(axis=1))


def test_predictions_are_those_of_ridge_regression_on_the_effects() -> None:
    rng = np.random.default_rng(0)
    seen = [EVERY[index] for index in (0, 3, 4, 7, 10)]
    ratios, errors = 1 + rng.random(5), 0.01 + 0.05 * rng.random(5)
    means, effects = explicit_effects([*seen, *EVERY], DEVIATIONS)
    design = effects[:5] / errors[:, None]
    precision = design.T @ design + np.eye(design.shape[1])  # every effect ~ N(0, 1) of its own
    weights = np.linalg.solve(precision, design.T @ ((ratios - means[:5]) / errors))
    mean, deviation = Regression.of(encode(seen), ratios, errors, DEVIATIONS).predict(encode(EVERY))
    np.testing.assert_allclose(mean, means[5:] + effects[5:] @ weights)
    spread = np.einsum("ij,jk,ik->i", effects[5:], np.linalg.inv(precision), effects[5:])
    np.testing.assert_allclose(deviation**2, spread)


def test_measurements_of_one_candidate_are_averaged_by_their_precision() -> None:
    which = candidate(1, 1, 0)
    both = [Observation(which, 1.2, 0.03), Observation(which, 1.3, 0.04)]
    weights = 1 / 0.03**2, 1 / 0.04**2
    mean = (1.2 * weights[0] + 1.3 * weights[1]) / sum(weights)
    merged = [Observation(which, mean, sum(weights) ** -0.5)]
    models = [LatencyModel.fit(table(), seen, deviations=DEVIATIONS) for seen in (both, merged)]
    assert [model.num_measured for model in models] == [1, 1]
    rows = [model.predict_ratios([candidate(*codes) for codes in EVERY]) for model in models]
    np.testing.assert_allclose(rows[0], rows[1])


@pytest.mark.parametrize(
    ("option", "pair", "residual", "scale"),
    [(0.03, 0.02, 0.03, 1.3), (0.0, 0.03, 0.0, 1.0), (0.0, 0.0, 0.05, 0.8)],
    ids=["all wide", "pairs alone", "residuals alone"],
)
def test_intervals_hold_where_deviations_are_several_times_what_is_believed_beforehand(
    option: float, pair: float, residual: float, scale: float
) -> None:
    coverage: dict[int, list[float]] = {15: [], 60: []}
    for seed in range(20):
        space = SyntheticSpace(seed, option=option, pair=pair, residual=residual, scale=scale)
        observations, rest = space.study(60, 200)
        truths = np.array([space.truth(codes) for codes in rest])
        for count, shares in coverage.items():
            model = LatencyModel.fit(space.table, observations[:count])
            _, low, high = model.predict_ratios([candidate(*codes) for codes in rest]).T
            shares.append(float(((low <= truths) & (truths <= high)).mean()))
    assert 0.9 < np.mean(coverage[15]) < 1.0
    assert 0.93 < np.mean(coverage[60]) < 0.97


@pytest.mark.parametrize("num_measured", [1, 4, 23])
def test_what_is_held_out_does_not_help_to_predict_itself(num_measured: int) -> None:
    space = SyntheticSpace(seed=6)
    observations = space.study(num_measured, 0)[0]
    inputs, _ = Encoder(space.table).encode(
        [space.table.reference, *(one.candidate for one in observations)]
    )
    ratios = np.array([1.0, *(one.ratio for one in observations)])
    errors = np.full(len(ratios), 0.01)
    means, spreads = held_out(inputs, ratios, errors, None)
    assert means.shape == spreads.shape == (num_measured,)
    for index in (0, num_measured - 1):
        other = ratios.copy()
        other[1 + index] += 3.0
        changed = held_out(inputs, other, errors, None)
        assert changed[0][index] == pytest.approx(means[index], rel=1e-6)
        assert changed[1][index] == pytest.approx(spreads[index], rel=1e-6)


def test_parameters_and_places_of_third_parties_tell_options_apart() -> None:
    choices = [
        StageChoice(upsampler="u0"),
        StageChoice(upsampler="folder/file.py:Up", parameters={"sizes": (3, 5)}),
        StageChoice(upsampler="folder/file.py:Up", parameters={"sizes": (3, 7)}),
        StageChoice(upsampler="package.module:Up", parameters={"sizes": (3, 5)}),
    ]
    stage = tuple(
        stage_cost(0, 0.1 * (number + 1)).model_copy(update={"choice": choice})
        for number, choice in enumerate(choices)
    )
    written = table_of([0.1]).model_copy(update={"stages": (stage,)})
    model = LatencyModel.fit(StageTable.model_validate_json(written.model_dump_json()), [])
    candidates = [Candidate(model=MODEL, stages=(choice,)) for choice in choices]
    read = [Candidate.model_validate_json(one.model_dump_json()) for one in candidates]
    assert model.predict_ratios(read)[:, 0] == pytest.approx([1.0, 1.1, 1.2, 1.3])
    unknown = choices[1].model_copy(update={"parameters": (("sizes", (5, 5)),)})
    assert model.predict([Candidate(model=MODEL, stages=(unknown,))], 1.0) == [None]
