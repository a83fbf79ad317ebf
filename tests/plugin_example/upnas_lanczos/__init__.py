"""Lanczos interpolation as an upsampler of upnas."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from upnas.upsamplers import Upsampler


class Lanczos(Upsampler):
    """Interpolation by a windowed sinc.

    Duchon, Journal of Applied Meteorology 1979. Output pixel i reads the 2 * lobes input pixels
    around (i + 0.5) / s - 0.5 with the weights sinc(d) sinc(d / lobes), normalised to sum to one.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        lobes: Half the number of input pixels that an output pixel reads per axis.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W), for any H, W >= 1.
    """

    keeps_channels = True
    keeps_constants = True
    paper = "Duchon, Journal of Applied Meteorology 1979"
    formula = "y(i) = sum_j w(|p - j|) x(j) / sum_j w(|p - j|), p = (i + 0.5) / s - 0.5"
    pitfalls = ("Overshoots at edges, as every sinc does.",)
    macs_formula = "2*lobes*(s*C + s**2*C)"

    weights: Tensor

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        lobes: Annotated[int, Field(ge=1, le=5)] = 3,
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        self.lobes = lobes
        phase = (torch.arange(scale_factor) + 0.5) / scale_factor - 0.5  # (s,)
        tap = torch.arange(-lobes, lobes + 1)
        distance = phase[:, None] - tap
        weights = torch.sinc(distance) * torch.sinc(distance / lobes) * (distance.abs() < lobes)
        weights = weights / weights.sum(1, keepdim=True)
        self.register_buffer("weights", weights, persistent=False)  # (s, 2 * lobes + 1)

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Interpolate the rows, then the columns."""
        weights = self.weights.to(x.dtype)
        x = F.pad(x, [self.lobes] * 4, mode="replicate")
        rows = x.unfold(2, weights.shape[1], 1) @ weights.mT  # (B, C, H, W + 2 * lobes, s)
        x = rows.movedim(4, 3).flatten(2, 3)  # (B, C, s*H, W + 2 * lobes)
        return (x.unfold(3, weights.shape[1], 1) @ weights.mT).flatten(3, 4)

    def macs_per_pixel(self) -> int:
        """Both passes; the first works on the columns of the input."""
        s = self.scale_factor
        return 2 * self.lobes * (s + s**2) * self.channels
