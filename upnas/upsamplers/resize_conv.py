"""Interpolation with a convolution before or after it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Literal, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import ScaleFactor, Upsampler
from upnas.upsamplers.choices import check_choice
from upnas.upsamplers.functional.convolution import CONV_TRANSPOSE, CONVOLUTION, mix_channels
from upnas.upsamplers.initialisation import kaiming_

Form = Literal["fused", "plain"]
Order = Literal["conv_first", "upsample_first"]

_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_LINEAR = {2: "bilinear", 3: "trilinear"}


class NearestConv(Upsampler):
    """Nearest-neighbour resizing, then a 3x3 convolution (resize-convolution).

    Odena et al., Distill 2016, https://doi.org/10.23915/distill.00003. Zero padding; no activation.
    Free of checkerboard at initialisation and, unlike a sub-pixel convolution, by construction
    close to it after training: all output pixels share one 3x3 kernel.

    Neighbouring taps of that kernel read the same input pixel. Added up beforehand they are a
    transposed convolution of stride s and padding 1, whose kernel is the 3x3 one convolved with an
    s x s box: the same function of the same parameters, in training too, with (s + 2)^2 instead of
    9 s^2 multiplications per input pixel and without the intermediate map.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s, one for all axes or one per axis.
        spatial_dims: 2 for (B, C, H, W), 3 for (B, C, D, H, W).
        form: ``fused``: the transposed convolution. ``plain``: the two steps, faster on a CPU where
            the map is so small that adding up the weights is a part of the work.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    paper = "Odena et al., Distill 2016, https://doi.org/10.23915/distill.00003"
    formula = (
        "y = conv3x3(nearest(x))\n"
        "fused: y = conv_transpose(x, W3 * box_s, stride=s, padding=1), side s + 2"
    )
    pitfalls = (
        "Pads with zeros, as convolutions do: the border is darker.",
        "Summed-up weights are rounded once more in half precision: the two forms differ by that.",
    )
    params_formula = "9 * C * C_out + C_out"
    macs_formula = "(s + 2)**2 * C * C_out"
    per_axis = True
    dims = frozenset({2, 3})

    boxes: Tensor

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: ScaleFactor = 2,
        spatial_dims: int = 2,
        form: Form = "fused",
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, spatial_dims=spatial_dims
        )
        check_choice(type(self).__name__, "form", form, Form)
        self.form = form
        self.conv = CONVOLUTION[spatial_dims](channels, self.out_channels, 3, padding=1)
        kaiming_(self.conv)
        if form == "fused":
            self.register_buffer("boxes", _boxes(self.factors), persistent=False)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if self.form == "fused":
            # to_empty() leaves it undefined, and no state dict brings it back.
            self.boxes = _boxes(self.factors).to(self.boxes)
        return self

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        if self.form == "plain":
            y: Tensor = self.conv(F.interpolate(x, size=self.upsampled_size(x), mode="nearest"))
            return y
        sides = tuple(s + 2 for s in self.factors)
        weight = self.conv.weight.transpose(0, 1).flatten(2) @ self.boxes  # (C, C_out, taps)
        return CONV_TRANSPOSE[self.spatial_dims](
            x,
            weight.view(*weight.shape[:2], *sides),
            self.conv.bias,
            stride=self.factors,
            padding=1,
        )

    @override
    def macs_per_pixel(self) -> int:
        taps = math.prod(s + 2 if self.form == "fused" else 3 * s for s in self.factors)
        return taps * self.channels * self.out_channels

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, form={self.form}"


def _boxes(factors: Sequence[int]) -> Tensor:
    """(3^n, prod(s + 2)) zeros and ones: the taps of the fused kernel that a tap of 3 adds to.

    Output pixel o reads, with tap t, the repeated pixel o + t - 1, which is input pixel j where
    0 <= o + t - 1 - s j < s; the transposed convolution reads j with tap o + 1 - s j.
    """
    per_axis = []
    for s in factors:
        start = 2 - torch.arange(3)[:, None]
        place = torch.arange(s + 2)
        per_axis.append(((start <= place) & (place < start + s)).to(torch.get_default_dtype()))
    return functools.reduce(torch.kron, per_axis)


class BilinearConv1x1(Upsampler):
    """A 1x1 convolution and bilinear (in 3-D, trilinear) interpolation.

    The two commute exactly, because interpolation weights sum to one and act per channel, so by
    default the convolution runs first, on s*s times fewer pixels; the usual spelling has it last.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s, one for all axes or one per axis.
        spatial_dims: 2 for (B, C, H, W), 3 for (B, C, D, H, W).
        order: ``conv_first`` or ``upsample_first``: the same function of the same parameters.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    formula = "y = bilinear(conv1x1(x)) = conv1x1(bilinear(x))"
    pitfalls = (
        "The orders are the same only because nothing stands between the two, no norm and no "
        "activation.",
        "No spatial mixing but interpolation: what follows must sharpen.",
    )
    params_formula = "C * C_out + C_out"
    macs_formula = "C * C_out + 4 * s**2 * C_out"
    keeps_constants = True
    per_axis = True
    dims = frozenset({2, 3})

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: ScaleFactor = 2,
        spatial_dims: int = 2,
        order: Order = "conv_first",
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, spatial_dims=spatial_dims
        )
        check_choice(type(self).__name__, "order", order, Order)
        self.order = order
        self.conv = CONVOLUTION[spatial_dims](channels, self.out_channels, 1)
        kaiming_(self.conv)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        size = self.upsampled_size(x)
        if self.order == "conv_first":
            return _linear(mix_channels(self.conv, x), size)
        return mix_channels(self.conv, _linear(x, size))

    @override
    def macs_per_pixel(self) -> int:
        phases = math.prod(self.factors)
        interpolation = phases << self.spatial_dims  # 2 taps per axis
        mixing = self.channels * self.out_channels
        if self.order == "conv_first":
            return mixing + interpolation * self.out_channels
        return interpolation * self.channels + phases * mixing

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, order={self.order}"


class UNetBlock(Upsampler):
    """Bilinear (in 3-D, trilinear) interpolation, 3x3 convolution, batch norm, ReLU.

    The up-sampling step of the bilinear U-Nets that followed Ronneberger et al., MICCAI 2015,
    https://arxiv.org/abs/1505.04597 (whose own is a transposed convolution). Differs from the
    widespread code: ``align_corners=False``, whose positions do not depend on the resolution.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s, one for all axes or one per axis.
        spatial_dims: 2 for (B, C, H, W), 3 for (B, C, D, H, W).

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    paper = "Ronneberger et al., MICCAI 2015, https://arxiv.org/abs/1505.04597, and common practice"
    formula = "y = relu(batch_norm(conv3x3(bilinear(x))))"
    pitfalls = (
        "All of the convolution runs at the high resolution: the costliest of the simple ones.",
        "The statistics of the batch norm are those of the high resolution's many like pixels.",
    )
    params_formula = "9 * C * C_out + 2 * C_out"
    macs_formula = "s**2 * (4 * C + 9 * C * C_out)"
    per_axis = True
    dims = frozenset({2, 3})

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: ScaleFactor = 2,
        spatial_dims: int = 2,
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, spatial_dims=spatial_dims
        )
        self.conv = CONVOLUTION[spatial_dims](channels, self.out_channels, 3, padding=1, bias=False)
        self.norm = _NORM[spatial_dims](self.out_channels)
        kaiming_(self.conv, "relu")

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        u = _linear(x, self.upsampled_size(x))
        return F.relu(self.norm(self.conv(u)))

    @override
    def macs_per_pixel(self) -> int:
        taps = self.conv.weight[0, 0].numel()
        interpolation = self.channels << self.spatial_dims  # 2 taps per axis
        return math.prod(self.factors) * (interpolation + taps * self.channels * self.out_channels)


def _linear(x: Tensor, size: tuple[int, ...]) -> Tensor:
    return F.interpolate(x, size=size, mode=_LINEAR[x.dim() - 2], align_corners=False)
