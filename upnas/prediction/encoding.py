"""Candidates as arrays: which option of the stage table each stage has."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from upnas.records import Candidate, StageCost, StageTable, median_interval

Floats = npt.NDArray[np.float64]

# The prior mean of an absurdly cheap candidate is not let fall below this share of the reference.
_LEAST_RATIO: Final = 0.05


@dataclass(frozen=True, slots=True)
class Encoded:
    """N candidates of S stages, all of them timed stage by stage.

    Attributes:
        codes: (N, S) numbers of the options, by stage.
        ratios: (N, S) times of the stages alone, in units of the reference network.
        errors: (N, S) their standard errors.
        reference_total: The sum of the reference network's own stages.
    """

    codes: npt.NDArray[np.int64]
    ratios: Floats
    errors: Floats
    reference_total: float

    def __len__(self) -> int:
        return len(self.codes)

    def __getitem__(self, rows: slice | npt.NDArray[np.int64]) -> Encoded:
        """Some of the candidates."""
        return Encoded(self.codes[rows], self.ratios[rows], self.errors[rows], self.reference_total)

    @property
    def excess(self) -> Floats:
        """(N,) sums of the stages, less that of the reference network."""
        return np.asarray(self.ratios.sum(axis=1) - self.reference_total)

    @property
    def additive(self) -> Floats:
        """(N,) the reference network with its stages' times replaced by the candidate's."""
        return np.maximum(1 + self.excess, _LEAST_RATIO)


class StageIndex:
    """Finds the stages of candidates in a stage table.

    Args:
        table: Of one target.
    """

    def __init__(self, table: StageTable):
        self._table = table
        self._codes = [
            {cost.choice: code for code, cost in enumerate(stage)} for stage in table.stages
        ]

    def codes(self, candidate: Candidate) -> list[int] | None:
        """The number of each stage's option; None for a candidate that the table does not cover."""
        model = self._table.reference.model
        is_other = candidate.model is not model and candidate.model != model
        if is_other or len(candidate.stages) != len(self._codes):
            return None
        pairs = zip(self._codes, candidate.stages, strict=True)
        codes = [known.get(choice, -1) for known, choice in pairs]
        return None if -1 in codes else codes

    def costs(self, candidate: Candidate) -> list[StageCost] | None:
        """The costs of each stage, likewise."""
        codes = self.codes(candidate)
        if codes is None:
            return None
        return [stage[code] for stage, code in zip(self._table.stages, codes, strict=True)]


class Encoder:
    """Turns candidates whose stages were all timed into arrays.

    Args:
        table: One in which every stage of the reference was timed.

    Attributes:
        table: Likewise.
        reference: The reference network.

    Raises:
        ValueError: If one was not.
    """

    def __init__(self, table: StageTable):
        self.table = table
        self._index = StageIndex(table)
        self._ratios = [np.array([_ratio(cost) for cost in stage]) for stage in table.stages]
        self._errors = [
            np.array([_standard_error(cost.ratios) for cost in stage]) for stage in table.stages
        ]
        codes = self._timed_codes(table.reference)
        if codes is None:
            raise ValueError("The stage table lacks a time of the reference network's own stages.")
        pairs = zip(self._ratios, codes, strict=True)
        self._reference_total = float(sum(ratios[code] for ratios, code in pairs))
        self.reference = self._encoded([codes])

    def encode(self, candidates: Sequence[Candidate]) -> tuple[Encoded, npt.NDArray[np.int64]]:
        """Encode the candidates that consist of timed stages.

        Returns:
            They, and their (N,) places in ``candidates``.
        """
        found = [self._timed_codes(candidate) for candidate in candidates]
        places = [place for place, codes in enumerate(found) if codes is not None]
        encoded = self._encoded([codes for codes in found if codes is not None])
        return encoded, np.array(places, dtype=np.int64)

    def _timed_codes(self, candidate: Candidate) -> list[int] | None:
        codes = self._index.codes(candidate)
        if codes is None:
            return None
        pairs = zip(self._ratios, codes, strict=True)
        return None if any(np.isnan(ratios[code]) for ratios, code in pairs) else codes

    def _encoded(self, codes: list[list[int]]) -> Encoded:
        array = np.array(codes, dtype=np.int64).reshape(len(codes), len(self._ratios))
        ratios, errors = (
            np.stack([values[array[:, stage]] for stage, values in enumerate(table)], axis=1)
            for table in (self._ratios, self._errors)
        )
        return Encoded(array, ratios, errors, self._reference_total)


def _ratio(cost: StageCost) -> float:
    return math.nan if cost.ratio is None else cost.ratio


def _standard_error(ratios: Sequence[float]) -> float:
    if not ratios:
        return math.nan
    low, high = median_interval(ratios)
    return (high - low) / 2 / 1.96
