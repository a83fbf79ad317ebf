"""Single-image super-resolution by a factor of 2 or 4."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from pydantic import Field
from torch import Tensor

from upnas.records import TaskSignature
from upnas.tasks.base import SPLITS, Metric, Predict, Split
from upnas.tasks.crop_task import CropTask, CropTaskConfig
from upnas.tasks.crops import Bytes, CropSet, pad_to_side
from upnas.tasks.folder import FolderConfig, load_images
from upnas.tasks.metrics import lattice_scores, restoration_scores
from upnas.tasks.photos import PhotosConfig, load_photos


class SuperResolutionConfig(CropTaskConfig):
    """``task: {type: super_resolution}``."""

    type: Literal["super_resolution"] = "super_resolution"
    data: Annotated[PhotosConfig | FolderConfig, Field(discriminator="type")] = PhotosConfig()
    scale: Literal[2, 4] = Field(2, description="High-resolution side / low-resolution side.")
    crop: int = Field(
        64,
        ge=32,
        le=1024,
        multiple_of=4,
        description="Side of the square high-resolution images, in pixels.",
    )
    color: Literal["rgb", "y"] = Field(
        "rgb", description="What metrics compare: RGB, or the luma Y of ITU-R BT.601."
    )

    default_metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("psnr", "maximize", "dB"),
        Metric("ssim", "maximize", "fraction"),
    )
    optional_metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("band_psnr", "maximize", "dB"),
        Metric("edge_rise_width", "minimize", "px"),
        Metric("spectrum_distance", "minimize", "nats"),
    )

    @property
    def signature(self) -> TaskSignature:
        """RGB in, RGB out, ``scale`` times larger."""
        return TaskSignature(name=self.type, in_channels=3, out_channels=3, scale_factor=self.scale)


class SuperResolutionTask(CropTask):
    """Restore photographs that were made smaller.

    Inputs (B, 3, H, W) and targets (B, 3, scale * H, scale * W) are RGB in [0, 1], float32. A whole
    photograph is made smaller with Pillow's bicubic filter (anti-aliased, a = -0.5) and rounded to
    8 bits, then crops are cut from both at the same place. The loss is the mean absolute error
    (Lim et al., EDSR, CVPRW 2017, sec. 3). For the metrics, outputs are clamped to [0, 1] and
    ``scale`` pixels are cut off all around, as is the custom. The trivial baseline is bicubic.

    Images smaller than a crop are reflected at their border.

    Raises:
        DataError: If a folder's data cannot be read.
    """

    def __init__(self, config: SuperResolutionConfig) -> None:
        self._scale: int = config.scale
        self._color = config.color
        super().__init__(config, _load(config))

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean absolute error."""
        return F.l1_loss(outputs, targets)

    def _encode(self, inputs: Bytes, targets: Bytes) -> tuple[Tensor, Tensor]:
        return torch.from_numpy(inputs).float() / 255, torch.from_numpy(targets).float() / 255

    def _scores(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        border = slice(self._scale, -self._scale)
        images = outputs.clamp(0, 1)[:, :, border, border]
        truth = targets[:, :, border, border]
        if self._color == "y":
            images, truth = luma(images), luma(truth)
        scores = restoration_scores(images, truth, also=self._names)
        return scores | lattice_scores(images, self._period, self._names)

    def _trivial_predictors(self) -> Sequence[Predict]:
        # Of torch's two bicubic kernels the anti-aliased one has Pillow's a = -0.5.
        return [
            lambda x: F.interpolate(
                x, scale_factor=self._scale, mode="bicubic", align_corners=False, antialias=True
            )
        ]


def luma(images: Tensor) -> Tensor:
    """Luma Y of ITU-R BT.601 in [16/255, 235/255], from RGB (B, 3, H, W) in [0, 1].

    The convention of super-resolution papers: Y = (65.481 R + 128.553 G + 24.966 B + 16) / 255.
    """
    weights = images.new_tensor((65.481, 128.553, 24.966))[:, None, None]
    return ((images * weights).sum(1, keepdim=True) + 16) / 255


def shrink(image: Bytes, scale: int) -> Bytes:
    """Make an image (3, H, W) smaller; H and W are multiples of ``scale``."""
    height, width = image.shape[1:]
    pixels = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    smaller = pixels.resize((width // scale, height // scale), Image.Resampling.BICUBIC)
    return np.ascontiguousarray(np.asarray(smaller).transpose(2, 0, 1))


def _load(config: SuperResolutionConfig) -> dict[Split, CropSet]:
    if isinstance(config.data, PhotosConfig):
        images: dict[Split, Sequence[Bytes]] = {split: load_photos(split) for split in SPLITS}
    else:
        images = dict(load_images(config.data))
    splits: dict[Split, CropSet] = {}
    for split in SPLITS:
        large = [pad_to_side(image, config.crop) for image in images[split]]
        targets = [_cut_to_multiple(image, config.scale) for image in large]
        inputs = [shrink(image, config.scale) for image in targets]
        side = config.crop // config.scale
        splits[split] = CropSet(tuple(inputs), tuple(targets), side, config.scale)
    return splits


def _cut_to_multiple(image: Bytes, scale: int) -> Bytes:
    height, width = (length // scale * scale for length in image.shape[1:])
    return image[:, :height, :width]
