"""A search space as plain data for a person to look at (``upnas space show``)."""

from __future__ import annotations

from dataclasses import dataclass

from upnas.records import Constraint, Objective, Target, Value
from upnas.space.choices import Stage, UpsamplerChoice
from upnas.space.schema import SearchConfig
from upnas.space.space import SearchSpace


@dataclass(frozen=True)
class ChoiceDescription:
    """One upsampler that a stage may choose.

    Attributes:
        upsampler: Its name.
        searched: Parameters with two or more values.
        num_options: Distinct upsamplers with parameters.
    """

    upsampler: str
    searched: tuple[tuple[str, tuple[Value, ...]], ...]
    num_options: int


@dataclass(frozen=True)
class StageDescription:
    """One row of the table of stages.

    Attributes:
        number: 1 = deepest.
        label: Output stride before and after, or the enlargement.
        channels: Channels into and out of the upsampler.
        skip_channels: Channels of the encoder skip; 0 without one.
        out_channels: Channels that leave the stage.
        scale_factor: The upsampler's factor.
        choices: What it chooses from.
    """

    number: int
    label: str
    channels: int
    skip_channels: int
    out_channels: int
    scale_factor: int
    choices: tuple[ChoiceDescription, ...]

    @property
    def num_options(self) -> int:
        """Distinct upsamplers with parameters."""
        return sum(choice.num_options for choice in self.choices)


@dataclass(frozen=True)
class SpaceDescription:
    """Everything worth showing of a search space.

    Attributes:
        name: Of the space.
        source: The file, or None.
        task: The task's type.
        encoder: timm name with its depth and whether it is pretrained; None without one.
        decoder: Its name with its settings.
        stages: Deepest first.
        num_candidates: Distinct candidates.
        objectives: With directions.
        constraints: Limits on costs.
        targets: Where costs are measured.
        search: The budget.
        steps_per_epoch: None = one pass over the training split.
    """

    name: str
    source: str | None
    task: str
    encoder: str | None
    decoder: str
    stages: tuple[StageDescription, ...]
    num_candidates: int
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    targets: tuple[Target, ...]
    search: SearchConfig
    steps_per_epoch: int | None

    @property
    def epochs(self) -> int:
        """Epochs of a full training."""
        return self.search.rungs[-1]


def describe(space: SearchSpace) -> SpaceDescription:
    """Describe a search space."""
    encoder = space.model.encoder
    options = ", ".join(f"{name}={value}" for name, value in space.model.options)
    return SpaceDescription(
        name=space.name,
        source=None if space.source is None else str(space.source),
        task=space.task.name,
        encoder=None
        if encoder is None
        else f"{encoder.name}, depth {encoder.depth}"
        f"{', pretrained' if encoder.pretrained else ', from scratch'}",
        decoder=f"{space.model.decoder} ({options})" if options else space.model.decoder,
        stages=tuple(_stage(stage) for stage in space.stages),
        num_candidates=space.num_candidates,
        objectives=space.objectives,
        constraints=space.constraints,
        targets=space.targets,
        search=space.search,
        steps_per_epoch=space.training.steps_per_epoch,
    )


def _stage(stage: Stage) -> StageDescription:
    info = stage.info
    return StageDescription(
        number=stage.number,
        label=info.label,
        channels=info.channels,
        skip_channels=info.skip_channels,
        out_channels=info.out_channels,
        scale_factor=info.scale_factor,
        choices=tuple(_choice(choice) for choice in stage.choices),
    )


def _choice(choice: UpsamplerChoice) -> ChoiceDescription:
    return ChoiceDescription(
        upsampler=choice.name,
        searched=tuple(item for item in choice.parameters.items() if len(item[1]) > 1),
        num_options=sum(1 for _ in choice.options()),
    )
