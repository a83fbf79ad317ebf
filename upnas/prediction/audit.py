"""How wrong predictions are, told by measurements that they have not seen."""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from pydantic import NonNegativeFloat, NonNegativeInt
from scipy.stats import binomtest, kendalltau
from scipy.stats import t as student

from upnas.prediction.encoding import Floats
from upnas.records import Record

_COVERAGE: Final = 0.95
# What is believed before the first measurement counts as so many of them.
_PRIOR_MEASURED: Final = 3

# With fewer held-out candidates, all of them inside their intervals is no evidence: it happens
# with more than 5 % probability to intervals that hold two thirds only, (2/3)^8 = 3.9 %.
_FEWEST_MEASURED: Final = 8
# Beyond a median error of 5 % the interval is some +-15 % wide and decides hardly anything.
_MAX_MEDIAN_ERROR: Final = 0.05
_MAX_SURPRISE: Final = 0.05


class Audit(Record):
    """Held-out errors: every measured candidate, predicted from all the others.

    Errors are shares of the measured value; None where nothing was measured.

    Attributes:
        num_measured: Distinct candidates, the reference network excluded.
        median_error: Median of the absolute errors.
        max_error: Largest absolute error.
        num_covered: Measured values inside the stated 95 % intervals, whose width comes from the
            other candidates, too.
        kendall_tau: Rank correlation of predicted and measured; None where ranks do not differ.
    """

    num_measured: NonNegativeInt
    median_error: NonNegativeFloat | None = None
    max_error: NonNegativeFloat | None = None
    num_covered: NonNegativeInt = 0
    kendall_tau: float | None = None

    @property
    def coverage(self) -> float | None:
        """Share of the measured values inside the stated 95 % intervals."""
        return self.num_covered / self.num_measured if self.num_measured else None

    @property
    def is_trusted(self) -> bool:
        """Whether predictions may decide instead of measurements.

        That takes eight measured candidates, a median error of 5 % at most, and no more misses
        than intervals that hold what they state would have in 19 of 20 studies.
        """
        if self.num_measured < _FEWEST_MEASURED or self.median_error is None:
            return False
        misses = self.num_measured - self.num_covered
        surprise = binomtest(misses, self.num_measured, 1 - _COVERAGE, alternative="greater").pvalue
        return self.median_error <= _MAX_MEDIAN_ERROR and bool(surprise >= _MAX_SURPRISE)

    def __str__(self) -> str:
        if self.median_error is None or self.max_error is None:
            return "not audited: no candidate was measured"
        tau = "" if self.kendall_tau is None else f", tau {self.kendall_tau:.2f}"
        return (
            f"held-out error {100 * self.median_error:.1f} % in the median, "
            f"{100 * self.max_error:.1f} % at most, {self.num_covered} of {self.num_measured} "
            f"inside the 95 % interval{tau}"
        )


def audit_of(measured: Floats, predicted: Floats, deviations: Floats) -> Audit:
    """Compare measured values with held-out predictions.

    Args:
        measured: (n,) positive.
        predicted: (n,) each from the other candidates.
        deviations: (n,) standard deviations of the difference, as the model believes.
    """
    if not len(measured):
        return Audit(num_measured=0)
    errors = np.abs(predicted - measured) / measured
    surprises = np.abs(predicted - measured) / deviations
    reaches = [reach(np.delete(surprises, i)) for i in range(len(surprises))]
    tau = float(kendalltau(predicted, measured).statistic) if len(measured) > 1 else math.nan
    return Audit(
        num_measured=len(measured),
        median_error=float(np.median(errors)),
        max_error=float(errors.max()),
        num_covered=int((surprises <= np.array(reaches)).sum()),
        kendall_tau=None if math.isnan(tau) else tau,
    )


def reach(surprises: Floats) -> float:
    """Half the width of the stated 95 % intervals, in standard deviations as the model believes.

    The larger of two. Student's quantile with a degree of freedom per measured candidate: the
    model's belief about its own deviations comes from so many. And what held-out errors say, as
    conformal prediction takes it: the ceil(0.95 (n + 1))-th smallest of n, or the largest where
    that is beyond n (Barber et al., "Predictive inference with the jackknife+", 2021,
    https://doi.org/10.1214/20-AOS1965).

    Args:
        surprises: (n,) absolute held-out errors / believed standard deviations.
    """
    n = len(surprises)
    believed = float(student.ppf((1 + _COVERAGE) / 2, max(n, _PRIOR_MEASURED)))
    if not n:
        return believed
    rank = min(math.ceil(_COVERAGE * (n + 1)), n)
    return max(believed, float(np.sort(surprises)[rank - 1]))
