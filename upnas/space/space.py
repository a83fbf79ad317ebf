"""The search space: what a YAML file allows, as candidates."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import BaseModel

from upnas.errors import SpaceError
from upnas.models import StageInfo
from upnas.records import (
    Candidate,
    Constraint,
    ModelSpec,
    Objective,
    Scalar,
    StageChoice,
    Target,
    TaskSignature,
    Value,
)
from upnas.space.choices import Stage, default_choice
from upnas.space.schema import SearchConfig, TrainingConfig
from upnas.tasks import TaskConfig

Suggest = Callable[[str, tuple[Value, ...]], Value]
T = TypeVar("T", bound=Value)

#: Baselines of every study and the upsampler that each has at all stages.
BASELINES: Final[Mapping[str, str]] = {
    "all-bilinear": "bilinear",
    "all-transposed": "transposed",
    "resolution-rule": "adaptive",
}


@dataclass(frozen=True)
class SearchSpace:
    """Everything that a YAML file allows.

    Two spaces are equal when they allow and ask for the same, whichever file they came from.

    Attributes:
        name: Of the study.
        task_config: Data, loss and metrics, for ``upnas.tasks.build_task``.
        task: Channels and scale of the networks.
        model: What is not searched.
        stages: What each decoder stage chooses from, deepest first.
        objectives: With their directions.
        constraints: Limits on costs.
        targets: Where costs are measured; the first is the one that is searched for.
        training: How one trial trains.
        search: How candidates are found.
        source: The file; None for a space that was read from a record.
    """

    name: str
    task_config: TaskConfig
    task: TaskSignature
    model: ModelSpec
    stages: tuple[Stage, ...]
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    targets: tuple[Target, ...]
    training: TrainingConfig
    search: SearchConfig
    source: Path | None = field(default=None, compare=False)

    @property
    def stage_infos(self) -> tuple[StageInfo, ...]:
        """Shapes of the stages, deepest first."""
        return tuple(stage.info for stage in self.stages)

    @property
    def num_candidates(self) -> int:
        """How many distinct candidates there are."""
        return math.prod(len(stage.options) for stage in self.stages)

    def candidates(self) -> Iterator[Candidate]:
        """Every distinct candidate once, lazily; the last stage varies fastest."""
        for stages in itertools.product(*(stage.options for stage in self.stages)):
            yield Candidate(model=self.model, stages=stages)

    def contains(self, candidate: Candidate) -> bool:
        """Whether the space allows a candidate."""
        return (
            candidate.model == self.model
            and len(candidate.stages) == len(self.stages)
            and all(
                choice in stage.options
                for choice, stage in zip(candidate.stages, self.stages, strict=True)
            )
        )

    def choose(self, suggest: Suggest) -> Candidate:
        """Build a candidate choice by choice.

        Args:
            suggest: Called with a choice's name (``stage1.upsampler``, then for the chosen one
                ``stage1.transposed.kernel_size``) and its two or more values; returns one of
                them. A value that is a list comes as text, ``bilinear+transposed``.

        Raises:
            SpaceError: If ``suggest`` returns a value that the choice does not have.
        """
        return Candidate(
            model=self.model, stages=tuple(_choose(stage, suggest) for stage in self.stages)
        )

    def parameters(self, candidate: Candidate) -> dict[str, Value]:
        """The choices that lead to a candidate: the inverse of :meth:`choose`.

        Raises:
            SpaceError: If the candidate is not in the space.
        """
        if not self.contains(candidate):
            raise SpaceError(f"the candidate {candidate} is not in the search space {self.name!r}.")
        made: dict[str, Value] = {}
        chosen = {
            f"stage{stage.number}.{name}": value
            for stage, choice in zip(self.stages, candidate.stages, strict=True)
            for name, value in _named(choice)
        }

        def replay(name: str, values: tuple[Value, ...]) -> Value:
            del values
            made[name] = chosen[name]
            return chosen[name]

        self.choose(replay)
        return made

    def random_candidate(self, rng: random.Random) -> Candidate:
        """Draw every choice uniformly."""
        return self.choose(lambda _, values: rng.choice(values))

    def baselines(self) -> tuple[tuple[str, Candidate], ...]:
        """The candidates of every study by name; they need not be in the space."""
        return tuple(
            (
                name,
                Candidate(model=self.model, stages=(default_choice(upsampler),) * len(self.stages)),
            )
            for name, upsampler in BASELINES.items()
        )

    def to_config(self) -> dict[str, Any]:
        """The space as JSON with every default and every stage written out.

        :func:`upnas.space.space_from_config` reads it back, and it is a valid YAML too.
        """
        encoder = None if self.model.encoder is None else _json(self.model.encoder)
        options = _json(self.model)["options"]
        return {
            "name": self.name,
            "task": _json(self.task_config),
            "model": {"decoder": self.model.decoder, "encoder": encoder, **options},
            "stages": {str(stage.number): _stage_config(stage) for stage in self.stages},
            "objectives": [_json(objective) for objective in self.objectives],
            "constraints": _constraints_config(self.constraints),
            "targets": [_json(target) for target in self.targets],
            "training": _json(self.training),
            "search": _json(self.search),
        }


def _choose(stage: Stage, suggest: Suggest) -> StageChoice:
    prefix = f"stage{stage.number}"
    by_name = {choice.name: choice for choice in stage.choices}
    choice = by_name[_one_of(f"{prefix}.upsampler", {name: name for name in by_name}, suggest)]
    parameters = {
        parameter: _one_of(
            f"{prefix}.{choice.name}.{parameter}",
            {_as_scalar(value): value for value in values},
            suggest,
        )
        for parameter, values in choice.parameters.items()
    }
    return StageChoice(upsampler=choice.name, parameters=parameters)


def _one_of(name: str, values: Mapping[Scalar, T], suggest: Suggest) -> T:
    """Ask for one of the values; without a choice there is nothing to ask."""
    if len(values) == 1:
        return next(iter(values.values()))
    chosen = suggest(name, tuple(values))
    if isinstance(chosen, tuple) or chosen not in values:
        raise SpaceError(
            f"{name}: {chosen!r} is not in the search space. "
            f"Allowed: {', '.join(map(str, values))}."
        )
    return values[chosen]


def _as_scalar(value: Value) -> Scalar:
    """A value as samplers and storages take it."""
    return "+".join(map(str, value)) if isinstance(value, tuple) else value


def _named(choice: StageChoice) -> Iterator[tuple[str, Scalar]]:
    yield "upsampler", choice.upsampler
    for parameter, value in choice.parameters:
        yield f"{choice.upsampler}.{parameter}", _as_scalar(value)


def _stage_config(stage: Stage) -> dict[str, Any]:
    config: dict[str, Any] = {"upsampler": [choice.name for choice in stage.choices]}
    for choice in stage.choices:
        if choice.parameters:
            config[choice.name] = {
                parameter: [list(v) if isinstance(v, tuple) else v for v in values]
                for parameter, values in choice.parameters.items()
            }
    return config


def _constraints_config(constraints: Sequence[Constraint]) -> dict[str, Any]:
    config: dict[str, Any] = {
        c.metric: {"min": c.min, "max": c.max, "target": c.target}
        for c in constraints
        if c.equals is None
    }
    formats = [c.equals for c in constraints if c.equals is not None]
    if formats:
        config["exportable"] = formats[0] if len(formats) == 1 else formats
    return config


def _json(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")
