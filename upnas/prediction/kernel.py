"""How much candidates differ from the sum of their stages, and which of them do so alike.

The time of a candidate c, in units of the reference network, is modelled as ::

    y(c) = 1 + b + s * (sum of c's stages - sum of the reference's) + sum_i u[i, c_i]
             + sum_i v[i, c_i, c_i+1] + e[c]

with independent normal deviations: a constant b and a scale s, one u for every option of every
stage (in the network it costs other than alone, and leaves other caches behind), one v for every
pair of options at neighbouring stages, and one e for the candidate as a whole. Integrating them
out gives a Gaussian process; linear and not logarithmic, because times add up.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Final

import numpy as np

from upnas.prediction.encoding import Encoded, Floats

# Standard deviations of b and s - 1. Both are weak: that a network is exactly once as slow as
# itself pins one combination of them, and a handful of candidates the rest.
_CONSTANT: Final = 0.05
_SCALE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Deviations:
    """Standard deviations of what the sum of the stages misses.

    The defaults are what is believed before anything was measured. Of a network whose upsamplers
    take a third of the time, they and the scale put the sum within some 5 % (one standard
    deviation). On a CPU that nothing else used the sum was found off by 2.2 %, by wall clock on a
    busy one by 8 % (medians; 24 random decoders of four stages).

    Attributes:
        option: Of an option's cost, in units of the reference network.
        share: Of an option's cost, as a share of its time alone.
        pair: Of a pair of options at neighbouring stages, in units of the reference network.
        residual: Of a candidate, as a share of its time.
    """

    option: float = 0.01
    share: float = 0.1
    pair: float = 0.005
    residual: float = 0.01

    @property
    def variances(self) -> tuple[float, ...]:
        """Squares, in the order of :func:`components`."""
        return tuple(value**2 for value in astuple(self))


def components(a: Encoded, b: Encoded) -> tuple[Floats, tuple[Floats, ...]]:
    """Split the covariance of candidates' times into what is fixed and what is scaled.

    Args:
        a: N candidates.
        b: M candidates.

    Returns:
        (N, M) that does not depend on the deviations, and one (N, M) per field of
        :class:`Deviations`, to be multiplied by its square.
    """
    fixed = _CONSTANT**2 + _SCALE**2 * np.outer(a.excess, b.excess)
    option, share, pair = (np.zeros(fixed.shape) for _ in range(3))
    whole = np.ones(fixed.shape)
    before: Floats | None = None
    for stage in range(a.codes.shape[1]):
        same = np.equal.outer(a.codes[:, stage], b.codes[:, stage]).astype(np.float64)
        option += same
        share += same * a.ratios[:, stage, None] ** 2
        fixed += same * a.errors[:, stage, None] ** 2
        if before is not None:
            pair += same * before
        whole *= same
        before = same
    residual = whole * np.multiply.outer(a.additive, b.additive)
    return fixed, (option, share, pair, residual)


def covariance(a: Encoded, b: Encoded, deviations: Deviations) -> Floats:
    """The (N, M) covariance of candidates' times."""
    fixed, scaled = components(a, b)
    for variance, component in zip(deviations.variances, scaled, strict=True):
        fixed += variance * component
    return fixed


def variance(a: Encoded, deviations: Deviations) -> Floats:
    """The (N,) diagonal of :func:`covariance` of candidates with themselves."""
    option, share, pair, residual = deviations.variances
    num_stages = a.codes.shape[1]
    own = option * num_stages + share * (a.ratios**2).sum(axis=1) + (a.errors**2).sum(axis=1)
    linear = _CONSTANT**2 + _SCALE**2 * a.excess**2
    return np.asarray(linear + own + pair * (num_stages - 1) + residual * a.additive**2)
