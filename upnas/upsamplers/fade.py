"""FADE and FADE-Lite: kernels from the encoder and the decoder, and a gate to the encoder."""

from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import GuidedUpsampler
from upnas.upsamplers.choices import check_choice
from upnas.upsamplers.functional.reassembly import Padding, reassemble


class Fade(GuidedUpsampler):
    """Reassembly with kernels from encoder and decoder, and a gate to the encoder (FADE).

    Lu et al., ECCV 2022, https://arxiv.org/abs/2207.10392, section 4. With the guide e, 1x1
    convolutions W_e, W_d and w, one 3x3 convolution K and nearest-neighbour enlargement "up"::

        kernels = softmax(K(W_e e) + up(K(W_d x)))     semi-shift convolution
        y = g e + (1 - g) reassemble(x, kernels)       g = up(sigmoid(w x)), decoder-dependent gate

    As in the authors' code, the maps are padded with zeros and the kernels are not renormalised
    there: the reassembled border is darker unless ``padding`` is ``replicate``. Differs from it:
    any scale factor; a guide of other channels than x passes a 1x1 convolution before the gate;
    softmax and sums in float32 at least.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        guide_channels: Channels of the guide; None means C.
        embedding_channels: Channels d that guide and features are compressed to.
        kernel_size: Side k of the reassembly window; odd.
        gate: Mix the guide into the output. Without it the guide shapes the kernels only, as for a
            decoder that fuses the same skip afterwards anyway.
        padding: What the reassembly reads outside the map: zeros, or its nearest pixel.

    Shape:
        (B, C, H, W) and a guide (B, C_guide, s*H, s*W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``kernel_size`` is even or ``out_channels`` differs from ``channels``.
    """

    keeps_channels = True
    paper = "Lu et al. (FADE), ECCV 2022, https://arxiv.org/abs/2207.10392"
    formula = (
        "kernels = softmax(conv3(W_e guide) + nearest(conv3(W_d x))), one conv3 for both\n"
        "y = g guide + (1 - g) reassemble(x, kernels), g = nearest(sigmoid(W x))"
    )
    pitfalls = (
        "The gate passes the guide on as it is: noise of an early stage reaches the output.",
        "A guide of other channels is projected at the output resolution, which is not in the "
        "published costs.",
        "Zero padding darkens the border; padding: replicate does not.",
    )
    params_formula = (
        "(C_guide + C + 1) * embedding_channels + (9 * embedding_channels + 1) * kernel_size**2"
        " + C + 1 + (C_guide != C) * (C_guide + 1) * C"
    )
    macs_formula = (
        "(s**2 * C_guide + C) * embedding_channels"
        " + (s**2 + 1) * 9 * embedding_channels * kernel_size**2"
        " + s**2 * (kernel_size**2 + 2) * C + C + (C_guide != C) * s**2 * C_guide * C"
    )

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
        embedding_channels: Annotated[int, Field(ge=1)] = 64,
        kernel_size: Literal[3, 5, 7] = 5,
        gate: bool = True,
        padding: Padding = "zeros",
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, guide_channels=guide_channels
        )
        if kernel_size % 2 == 0:
            raise ValueError(f"{type(self).__name__} needs an odd kernel_size; got {kernel_size}.")
        check_choice(type(self).__name__, "padding", padding, Padding)
        self.padding: Padding = padding
        self.compress_guide = nn.Conv2d(self.guide_channels, embedding_channels, 1)
        # A bias here would pass through the same convolution as the guide's and add up with it.
        self.compress = nn.Conv2d(channels, embedding_channels, 1, bias=False)
        self.encode = nn.Conv2d(embedding_channels, kernel_size**2, 3, padding=1)
        self.gate = nn.Conv2d(channels, 1, 1) if gate else None
        self.project_guide = (
            nn.Conv2d(self.guide_channels, channels, 1)
            if gate and self.guide_channels != channels
            else None
        )
        for module in self.children():
            _xavier_(module)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None  # forward() has checked it
        logits = self.semi_shift(x, guide)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        kernels = logits.softmax(dim=1, dtype=dtype)  # (B, k*k, s*H, s*W)
        y = reassemble(x, kernels, self.scale_factor, self.padding)
        if self.gate is None:
            return y
        if self.project_guide is not None:
            guide = self.project_guide(guide)
        gate = self._nearest(self.gate(x).sigmoid(), x)
        return torch.lerp(y, guide.to(y.dtype), gate.to(y.dtype))

    def semi_shift(self, x: Tensor, guide: Tensor) -> Tensor:
        """Return the logits of the kernels: the semi-shift convolution of guide and features.

        One convolution reads both. Its window moves over the guide with every output pixel, over
        the features with every input pixel, so that the second half costs s*s times less than on
        enlarged features.

        Args:
            x: Features, (B, C, H, W).
            guide: (B, C_guide, s*H, s*W).

        Returns:
            (B, k*k, s*H, s*W).
        """
        from_guide: Tensor = self.encode(self.compress_guide(guide))
        return from_guide + self._nearest(self.encode(self.compress(x)), x)

    def _nearest(self, y: Tensor, x: Tensor) -> Tensor:
        return F.interpolate(y, size=self.upsampled_size(x), mode="nearest")

    @override
    def macs_per_pixel(self) -> int:
        phases, taps = self.scale_factor**2, self.encode.out_channels
        convolutions = phases * self.compress_guide.weight.numel() + self.compress.weight.numel()
        convolutions += (phases + 1) * self.encode.weight.numel()
        reassembly = phases * taps * self.channels
        if self.gate is None:
            return convolutions + reassembly
        if self.project_guide is not None:
            convolutions += phases * self.project_guide.weight.numel()
        blend = 2 * phases * self.channels
        return convolutions + reassembly + self.gate.weight.numel() + blend


class FadeLite(Fade):
    """FADE with a depthwise kernel predictor (FADE-Lite).

    Lu et al., 2024, https://arxiv.org/abs/2407.13500. :class:`Fade` with d = k*k embedding channels
    and a depthwise 3x3 convolution K: embedding channel t alone decides tap t of the kernels. Same
    differences from the authors' code.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        guide_channels: Channels of the guide; None means C.
        kernel_size: Side k of the reassembly window; odd.
        gate: Mix the guide into the output, see :class:`Fade`.
        padding: What the reassembly reads outside the map: zeros, or its nearest pixel.

    Shape:
        (B, C, H, W) and a guide (B, C_guide, s*H, s*W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``kernel_size`` is even or ``out_channels`` differs from ``channels``.
    """

    paper = "Lu et al. (FADE), 2024, https://arxiv.org/abs/2407.13500"
    formula = (
        "kernels = softmax(dw3(W_e guide) + nearest(dw3(W_d x))), one depthwise dw3 for both\n"
        "y = g guide + (1 - g) reassemble(x, kernels), g = nearest(sigmoid(W x))"
    )
    pitfalls = Fade.pitfalls
    params_formula = (
        "(C_guide + C + 11) * kernel_size**2 + C + 1 + (C_guide != C) * (C_guide + 1) * C"
    )
    macs_formula = (
        "(s**2 * C_guide + C + 9 * (s**2 + 1)) * kernel_size**2"
        " + s**2 * (kernel_size**2 + 2) * C + C + (C_guide != C) * s**2 * C_guide * C"
    )

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
        kernel_size: Literal[3, 5, 7] = 5,
        gate: bool = True,
        padding: Padding = "zeros",
    ):
        taps = kernel_size**2
        super().__init__(
            channels,
            out_channels,
            scale_factor=scale_factor,
            guide_channels=guide_channels,
            embedding_channels=taps,
            kernel_size=kernel_size,
            gate=gate,
            padding=padding,
        )
        self.encode = nn.Conv2d(taps, taps, 3, padding=1, groups=taps)
        _xavier_(self.encode)


def _xavier_(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
