"""Latency of any candidate, from the times of its stages and from measured candidates."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

from upnas.prediction.audit import Audit, audit_of, reach
from upnas.prediction.encoding import Encoded, Encoder, Floats
from upnas.prediction.kernel import Deviations
from upnas.prediction.regression import Regression, fit_deviations
from upnas.records import Candidate, Latency, PredictedLatency, StageTable

# No clock is better than that, whatever a few lucky samples say; also keeps matrices regular.
_LEAST_ERROR: Final = 1e-3
_LEAST_RATIO: Final = 1e-3
_NUM_FOLDS: Final = 10


class Observation(NamedTuple):
    """A measured candidate.

    Attributes:
        candidate: What was measured.
        ratio: Its time in units of the reference network.
        error: Standard error of the ratio.
    """

    candidate: Candidate
    ratio: float
    error: float

    @classmethod
    def of(cls, candidate: Candidate, latency: Latency) -> Observation:
        """Take the median ratio, and its error from the width of its 95 % interval."""
        low, high = latency.ratio_interval
        return cls(candidate, latency.ratio, (high - low) / 2 / 1.96)


class LatencyModel:
    """Predicts candidates' times in units of the reference network, and knows how well.

    Make one with :meth:`fit`. Its time grows with the cube of the measured candidates: a few
    hundredths of a second for 50, some tenths for 200.

    Attributes:
        table: The stages' times.
        num_measured: Distinct measured candidates that it learned from.
        deviations: How far candidates are from the sum of their stages.
        reach: Half the width of its 95 % intervals in standard deviations, see :func:`reach`.
    """

    def __init__(
        self,
        encoder: Encoder,
        regression: Regression,
        measured: Floats,
        predicted: tuple[Floats, Floats],
    ):
        self.table = encoder.table
        self.deviations = regression.deviations
        self.num_measured = len(measured)
        self._encoder = encoder
        self._regression = regression
        self._measured, self._predicted = measured, predicted
        means, spreads = predicted
        self.reach = reach(np.abs(measured - means) / spreads)

    @classmethod
    def fit(
        cls,
        table: StageTable,
        observations: Iterable[Observation],
        *,
        deviations: Deviations | None = None,
    ) -> LatencyModel:
        """Learn from measured candidates; none is fine.

        Args:
            table: The stages' times, those of the reference's own stages among them.
            observations: In any order. Those of candidates that the table does not cover, and of
                the reference network, are not read; those of one candidate are averaged.
            deviations: Fixes what otherwise is fitted.

        Raises:
            ValueError: If the table lacks a time of one of the reference's own stages.
        """
        encoder = Encoder(table)
        inputs, ratios, errors = _merged(encoder, list(observations))
        without = held_out(inputs, ratios, errors, deviations)
        fitted = deviations or fit_deviations(inputs, ratios, errors)
        regression = Regression.of(inputs, ratios, errors, fitted)
        return cls(encoder, regression, ratios[1:], without)

    def predict_ratios(self, candidates: Sequence[Candidate]) -> Floats:
        """Predict many candidates at once.

        Args:
            candidates: N of them.

        Returns:
            (N, 3): the mean and the ends of the 95 % interval of the true ratio; a row of NaN for
            a candidate with a stage that the table has no time of.
        """
        encoded, places = self._encoder.encode(candidates)
        mean, deviation = self._regression.predict(encoded)
        half = self.reach * deviation
        rows = np.full((len(candidates), 3), np.nan)
        rows[places] = np.stack([mean, mean - half, mean + half], axis=1)
        return np.asarray(np.maximum(rows, _LEAST_RATIO))  # NaN stays

    def predict(
        self, candidates: Sequence[Candidate], reference_ms: float
    ) -> list[PredictedLatency | None]:
        """Predict many candidates at once, as records.

        Args:
            candidates: In any number.
            reference_ms: The reference network's own time on the target.

        Returns:
            In the order of the candidates; None for one with a stage that the table has no time of.
        """
        return [
            None
            if np.isnan(ratio)
            else PredictedLatency(
                ratio=ratio,
                ratio_low=low,
                ratio_high=high,
                reference_ms=reference_ms,
                num_measured=self.num_measured,
            )
            for ratio, low, high in self.predict_ratios(candidates).tolist()
        ]

    def audit(self) -> Audit:
        """Compare every measured candidate with what the others say about it."""
        return audit_of(self._measured, *self._predicted)


def held_out(
    inputs: Encoded, ratios: Floats, errors: Floats, deviations: Deviations | None
) -> tuple[Floats, Floats]:
    """Predict every measured candidate from the reference and the other candidates.

    The arguments are those of :meth:`Regression.of`, the reference first. Deviations that are not
    given are fitted without the held-out candidate as well, in ten folds: fitted to all, they would
    fit what they are tested on, and few candidates would make too narrow intervals.

    Returns:
        (n - 1,) means, and standard deviations of the measurements, for all but the first.
    """
    num_folds = 1 if deviations else min(_NUM_FOLDS, len(ratios) - 1)
    rows = np.arange(len(ratios))
    means, spreads = np.empty((2, len(ratios)))
    for fold in range(num_folds):
        left_out = rows[1 + fold :: num_folds]
        kept = np.delete(rows, left_out)
        fitted = deviations or fit_deviations(inputs[kept], ratios[kept], errors[kept])
        mean, spread = Regression.of(inputs, ratios, errors, fitted).leave_one_out(ratios)
        means[left_out], spreads[left_out] = mean[left_out], spread[left_out]
    return means[1:], spreads[1:]


def _merged(
    encoder: Encoder, observations: Sequence[Observation]
) -> tuple[Encoded, Floats, Floats]:
    """The reference network, then the distinct candidates; the ratios and errors of each.

    Sorted, so that the order of the observations does not matter in the last digit either.
    """
    encoded, places = encoder.encode([seen.candidate for seen in observations])
    groups: dict[tuple[int, ...], list[Observation]] = defaultdict(list)
    for codes, place in zip(encoded.codes.tolist(), places, strict=True):
        groups[tuple(codes)].append(observations[place])
    groups.pop(tuple(encoder.reference.codes[0].tolist()), None)
    merged = [Observation(encoder.table.reference, 1.0, _LEAST_ERROR)]
    merged += [_average(groups[codes]) for codes in sorted(groups)]
    inputs, _ = encoder.encode([seen.candidate for seen in merged])
    ratios, errors = (
        np.array([getattr(seen, name) for seen in merged]) for name in ("ratio", "error")
    )
    return inputs, ratios, errors


def _average(group: Iterable[Observation]) -> Observation:
    """The mean of one candidate's observations, each weighted by its precision."""
    ordered = sorted(group, key=lambda seen: (seen.ratio, seen.error))
    ratios = np.array([seen.ratio for seen in ordered])
    errors = np.maximum([seen.error for seen in ordered], _LEAST_ERROR * ratios)
    weights = errors**-2.0
    return Observation(
        ordered[0].candidate, float(weights @ ratios / weights.sum()), float(weights.sum() ** -0.5)
    )
