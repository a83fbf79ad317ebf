"""What crosses the layers: frozen records with JSON both ways.

A record is a pydantic model that is frozen, refuses unknown fields and holds finite numbers only,
so that one line of ``trials.jsonl`` is the whole truth about a trial and equal records have equal
JSON. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import json
import statistics
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FiniteFloat,
    NonNegativeFloat,
    NonNegativeInt,
    PlainSerializer,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

SCHEMA_VERSION: Final = 1

Direction = Literal["maximize", "minimize"]
Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]


def _sorted_items(value: Any) -> Any:
    if isinstance(value, Mapping):
        value = value.items()
    return tuple(sorted((name, tuple(v) if isinstance(v, list) else v) for name, v in value))


# A mapping that is hashable and has one canonical order; an object in JSON.
Settings = Annotated[
    tuple[tuple[str, Value], ...],
    BeforeValidator(_sorted_items),
    PlainSerializer(dict, return_type=dict[str, Value]),
]
Quality = Annotated[
    tuple[tuple[str, FiniteFloat], ...],
    BeforeValidator(_sorted_items),
    PlainSerializer(dict, return_type=dict[str, float]),
]


class Record(BaseModel):
    """A frozen value object; unknown fields and non-finite numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StageChoice(Record):
    """The upsampler of one decoder stage with its own parameters."""

    upsampler: str
    parameters: Settings = ()

    @property
    def name(self) -> str:
        """The upsampler's name; the class alone of ``package.module:Class``, ``file.py:Class``."""
        return self.upsampler.rpartition(":")[2]

    def __str__(self) -> str:
        if not self.parameters:
            return self.name
        inner = ", ".join(
            f"{name}={'+'.join(map(str, v)) if isinstance(v, tuple) else v}"
            for name, v in self.parameters
        )
        return f"{self.name}({inner})"


class EncoderSpec(Record):
    """A timm encoder that supports ``features_only``."""

    name: str
    pretrained: bool = False
    depth: PositiveInt = Field(4, description="Number of feature maps taken, shallowest first.")


class ModelSpec(Record):
    """Everything about a network that is not searched."""

    decoder: str
    encoder: EncoderSpec | None = None
    options: Settings = Field((), description="The decoder's own settings, by its own names.")


class Candidate(Record):
    """One concrete architecture: a network and the upsampler of each stage, deepest first."""

    model: ModelSpec
    stages: tuple[StageChoice, ...]

    @property
    def key(self) -> str:
        """Canonical identity: the first 12 hex digits of the SHA-256 of the sorted JSON."""
        text = json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    def __str__(self) -> str:
        return " | ".join(map(str, self.stages))


class TaskSignature(Record):
    """What a network must know about the task: channels in and out, and the output's scale."""

    name: str
    in_channels: PositiveInt
    out_channels: PositiveInt
    scale_factor: PositiveInt = Field(1, description="Output side / input side.")


class Objective(Record):
    """A measured quantity with the direction in which it is better."""

    metric: str
    direction: Direction
    target: str | None = Field(None, description="For costs: the target's name; None = the first.")

    @property
    def label(self) -> str:
        """The metric's name, with the target where one was named."""
        return self.metric if self.target is None else f"{self.metric}@{self.target}"


class Constraint(Record):
    """A limit on a cost or a quality. Never folded into an objective.

    A candidate whose costs violate one never trains. One whose quality does is trained and
    recorded, but infeasible.
    """

    metric: str
    min: FiniteFloat | None = None
    max: FiniteFloat | None = None
    equals: str | None = Field(None, description="For `exportable`: the format that must work.")
    target: str | None = None

    @property
    def is_on_quality(self) -> bool:
        """Whether it limits what is known only after training."""
        return self.equals is None and self.metric not in COST_METRICS


Device = Literal["cpu", "cuda", "mps"]
DType = Literal["float32", "bfloat16", "float16"]
MemoryFormat = Literal["contiguous", "channels_last"]
RuntimeName = Literal["eager", "compile", "cuda_graph", "onnxruntime", "openvino", "tensorrt"]
Allocator = Literal["keep", "system"]
ClockName = Literal["thread_cpu", "process_cpu", "wall", "device"]

_ALL_DTYPES: Final[tuple[DType, ...]] = ("float32", "bfloat16", "float16")
#: What can be asked of a runtime at all; whether a machine serves it is for upnas.measure to say.
RUNTIME_DTYPES: Final[Mapping[RuntimeName, Mapping[Device, tuple[DType, ...]]]] = {
    "eager": {"cpu": _ALL_DTYPES, "cuda": _ALL_DTYPES, "mps": _ALL_DTYPES},
    "compile": {"cpu": _ALL_DTYPES, "cuda": _ALL_DTYPES},
    "cuda_graph": {"cuda": _ALL_DTYPES},
    "onnxruntime": {"cpu": ("float32",), "cuda": ("float32", "float16")},
    "openvino": {"cpu": _ALL_DTYPES},
    "tensorrt": {"cuda": ("float32", "float16")},
}
#: Runtimes that choose the memory format themselves.
_EXPORTED: Final = ("onnxruntime", "openvino", "tensorrt")


class Target(Record):
    """Where costs are measured."""

    name: str = Field(pattern=r"^[A-Za-z0-9_.-]+$")
    device: Device = "cpu"
    threads: PositiveInt = 1
    batch: PositiveInt = 1
    input: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(
        (3, 256, 256), description="Channels, height and width of one input."
    )
    dtype: DType = Field("float32", description="Of weights, input and output.")
    memory_format: MemoryFormat = Field("contiguous", description="Of weights and input in torch.")
    runtime: RuntimeName = "eager"
    allocator: Allocator = Field(
        "system",
        description="keep: memory that a forward on the CPU frees stays with the process.",
    )

    @model_validator(mode="after")
    def _is_possible(self) -> Self:
        dtypes = RUNTIME_DTYPES[self.runtime]
        if self.device not in dtypes:
            known = [name for name, served in RUNTIME_DTYPES.items() if self.device in served]
            raise ValueError(
                f"runtime {self.runtime!r} does not run on device {self.device!r}. "
                f"Allowed on {self.device}: {', '.join(known)}."
            )
        if self.dtype not in dtypes[self.device]:
            raise ValueError(
                f"runtime {self.runtime!r} has no dtype {self.dtype!r} on device {self.device!r}. "
                f"Allowed: {', '.join(dtypes[self.device])}."
            )
        if self.memory_format != "contiguous" and self.runtime in _EXPORTED:
            raise ValueError(
                f"runtime {self.runtime!r} has no memory_format {self.memory_format!r}: it chooses "
                "its own. Allowed: contiguous (or leave it out)."
            )
        return self

    @property
    def input_shape(self) -> tuple[int, int, int, int]:
        """(B, C, H, W) of one forward."""
        return (self.batch, *self.input)


class Conditions(Record):
    """What the machine did while something was timed on it; None where it cannot be read.

    Readings are taken at the end, those that are shares or counts cover the whole time.
    """

    foreign_cpus: NonNegativeFloat | None = Field(
        None, description="Processors that other processes kept busy, on average."
    )
    steal: NonNegativeFloat | None = Field(
        None, description="Share of the processors' time that the hypervisor gave to others."
    )
    load_average: NonNegativeFloat | None = Field(None, description="Of the last minute.")
    clock_mhz: NonNegativeFloat | None = Field(None, description="Of the processor or the GPU.")
    governor: str | None = Field(None, description="Of the processor's clock frequency.")
    temperature_c: FiniteFloat | None = None
    num_foreign_gpu_processes: NonNegativeInt | None = None


def median_interval(values: Sequence[float]) -> tuple[float, float]:
    """95 % confidence interval of a median, from order statistics.

    The whole range where fewer than six values make 95 % unreachable.
    """
    ordered = sorted(values)
    n = len(ordered)
    # Normal approximation to the binomial ranks of the median (exact enough from n = 6 on).
    k = max(0, int((n - 1.96 * n**0.5) / 2)) if n >= 6 else 0
    return ordered[k], ordered[n - 1 - k]


class Latency(Record):
    """Forward time of one batch, measured in pairs with the study's reference network.

    ``samples_ms`` and ``reference_samples_ms`` are the times of the same pairs, in order; which
    clock they were read from is ``clock``. ``reference_ms`` is the reference's own time, measured
    once for the study. The latency is the median pair ratio times ``reference_ms``, which stays
    put when the machine is slower for a while.
    """

    samples_ms: tuple[PositiveFloat, ...] = Field(min_length=1)
    reference_samples_ms: tuple[PositiveFloat, ...] = Field(min_length=1)
    reference_ms: PositiveFloat
    clock: ClockName
    wall_ms: PositiveFloat = Field(description="Median wall time of the candidate, as observed.")
    wall_samples_ms: tuple[PositiveFloat, ...] = Field(
        (), description="Wall time beside each of samples_ms; empty in old records."
    )
    rejected: tuple[str, ...] = Field((), description="Why each rejected block was rejected.")
    unsteady: str | None = Field(
        None, description="Why even the best block is not to be trusted; None where it is."
    )
    num_warmup: NonNegativeInt = Field(0, description="Forwards before the first sample.")
    device_s: NonNegativeFloat = Field(
        0.0, description="Wall seconds on the device: warm-up, rejected blocks, the reference."
    )
    conditions: Conditions | None = None

    @property
    def ratios(self) -> tuple[float, ...]:
        """Candidate time / reference time of each pair."""
        pairs = zip(self.samples_ms, self.reference_samples_ms, strict=True)
        return tuple(sample / reference for sample, reference in pairs)

    @property
    def ratio(self) -> float:
        """Median pair ratio: compares across hours, and across machines of one kind."""
        return statistics.median(self.ratios)

    @property
    def ratio_interval(self) -> tuple[float, float]:
        """See :func:`median_interval`."""
        return median_interval(self.ratios)

    @property
    def median_ms(self) -> float:
        """The latency in milliseconds: median pair ratio times the reference's own time."""
        return self.ratio * self.reference_ms

    @property
    def interval_ms(self) -> tuple[float, float]:
        """The interval of the ratio times the reference's own time."""
        low, high = self.ratio_interval
        return low * self.reference_ms, high * self.reference_ms

    @property
    def verdict(self) -> str:
        """``stable``, ``rejected 2 blocks: reference drifted 14 %``, ``unsteady: ...``."""
        words = [] if self.unsteady is None else [f"unsteady: {self.unsteady}"]
        if self.rejected:
            count = len(self.rejected)
            reasons = "; ".join(dict.fromkeys(self.rejected))
            words.append(f"rejected {count} block{'' if count == 1 else 's'}: {reasons}")
        return ", ".join(words) or "stable"


class PredictedLatency(Record):
    """A latency that was worked out from stages and other candidates, and not measured.

    Ratios are to the study's reference network, as in :class:`Latency`.
    """

    ratio: PositiveFloat
    ratio_low: PositiveFloat = Field(description="Lower end of the 95 % prediction interval.")
    ratio_high: PositiveFloat
    reference_ms: PositiveFloat
    num_measured: NonNegativeInt = Field(description="Measured candidates that it learned from.")

    @property
    def median_ms(self) -> float:
        """The prediction in milliseconds."""
        return self.ratio * self.reference_ms

    @property
    def interval_ms(self) -> tuple[float, float]:
        """95 % prediction interval in milliseconds."""
        return self.ratio_low * self.reference_ms, self.ratio_high * self.reference_ms


class DeviceMemory(Record):
    """What torch's allocator on the GPU held at the worst moment of one forward."""

    allocated_mib: NonNegativeFloat = Field(description="torch.cuda.max_memory_allocated.")
    reserved_mib: NonNegativeFloat = Field(description="torch.cuda.max_memory_reserved.")


class Costs(Record):
    """What a candidate costs on one target; known before any training.

    One of ``latency``, ``predicted`` and ``unserved`` is there.
    """

    target: str
    latency: Latency | None = None
    predicted: PredictedLatency | None = None
    unserved: str | None = Field(None, description="Why the candidate does not run on the target.")
    peak_memory_mib: NonNegativeFloat = Field(
        description="Bytes of all tensors alive at the worst moment of one forward / 2**20: "
        "weights, buffers, input and activations."
    )
    training_peak_memory_mib: NonNegativeFloat | None = Field(
        None, description="Likewise of a training step: gradients and optimizer state, too."
    )
    process_peak_rss_mib: NonNegativeFloat | None = Field(
        None,
        description="Resident set of a fresh process that loads and runs the exported network.",
    )
    device_memory: DeviceMemory | None = None
    output_error: NonNegativeFloat | None = Field(
        None,
        description="Relative L2 difference between the target's output and eager float32 on the "
        "CPU, for a random input.",
    )
    num_parameters: NonNegativeInt
    exportable: Settings = Field((), description="Format -> 'ok' or why it failed; probed only.")
    machine: str = Field("", description="Fingerprint of the machine and the versions.")

    @property
    def latency_ms(self) -> float | None:
        """The measured latency, else the predicted one; None where the target cannot run it."""
        estimate = self.latency or self.predicted
        return None if estimate is None else estimate.median_ms

    @property
    def is_measured(self) -> bool:
        """Whether nothing is predicted."""
        return self.predicted is None


COST_METRICS: Final[Mapping[str, Direction]] = {
    "latency_ms": "minimize",
    "peak_memory_mib": "minimize",
    "training_peak_memory_mib": "minimize",
    "process_peak_rss_mib": "minimize",
    "output_error": "minimize",
    "num_parameters": "minimize",
}


def decisive_targets(
    targets: Sequence[Target],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
) -> tuple[Target, ...]:
    """The targets that an objective or a constraint is about, and always the first.

    Costs on the others are reported for the front, and measured for nothing else.
    """
    named = {objective.target for objective in objectives} | {targets[0].name}
    named |= {constraint.target for constraint in constraints}
    return tuple(target for target in targets if target.name in named)


#: Costs that are worked out only where an objective or a constraint asks for them.
OPTIONAL_COSTS: Final = frozenset({"training_peak_memory_mib", "process_peak_rss_mib"})


class RungResult(Record):
    """Quality on the validation split when a trial reached a rung."""

    rung: NonNegativeInt
    epochs: PositiveInt = Field(description="Epochs trained so far.")
    num_steps: PositiveInt = Field(description="Optimiser steps so far.")
    quality: Quality
    train_loss: FiniteFloat = Field(description="Mean loss since the previous rung.")
    train_s: NonNegativeFloat = Field(description="Training seconds so far, evaluation excluded.")


class TrialState(StrEnum):
    """Where a trial stands; every state but ``RUNNING`` is final."""

    RUNNING = "running"  # costs measured or some rungs reached; can be continued
    COMPLETE = "complete"
    FAILED = "failed"  # see `reason`
    REFUSED = "refused"  # violates a constraint; see `reason`


Origin = Literal["baseline", "sampler", "replicate"]


class TrialRecord(Record):
    """One trial: a candidate trained with one seed."""

    number: NonNegativeInt
    candidate: Candidate
    task: TaskSignature
    seed: NonNegativeInt
    state: TrialState
    origin: Origin = "sampler"
    baseline: str | None = Field(None, description="The baseline's name, for baselines.")
    reason: str | None = Field(None, description="One word: out_of_memory, nan_loss, error, ...")
    detail: str | None = None
    costs: tuple[Costs, ...] = ()
    rungs: tuple[RungResult, ...] = ()
    test_quality: Quality = Field((), description="On the test split, which no search reads.")
    flags: tuple[str, ...] = Field((), description="E.g. 'below_trivial_baseline'.")
    learning_rate: PositiveFloat | None = None
    started_s: NonNegativeFloat = Field(0.0, description="Unix time.")
    finished_s: NonNegativeFloat = Field(0.0, description="Unix time of this line.")
    worker: str = Field("", description="Host and process that ran it.")

    @property
    def is_final(self) -> bool:
        """Whether the trial will never change again."""
        return self.state is not TrialState.RUNNING

    @property
    def quality(self) -> dict[str, float]:
        """Validation quality at the last rung; empty before the first."""
        return dict(self.rungs[-1].quality) if self.rungs else {}

    def costs_on(self, target: str | None) -> Costs | None:
        """The costs on the named target (None: the first), or None where not measured."""
        if target is None:
            return self.costs[0] if self.costs else None
        return next((costs for costs in self.costs if costs.target == target), None)

    def value(self, metric: str, target: str | None = None) -> float | None:
        """The value of a quality or cost metric, or None where there is none yet."""
        if metric in COST_METRICS:
            costs = self.costs_on(target)
            value = None if costs is None else getattr(costs, metric)
            return None if value is None else float(value)
        return self.quality.get(metric)


class Environment(Record):
    """The machine and the versions that a number was measured with."""

    machine: str = Field(description="Processor model.")
    num_cpus: PositiveInt
    memory_gib: PositiveFloat
    gpus: tuple[str, ...] = ()
    platform: str
    python: str
    packages: Annotated[
        tuple[tuple[str, str], ...],
        BeforeValidator(_sorted_items),
        PlainSerializer(dict, return_type=dict[str, str]),
    ] = ()
    git_commit: str | None = None


class TargetReference(Record):
    """The study's reference network, timed once on a target before the search."""

    target: str
    latency_ms: PositiveFloat = Field(description="Median of the samples.")
    samples_ms: tuple[PositiveFloat, ...] = ()
    wall_samples_ms: tuple[PositiveFloat, ...] = ()
    clock: ClockName | None = Field(None, description="None in old records.")
    conditions: Conditions | None = None
    machine: str = Field("", description="Fingerprint of the machine and the versions.")


class StageCost(Record):
    """What one upsampler costs at one decoder stage."""

    choice: StageChoice
    ratios: tuple[NonNegativeFloat, ...] = Field(
        (), description="Time of the upsampler alone / the reference network's, of each round."
    )
    reason: str | None = Field(None, description="Why it cannot be timed alone; None where it is.")
    num_parameters: NonNegativeInt
    static_bytes: NonNegativeInt = Field(description="Weights and buffers.")
    activation_bytes: NonNegativeInt | None = Field(
        description="Peak of the input and activations of a network in which this is the only "
        "upsampler that needs more than its output; None where it changes other stages."
    )

    @property
    def ratio(self) -> float | None:
        """Median of the ratios; None where it was not timed."""
        return statistics.median(self.ratios) if self.ratios else None


class StageTable(Record):
    """What every upsampler of a search space costs at every stage, on one target."""

    target: str
    reference: Candidate = Field(description="The network that the ratios are shares of.")
    stages: tuple[tuple[StageCost, ...], ...] = Field(
        description="One entry per stage, deepest first; the reference's upsamplers are included."
    )
    num_parameters: NonNegativeInt = Field(description="Of all that is no upsampler.")
    static_bytes: NonNegativeInt = Field(description="Weights and buffers, likewise.")
    machine: str = Field("", description="Fingerprint of the machine and the versions.")


class StudyHeader(Record):
    """``study.json``: everything about a study that is not a trial."""

    schema_version: Literal[1] = SCHEMA_VERSION
    name: str
    created: str = Field(description="ISO 8601, UTC.")
    command: str
    space: dict[str, Any] = Field(description="The search space with all defaults filled in.")
    num_candidates: PositiveInt = Field(description="Distinct candidates in the space.")
    stages: tuple[str, ...] = Field(description="One label per stage, deepest first.")
    task: TaskSignature
    objectives: tuple[Objective, ...] = Field(min_length=1)
    constraints: tuple[Constraint, ...] = ()
    targets: tuple[Target, ...] = ()
    references: tuple[TargetReference, ...] = ()
    stage_tables: tuple[StageTable, ...] = Field(
        (), description="Per target that latencies are predicted on; empty where all are measured."
    )
    trivial_quality: Quality = Field((), description="What the task's trivial baseline scores.")
    num_trials: PositiveInt = Field(description="Budget: candidates to train.")
    num_seeds: PositiveInt = 1
    rungs: tuple[PositiveInt, ...] = Field(description="Epochs at each rung.")
    sampler: str
    seed: NonNegativeInt
    environment: Environment


class SurveyEntry(Record):
    """One network and its costs."""

    label: str
    candidate: Candidate | None = Field(None, description="None for a network of the user's own.")
    costs: Costs


class Survey(Record):
    """What ``upnas measure`` found."""

    created: str = Field(description="ISO 8601, UTC.")
    command: str
    environment: Environment
    target: Target
    reference: TargetReference
    reference_label: str
    entries: tuple[SurveyEntry, ...]
    stage_table: StageTable | None = None
