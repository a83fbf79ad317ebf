from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F

from upnas.upsamplers import Carafe

from .helpers import num_parameters, perturb


@pytest.mark.parametrize(("scale_factor", "kernel_size", "encoder_kernel"), [(2, 5, 3), (3, 3, 1)])
def test_is_the_equation(
    scale_factor: int, kernel_size: Literal[3, 5, 7], encoder_kernel: Literal[1, 3, 5]
) -> None:
    """Kernel prediction, softmax and reassembly of section 3, output pixel by output pixel."""
    torch.manual_seed(0)
    s, k, r = scale_factor, kernel_size, kernel_size // 2
    upsampler = Carafe(
        3,
        scale_factor=s,
        compressed_channels=4,
        kernel_size=kernel_size,
        encoder_kernel=encoder_kernel,
    ).double()
    perturb(upsampler, std=0.3)
    x = torch.randn(1, 3, 4, 3, dtype=torch.float64)
    codes = upsampler.encode(upsampler.compress(x))[0]
    y = upsampler(x)[0]
    for row in range(4 * s):
        for column in range(3 * s):
            i, j = row // s, column // s
            phase = (row % s) * s + column % s
            logits = [codes[n * s * s + phase, i, j].item() for n in range(k * k)]
            total = sum(math.exp(logit) for logit in logits)
            expected = torch.zeros(3, dtype=torch.float64)
            for n, logit in enumerate(logits):
                u, v = i + n // k - r, j + n % k - r
                if 0 <= u < 4 and 0 <= v < 3:
                    expected += math.exp(logit) / total * x[0, :, u, v]
            torch.testing.assert_close(y[:, row, column], expected)


def test_starts_as_a_box_blur() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 8, 9, 9)
    blurred = F.interpolate(F.avg_pool2d(x, 5, stride=1, padding=2), scale_factor=2)
    torch.testing.assert_close(Carafe(8)(x), blurred, atol=0.02, rtol=0)


def test_number_of_parameters() -> None:
    """The table of the literature: 1x1 with bias, 3x3 to s^2 k^2 with bias."""
    expected = 256 * 64 + 64 + 9 * 64 * 100 + 100
    assert num_parameters(Carafe(256)) == expected


@pytest.mark.parametrize("parameters", [{"kernel_size": 4}, {"encoder_kernel": 2}])
def test_even_kernels_are_refused(parameters: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="needs odd kernel_size and encoder_kernel"):
        Carafe(8, **parameters)  # type: ignore[arg-type]
