"""Networks that runtimes run, and what eager torch makes of them."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.measure.runtimes import RUNTIMES
from upnas.measure.runtimes.base import random_input
from upnas.records import Target

ODD = (3, 17, 23)
#: Relative L2 errors that the dtypes allow.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2, "float16": 4e-3}


class Decoder(nn.Module):
    """Every way of enlarging that a runtime translates by itself."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.transposed = nn.ConvTranspose2d(width, width, 2, stride=2)
        self.last = nn.Conv2d(width, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.transposed(F.relu(self.norm(self.conv(x))))
        y = F.interpolate(y, scale_factor=2.0, mode="bilinear")
        y = F.interpolate(self.last(y), size=(y.shape[-2] + 1, y.shape[-1] + 3), mode="nearest")
        return F.pixel_shuffle(y, 2)


def decoder() -> nn.Module:
    torch.manual_seed(0)
    return Decoder().eval()


def convolutions(width: int = 4) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 3, padding=1), nn.ReLU()).eval()


def eager_output(model: nn.Module, target: Target) -> Tensor:
    with torch.inference_mode():
        output: Tensor = model(random_input(target.input_shape))
    return output


def skip_if_missing(target: Target) -> None:
    if reason := RUNTIMES[target.runtime].missing(target):
        pytest.skip(reason)
