"""The YAML of a search space, key by key.

Bounds and choices stand here once; messages read them from here. Names that live in catalogues
(upsamplers, decoders, metrics) are checked by the modules that know them.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    field_validator,
    model_validator,
)

from upnas.models import DECODERS
from upnas.records import COST_METRICS, Allocator, Constraint, Direction, DType, EncoderSpec, Target
from upnas.tasks import TASKS, TaskConfig


class Section(BaseModel):
    """A part of the YAML: frozen, without unknown keys.

    The YAML is validated in pydantic's strict mode: "4" is not 4 and true is not 1.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelConfig(Section):
    """`model`: what is not searched. The decoder's own settings stand beside its name."""

    model_config = ConfigDict(extra="allow")

    decoder: str = Field(json_schema_extra={"enum": [*sorted(DECODERS)]})
    encoder: EncoderSpec | None = Field(None, description="Left out by decoders without one.")


class StageConfig(Section):
    """One entry of `stages`: the allowed upsamplers, and beside them parameters by upsampler."""

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, dict[str, Any]]

    upsampler: str | tuple[str, ...] | None = Field(
        None, description="One upsampler or a list to choose from."
    )


StageKey = Literal["default"] | PositiveInt
StagesConfig = Annotated[dict[StageKey, StageConfig], Field(min_length=1)]


class ObjectiveConfig(Section):
    """One entry of `objectives`."""

    metric: str = Field(description="A quality metric of the task, or a cost.")
    direction: Direction | None = Field(None, description="Derived from the metric when absent.")
    target: str | None = Field(None, description="For costs: a target's name; absent = the first.")


class Limit(Section):
    """A limit on a cost or a quality."""

    min: float | None = None
    max: float | None = None
    target: str | None = Field(None, description="For costs: a target's name; absent = the first.")

    @model_validator(mode="after")
    def _has_room(self) -> Limit:
        if self.min is None and self.max is None:
            raise ValueError("a limit needs min, max or both, e.g. {max: 40}.")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(
                f"min {self.min:g} is above max {self.max:g}; nothing could satisfy it."
            )
        return self


ExportFormat = Literal["onnx", "torch_export", "compile"]


class ConstraintsConfig(Section):
    """`constraints`: limits on costs and, by their names, on the task's quality metrics.

    A candidate whose costs violate one never trains; one whose quality does is infeasible.
    """

    model_config = ConfigDict(extra="allow")
    __pydantic_extra__: dict[str, Limit]

    latency_ms: Limit | None = None
    peak_memory_mib: Limit | None = None
    training_peak_memory_mib: Limit | None = None
    process_peak_rss_mib: Limit | None = None
    output_error: Limit | None = None
    num_parameters: Limit | None = None
    exportable: ExportFormat | tuple[ExportFormat, ...] | None = Field(
        None, description="Formats that must work."
    )

    def records(self) -> tuple[Constraint, ...]:
        """The constraints that are set: costs in this class's order, qualities, exportability."""
        limits = {name: getattr(self, name) for name in COST_METRICS} | self.__pydantic_extra__
        constraints = [
            Constraint(metric=name, min=limit.min, max=limit.max, target=limit.target)
            for name, limit in limits.items()
            if limit is not None
        ]
        formats = self.exportable or ()
        formats = (formats,) if isinstance(formats, str) else formats
        constraints += [Constraint(metric="exportable", equals=format) for format in formats]
        return tuple(constraints)


_DTYPE_WORDS: Final = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


class TargetConfig(Target):
    """One entry of `targets`."""

    dtype: Annotated[DType, BeforeValidator(lambda word: _DTYPE_WORDS.get(str(word), word))] = (
        Field(
            "float32",
            description="Of weights, input and output.",
            json_schema_extra={"enum": [*get_args(DType), *_DTYPE_WORDS]},
        )
    )
    input: tuple[PositiveInt, PositiveInt, PositiveInt] | None = Field(  # type: ignore[assignment]
        None, description="Channels, height and width; absent = the task's channels at 256 x 256."
    )

    # Records have "system": what is said of studies from before there was a choice.
    allocator: Allocator = "keep"

    def record(self, in_channels: int) -> Target:
        """The target with its input filled in."""
        fields = self.model_dump() | {"input": self.input or (in_channels, 256, 256)}
        return Target.model_validate(fields)


class TrainingConfig(Section):
    """`training`: how one trial trains."""

    learning_rate: PositiveFloat = Field(0.003, description="Peak of the schedule.")
    batch: PositiveInt = Field(8, description="Images per optimiser step.")
    steps_per_epoch: PositiveInt | None = Field(
        None, description="Optimiser steps per epoch; absent = one pass over the training split."
    )
    weight_decay: NonNegativeFloat = 0.01
    warmup: float = Field(
        0.1, ge=0, lt=1, description="Fraction of all steps in which the learning rate rises."
    )
    selector_cost_weight: NonNegativeFloat = Field(
        0.02, description="Weight of a learned selector's measured-cost penalty in the loss."
    )
    device: Literal["auto", "cpu", "cuda"] = Field("auto", description="Where trials train.")


class SearchConfig(Section):
    """`search`: how candidates are found."""

    sampler: Literal["auto", "tpe", "nsga2", "gp", "random"] = "auto"
    trials: PositiveInt = Field(60, description="Candidates to train, baselines included.")
    rungs: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] = Field(
        (1, 3, 9), description="Epochs at which a trial can pause; the last is the full training."
    )
    seeds: PositiveInt = Field(
        3, description="Trainings of each near-front candidate and baseline, the first included."
    )
    replicate: Literal["front", "all"] = Field(
        "front", description="Which candidates get all seeds: the front and the baselines, or all."
    )
    seed: NonNegativeInt = Field(0, description="Of the sampler and of the first training.")
    predict_costs: Literal["auto", "always", "never"] = Field(
        "auto",
        description="Predict latencies from single stages, and measure where that decides nothing; "
        "auto = where there are more trials than upsamplers to time.",
    )
    concurrency: Literal["auto"] | PositiveInt = Field(
        "auto", description="Trials that train at the same time."
    )
    cpus_per_trial: Literal["auto"] | PositiveInt = "auto"
    gpus_per_trial: Literal["auto"] | NonNegativeFloat = "auto"
    max_retries: NonNegativeInt = Field(2, description="Restarts of a trial whose worker died.")

    @field_validator("rungs")
    @classmethod
    def _increases(cls, rungs: tuple[int, ...]) -> tuple[int, ...]:
        if any(b <= a for a, b in pairwise(rungs)):
            better = ", ".join(map(str, sorted(set(rungs))))
            raise ValueError(
                f"got {list(rungs)}. Allowed: increasing numbers, as each is the epochs trained "
                f"so far; write [{better}]."
            )
        return rungs


class SpaceConfig(Section):
    """A search space."""

    name: str | None = Field(
        None, pattern=r"^[A-Za-z0-9_.-]+$", description="Absent = the file's name."
    )
    task: TaskConfig = Field(
        description=f"Data, loss and metrics, e.g. {{type: {next(iter(TASKS))}}}; "
        f"types: {', '.join(TASKS)}."
    )
    model: ModelConfig = Field(
        description="What is not searched: the decoder, and an encoder where it needs one, "
        "e.g. {decoder: unet, encoder: {name: resnet18, depth: 4}}."
    )
    stages: StagesConfig = Field(
        description="What each decoder stage chooses from, by number (1 = deepest) or `default`, "
        "e.g. {default: {upsampler: [bilinear, transposed]}}."
    )
    objectives: Annotated[tuple[ObjectiveConfig, ...], Field(min_length=1)] | None = Field(
        None, description="Absent = the task's first metric, latency_ms and peak_memory_mib."
    )
    constraints: ConstraintsConfig = ConstraintsConfig()
    targets: Annotated[tuple[TargetConfig, ...], Field(min_length=1)] = (
        TargetConfig(name="laptop"),
    )
    training: TrainingConfig = TrainingConfig()
    search: SearchConfig = SearchConfig()
