from __future__ import annotations

import math
from typing import Annotated, Literal

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import Upsampler
from upnas.upsamplers.choices import check_choice
from upnas.upsamplers.functional.sampling import sample

Style = Literal["lp", "pl"]


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
    as bilinear interpolation.

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

    paper = "Liu et al., ICCV 2023, https://arxiv.org/abs/2308.15085"
    formula = (
        "y[Y, X] = x at the pixel's own position + o, bilinear, per group of channels\n"
        "o = 0.25 W1 x   or   0.5 sigmoid(W2 x) * W1 x"
    )
    pitfalls = (
        "Positions computed in bfloat16 are off by pixels on wide maps; here they are float32.",
        "The authors call style pl with 8 groups DySample-S; it needs channels divisible by s*s.",
        "It moves features and cannot filter them: what is not in the input is not in the output.",
    )
    params_formula = "2 * groups * s**2 * (C + 1)"
    macs_formula = "2 * groups * s**2 * C + 4 * s**2 * C"
    nondeterministic = "The gradient of the features is added up atomically, by grid_sample too."

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        style: Style = "lp",
        groups: Annotated[int, Field(ge=1)] = 4,
        dynamic_scope: bool = False,
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        check_choice(type(self).__name__, "style", style, Style)
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
        features = x if self.style == "lp" else F.pixel_shuffle(x, self.scale_factor)
        scope = None if self.scope is None else self.scope(features)
        return sample(x, self.offset(features), scope, self.groups, self.scale_factor)

    @override
    def macs_per_pixel(self) -> int:
        predictions = 1 if self.scope is None else 2
        convolution = self.offset.in_channels * self.offset.out_channels
        if self.style == "pl":
            convolution *= self.scale_factor**2
        return predictions * convolution + 4 * self.scale_factor**2 * self.channels

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, style={self.style!r}, groups={self.groups}"
