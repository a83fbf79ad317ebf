from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers import Hybrid

from .helpers import num_parameters, perturb


def naive_conv(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    side = weight.shape[-1]
    padded = F.pad(x, [side // 2] * 4)
    y = torch.zeros(weight.shape[0], *x.shape[-2:], dtype=x.dtype)
    for o in range(weight.shape[0]):
        for i in range(x.shape[-2]):
            for j in range(x.shape[-1]):
                window = padded[:, i : i + side, j : j + side]
                y[o, i, j] = (window * weight[o]).sum() + bias[o]
    return y


@pytest.mark.parametrize("attention_kernel", [3, 7])
def test_is_its_equation(attention_kernel: Literal[3, 7]) -> None:
    torch.manual_seed(0)
    upsampler = Hybrid(3, attention_kernel=attention_kernel).double()
    perturb(upsampler)
    x = torch.randn(1, 3, 4, 3, dtype=torch.float64)
    u = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)[0]
    refine, attend = upsampler.refine, upsampler.attend
    r = u + naive_conv(u, refine.weight, refine.bias)  # type: ignore[arg-type]
    summary = torch.stack([r.sum(0) / 3, r.max(0).values])
    logits = naive_conv(summary, attend.weight, attend.bias)[0]  # type: ignore[arg-type]
    y = upsampler(x)[0]
    for i in range(8):
        for j in range(6):
            gain = 2 / (1 + math.exp(-logits[i, j].item()))
            torch.testing.assert_close(y[:, i, j], r[:, i, j] * gain)


def test_starts_exactly_as_bilinear() -> None:
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(Hybrid(4)(x), F.interpolate(x, scale_factor=2, mode="bilinear"))


def test_counts() -> None:
    assert num_parameters(Hybrid(5)) == 9 * 25 + 5 + 99
    assert Hybrid(5, scale_factor=3).macs_per_pixel() == 9 * (4 * 5 + 9 * 25 + 98)
    assert Hybrid(5, attention_kernel=3).macs_per_pixel() == 4 * (4 * 5 + 9 * 25 + 18)
