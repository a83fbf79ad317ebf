"""The contract of a runtime, and what all of them share."""

from __future__ import annotations

import copy
import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Final

import torch
from torch import Tensor, nn

from upnas.records import RuntimeName, Target

DTYPES: Final = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Session(ABC):
    """A network that is ready to run on a target, with one fixed input on its device."""

    #: Whether, with one thread, all the work happens on the thread that calls :meth:`run`: its
    #: processor time is then the network's. On a GPU: on torch's current stream.
    runs_on_caller: bool = True

    @abstractmethod
    def run(self) -> object:
        """Run one forward, under the target's conditions (see ``interleave.conditions_of``).

        On a GPU it may return before the forward has ended.
        """

    @abstractmethod
    def output(self) -> Tensor:
        """Return the result of one forward, float32 and contiguous on the CPU, from anywhere."""


class ExportedSession(Session):
    """A session of a runtime that knows nothing of torch.

    Args:
        program: The network as a serialized ONNX model.
    """

    def __init__(self, program: bytes):
        self.program = program


class Runtime(ABC):
    """Turns networks into sessions; an entry of ``RUNTIMES``."""

    name: ClassVar[RuntimeName]
    #: Packages that it imports, beyond the dependencies of upnas.
    packages: ClassVar[tuple[str, ...]] = ()
    #: What installs them.
    install: ClassVar[str] = ""

    def missing(self, target: Target) -> str | None:
        """Say what keeps this machine from serving a target with this runtime; None: nothing.

        Whether there is a device, and enough processors, is not its business. An override adds
        to this; it must work where there is no such device.

        Returns:
            One or more sentences, the last of which says what to do.
        """
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if not missing:
            return None
        verb = "is" if len(missing) == 1 else "are"
        return (
            f"runtime {target.runtime!r} needs {', '.join(missing)}, which {verb} not installed. "
            f"Run `{self.install}`, or choose another runtime."
        )

    @abstractmethod
    def session(self, model: nn.Module, target: Target) -> AbstractContextManager[Session]:
        """Make a network ready for the target, until the context is left.

        Takes as long as the runtime needs to compile; hold the device's gate in shared mode.

        Args:
            model: In eval mode, float32; it is left as it is. It may lie on any device.
            target: One that :meth:`missing` has nothing against.

        Raises:
            Exception: Whatever the runtime raises where it cannot run the network.
        """


def random_input(shape: Sequence[int]) -> Tensor:
    """Return the input of every measurement: normal random numbers, float32, on the CPU."""
    return torch.randn(tuple(shape), generator=torch.Generator().manual_seed(0))


def target_input(target: Target) -> Tensor:
    """Return :func:`random_input` on the target's device, in its dtype and memory format."""
    x = random_input(target.input_shape).to(target.device, DTYPES[target.dtype])
    return x.contiguous(memory_format=_memory_format(target))


def target_model(model: nn.Module, target: Target) -> nn.Module:
    """Return a copy on the target's device, in its dtype and memory format, in eval mode."""
    moved = copy.deepcopy(model).eval()
    return moved.to(  # type: ignore[call-overload, no-any-return]
        target.device, DTYPES[target.dtype], memory_format=_memory_format(target)
    )


def _memory_format(target: Target) -> torch.memory_format:
    if target.memory_format == "channels_last":
        return torch.channels_last
    return torch.contiguous_format
