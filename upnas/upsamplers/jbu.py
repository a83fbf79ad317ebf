"""Joint bilateral upsampling, guided by the encoder skip or by the network's input image."""

from __future__ import annotations

from typing import Annotated

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import GuidedUpsampler
from upnas.upsamplers.functional.reassembly import reassemble, similarity


class JointBilateral(GuidedUpsampler):
    """Joint bilateral upsampling with a learned range kernel (JBU).

    Fu et al., ICLR 2024 (FeatUp), https://arxiv.org/abs/2403.10516, section 3; the filter is of
    Kopf et al., SIGGRAPH 2007. With the bicubically enlarged input x', an MLP of two 1x1
    convolutions with a GELU between them, and the offsets n of the (2r + 1)^2 window in units of
    the radius r::

        y_p = sum_n w_pn x'_{p + r n}
        w_p = softmax over n of (T <MLP(guide_p), MLP(guide_{p + r n})> - |n|^2 / (2 sigma^2))

    which is the product of the range kernel, a softmax, and the spatial Gaussian, normalised
    together. T and sigma are learned and start at 1. With ``fixup`` a second MLP reads the weights
    and the guide and corrects the weights: w + 0.1 (m - mean(m)).

    Differs from the authors' code: one step of s instead of a stack of doublings with an adaptively
    pooled guide; map and guide continue by replication, not by reflection, which needs maps larger
    than r; no dropout; no 1x1 convolution behind the last step; the correction is off by default,
    and its mean is removed, so that the weights still sum to one and constants stay constant;
    similarities, softmax and sums in float32 at least.

    The MLP keeps PyTorch's own initialisation: its products are of order one. With unit-gain
    weights they would grow with ``key_channels``, and the operator would start as mere bicubic
    interpolation.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        guide_channels: Channels C_guide of the guide; None means C.
        radius: Radius r of the window, in output pixels.
        key_channels: Channels that the guide is compared in.
        fixup: Correct the weights by a second MLP, as the paper does.

    Shape:
        (B, C, H, W), guide (B, C_guide, s*H, s*W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``radius`` is not positive or ``out_channels`` differs from ``channels``.
    """

    keeps_channels = True
    keeps_constants = True

    paper = (
        "Fu et al., FeatUp, ICLR 2024, https://arxiv.org/abs/2403.10516; "
        "Kopf et al., Joint bilateral upsampling, SIGGRAPH 2007"
    )
    formula = (
        "y_p = sum_n w_pn x'_{p + r n}, x' = bicubic(x)\n"
        "w_p = softmax_n(T <MLP(guide_p), MLP(guide_{p + r n})> - |n|^2 / (2 sigma^2))"
    )
    pitfalls = (
        "Works at the output resolution: (2r + 1)^2 (C + key_channels) MACs per output pixel.",
        "The window is in output pixels: at factor 4, radius 3 spans less than two input pixels.",
        "Without fixup=True it lacks the MLP that corrects the weights in the paper.",
        "Can only move what bicubic interpolation gives: a guide with edges that the features do "
        "not share prints its texture on them.",
    )
    params_formula = "C_guide * key_channels + key_channels + key_channels**2 + key_channels + 2"
    macs_formula = (
        "s**2 * (16 * C + C_guide * key_channels + key_channels**2"
        " + (2 * radius + 1)**2 * (key_channels + C))"
    )

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
        radius: Annotated[int, Field(ge=1)] = 3,
        key_channels: Annotated[int, Field(ge=1)] = 32,
        fixup: bool = False,
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, guide_channels=guide_channels
        )
        if radius < 1:
            raise ValueError(f"{type(self).__name__} needs radius >= 1; got {radius}.")
        self.radius = radius
        self.key_channels = key_channels
        taps = (2 * radius + 1) ** 2
        self.project = _mlp(self.guide_channels, key_channels)
        self.log_temperature = nn.Parameter(torch.zeros(()))
        self.log_sigma = nn.Parameter(torch.zeros(()))
        self.fixup = _mlp(self.guide_channels + taps, taps) if fixup else None

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None  # forward() has checked it
        # Autocast on a CPU interpolates in float32.
        enlarged = F.interpolate(x, size=self.upsampled_size(x), mode="bicubic").to(x.dtype)
        return reassemble(enlarged, self._kernels(guide), 1, padding="replicate")

    def _kernels(self, guide: Tensor) -> Tensor:
        """One kernel per output pixel, (B, (2r + 1)^2, s*H, s*W), in float32 at least."""
        projected = self.project(guide)
        ranges = similarity(projected, projected, 2 * self.radius + 1, 1, padding="replicate")
        steps = torch.linspace(
            -1, 1, 2 * self.radius + 1, device=ranges.device, dtype=ranges.dtype
        ).square()
        distances = (steps[:, None] + steps).reshape(-1, 1, 1)
        temperature = self.log_temperature.to(ranges.dtype).exp()
        precision = (-2 * self.log_sigma.to(ranges.dtype)).exp()
        kernels = (temperature * ranges - 0.5 * precision * distances).softmax(dim=1)
        if self.fixup is not None:
            correction = self.fixup(torch.cat([kernels.to(guide.dtype), guide], dim=1))
            correction = correction.to(kernels.dtype)
            kernels = kernels + 0.1 * (correction - correction.mean(dim=1, keepdim=True))
        return kernels

    @override
    def macs_per_pixel(self) -> int:
        taps = (2 * self.radius + 1) ** 2
        keys = self.key_channels
        macs = 16 * self.channels + keys * (self.guide_channels + keys)
        macs += taps * (keys + self.channels)
        if self.fixup is not None:
            macs += taps * (self.guide_channels + 2 * taps)
        return self.scale_factor**2 * macs

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, radius={self.radius}"


class JointBilateralImage(JointBilateral):
    """Joint bilateral upsampling guided by the network's input image, as in FeatUp.

    :class:`JointBilateral` with another guide: the image, at the output resolution of the stage.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        guide_channels: Channels C_guide of the image; None means 3.
        radius: Radius r of the window, in output pixels.
        key_channels: Channels that the image is compared in.
        fixup: Correct the weights by a second MLP, as the paper does.

    Shape:
        (B, C, H, W), image (B, C_guide, s*H, s*W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``radius`` is not positive or ``out_channels`` differs from ``channels``.
    """

    guide_source = "image"


def _mlp(in_channels: int, out_channels: int) -> nn.Sequential:
    """Two 1x1 convolutions with a GELU between them."""
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1),
        nn.GELU(),
        nn.Conv2d(out_channels, out_channels, 1),
    )
