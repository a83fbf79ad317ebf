"""What the tests of the upsamplers share."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from upnas.upsamplers import UPSAMPLERS, Upsampler, build_upsampler

CHANNELS = 8
NAMES = sorted(UPSAMPLERS)

#: Every catalogue entry as it comes, and the settings that take another path through its code.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {name: (name, {}) for name in NAMES} | {
    **{
        f"{name}-3d": (name, {"spatial_dims": 3})
        for name in NAMES
        if UPSAMPLERS[name].dims == {2, 3}
    },
    "adaptive-small": ("adaptive", {"threshold": 10}),
    "bilinear-corners": ("bilinear", {"align_corners": True}),
    "bicubic-antialias": ("bicubic", {"antialias": True}),
    "bicubic-corners": ("bicubic", {"align_corners": True}),
    "bilinear-conv-last": ("bilinear_conv1x1", {"order": "upsample_first"}),
    "carafe-3": ("carafe", {"kernel_size": 3, "encoder_kernel": 1, "compressed_channels": 4}),
    "dysample-pl": ("dysample", {"style": "pl", "groups": 2}),
    "dysample-plus": ("dysample", {"dynamic_scope": True}),
    "fade-ungated": ("fade", {"gate": False, "kernel_size": 3, "padding": "replicate"}),
    "fir-6": ("fir", {"taps": 6}),
    "freqfusion-resample": ("freqfusion", {"resample": True, "lowpass_kernel": 3}),
    "hybrid-3": ("hybrid", {"attention_kernel": 3}),
    "indexnet-linear": ("indexnet", {"context": False, "nonlinear": False}),
    "indexnet-m2o": ("indexnet", {"kind": "m2o"}),
    "jbu-fixup": ("jbu", {"fixup": True, "radius": 1}),
    "nearest-conv-plain": ("nearest_conv", {"form": "plain"}),
    "resfu-5": ("resfu_like", {"kernel_size": 5, "embedding": 6}),
    "sapa-gated": ("sapa", {"variant": "g", "embedding_channels": 4}),
    "sapa-inner": ("sapa", {"variant": "i"}),
    "selector-many": (
        "selector",
        {"arms": ("carafe", "unet_block", "nearest"), "temperature": 1.0},
    ),
    "separable-fused": ("separable", {"form": "fused"}),
    "subpixel-blur": ("subpixel", {"activation": "leaky_relu", "blur": True}),
    "subpixel-leaky": ("subpixel", {"activation": "leaky_relu"}),
    "transposed-2": ("transposed", {"kernel_size": 2, "init": "default"}),
    "transposed-bilinear": ("transposed", {"init": "bilinear"}),
    "transposed-norm": ("transposed", {"norm_act": True}),
}


def variant(label: str, scale_factor: int = 2, out_channels: int | None = None) -> Upsampler:
    """Build a variant; channels that it keeps stay as they are."""
    name, parameters = VARIANTS[label]
    kind = UPSAMPLERS[name]
    if kind.keeps_channels:
        out_channels = None
    place = {"scale_factor": scale_factor, "spatial_dims": min(kind.dims)}
    return build_upsampler(name, CHANNELS, out_channels, **(place | parameters))


def features(upsampler: Upsampler, height: int, width: int, batch: int = 2) -> Tensor:
    """Random input; volumes have 3 slices."""
    depth = (3,) * (upsampler.spatial_dims - 2)
    return torch.randn(batch, CHANNELS, *depth, height, width)


def guide_for(
    upsampler: Upsampler, x: Tensor, size: tuple[int, ...] | None = None
) -> Tensor | None:
    """A guide at the output resolution, for guided upsamplers."""
    if not upsampler.guided:
        return None
    sides = size or upsampler.upsampled_size(x)
    return torch.randn(x.shape[0], upsampler.guide_channels, *sides, dtype=x.dtype)


def run(
    upsampler: Upsampler,
    x: Tensor,
    size: tuple[int, ...] | None = None,
    guide: Tensor | None = None,
) -> Tensor:
    """Run it, with a random guide where it wants one and none is given."""
    if guide is None:
        guide = guide_for(upsampler, x, size)
    y: Tensor = upsampler(x, size=size, guide=guide)
    return y


@torch.no_grad()
def perturb(module: nn.Module, std: float = 0.1) -> None:
    """Move every parameter to a generic point, away from zeros and ties of the initial weights."""
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=std)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
