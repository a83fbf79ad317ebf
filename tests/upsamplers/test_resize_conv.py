from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from upnas.upsamplers import BilinearConv1x1, NearestConv, Separable, UNetBlock

from .helpers import num_parameters, perturb


@pytest.mark.parametrize("scale_factor", [2, 3])
def test_the_convolution_may_come_first(scale_factor: int) -> None:
    torch.manual_seed(0)
    upsampler = BilinearConv1x1(5, 3, scale_factor=scale_factor)
    perturb(upsampler)
    x = torch.randn(2, 5, 7, 4)
    interpolated = F.interpolate(x, scale_factor=scale_factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(upsampler(x), upsampler.conv(interpolated), atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale_factor", [2, 3])
def test_nearest_conv_is_a_transposed_convolution(scale_factor: int) -> None:
    """Nearest then 3x3 equals a transposed convolution whose kernel is the 3x3 * an s x s box."""
    torch.manual_seed(0)
    upsampler = NearestConv(4, 3, scale_factor=scale_factor).double()
    perturb(upsampler)
    kernel = upsampler.conv.weight.transpose(0, 1).flip(-1, -2)
    box = torch.ones(3 * 4, 1, scale_factor, scale_factor, dtype=torch.float64)
    full = F.conv2d(kernel.reshape(1, 12, 3, 3), box, padding=scale_factor - 1, groups=12).reshape(
        4, 3, scale_factor + 2, scale_factor + 2
    )
    x = torch.randn(2, 4, 5, 6, dtype=torch.float64)
    expected = F.conv_transpose2d(x, full, upsampler.conv.bias, stride=scale_factor, padding=1)
    torch.testing.assert_close(upsampler(x), expected)


def test_unet_block_normalises_and_rectifies() -> None:
    torch.manual_seed(0)
    upsampler = UNetBlock(4, 6)
    x = torch.randn(3, 4, 5, 6)
    y = upsampler(x)
    interpolated = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    z = F.conv2d(interpolated, upsampler.conv.weight, padding=1)
    mean, variance = z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)
    normal = (z - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
    torch.testing.assert_close(y, normal.clamp(min=0), atol=1e-5, rtol=1e-4)


def test_separable_filters_each_channel_on_its_own() -> None:
    torch.manual_seed(0)
    upsampler = Separable(4, 6).eval()
    perturb(upsampler)
    upsampler.pointwise = nn.Identity()  # type: ignore[assignment]
    x = torch.randn(1, 4, 5, 6)
    changed = x.clone()
    changed[:, 2] += 1
    assert (upsampler(x) != upsampler(changed)).any((0, 2, 3)).tolist() == [
        False,
        False,
        True,
        False,
    ]


def test_separable_is_its_equation() -> None:
    torch.manual_seed(0)
    upsampler = Separable(4, 6).double().eval()
    perturb(upsampler)
    mean = torch.randn(4, dtype=torch.float64)
    variance = torch.rand(4, dtype=torch.float64) + 0.5
    norm = upsampler.norm
    norm.running_mean, norm.running_var = mean, variance
    x = torch.randn(1, 4, 3, 2, dtype=torch.float64)
    u = F.pad(x.repeat_interleave(2, -1).repeat_interleave(2, -2), [1] * 4)
    z = torch.zeros(4, 6, 4, dtype=torch.float64)
    for channel in range(4):
        for i in range(6):
            for j in range(4):
                window = u[0, channel, i : i + 3, j : j + 3]
                filtered = (window * upsampler.depthwise.weight[channel, 0]).sum()
                normal = (filtered - mean[channel]) / (variance[channel] + norm.eps) ** 0.5
                z[channel, i, j] = normal * norm.weight[channel] + norm.bias[channel]
    pointwise = upsampler.pointwise
    assert pointwise.bias is not None
    mixed = torch.einsum("oc,chw->ohw", pointwise.weight[:, :, 0, 0], z.clamp(min=0))
    torch.testing.assert_close(upsampler(x)[0], mixed + pointwise.bias[:, None, None])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (NearestConv, 9 * 5 * 3 + 3),
        (BilinearConv1x1, 5 * 3 + 3),
        (UNetBlock, 9 * 5 * 3 + 2 * 3),
        (Separable, 9 * 5 + 2 * 5 + 5 * 3 + 3),
    ],
)
def test_number_of_parameters(kind: type[NearestConv], expected: int) -> None:
    assert num_parameters(kind(5, 3)) == expected


@pytest.mark.parametrize("kind", [NearestConv, BilinearConv1x1])
def test_starts_with_unit_gain(kind: type[NearestConv]) -> None:
    """White features keep their variance through the initial convolution."""
    torch.manual_seed(0)
    upsampler = kind(64, 256)
    white = torch.randn(4, 64, 16, 16)
    interior = upsampler.conv(white)[..., 1:-1, 1:-1]
    assert interior.var().item() == pytest.approx(1, rel=0.1)
