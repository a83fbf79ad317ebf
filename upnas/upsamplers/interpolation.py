"""Interpolation without weights."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from upnas.upsamplers.base import Upsampler


class Nearest(Upsampler):
    """Repeats every pixel s*s times.

    Output pixel i reads input pixel floor(i / s).

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``out_channels`` differs from ``channels``.
    """

    keeps_channels = True
    keeps_constants = True

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        return F.interpolate(x, size=upsampled_size(x, self.scale_factor), mode="nearest")


class _Cardinal(Upsampler):
    """What bilinear and bicubic interpolation share."""

    keeps_channels = True
    keeps_constants = True
    mode: ClassVar[str]

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        align_corners: bool = False,
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.align_corners = align_corners

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        size = upsampled_size(x, self.scale_factor)
        return F.interpolate(x, size=size, mode=self.mode, align_corners=self.align_corners)

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, align_corners={self.align_corners}"


class Bilinear(_Cardinal):
    """Bilinear interpolation.

    Output pixel i reads the input at (i + 0.5) / s - 0.5, clamped to the border. With
    ``align_corners`` it reads at i * (H - 1) / (s*H - 1) instead: the positions then depend on the
    resolution and drift by up to half a pixel, so it is off unless a reference model needs it.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        align_corners: Align the centres of the corner pixels, not their outer edges.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``out_channels`` differs from ``channels``.
    """

    mode = "bilinear"


class Bicubic(_Cardinal):
    """Bicubic interpolation with a = -0.75.

    Keys, IEEE TASSP 1981, https://doi.org/10.1109/TASSP.1981.1163711, eq. 15 with the a of the
    common libraries instead of -0.5. Reads the same positions as :class:`Bilinear`; overshoots a
    unit step by about a tenth.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        align_corners: Align the centres of the corner pixels, not their outer edges.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``out_channels`` differs from ``channels``.
    """

    mode = "bicubic"


def upsampled_size(x: Tensor, scale_factor: int) -> tuple[int, int]:
    """Return (s*H, s*W). An integer size, unlike a float factor, traces with symbolic shapes."""
    return x.shape[-2] * scale_factor, x.shape[-1] * scale_factor
