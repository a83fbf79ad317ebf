from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from upnas.upsamplers import IndexNet

from .helpers import num_parameters, perturb

Kind = Literal["holistic", "m2o"]


@pytest.mark.parametrize("context", [True, False])
@pytest.mark.parametrize("nonlinear", [True, False])
@pytest.mark.parametrize(
    ("kind", "scale_factor", "guide_channels"),
    [("holistic", 2, 3), ("holistic", 3, 2), ("m2o", 2, 2), ("m2o", 3, 3)],
)
@torch.no_grad()
def test_is_the_equation(
    kind: Kind, scale_factor: int, guide_channels: int, context: bool, nonlinear: bool
) -> None:
    """Index network and product, output pixel by output pixel."""
    torch.manual_seed(0)
    upsampler = IndexNet(
        3,
        scale_factor=scale_factor,
        guide_channels=guide_channels,
        kind=kind,
        context=context,
        nonlinear=nonlinear,
    ).double()
    perturb(upsampler, std=0.5)
    x = torch.randn(1, 3, 3, 2, dtype=torch.float64)
    s = scale_factor
    guide = torch.randn(1, guide_channels, 3 * s, 2 * s, dtype=torch.float64)
    upsampler(x, guide=guide)  # moves the statistics of the batch norm off their start
    y = upsampler.eval()(x, guide=guide)[0]
    for row in range(3 * s):
        for column in range(2 * s):
            phase = (row % s) * s + column % s
            hidden = strided_convolution(upsampler, guide[0], row // s, column // s)
            logits = hidden if not nonlinear else two_layers(upsampler, hidden, phase)
            if kind == "holistic":
                logits = logits[phase].expand(3)
            elif not nonlinear:
                logits = logits.view(s * s, 3)[phase]
            index = 1 / (1 + (-logits).exp())
            torch.testing.assert_close(y[:, row, column], index * x[0, :, row // s, column // s])


def strided_convolution(upsampler: IndexNet, guide: Tensor, i: int, j: int) -> Tensor:
    """The first convolution, centred on the block of input pixel (i, j), zero outside the guide."""
    weight = upsampler.index[0].weight
    assert isinstance(weight, Tensor)
    side, s = weight.shape[-1], upsampler.scale_factor
    total = torch.zeros(len(weight), dtype=weight.dtype)
    for m in range(side):
        for n in range(side):
            u, v = s * i + m - (side - s) // 2, s * j + n - (side - s) // 2
            if 0 <= u < guide.shape[1] and 0 <= v < guide.shape[2]:
                total += weight[:, :, m, n] @ guide[:, u, v]
    return total


def two_layers(upsampler: IndexNet, hidden: Tensor, phase: int) -> Tensor:
    """Batch norm, ReLU6 and the 1x1 convolution, with the weights of the phase's own network."""
    _, norm, _, last = upsampler.index
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(last, nn.Conv2d)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    hidden = (hidden - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
    hidden = (hidden * norm.weight + norm.bias).clamp(0, 6)
    weight = last.weight[..., 0, 0]
    if upsampler.kind == "holistic":
        return weight @ hidden
    networks = upsampler.scale_factor**2
    own: Tensor = weight.view(networks, -1, weight.shape[1])[phase]
    return own @ hidden.view(networks, -1)[phase]


def test_an_empty_guide_halves_every_value() -> None:
    x = torch.randn(1, 4, 3, 5)
    y = IndexNet(4).eval()(x, guide=torch.zeros(1, 4, 6, 10))
    torch.testing.assert_close(y, 0.5 * x.repeat_interleave(2, 2).repeat_interleave(2, 3))


def test_holistic_index_is_the_same_for_all_channels() -> None:
    x, guide = torch.ones(1, 4, 3, 5), torch.randn(1, 4, 6, 10)
    y = IndexNet(4).eval()(x, guide=guide)
    torch.testing.assert_close(y, y[:, :1].expand_as(y))
    y = IndexNet(4, kind="m2o").eval()(x, guide=guide)
    assert not torch.allclose(y, y[:, :1].expand_as(y), atol=1e-3)


def test_costs_are_the_published_ones() -> None:
    """Six modules with C = 256 behind SegFormer-B1, which see 14592 input pixels."""
    upsampler = IndexNet(256)
    assert 6 * num_parameters(upsampler) == pytest.approx(12.60e6, abs=5e3)
    assert upsampler.macs_per_pixel() * 14_592 / 1e9 == pytest.approx(30.65, abs=5e-3)


@pytest.mark.parametrize(
    ("parameters", "weights"),
    [
        ({"nonlinear": False, "context": False}, math.prod([4, 4, 8, 8])),
        ({"nonlinear": False, "context": True}, math.prod([4, 16, 8, 8])),
        ({"nonlinear": True, "context": True}, 4 * (32 + 2) * 8 * 8 + 4 * 2 * 2 * 8),
    ],
)
def test_parameters_of_the_many_to_one_index(parameters: dict[str, Any], weights: int) -> None:
    upsampler = IndexNet(8, kind="m2o", **parameters)
    assert num_parameters(upsampler) == weights
    macs = sum(p.numel() for p in upsampler.parameters() if p.ndim == 4) + 4 * 8
    assert upsampler.macs_per_pixel() == macs
