"""Torch as it is: one kernel after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn
from typing_extensions import override

from upnas.measure.runtimes.base import Runtime, Session, target_input, target_model
from upnas.records import Target


class TorchSession(Session):
    """A callable of torch and its input.

    Args:
        model: In eval mode, where the input lies.
        x: The input.
    """

    def __init__(self, model: nn.Module, x: Tensor):
        self._model = model
        self._x = x

    @override
    def run(self) -> object:
        return self._model(self._x)

    @override
    def output(self) -> Tensor:
        result: Tensor = self._model(self._x)
        return result.detach().float().cpu().contiguous()


class Eager(Runtime):
    """PyTorch in eager mode."""

    name = "eager"
    devices = frozenset({"cpu", "cuda", "mps"})

    @contextmanager
    @override
    def session(self, model: nn.Module, target: Target) -> Iterator[Session]:
        yield TorchSession(target_model(model, target), target_input(target))
