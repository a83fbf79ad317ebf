"""What the tasks that learn from square crops of images share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import ClassVar, Final, Self

import numpy as np
import torch
from pydantic import Field, PositiveInt, field_validator, model_validator
from torch import Tensor

from upnas.errors import suggest_name
from upnas.records import Record, TaskSignature
from upnas.tasks.base import DC_GAIN_SPREAD, Metric, Predict, Split, Task
from upnas.tasks.crops import Augmentation, Bytes, CropSet

EVAL_BATCH_SIZE: Final = 16
#: What every task on crops can score beside its own metrics, of what its network puts out.
LATTICE_METRICS: Final = (
    Metric("lattice_energy", "minimize", "fraction"),
    Metric("phase_variance", "minimize", "fraction"),
)
_MIN_PERIODS: Final = 6  # in a crop; they leave the 4 that are needed when its border is cut off


class CropTaskConfig(Record):
    """The fields of ``task:`` that every task on crops has."""

    crop: int = Field(description="Side of the square images, in pixels.")
    augmentation: Augmentation = Field(
        "dihedral",
        description="Symmetries of training crops: none, mirror (left-right, for scenes with an "
        "up and a down) or dihedral (all eight of the square).",
    )
    crops_per_epoch: PositiveInt | None = Field(
        None,
        description="Training crops that count as one epoch; None = as many as fit side by side "
        "into the training images.",
    )
    max_eval_crops: PositiveInt = Field(
        64,
        description="Most crops of a split to evaluate on, spread evenly over its images; the "
        "same ones for every candidate.",
    )

    metrics: tuple[str, ...] = Field(
        (),
        description="Metrics to score and report beside the default ones and those that objectives "
        "and constraints name.",
    )
    lattice_period: int | None = Field(
        None,
        ge=2,
        le=16,
        description="Period in output pixels of the checkerboard that lattice_energy and "
        "phase_variance look for; None = the task's scale, or 2 = that of the last doubling.",
    )

    #: Always scored; the first one is the task's main metric.
    default_metrics: ClassVar[tuple[Metric, ...]]
    #: Scored where somebody asks for them.
    optional_metrics: ClassVar[tuple[Metric, ...]]

    @classmethod
    def offered_metrics(cls) -> tuple[Metric, ...]:
        """All metrics, the main one first; known without loading data."""
        optional = (*cls.optional_metrics, *LATTICE_METRICS, DC_GAIN_SPREAD)
        return (*cls.default_metrics, *optional)

    @field_validator("metrics")
    @classmethod
    def _are_offered(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        offered = [metric.name for metric in cls.offered_metrics()]
        for name in names:
            if name not in offered:
                raise ValueError(
                    f"unknown metric {name!r}.{suggest_name(name, offered)} "
                    f"Allowed: {', '.join(offered)}."
                )
        return tuple(name for name in offered if name in names)

    @model_validator(mode="after")
    def _crop_holds_the_lattice(self) -> Self:
        if self.crop < _MIN_PERIODS * self.period:
            raise ValueError(
                f"got lattice_period: {self.period}, but a crop of {self.crop} px must hold "
                f"{_MIN_PERIODS} periods. Allowed: at most {self.crop // _MIN_PERIODS}."
            )
        return self

    @property
    def signature(self) -> TaskSignature:
        """Channels and scale of the networks; known without loading data."""
        raise NotImplementedError

    @property
    def period(self) -> int:
        """The lattice's period, decided."""
        return self.lattice_period or max(2, self.signature.scale_factor)

    @property
    def evaluated_metrics(self) -> tuple[Metric, ...]:
        """The metrics that the task scores: the default ones and what was asked for."""
        return tuple(
            metric
            for metric in self.offered_metrics()
            if metric in self.default_metrics
            or (metric.name in self.metrics and metric != DC_GAIN_SPREAD)
        )

    def scoring(self, names: Iterable[str]) -> Self:
        """The same task that also scores these of its metrics."""
        asked = {*names} - {metric.name for metric in self.default_metrics} | {*self.metrics}
        ordered = (metric.name for metric in self.offered_metrics() if metric.name in asked)
        return self.model_copy(update={"metrics": tuple(ordered)})


class CropTask(Task):
    """A task whose training and evaluation images are square crops.

    Training draws crops with replacement; an epoch is ``crops_per_epoch`` of them. Evaluation is
    on a fixed grid of crops without overlap, at most ``max_eval_crops`` per split, and every crop
    counts as one image in the mean.

    Args:
        config: The task's settings.
        splits: The images of each split.
    """

    def __init__(self, config: CropTaskConfig, splits: Mapping[Split, CropSet]) -> None:
        self.signature = config.signature
        self.metrics = config.evaluated_metrics
        self._names = frozenset(metric.name for metric in self.metrics)
        self._period = config.period
        self._augmentation = config.augmentation
        self._train = splits["train"]
        self._crops_per_epoch = config.crops_per_epoch or self._train.num_tiles
        self._tiles = {
            split: self._encode(*splits[split].tiles(config.max_eval_crops)) for split in splits
        }

    def steps_per_epoch(self, batch_size: int) -> int:
        """Steps until ``crops_per_epoch`` crops were drawn, rounded up."""
        return math.ceil(self._crops_per_epoch / batch_size)

    def train_batch(self, step: int, seed: int, batch_size: int) -> tuple[Tensor, Tensor]:
        """Random crops with random symmetries; a pure function of the arguments."""
        rng = np.random.default_rng((seed, step))
        return self._encode(*self._train.sample(rng, batch_size, self._augmentation))

    def evaluate(self, predict: Predict, split: Split) -> dict[str, float]:
        """Mean over the split's evaluation crops of each metric."""
        inputs, targets = self._tiles[split]
        starts = range(0, len(inputs), EVAL_BATCH_SIZE)
        batches = [slice(start, start + EVAL_BATCH_SIZE) for start in starts]
        scores = [self._scores(predict(inputs[b]).float(), targets[b]) for b in batches]
        return {
            metric.name: torch.cat([batch[metric.name] for batch in scores]).double().mean().item()
            for metric in self.metrics
        }

    def trivial_quality(self, split: Split) -> dict[str, float]:
        """The scores of the trivial predictor with the best main metric on the split."""
        scores = [self.evaluate(predict, split) for predict in self._trivial_predictors()]
        main = self.metrics[0]
        sign = 1 if main.direction == "maximize" else -1
        return max(scores, key=lambda quality: sign * quality[main.name])

    @abstractmethod
    def _encode(self, inputs: Bytes, targets: Bytes) -> tuple[Tensor, Tensor]:
        """Turn 8-bit crops (B, C, H, W) into the network's inputs and the loss's targets."""

    @abstractmethod
    def _scores(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Every metric of :attr:`metrics` for a batch, one number (B,) per image."""

    @abstractmethod
    def _trivial_predictors(self) -> Sequence[Predict]:
        """Predictors that need no training."""
