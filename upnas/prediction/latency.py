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

    Make one with :meth:`fit`. Its time grows with the cube of the measured candidates: some
    milliseconds for 50, about two seconds for 500.

    Attributes:
        table: The stages' times.
        num_measured: Distinct measured candidates that it learned from.
        deviations: How far candidates are from the sum of their stages.
        reach: Half the width of its 95 % intervals in standard deviations, see :func:`reach`.
    """

    def __init__(self, table: StageTable, encoder: Encoder, ratios: Floats, regression: Regression):
        self.table = table
        self.deviations = regression.deviations
        self.num_measured = len(ratios) - 1
        self._encoder = encoder
        self._regression = regression
        predicted, deviations = regression.leave_one_out(ratios)
        # The first is the reference network, whose ratio is known and not measured.
        self._measured = ratios[1:]
        self._held_out = predicted[1:], deviations[1:]
        self.reach = reach(np.abs(self._measured - predicted[1:]) / deviations[1:])

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
        if deviations is None:
            deviations = fit_deviations(inputs, ratios, errors) if len(ratios) > 1 else Deviations()
        return cls(table, encoder, ratios, Regression.of(inputs, ratios, errors, deviations))

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
        return audit_of(self._measured, *self._held_out)


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
