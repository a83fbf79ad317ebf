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
    "adaptive-small": ("adaptive", {"threshold": 10}),
    "bilinear-corners": ("bilinear", {"align_corners": True}),
    "bicubic-corners": ("bicubic", {"align_corners": True}),
    "carafe-3": ("carafe", {"kernel_size": 3, "encoder_kernel": 1, "compressed_channels": 4}),
    "dysample-pl": ("dysample", {"style": "pl", "groups": 2}),
    "dysample-plus": ("dysample", {"dynamic_scope": True}),
    "hybrid-3": ("hybrid", {"attention_kernel": 3}),
    "selector-many": (
        "selector",
        {"arms": ("carafe", "unet_block", "nearest"), "temperature": 1.0},
    ),
    "subpixel-leaky": ("subpixel", {"activation": "leaky_relu"}),
    "transposed-2": ("transposed", {"kernel_size": 2, "init": "default"}),
}


def variant(label: str, scale_factor: int = 2, out_channels: int | None = None) -> Upsampler:
    """Build a variant; channels that it keeps stay as they are."""
    name, parameters = VARIANTS[label]
    if UPSAMPLERS[name].keeps_channels:
        out_channels = None
    return build_upsampler(name, CHANNELS, out_channels, scale_factor=scale_factor, **parameters)


def guide_for(
    upsampler: Upsampler, x: Tensor, size: tuple[int, int] | None = None
) -> Tensor | None:
    """Encoder features at the output resolution, for guided upsamplers."""
    if not upsampler.guided:
        return None
    height, width = size or tuple(side * upsampler.scale_factor for side in x.shape[-2:])
    return torch.randn(x.shape[0], upsampler.channels, height, width, dtype=x.dtype)


def run(upsampler: Upsampler, x: Tensor, size: tuple[int, int] | None = None) -> Tensor:
    y: Tensor = upsampler(x, size=size, guide=guide_for(upsampler, x, size))
    return y


@torch.no_grad()
def perturb(module: nn.Module, std: float = 0.1) -> None:
    """Move every parameter to a generic point, away from zeros and ties of the initial weights."""
    for parameter in module.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=std)


def num_parameters(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
