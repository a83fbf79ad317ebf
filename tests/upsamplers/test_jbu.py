from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers import JointBilateral, JointBilateralImage

from .helpers import num_parameters, perturb


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _double(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


def _in_loops(upsampler: JointBilateral, x: Tensor, guide: Tensor) -> Tensor:
    """Range kernel times spatial kernel over their sum, output pixel by output pixel."""
    r = upsampler.radius
    height, width = guide.shape[-2:]
    enlarged = F.interpolate(x, size=(height, width), mode="bicubic")[0]
    keys = upsampler.project(guide)[0]
    temperature = math.exp(upsampler.log_temperature.item())
    sigma = math.exp(upsampler.log_sigma.item())
    window = [(i, j) for i in range(-r, r + 1) for j in range(-r, r + 1)]
    y = torch.zeros_like(enlarged)
    for row in range(height):
        for column in range(width):
            places = [
                (min(max(row + i, 0), height - 1), min(max(column + j, 0), width - 1))
                for i, j in window
            ]
            kernel = [
                math.exp(temperature * (keys[:, row, column] @ keys[:, u, v]).item())
                * math.exp(-((i / r) ** 2 + (j / r) ** 2) / (2 * sigma**2))
                for (i, j), (u, v) in zip(window, places, strict=True)
            ]
            weights = torch.tensor(kernel, dtype=torch.float64) / sum(kernel)
            if upsampler.fixup is not None:
                cues = torch.cat([weights, guide[0, :, row, column]])
                correction = upsampler.fixup(cues[None, :, None, None]).flatten()
                weights = weights + 0.1 * (correction - correction.mean())
            for weight, (u, v) in zip(weights, places, strict=True):
                y[:, row, column] += weight * enlarged[:, u, v]
    return y[None]


@torch.no_grad()
@pytest.mark.parametrize(
    ("scale_factor", "radius", "guide_channels", "fixup"),
    [(2, 3, 3, False), (3, 1, 5, False), (2, 2, 4, True)],
)
def test_is_the_equation(scale_factor: int, radius: int, guide_channels: int, fixup: bool) -> None:
    upsampler = JointBilateral(
        3,
        scale_factor=scale_factor,
        guide_channels=guide_channels,
        radius=radius,
        key_channels=4,
        fixup=fixup,
    ).double()
    perturb(upsampler, std=0.5)
    x = _double(1, 3, 3, 2)
    guide = _double(1, guide_channels, 3 * scale_factor, 2 * scale_factor)
    torch.testing.assert_close(upsampler(x, guide=guide), _in_loops(upsampler, x, guide))


def test_constant_guide_leaves_the_spatial_gaussian() -> None:
    upsampler = JointBilateral(2, guide_channels=1, radius=2)
    torch.nn.init.constant_(upsampler.log_sigma, math.log(0.5))
    x = torch.randn(1, 2, 4, 6)
    profile = torch.exp(-2 * torch.linspace(-1, 1, 5) ** 2)
    profile /= profile.sum()
    enlarged = F.pad(F.interpolate(x, scale_factor=2, mode="bicubic"), [2] * 4, mode="replicate")
    kernel = (profile[:, None] * profile).expand(2, 1, 5, 5)
    expected = F.conv2d(enlarged, kernel, groups=2)
    torch.testing.assert_close(upsampler(x, guide=torch.ones(1, 1, 8, 12)), expected)


def test_does_not_mix_across_an_edge_of_the_guide() -> None:
    upsampler = JointBilateral(2, scale_factor=1, guide_channels=1, key_channels=2)
    with torch.no_grad():  # keys (6, 0) and (0, 6) on the two sides of the edge
        for parameter, value in zip(
            upsampler.project.parameters(),
            [torch.tensor([6.0, -6.0]).view(2, 1, 1, 1), 0, torch.eye(2)[..., None, None], 0],
            strict=True,
        ):
            parameter.copy_(torch.as_tensor(value))
    guide = torch.ones(1, 1, 6, 8)
    guide[..., 4:] = -1
    x = torch.randn(1, 2, 6, 8)
    other = x.clone()
    other[..., 4:] = torch.randn(1, 2, 6, 4)
    y, changed = upsampler(x, guide=guide), upsampler(other, guide=guide)
    torch.testing.assert_close(changed[..., :4], y[..., :4])
    assert not torch.allclose(changed[..., 4:], y[..., 4:])


@pytest.mark.parametrize("fixup", [False, True])
def test_constant_stays_constant_whatever_the_guide(fixup: bool) -> None:
    upsampler = JointBilateral(2, scale_factor=3, guide_channels=4, fixup=fixup).double()
    perturb(upsampler, std=1.0)
    x = _double(1, 2, 1, 1).expand(1, 2, 4, 3)
    y = upsampler(x, guide=_double(1, 4, 12, 9))
    torch.testing.assert_close(y, x[..., :1, :1].expand_as(y))


def test_odd_guide_continues_by_its_last_row_and_column() -> None:
    upsampler = JointBilateral(2, guide_channels=3)
    x, guide = torch.randn(2, 2, 4, 3), torch.randn(2, 3, 7, 5)
    whole = upsampler(x, guide=F.pad(guide, [0, 1, 0, 1], mode="replicate"))
    torch.testing.assert_close(upsampler(x, size=(7, 5), guide=guide), whole[..., :7, :5])


def test_image_is_three_channels_at_every_stage() -> None:
    upsampler = JointBilateralImage(16)
    assert (JointBilateral.guide_source, upsampler.guide_source) == ("skip", "image")
    assert upsampler.guide_channels == 3
    assert upsampler(torch.randn(1, 16, 3, 5), guide=torch.rand(1, 3, 6, 10)).shape[-2:] == (6, 10)
    with pytest.raises(ValueError, match="guide at the output resolution"):
        upsampler(torch.randn(1, 16, 3, 5), guide=torch.rand(1, 3, 12, 20))


def test_number_of_parameters_and_macs() -> None:
    """1x1 to the keys and on, both with bias, T and sigma; the window at the output resolution."""
    upsampler = JointBilateral(256, guide_channels=64)
    assert num_parameters(upsampler) == (64 * 32 + 32) + (32 * 32 + 32) + 2
    bicubic, keys, window = 16 * 256, 64 * 32 + 32 * 32, 49 * (32 + 256)
    assert upsampler.macs_per_pixel() == 4 * (bicubic + keys + window)


def test_channels_last_is_kept() -> None:
    upsampler = JointBilateral(4).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 3, 5).to(memory_format=torch.channels_last)
    guide = torch.randn(2, 4, 6, 10).to(memory_format=torch.channels_last)
    assert upsampler(x, guide=guide).is_contiguous(memory_format=torch.channels_last)


def test_gradcheck() -> None:
    upsampler = JointBilateral(2, guide_channels=3, radius=1, fixup=True).double()
    perturb(upsampler, std=0.3)
    x, guide = _double(1, 2, 2, 3).requires_grad_(), _double(1, 3, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, guide: upsampler(x, guide=guide), (x, guide), fast_mode=True
    )


def test_impossible_windows_are_refused() -> None:
    with pytest.raises(ValueError, match="JointBilateral needs radius >= 1; got 0"):
        JointBilateral(8, radius=0)
