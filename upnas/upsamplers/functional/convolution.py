"""Convolutions by the number of spatial axes."""

from __future__ import annotations

from typing import Final

import torch.nn.functional as F
from torch import Tensor, nn

CONVOLUTION: Final[dict[int, type[nn.Conv2d] | type[nn.Conv3d]]] = {2: nn.Conv2d, 3: nn.Conv3d}
CONV_TRANSPOSE: Final = {2: F.conv_transpose2d, 3: F.conv_transpose3d}


def mix_channels(conv: nn.Conv2d | nn.Conv3d, x: Tensor) -> Tensor:
    """Apply a convolution of side 1 in the memory format of its input.

    A 1x1x1 ``Conv3d`` drops channels_last; ``Conv2d`` of the same numbers does not.

    Args:
        conv: Any stride 1 convolution with a kernel of side 1.
        x: (B, C, H, W) or (B, C, D, H, W).

    Returns:
        (B, C_out, H, W) or (B, C_out, D, H, W).
    """
    if x.dim() == 4:
        y: Tensor = conv(x)
        return y
    flat = F.conv2d(x.flatten(3), conv.weight.flatten(3), conv.bias)  # (B, C_out, D, H * W)
    return flat.reshape(*flat.shape[:3], *x.shape[3:])
