from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from upnas.upsamplers import LightSubPixel, SubPixel

from .helpers import num_parameters, perturb


@pytest.mark.parametrize("scale_factor", [2, 3])
def test_is_the_periodic_shuffle(scale_factor: int) -> None:
    """Shi et al., eq. 4: y[c, Y, X] = z[c s^2 + (Y mod s) s + X mod s, Y // s, X // s]."""
    torch.manual_seed(0)
    s = scale_factor
    upsampler = SubPixel(4, 3, scale_factor=s)
    perturb(upsampler)
    x = torch.randn(2, 4, 5, 6)
    z, y = upsampler.conv(x), upsampler(x)
    for c in range(3):
        for row in range(5 * s):
            for column in range(6 * s):
                phase = c * s * s + (row % s) * s + column % s
                assert torch.equal(y[:, c, row, column], z[:, phase, row // s, column // s])


def test_activations() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6)
    leaky = SubPixel(4, 3, activation="leaky_relu")
    plain = SubPixel(4, 3)
    plain.load_state_dict(leaky.state_dict())
    y = plain(x)
    torch.testing.assert_close(leaky(x), torch.where(y > 0, y, 0.2 * y))
    light = LightSubPixel(4, 3)
    z = F.pixel_shuffle(light.conv(x), 2)
    torch.testing.assert_close(light(x), z * (z + 3).clamp(0, 6) / 6)


@pytest.mark.parametrize("scale_factor", [2, 3])
@pytest.mark.parametrize("kind", [SubPixel, LightSubPixel])
def test_starts_as_nearest_neighbour(kind: type[SubPixel], scale_factor: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6)
    y = kind(4, 3, scale_factor=scale_factor)(x)
    low = y[..., ::scale_factor, ::scale_factor]
    torch.testing.assert_close(y, F.interpolate(low, scale_factor=scale_factor))
    assert low.std() > 0.1


def test_number_of_parameters() -> None:
    assert num_parameters(SubPixel(5, 3, scale_factor=3)) == (9 * 5 + 1) * 9 * 3
    assert num_parameters(LightSubPixel(5, 3, scale_factor=3)) == (5 + 1) * 9 * 3
