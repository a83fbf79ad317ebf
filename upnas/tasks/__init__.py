"""The catalogue of tasks.

A new task is one file with a config (a subclass of :class:`CropTaskConfig`) and a :class:`Task`,
and one line in :data:`TASKS` and in :data:`TaskConfig`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Final

from pydantic import Field

from upnas.records import Record, TaskSignature
from upnas.tasks.base import SPLITS, Metric, Predict, Split, Task
from upnas.tasks.folder import FolderConfig
from upnas.tasks.segmentation import SegmentationConfig, SegmentationTask
from upnas.tasks.super_resolution import SuperResolutionConfig, SuperResolutionTask

__all__ = [
    "SPLITS",
    "TASKS",
    "Metric",
    "Predict",
    "SegmentationConfig",
    "Split",
    "SuperResolutionConfig",
    "Task",
    "TaskConfig",
    "TaskEntry",
    "build_task",
    "metrics_of",
    "signature_of",
    "with_absolute_path",
]

#: The ``task:`` section of a search space, told apart by its ``type``.
TaskConfig = Annotated[SegmentationConfig | SuperResolutionConfig, Field(discriminator="type")]


@dataclass(frozen=True, slots=True)
class TaskEntry:
    """A kind of task.

    Attributes:
        config: What its section of the YAML may hold.
        build: Makes the task, loading its data.
    """

    config: type[Record]
    build: Callable[[Any], Task]


TASKS: Final[Mapping[str, TaskEntry]] = MappingProxyType(
    {
        "segmentation": TaskEntry(SegmentationConfig, SegmentationTask),
        "super_resolution": TaskEntry(SuperResolutionConfig, SuperResolutionTask),
    }
)


@lru_cache(maxsize=4)
def build_task(config: TaskConfig) -> Task:
    """Make a task and load its data; equal settings give the same object within a process.

    Raises:
        DataError: If the data cannot be read or does not fit the task.
    """
    return TASKS[config.type].build(config)


def signature_of(config: TaskConfig) -> TaskSignature:
    """Channels and scale of the networks that solve the task, without loading its data."""
    return config.signature


def with_absolute_path(config: TaskConfig) -> TaskConfig:
    """The same task for processes that run in another folder, such as workers of a cluster."""
    if not isinstance(config.data, FolderConfig):
        return config
    data = config.data.model_copy(update={"path": str(Path(config.data.path).absolute())})
    return config.model_copy(update={"data": data})


def metrics_of(config: TaskConfig) -> tuple[Metric, ...]:
    """All metrics that the task offers, the main one first, without loading its data."""
    return config.offered_metrics()
