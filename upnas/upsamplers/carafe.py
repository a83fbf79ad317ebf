from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import Upsampler
from upnas.upsamplers.functional.reassembly import reassemble


class Carafe(Upsampler):
    """Content-aware reassembly of features (CARAFE).

    Wang et al., ICCV 2019, https://arxiv.org/abs/1905.02188, section 3. A 1x1 convolution
    compresses the channels, a convolution predicts s*s kernels of k*k weights per input pixel, a
    pixel shuffle and a softmax turn them into one kernel per output pixel, and each output pixel is
    the kernel's weighted sum of the k*k neighbours of its input pixel.

    As in the authors' code, the map is padded with zeros and kernels are not renormalised there:
    the border is darker. Differs from it: pure PyTorch, no CUDA kernel; softmax and sums in float32
    at least.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        compressed_channels: Channels C_m that the kernels are predicted from.
        kernel_size: Side k of the reassembly window; odd.
        encoder_kernel: Side of the convolution that predicts the kernels; odd. The authors advise
            k - 2.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If a kernel side is even or ``out_channels`` differs from ``channels``.
    """

    keeps_channels = True

    paper = "Wang et al., ICCV 2019, https://arxiv.org/abs/1905.02188"
    formula = (
        "y[Y, X] = sum_ij K[ij, Y, X] x[Y // s + i - r, X // s + j - r],  r = (k - 1) / 2\n"
        "K = softmax over k*k of PixelShuffle(conv(W x))"
    )
    pitfalls = (
        "The border is darker: the map is padded with zeros and kernels are not renormalised.",
        "It starts as a k x k box blur.",
        "Per input pixel s*s*k*k*C products: costly at high resolution and with large kernels.",
    )
    params_formula = (
        "C * compressed_channels + compressed_channels"
        " + (encoder_kernel**2 * compressed_channels + 1) * s**2 * kernel_size**2"
    )
    macs_formula = (
        "C * compressed_channels"
        " + (encoder_kernel**2 * compressed_channels + C) * s**2 * kernel_size**2"
    )

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        compressed_channels: Annotated[int, Field(ge=1)] = 64,
        kernel_size: Literal[3, 5, 7] = 5,
        encoder_kernel: Literal[1, 3, 5] = 3,
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        if kernel_size % 2 == 0 or encoder_kernel % 2 == 0:
            raise ValueError(
                f"Carafe needs odd kernel_size and encoder_kernel; got {kernel_size} and "
                f"{encoder_kernel}."
            )
        self.compress = nn.Conv2d(channels, compressed_channels, 1)
        self.encode = nn.Conv2d(
            compressed_channels,
            (scale_factor * kernel_size) ** 2,
            encoder_kernel,
            padding=encoder_kernel // 2,
        )
        nn.init.xavier_uniform_(self.compress.weight)
        nn.init.normal_(self.encode.weight, std=1e-3)  # nearly equal weights: starts as a box blur
        nn.init.zeros_(self.compress.bias)  # type: ignore[arg-type]  # it has a bias
        nn.init.zeros_(self.encode.bias)  # type: ignore[arg-type]

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        logits = F.pixel_shuffle(self.encode(self.compress(x)), self.scale_factor)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        kernels = logits.softmax(dim=1, dtype=dtype)  # (B, k*k, s*H, s*W)
        return reassemble(x, kernels, self.scale_factor)

    @override
    def macs_per_pixel(self) -> int:
        compress, encode = self.compress, self.encode
        prediction = math.prod(encode.kernel_size) * compress.out_channels * encode.out_channels
        reassembly = encode.out_channels * self.channels
        return self.channels * compress.out_channels + prediction + reassembly
