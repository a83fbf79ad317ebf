from __future__ import annotations

from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.upsamplers import Eucb, Separable

from .helpers import num_parameters, perturb

Form = Literal["plain", "fused"]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def filtered(upsampler: Separable, x: Tensor) -> Tensor:
    """Nearest resizing and the depthwise 3x3 convolution of (C, H, W), pixel by pixel."""
    s = upsampler.scale_factor
    u = F.pad(x.repeat_interleave(s, -1).repeat_interleave(s, -2), [1] * 4)
    z = torch.zeros(x.shape[0], s * x.shape[1], s * x.shape[2], dtype=x.dtype)
    for channel in range(z.shape[0]):
        for i in range(z.shape[1]):
            for j in range(z.shape[2]):
                window = u[channel, i : i + 3, j : j + 3]
                z[channel, i, j] = (window * upsampler.depthwise.weight[channel, 0]).sum()
    return z


def mixed(upsampler: Separable, z: Tensor) -> Tensor:
    """The 1x1 convolution of (C, H, W)."""
    weight, bias = upsampler.pointwise.weight[:, :, 0, 0], upsampler.pointwise.bias
    assert bias is not None
    return torch.einsum("oc,chw->ohw", weight, z) + bias[:, None, None]


@pytest.mark.parametrize("form", ["plain", "fused"])
@pytest.mark.parametrize("scale_factor", [1, 2, 3, 4])
def test_separable_is_its_equation(scale_factor: int, form: Form) -> None:
    upsampler = Separable(4, 6, scale_factor=scale_factor, form=form).double()
    perturb(upsampler)
    x = torch.randn(1, 4, 3, 2, dtype=torch.float64)
    torch.testing.assert_close(upsampler(x)[0], mixed(upsampler, filtered(upsampler, x[0])))


@pytest.mark.parametrize("form", ["plain", "fused"])
@pytest.mark.parametrize("scale_factor", [1, 2, 3])
def test_eucb_is_its_equation(scale_factor: int, form: Form) -> None:
    upsampler = Eucb(4, 6, scale_factor=scale_factor, form=form).double().eval()
    perturb(upsampler)
    mean = torch.randn(4, dtype=torch.float64)
    variance = torch.rand(4, dtype=torch.float64) + 0.5
    norm = upsampler.norm
    norm.running_mean, norm.running_var = mean, variance
    x = torch.randn(1, 4, 3, 2, dtype=torch.float64)
    z = filtered(upsampler, x[0])
    for c in range(4):
        z[c] = (z[c] - mean[c]) / (variance[c] + norm.eps) ** 0.5 * norm.weight[c] + norm.bias[c]
    torch.testing.assert_close(upsampler(x)[0], mixed(upsampler, z.clamp(min=0)))


@pytest.mark.parametrize("kind", [Separable, Eucb])
def test_filters_each_channel_on_its_own(kind: type[Separable]) -> None:
    upsampler = kind(4, 6).eval()
    perturb(upsampler)
    upsampler.pointwise = nn.Identity()  # type: ignore[assignment]
    x = torch.randn(1, 4, 5, 6)
    changed = x.clone()
    changed[:, 2] += 1
    differs = (upsampler(x) != upsampler(changed)).any(3).any(2)[0]
    assert differs.tolist() == [False, False, True, False]


def test_separable_is_linear() -> None:
    upsampler = Separable(4, 6).double()
    x, y = torch.randn(2, 1, 4, 3, 5, dtype=torch.float64)
    torch.testing.assert_close(upsampler(2 * x - y), 2 * upsampler(x) - upsampler(y))


def test_forms_have_the_same_gradients() -> None:
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64, requires_grad=True)
    plain = Separable(4, 6).double()
    fused = Separable(4, 6, form="fused").double()
    fused.load_state_dict(plain.state_dict())
    cotangent = torch.randn(2, 6, 6, 10, dtype=torch.float64)
    expected = torch.autograd.grad(plain(x), [x, *plain.parameters()], cotangent)
    gradients = torch.autograd.grad(fused(x), [x, *fused.parameters()], cotangent)
    torch.testing.assert_close(gradients, expected)


def test_starts_with_unit_gain() -> None:
    upsampler = Separable(512, 256)
    constant = torch.randn(8, 512, 1, 1).expand(8, 512, 6, 6)
    # The taps of a depthwise kernel are independent, so its gain on a constant has variance one.
    assert upsampler(constant)[..., 2:-2, 2:-2].var().item() == pytest.approx(1, rel=0.2)


def test_counts() -> None:
    assert num_parameters(Separable(5, 3)) == 9 * 5 + 5 * 3 + 3
    assert num_parameters(Eucb(5, 3)) == 9 * 5 + 2 * 5 + 5 * 3 + 3
    assert Separable(5, 3, scale_factor=3).macs_per_pixel() == 9 * (9 * 5 + 5 * 3)
    assert Eucb(5, 3, scale_factor=3).macs_per_pixel() == 9 * (9 * 5 + 5 * 3)
    assert Eucb(5, 3, scale_factor=3, form="fused").macs_per_pixel() == 25 * 5 + 9 * 5 * 3
