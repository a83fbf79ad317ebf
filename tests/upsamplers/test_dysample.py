from __future__ import annotations

import copy
import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.upsamplers import DySample

from .helpers import num_parameters, perturb
from .test_sampling import read

Style = Literal["lp", "pl"]


def linear(conv: nn.Conv2d, features: Tensor) -> list[float]:
    values: Tensor = conv.weight[:, :, 0, 0] @ features
    return (values if conv.bias is None else values + conv.bias).tolist()


@pytest.mark.parametrize("scale_factor", [2, 3])
@pytest.mark.parametrize("dynamic_scope", [False, True])
@pytest.mark.parametrize("style", ["lp", "pl"])
def test_is_the_equation(style: Style, dynamic_scope: bool, scale_factor: int) -> None:
    torch.manual_seed(0)
    s, c, groups = scale_factor, 2 * scale_factor**2, 2
    upsampler = DySample(
        c, scale_factor=s, style=style, groups=groups, dynamic_scope=dynamic_scope
    ).double()
    perturb(upsampler, std=0.5)
    x = torch.randn(1, c, 3, 4, dtype=torch.float64)
    y = upsampler(x)[0]
    for row in range(3 * s):
        for column in range(4 * s):
            i, j, p, q = row // s, column // s, row % s, column % s
            phase = p * s + q
            features = x[0, :, i, j] if style == "lp" else x[0, phase :: s * s, i, j]
            raw = linear(upsampler.offset, features)
            scope = [0.25] * len(raw)
            if upsampler.scope is not None:
                scope = [0.5 / (1 + math.exp(-z)) for z in linear(upsampler.scope, features)]
            moved = [scale * value for scale, value in zip(scope, raw, strict=True)]
            for g in range(groups):
                # Channels are (x or y, group, phase); style "pl" has the phase in space.
                across, down = g, groups + g
                if style == "lp":
                    across, down = across * s * s + phase, down * s * s + phase
                position_x = (column + 0.5) / s - 0.5 + moved[across]
                position_y = (row + 0.5) / s - 0.5 + moved[down]
                part = slice(g * c // groups, (g + 1) * c // groups)
                expected = read(x[0, part], position_y, position_x)
                torch.testing.assert_close(y[part, row, column], expected)


@pytest.mark.parametrize("scale_factor", [2, 3])
@pytest.mark.parametrize("dynamic_scope", [False, True])
@pytest.mark.parametrize("style", ["lp", "pl"])
def test_zero_offsets_are_bilinear(style: Style, dynamic_scope: bool, scale_factor: int) -> None:
    torch.manual_seed(0)
    upsampler = DySample(36, scale_factor=scale_factor, style=style, dynamic_scope=dynamic_scope)
    nn.init.zeros_(upsampler.offset.weight)
    x = torch.randn(2, 36, 7, 5)
    expected = F.interpolate(x, scale_factor=scale_factor, mode="bilinear")
    torch.testing.assert_close(upsampler(x), expected, atol=1e-5, rtol=1e-5)


def test_starts_close_to_bilinear() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 64, 7, 5)
    expected = F.interpolate(x, scale_factor=2, mode="bilinear")
    assert (DySample(64, dynamic_scope=True)(x) - expected).abs().max() < 0.05


@pytest.mark.parametrize("dynamic_scope", [False, True])
def test_reads_at_the_right_place_in_bfloat16(dynamic_scope: bool) -> None:
    """Positions in bfloat16 would be off by pixels at this width; a ramp shows it."""
    torch.manual_seed(0)
    upsampler = DySample(8, dynamic_scope=dynamic_scope).bfloat16()
    nn.init.zeros_(upsampler.offset.weight)
    with torch.no_grad():
        upsampler.offset.bias.normal_()  # type: ignore[union-attr]
    x = (torch.arange(500) % 2).bfloat16().expand(1, 8, 3, 500)
    exact = copy.deepcopy(upsampler).double()(x.double())
    assert (upsampler(x).double() - exact).abs().max() < 0.01
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = copy.deepcopy(upsampler).float()(x.float())
    assert (under_autocast - exact).abs().max() < 0.01


@pytest.mark.parametrize(
    ("channels", "groups", "used"), [(8, 4, 4), (6, 4, 2), (5, 4, 1), (12, 8, 4), (64, 8, 8)]
)
def test_groups_divide_the_channels(channels: int, groups: int, used: int) -> None:
    upsampler = DySample(channels, groups=groups)
    assert upsampler.groups == used
    assert upsampler(torch.randn(1, channels, 3, 4)).shape == (1, channels, 6, 8)


def test_groups_move_on_their_own() -> None:
    torch.manual_seed(0)
    upsampler = DySample(4, groups=2)
    nn.init.zeros_(upsampler.offset.weight)
    x = torch.randn(1, 4, 6, 6)
    before = upsampler(x)
    with torch.no_grad():
        upsampler.offset.bias.view(2, 2, 4)[:, 1] = 0.5  # type: ignore[union-attr]
    assert (upsampler(x) != before).any((0, 2, 3)).tolist() == [False, False, True, True]


@pytest.mark.parametrize(
    ("style", "dynamic_scope", "expected"),
    [
        ("lp", False, 2 * 4 * 4 * (64 + 1)),
        ("lp", True, 2 * 4 * 4 * (64 + 1) + 2 * 4 * 4 * 64),
        ("pl", False, 2 * 4 * (64 // 4 + 1)),
        ("pl", True, 2 * 4 * (64 // 4 + 1) + 2 * 4 * 16),
    ],
)
def test_number_of_parameters(style: Style, dynamic_scope: bool, expected: int) -> None:
    assert num_parameters(DySample(64, style=style, dynamic_scope=dynamic_scope)) == expected


def test_what_it_cannot_do_is_refused() -> None:
    with pytest.raises(ValueError, match=r"style='pl' needs channels divisible by .* = 4; got 6"):
        DySample(6, style="pl")
    with pytest.raises(ValueError, match="needs groups >= 1; got 0"):
        DySample(8, groups=0)
