"""Stage tables with known numbers, and candidates whose true times deviate from them as told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from upnas.prediction import Observation
from upnas.records import Candidate, ModelSpec, StageChoice, StageCost, StageTable

MODEL = ModelSpec(decoder="unet")
Codes = tuple[int, ...]


def option(code: int) -> StageChoice:
    return StageChoice(upsampler=f"u{code}")


def candidate(*codes: int) -> Candidate:
    return Candidate(model=MODEL, stages=tuple(map(option, codes)))


def stage_cost(
    code: int, ratio: float | None, *, activation_bytes: int | None = 100, static_bytes: int = 0
) -> StageCost:
    return StageCost(
        choice=option(code),
        ratios=() if ratio is None else (ratio,),
        reason="deferred" if ratio is None else None,
        num_parameters=static_bytes // 4,
        static_bytes=static_bytes,
        activation_bytes=activation_bytes,
    )


def table_of(*stages: Sequence[float | None]) -> StageTable:
    """A table with these ratios; the reference has the first option of each stage."""
    return StageTable(
        target="cpu",
        reference=candidate(*[0] * len(stages)),
        stages=tuple(
            tuple(stage_cost(code, ratio) for code, ratio in enumerate(stage)) for stage in stages
        ),
        num_parameters=0,
        static_bytes=0,
    )


class SyntheticSpace:
    """A space of random stages, and what its candidates really take.

    Args:
        seed: Of everything random.
        scale: Of stages in the network / alone.
        option: Standard deviation of an option's cost in the network.
        pair: Likewise of two neighbours.
        residual: Likewise of a candidate as a share of its time.
        noise: Standard error of a measurement as a share of the time.
    """

    num_stages = 4
    num_options = 10

    def __init__(
        self,
        seed: int,
        *,
        scale: float = 1.1,
        option: float = 0.01,
        pair: float = 0.005,
        residual: float = 0.01,
        noise: float = 0.01,
    ):
        self._rng = rng = np.random.default_rng(seed)
        stages, options = self.num_stages, self.num_options
        typical = 0.03 * np.arange(1, stages + 1)
        self._ratios = np.exp(rng.normal(np.log(typical)[:, None], 0.8, (stages, options)))
        self._scale, self._residual, self._noise = scale, residual, noise
        self._options = option * rng.normal(size=(stages, options))
        self._pairs = pair * rng.normal(size=(stages - 1, options, options))
        self.table = table_of(*self._ratios.tolist())

    def draw(self, count: int) -> list[Codes]:
        """Distinct random candidates, never the reference."""
        total = self.num_options**self.num_stages
        picked = 1 + self._rng.choice(total - 1, size=count, replace=False)
        shape = (self.num_options,) * self.num_stages
        codes = np.stack(np.unravel_index(picked, shape), axis=1)
        return [tuple(row) for row in codes.tolist()]

    def truth(self, codes: Codes) -> float:
        """The true ratio; drawn anew at every call where there is a residual."""
        total = 1 + self._sum(codes) - self._sum((0,) * self.num_stages)
        return total * (1 + self._residual * self._rng.normal())

    def measure(self, codes: Codes, truth: float) -> Observation:
        """A measurement with its honest error."""
        error = self._noise * truth
        return Observation(candidate(*codes), truth + error * self._rng.normal(), error)

    def study(self, num_measured: int, num_rest: int) -> tuple[list[Observation], list[Codes]]:
        """Measured candidates, and others."""
        drawn = self.draw(num_measured + num_rest)
        measured = [self.measure(codes, self.truth(codes)) for codes in drawn[:num_measured]]
        return measured, drawn[num_measured:]

    def _sum(self, codes: Codes) -> float:
        stages = range(self.num_stages)
        alone = sum(self._ratios[i, codes[i]] for i in stages)
        own = sum(self._options[i, codes[i]] for i in stages)
        pairs = sum(self._pairs[i, codes[i], codes[i + 1]] for i in stages[:-1])
        return float(self._scale * alone + own + pairs)
