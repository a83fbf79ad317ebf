"""Gaussian-process regression in closed form, with the deviations fitted to the data."""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

from upnas.prediction.encoding import Encoded, Floats
from upnas.prediction.kernel import Deviations, components, covariance, variance

# A deviation is believed to lie within a factor of e of its default (one standard deviation of
# its logarithm), so that few measurements do not move it far; and never beyond a factor of 50.
_LOG_SPREAD: Final = 1.0
_LOG_REACH: Final = float(np.log(50))
_CHUNK: Final = 1024


@dataclass(frozen=True, slots=True)
class Regression:
    """What is known about all candidates after n observations.

    Attributes:
        inputs: The n observed candidates, no two of them alike.
        deviations: Of the prior.
        factor: (n, n) lower Cholesky factor of the covariance of the observations.
        weights: (n,) inverse covariance times what the observations are above the prior mean.
    """

    inputs: Encoded
    deviations: Deviations
    factor: Floats
    weights: Floats

    @classmethod
    def of(
        cls, inputs: Encoded, ratios: Floats, errors: Floats, deviations: Deviations
    ) -> Regression:
        """Condition on observations.

        Args:
            inputs: n candidates.
            ratios: (n,) observed.
            errors: (n,) standard errors, positive.
            deviations: Of the prior.
        """
        matrix = covariance(inputs, inputs, deviations) + np.diag(errors**2)
        factor = cholesky(matrix, lower=True)
        weights = cho_solve((factor, True), ratios - inputs.additive)
        return cls(inputs, deviations, factor, weights)

    def predict(self, candidates: Encoded) -> tuple[Floats, Floats]:
        """Means and standard deviations, (N,) each, of candidates' true ratios."""
        parts = [
            self._predict(candidates[start : start + _CHUNK])
            for start in range(0, len(candidates), _CHUNK)
        ]
        means, deviations = zip(*parts, strict=True) if parts else ((), ())
        return np.concatenate([[], *means]), np.concatenate([[], *deviations])

    def _predict(self, candidates: Encoded) -> tuple[Floats, Floats]:
        across = covariance(candidates, self.inputs, self.deviations)
        mean = candidates.additive + across @ self.weights
        explained = solve_triangular(self.factor, across.T, lower=True)
        left = variance(candidates, self.deviations) - (explained**2).sum(axis=0)
        return mean, np.sqrt(np.maximum(left, 0.0))  # rounding can take it below nothing

    def leave_one_out(self, ratios: Floats) -> tuple[Floats, Floats]:
        """Predict every observation from the others, with the same deviations.

        Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, section 5.4.2.

        Args:
            ratios: (n,) observed.

        Returns:
            (n,) means, and (n,) standard deviations of the observation, its own error included.
        """
        inverse = cho_solve((self.factor, True), np.eye(len(ratios)))
        diagonal = np.diag(inverse)
        return ratios - self.weights / diagonal, 1 / np.sqrt(diagonal)


def fit_deviations(inputs: Encoded, ratios: Floats, errors: Floats) -> Deviations:
    """Find the deviations under which the observations are likeliest, and believable beforehand.

    The arguments are those of :meth:`Regression.of`; a single observation says nothing. Equal
    arguments give equal results.
    """
    if len(ratios) < 2:
        return Deviations()
    fixed, scaled = components(inputs, inputs)
    fixed[np.diag_indices_from(fixed)] += errors**2
    above = ratios - inputs.additive
    default = np.log(astuple(Deviations()))

    def loss(logarithms: Floats) -> tuple[float, Floats]:
        variances = np.exp(2 * logarithms)
        matrix = fixed + sum(v * part for v, part in zip(variances, scaled, strict=True))
        factor = cholesky(matrix, lower=True)
        inverse = cho_solve((factor, True), np.eye(len(above)))
        weights = inverse @ above
        surprise = (logarithms - default) / _LOG_SPREAD
        value = above @ weights / 2 + np.log(np.diag(factor)).sum() + surprise @ surprise / 2
        slope = [
            v * ((inverse * part).sum() - weights @ part @ weights)
            for v, part in zip(variances, scaled, strict=True)
        ]
        return float(value), np.asarray(slope) + surprise / _LOG_SPREAD

    bounds = [(value - _LOG_REACH, value + _LOG_REACH) for value in default]
    found = minimize(loss, default, jac=True, method="L-BFGS-B", bounds=bounds)
    return Deviations(*(float(value) for value in np.exp(found.x)))
