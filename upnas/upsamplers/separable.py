"""Nearest-neighbour resizing, then a depthwise and a 1x1 convolution."""

from __future__ import annotations

from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import Upsampler
from upnas.upsamplers.choices import check_choice
from upnas.upsamplers.initialisation import kaiming_

Form = Literal["plain", "fused"]


class Separable(Upsampler):
    """Nearest resizing, depthwise 3x3 convolution, 1x1 convolution.

    The depthwise-separable convolution of Howard et al., 2017 (MobileNet),
    https://arxiv.org/abs/1704.04861, section 3.1, in place of the 3x3 one of a resize-convolution;
    without its batch norm and activations. Linear. Zero padding. The 1x1 convolution must come
    last: channels that are mixed cannot be filtered each on its own any more.

    The taps of the depthwise kernel that read copies of one input pixel add up: resizing and
    filtering are one depthwise transposed convolution of side s + 2, the same function of the same
    parameters.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.
        form: ``plain``: the two steps. ``fused``: the transposed convolution, which in float32
            filters two to three times as fast on a CPU, and is slow there in half precision.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    paper = "Howard et al., 2017, https://arxiv.org/abs/1704.04861"
    formula = (
        "y = conv1x1(depthwise3x3(nearest(x)))\n"
        "fused: y = conv1x1(depthwise_conv_transpose(x, W3 * box_s, stride=s, padding=1))"
    )
    pitfalls: ClassVar[tuple[str, ...]] = (
        "Pads with zeros, as convolutions do: the border is darker.",
        "form='fused' is many times slower than 'plain' in half precision on a CPU.",
    )
    params_formula = "9*C + C*C_out + C_out"
    macs_formula = "C * ((s + 2 if form == 'fused' else 3*s)**2 + s**2 * C_out)"

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        form: Form = "plain",
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        check_choice(type(self).__name__, "form", form, Form)
        self.form = form
        self.depthwise = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.pointwise = nn.Conv2d(channels, self.out_channels, 1)
        kaiming_(self.depthwise)
        kaiming_(self.pointwise)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y: Tensor = self.pointwise(self.filtered(x))
        return y

    def filtered(self, x: Tensor) -> Tensor:
        """Return the depthwise convolution of the resized map, (B, C, s*H, s*W)."""
        s = self.scale_factor
        if self.form == "plain":
            y: Tensor = self.depthwise(F.interpolate(x, size=self.upsampled_size(x)))
            return y
        # The output pixels around an input pixel read it with the kernel turned around; each of
        # its s x s copies adds that once. (C, 1, s + 2, s + 2)
        copies = self.depthwise.weight.new_ones(1, 1, s, s)
        kernel = F.conv_transpose2d(self.depthwise.weight.flip(2, 3), copies)
        return F.conv_transpose2d(x, kernel, stride=s, padding=1, groups=self.channels)

    @override
    def macs_per_pixel(self) -> int:
        s = self.scale_factor
        taps = (s + 2 if self.form == "fused" else 3 * s) ** 2
        return self.channels * (taps + s**2 * self.out_channels)

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, form={self.form}"


class Eucb(Separable):
    """Nearest resizing, depthwise 3x3 convolution, batch norm, ReLU, 1x1 convolution.

    The efficient up-convolution block (EUCB) of EMCAD, Rahman et al., CVPR 2024,
    https://arxiv.org/abs/2405.06880. Differs from the authors' code: their channel
    shuffle is called with as many groups as channels, which is the identity, and is left out.
    Zero padding.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.
        form: How to resize and filter, see :class:`Separable`.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    paper = "Rahman et al., CVPR 2024, https://arxiv.org/abs/2405.06880"
    formula = "y = conv1x1(relu(batch_norm(depthwise3x3(nearest(x)))))"
    pitfalls = (
        *Separable.pitfalls,
        "The statistics of the batch norm are those of the high resolution's many like pixels.",
    )
    params_formula = "11*C + C*C_out + C_out"

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        form: Form = "plain",
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor, form=form)
        self.norm = nn.BatchNorm2d(channels)
        kaiming_(self.depthwise, "relu")

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y: Tensor = self.pointwise(F.relu(self.norm(self.filtered(x))))
        return y
