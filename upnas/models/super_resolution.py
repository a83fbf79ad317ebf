"""A super-resolution network: residual trunk at low resolution, one upsampler per x2 stage.

The trunk is EDSR's: Lim et al., CVPR Workshops 2017, https://arxiv.org/abs/1707.02921, fig. 3.
Differs from it: the network adds its output to the bicubic enlargement of its input, so that
short proxy trainings start from the trivial baseline and not from noise.
"""

from __future__ import annotations

from typing import Annotated

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from upnas.errors import SpaceError
from upnas.models.base import (
    Decoder,
    StageInfo,
    build_upsamplers,
    deferred_enlargement,
    seeded,
)
from upnas.records import Candidate, ModelSpec, Record, TaskSignature


class SuperResolutionOptions(Record):
    """Settings of the super-resolution network (`model:` in the YAML)."""

    channels: Annotated[int, Field(ge=4)] = Field(32, description="Channels of the trunk.")
    num_blocks: Annotated[int, Field(ge=1)] = Field(4, description="Residual blocks of the trunk.")


class ResidualBlock(nn.Module):
    """x + conv(relu(conv(x))), without normalisation, as in EDSR."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C, H, W)."""
        return x + self.conv2(F.relu(self.conv1(x)))  # type: ignore[no-any-return]


class SuperResolution(Decoder):
    """EDSR-like network with one upsampler per x2 stage.

    Args:
        candidate: The network and the upsampler of each stage, lowest resolution first.
        task: Channels and the scale factor s, a power of two.
        seed: Of the initial weights.
        pretrained: Ignored: there is no pretrained part.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W), for any H, W >= 1.
    """

    Options = SuperResolutionOptions
    needs_encoder = False

    def __init__(self, candidate: Candidate, task: TaskSignature, *, seed: int, pretrained: bool):
        super().__init__(candidate, task, seed=seed, pretrained=pretrained)
        stages = self.describe(candidate.model, task)
        options = SuperResolutionOptions.model_validate(dict(candidate.model.options))
        self.scale_factor = task.scale_factor
        with seeded(seed, "trunk"):
            self.stem = nn.Conv2d(task.in_channels, options.channels, 3, padding=1)
            self.trunk = nn.Sequential(
                *(ResidualBlock(options.channels) for _ in range(options.num_blocks)),
                nn.Conv2d(options.channels, options.channels, 3, padding=1),
            )
        upsamplers = build_upsamplers(stages, candidate.stages, seed)
        self.stages = nn.ModuleList(upsamplers)
        self.enlargement = deferred_enlargement(upsamplers, task.out_channels)
        with seeded(seed, "head"):
            self.head = nn.Conv2d(options.channels, task.out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return the image enlarged by ``scale_factor``."""
        features = self.stem(x)
        features = features + self.trunk(features)
        for upsampler in self.stages:
            features = features if upsampler.deferred else upsampler(features)
        y = self.head(features)
        if self.enlargement is not None:
            y = self.enlargement(y)
        enlarged = F.interpolate(
            x, scale_factor=float(self.scale_factor), mode="bicubic", align_corners=False
        )
        return enlarged + y  # type: ignore[no-any-return]

    @staticmethod
    def describe(model: ModelSpec, task: TaskSignature) -> tuple[StageInfo, ...]:
        """One x2 stage per factor of two.

        Raises:
            SpaceError: If an encoder is given or the task's scale is not a power of two above 1.
        """
        if model.encoder is not None:
            raise SpaceError("decoder 'sr' has its own trunk; remove model.encoder.")
        scale = task.scale_factor
        if scale < 2 or scale & (scale - 1):
            raise SpaceError(
                f"decoder 'sr' enlarges by a power of two (2, 4, ...), but task {task.name!r} "
                f"wants x{scale}. Use a super_resolution task with scale: 2 or 4."
            )
        if task.in_channels != task.out_channels:
            raise SpaceError(
                f"decoder 'sr' adds its output to the enlarged input, so the task's channels must "
                f"agree; {task.name!r} has {task.in_channels} in and {task.out_channels} out."
            )
        channels = SuperResolutionOptions.model_validate(dict(model.options)).channels
        return tuple(
            StageInfo(
                label=f"x{2**index}->x{2 ** (index + 1)}",
                channels=channels,
                skip_channels=0,
                out_channels=channels,
                scale_factor=2,
                scale_in=float(2**index),
            )
            for index in range(scale.bit_length() - 1)
        )
