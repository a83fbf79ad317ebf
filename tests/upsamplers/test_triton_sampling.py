"""DySample's Triton operator: see ``test_triton_reassembly`` for how its tests run."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from torch import Tensor

from upnas.upsamplers import DySample
from upnas.upsamplers.functional import sampling, triton_reassembly, triton_sampling

from .helpers import perturb
from .test_triton_reassembly import (
    compile_instead_of_launching,
    compiled,
    interpreted,
    on_gpu,
    run_in_the_interpreter,
    skip_if_compiling_counts_as_exporting,
    spy,
    triton_installed,
)

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}


@triton_installed
@compiled
def test_in_the_interpreter() -> None:
    run_in_the_interpreter(__file__)


def naive(x: Tensor, offset: Tensor, scope: Tensor | None, groups: int, s: int) -> Tensor:
    """The equation, output by output, differentiable in all tensors."""
    (b, _, h, w), size = x.shape, x.shape[1] // groups
    if offset.shape[1] != 2 * groups:
        offset = torch.nn.functional.pixel_shuffle(offset, s)
        scope = None if scope is None else torch.nn.functional.pixel_shuffle(scope, s)
    y = []
    for n, group, row, column in torch.cartesian_prod(
        *(torch.arange(k) for k in (b, groups, s * h, s * w))
    ).tolist():
        position = []
        for axis, (place, length) in enumerate(((column, w), (row, h))):
            channel = axis * groups + group
            move = offset[n, channel, row, column]
            gate = 0.25 if scope is None else 0.5 * scope[n, channel, row, column].sigmoid()
            position.append(((place + 0.5) / s - 0.5 + gate * move).clamp(0, length - 1))
        left, top = (int(p) for p in position)
        right, bottom = min(left + 1, w - 1), min(top + 1, h - 1)
        fx, fy = position[0] - left, position[1] - top
        v = x[n, group * size : (group + 1) * size]
        upper = (1 - fx) * v[:, top, left] + fx * v[:, top, right]
        lower = (1 - fx) * v[:, bottom, left] + fx * v[:, bottom, right]
        y.append((1 - fy) * upper + fy * lower)
    return torch.stack(y).view(b, groups, s * h, s * w, size).movedim(-1, 2).flatten(1, 2)


def inputs(
    b: int, c: int, h: int, w: int, groups: int, s: int, style: str, dtype: torch.dtype
) -> list[Tensor]:
    """Features, offsets that reach beyond the border, and scopes."""
    torch.manual_seed(0)
    size = (2 * groups * s * s, h, w) if style == "lp" else (2 * groups, s * h, s * w)
    x = torch.randn(b, c, h, w)
    return [
        t.to(dtype).requires_grad_() for t in (x, 3 * torch.randn(b, *size), torch.randn(b, *size))
    ]


def check(tensors: list[Tensor], groups: int, s: int) -> None:
    """Output and gradients against the naive loop in float64."""
    exact = [t.detach().cpu().double().requires_grad_() for t in tensors]
    x, offset, *scope = tensors
    y = triton_sampling.sample(x, offset, scope[0] if scope else None, groups, s)
    expected = naive(exact[0], exact[1], exact[2] if scope else None, groups, s)
    dy = torch.randn(y.shape).to(y.dtype)
    gradients = torch.autograd.grad(y, tensors, dy.to(y.device))
    expected_gradients = torch.autograd.grad(expected, exact, dy.double())
    tolerance = TOLERANCES[x.dtype]
    results = zip((y, *gradients), (expected, *expected_gradients), strict=True)
    for got, wanted in results:
        assert got.dtype == x.dtype
        scale = max(1.0, wanted.abs().max().item())
        torch.testing.assert_close(
            got.cpu().double() / scale, wanted / scale, atol=tolerance, rtol=tolerance
        )


@interpreted
@pytest.mark.parametrize("scoped", [False, True])
@pytest.mark.parametrize("style", ["lp", "pl"])
@pytest.mark.parametrize("s", [1, 2, 3])
def test_is_the_equation(s: int, style: str, scoped: bool) -> None:
    tensors = inputs(2, 6, 3, 2, 2, s, style, torch.float32)
    check(tensors if scoped else tensors[:2], 2, s)


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_half_precision(dtype: torch.dtype) -> None:
    check(inputs(1, 8, 2, 3, 2, 2, "lp", dtype), 2, 2)


@interpreted
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((1, 1, 1, 1), 1), ((1, 70, 2, 3), 1), ((1, 4, 1, 9), 4)],
    ids=["one pixel", "two blocks", "one row"],
)
def test_at_the_edges_of_blocks(shape: tuple[int, int, int, int], groups: int) -> None:
    check(inputs(*shape, groups, 2, "lp", torch.float32), groups, 2)


@interpreted
def test_many_tiles() -> None:
    """More outputs than one program takes."""
    x, offset, scope = inputs(1, 64, 4, 5, 1, 3, "lp", torch.float32)
    y = triton_sampling.sample(x, offset, scope, 1, 3)
    expected = naive(x, offset, scope, 1, 3)
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@interpreted
@pytest.mark.parametrize("style", ["lp", "pl"])
def test_any_memory_layout(style: str) -> None:
    tensors = inputs(2, 4, 3, 2, 2, 2, style, torch.float32)
    last = [t.detach().contiguous(memory_format=torch.channels_last) for t in tensors]
    check([t.requires_grad_() for t in last], 2, 2)
    gaps = [torch.nn.functional.pad(t.detach(), (1, 2))[..., 1:-2] for t in tensors]
    check([t.requires_grad_() for t in gaps], 2, 2)
    mixed = [last[0], tensors[1].detach(), last[2].detach()]
    check([t.requires_grad_() for t in mixed], 2, 2)


@interpreted
@pytest.mark.parametrize("style", ["lp", "pl"])
@pytest.mark.parametrize("dynamic_scope", [False, True])
def test_dysample_takes_the_triton_path(
    style: Literal["lp", "pl"], dynamic_scope: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    upsampler = DySample(8, style=style, groups=2, dynamic_scope=dynamic_scope)
    perturb(upsampler, 0.3)
    x = torch.randn(1, 8, 3, 2, requires_grad=True)
    leaves = [x, *upsampler.parameters()]
    calls = spy(monkeypatch, triton_sampling)
    y = upsampler(x)
    gradients = torch.autograd.grad(y.square().sum(), leaves)
    assert calls == ["sample", "sample_gradient"]
    monkeypatch.setattr(triton_reassembly, "usable", lambda _: False)
    expected = upsampler(x)
    torch.testing.assert_close(y, expected)
    expected_gradients = torch.autograd.grad(expected.square().sum(), leaves)
    torch.testing.assert_close(gradients, expected_gradients, atol=1e-4, rtol=1e-4)


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_positions_are_exact_on_a_wide_map(dtype: torch.dtype) -> None:
    """A ramp of 8 pixels at column 480 reads its own position, as exactly as the dtype holds it."""
    x = torch.zeros(1, 1, 1, 500, dtype=dtype)
    x[..., 480:488] = torch.arange(8, dtype=dtype)
    y = triton_sampling.sample(x, torch.zeros(1, 8, 1, 500, dtype=dtype), None, 1, 2)
    assert torch.equal(y[0, 0, 0, 961:975], torch.arange(0.25, 7.25, 0.5, dtype=dtype))


@interpreted
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("scoped", [False, True])
def test_is_a_sound_operator_of_pytorch(scoped: bool) -> None:
    x, offset, scope = inputs(1, 4, 2, 3, 2, 2, "lp", torch.float32)
    torch.library.opcheck(triton_sampling.sample, (x, offset, scope if scoped else None, 2, 2))


@interpreted
def test_a_compiled_graph_keeps_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_if_compiling_counts_as_exporting()
    torch.manual_seed(0)
    upsampler = DySample(4, groups=2)
    perturb(upsampler, 0.3)
    x = torch.randn(1, 4, 2, 3, requires_grad=True)
    calls = spy(monkeypatch, triton_sampling)
    y = torch.compile(upsampler, fullgraph=True, backend="aot_eager")(x)
    gradients = torch.autograd.grad(y.square().sum(), [x, *upsampler.parameters()])
    assert calls == ["sample", "sample_gradient"]
    expected = upsampler(x)
    torch.testing.assert_close(y, expected)
    expected_gradients = torch.autograd.grad(expected.square().sum(), [x, *upsampler.parameters()])
    torch.testing.assert_close(gradients, expected_gradients)


@compiled
def test_fake_tensors_have_the_memory_of_real_ones() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x = torch.empty(2, 6, 3, 5, dtype=torch.bfloat16)
        offset = torch.empty(2, 16, 3, 5).to(memory_format=torch.channels_last)
        y = triton_sampling.sample(x, offset, None, 2, 2)
        dx, doffset, dscope = triton_sampling.sample_gradient(y, x, offset, offset, 2, 2)
    assert (y.shape, y.stride(), y.dtype) == ((2, 6, 6, 10), (360, 1, 60, 6), torch.bfloat16)
    assert (dx.shape, dx.stride(), dx.dtype) == (x.shape, (90, 1, 30, 6), torch.bfloat16)
    for gradient in (doffset, dscope):
        assert (gradient.shape, gradient.stride()) == (offset.shape, offset.stride())


@compiled
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("dtype", "channels", "h"), [(torch.bfloat16, 256, 16), (torch.float32, 8, 1)]
)
def test_compile_for_a_gpu(
    dtype: torch.dtype, channels: int, h: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_sampling, "launch", compile_instead_of_launching)
    x, offset, scope = (t.detach() for t in inputs(1, channels, h, h, 4, 2, "lp", dtype))
    y = triton_sampling.sample(x, offset, None, 4, 2)
    triton_sampling.sample(x, offset, scope, 4, 2)
    triton_sampling.sample_gradient(y, x, offset, None, 4, 2)
    triton_sampling.sample_gradient(y, x, offset, scope, 4, 2)


class TestOnGpu:
    """Not run where this was written: there was no GPU."""

    pytestmark = on_gpu

    @pytest.mark.parametrize("style", ["lp", "pl"])
    @pytest.mark.parametrize("scoped", [False, True])
    @pytest.mark.parametrize("s", [1, 2, 3])
    @pytest.mark.parametrize("dtype", list(TOLERANCES))
    def test_is_the_equation(self, dtype: torch.dtype, s: int, scoped: bool, style: str) -> None:
        tensors = [
            t.detach().cuda().requires_grad_() for t in inputs(2, 6, 3, 4, 2, s, style, dtype)
        ]
        check(tensors if scoped else tensors[:2], 2, s)

    @pytest.mark.parametrize("dtype", list(TOLERANCES))
    def test_is_the_path_without_triton(
        self, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        tensors = [
            t.detach().cuda().requires_grad_() for t in inputs(2, 256, 60, 67, 4, 2, "lp", dtype)
        ]
        x, offset, scope = tensors
        y = sampling.sample(x, offset, scope, 4, 2)
        dy = torch.randn_like(y)
        results = [y, *torch.autograd.grad(y, tensors, dy)]
        monkeypatch.setattr(triton_reassembly, "usable", lambda _: False)
        y = sampling.sample(x, offset, scope, 4, 2)
        expected = [y, *torch.autograd.grad(y, tensors, dy)]
        for got, wanted in zip(results, expected, strict=True):
            scale = wanted.abs().max()
            tolerance = 4 * TOLERANCES[dtype]
            torch.testing.assert_close(got / scale, wanted / scale, atol=tolerance, rtol=tolerance)

    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiles(self, dynamic: bool) -> None:
        torch.manual_seed(0)
        upsampler = DySample(32, dynamic_scope=True).cuda()
        perturb(upsampler, 0.3)
        x = torch.randn(2, 32, 9, 13, device="cuda", requires_grad=True)
        leaves = [x, *upsampler.parameters()]
        y = torch.compile(upsampler, fullgraph=True, dynamic=dynamic)(x)
        expected = upsampler(x)
        torch.testing.assert_close(y, expected, atol=1e-4, rtol=1e-4)
        dy = torch.randn_like(y)
        gradients = torch.autograd.grad(y, leaves, dy)
        wanted = torch.autograd.grad(expected, leaves, dy)
        torch.testing.assert_close(gradients, wanted, atol=1e-3, rtol=1e-3)
