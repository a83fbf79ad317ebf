"""torch.compile: compiled before it is timed, however many sessions a process has had."""

from __future__ import annotations

import gc
import sysconfig
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from upnas.measure.runtimes import RUNTIMES, Session, compiled
from upnas.measure.timing.interleave import conditions_of
from upnas.records import Target

from .runtime_helpers import convolutions, eager_output

TARGET = Target(name="a", input=(3, 6, 7), runtime="compile")
COMPILE = RUNTIMES["compile"]


@pytest.fixture
def strict_dynamo() -> Iterator[None]:
    """Three results per code object, and an error beyond instead of uncompiled code."""
    with torch._dynamo.config.patch(
        recompile_limit=3, accumulated_recompile_limit=3, fail_on_recompile_limit_hit=True
    ):
        yield


def run_without_compiling(session: Session, target: Target) -> None:
    stance = torch.compiler.set_stance("fail_on_recompile")
    with conditions_of(target), stance:
        session.run()


@pytest.mark.usefixtures("strict_dynamo")
def test_more_sessions_than_dynamo_keeps_results_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiled, "_NO_LIMIT", 3)  # code objects of their own must do
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(COMPILE.session(convolutions(width), TARGET))
            for width in range(1, 6)
        ]
        with COMPILE.session(convolutions(6), TARGET) as passing:
            run_without_compiling(passing, TARGET)
        for width, session in enumerate(sessions, start=1):
            run_without_compiling(session, TARGET)
            expected = eager_output(convolutions(width), TARGET)
            torch.testing.assert_close(session.output(), expected, rtol=1e-4, atol=1e-4)


class Breaks(nn.Module):
    """Its layers are compiled one by one, and their code belongs to the class."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, width, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        torch._dynamo.graph_break()
        return y.relu() + 1


@pytest.mark.usefixtures("strict_dynamo")
def test_sessions_with_graph_breaks_are_not_limited_either() -> None:
    with ExitStack() as stack:
        sessions = [
            stack.enter_context(COMPILE.session(Breaks(width), TARGET)) for width in range(1, 6)
        ]
        for width, session in enumerate(sessions, start=1):
            run_without_compiling(session, TARGET)
            assert session.output().shape == (1, width, 4, 5)


def test_a_compiled_network_goes_with_its_session() -> None:
    def num_alive() -> int:
        gc.collect()
        return sum(type(thing) is Breaks for thing in gc.get_objects())

    before = num_alive()
    with COMPILE.session(Breaks(2), TARGET) as session:
        run_without_compiling(session, TARGET)
        assert num_alive() > before
    del session
    assert num_alive() == before


def test_another_input_size_is_not_compiled_into_general_code() -> None:
    sizes = [(3, 6, 7), (3, 10, 9)]
    targets = [Target(name="a", input=size, runtime="compile") for size in sizes]
    with ExitStack() as stack:
        for target in targets:
            model = convolutions()
            session = stack.enter_context(COMPILE.session(model, target))
            run_without_compiling(session, target)
            assert session.output().shape[2:] == target.input[1:]
            # Code for one size refuses another one.
            assert isinstance(session, compiled.CompiledSession)
            other = torch.zeros(1, 3, 11, 11)
            with (
                conditions_of(target),
                torch.compiler.set_stance("fail_on_recompile"),
                pytest.raises(RuntimeError, match="recompile"),
            ):
                session._forward(other)


class KeepsItsGrid(nn.Module):
    """Its second forward takes another path than its first."""

    def __init__(self) -> None:
        super().__init__()
        self.grid: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.grid is None:
            self.grid = torch.linspace(0, 1, x.shape[-1])
        return x + self.grid


def test_a_network_that_keeps_something_from_its_first_forward() -> None:
    model = KeepsItsGrid()
    with COMPILE.session(model, TARGET) as session:
        run_without_compiling(session, TARGET)
        assert torch.equal(session.output(), eager_output(model, TARGET))


class Counts(nn.Module):
    """Its graph depends on how often it ran."""

    def __init__(self) -> None:
        super().__init__()
        self.num_forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_forwards += 1
        return torch.cat([x] * self.num_forwards)


def test_a_network_that_compiles_at_every_forward_is_refused() -> None:
    with (
        pytest.raises(RuntimeError, match="recompile"),
        COMPILE.session(Counts(), TARGET),
    ):
        pass


def test_threads_of_a_compiled_network() -> None:
    target = Target(name="a", input=(3, 6, 7), runtime="compile", threads=2)
    before = torch.get_num_threads()
    with COMPILE.session(convolutions(), target) as session:
        run_without_compiling(session, target)
        assert torch.get_num_threads() == before
        with torch.compiler.set_stance("fail_on_recompile"):
            session.output()
    assert torch.get_num_threads() == before


def test_no_compiler() -> None:
    import torch._inductor.config as inductor

    assert COMPILE.missing(TARGET) is None
    with inductor.patch({"cpp.cxx": ("no-such-compiler",)}):
        missing = COMPILE.missing(TARGET)
    assert missing is not None
    assert "needs a C++ compiler" in missing
    assert "Install g++" in missing


def test_no_headers_of_python(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "Python.h" in str(COMPILE.missing(TARGET))
