from __future__ import annotations

from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from typing_extensions import override

from upnas.upsamplers.base import GuidedUpsampler
from upnas.upsamplers.choices import check_choice
from upnas.upsamplers.functional.reassembly import Padding, reassemble, similarity

Variant = Literal["b", "i", "g"]


class Sapa(GuidedUpsampler):
    """Similarity-aware point affiliation (SAPA).

    Lu et al., NeurIPS 2022, https://arxiv.org/abs/2209.12866; embedding of the extended version,
    https://arxiv.org/abs/2307.08198. An output pixel takes its value from those of the k*k
    neighbours of its input pixel that resemble the guide there. With the layer norm over channels
    LN, the guide e, linear maps W and nearest-neighbour enlargement "up"::

        kernels[i*k + j] = softmax over i, j of <q, key of the neighbour (i, j)>
        y = reassemble(x, kernels)

        b  base           q = W_q LN(e)                                        key = W_k LN(x)
        i  inner product  q = LN(e)                                            key = LN(x)
        g  gated          q = g W_q LN(e) + (1 - g) up(W_x LN(x))              key = W_k LN(x)
                          g = up(sigmoid(w LN(x)))

    As in the authors' code, keys and values are zero outside the map: such a neighbour takes the
    weight of the logit 0 in the softmax and adds nothing, so that the border is darker, unless
    ``padding`` is ``replicate``. Differs from it: pure PyTorch, no CUDA kernel; the layer norm of
    ``i`` has no parameters; W_x of ``g`` reads LN(x) where they pass x; softmax and sums in float32
    at least.

    Args:
        channels: Channels C of input and output.
        out_channels: None or C.
        scale_factor: Integer upsampling factor s.
        guide_channels: Channels of the guide; None means C.
        variant: Similarity that the kernels come from, see above. ``i`` has no parameters.
        embedding_channels: Channels d of query and key; ``i`` compares all C.
        kernel_size: Side k of the reassembly window; odd.
        padding: What keys and values are outside the map: zeros, or their nearest pixel.

    Shape:
        (B, C, H, W) and a guide (B, C_guide, s*H, s*W) -> (B, C, s*H, s*W), for any H, W >= 1.

    Raises:
        ValueError: If ``variant`` is ``i`` and the guide has other channels than C, if
            ``kernel_size`` is even, or ``out_channels`` differs from ``channels``.
    """

    keeps_channels = True
    paper = "Lu et al. (SAPA), NeurIPS 2022, https://arxiv.org/abs/2209.12866"
    formula = (
        "kernels = softmax over k*k of <W_q LN(guide), W_k LN(x) of the neighbours>\n"
        "y = reassemble(x, kernels)"
    )
    pitfalls = (
        "Starts near a k x k box blur, the nearer the fewer channels there are.",
        "variant: i needs a guide of C channels, and its products over C channels saturate the "
        "softmax.",
        "Zero padding darkens the border; padding: replicate does not.",
    )
    params_formula = "(C_guide + C + 2) * embedding_channels + 2 * (C_guide + C)"
    macs_formula = (
        "(s**2 * C_guide + C) * embedding_channels"
        " + s**2 * kernel_size**2 * (embedding_channels + C)"
    )

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
        variant: Variant = "b",
        embedding_channels: Annotated[int, Field(ge=1)] = 32,
        kernel_size: Literal[3, 5, 7] = 5,
        padding: Padding = "zeros",
    ):
        super().__init__(
            channels, out_channels, scale_factor=scale_factor, guide_channels=guide_channels
        )
        if kernel_size % 2 == 0:
            raise ValueError(f"Sapa needs an odd kernel_size; got {kernel_size}.")
        check_choice(type(self).__name__, "variant", variant, Variant)
        check_choice(type(self).__name__, "padding", padding, Padding)
        if variant == "i" and self.guide_channels != channels:
            raise ValueError(
                "Sapa with variant='i' compares guide and features channel by channel: it needs "
                f"guide_channels == channels; got {self.guide_channels} and {channels}. Take "
                "variant='b' or 'g', which project both."
            )
        self.variant = variant
        self.kernel_size = kernel_size
        self.padding: Padding = padding
        projects = variant != "i"
        self.norm_guide = nn.LayerNorm(self.guide_channels, elementwise_affine=projects)
        self.norm = nn.LayerNorm(channels, elementwise_affine=projects)
        self.query: nn.Module = nn.Identity()
        self.key: nn.Module = nn.Identity()
        if projects:
            self.query = nn.Linear(self.guide_channels, embedding_channels)
            self.key = nn.Linear(channels, embedding_channels)
        if variant == "g":
            self.own_query = nn.Linear(channels, embedding_channels)
            self.gate = nn.Linear(channels, 1)
        for module in self.children():
            if isinstance(module, nn.Linear):
                # Their truncation, at +-2, is 100 standard deviations away.
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        assert guide is not None  # forward() has checked it
        features = self.norm(x.permute(0, 2, 3, 1))  # (B, H, W, C)
        key = self.key(features).permute(0, 3, 1, 2)
        query = self.query(self.norm_guide(guide.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)
        if self.variant == "g":
            gate = self._nearest(self.gate(features).sigmoid())
            query = torch.lerp(self._nearest(self.own_query(features)), query, gate)
        logits = similarity(query, key, self.kernel_size, self.scale_factor, self.padding)
        kernels = logits.softmax(dim=1)  # (B, k*k, s*H, s*W), in float32 at least
        return reassemble(x, kernels, self.scale_factor, self.padding)

    def _nearest(self, y: Tensor) -> Tensor:
        """(B, H, W, d) -> (B, d, s*H, s*W)."""
        y = y.permute(0, 3, 1, 2)
        return F.interpolate(y, size=self.upsampled_size(y), mode="nearest")

    @override
    def macs_per_pixel(self) -> int:
        c, phases = self.channels, self.scale_factor**2
        d = self.key.out_features if isinstance(self.key, nn.Linear) else c
        macs = phases * self.kernel_size**2 * (d + c)
        if self.variant != "i":
            macs += (phases * self.guide_channels + c) * d
        if self.variant == "g":
            macs += c * (d + 1) + 2 * phases * d
        return macs
