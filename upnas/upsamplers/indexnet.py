from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import GuidedUpsampler
from upnas.upsamplers.choices import check_choice

Kind = Literal["holistic", "m2o"]


class IndexNet(GuidedUpsampler):
    """Nearest-neighbour enlargement weighted by an index map of the guide (IndexNet).

    Lu et al., ICCV 2019, https://arxiv.org/abs/1908.00672, and https://arxiv.org/abs/1908.09895. A
    network with stride s reads the guide e and predicts, for each input pixel, how much each of its
    s*s output pixels gets::

        index = sigmoid(pixel_shuffle(f(e)))
        y = index * nearest(x)

        f, nonlinear:  conv(C_guide -> 2 C_guide, stride s), batch norm, ReLU6, conv 1x1
        f, linear:     conv(C_guide -> ..., stride s)

    A holistic index has one channel for all of x. The depthwise many-to-one index (``m2o``) has one
    per channel of x, each from all channels of the guide, and a network f of its own per phase. All
    convolutions are without bias, and pad the guide with zeros, as in the paper.

    Differs from the paper: the guide may come from any encoder. There, the index (with a softmax
    over the s*s pixels) also is the pooling of the encoder.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        guide_channels: Channels of the guide; None means C.
        kind: One index for all channels, or one for each, see above.
        context: Kernel of side 2s - (s mod 2), which overlaps, instead of s: 4 instead of 2 at s=2.
        nonlinear: Two convolutions with batch norm and ReLU6 instead of one.

    Shape:
        (B, C, H, W) and a guide (B, C_guide, s*H, s*W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``kind`` is not offered, or ``out_channels`` differs from ``channels``.
    """

    keeps_channels = True
    paper = "Lu et al. (IndexNet), ICCV 2019, https://arxiv.org/abs/1908.00672"
    formula = (
        "index = sigmoid(pixel_shuffle(conv1(relu6(batch_norm(conv(guide, stride s))))))\n"
        "y = index * nearest(x)"
    )
    pitfalls = (
        "Large: 32 C_guide^2 weights at s = 2, and 4 (32 C_guide^2 + 2 C_guide C) with kind: m2o.",
        "The index only scales nearest-neighbour values, by a half at the start: blocks remain "
        "where the guide is flat.",
        "The paper pools the encoder with the same index; here the encoder keeps its own pooling.",
        "Batch norm needs batches in training.",
    )
    params_formula = "2 * C_guide * (C_guide * (2*s - s%2)**2 + 2 + s**2)"
    macs_formula = "2 * C_guide * (C_guide * (2*s - s%2)**2 + s**2) + s**2 * C"

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
        kind: Kind = "holistic",
        context: bool = True,
        nonlinear: bool = True,
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, guide_channels=guide_channels
        )
        check_choice(type(self).__name__, "kind", kind, Kind)
        s = scale_factor
        self.kind = kind
        # The networks of the phases run side by side, as groups of channels.
        networks, outputs = (1, s * s) if kind == "holistic" else (s * s, s * s * channels)
        side = 2 * s - s % 2 if context else s
        hidden = networks * 2 * self.guide_channels if nonlinear else outputs
        self.index = nn.Sequential(
            nn.Conv2d(
                self.guide_channels, hidden, side, stride=s, padding=(side - s) // 2, bias=False
            )
        )
        if nonlinear:
            self.index.extend(
                [
                    nn.BatchNorm2d(hidden),
                    nn.ReLU6(),
                    nn.Conv2d(hidden, outputs, 1, groups=networks, bias=False),
                ]
            )

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        logits = self.index(guide)
        if self.kind == "m2o":  # phase by phase -> channel by channel, as a pixel shuffle reads
            logits = F.channel_shuffle(logits, self.scale_factor**2)
        index = F.pixel_shuffle(logits, self.scale_factor).sigmoid()
        u = F.interpolate(x, size=self.upsampled_size(x), mode="nearest")
        return u * index.to(u.dtype)

    @override
    def macs_per_pixel(self) -> int:
        convolutions = [m.weight.numel() for m in self.index if isinstance(m, nn.Conv2d)]
        return sum(convolutions) + self.scale_factor**2 * self.channels
