"""Semantic segmentation, binary or with K classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, Final, Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from upnas.errors import DataError
from upnas.records import TaskSignature
from upnas.tasks.base import Metric, Predict, Split
from upnas.tasks.crop_task import CropTask, CropTaskConfig
from upnas.tasks.crops import Bytes, CropSet, pad_to_side
from upnas.tasks.filaments import FilamentsConfig, make_filaments
from upnas.tasks.folder import FolderConfig, load_masked_images
from upnas.tasks.metrics import IGNORE, lattice_scores, segmentation_scores

#: Inputs are (x - MEAN) / STD with x in [0, 1]: about the range that timm's encoders were made
#: for (ImageNet's means are 0.41-0.49 and its deviations 0.22-0.23), equal for all channels.
MEAN: Final = 0.5
STD: Final = 0.25


class SegmentationConfig(CropTaskConfig):
    """``task: {type: segmentation}``."""

    type: Literal["segmentation"] = "segmentation"
    data: Annotated[FilamentsConfig | FolderConfig, Field(discriminator="type")] = FilamentsConfig()
    crop: int = Field(64, ge=16, le=1024, description="Side of the square images, in pixels.")
    classes: int = Field(
        2, ge=2, le=IGNORE, description="Labels are 0 .. classes - 1; 2 = background, foreground."
    )
    boundary_tolerance_px: float = Field(
        1.0, ge=0, le=16, description="Largest distance of a match in boundary_f1 and nsd."
    )
    boundary_width: float = Field(
        0.02, gt=0, le=0.5, description="Width of boundary_iou's band / diagonal of a crop."
    )

    default_metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("dice", "maximize", "fraction"),
        Metric("iou", "maximize", "fraction"),
        Metric("boundary_f1", "maximize", "fraction"),
    )
    optional_metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("boundary_iou", "maximize", "fraction"),
        Metric("hd95", "minimize", "px"),
        Metric("nsd", "maximize", "fraction"),
    )

    @model_validator(mode="after")
    def _filaments_are_binary(self) -> SegmentationConfig:
        if isinstance(self.data, FilamentsConfig) and self.classes != 2:
            raise ValueError(f"filaments have 2 classes; got classes: {self.classes}.")
        return self

    @property
    def signature(self) -> TaskSignature:
        """RGB in; one logit per pixel for a binary task, else one per class."""
        out_channels = 1 if self.classes == 2 else self.classes
        return TaskSignature(name=self.type, in_channels=3, out_channels=out_channels)


class SegmentationTask(CropTask):
    """Label every pixel.

    Inputs are float32 (B, 3, H, W), normalised by ``MEAN`` and ``STD``; targets are int64 (B, H, W)
    class indices with 255 for pixels that do not count. A network returns logits: (B, 1, H, W)
    for a binary task, positive for foreground, and (B, K, H, W) otherwise. The metrics are those
    of :func:`upnas.tasks.metrics.segmentation_scores`, of the foreground for a binary task, else
    the macro mean over the image's classes, and those of
    :func:`upnas.tasks.metrics.lattice_scores`, of the logits.

    Images of a folder that are smaller than a crop are reflected at their border; the pixels
    added do not count.

    Raises:
        DataError: If a folder's data cannot be read or does not fit.
    """

    def __init__(self, config: SegmentationConfig) -> None:
        self._classes = (1,) if config.classes == 2 else tuple(range(config.classes))
        self._tolerance_px = config.boundary_tolerance_px
        self._boundary_width = config.boundary_width
        super().__init__(config, _load(config))
        for split, (inputs, targets) in self._tiles.items():
            counts = (targets != IGNORE).flatten(1).any(1)
            if not counts.any():
                raise DataError(
                    f"the masks of the {split} split mark every pixel of the evaluation crops as "
                    f"ignored ({IGNORE}); raise task.max_eval_crops or label more pixels."
                )
            self._tiles[split] = inputs[counts], targets[counts]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy plus soft Dice loss over the pixels that count; see :func:`mask_loss`."""
        return mask_loss(outputs, targets)

    def _encode(self, inputs: Bytes, targets: Bytes) -> tuple[Tensor, Tensor]:
        images = torch.from_numpy(inputs).float().mul_(1 / (255 * STD)).sub_(MEAN / STD)
        return images, torch.from_numpy(targets[:, 0]).long()

    def _scores(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        prediction = outputs[:, 0] > 0 if outputs.shape[1] == 1 else outputs.argmax(1)
        scores = segmentation_scores(
            prediction.long(),
            targets,
            self._classes,
            self._tolerance_px,
            also=self._names,
            boundary_width=self._boundary_width,
        )
        return scores | lattice_scores(outputs, self._period, self._names)

    def _trivial_predictors(self) -> Sequence[Predict]:
        """The constant predictions; for a binary task also a global threshold of the luminance.

        With K classes only the majority class of the training split. The thresholds, one for
        bright and one for dark foreground, are those with the highest Dice on the training crops.
        """
        inputs, targets = self._tiles["train"]
        if len(self._classes) > 1:
            votes = torch.bincount(targets[targets != IGNORE], minlength=len(self._classes))
            majority = F.one_hot(votes.argmax(), len(self._classes)).float()[:, None, None]
            return [lambda x: majority.expand(len(x), -1, *x.shape[2:])]
        predictors: list[Predict] = [
            lambda x: torch.full_like(x[:, :1], -1.0),
            lambda x: torch.full_like(x[:, :1], 1.0),
        ]
        counted = targets != IGNORE
        for sign in (1.0, -1.0):
            score = sign * inputs.mean(1)
            threshold = best_threshold(score[counted], targets[counted])
            predictors.append(_threshold_predictor(sign, threshold))
        return predictors


def mask_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy plus soft Dice loss, over pixels that are not ignored.

    The soft Dice loss is 1 - (2 sum p t + 1) / (sum p + sum t + 1), with probabilities p and
    one-hot labels t summed over the batch (Milletari et al., 3DV 2016, sec. 3, with plain sums in
    the denominator), averaged over the classes. https://arxiv.org/abs/1606.04797

    Args:
        outputs: Logits (B, 1, H, W) of the foreground or (B, K, H, W) of K classes.
        targets: Class indices or 255, int64 (B, H, W).

    Returns:
        A scalar >= 0; the loss of a batch of ignored pixels alone is 0.
    """
    counts = targets != IGNORE
    num_pixels = counts.sum().clamp(min=1)
    if outputs.shape[1] == 1:
        labels = (targets == 1).to(outputs.dtype)[:, None]  # (B, 1, H, W)
        entropy = F.binary_cross_entropy_with_logits(outputs, labels, reduction="none")
        cross_entropy = (entropy * counts[:, None]).sum() / num_pixels
        probabilities = outputs.sigmoid()
    else:
        known = torch.where(counts, targets, 0)
        labels = F.one_hot(known, outputs.shape[1]).movedim(3, 1).to(outputs.dtype)
        entropy = F.cross_entropy(outputs, targets, ignore_index=IGNORE, reduction="sum")
        cross_entropy = entropy / num_pixels
        probabilities = outputs.softmax(1)
    counted = counts[:, None].to(outputs.dtype)
    probabilities, labels = probabilities * counted, labels * counted
    overlap = (probabilities * labels).sum((0, 2, 3))  # (K,)
    total = probabilities.sum((0, 2, 3)) + labels.sum((0, 2, 3))
    return cross_entropy + (1 - (2 * overlap + 1) / (total + 1)).mean()


def best_threshold(score: Tensor, labels: Tensor) -> float:
    """The value t for which ``score >= t`` has the highest Dice with the labels 0 and 1.

    Args:
        score: One number per pixel (N,).
        labels: 0 or 1 (N,).
    """
    ordered, order = score.sort(descending=True)
    hits = labels[order].cumsum(0)
    dice = 2 * hits / (torch.arange(1, len(hits) + 1) + hits[-1])
    # Equal scores are on one side of every threshold: only the last of them is a possible cut.
    is_last = torch.cat([ordered[1:] != ordered[:-1], torch.tensor([True])])
    return float(ordered[torch.where(is_last, dice, -1.0).argmax()])


def _threshold_predictor(sign: float, threshold: float) -> Predict:
    return lambda x: torch.where(sign * x.mean(1, keepdim=True) >= threshold, 1.0, -1.0)


def _load(config: SegmentationConfig) -> Mapping[Split, CropSet]:
    if isinstance(config.data, FilamentsConfig):
        return make_filaments(config.data, config.crop)
    folder = load_masked_images(config.data, config.classes)
    return {
        split: CropSet(
            tuple(pad_to_side(image, config.crop) for image in images),
            tuple(pad_to_side(mask, config.crop, fill=IGNORE) for mask in masks),
            config.crop,
        )
        for split, (images, masks) in folder.items()
    }
