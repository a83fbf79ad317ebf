from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers import MaxUnpool

from .helpers import num_parameters


def reference(x: Tensor, guide: Tensor, scale_factor: int) -> Tensor:
    """SegNet's own way: the indices of the pooling, and the scatter of torch."""
    _, indices = F.max_pool2d(guide, scale_factor, return_indices=True)
    return F.max_unpool2d(x, indices, [scale_factor, scale_factor])


@pytest.mark.parametrize("scale_factor", [1, 2, 3, 4])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("ties", [False, True])
def test_equals_the_unpooling_of_torch(
    scale_factor: int, memory_format: torch.memory_format, ties: bool
) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 4, 3).to(memory_format=memory_format)
    guide = torch.randn(2, 5, 4 * scale_factor, 3 * scale_factor)
    if ties:
        guide = guide.round().relu()
    guide = guide.to(memory_format=memory_format)
    y = MaxUnpool(5, scale_factor=scale_factor)(x, guide=guide)
    assert torch.equal(y, reference(x, guide, scale_factor))
    if memory_format == torch.channels_last:
        assert y.is_contiguous(memory_format=memory_format)


def test_is_the_equation() -> None:
    torch.manual_seed(0)
    x, guide = torch.randn(1, 2, 3, 2), torch.randint(3, (1, 2, 9, 6)).float()
    y = MaxUnpool(2, scale_factor=3)(x, guide=guide)
    for c in range(2):
        for h in range(3):
            for w in range(2):
                pixels = [(i, j) for i in range(3) for j in range(3)]
                first = max(pixels, key=lambda p: guide[0, c, 3 * h + p[0], 3 * w + p[1]].item())
                for i, j in pixels:
                    expected = x[0, c, h, w] if (i, j) == first else 0
                    assert y[0, c, 3 * h + i, 3 * w + j] == expected


def test_of_equal_values_the_first_pixel_is_taken() -> None:
    y = MaxUnpool(1)(torch.tensor([[[[3.0]]]]), guide=torch.zeros(1, 1, 2, 2))
    assert y.tolist() == [[[[3.0, 0.0], [0.0, 0.0]]]]


def test_undoes_the_pooling_of_a_guide_at_its_maxima() -> None:
    """The pooled skip itself comes back where it was largest."""
    guide = torch.rand(1, 3, 8, 10) + 1
    y = MaxUnpool(3)(F.max_pool2d(guide, 2), guide=guide)
    assert torch.equal(y, torch.where(y > 0, guide, 0))
    assert (y > 0).sum() == y.numel() // 4


def test_gradient_is_that_of_torch_and_passes_by_the_guide() -> None:
    x, guide = torch.randn(2, 3, 4, 5, requires_grad=True), torch.randn(2, 3, 8, 10)
    dy = torch.randn(2, 3, 8, 10)
    (expected,) = torch.autograd.grad(reference(x, guide, 2), x, dy)
    y = MaxUnpool(3)(x, guide=guide.requires_grad_())
    dx, dguide = torch.autograd.grad(y, (x, guide), dy, allow_unused=True)
    assert torch.equal(dx, expected)
    assert dguide is None


def test_odd_guide() -> None:
    """The last row and column repeat, so that the pixels of the guide win their ties."""
    x, guide = torch.randn(1, 3, 4, 5), torch.randn(1, 3, 7, 9)
    y = MaxUnpool(3)(x, size=(7, 9), guide=guide)
    assert (y != 0).sum() == x.numel()


def test_other_channels_are_projected_around_the_unpooling() -> None:
    x, guide = torch.randn(1, 6, 3, 4), torch.randn(1, 5, 6, 8)
    upsampler = MaxUnpool(6, 4, guide_channels=5)
    assert num_parameters(upsampler) == (6 * 5 + 5) + 5 * 4
    assert upsampler.macs_per_pixel() == 6 * 5 + 4 * 5 * 4
    assert upsampler.project_in is not None
    assert upsampler.project_out is not None
    inner = reference(upsampler.project_in(x), guide, 2)
    torch.testing.assert_close(upsampler(x, guide=guide), upsampler.project_out(inner))
    assert num_parameters(MaxUnpool(6, 5, guide_channels=5)) == 6 * 5 + 5
    assert num_parameters(MaxUnpool(5, 4, guide_channels=5)) == 5 * 4
    assert num_parameters(MaxUnpool(5)) == 0
