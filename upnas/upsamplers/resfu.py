from __future__ import annotations

import math
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import GuidedUpsampler
from upnas.upsamplers.functional.reassembly import reassemble
from upnas.upsamplers.initialisation import kaiming_

#: Regularises the guided filter; its features have about unit variance.
EPSILON = 1e-2


class ResfuLike(GuidedUpsampler):
    """Similarity to the guide by central differences, in one step of any factor (like ReSFU).

    After Zhou et al., 2024 (ReSFU, "A Refreshed Similarity-based Upsampler for Direct High-Ratio
    Feature Upsampling"), https://arxiv.org/abs/2407.02283. Its three ideas are here, with equations
    of our own where its abstract and our notes leave them open; hence the name. Weights trained
    with the authors' code do not fit, and its published numbers are not a claim about this module.

    With features and guide normalised (GroupNorm) and embedded by 1x1 convolutions, k = W_k x and
    q = W_q guide, q' the s x s means of q, and up() bilinear interpolation:

    1. *Alignment of query and key.* Semantic: the fast guided filter (He and Sun, 2015,
       https://arxiv.org/abs/1505.00996) expresses the key by the query, channel by channel in 3x3
       windows, so that both have the same meaning, and q'' has the detail of the guide::

           a = cov(q', k) / (var(q') + 0.01),  b = mean(k) - a mean(q')
           q'' = up(mean(a)) q + up(mean(b))

       Detail: q is paired with its own means q'. Assumed: both pairs are compared side by side,
       Q = [q'', q] and K = [k, q'].
    2. *Similarity by paired central differences*: every output pixel p is compared with the k*k
       keys n around it by a learned convolution of differences instead of a scalar product::

           h_p = c + sum_n V_n (K'_{p + s n} - Q_p),  K' = up(K)
           w_p = softmax over n of (U relu(h_p) + c')

       As up() commutes with shifts by whole input pixels, h = c + up(V * K) - (sum_n V_n) Q, with
       the convolution at the input resolution; K continues by replication. Assumed: one hidden
       layer of ``embedding`` channels.
    3. *Fine-grained neighbours* against mosaic artifacts: neighbours are s output pixels apart on
       the enlarged map, so that two output pixels of one input pixel read different values::

           y_p = sum_n w_pn up(x)_{p + s n}

       The enlarged map is never made: a sum of k*k bilinear values is a sum over (k + 2)^2 input
       pixels, whose weights are those of n times those of the interpolation. Assumed: that spacing.

    V and U start from N(0, 0.02): nearly equal weights, a k x k box blur of the bilinear map.
    The embeddings have no bias, and GroupNorm no weights: they would cancel in the differences, or
    be part of the convolution behind.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        guide_channels: Channels C_guide of the guide; None means C.
        embedding: Channels d that features and guide are compared in.
        kernel_size: Side k of the neighbourhood, in input pixels; odd.

    Shape:
        (B, C, H, W), guide (B, C_guide, s*H, s*W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``kernel_size`` is even or ``out_channels`` differs from ``channels``.
    """

    keeps_channels = True
    keeps_constants = True

    paper = "After Zhou et al., ReSFU, 2024, https://arxiv.org/abs/2407.02283"
    formula = (
        "y_p = sum_n w_pn up(x)_{p + s n}, up bilinear, n in k x k\n"
        "w_p = softmax_n(U relu(sum_n V_n (K_{p + s n} - Q_p)))\n"
        "Q = [guided filter of the guide towards x, guide], K = up [x, mean of the guide]"
    )
    pitfalls = (
        "Written from the abstract of the paper and the literature it builds on, not from its "
        "code: the published numbers are not those of this module.",
        "Normalised over the whole map: a crop does not give the crop of the output.",
    )
    params_formula = (
        "(C + C_guide) * embedding + (2 * embedding * kernel_size**2 + 1) * embedding"
        " + (embedding + 1) * kernel_size**2"
    )
    macs_formula = (
        "C * embedding + 2 * embedding**2 * kernel_size**2"
        " + s**2 * (C_guide * embedding + 2 * embedding**2 + 13 * embedding"
        " + embedding * kernel_size**2"
        " + kernel_size * (kernel_size + 2) * (2 * kernel_size + 2)"
        " + (kernel_size + 2)**2 * C)"
    )

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
        embedding: Annotated[int, Field(ge=1)] = 32,
        kernel_size: Literal[3, 5, 7] = 3,
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, guide_channels=guide_channels
        )
        if kernel_size % 2 == 0:
            raise ValueError(f"ResfuLike needs an odd kernel_size; got {kernel_size}.")
        self.embedding = embedding
        self.kernel_size = kernel_size
        self.embed = _embedding(channels, embedding)
        self.embed_guide = _embedding(self.guide_channels, embedding)
        self.difference = nn.Conv2d(
            2 * embedding,
            embedding,
            kernel_size,
            padding=kernel_size // 2,
            padding_mode="replicate",
        )
        self.predict = nn.Conv2d(embedding, kernel_size**2, 1)
        for conv in (self.difference, self.predict):
            nn.init.normal_(conv.weight, std=0.02)
            nn.init.zeros_(conv.bias)  # type: ignore[arg-type]  # it has a bias

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None  # forward() has checked it
        key, query = self.embed(x), self.embed_guide(guide)
        pooled = F.avg_pool2d(query, self.scale_factor)
        aligned = guided_filter(query, pooled, key)
        keys = torch.cat([key, pooled], dim=1)
        queries = torch.cat([aligned, query], dim=1)
        logits = self.predict(self._central_differences(queries, keys).relu())
        dtype = torch.promote_types(logits.dtype, torch.float32)
        kernels = interpolated_kernels(logits.softmax(dim=1, dtype=dtype), self.scale_factor)
        return reassemble(x, kernels, self.scale_factor, padding="replicate")

    def _central_differences(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Return h of the equation, (B, d, s*H, s*W)."""
        total = self.difference.weight.sum(dim=(2, 3), keepdim=True)
        size = queries.shape[-2:]
        compared = F.interpolate(self.difference(keys), size=size, mode="bilinear")
        return compared - F.conv2d(queries, total)

    @override
    def macs_per_pixel(self) -> int:
        d, k = self.embedding, self.kernel_size
        coarse = self.channels * d + 2 * d * d * k * k
        # Bilinear interpolation of a, b and h, and the product with a: 13 d.
        fine = self.guide_channels * d + 2 * d * d + 13 * d + d * k * k
        fine += k * (k + 2) * (2 * k + 2) + (k + 2) ** 2 * self.channels
        return coarse + self.scale_factor**2 * fine

    @override
    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, kernel_size={self.kernel_size}"


def guided_filter(guide: Tensor, pooled: Tensor, target: Tensor) -> Tensor:
    """Express a coarse target by a fine guide, channel by channel (fast guided filter).

    Args:
        guide: (B, C, s*H, s*W).
        pooled: The guide at the resolution of the target, (B, C, H, W).
        target: (B, C, H, W).

    Returns:
        (B, C, s*H, s*W), like ``guide``; computed in float32 at least.
    """
    dtype = torch.promote_types(guide.dtype, torch.float32)
    coarse, wanted = pooled.to(dtype), target.to(dtype)
    mean, wanted_mean = _box(coarse), _box(wanted)
    variance = (_box(coarse * coarse) - mean * mean).clamp(min=0)  # rounding could make it negative
    a = (_box(coarse * wanted) - mean * wanted_mean) / (variance + EPSILON)
    b = wanted_mean - a * mean
    a, b = (F.interpolate(_box(t), size=guide.shape[-2:], mode="bilinear") for t in (a, b))
    return (a * guide + b).to(guide.dtype)


def interpolated_kernels(kernels: Tensor, scale_factor: int) -> Tensor:
    """Turn weights of bilinear values into weights of input pixels.

    Args:
        kernels: Weights of the k*k values of the bilinearly enlarged map that are s pixels apart,
            (B, k*k, s*H, s*W).
        scale_factor: Factor s.

    Returns:
        Weights of the (k + 2)^2 input pixels around, (B, (k + 2)^2, s*H, s*W).
    """
    b, taps, height, width = kernels.shape
    s, k = scale_factor, math.isqrt(taps)
    h, w = height // s, width // s

    def places(count: int) -> Tensor:
        return torch.arange(count, device=kernels.device, dtype=kernels.dtype)

    # Tap i of phase p reads at i + (p + 0.5) / s - 0.5, one pixel further in the wider window.
    reads = places(k) + ((places(s) + 0.5) / s + 0.5)[:, None]
    weights = (1 - (places(k + 2)[:, None] - reads[:, None]).abs()).clamp(min=0)  # (s, k + 2, k)
    by_axis = kernels.reshape(b, k, k, h, s, w, s)
    with torch.autocast(kernels.device.type, enabled=False):  # it would round the weights
        wider = torch.einsum("bijhpwq,pmi,qnj->bmnhpwq", by_axis, weights, weights)
    return wider.reshape(b, (k + 2) ** 2, height, width)


def _embedding(channels: int, embedding: int) -> nn.Sequential:
    """GroupNorm in at most 32 groups of at least two channels, then a 1x1 convolution."""
    groups = max(1, math.gcd(channels, 64) // 2)
    conv = nn.Conv2d(channels, embedding, 1, bias=False)
    kaiming_(conv)
    return nn.Sequential(nn.GroupNorm(groups, channels, affine=False), conv)


def _box(x: Tensor) -> Tensor:
    """Means of 3x3 windows, of what is inside the map."""
    return F.avg_pool2d(x, 3, stride=1, padding=1, count_include_pad=False)
