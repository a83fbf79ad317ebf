from __future__ import annotations

import math
from typing import Literal

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from upnas.upsamplers import ResfuLike
from upnas.upsamplers.resfu import EPSILON, guided_filter, interpolated_kernels

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


def _bilinear(x: Tensor, s: int, row: int, column: int) -> Tensor:
    """The bilinearly enlarged map at an output pixel, which may be outside."""
    u, v = (row + 0.5) / s - 0.5, (column + 0.5) / s - 0.5
    i, j = math.floor(u), math.floor(v)
    corners = [(0, 0), (0, 1), (1, 0), (1, 1)]
    return torch.stack(
        [
            (1 - abs(u - i - a)) * (1 - abs(v - j - b)) * _clamped(x, i + a, j + b)
            for a, b in corners
        ]
    ).sum(dim=0)


def _guided_filter_in_loops(query: Tensor, pooled: Tensor, key: Tensor, s: int) -> Tensor:
    """Linear regression of the key on the query in every window, channel by channel."""
    d, h, w = key.shape
    windows = [
        [
            [
                (u, v)
                for u in (i - 1, i, i + 1)
                for v in (j - 1, j, j + 1)
                if 0 <= u < h and 0 <= v < w
            ]
            for j in range(w)
        ]
        for i in range(h)
    ]
    slope, offset = torch.zeros_like(key), torch.zeros_like(key)
    for i in range(h):
        for j in range(w):
            q = torch.stack([pooled[:, u, v] for u, v in windows[i][j]])
            k = torch.stack([key[:, u, v] for u, v in windows[i][j]])
            covariance = ((q - q.mean(0)) * (k - k.mean(0))).mean(0)
            slope[:, i, j] = covariance / (q.var(0, unbiased=False) + EPSILON)
            offset[:, i, j] = k.mean(0) - slope[:, i, j] * q.mean(0)
    means = [
        torch.stack(
            [
                torch.stack([t[:, u, v] for u, v in windows[i][j]]).mean(0)
                for i in range(h)
                for j in range(w)
            ],
            dim=1,
        ).reshape(d, h, w)
        for t in (slope, offset)
    ]
    aligned = torch.zeros_like(query)
    for row in range(s * h):
        for column in range(s * w):
            a, b = (_bilinear(mean, s, row, column) for mean in means)
            aligned[:, row, column] = a * query[:, row, column] + b
    return aligned


def _in_loops(upsampler: ResfuLike, x: Tensor, guide: Tensor) -> Tensor:
    """The equations of the docstring, output pixel by output pixel."""
    s, k = upsampler.scale_factor, upsampler.kernel_size
    h, w = x.shape[-2:]
    key, query = upsampler.embed(x)[0], upsampler.embed_guide(guide)[0]
    pooled = query.reshape(-1, h, s, w, s).mean(dim=(2, 4))
    aligned = _guided_filter_in_loops(query, pooled, key, s)
    keys, queries = torch.cat([key, pooled]), torch.cat([aligned, query])
    window = [(i - k // 2, j - k // 2) for i in range(k) for j in range(k)]
    taps = upsampler.difference.weight.flatten(2).unbind(dim=2)
    bias = upsampler.difference.bias
    assert bias is not None
    compared = bias[:, None, None].repeat(1, h, w)  # c + V * K
    for i in range(h):
        for j in range(w):
            for (u, v), tap in zip(window, taps, strict=True):
                compared[:, i, j] += tap @ _clamped(keys, i + u, j + v)
    y = x.new_zeros(x.shape[1], s * h, s * w)
    for row in range(s * h):
        for column in range(s * w):
            hidden = _bilinear(compared, s, row, column)
            for tap in taps:
                hidden = hidden - tap @ queries[:, row, column]
            weights = upsampler.predict(hidden.relu()[:, None, None]).flatten().softmax(dim=0)
            for (u, v), weight in zip(window, weights, strict=True):
                y[:, row, column] += weight * _bilinear(x[0], s, row + s * u, column + s * v)
    return y[None]


@torch.no_grad()
@pytest.mark.parametrize(
    ("scale_factor", "kernel_size", "guide_channels"), [(2, 3, 6), (3, 3, 5), (2, 5, 4)]
)
def test_is_the_equation(
    scale_factor: int, kernel_size: Literal[3, 5, 7], guide_channels: int
) -> None:
    upsampler = ResfuLike(
        4,
        scale_factor=scale_factor,
        guide_channels=guide_channels,
        embedding=3,
        kernel_size=kernel_size,
    ).double()
    perturb(upsampler, std=0.3)
    x = _double(1, 4, 3, 2)
    guide = _double(1, guide_channels, 3 * scale_factor, 2 * scale_factor)
    torch.testing.assert_close(upsampler(x, guide=guide), _in_loops(upsampler, x, guide))


@torch.no_grad()
def test_convolving_keys_before_enlarging_them_is_the_central_difference() -> None:
    """Away from the border, where the map of keys continues differently."""
    s, margin = 3, 6
    upsampler = ResfuLike(2, scale_factor=s, embedding=2).double()
    queries, keys = _double(1, 4, 18, 15), _double(1, 4, 6, 5)
    enlarged = F.interpolate(keys, scale_factor=s, mode="bilinear")
    weight = upsampler.difference.weight
    assert upsampler.difference.bias is not None
    expected = upsampler.difference.bias[:, None, None] + sum(
        torch.einsum(
            "oc,bcyx->boyx",
            weight[:, :, i, j],
            torch.roll(enlarged, (s - s * i, s - s * j), dims=(2, 3)) - queries,
        )
        for i in range(3)
        for j in range(3)
    )
    inside = slice(margin, -margin)
    torch.testing.assert_close(
        upsampler._central_differences(queries, keys)[..., inside, inside],
        expected[..., inside, inside],
    )


def test_guided_filter_finds_a_linear_relation() -> None:
    """A key that is linear in the query makes the query that key, with the detail of the query."""
    query = 100 * _double(1, 3, 8, 12)  # far above the regularisation
    pooled = F.avg_pool2d(query, 2)
    scale, shift = _double(1, 3, 1, 1), _double(1, 3, 1, 1)
    aligned = guided_filter(query, pooled, scale * pooled + shift)
    torch.testing.assert_close(aligned, scale * query + shift, rtol=1e-3, atol=0.2)


def test_guided_filter_of_a_flat_guide_is_the_smoothed_key() -> None:
    key = torch.rand(1, 2, 4, 6)
    aligned = guided_filter(torch.ones(1, 2, 8, 12), torch.ones(1, 2, 4, 6), key)

    def box(t: Tensor) -> Tensor:
        return F.avg_pool2d(t, 3, stride=1, padding=1, count_include_pad=False)

    expected = F.interpolate(box(box(key)), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(aligned, expected)


@pytest.mark.parametrize("scale_factor", [1, 2, 3, 4])
def test_centre_tap_alone_is_bilinear_interpolation(scale_factor: int) -> None:
    s = scale_factor
    kernels = torch.zeros(1, 9, 4 * s, 3 * s)
    kernels[:, 4] = 1
    wider = interpolated_kernels(kernels, s)
    assert wider.shape == (1, 25, 4 * s, 3 * s)
    torch.testing.assert_close(wider.sum(dim=1), torch.ones(1, 4 * s, 3 * s))
    x = torch.randn(1, 2, 4, 3)
    upsampler = ResfuLike(2, scale_factor=s)
    nn.init.zeros_(upsampler.predict.weight)
    assert upsampler.predict.bias is not None
    with torch.no_grad():
        upsampler.predict.bias[4] = 100
    y = upsampler(x, guide=torch.randn(1, 2, 4 * s, 3 * s))
    torch.testing.assert_close(y, F.interpolate(x, scale_factor=s, mode="bilinear"))


def test_equal_weights_are_a_box_blur_of_the_bilinear_map() -> None:
    upsampler = ResfuLike(8)
    nn.init.zeros_(upsampler.predict.weight)
    x = torch.randn(1, 8, 9, 7)
    blurred = F.avg_pool2d(F.pad(x, [1] * 4, mode="replicate"), 3, stride=1)
    y = upsampler(x, guide=torch.randn(1, 8, 18, 14))[..., 2:-2, 2:-2]
    expected = F.interpolate(blurred, scale_factor=2, mode="bilinear")[..., 2:-2, 2:-2]
    torch.testing.assert_close(y, expected)


def test_constant_stays_constant_whatever_the_guide() -> None:
    upsampler = ResfuLike(2, scale_factor=4, guide_channels=3)
    perturb(upsampler, std=1.0)
    x = torch.tensor([1.5, -2.0]).view(1, 2, 1, 1).expand(1, 2, 4, 3)
    y = upsampler(x, guide=torch.randn(1, 3, 16, 12))
    torch.testing.assert_close(y, x[..., :1, :1].expand_as(y))


@pytest.mark.parametrize("channels", [1, 2, 3, 5, 7, 8, 12, 48, 64, 96, 100, 256, 270])
def test_groups_always_divide_the_channels(channels: int) -> None:
    norm = ResfuLike(8, guide_channels=channels).embed_guide[0]
    assert isinstance(norm, nn.GroupNorm)
    assert norm.num_groups <= 32
    assert channels % norm.num_groups == 0
    assert channels == 1 or channels >= 2 * norm.num_groups


def test_single_pixel_has_something_to_be_normalised_with() -> None:
    upsampler = ResfuLike(2, guide_channels=1)
    x = torch.randn(1, 2, 1, 1)
    y = upsampler(x, guide=torch.randn(1, 1, 2, 2))
    torch.testing.assert_close(y, x.expand(1, 2, 2, 2))


def test_odd_guide_continues_by_its_last_row_and_column() -> None:
    upsampler = ResfuLike(2, guide_channels=3)
    perturb(upsampler)
    x, guide = torch.randn(2, 2, 4, 3), torch.randn(2, 3, 7, 5)
    whole = upsampler(x, guide=F.pad(guide, [0, 1, 0, 1], mode="replicate"))
    torch.testing.assert_close(upsampler(x, size=(7, 5), guide=guide), whole[..., :7, :5])


def test_number_of_parameters_and_macs() -> None:
    upsampler = ResfuLike(256, guide_channels=64, scale_factor=4)
    embed, difference, predict = (256 + 64) * 32, 9 * 64 * 32 + 32, 32 * 9 + 9
    assert num_parameters(upsampler) == embed + difference + predict
    coarse = 256 * 32 + 9 * 64 * 32
    bilinear, product, widening = 3 * 4 * 32, 32, 5 * 3 * 3 + 5 * 5 * 3
    fine = 64 * 32 + 64 * 32 + bilinear + product + 32 * 9 + widening + 25 * 256
    assert upsampler.macs_per_pixel() == coarse + 16 * fine


def test_channels_last_is_kept() -> None:
    upsampler = ResfuLike(4).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 3, 5).to(memory_format=torch.channels_last)
    guide = torch.randn(2, 4, 6, 10).to(memory_format=torch.channels_last)
    assert upsampler(x, guide=guide).is_contiguous(memory_format=torch.channels_last)


def test_gradcheck() -> None:
    upsampler = ResfuLike(2, guide_channels=3, embedding=2).double()
    perturb(upsampler, std=0.3)
    x, guide = _double(1, 2, 2, 3).requires_grad_(), _double(1, 3, 4, 6).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, guide: upsampler(x, guide=guide), (x, guide), fast_mode=True
    )


def test_even_kernels_are_refused() -> None:
    with pytest.raises(ValueError, match="ResfuLike needs an odd kernel_size; got 4"):
        ResfuLike(8, kernel_size=4)  # type: ignore[arg-type]
