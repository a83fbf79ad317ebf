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
from upnas.upsamplers.functional.sampling import sample_at


class Dlu(Upsampler):
    """Dynamic lightweight upsampling (DLU): CARAFE with sampled kernels.

    Fu et al., ICPR 2024, https://arxiv.org/abs/2410.22139, section 3. CARAFE predicts s*s kernels
    of k*k weights per input pixel. DLU predicts one, normalised by a softmax over its weights: the
    source kernels K at the input resolution. A second convolution predicts an offset o per output
    pixel, in input pixels, and the output pixel's kernel is read bilinearly from the source
    kernels around its own input pixel::

        kernel[Y, X] = K[Y // s + o_y[Y, X], X // s + o_x[Y, X]]
        y[Y, X]      = sum_{i, j < k} kernel[i*k + j, Y, X] * x[Y // s + i - r, X // s + j - r]

    A read kernel is a mean of normalised kernels, hence normalised. Beyond the map kernels are
    those of its border; the features are padded with zeros as in CARAFE, so the border is darker.
    Offsets start from zero: all outputs of an input pixel start with its source kernel.

    Differs from the authors' code in how positions are held (pixels in float32 at least, not units
    of the map, which are undefined for a side of 1), not in where they are.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        compressed_channels: Channels C_m that kernels and offsets are predicted from.
        kernel_size: Side k of the reassembly window; odd.
        encoder_kernel: Side of the convolutions that predict kernels and offsets; odd.

    Shape:
        (B, C, H, W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If a kernel side is even or ``out_channels`` differs from ``channels``.
    """

    keeps_channels = True

    paper = "Fu et al., ICPR 2024, https://arxiv.org/abs/2410.22139"
    formula = (
        "y[Y, X] = sum_ij K[ij, Y // s + o_y, X // s + o_x] x[Y // s + i - r, X // s + j - r]\n"
        "K = softmax over k*k of conv(W x) at the input resolution,  o = PixelShuffle(conv(W x))"
    )
    pitfalls = (
        "The border is darker: the map is padded with zeros and kernels are not renormalised.",
        "It starts as a k x k box blur, equal for all outputs of an input pixel.",
        "Much lighter than CARAFE only at large factors: 91% fewer parameters is the x16 figure.",
    )
    params_formula = (
        "C * compressed_channels + compressed_channels"
        " + (encoder_kernel**2 * compressed_channels + 1) * (kernel_size**2 + 2 * s**2)"
    )
    macs_formula = (
        "C * compressed_channels"
        " + encoder_kernel**2 * compressed_channels * (kernel_size**2 + 2 * s**2)"
        " + 4 * s**2 * kernel_size**2 + s**2 * kernel_size**2 * C"
    )
    nondeterministic = "The gradient of the source kernels is added up atomically by grid_sample."

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
                f"Dlu needs odd kernel_size and encoder_kernel; got {kernel_size} and "
                f"{encoder_kernel}."
            )
        self.compress = nn.Conv2d(channels, compressed_channels, 1)
        self.encode = nn.Conv2d(
            compressed_channels, kernel_size**2, encoder_kernel, padding=encoder_kernel // 2
        )
        self.offset = nn.Conv2d(
            compressed_channels, 2 * scale_factor**2, encoder_kernel, padding=encoder_kernel // 2
        )
        nn.init.xavier_uniform_(self.compress.weight)
        nn.init.normal_(self.encode.weight, std=1e-3)
        nn.init.zeros_(self.offset.weight)
        for conv in (self.compress, self.encode, self.offset):
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has a bias

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        s = self.scale_factor
        height, width = self.upsampled_size(x)
        compressed = self.compress(x)
        logits = self.encode(compressed)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        source = logits.softmax(dim=1, dtype=dtype)  # (B, k*k, H, W)
        # (B, x or y, s*H, s*W), in input pixels.
        moves = F.pixel_shuffle(self.offset(compressed), s).to(dtype)
        rows = moves[:, 1:] + (torch.arange(height, device=x.device) // s)[:, None]
        columns = moves[:, :1] + torch.arange(width, device=x.device) // s
        return reassemble(x, sample_at(source, rows, columns), s)

    @override
    def macs_per_pixel(self) -> int:
        compress, encode, offset = self.compress, self.encode, self.offset
        num_taps, phases = encode.out_channels, self.scale_factor**2
        predicted = math.prod(encode.kernel_size) * (num_taps + offset.out_channels)
        per_tap = 4 + self.channels  # its bilinear read and its product
        compression = self.channels * compress.out_channels
        return compression + predicted * compress.out_channels + phases * num_taps * per_tap
