"""Interpolation without weights: what ``torch.nn.Upsample`` and ``F.interpolate`` offer.

Two of their modes are no entries here: ``area`` averages only where it shrinks (x2 is nearest),
and ``lanczos`` has no CUDA kernel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from upnas.upsamplers.base import ScaleFactor, Upsampler
from upnas.upsamplers.choices import check_choice

Sizing = Literal["crop", "resize"]

_SLOW_IF_DETERMINISTIC = (
    "Under torch.use_deterministic_algorithms, CUDA takes a slower decomposition."
)


class _Interpolation(Upsampler):
    """What every mode shares: factors, sizes and recomputed factors."""

    keeps_channels = True
    keeps_constants = True
    per_axis = True
    fractional = True

    mode: ClassVar[str]
    #: How many input pixels an output pixel is the weighted sum of; 0 where it is a copy.
    num_taps: ClassVar[int]

    align_corners: bool | None = None
    antialias: bool = False

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: ScaleFactor = 2,
        spatial_dims: int = 2,
        sizing: Sizing = "crop",
        recompute_scale_factor: bool = False,
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, spatial_dims=spatial_dims
        )
        check_choice(type(self).__name__, "sizing", sizing, Sizing)
        self._has_integer_factors = all(isinstance(s, int) for s in self.factors)
        if recompute_scale_factor and self._has_integer_factors:
            raise ValueError(
                f"{type(self).__name__}: recompute_scale_factor changes fractional factors only; "
                f"scale_factor={self._shown_factor()} is the quotient of the sizes already."
            )
        self.sizing = sizing
        self.recompute_scale_factor = recompute_scale_factor

    @override
    def forward(
        self, x: Tensor, size: Sequence[int] | None = None, guide: Tensor | None = None
    ) -> Tensor:
        if size is None or self.sizing == "crop":
            return super().forward(x, size, guide)
        return self._interpolate(x, size=tuple(size))

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        if self._has_integer_factors or self.recompute_scale_factor:
            return self._interpolate(x, size=self.upsampled_size(x))
        return self._interpolate(x, scale_factor=self.factors)

    def _interpolate(
        self,
        x: Tensor,
        size: tuple[int, ...] | None = None,
        scale_factor: tuple[float, ...] | None = None,
    ) -> Tensor:
        dtype = x.dtype
        if self.antialias:  # has no CPU kernel for half precision
            x = x.to(torch.promote_types(dtype, torch.float32))
        return F.interpolate(
            x,
            size=size,
            scale_factor=scale_factor,
            mode=self.mode,
            align_corners=self.align_corners,
            antialias=self.antialias,
        ).to(dtype)

    @override
    def macs_per_pixel(self) -> int:
        return round(self.num_taps * math.prod(self.factors) * self.channels)

    @override
    def extra_repr(self) -> str:
        changed = {
            "align_corners": self.align_corners,
            "antialias": self.antialias,
            "recompute_scale_factor": self.recompute_scale_factor,
        }
        shown = "".join(f", {name}=True" for name, value in changed.items() if value)
        sizing = "" if self.sizing == "crop" else f", sizing={self.sizing}"
        return f"{super().extra_repr()}{shown}{sizing}"


class Nearest(_Interpolation):
    """Nearest-neighbour interpolation, rounding down: repeats every pixel s*s times.

    Output pixel i reads input pixel floor(i / s) in each axis.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Upsampling factor s, one for all axes or one per axis; may be fractional.
        spatial_dims: 2 for (B, C, H, W), 3 for (B, C, D, H, W).
        sizing: What ``forward(x, size)`` does. ``crop``: make s*H x s*W and crop, the contract of
            every upsampler. ``resize``: interpolate to the size, whatever it is and whatever s is,
            as :class:`torch.nn.Upsample` does.
        recompute_scale_factor: Read at floor(i * H / floor(s*H)) instead.

    Shape:
        (B, C, H, W) -> (B, C, floor(s*H), floor(s*W)), for any H, W >= 1.

    Raises:
        ValueError: If ``out_channels`` differs from ``channels``, or ``recompute_scale_factor`` is
            set where the factors are integers and it changes nothing.
    """

    formula = "y[i] = x[floor(i / s)] in each axis"
    pitfalls = (
        "Blocky edges, whose lattice checkerboard metrics see: compare those with nearest.",
        "Resized to a size that is no multiple, it reads up to half a pixel too early: see "
        "nearest_exact.",
        "torch.compile may differ from eager for fractional factors (pytorch#198201).",
    )
    dims = frozenset({2, 3})
    mode = "nearest"
    num_taps = 0


class NearestExact(_Interpolation):
    """Nearest-neighbour interpolation, by the centres of the pixels.

    Output pixel i reads input pixel floor((i + 0.5) / s) in each axis, as Pillow and scikit-image
    do. The same as :class:`Nearest` where s is an integer, and without its shift where it is not.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Upsampling factor s, one for all axes or one per axis; may be fractional.
        spatial_dims: 2 for (B, C, H, W), 3 for (B, C, D, H, W).
        sizing: ``crop`` or ``resize`` to reach a size, see :class:`Nearest`.
        recompute_scale_factor: Read with floor(s*H) / H in the place of s.

    Shape:
        (B, C, H, W) -> (B, C, floor(s*H), floor(s*W)), for any H, W >= 1.

    Raises:
        ValueError: If ``out_channels`` differs from ``channels``, or ``recompute_scale_factor`` is
            set where the factors are integers and it changes nothing.
    """

    formula = "y[i] = x[floor((i + 0.5) / s)] in each axis"
    pitfalls = (
        "The same as nearest for integer factors: searching both is a waste of trials.",
        "torch.compile may differ from eager for fractional factors (pytorch#198201).",
    )
    dims = frozenset({2, 3})
    mode = "nearest-exact"
    num_taps = 0


class _Cardinal(_Interpolation):
    """What the modes share that weigh their neighbours."""

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: ScaleFactor = 2,
        spatial_dims: int = 2,
        align_corners: bool = False,
        antialias: bool = False,
        sizing: Sizing = "crop",
        recompute_scale_factor: bool = False,
    ):
        super().__init__(
            channels,
            out_channels,
            scale_factor=scale_factor,
            spatial_dims=spatial_dims,
            sizing=sizing,
            recompute_scale_factor=recompute_scale_factor,
        )
        name = type(self).__name__
        if align_corners and recompute_scale_factor:
            raise ValueError(
                f"{name}: recompute_scale_factor changes nothing with align_corners, which reads "
                "by the sizes alone."
            )
        if align_corners and antialias:
            raise ValueError(
                f"{name}: antialias and align_corners exclude each other; PyTorch's antialiased "
                "kernels scale by aligned corners, but do not align them."
            )
        if antialias and self.mode == "bilinear" and sizing == "crop":
            raise ValueError(
                f"{name}: antialias changes nothing where bilinear interpolation enlarges; it is "
                "for sizing='resize', which may shrink."
            )
        self.align_corners = align_corners
        self.antialias = antialias


class Bilinear(_Cardinal):
    """Bilinear interpolation.

    Output pixel i reads the input at (i + 0.5) / s - 0.5, clamped to the border. With
    ``align_corners`` it reads at i * (H - 1) / (s*H - 1) instead: the positions then depend on the
    resolution and drift by up to half a pixel, so it is off unless a reference model needs it.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Upsampling factor s, one for both axes or one per axis; may be fractional.
        spatial_dims: 2; :class:`Trilinear` is the one for volumes.
        align_corners: Align the centres of the corner pixels, not their outer edges.
        antialias: Widen the kernel where it shrinks; needs ``sizing="resize"``.
        sizing: ``crop`` or ``resize`` to reach a size, see :class:`Nearest`.
        recompute_scale_factor: Read with floor(s*H) / H in the place of s.

    Shape:
        (B, C, H, W) -> (B, C, floor(s*H), floor(s*W)), for any H, W >= 1.

    Raises:
        ValueError: If ``out_channels`` differs from ``channels``, or where ``antialias`` or
            ``recompute_scale_factor`` changes nothing.
    """

    formula = (
        "y[i] = (1 - t) x[j] + t x[j + 1] in each axis\n"
        "j + t = (i + 0.5) / s - 0.5, clamped to the border"
    )
    pitfalls = (
        "align_corners reads at positions that depend on the resolution: trained on crops, a "
        "network meets others on whole images.",
        _SLOW_IF_DETERMINISTIC,
    )
    macs_formula = "4 * s**2 * C"
    mode = "bilinear"
    num_taps = 4


class Trilinear(_Cardinal):
    """Trilinear interpolation of volumes.

    :class:`Bilinear` with a third axis.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Upsampling factor s, one for all axes or one per axis, such as (1, 2, 2) for
            anisotropic voxels; may be fractional.
        spatial_dims: 3.
        align_corners: Align the centres of the corner voxels, not their outer edges.
        sizing: ``crop`` or ``resize`` to reach a size, see :class:`Nearest`.
        recompute_scale_factor: Read with floor(s*D) / D in the place of s.

    Shape:
        (B, C, D, H, W) -> (B, C, floor(s*D), floor(s*H), floor(s*W)), for any D, H, W >= 1.

    Raises:
        ValueError: If ``out_channels`` differs from ``channels``, or where
            ``recompute_scale_factor`` changes nothing.
    """

    formula = Bilinear.formula
    pitfalls = Bilinear.pitfalls
    macs_formula = "8 * s**3 * C"
    dims = frozenset({3})
    mode = "trilinear"
    num_taps = 8

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: ScaleFactor = 2,
        spatial_dims: int = 3,
        align_corners: bool = False,
        sizing: Sizing = "crop",
        recompute_scale_factor: bool = False,
    ):
        super().__init__(
            channels,
            out_channels,
            scale_factor=scale_factor,
            spatial_dims=spatial_dims,
            align_corners=align_corners,
            sizing=sizing,
            recompute_scale_factor=recompute_scale_factor,
        )


class Bicubic(_Cardinal):
    """Bicubic convolution.

    Keys, IEEE TASSP 1981, https://doi.org/10.1109/TASSP.1981.1163711, eq. 15 with the a = -0.75 of
    the common libraries instead of -0.5. Reads the same positions as :class:`Bilinear`; taps beyond
    the border read the border's pixel. ``antialias`` is another kernel even where it enlarges,
    Pillow's: a = -0.5, and taps beyond the border are left out and the rest renormalised.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Upsampling factor s, one for both axes or one per axis; may be fractional.
        spatial_dims: 2.
        align_corners: Align the centres of the corner pixels, not their outer edges.
        antialias: Take Pillow's kernel.
        sizing: ``crop`` or ``resize`` to reach a size, see :class:`Nearest`.
        recompute_scale_factor: Read with floor(s*H) / H in the place of s.

    Shape:
        (B, C, H, W) -> (B, C, floor(s*H), floor(s*W)), for any H, W >= 1.

    Raises:
        ValueError: If ``out_channels`` differs from ``channels``, ``antialias`` is set together
            with ``align_corners``, or ``recompute_scale_factor`` changes nothing.
    """

    paper = "Keys, IEEE TASSP 1981, https://doi.org/10.1109/TASSP.1981.1163711"
    formula = (
        "y[i] = sum_j k(p - j) x[j] in each axis, p = (i + 0.5) / s - 0.5, 4 taps\n"
        "k(d) = (a + 2)|d|^3 - (a + 3)|d|^2 + 1 for |d| <= 1; a|d|^3 - 5a|d|^2 + 8a|d| - 4a for "
        "|d| < 2; a = -0.75"
    )
    pitfalls = (
        "Overshoots a step by 10.5 % on both sides: not for probabilities.",
        "antialias is another kernel, not a refinement of this one; compiling its backward with "
        "dynamic sizes fails (pytorch#197622), and ONNX loses a fractional factor that is not "
        "recomputed.",
        _SLOW_IF_DETERMINISTIC,
    )
    macs_formula = "16 * s**2 * C"
    mode = "bicubic"
    num_taps = 16
