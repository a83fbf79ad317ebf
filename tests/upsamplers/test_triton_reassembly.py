"""The Triton primitives of reassembly, in Triton's interpreter, by its compiler, and on a GPU.

``TRITON_INTERPRET`` decides how kernels run when they, and the functions of Triton's own library
that they call, are decorated. Another test may have imported Triton by then (``torch.compile``
does), so setting the variable here and importing again would mix both kinds. Therefore
``test_in_the_interpreter`` runs the tests marked ``interpreted`` in a process of their own, where
the variable is set from the start; here they are skipped.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from upnas.upsamplers.functional import reassembly, triton_reassembly

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
triton_installed = pytest.mark.skipif(
    importlib.util.find_spec("triton") is None, reason="Triton is not installed"
)
interpreted = pytest.mark.skipif(not INTERPRETED, reason="run by test_in_the_interpreter")
compiled = pytest.mark.skipif(INTERPRETED, reason="needs Triton's compiler")
on_gpu = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
    # Triton 3.9 announces a new default of its compiler once.
    pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION"),
]

TOLERANCES = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def run_in_the_interpreter(path: str) -> None:
    """Run the ``interpreted`` tests of a file, see the top of this module."""
    # Older interpreters warn about NumPy.
    options = ("-q", "-p", "no:cacheprovider", "-o", "filterwarnings=default")
    command = [sys.executable, "-m", "pytest", *options, path]
    result = subprocess.run(
        command,
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@triton_installed
@compiled
def test_in_the_interpreter() -> None:
    run_in_the_interpreter(__file__)


def naive(x: Tensor, kernels: Tensor, s: int) -> Tensor:
    """The equation, tap by tap and in float64, with a halo of ``x`` as the primitives take it."""
    x, kernels = x.double(), kernels.double()
    h, w = kernels.shape[-2] // s, kernels.shape[-1] // s
    side = round(kernels.shape[1] ** 0.5)
    padded = F.pad(x, [side // 2 - (x.shape[-2] - h) // 2] * 4)
    y = torch.zeros(*x.shape[:2], s * h, s * w, dtype=torch.float64)
    for tap in range(side * side):
        i, j = divmod(tap, side)
        neighbours = padded[..., i : i + h, j : j + w]
        y = y + F.interpolate(neighbours, scale_factor=s) * kernels[:, tap, None]
    return y


def inputs(
    b: int,
    c: int,
    h: int,
    w: int,
    side: int,
    s: int,
    halo: int = 0,
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Features, kernels and the gradient of the output."""
    torch.manual_seed(0)
    x = torch.randn(b, c, h + 2 * halo, w + 2 * halo).to(dtype)
    kernels = torch.randn(b, side * side, s * h, s * w).softmax(1)
    return x, kernels, torch.randn(b, c, s * h, s * w).to(dtype)


def check_primitives(x: Tensor, kernels: Tensor, dy: Tensor, s: int) -> None:
    """All three against the naive sum and its gradients."""
    leaves = [t.detach().double().cpu().requires_grad_() for t in (x, kernels)]
    expected = naive(leaves[0], leaves[1], s)
    dx, dkernels = torch.autograd.grad(expected, leaves, dy.double().cpu())
    side = round(kernels.shape[1] ** 0.5)
    tolerance = TOLERANCES[x.dtype]
    for got, wanted, dtype in (
        (triton_reassembly.weighted_sum(x, kernels, s), expected.detach(), x.dtype),
        (triton_reassembly.input_gradient(dy, kernels, x.shape[-2:], s), dx, x.dtype),
        (triton_reassembly.kernel_gradient(dy, x, side, s), dkernels, torch.float32),
    ):
        assert got.dtype == dtype
        torch.testing.assert_close(got.cpu().double(), wanted, atol=tolerance, rtol=tolerance)


@interpreted
@pytest.mark.parametrize("s", [1, 2, 3])
@pytest.mark.parametrize("side", [3, 5, 7])
def test_primitives(side: int, s: int) -> None:
    tensors = inputs(1, 5, 2, 3, side, s)
    check_primitives(*tensors, s)


@interpreted
@pytest.mark.parametrize(("side", "s"), [(3, 3), (5, 2), (7, 1)])
def test_primitives_with_a_halo(side: int, s: int) -> None:
    tensors = inputs(2, 5, 2, 3, side, s, side // 2)
    check_primitives(*tensors, s)


@interpreted
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("halo", [0, 2])
def test_primitives_in_half_precision(dtype: torch.dtype, halo: int) -> None:
    check_primitives(*inputs(1, 20, 2, 3, 5, 2, halo, dtype), 2)


@interpreted
@pytest.mark.parametrize(
    "shape",
    [(1, 1, 1, 1, 3, 2), (2, 130, 1, 19, 3, 2), (1, 2, 1, 33, 5, 1), (1, 3, 1, 5, 3, 5)],
    ids=["one pixel", "two blocks", "three tiles", "large factor"],
)
def test_primitives_at_the_edges_of_tiles(shape: tuple[int, int, int, int, int, int]) -> None:
    tensors = inputs(*shape)
    check_primitives(*tensors, shape[-1])


@interpreted
def test_any_memory_layout() -> None:
    x, kernels, dy = inputs(2, 4, 3, 5, 3, 2)
    strided, last = [], []
    for tensor in (x, kernels, dy):
        strided.append(F.pad(tensor, (1, 2))[..., 1:-2])
        last.append(tensor.contiguous(memory_format=torch.channels_last))
    expanded = kernels[:, :, :1, :1].expand_as(kernels)
    check_primitives(strided[0], strided[1], strided[2], 2)
    check_primitives(last[0], last[1], last[2], 2)
    check_primitives(x, expanded, dy, 2)


@interpreted
def test_results_are_channels_last() -> None:
    x, kernels, dy = inputs(2, 4, 3, 5, 3, 2)
    y = triton_reassembly.weighted_sum(x, kernels, 2)
    assert y.is_contiguous(memory_format=torch.channels_last)
    dx = triton_reassembly.input_gradient(dy, kernels, (3, 5), 2)
    assert dx.is_contiguous(memory_format=torch.channels_last)


@interpreted
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_reassemble_takes_the_triton_path(
    padding: reassembly.Padding, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forward, gradients and their graph are those of the path in plain PyTorch."""
    x, kernels, dy = inputs(1, 3, 2, 3, 3, 2)
    leaves = [x.requires_grad_(), kernels.requires_grad_()]
    launched = spy(monkeypatch)
    y = reassembly.reassemble(x, kernels, 2, padding)
    gradients = torch.autograd.grad(y, leaves, dy)
    assert launched == ["weighted_sum", "input_gradient", "kernel_gradient"]
    monkeypatch.setattr(triton_reassembly, "usable", lambda _: False)
    expected = reassembly.reassemble(x, kernels, 2, padding)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves, dy))
    assert len(launched) == 3


@interpreted
@pytest.mark.parametrize("padding", ["zeros", "replicate"])
def test_similarity_takes_the_triton_path(
    padding: reassembly.Padding, monkeypatch: pytest.MonkeyPatch
) -> None:
    key, dlogits, query = inputs(1, 3, 2, 3, 3, 2)
    leaves = [query.requires_grad_(), key.requires_grad_()]
    launched = spy(monkeypatch)
    logits = reassembly.similarity(query, key, 3, 2, padding)
    gradients = torch.autograd.grad(logits, leaves, dlogits)
    assert launched == ["kernel_gradient", "weighted_sum", "input_gradient"]
    monkeypatch.setattr(triton_reassembly, "usable", lambda _: False)
    expected = reassembly.similarity(query, key, 3, 2, padding)
    torch.testing.assert_close(logits, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves, dlogits))


def spy(monkeypatch: pytest.MonkeyPatch, module: ModuleType = triton_reassembly) -> list[str]:
    """Names of the kernels that a module launches from now on."""
    names: list[str] = []
    launch = triton_reassembly.launch

    def noted(name: str, *arguments: Any, **constants: Any) -> None:
        names.append(name)
        launch(name, *arguments, **constants)

    monkeypatch.setattr(module, "launch", noted)
    return names


@interpreted
def test_second_derivatives() -> None:
    x, kernels, dy = inputs(1, 2, 2, 3, 3, 2)
    leaves = [x.requires_grad_(), kernels.requires_grad_(), dy.requires_grad_()]

    def derivatives(f: Callable[[Tensor, Tensor, int], Tensor]) -> tuple[Tensor, ...]:
        y = f(x, kernels, 2)
        first = torch.autograd.grad(y, leaves[:2], dy.to(y.dtype), create_graph=True)
        return torch.autograd.grad(first[0].square().sum() + first[1].square().sum(), leaves)

    torch.testing.assert_close(
        derivatives(triton_reassembly.weighted_sum), derivatives(naive), atol=1e-4, rtol=1e-4
    )


@interpreted
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_are_sound_operators_of_pytorch() -> None:
    """Schema, fake tensors, autograd and tracing with symbolic sizes, as PyTorch checks them."""
    x, kernels, dy = inputs(1, 2, 2, 3, 3, 2, 1)
    leaves = [t.requires_grad_() for t in (x, kernels, dy)]
    for operator, arguments in (
        (triton_reassembly.weighted_sum, (leaves[0], leaves[1], 2)),
        (triton_reassembly.input_gradient, (leaves[2], leaves[1], (4, 5), 2)),
        (triton_reassembly.kernel_gradient, (leaves[2], leaves[0], 3, 2)),
    ):
        torch.library.opcheck(operator, arguments)


def skip_if_compiling_counts_as_exporting() -> None:
    """As it does in PyTorch 2.7: a compiled graph then does without Triton."""

    def is_exporting(x: Tensor) -> Tensor:
        return x + torch.compiler.is_exporting()

    if torch.compile(is_exporting, fullgraph=True, backend="eager")(torch.zeros(())):
        pytest.skip("this PyTorch takes torch.compile for torch.export")


@interpreted
def test_a_compiled_graph_keeps_the_operator(monkeypatch: pytest.MonkeyPatch) -> None:
    skip_if_compiling_counts_as_exporting()
    x, kernels, _ = inputs(1, 2, 2, 3, 3, 2)
    leaves = [x.requires_grad_(), kernels.requires_grad_()]
    launched = spy(monkeypatch)
    compiled = torch.compile(reassembly.reassemble, fullgraph=True, backend="aot_eager")
    y = compiled(x, kernels, 2)
    gradients = torch.autograd.grad(y.square().sum(), leaves)
    assert launched == ["weighted_sum", "input_gradient", "kernel_gradient"]
    expected = reassembly.reassemble(x, kernels, 2)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.square().sum(), leaves))


@interpreted
def test_an_exported_program_does_without_triton() -> None:
    class Module(torch.nn.Module):
        def forward(self, x: Tensor, kernels: Tensor) -> Tensor:
            return reassembly.reassemble(x, kernels, 2)

    x, kernels, _ = inputs(1, 2, 2, 3, 3, 2)
    program = torch.export.export(Module(), (x, kernels))
    assert all("upnas" not in str(node.target) for node in program.graph.nodes)


@interpreted
def test_usable_in_the_interpreter() -> None:
    assert triton_reassembly.usable(torch.empty(1))
    assert not triton_reassembly.usable(torch.empty(1, dtype=torch.float64))
    assert not triton_reassembly.usable(torch.empty(1, device="meta"))


@compiled
def test_tensors_on_the_cpu_are_not_taken() -> None:
    assert not triton_reassembly.usable(torch.empty(1))


@compiled
def test_importing_upnas_imports_no_triton() -> None:
    code = "import sys, upnas.upsamplers; assert 'triton' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


@compiled
def test_fake_tensors_have_the_memory_of_real_ones() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        x, kernels = torch.empty(2, 3, 6, 7, dtype=torch.bfloat16), torch.empty(2, 9, 8, 10)
        dy = torch.empty(2, 3, 8, 10, dtype=torch.bfloat16)
        y = triton_reassembly.weighted_sum(x, kernels, 2)
        dx = triton_reassembly.input_gradient(dy, kernels, (6, 7), 2)
        dkernels = triton_reassembly.kernel_gradient(dy, x, 3, 2)
    assert (y.shape, y.stride(), y.dtype) == (dy.shape, (240, 1, 30, 3), torch.bfloat16)
    assert (dx.shape, dx.stride(), dx.dtype) == (x.shape, (126, 1, 21, 3), torch.bfloat16)
    assert (dkernels.shape, dkernels.stride()) == (kernels.shape, kernels.stride())
    assert dkernels.dtype == torch.float32


def compile_instead_of_launching(name: str, _num_programs: int, *arguments: Any, **kw: Any) -> None:
    """What a launch on an Ampere GPU would compile, down to machine code; there need be no GPU.

    The compiler is stricter than the interpreter, for instance about types in loops.
    """
    compiler = pytest.importorskip("triton.compiler")
    backends = pytest.importorskip("triton.backends.compiler")
    kernels = importlib.import_module("upnas.upsamplers.functional.triton_kernels")
    kernel = getattr(kernels, name)
    pointers = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
    signature: dict[str, str] = {}
    constants: dict[tuple[int], Any] = {}
    attributes: dict[tuple[int], Any] = {}
    for position, parameter in enumerate(kernel.arg_names):
        value = arguments[position] if position < len(arguments) else kw[parameter]
        if isinstance(value, Tensor):
            signature[parameter] = pointers[value.dtype]
        elif parameter in kw or value is None or value == 1:  # 1 is a constant to Triton
            signature[parameter] = "constexpr"
            constants[position,] = value
            continue
        else:
            signature[parameter] = "i32"
        if isinstance(value, Tensor) or value % 16 == 0:
            attributes[position,] = [["tt.divisibility", 16]]
    source = compiler.ASTSource(kernel, signature, constants, attributes)
    ampere = backends.GPUTarget("cuda", 80, 32)
    assert compiler.compile(source, target=ampere).asm["cubin"]


@compiled
@pytest.mark.filterwarnings("ignore:TRITON_DEFAULT_FP_FUSION")
@pytest.mark.parametrize(
    ("dtype", "channels", "side", "s"),
    [(torch.bfloat16, 64, 5, 2), (torch.float32, 64, 3, 3), (torch.float16, 3, 3, 1)],
)
def test_compile_for_a_gpu(
    dtype: torch.dtype, channels: int, side: int, s: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(triton_reassembly, "launch", compile_instead_of_launching)
    x, kernels, dy = inputs(1, channels, 1, 16, side, s, 0, dtype)
    triton_reassembly.weighted_sum(x, kernels, s)
    triton_reassembly.input_gradient(dy, kernels, (1, 16), s)
    triton_reassembly.kernel_gradient(dy, x, side, s)


class TestOnGpu:
    """Not run where this was written: there was no GPU."""

    pytestmark = on_gpu

    @pytest.mark.parametrize("s", [1, 2, 3, 4])
    @pytest.mark.parametrize("side", [3, 5, 7])
    @pytest.mark.parametrize("dtype", list(TOLERANCES))
    def test_primitives(self, dtype: torch.dtype, side: int, s: int) -> None:
        for halo in (0, side // 2):
            x, kernels, dy = (t.cuda() for t in inputs(2, 70, 9, 37, side, s, halo, dtype))
            check_primitives(x, kernels, dy, s)

    @pytest.mark.parametrize("dtype", list(TOLERANCES))
    def test_is_the_path_without_triton(
        self, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        x, kernels, dy = (t.cuda() for t in inputs(2, 256, 60, 60, 5, 2, 0, dtype))
        leaves = [x.requires_grad_(), kernels.requires_grad_()]
        y = reassembly.reassemble(x, kernels, 2)
        results = [y, *torch.autograd.grad(y, leaves, dy)]
        monkeypatch.setattr(triton_reassembly, "usable", lambda _: False)
        y = reassembly.reassemble(x, kernels, 2)
        expected = [y, *torch.autograd.grad(y, leaves, dy)]
        # Sums over 256 channels, of products of order 1.
        torch.testing.assert_close(results, expected, atol=4 * TOLERANCES[dtype], rtol=1e-2)

    def test_is_deterministic(self) -> None:
        x, kernels, dy = (t.cuda() for t in inputs(2, 64, 33, 47, 5, 2, 0, torch.bfloat16))
        for f, arguments in (
            (triton_reassembly.weighted_sum, (x, kernels, 2)),
            (triton_reassembly.input_gradient, (dy, kernels, (33, 47), 2)),
            (triton_reassembly.kernel_gradient, (dy, x, 5, 2)),
        ):
            assert torch.equal(f(*arguments), f(*arguments))

    @pytest.mark.parametrize("dynamic", [False, True])
    def test_compiles(self, dynamic: bool) -> None:
        x, kernels, dy = (t.cuda() for t in inputs(2, 32, 9, 13, 5, 2))
        leaves = [x.requires_grad_(), kernels.requires_grad_()]
        compiled = torch.compile(reassembly.reassemble, fullgraph=True, dynamic=dynamic)
        y, expected = compiled(x, kernels, 2), reassembly.reassemble(x, kernels, 2)
        torch.testing.assert_close(y, expected)
        gradients = torch.autograd.grad(y, leaves, dy)
        torch.testing.assert_close(gradients, torch.autograd.grad(expected, leaves, dy))

    def test_a_map_of_more_than_2_to_the_31_elements(self) -> None:
        """Its last pixel, with kernels that copy the centre."""
        if torch.cuda.mem_get_info()[0] < 16 * 2**30:
            pytest.skip("needs 16 GiB of free GPU memory")
        x = torch.zeros(1, 2048, 1030, 1030, device="cuda", dtype=torch.bfloat16)
        x = x.to(memory_format=torch.channels_last)
        x[..., -1, -1] = 1
        kernels = torch.zeros(1, 9, 1030, 1030, device="cuda")
        kernels[:, 4] = 1
        y = triton_reassembly.weighted_sum(x, kernels, 1)
        assert (y[..., -1, -1] == 1).all()
        assert y[..., -1, :-1].count_nonzero() == 0
