from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import GuidedUpsampler
from upnas.upsamplers.functional.reassembly import reassemble, similarity
from upnas.upsamplers.functional.sampling import sample_at
from upnas.upsamplers.initialisation import kaiming_


class FreqFusion(GuidedUpsampler):
    """Frequency-aware fusion of a coarse feature and its guide (FreqFusion).

    Chen et al., TPAMI 2024, https://arxiv.org/abs/2408.12879, section 4. One low-pass filter per
    output pixel upsamples x, without the high frequencies inside objects; one high-pass filter per
    output pixel, the identity minus a low-pass filter, returns to the guide the detail that its
    encoder lost. With K * x the reassembly of x by the kernels K, the 1x1 convolutions W and the
    3x3 convolutions E::

        y  = L * x                         (upsamples by s)
        g' = g + (g - H * g)
        output = y + g'                    (1x1 convolution of g' where the channels differ)

        filter(V) = softmax(V) * Hamming, normalised to a sum of one
        c = W_x x,  f = W_g g              (compressed to d channels)
        f' = f + (f - filter(E_h f) * f)
        L = filter(E_l f' + filter(E_l f') * E_l c)
        H = filter(E_h f  + L * E_h c)

    The last three lines are the initial fusion f' + up(c), which both filters are predicted from;
    the convolutions of c stay at its own resolution, as a convolution of the sum is the sum of the
    convolutions. With ``resample`` every output pixel then reads y at a learned offset, per group
    of channels (see :class:`OffsetGenerator`).

    The operator improves both branches. :meth:`pair` returns the two, for a decoder that fuses them
    in its own way; the output of the operator is their sum, the fused feature of the paper.

    Differs from the authors' code, which returns a triple of mask, guide and upsampled input: any
    factor s instead of 2; maps continue by replication, not by zeros, so that borders stay as
    bright as the rest (their fallback without mmcv reflects, which needs maps larger than r);
    nothing is unfolded; softmax and sums in float32 at least; resampling is off unless asked for;
    the offset generator is written from the paper, its details are ours.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        guide_channels: Channels C_guide of the guide; None means C.
        compressed_channels: Channels d that the filters are predicted from.
        lowpass_kernel: Side of the low-pass filters; odd.
        highpass_kernel: Side of the high-pass filters; odd.
        resample: Read the upsampled map at learned offsets.

    Shape:
        (B, C, H, W), guide (B, C_guide, s*H, s*W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If a kernel side is even or below 3, or ``out_channels`` differs from
            ``channels``.
    """

    keeps_channels = True

    paper = "Chen et al., FreqFusion, TPAMI 2024, https://arxiv.org/abs/2408.12879"
    formula = (
        "y = L * x + g + (g - H * g), L k5 low-pass filters at s*H x s*W, H k3 ones\n"
        "L, H = softmax, times a Hamming window, renormalised, of convolutions of compressed g, x"
    )
    pitfalls = (
        "The output contains the guide: a fusion behind it that adds or concatenates the skip "
        "sees the skip twice. A decoder of one's own can take both branches from pair().",
        "Filters are predicted at the output resolution: 9 d (25 + 9) MACs per output pixel.",
        "With resample=True its gradient is not deterministic on CUDA (grid_sample).",
    )
    params_formula = (
        "(C + 1) * compressed_channels + (C_guide + 1) * compressed_channels"
        " + (9 * compressed_channels + 1) * (lowpass_kernel**2 + highpass_kernel**2)"
        " + (C_guide != C) * (C_guide + 1) * C"
    )
    macs_formula = (
        "(C + s**2 * C_guide) * compressed_channels"
        " + 9 * compressed_channels * (1 + s**2) * (lowpass_kernel**2 + highpass_kernel**2)"
        " + s**2 * highpass_kernel**2 * (compressed_channels + C_guide + lowpass_kernel**2)"
        " + s**2 * lowpass_kernel**2 * (lowpass_kernel**2 + C)"
        " + (C_guide != C) * s**2 * C_guide * C"
    )

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
        compressed_channels: Annotated[int, Field(ge=1)] = 64,
        lowpass_kernel: Literal[3, 5, 7] = 5,
        highpass_kernel: Literal[3, 5, 7] = 3,
        resample: bool = False,
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, guide_channels=guide_channels
        )
        if any(side < 3 or side % 2 == 0 for side in (lowpass_kernel, highpass_kernel)):
            raise ValueError(
                "FreqFusion needs odd lowpass_kernel and highpass_kernel >= 3; got "
                f"{lowpass_kernel} and {highpass_kernel}."
            )
        self.compress = nn.Conv2d(channels, compressed_channels, 1)
        self.compress_guide = nn.Conv2d(self.guide_channels, compressed_channels, 1)
        self.lowpass = nn.Conv2d(compressed_channels, lowpass_kernel**2, 3, padding=1)
        self.highpass = nn.Conv2d(compressed_channels, highpass_kernel**2, 3, padding=1)
        self.offset = OffsetGenerator(compressed_channels, channels) if resample else None
        if resample:
            self.nondeterministic = "The gradient of grid_sample is added up atomically."
        self.project = (
            None if self.guide_channels == channels else nn.Conv2d(self.guide_channels, channels, 1)
        )
        for conv in (self.compress, self.compress_guide):
            nn.init.xavier_uniform_(conv.weight)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has a bias
        for conv in (self.lowpass, self.highpass):
            nn.init.normal_(conv.weight, std=1e-3)  # nearly equal weights: starts as the window
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]
        if self.project is not None:
            kaiming_(self.project)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None  # forward() has checked it
        y, enhanced = self.pair(x, guide)
        if self.project is not None:
            enhanced = self.project(enhanced)
        return enhanced.to(y.dtype) + y

    def pair(self, x: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
        """Return the two improved branches before they are fused.

        Args:
            x: Features, (B, C, H, W).
            guide: (B, C_guide, s*H, s*W), exactly.

        Returns:
            The upsampled features, (B, C, s*H, s*W), and the enhanced guide, like ``guide``.
        """
        s = self.scale_factor
        coarse, fine = self.compress(x), self.compress_guide(guide)
        high = self.highpass(fine)
        fine = _enhance(fine, _filters(high))
        low = self.lowpass(fine)
        low = low + reassemble(self.lowpass(coarse), _filters(low), s, padding="replicate")
        lowpass = _filters(low)
        high = high + reassemble(self.highpass(coarse), lowpass, s, padding="replicate")
        y = reassemble(x, lowpass, s, padding="replicate")
        if self.offset is not None:
            y = self.offset(y, fine + reassemble(coarse, lowpass, s, padding="replicate"))
        return y, _enhance(guide, _filters(high))

    @override
    def macs_per_pixel(self) -> int:
        c, c_guide, d = self.channels, self.guide_channels, self.compress.out_channels
        low, high = self.lowpass.out_channels, self.highpass.out_channels
        fine = c_guide * d + 9 * d * (low + high) + high * (d + c_guide + low) + low * (low + c)
        if self.offset is not None:
            fine += low * d + self.offset.macs_per_pixel()
        if self.project is not None:
            fine += c_guide * c
        return c * d + 9 * d * (low + high) + self.scale_factor**2 * fine


class OffsetGenerator(nn.Module):
    """Replaces features by more consistent ones nearby.

    Section 4 of the paper: offsets are predicted from the fused feature z and its cosine
    similarity S to each of its 8 neighbours, as a direction times a magnitude::

        offset = (D [z, S]) * sigmoid(A [z, S])        in output pixels, per group of channels

    with 1x1 convolutions D, which starts from N(0, 1e-3), and A, which starts from zero. Positions
    are computed in float32 at least and clamped to the border. Four groups of channels, as in
    DySample; the number used is gcd(``channels``, 4).

    Args:
        fused_channels: Channels of z.
        channels: Channels of the map that is resampled.
    """

    def __init__(self, fused_channels: int, channels: int):
        super().__init__()
        self.channels = channels
        self.groups = math.gcd(channels, 4)
        self.direction = nn.Conv2d(fused_channels + 8, 2 * self.groups, 1)
        self.magnitude = nn.Conv2d(fused_channels + 8, 2 * self.groups, 1)
        nn.init.normal_(self.direction.weight, std=1e-3)
        nn.init.zeros_(self.magnitude.weight)
        for conv in (self.direction, self.magnitude):
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has a bias

    @override
    def forward(self, y: Tensor, fused: Tensor) -> Tensor:
        """Resample y, (B, C, H, W), by offsets predicted from z, (B, d, H, W)."""
        b, _, h, w = y.shape
        dtype = torch.promote_types(fused.dtype, torch.float32)
        unit = F.normalize(fused.to(dtype), dim=1)
        cosines = similarity(unit, unit, 3, 1, padding="replicate").to(fused.dtype)
        cues = torch.cat([fused, cosines[:, :4], cosines[:, 5:]], dim=1)
        offsets = self.direction(cues).to(dtype) * self.magnitude(cues).to(dtype).sigmoid()
        offsets = offsets.reshape(b, 2, self.groups, h, w)
        columns = torch.arange(w, device=y.device, dtype=dtype) + offsets[:, 0]
        rows = torch.arange(h, device=y.device, dtype=dtype)[:, None] + offsets[:, 1]
        return sample_at(y, rows, columns)

    def macs_per_pixel(self) -> int:
        """Multiply-accumulates per pixel of the map that is resampled."""
        d = self.direction.in_channels - 8
        return 9 * d + 4 * self.groups * (d + 8) + 4 * self.channels


def _filters(logits: Tensor) -> Tensor:
    """One low-pass filter per pixel: softmax, times a Hamming window, with a sum of one."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    side = math.isqrt(logits.shape[1])
    # torch.hamming_window does not export to ONNX.
    angles = torch.linspace(0, 2 * math.pi, side, dtype=logits.dtype, device=logits.device)
    window = 0.54 - 0.46 * angles.cos()
    # A factor on the weights is a summand of their logits.
    return (logits + (window[:, None] * window).log().reshape(-1, 1, 1)).softmax(dim=1)


def _enhance(x: Tensor, filters: Tensor) -> Tensor:
    """Add what a low-pass filter takes away."""
    return 2 * x - reassemble(x, filters, 1, padding="replicate")
