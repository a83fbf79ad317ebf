from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers import FreqFusion
from upnas.upsamplers.freqfusion import OffsetGenerator

from .helpers import num_parameters, perturb


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def _double(*size: int) -> Tensor:
    return torch.randn(*size, dtype=torch.float64)


def _clamped(x: Tensor, row: int, column: int) -> Tensor:
    """A pixel of (C, H, W), or the nearest one."""
    height, width = x.shape[-2:]
    return x[:, min(max(row, 0), height - 1), min(max(column, 0), width - 1)]


def _filters_in_loops(logits: Tensor) -> Tensor:
    """Softmax, Hamming window, sum of one; (k*k, H, W)."""
    k = math.isqrt(logits.shape[0])
    hamming = [0.54 - 0.46 * math.cos(2 * math.pi * i / (k - 1)) for i in range(k)]
    filters = torch.zeros_like(logits)
    for row in range(logits.shape[1]):
        for column in range(logits.shape[2]):
            weights = logits[:, row, column].softmax(dim=0)
            for i in range(k):
                for j in range(k):
                    weights[i * k + j] *= hamming[i] * hamming[j]
            filters[:, row, column] = weights / weights.sum()
    return filters


def _reassemble_in_loops(x: Tensor, filters: Tensor, s: int) -> Tensor:
    """Weighted sums of the neighbours of (C, H, W), with one filter per output pixel."""
    taps, height, width = filters.shape
    k = math.isqrt(taps)
    y = x.new_zeros(x.shape[0], height, width)
    for row in range(height):
        for column in range(width):
            for n in range(taps):
                place = row // s + n // k - k // 2, column // s + n % k - k // 2
                y[:, row, column] += filters[n, row, column] * _clamped(x, *place)
    return y


def _pair_in_loops(upsampler: FreqFusion, x: Tensor, guide: Tensor) -> tuple[Tensor, Tensor]:
    """The equations of the docstring, without resampling."""
    s = upsampler.scale_factor
    coarse, fine = upsampler.compress(x), upsampler.compress_guide(guide)
    high = upsampler.highpass(fine)[0]
    fine = 2 * fine[0] - _reassemble_in_loops(fine[0], _filters_in_loops(high), 1)
    low = upsampler.lowpass(fine[None])[0]
    low = low + _reassemble_in_loops(upsampler.lowpass(coarse)[0], _filters_in_loops(low), s)
    lowpass = _filters_in_loops(low)
    high = high + _reassemble_in_loops(upsampler.highpass(coarse)[0], lowpass, s)
    smooth = _reassemble_in_loops(guide[0], _filters_in_loops(high), 1)
    return _reassemble_in_loops(x[0], lowpass, s)[None], 2 * guide - smooth


@torch.no_grad()
@pytest.mark.parametrize(
    ("scale_factor", "lowpass_kernel", "highpass_kernel", "guide_channels"),
    [(2, 5, 3, 4), (3, 3, 5, 3)],
)
def test_is_the_equation(
    scale_factor: int,
    lowpass_kernel: Literal[3, 5, 7],
    highpass_kernel: Literal[3, 5, 7],
    guide_channels: int,
) -> None:
    upsampler = FreqFusion(
        3,
        scale_factor=scale_factor,
        guide_channels=guide_channels,
        compressed_channels=4,
        lowpass_kernel=lowpass_kernel,
        highpass_kernel=highpass_kernel,
    ).double()
    perturb(upsampler, std=0.3)
    x = _double(1, 3, 3, 2)
    guide = _double(1, guide_channels, 3 * scale_factor, 2 * scale_factor)
    expected = _pair_in_loops(upsampler, x, guide)
    torch.testing.assert_close(upsampler.pair(x, guide), expected)
    y, enhanced = expected
    if upsampler.project is not None:
        enhanced = upsampler.project(enhanced)
    assert (upsampler.project is None) == (guide_channels == 3)
    torch.testing.assert_close(upsampler(x, guide=guide), y + enhanced)


def test_both_filters_keep_constants() -> None:
    """The low-pass filters sum to one, the high-pass filters to zero, borders included."""
    upsampler = FreqFusion(2, guide_channels=3)
    perturb(upsampler, std=1.0)
    x = torch.tensor([1.5, -2.0]).view(1, 2, 1, 1).expand(1, 2, 4, 3)
    y, _ = upsampler.pair(x, torch.randn(1, 3, 8, 6))
    torch.testing.assert_close(y, x[..., :1, :1].expand_as(y))
    guide = torch.tensor([1.5, -2.0, 0.5]).view(1, 3, 1, 1).expand(1, 3, 8, 6)
    _, enhanced = upsampler.pair(torch.randn(1, 2, 4, 3), guide)
    torch.testing.assert_close(enhanced, guide)


def test_starts_with_the_window_alone() -> None:
    """Equal logits leave the Hamming windows, normalised: known taps on an impulse."""
    upsampler = FreqFusion(1)
    for conv in (upsampler.lowpass, upsampler.highpass):
        torch.nn.init.zeros_(conv.weight)
    x, guide = torch.zeros(1, 1, 5, 5), torch.zeros(1, 1, 10, 10)
    x[..., 2, 2], guide[..., 4, 4] = 1, 1
    y, enhanced = upsampler.pair(x, guide)
    wide, narrow = torch.tensor([0.08, 0.54, 1, 0.54, 0.08]), torch.tensor([0.08, 1, 0.08])
    wide, narrow = wide / wide.sum(), narrow / narrow.sum()
    expected = (wide[:, None] * wide).repeat_interleave(2, 0).repeat_interleave(2, 1)
    torch.testing.assert_close(y[0, 0], expected)
    torch.testing.assert_close(
        2 * guide[0, 0, 3:6, 3:6] - enhanced[0, 0, 3:6, 3:6], narrow.outer(narrow)
    )


@torch.no_grad()
def test_offset_generator_is_the_equation() -> None:
    """Cosines of the 8 neighbours, direction times magnitude, bilinear reading, border clamped."""
    channels, d, height, width = 6, 3, 4, 5
    generator = OffsetGenerator(d, channels).double()
    perturb(generator, std=0.7)
    assert generator.groups == 2
    y, fused = _double(1, channels, height, width), _double(1, d, height, width)
    resampled = generator(y, fused)
    for row in range(height):
        for column in range(width):
            here = fused[0, :, row, column]
            around = [
                _clamped(fused[0], row + i, column + j)
                for i in (-1, 0, 1)
                for j in (-1, 0, 1)
                if (i, j) != (0, 0)
            ]
            cosines = torch.stack([F.cosine_similarity(here, other, dim=0) for other in around])
            cues = torch.cat([here, cosines])[None, :, None, None]
            offsets = generator.direction(cues) * generator.magnitude(cues).sigmoid()
            for group in range(2):
                across, down = offsets[0, group].item(), offsets[0, 2 + group].item()
                v = min(max(column + across, 0), width - 1)
                u = min(max(row + down, 0), height - 1)
                i, j = math.floor(u), math.floor(v)
                expected = torch.zeros(3, dtype=torch.float64)
                for a, b in [(0, 0), (0, 1), (1, 0), (1, 1)]:
                    weight = (1 - abs(u - i - a)) * (1 - abs(v - j - b))
                    expected += weight * _clamped(y[0, 3 * group : 3 * group + 3], i + a, j + b)
                read = resampled[0, 3 * group : 3 * group + 3, row, column]
                torch.testing.assert_close(read, expected)


def test_resampling_starts_near_the_upsampled_map_and_reaches_all_weights() -> None:
    torch.manual_seed(1)
    resampling = FreqFusion(8, resample=True)
    plain = FreqFusion(8)
    plain.load_state_dict(resampling.state_dict(), strict=False)
    x, guide = torch.randn(1, 8, 5, 7), torch.randn(1, 8, 10, 14)
    torch.testing.assert_close(resampling(x, guide=guide), plain(x, guide=guide), atol=0.02, rtol=0)
    resampling(x, guide=guide).square().sum().backward()
    assert all(parameter.grad.any() for parameter in resampling.parameters())  # type: ignore[union-attr]


def test_odd_guide_continues_by_its_last_row_and_column() -> None:
    upsampler = FreqFusion(2, guide_channels=3, compressed_channels=4)
    x, guide = torch.randn(2, 2, 4, 3), torch.randn(2, 3, 7, 5)
    whole = upsampler(x, guide=F.pad(guide, [0, 1, 0, 1], mode="replicate"))
    torch.testing.assert_close(upsampler(x, size=(7, 5), guide=guide), whole[..., :7, :5])


def test_number_of_parameters_and_macs() -> None:
    upsampler = FreqFusion(256, guide_channels=64)
    compress = (256 * 64 + 64) + (64 * 64 + 64)
    encode = (9 * 64 * 25 + 25) + (9 * 64 * 9 + 9)
    assert num_parameters(upsampler) == compress + encode + (64 * 256 + 256)
    coarse = 256 * 64 + 9 * 64 * 34
    initial = 9 * 64 + 25 * 25 + 25 * 9  # reassemblies of f, E_l c and E_h c
    fine = 64 * 64 + 9 * 64 * 34 + initial + 25 * 256 + 9 * 64 + 64 * 256
    assert upsampler.macs_per_pixel() == coarse + 4 * fine


@pytest.mark.parametrize("resample", [False, True])
def test_channels_last_is_kept(resample: bool) -> None:
    upsampler = FreqFusion(4, resample=resample).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 3, 5).to(memory_format=torch.channels_last)
    guide = torch.randn(2, 4, 6, 10).to(memory_format=torch.channels_last)
    assert upsampler(x, guide=guide).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("resample", [False, True])
def test_gradcheck(resample: bool) -> None:
    upsampler = FreqFusion(2, guide_channels=3, compressed_channels=2, resample=resample).double()
    perturb(upsampler, std=0.3)
    x, guide = _double(1, 2, 2, 3).requires_grad_(), _double(1, 3, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, guide: upsampler(x, guide=guide), (x, guide), fast_mode=True
    )


@pytest.mark.parametrize("parameters", [{"lowpass_kernel": 4}, {"highpass_kernel": 1}])
def test_impossible_kernels_are_refused(parameters: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="needs odd lowpass_kernel and highpass_kernel >= 3"):
        FreqFusion(8, **parameters)  # type: ignore[arg-type]
