"""That the fitted deviations are the likeliest ones, and that predictions arrive whole."""

from __future__ import annotations

from dataclasses import astuple

import numpy as np
import pytest
from scipy.stats import multivariate_normal, norm

from upnas.prediction import Deviations, LatencyModel
from upnas.prediction.encoding import Encoded, Encoder, Floats
from upnas.prediction.kernel import covariance
from upnas.prediction.regression import fit_deviations

from .synthetic import SyntheticSpace, candidate, table_of


def log_posterior(deviations: Deviations, inputs: Encoded, ratios: Floats, errors: Floats) -> float:
    """Of normal observations, and of logarithms that are normal around the defaults."""
    spread = covariance(inputs, inputs, deviations) + np.diag(errors**2)
    likelihood = multivariate_normal.logpdf(ratios, inputs.additive, spread)
    steps = np.log(astuple(deviations)) - np.log(astuple(Deviations()))
    return float(likelihood + norm.logpdf(steps).sum())


@pytest.mark.parametrize("num_measured", [6, 60])
@pytest.mark.parametrize("residual", [0.003, 0.05])
def test_no_deviation_near_the_fitted_ones_is_likelier(num_measured: int, residual: float) -> None:
    space = SyntheticSpace(seed=8, option=0.02, pair=0.01, residual=residual)
    observations, _ = space.study(num_measured, 0)
    inputs, _ = Encoder(space.table).encode([one.candidate for one in observations])
    seen = (
        inputs,
        np.array([one.ratio for one in observations]),
        np.array([one.error for one in observations]),
    )
    fitted = astuple(fit_deviations(*seen))
    best = log_posterior(Deviations(*fitted), *seen)
    assert best > log_posterior(Deviations(), *seen)
    for which in range(4):
        for factor in (0.5, 0.9, 1.1, 2.0):
            moved = [value * factor ** (which == k) for k, value in enumerate(fitted)]
            assert log_posterior(Deviations(*moved), *seen) < best, (which, factor)


def test_a_single_observation_leaves_the_deviations_as_believed() -> None:
    inputs, _ = Encoder(table_of([0.1, 0.2])).encode([candidate(1)])
    assert fit_deviations(inputs, np.array([3.0]), np.array([0.01])) == Deviations()


def test_a_predicted_latency_holds_its_interval_and_what_it_was_learned_from() -> None:
    space = SyntheticSpace(seed=1)
    observations, (unseen,) = space.study(9, 1)
    model = LatencyModel.fit(space.table, [*observations, observations[0]])
    which = [candidate(*unseen)]
    ((mean, low, high),) = model.predict_ratios(which)
    (predicted,) = model.predict(which, reference_ms=20.0)
    assert predicted is not None
    assert predicted.median_ms == pytest.approx(20 * mean)
    assert predicted.interval_ms == pytest.approx((20 * low, 20 * high))
    assert low < mean < high
    assert predicted.num_measured == 9  # one of them was measured twice


def test_the_mean_of_a_candidate_without_any_time_left_is_a_twentieth_of_the_reference() -> None:
    model = LatencyModel.fit(table_of([0.6, 0.0], [0.6, 0.0]), [], deviations=Deviations())
    assert model.predict_ratios([candidate(1, 1)])[0, 0] == pytest.approx(0.05)
