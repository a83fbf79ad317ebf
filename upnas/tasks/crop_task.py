"""What the tasks that learn from square crops of images share."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import torch
from pydantic import Field, PositiveInt
from torch import Tensor

from upnas.records import Record, TaskSignature
from upnas.tasks.base import Metric, Predict, Split, Task
from upnas.tasks.crops import Augmentation, Bytes, CropSet

EVAL_BATCH_SIZE: Final = 16


class CropTaskConfig(Record):
    """The fields of ``task:`` that every task on crops has."""

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

    @property
    def signature(self) -> TaskSignature:
        """Channels and scale of the networks; known without loading data."""
        raise NotImplementedError

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """The metrics, the main one first; known without loading data."""
        raise NotImplementedError


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
        self.metrics = config.metrics
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
        """Every metric of a batch, one number (B,) per image."""

    @abstractmethod
    def _trivial_predictors(self) -> Sequence[Predict]:
        """Predictors that need no training."""
