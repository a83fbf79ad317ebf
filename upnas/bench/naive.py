"""The straightforward formulations that the catalogue's are measured against.

Each is a subclass of a catalogue class that has its parameters and gives its output, computed as
the papers' pseudo-code and common implementations do it: windows are unfolded at the output
resolution, sampling positions go through one pass per step, and convolutions follow the
enlargement. They are no strawmen: nothing is done twice, and all work is inside torch's operators.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from upnas.upsamplers import BilinearConv1x1, Carafe, DySample, NearestConv, Upsampler
from upnas.upsamplers.base import GuidedUpsampler
from upnas.upsamplers.fade import Fade
from upnas.upsamplers.functional.reassembly import reassemble
from upnas.upsamplers.jbu import JointBilateral
from upnas.upsamplers.sapa import Sapa


def unfold_enlarged(
    x: Tensor, kernel_size: int, scale_factor: int, padding: Literal["zeros", "replicate"] = "zeros"
) -> Tensor:
    """The k*k neighbours of every output pixel's input pixel, (B, C, k*k, s*H, s*W)."""
    b, c, h, w = x.shape
    mode = "constant" if padding == "zeros" else padding
    padded = F.pad(x, [kernel_size // 2] * 4, mode=mode)
    windows = F.unfold(padded, kernel_size).view(b, c * kernel_size**2, h, w)
    size = (scale_factor * h, scale_factor * w)
    return F.interpolate(windows, size=size, mode="nearest").view(b, c, kernel_size**2, *size)


def reassemble_unfolded(
    x: Tensor,
    kernels: Tensor,
    scale_factor: int,
    padding: Literal["zeros", "replicate"] = "zeros",
) -> Tensor:
    """:func:`~upnas.upsamplers.functional.reassembly.reassemble` from unfolded windows."""
    windows = unfold_enlarged(x, math.isqrt(kernels.shape[1]), scale_factor, padding)
    return (windows * kernels.unsqueeze(1)).sum(dim=2).to(x.dtype)


class ReassemblyKernel(GuidedUpsampler):
    """The reassembly of CARAFE and its family alone; the guide holds the 5 x 5 kernels."""

    keeps_channels = True

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
    ):
        del guide_channels  # the window decides
        super().__init__(channels, out_channels, scale_factor=scale_factor, guide_channels=25)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None
        return reassemble(x, guide, self.scale_factor)


class NaiveReassemblyKernel(ReassemblyKernel):
    """From windows that are unfolded at the output resolution."""

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None
        return reassemble_unfolded(x, guide, self.scale_factor)


class NaiveCarafe(Carafe):
    """From windows that are unfolded at the output resolution."""

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        logits = F.pixel_shuffle(self.encode(self.compress(x)), self.scale_factor)
        return reassemble_unfolded(x, logits.softmax(dim=1), self.scale_factor)


class NaiveFade(Fade):
    """From windows that are unfolded at the output resolution."""

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None
        assert self.gate is not None
        size = self.upsampled_size(x)
        from_features = F.interpolate(self.encode(self.compress(x)), size=size, mode="nearest")
        logits = self.encode(self.compress_guide(guide)) + from_features
        y = reassemble_unfolded(x, logits.softmax(dim=1), self.scale_factor, self.padding)
        gate = F.interpolate(self.gate(x).sigmoid(), size=size, mode="nearest")
        e = guide if self.project_guide is None else self.project_guide(guide)
        return gate * e + (1 - gate) * y


class NaiveSapa(Sapa):
    """Keys and values from windows that are unfolded at the output resolution."""

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None
        query = self.query(self.norm_guide(guide.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        key = self.key(self.norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        keys = unfold_enlarged(key, self.kernel_size, self.scale_factor, self.padding)
        logits = (query.unsqueeze(2) * keys).sum(dim=1)
        return reassemble_unfolded(x, logits.softmax(dim=1), self.scale_factor, self.padding)


class NaiveJointBilateral(JointBilateral):
    """Keys and values from unfolded windows; they lie at the output resolution anyway."""

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None
        assert self.fixup is None
        side = 2 * self.radius + 1
        query = self.project(guide)
        keys = unfold_enlarged(query, side, 1, "replicate")
        ranges = (query.unsqueeze(2) * keys).sum(dim=1)
        steps = torch.linspace(-1, 1, side, device=x.device, dtype=x.dtype)
        distances = (steps[:, None] ** 2 + steps**2).view(1, -1, 1, 1)
        spatial = distances / (2 * self.log_sigma.exp() ** 2)
        kernels = (self.log_temperature.exp() * ranges - spatial).softmax(dim=1)
        enlarged = F.interpolate(x, size=self.upsampled_size(x), mode="bicubic")
        return reassemble_unfolded(enlarged, kernels, 1, "replicate")


class NaiveDySample(DySample):
    """Style ``lp``: offsets plus positions at the input resolution, then one shuffle of both."""

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert self.style == "lp"
        assert self.scope is None
        b, c, h, w = x.shape
        s, g = self.scale_factor, self.groups
        phases = (torch.arange(s, device=x.device, dtype=x.dtype) + 0.5) / s - 0.5
        own = torch.stack(torch.meshgrid(phases, phases, indexing="xy"))  # (2, s, s): x, y
        own = own.view(2, 1, s * s).expand(2, g, s * s).reshape(1, -1, 1, 1)
        offsets = (0.25 * self.offset(x) + own).view(b, 2, -1, h, w)
        columns = torch.arange(w, device=x.device, dtype=x.dtype) + 0.5
        rows = torch.arange(h, device=x.device, dtype=x.dtype) + 0.5
        centres = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).view(1, 2, 1, h, w)
        sides = torch.tensor([w, h], device=x.device, dtype=x.dtype).view(1, 2, 1, 1, 1)
        positions = 2 * (centres + offsets) / sides - 1
        enlarged = F.pixel_shuffle(positions.view(b, -1, h, w), s).view(b, 2, g, s * h, s * w)
        grid = enlarged.permute(0, 2, 3, 4, 1).flatten(0, 1)  # (B * g, s*H, s*W, 2)
        features = x.reshape(b * g, c // g, h, w)
        y = F.grid_sample(features, grid, padding_mode="border", align_corners=False)
        return y.view(b, c, s * h, s * w)


class NaiveNearestConv(NearestConv):
    """Enlarges, then convolves."""

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        y: Tensor = self.conv(F.interpolate(x, size=self.upsampled_size(x), mode="nearest"))
        return y


class NaiveBilinearConv1x1(BilinearConv1x1):
    """Enlarges, then convolves."""

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        size = self.upsampled_size(x)
        y: Tensor = self.conv(F.interpolate(x, size=size, mode="bilinear", align_corners=False))
        return y


#: What is timed besides the catalogue.
KERNELS: Final[Mapping[str, type[Upsampler]]] = MappingProxyType(
    {"reassembly_kernel": ReassemblyKernel}
)

#: Catalogue name or kernel -> the same function, straightforwardly.
NAIVE: Final[Mapping[str, type[Upsampler]]] = MappingProxyType(
    {
        "bilinear_conv1x1": NaiveBilinearConv1x1,
        "carafe": NaiveCarafe,
        "dysample": NaiveDySample,
        "fade": NaiveFade,
        "jbu": NaiveJointBilateral,
        "nearest_conv": NaiveNearestConv,
        "reassembly_kernel": NaiveReassemblyKernel,
        "sapa": NaiveSapa,
    }
)
