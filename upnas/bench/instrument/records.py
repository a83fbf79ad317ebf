"""What the benchmark of the instrument leaves behind: frozen records, nothing of torch."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from pydantic import Field, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt
from scipy.stats import kendalltau

from upnas.prediction import Audit
from upnas.records import Candidate, Environment, Record, Target, TargetReference


class Reading(Record):
    """One measurement of one candidate by the instrument."""

    key: str
    ratio: PositiveFloat
    ratio_low: PositiveFloat
    ratio_high: PositiveFloat
    latency_ms: PositiveFloat
    num_pairs: PositiveInt
    device_s: NonNegativeFloat
    verdict: str
    foreign_cpus: NonNegativeFloat | None = None


class Agreement(Record):
    """How well two lists of latencies of the same candidates agree."""

    num_candidates: PositiveInt
    median_difference: NonNegativeFloat = Field(description="Median of |a / b - 1|.")
    max_difference: NonNegativeFloat
    kendall_tau: float | None = Field(
        description="Between the orders; None where one of them has fewer than two places."
    )

    @classmethod
    def of(cls, found: Sequence[float], truth: Sequence[float]) -> Agreement:
        """Compare, after nothing else: neither list is scaled to fit the other."""
        differences = [abs(a / b - 1) for a, b in zip(found, truth, strict=True)]
        has_orders = min(len(set(found)), len(set(truth))) > 1
        return cls(
            num_candidates=len(differences),
            median_difference=statistics.median(differences),
            max_difference=max(differences),
            kendall_tau=float(kendalltau(found, truth).statistic) if has_orders else None,
        )


class Beside(Record):
    """Measurements while trainings ran, by the instrument and by a naive timer."""

    num_trainings: PositiveInt
    leased: tuple[Reading, ...] = Field(description="The trainings respect the gate.")
    naive_ms: tuple[PositiveFloat, ...] = Field(description="Mean of ten forwards, no gate.")
    leased_agreement: Agreement
    naive_agreement: Agreement
    wait_s: NonNegativeFloat = Field(description="Median wait for the gate.")


TimerName = Literal["upnas", "blocked_autorange", "adaptive_autorange", "mean of 10", "mean loop"]


class Timed(Record):
    """Repeated measurements of one candidate by one timer under load."""

    timer: TimerName
    key: str
    latencies_ms: tuple[PositiveFloat, ...]
    wall_s: NonNegativeFloat = Field(description="Median wall seconds of one measurement.")
    idle_ms: PositiveFloat = Field(description="The same timer without the load.")

    @property
    def spread(self) -> float:
        """Coefficient of variation over the repeats."""
        return statistics.stdev(self.latencies_ms) / statistics.mean(self.latencies_ms)

    @property
    def bias(self) -> float:
        """Median under load / without load - 1."""
        return statistics.median(self.latencies_ms) / self.idle_ms - 1


class Rivalry(Record):
    """The timers side by side while programs ran that respect no gate."""

    num_programs: PositiveInt
    timed: tuple[Timed, ...]

    def spread(self, timer: TimerName) -> float:
        """Median over the candidates."""
        return statistics.median(one.spread for one in self.timed if one.timer == timer)

    def bias(self, timer: TimerName) -> float:
        """Median over the candidates."""
        return statistics.median(one.bias for one in self.timed if one.timer == timer)

    def wall_s(self, timer: TimerName) -> float:
        """Median over the candidates."""
        return statistics.median(one.wall_s for one in self.timed if one.timer == timer)


class Prediction(Record):
    """How well single stages tell whole candidates."""

    num_options: PositiveInt = Field(description="Upsamplers at stages.")
    table_s: PositiveFloat = Field(description="To time them.")
    additive: Agreement = Field(description="The plain sum of the stages against the measurements.")
    audit: Audit = Field(description="Each measured candidate from all the others.")
    num_learned: PositiveInt
    held_out: Agreement = Field(description="The other candidates, from those learned from.")
    num_covered: NonNegativeInt = Field(description="Held-out ones inside their 95 % interval.")
    num_predicted: PositiveInt
    predict_s: PositiveFloat = Field(description="To predict so many candidates.")


class MemoryCheck(Record):
    """One candidate's memory, counted in several ways."""

    key: str
    fake_bytes: PositiveInt
    live_bytes: PositiveInt
    fake_training_bytes: PositiveInt
    live_training_bytes: PositiveInt
    onnxruntime_rss_mib: NonNegativeFloat | None = None


class InstrumentBenchmark(Record):
    """``measure-<device>.json``."""

    schema_version: Literal[1] = 1
    created: str = Field(description="ISO 8601, UTC.")
    command: str
    environment: Environment
    space: str
    target: Target
    reference: TargetReference
    candidates: tuple[Candidate, ...]
    first: tuple[Reading, ...]
    second: tuple[Reading, ...] = Field(description="In another order, of networks built anew.")
    repeatability: Agreement
    effort: tuple[Reading, ...] = Field(description="Of networks of about 20 ms.")
    beside: Beside | None = None
    rivalry: Rivalry | None = None
    prediction: Prediction | None = None
    memory: tuple[MemoryCheck, ...] = ()
