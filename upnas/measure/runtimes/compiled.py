"""``torch.compile`` with its default backend, inductor."""

from __future__ import annotations

import importlib.util
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from typing_extensions import override

from upnas.measure.runtimes.base import Runtime, Session, target_input, target_model
from upnas.measure.runtimes.eager import plain
from upnas.measure.timing.interleave import conditions_of
from upnas.records import Target

# Above any number of graph breaks: see _compiled.
_NO_LIMIT = 1_000_000


class CompiledSession(Session):
    """A compiled forward and its input.

    Args:
        forward: Compiled for this input under the target's conditions.
        x: The input.
        target: Where they lie.
    """

    def __init__(self, forward: Callable[[Tensor], Tensor], x: Tensor, target: Target):
        self._forward = forward
        self._x = x
        self._target = target

    @override
    def run(self) -> object:
        return self._forward(self._x)

    @override
    def output(self) -> Tensor:
        # Another mode or number of threads would be compiled anew.
        with conditions_of(self._target):
            result = self._forward(self._x)
        return plain(result)


class Compiled(Runtime):
    """``torch.compile`` for exactly one input size."""

    name = "compile"

    @override
    def missing(self, target: Target) -> str | None:
        return super().missing(target) or (
            _cuda_fault() if target.device == "cuda" else _cpu_fault()
        )

    @contextmanager
    @override
    def session(self, model: nn.Module, target: Target) -> Iterator[Session]:
        x = target_input(target)
        yield CompiledSession(_compiled(target_model(model, target), x, target), x, target)


def _compiled(model: nn.Module, x: Tensor, target: Target) -> Callable[[Tensor], Tensor]:
    """Compile a forward, until it runs without the compiler.

    Raises:
        RuntimeError: If every forward would be compiled anew.
    """

    def forward(x: Tensor) -> Tensor:
        result: Tensor = model(x)
        return result

    # Dynamo keeps its results with the code object, and after eight of them runs that code
    # uncompiled. With a code object of its own, each session has all eight; what it compiled goes
    # when it goes, and torch._dynamo.reset(), which would take it from other sessions as well, is
    # not needed. Behind a graph break the code objects of the layers count, hence the limits.
    forward.__code__ = forward.__code__.replace()
    config = torch._dynamo.config.patch(
        recompile_limit=_NO_LIMIT, accumulated_recompile_limit=_NO_LIMIT, suppress_errors=False
    )
    # Not dynamic: by default, a second input size in the same process makes slower, general code.
    compiled = torch.compile(forward, dynamic=False)
    with conditions_of(target), config:
        compiled(x)
        compiled(x)  # layers that kept something from their first forward
        with torch.compiler.set_stance("fail_on_recompile"):
            compiled(x)
    return compiled


def _cpu_fault() -> str | None:
    """What keeps inductor from making code for the CPU."""
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return (
            "runtime 'compile' needs a C++ compiler, and neither $CXX nor g++ is one. Install g++, "
            "or choose another runtime."
        )
    return _headers_fault()


def _cuda_fault() -> str | None:
    """What keeps inductor from making code for the GPU."""
    if importlib.util.find_spec("triton") is None:
        return (
            "runtime 'compile' on cuda needs triton, which is not installed. "
            "Run `pip install triton`, or choose another runtime."
        )
    if torch.cuda.is_available():
        from torch.utils._triton import has_triton

        if not has_triton():
            return (
                "runtime 'compile' on cuda needs a GPU that triton makes code for. "
                "Choose another runtime."
            )
    return _headers_fault()


def _headers_fault() -> str | None:
    """What generated C++ includes."""
    if (Path(sysconfig.get_path("include")) / "Python.h").is_file():
        return None
    return (
        "runtime 'compile' needs Python.h, which is not installed. Install the headers of this "
        "Python (python3-dev), or choose another runtime."
    )
