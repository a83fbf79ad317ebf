from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from upnas.upsamplers.functional.reassembly import Padding, reassemble, similarity


def neighbours(row: int, column: int, k: int, s: int) -> Iterator[tuple[int, int, int]]:
    """Number, row and column of the k x k neighbours of an output pixel."""
    for i in range(k):
        for j in range(k):
            yield i * k + j, row // s + i - k // 2, column // s + j - k // 2


def read(x: Tensor, row: int, column: int, padding: Padding) -> Tensor:
    """Pixel of a map, (B, C), also beyond its border."""
    h, w = x.shape[-2:]
    if padding == "zeros" and not (0 <= row < h and 0 <= column < w):
        return torch.zeros_like(x[:, :, 0, 0])
    return x[:, :, min(max(row, 0), h - 1), min(max(column, 0), w - 1)]


def naive(x: Tensor, kernels: Tensor, s: int, padding: Padding = "zeros") -> Tensor:
    """The equation of the module, pixel by pixel."""
    b, c, h, w = x.shape
    k = round(kernels.shape[1] ** 0.5)
    y = torch.zeros(b, c, s * h, s * w, dtype=x.dtype)
    for row in range(s * h):
        for column in range(s * w):
            for tap, m, n in neighbours(row, column, k, s):
                y[:, :, row, column] += kernels[:, tap, row, column, None] * read(x, m, n, padding)
    return y


def naive_similarity(query: Tensor, key: Tensor, k: int, s: int, padding: Padding) -> Tensor:
    b, _, height, width = query.shape
    logits = torch.zeros(b, k * k, height, width, dtype=query.dtype)
    for row in range(height):
        for column in range(width):
            for tap, m, n in neighbours(row, column, k, s):
                products = query[:, :, row, column] * read(key, m, n, padding)
                logits[:, tap, row, column] = products.sum(1)
    return logits


def inputs(b: int, c: int, h: int, w: int, k: int, s: int) -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    x = torch.randn(b, c, h, w, dtype=torch.float64, requires_grad=True)
    kernels = torch.randn(b, k * k, s * h, s * w, dtype=torch.float64, requires_grad=True)
    return x, kernels


def queries(b: int, c: int, h: int, w: int, k: int, s: int) -> tuple[Tensor, Tensor, int, int]:
    torch.manual_seed(1)
    key = torch.randn(b, c, h, w, dtype=torch.float64, requires_grad=True)
    query = torch.randn(b, c, s * h, s * w, dtype=torch.float64, requires_grad=True)
    return key, query, k, s


#: B, C, H, W, k, s.
SHAPES = [(1, 1, 1, 1, 1, 1), (2, 3, 4, 3, 3, 2), (1, 2, 2, 5, 5, 2), (2, 2, 3, 2, 3, 1)]
SHAPES += [(1, 2, 3, 2, 3, 3)]
PADDINGS: list[Padding] = ["zeros", "replicate"]


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_is_the_equation(shape: tuple[int, int, int, int, int, int], padding: Padding) -> None:
    x, kernels = inputs(*shape)
    s = shape[-1]
    expected = naive(x, kernels, s, padding)
    torch.testing.assert_close(reassemble(x, kernels, s, padding), expected)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_similarity_is_the_equation(
    shape: tuple[int, int, int, int, int, int], padding: Padding
) -> None:
    key, query, k, s = queries(*shape)
    expected = naive_similarity(query, key, k, s, padding)
    torch.testing.assert_close(similarity(query, key, k, s, padding), expected)


@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_gradients(shape: tuple[int, int, int, int, int, int], padding: Padding) -> None:
    x, kernels = inputs(*shape)
    key, query, k, s = queries(*shape)
    for arguments in [(x, kernels), (x, kernels.detach()), (x.detach(), kernels)]:
        assert torch.autograd.gradcheck(
            lambda x, kernels: reassemble(x, kernels, s, padding), arguments, fast_mode=True
        )
    for arguments in [(query, key), (query, key.detach()), (query.detach(), key)]:
        assert torch.autograd.gradcheck(
            lambda query, key: similarity(query, key, k, s, padding), arguments, fast_mode=True
        )


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


def test_autocast_does_not_reach_the_sums() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 4, 5, 3, requires_grad=True)
    kernels = torch.randn(1, 9, 10, 6, requires_grad=True)
    query = torch.randn(1, 4, 10, 6, requires_grad=True)

    def everything() -> list[Tensor]:
        y, logits = reassemble(x, kernels, 2), similarity(query, x, 3, 2)
        total = y.square().sum() + logits.square().sum()
        return [y, logits, *torch.autograd.grad(total, (x, kernels, query))]

    expected = everything()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = everything()
    for a, b in zip(got, expected, strict=True):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_similarity_of_low_precision_is_float32() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(1, 64, 6, 4).bfloat16(), torch.randn(1, 64, 3, 2).bfloat16()
    logits = similarity(query, key, 3, 2)
    assert logits.dtype == torch.float32
    expected = naive_similarity(query.double(), key.double(), 3, 2, "zeros")
    torch.testing.assert_close(logits.double(), expected, atol=1e-5, rtol=1e-5)


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Records the elements of the largest tensor that an operation makes."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.elements = max(self.elements, made.untyped_storage().nbytes() // made.itemsize)
        return made


def test_unfolds_no_more_than_a_row() -> None:
    x = torch.randn(1, 16, 30, 10, requires_grad=True)
    kernels = torch.randn(1, 25, 60, 20, requires_grad=True)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        y = reassemble(x, kernels, 2)
        torch.autograd.grad(y, (x, kernels), torch.ones_like(y))
        logits = similarity(y.detach().requires_grad_(), x, 5, 2)
        torch.autograd.grad(logits, x, torch.ones_like(logits))
    assert largest.elements <= max(y.numel(), kernels.numel())


def test_gradients_are_deterministic() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 9, 7, requires_grad=True)
    kernels = torch.randn(2, 25, 18, 14, requires_grad=True)
    torch.use_deterministic_algorithms(True)
    try:
        first, second = (
            torch.autograd.grad(reassemble(x, kernels, 2).square().sum(), (x, kernels))
            for _ in range(2)
        )
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


class Both(torch.nn.Module):
    def forward(self, x: Tensor, kernels: Tensor, query: Tensor) -> tuple[Tensor, Tensor]:
        return reassemble(x, kernels, 2), similarity(query, x, 3, 2, "replicate")


def test_exported_graphs_see_plain_operations_with_the_same_gradient() -> None:
    x, kernels = inputs(1, 2, 4, 3, 3, 2)
    _, query, _, _ = queries(1, 2, 4, 3, 3, 2)
    program = torch.export.export(Both(), (x, kernels, query))
    assert all("upnas" not in str(node.target) for node in program.graph.nodes)
    y, logits = program.module()(x, kernels, query)
    expected = Both()(x, kernels, query)
    torch.testing.assert_close((y, logits), expected)
    got = torch.autograd.grad(y.square().sum() + logits.square().sum(), (x, kernels, query))
    total = expected[0].square().sum() + expected[1].square().sum()
    torch.testing.assert_close(got, torch.autograd.grad(total, (x, kernels, query)))


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


@pytest.mark.parametrize(("kernel_size", "height"), [(2, 4), (3, 5)])
def test_queries_that_do_not_fit_are_refused(kernel_size: int, height: int) -> None:
    with pytest.raises(ValueError, match=r"an odd kernel_size and, .* a query \(1, 2, 4, 4\)"):
        similarity(torch.randn(1, 2, height, 4), torch.randn(1, 2, 2, 2), kernel_size, 2)
