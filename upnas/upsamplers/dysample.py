from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import Upsampler


class DySample(Upsampler):
    """Learned point sampling (DySample).

    Liu et al., ICCV 2023, https://arxiv.org/abs/2308.15085, section 3. Every output pixel reads the
    input bilinearly at its own position plus a predicted offset, per group of channels. With the
    1x1 convolutions W1 and W2 the offset in input pixels is::

        0.25 W1 x                      static scope
        0.5 sigmoid(W2 x) * W1 x       dynamic scope ("DySample+")

    Style ``lp`` predicts the s*s offsets of an input pixel from that pixel and then shuffles them
    (linear + pixel shuffle); ``pl`` shuffles C channels to C / s^2 first and predicts one offset
    per output pixel, with s^4 times fewer weights.

    Positions are computed in float32 at least: in bfloat16 they would be off by more than a pixel
    on maps some 500 pixels wide. W1 starts from N(0, 1e-3) and W2 from zero, so the operator starts
    as bilinear interpolation. The gradient of ``grid_sample`` is not deterministic on CUDA.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        style: See above.
        groups: Most groups of channels that move together. The number used is
            gcd(``channels``, ``groups``), so that every stage can be searched with one setting.
        dynamic_scope: Predict how far the points may move.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Attributes:
        groups: The number of groups used.

    Raises:
        ValueError: If ``style`` is ``pl`` and C is not divisible by s^2, if ``groups`` is not
            positive, or ``out_channels`` differs from ``channels``.
    """

    keeps_channels = True
    keeps_constants = True

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        style: Literal["lp", "pl"] = "lp",
        groups: Annotated[int, Field(ge=1)] = 4,
        dynamic_scope: bool = False,
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        phases = scale_factor**2
        if groups < 1:
            raise ValueError(f"DySample needs groups >= 1; got {groups}.")
        if style == "pl" and channels % phases:
            raise ValueError(
                f"DySample with style='pl' needs channels divisible by scale_factor**2 = {phases}; "
                f"got {channels}. Take a multiple, or style='lp'."
            )
        self.style = style
        self.groups = math.gcd(channels, groups)
        features = channels if style == "lp" else channels // phases
        coordinates = 2 * self.groups * (phases if style == "lp" else 1)
        self.offset = nn.Conv2d(features, coordinates, 1)
        nn.init.normal_(self.offset.weight, std=1e-3)
        nn.init.zeros_(self.offset.bias)  # type: ignore[arg-type]  # it has a bias
        self.scope = nn.Conv2d(features, coordinates, 1, bias=False) if dynamic_scope else None
        if self.scope is not None:
            nn.init.zeros_(self.scope.weight)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        b, c, h, w = x.shape
        grid = self.sampling_grid(x)
        # grid_sample wants one dtype, and groups are independent maps to it.
        features = x.reshape(b * self.groups, c // self.groups, h, w).to(grid.dtype)
        y = F.grid_sample(
            features, grid, mode="bilinear", padding_mode="border", align_corners=False
        )
        return y.reshape(b, c, *grid.shape[1:3]).to(x.dtype)

    def sampling_grid(self, x: Tensor) -> Tensor:
        """Return where each output pixel reads, as ``grid_sample`` expects it.

        Args:
            x: Features, (B, C, H, W).

        Returns:
            (x, y) positions in [-1, 1] between the outer edges of the map, (B * groups, s*H, s*W,
            2), in float32 (float64 for float64 features).
        """
        h, w = x.shape[-2:]
        height, width = self.scale_factor * h, self.scale_factor * w
        offsets = self._offsets(x)
        ys = (2 * torch.arange(height, device=x.device, dtype=offsets.dtype) + 1) / height - 1
        xs = (2 * torch.arange(width, device=x.device, dtype=offsets.dtype) + 1) / width - 1
        # A map spans 2 units: an input pixel is 2 / W wide and 2 / H high.
        across = xs + offsets[:, 0] * (2 / w)
        down = ys[:, None] + offsets[:, 1] * (2 / h)
        return torch.stack([across, down], dim=-1).flatten(0, 1)

    def _offsets(self, x: Tensor) -> Tensor:
        """Offsets in input pixels, (B, 2, groups, s*H, s*W), in the dtype of the positions."""
        dtype = torch.promote_types(x.dtype, torch.float32)
        if self.style == "pl":
            x = F.pixel_shuffle(x, self.scale_factor)
        offsets: Tensor = self.offset(x).to(dtype)
        if self.scope is None:
            offsets = 0.25 * offsets
        else:
            offsets = 0.5 * self.scope(x).to(dtype).sigmoid() * offsets
        if self.style == "lp":
            offsets = F.pixel_shuffle(offsets, self.scale_factor)
        b, _, height, width = offsets.shape
        return offsets.reshape(b, 2, self.groups, height, width)

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, style={self.style!r}, groups={self.groups}"
