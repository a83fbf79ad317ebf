from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers import reassemble


def naive(x: Tensor, kernels: Tensor, s: int) -> Tensor:
    """The equation of the module, pixel by pixel."""
    b, c, h, w = x.shape
    k = round(kernels.shape[1] ** 0.5)
    r = k // 2
    y = torch.zeros(b, c, s * h, s * w, dtype=x.dtype)
    for row in range(s * h):
        for column in range(s * w):
            for i in range(k):
                for j in range(k):
                    m, n = row // s + i - r, column // s + j - r
                    if 0 <= m < h and 0 <= n < w:
                        weight = kernels[:, i * k + j, row, column, None]
                        y[:, :, row, column] += weight * x[:, :, m, n]
    return y


def inputs(b: int, c: int, h: int, w: int, k: int, s: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(b, c, h, w, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(b, k * k, s * h, s * w, dtype=torch.float64, requires_grad=True)
    return x, kernels


SHAPES = [(1, 1, 1, 1, 1, 1), (2, 3, 4, 3, 3, 2), (1, 2, 2, 5, 5, 2), (1, 2, 3, 2, 3, 3)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_equation(shape: tuple[int, int, int, int, int, int]) -> None:
    x, kernels = inputs(*shape)
    torch.testing.assert_close(reassemble(x, kernels, shape[-1]), naive(x, kernels, shape[-1]))
    with torch.no_grad():
        y = reassemble(x, kernels, shape[-1])
    torch.testing.assert_close(y, naive(x, kernels, shape[-1]))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients(shape: tuple[int, int, int, int, int, int]) -> None:
    x, kernels = inputs(*shape)
    s = shape[-1]
    assert torch.autograd.gradcheck(lambda x, kernels: reassemble(x, kernels, s), (x, kernels))
    assert torch.autograd.gradcheck(lambda x: reassemble(x, kernels.detach(), s), (x,))
    assert torch.autograd.gradcheck(lambda kernels: reassemble(x.detach(), kernels, s), (kernels,))


def test_any_memory_layout() -> None:
    x, kernels = inputs(2, 4, 5, 3, 3, 2)
    expected = reassemble(x, kernels, 2)
    expected_gradients = torch.autograd.grad(expected.square().sum(), (x, kernels))
    x_last = x.detach().to(memory_format=torch.channels_last).requires_grad_()
    kernels_last = kernels.detach().to(memory_format=torch.channels_last).requires_grad_()
    y = reassemble(x_last, kernels_last, 2)
    torch.testing.assert_close(y, expected)
    for layout in (torch.contiguous_format, torch.channels_last):
        dy = (2 * y).detach().contiguous(memory_format=layout)
        gradients = torch.autograd.grad(y, (x_last, kernels_last), dy, retain_graph=True)
        torch.testing.assert_close(gradients, expected_gradients)


def test_low_precision_features_are_summed_in_float32() -> None:
    """49 equal weights: a bfloat16 running sum would stall some percent below the mean."""
    x = torch.ones(1, 1, 9, 9, dtype=torch.bfloat16)
    kernels = torch.full((1, 49, 18, 18), 1 / 49)
    y = reassemble(x, kernels, 2)
    assert y.dtype == torch.bfloat16
    assert (y[..., 6:12, 6:12] == 1).all()
    x.requires_grad_()
    (dx,) = torch.autograd.grad(reassemble(x, kernels.bfloat16(), 2).sum(), x)
    assert dx.dtype == torch.bfloat16
    assert dx[0, 0, 4, 4].item() == pytest.approx(4, rel=0.01)


def test_compiled_graphs_see_plain_operations_with_the_same_gradient() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor, kernels: Tensor) -> Tensor:
            return reassemble(x, kernels, 2)

    x, kernels = inputs(1, 2, 4, 3, 3, 2)
    program = torch.export.export(Module(), (x, kernels))
    assert all("upnas" not in str(node.target) for node in program.graph.nodes)
    y = program.module()(x, kernels)
    expected = reassemble(x, kernels, 2)
    torch.testing.assert_close(y, expected)
    got = torch.autograd.grad(y.square().sum(), (x, kernels))
    torch.testing.assert_close(got, torch.autograd.grad(expected.square().sum(), (x, kernels)))


def test_equals_unfold_at_a_realistic_size() -> None:
    torch.manual_seed(0)
    x, kernels = torch.randn(2, 16, 20, 12), torch.randn(2, 25, 40, 24)
    windows = F.unfold(x, 5, padding=2).view(2, 16 * 25, 20, 12)
    windows = F.interpolate(windows, scale_factor=2).view(2, 16, 25, 40, 24)
    expected = (windows * kernels[:, None]).sum(2)
    torch.testing.assert_close(reassemble(x, kernels, 2), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(1, 4, 4, 4), (1, 8, 4, 4), (1, 9, 4, 5)])
def test_kernels_that_do_not_fit_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"kernels of shape \(B, k\*k, 4, 4\) with k odd"):
        reassemble(torch.randn(1, 2, 2, 2), torch.randn(shape), 2)
