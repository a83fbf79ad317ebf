"""Eager kernels in a CUDA graph: launched as one, without waiting for Python."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from upnas.measure.runtimes.base import Runtime, Session, target_input, target_model
from upnas.measure.runtimes.eager import plain
from upnas.records import Target

# Libraries choose algorithms and take workspace in their first calls, which cannot be captured.
_NUM_WARMUP: Final = 3


class GraphSession(Session):
    """A captured forward.

    Args:
        graph: Reads its input and writes ``result`` where they lay while it was captured.
        x: The input, kept alive for the graph.
        result: Overwritten by every replay.
    """

    def __init__(self, graph: torch.cuda.CUDAGraph, x: Tensor, result: Tensor):
        self._graph = graph
        self._x = x
        self._result = result

    @override
    def run(self) -> object:
        self._graph.replay()
        return self._result

    @override
    def output(self) -> Tensor:
        self._graph.replay()
        return plain(self._result)


class CudaGraph(Runtime):
    """PyTorch's eager kernels, captured once and replayed."""

    name = "cuda_graph"

    @contextmanager
    @override
    def session(self, model: nn.Module, target: Target) -> Iterator[Session]:
        model, x = target_model(model, target), target_input(target)
        graph = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            _warm_up(model, x)
            # Other threads of this process may use the device meanwhile, e.g. to pin memory.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                result: Tensor = model(x)
        try:
            yield GraphSession(graph, x, result)
        finally:
            torch.cuda.synchronize()  # a replay may still run
            graph.reset()


def _warm_up(model: nn.Module, x: Tensor) -> None:
    """Run on a side stream: a capture must not depend on work of the default stream."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(_NUM_WARMUP):
            model(x)
    torch.cuda.current_stream().wait_stream(stream)
