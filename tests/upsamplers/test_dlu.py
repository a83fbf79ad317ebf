from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from upnas.upsamplers import Dlu

from .helpers import num_parameters, perturb
from .test_sampling import read


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("scale_factor", "kernel_size", "encoder_kernel"), [(2, 5, 3), (3, 3, 1)])
def test_is_the_equation(
    scale_factor: int,
    kernel_size: Literal[3, 5, 7],
    encoder_kernel: Literal[1, 3, 5],
    layout: torch.memory_format,
) -> None:
    """Source kernels, their read at the offsets and the reassembly, output pixel by pixel."""
    torch.manual_seed(0)
    s, k, r = scale_factor, kernel_size, kernel_size // 2
    upsampler = Dlu(
        3,
        scale_factor=s,
        compressed_channels=4,
        kernel_size=kernel_size,
        encoder_kernel=encoder_kernel,
    ).double()
    perturb(upsampler, std=0.5)
    x = torch.randn(1, 3, 4, 3, dtype=torch.float64)
    compressed = upsampler.compress(x)
    exponentials = upsampler.encode(compressed)[0].exp()
    source = exponentials / exponentials.sum(0)
    offsets = upsampler.offset(compressed)[0]
    y = upsampler(x.contiguous(memory_format=layout))[0]
    for row in range(4 * s):
        for column in range(3 * s):
            i, j, phase = row // s, column // s, (row % s) * s + column % s
            across, down = offsets[phase, i, j].item(), offsets[s * s + phase, i, j].item()
            kernel = read(source, i + down, j + across)
            expected = torch.zeros(3, dtype=torch.float64)
            for n in range(k * k):
                u, v = i + n // k - r, j + n % k - r
                if 0 <= u < 4 and 0 <= v < 3:
                    expected += kernel[n] * x[0, :, u, v]
            torch.testing.assert_close(y[:, row, column], expected)


def test_starts_as_a_box_blur() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 8, 9, 9)
    blurred = F.interpolate(F.avg_pool2d(x, 5, stride=1, padding=2), scale_factor=2)
    torch.testing.assert_close(Dlu(8)(x), blurred, atol=0.02, rtol=0)


def test_kernels_stay_normalised_wherever_they_are_read() -> None:
    torch.manual_seed(0)
    upsampler = Dlu(8)
    perturb(upsampler, std=1.0)
    y = upsampler(torch.full((1, 8, 9, 9), 2.0))
    torch.testing.assert_close(y[..., 4:-4, 4:-4], torch.full((1, 8, 10, 10), 2.0))


def test_reads_kernels_at_the_right_place_in_bfloat16() -> None:
    """Offsets by half a pixel between two very different kernels, 500 pixels from the origin."""
    torch.manual_seed(0)
    upsampler = Dlu(8, kernel_size=3, encoder_kernel=1)
    perturb(upsampler)
    nn.init.zeros_(upsampler.offset.weight)
    nn.init.constant_(upsampler.offset.bias, 0.5)  # type: ignore[arg-type]  # it has a bias
    x = torch.randn(1, 8, 2, 500).bfloat16()
    expected = upsampler(x.float())
    y = upsampler.bfloat16()(x).float()
    assert (y - expected).abs().max() < 0.04 * expected.abs().max()


def test_number_of_parameters() -> None:
    expected = 256 * 64 + 64 + (9 * 64 + 1) * (25 + 2 * 4)
    assert num_parameters(Dlu(256)) == expected
    carafe_x16 = 256 * 64 + 64 + (9 * 64 + 1) * 25 * 16**2
    assert math.isclose(num_parameters(Dlu(256, scale_factor=16)) / carafe_x16, 0.09, abs_tol=0.01)


@pytest.mark.parametrize("parameters", [{"kernel_size": 4}, {"encoder_kernel": 2}])
def test_even_kernels_are_refused(parameters: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="needs odd kernel_size and encoder_kernel"):
        Dlu(8, **parameters)  # type: ignore[arg-type]
