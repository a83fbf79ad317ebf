"""`objectives:`, `constraints:` and `targets:` of the YAML -> records."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from upnas.records import COST_METRICS, Direction, Objective, Target, TaskSignature
from upnas.space.messages import show_value, unknown
from upnas.space.schema import ConstraintsConfig, ObjectiveConfig, TargetConfig
from upnas.space.source import Mistake, YamlPath
from upnas.tasks.base import Metric

_DEFAULT_COSTS: Final = ("latency_ms", "peak_memory_mib")


def resolve_objectives(
    config: Sequence[ObjectiveConfig] | None,
    metrics: Sequence[Metric],
    targets: Sequence[str],
) -> tuple[tuple[Objective, ...], list[Mistake]]:
    """Give every objective its direction.

    Args:
        config: `objectives`; None means the main metric, latency and peak memory.
        metrics: The task's quality metrics, the main one first.
        targets: The names of the targets.
    """
    if config is None:
        names = (metrics[0].name, *_DEFAULT_COSTS)
        config = [ObjectiveConfig(metric=name) for name in names]
    directions: dict[str, Direction] = {m.name: m.direction for m in metrics} | dict(COST_METRICS)
    objectives: list[Objective] = []
    mistakes: list[Mistake] = []
    for index, entry in enumerate(config):
        path: YamlPath = ("objectives", index)
        if entry.metric not in directions:
            text = unknown("metric", entry.metric, directions)
            mistakes.append(Mistake((*path, "metric"), text))
            continue
        direction = directions[entry.metric]
        if entry.direction not in (None, direction):
            text = (
                f"got {entry.direction!r}, but {entry.metric} is better when it is "
                f"{'larger' if direction == 'maximize' else 'smaller'}. "
                f"Allowed: {direction} (or leave it out)."
            )
            mistakes.append(Mistake((*path, "direction"), text))
        mistakes += _wrong_target(entry.target, entry.metric, targets, (*path, "target"))
        objective = Objective(metric=entry.metric, direction=direction, target=entry.target)
        if any(_same(objective, other, targets) for other in objectives):
            text = f"the objective {objective.label!r} is listed twice; keep one of the two."
            mistakes.append(Mistake(path, text))
        objectives.append(objective)
    return tuple(objectives), mistakes


def _same(one: Objective, other: Objective, targets: Sequence[str]) -> bool:
    first = targets[0] if targets else None
    return one.metric == other.metric and (one.target or first) == (other.target or first)


def _wrong_target(
    target: str | None, metric: str, targets: Sequence[str], path: YamlPath
) -> list[Mistake]:
    if target is None:
        return []
    if metric not in COST_METRICS:
        text = f"got {target!r}, but {metric} is not measured on a target. Leave it out."
        return [Mistake(path, text)]
    return [] if target in targets else [Mistake(path, unknown("target", target, targets))]


def constraint_mistakes(
    config: ConstraintsConfig, metrics: Sequence[Metric], targets: Sequence[str]
) -> list[Mistake]:
    """Constraints on what is neither a cost nor a metric of the task, or on no target.

    Args:
        config: `constraints`.
        metrics: The task's quality metrics.
        targets: The names of the targets.
    """
    known = [*ConstraintsConfig.model_fields, *(metric.name for metric in metrics)]
    mistakes: list[Mistake] = []
    for constraint in config.records():
        path: YamlPath = ("constraints", constraint.metric)
        if constraint.metric not in known:
            text = unknown("metric", constraint.metric, known)
            mistakes.append(Mistake(path, text, at_key=True))
            continue
        mistakes += _wrong_target(constraint.target, constraint.metric, targets, (*path, "target"))
    return mistakes


def resolve_targets(
    config: Sequence[TargetConfig], task: TaskSignature | None
) -> tuple[tuple[Target, ...], list[Mistake]]:
    """Fill absent inputs from the task (None where it is wrong) and compare their channels."""
    mistakes: list[Mistake] = []
    names: list[str] = []
    for index, target in enumerate(config):
        if target.name in names:
            text = f"the name {target.name!r} is taken by another target; rename one of the two."
            mistakes.append(Mistake(("targets", index, "name"), text))
        names.append(target.name)
        channels = None if target.input is None else target.input[0]
        if task is not None and channels not in (None, task.in_channels):
            text = (
                f"got {show_value(target.input)}, but the task {task.name!r} has inputs of "
                f"{task.in_channels} channels. Allowed: [{task.in_channels}, height, width]."
            )
            mistakes.append(Mistake(("targets", index, "input"), text))
    allocators = {target.allocator for target in config if target.device == "cpu"}
    if len(allocators) > 1:
        text = (
            "targets on the CPU are measured in one process, which has one allocator, but both "
            "keep and system are asked for. Use the same for all of them, or two studies."
        )
        mistakes.append(Mistake(("targets",), text, at_key=True))
    in_channels = 1 if task is None else task.in_channels
    return tuple(target.record(in_channels) for target in config), mistakes
