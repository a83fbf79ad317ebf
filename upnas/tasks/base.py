"""The contract of a task: data, loss and quality metrics."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from torch import Tensor

from upnas.records import Direction, TaskSignature

Split = Literal["train", "validation", "test"]
SPLITS: Final[tuple[Split, ...]] = ("train", "validation", "test")
Predict = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Metric:
    """A quality metric of a task.

    Attributes:
        name: As in the YAML's ``objectives``.
        direction: Which way is better.
        unit: "fraction", "dB", "px" or "nats".
    """

    name: str
    direction: Direction
    unit: str


#: What every task offers and the weights alone tell; the trial scores it, the task does not.
DC_GAIN_SPREAD: Final = Metric("dc_gain_spread", "minimize", "fraction")


class Task(ABC):
    """Data, loss and metrics of one dense-prediction problem.

    A task object is immutable and cheap to share: one per process, used by many trials.
    """

    #: Channels and scale of the networks that solve the task.
    signature: TaskSignature
    #: Quality metrics that :meth:`evaluate` gives; the first one is the task's main metric.
    metrics: tuple[Metric, ...]

    @abstractmethod
    def steps_per_epoch(self, batch_size: int) -> int:
        """Optimiser steps in one pass over the training split; at least 1."""

    @abstractmethod
    def train_batch(self, step: int, seed: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Return the inputs and targets of one training step, on the CPU.

        A pure function of its arguments, so a trial resumed at step k sees what it would have
        seen, and two candidates with one seed see the same data (paired seeds).

        Args:
            step: Optimiser step, counted from 0.
            seed: Non-negative seed of the trial.
            batch_size: Number of inputs.

        Returns:
            Inputs (B, C, H, W) in float32 as the network takes them, and targets in the shape and
            dtype that :meth:`loss` takes (images are float32, class indices int64).
        """

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Scalar training loss, on the device of its arguments."""

    @abstractmethod
    def evaluate(self, predict: Predict, split: Split) -> dict[str, float]:
        """Score a network on a whole split.

        Args:
            predict: Maps a CPU batch of inputs to CPU outputs without changing the inputs; the
                caller has the network in eval mode without gradients.
            split: "validation" while searching; "test" is for reporting only.

        Returns:
            One number per metric of :attr:`metrics`, the mean over images; finite for finite
            outputs.
        """

    @abstractmethod
    def trivial_quality(self, split: Split) -> dict[str, float]:
        """What the task's trivial baseline scores: a network below it has not learned."""
