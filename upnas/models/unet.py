"""U-Net: a timm encoder under a decoder with one upsampler per stage.

Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597, fig. 1. Differs from it: any
encoder, padded convolutions, batch normalisation, and decoder stages down to stride 1 also where
the encoder has no feature to skip from.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field, PositiveInt
from torch import Tensor, nn

from upnas.errors import SpaceError
from upnas.models.base import (
    Decoder,
    StageInfo,
    build_upsamplers,
    deferred_enlargement,
    seeded,
)
from upnas.models.encoder import Encoder, EncoderInfo, encoder_info
from upnas.records import Candidate, ModelSpec, Record, TaskSignature
from upnas.upsamplers import Upsampler


class UNetOptions(Record):
    """Settings of the U-Net decoder (`model:` in the YAML)."""

    channels: Annotated[tuple[PositiveInt, ...], Field(min_length=1)] | None = Field(
        None, description="Output channels of each stage, deepest first; derived when absent."
    )
    num_convs: Annotated[int, Field(ge=1, le=3)] = Field(
        2, description="3x3 convolutions in each stage's block."
    )


def _block(in_channels: int, out_channels: int, num_convs: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for channels in (in_channels, *[out_channels] * (num_convs - 1)):
        layers += [
            nn.Conv2d(channels, out_channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(out_channels),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers)


class UNetStage(nn.Module):
    """Upsampler, concatenation with the skip, convolution block."""

    def __init__(self, info: StageInfo, upsampler: Upsampler, num_convs: int):
        super().__init__()
        self.upsampler = upsampler
        self.block = _block(info.channels + info.skip_channels, info.out_channels, num_convs)

    def forward(
        self, x: Tensor, size: tuple[int, int], skip: Tensor | None, guide: Tensor | None
    ) -> Tensor:
        """(B, C, ceil(h / 2), ceil(w / 2)) -> (B, C_out, h, w) with (h, w) = size.

        A deferred upsampler is left out: x has come in at (h, w) already.
        """
        if not self.upsampler.deferred:
            x = self.upsampler(x, size=size, guide=guide)
        if skip is not None:
            x = torch.cat((x, skip), dim=1)
        return self.block(x)  # type: ignore[no-any-return]


class UNet(Decoder):
    """U-Net over a timm encoder.

    Args:
        candidate: The network and the upsampler of each stage, deepest first.
        task: Channels in and out.
        seed: Of the initial weights.
        pretrained: Load timm's pretrained encoder weights.

    Shape:
        (B, in_channels, H, W) -> (B, out_channels, H, W), for any H, W >= 1.
    """

    Options = UNetOptions
    needs_encoder = True

    def __init__(self, candidate: Candidate, task: TaskSignature, *, seed: int, pretrained: bool):
        super().__init__(candidate, task, seed=seed, pretrained=pretrained)
        stages = self.describe(candidate.model, task)
        options = UNetOptions.model_validate(dict(candidate.model.options))
        assert candidate.model.encoder is not None  # describe() refuses a missing one
        with seeded(seed, "encoder"):
            self.encoder = Encoder(candidate.model.encoder, task.in_channels, pretrained=pretrained)
        self.stages = nn.ModuleList()
        upsamplers = build_upsamplers(stages, candidate.stages, seed)
        for number, (info, upsampler) in enumerate(zip(stages, upsamplers, strict=True), 1):
            with seeded(seed, f"block{number}"):
                self.stages.append(UNetStage(info, upsampler, options.num_convs))
        with seeded(seed, "head"):
            self.head = nn.Conv2d(stages[-1].out_channels, task.out_channels, 1)
        self.enlargement = deferred_enlargement(upsamplers, task.out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits at the input's resolution."""
        height, width = x.shape[-2:]
        features = dict(zip(self.encoder.info.reductions, self.encoder(x), strict=True))
        reduction = self.encoder.info.reductions[-1]
        y = features[reduction]
        lag = 1  # how many times smaller the maps are than they would be without deferring
        for stage in self.stages:
            assert isinstance(stage, UNetStage)
            upsampler = stage.upsampler
            reduction //= 2
            lag *= upsampler.scale_factor if upsampler.deferred else 1
            stride = reduction * lag
            size = (math.ceil(height / stride), math.ceil(width / stride))
            skip = features.get(reduction)
            skip = None if skip is None else _shrink(skip, lag)
            wants_image = skip is None or upsampler.guide_source == "image"
            guide = _shrink(x, stride) if upsampler.guided and wants_image else skip
            y = stage(y, size, skip, guide)
        logits: Tensor = self.head(y)
        if self.enlargement is not None:
            logits = self.enlargement(logits, size=(height, width))
        return logits

    @staticmethod
    def describe(model: ModelSpec, task: TaskSignature) -> tuple[StageInfo, ...]:
        """The stages from the encoder's deepest feature to stride 1, each x2.

        Raises:
            SpaceError: For a bad encoder, or ``channels`` of the wrong length.
        """
        if model.encoder is None:
            raise SpaceError("decoder 'unet' needs model.encoder, e.g. {name: resnet18, depth: 4}.")
        if task.scale_factor != 1:
            raise SpaceError(
                f"decoder 'unet' gives outputs of the input's size, but task {task.name!r} wants "
                f"x{task.scale_factor}. Use decoder: sr."
            )
        info = encoder_info(model.encoder)
        reductions = [2**k for k in reversed(range(info.reductions[-1].bit_length() - 1))]
        if not reductions:
            raise SpaceError(
                f"encoder {model.encoder.name!r} with depth {model.encoder.depth} does not reduce "
                "the resolution: there is no stage to search. Use a larger depth."
            )
        chosen = UNetOptions.model_validate(dict(model.options)).channels
        if chosen is not None and len(chosen) != len(reductions):
            raise SpaceError(
                f"model.channels has {len(chosen)} entries, but encoder "
                f"{model.encoder.name!r} with depth {model.encoder.depth} gives "
                f"{len(reductions)} stages ({' '.join(f'{2 * r}->{r}' for r in reductions)})."
            )
        return _stages(info, reductions, chosen, task.in_channels)


def _shrink(x: Tensor, factor: int) -> Tensor:
    """(B, C, H, W) -> (B, C, ceil(H / factor), ceil(W / factor)), by averages of what is there."""
    if factor == 1:
        return x
    return F.avg_pool2d(x, factor, ceil_mode=True, count_include_pad=False)


def _stages(
    info: EncoderInfo, reductions: list[int], chosen: tuple[int, ...] | None, image_channels: int
) -> tuple[StageInfo, ...]:
    """One stage down to each reduction, with the chosen output channels or the default ones."""
    skips = dict(zip(info.reductions, info.channels, strict=True))
    stages: list[StageInfo] = []
    channels = info.channels[-1]
    for index, reduction in enumerate(reductions):
        skip_channels = skips.get(reduction, 0)
        out_channels = chosen[index] if chosen else _default_channels(channels, skip_channels)
        stages.append(
            StageInfo(
                label=f"{2 * reduction}->{reduction}",
                channels=channels,
                skip_channels=skip_channels,
                out_channels=out_channels,
                scale_factor=2,
                scale_in=1 / (2 * reduction),
                image_channels=image_channels,
            )
        )
        channels = out_channels
    return tuple(stages)


def _default_channels(channels: int, skip_channels: int) -> int:
    """As wide as the skip, or half of what comes in without one; between 16 and 128."""
    return min(max(skip_channels or channels // 2, 16), 128)
