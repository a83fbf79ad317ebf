from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import Upsampler
from upnas.upsamplers.initialisation import icnr_


class DUpsampling(Upsampler):
    """Data-dependent upsampling (DUpsampling): a linear map from each pixel to its s x s patch.

    Tian et al., CVPR 2019, https://arxiv.org/abs/1903.02120, section 3.1. A 1x1 convolution without
    bias to s*s*C_out channels, then a pixel shuffle: with W of shape (s*s*C_out, C)::

        y[patch of (i, j)] = W x[i, j]

    The paper's head, whose last features are at 1/s of the resolution and whose output are the
    logits of C_out classes. Its W starts from the labels, see :meth:`fit_`; without them from
    unit-gain weights that are the same for all sub-pixels. The temperature of the paper's softmax
    (section 3.2) belongs to the loss and is not here.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output, the classes; None means C.
        scale_factor: Integer upsampling factor s.

    Shape:
        (B, C, H, W) -> (B, C_out, s*H, s*W), for any H, W >= 1.
    """

    paper = "Tian et al., CVPR 2019, https://arxiv.org/abs/1903.02120"
    formula = "y = pixel_shuffle(W x)\nW = argmin_W min_P sum |v - W P v|^2 over label patches v"
    pitfalls = (
        "Made for the final logits; elsewhere it is a linear sub-pixel convolution without "
        "spatial mixing.",
        "The paper's initial W needs label maps: call fit_.",
    )
    params_formula = "C * s**2 * C_out"
    macs_formula = "C * s**2 * C_out"

    def __init__(self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        phases = scale_factor**2
        self.conv = nn.Conv2d(channels, self.out_channels * phases, 1, bias=False)
        icnr_(self.conv, phases)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        return F.pixel_shuffle(self.conv(x), self.scale_factor)

    @override
    def macs_per_pixel(self) -> int:
        return self.conv.weight.numel()

    @torch.no_grad()
    def fit_(self, maps: Tensor) -> None:
        """Start from the W that reconstructs the patches of label maps best.

        The minimum of the paper's eq. 4 over W and P is the principal component analysis of the
        patches v, not centred as there is no bias: the columns of W are the C eigenvectors of
        sum v v^T with the largest eigenvalues, and P is its transpose. Where C exceeds the
        s*s*C_out numbers of a patch, the columns that are left over are zero.

        Args:
            maps: One-hot labels of the training set or a part of it, (B, C_out, s*H, s*W); zero
                where a pixel is to be ignored. Any other maps that the output should be able to
                make will do, images for instance.

        Raises:
            ValueError: If the maps do not have C_out channels or sides that s divides.
        """
        s = self.scale_factor
        if maps.shape[1] != self.out_channels or maps.shape[2] % s or maps.shape[3] % s:
            raise ValueError(
                f"DUpsampling.fit_ needs maps with {self.out_channels} channels and sides that "
                f"{s} divides; got {tuple(maps.shape)}."
            )
        patches = F.pixel_unshuffle(maps.double(), s).movedim(1, -1).flatten(0, 2)
        _, eigenvectors = torch.linalg.eigh(patches.T @ patches)  # eigenvalues ascend
        components = eigenvectors.flip(1)[:, : self.channels]
        nn.init.zeros_(self.conv.weight)
        self.conv.weight[:, : components.shape[1], 0, 0] = components.to(self.conv.weight)
