"""Torch as it is: one kernel after the other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from typing_extensions import override

from upnas.measure.runtimes.base import Runtime, Session, target_input, target_model
from upnas.records import Target


class TorchSession(Session):
    """A module of torch and its input.

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
        with torch.inference_mode():
            result: Tensor = self._model(self._x)
        return plain(result)


class Eager(Runtime):
    """PyTorch in eager mode."""

    name = "eager"

    @contextmanager
    @override
    def session(self, model: nn.Module, target: Target) -> Iterator[Session]:
        yield TorchSession(target_model(model, target), target_input(target))


def plain(result: Tensor) -> Tensor:
    """Return a copy of a network's result, float32 and contiguous on the CPU."""
    return result.detach().to("cpu", torch.float32, copy=True).contiguous()
