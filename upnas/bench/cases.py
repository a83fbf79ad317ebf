"""One upsampler on one input: the step that is timed, its floor and its memory.

**Floor.** No implementation can move less than this: a forward reads input, guide and parameters
once and writes the output once; forward + backward also reads the output's gradient and writes
every gradient that there is. Arithmetic is not in it: a convolution that computes much is far from
its floor on any machine.

**Memory.** What lives beside input, guide and weights at the worst moment. On a CPU the bytes of
all tensors, counted on fake tensors (see :mod:`upnas.measure.memory`): exact and repeatable, and
without what a kernel of torch allocates inside itself. On CUDA what the caching allocator gave out
(``max_memory_allocated``), the workspaces of libraries included.
"""

from __future__ import annotations

import itertools
import time
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from upnas.bench.naive import KERNELS, NAIVE
from upnas.bench.records import BenchSettings, DType, Mode, Shape
from upnas.measure.memory.tensors import peak_memory_bytes
from upnas.records import StageChoice
from upnas.upsamplers import Upsampler, build_upsampler, find_upsampler
from upnas.upsamplers.switched import Switched

DTYPES: Final[dict[DType, torch.dtype]] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}


class Inputs:
    """The tensors of one shape, shared by all upsamplers.

    Args:
        shape: Their sizes.
        settings: Device, dtype, layout and seed.
    """

    def __init__(self, shape: Shape, settings: BenchSettings):
        self.shape = shape
        self._settings = settings
        self._generator = torch.Generator().manual_seed(settings.seed)
        self._guides: dict[int, Tensor] = {}
        self._gradients: dict[tuple[int, ...], Tensor] = {}
        self.x = self._random(shape.channels, shape.height, shape.width)

    def guide(self, channels: int) -> Tensor:
        """The guide of so many channels."""
        if channels not in self._guides:
            self._guides[channels] = self._random(channels, *self.shape.output)
        return self._guides[channels]

    def gradient(self, y: Tensor) -> Tensor:
        """A gradient for an output, with its layout: what a layer of that layout hands back."""
        key = y.stride()
        if key not in self._gradients:
            self._gradients[key] = torch.randn_like(y)
        return self._gradients[key]

    def _random(self, channels: int, height: int, width: int) -> Tensor:
        sides = (self.shape.batch, channels, height, width)
        values = torch.randn(sides, generator=self._generator)
        values = values.to(self._settings.device, DTYPES[self._settings.dtype])
        return values.contiguous(memory_format=_memory_format(self._settings))


class Step(nn.Module):
    """One call of an upsampler on given tensors.

    Args:
        upsampler: The upsampler.
        inputs: Its tensors.
    """

    x: Tensor
    guide: Tensor | None

    def __init__(self, upsampler: Upsampler, inputs: Inputs):
        super().__init__()
        self.upsampler = upsampler
        self.size = inputs.shape.size
        self.register_buffer("x", inputs.x)
        guide = inputs.guide(upsampler.guide_channels) if upsampler.guided else None
        self.register_buffer("guide", guide)

    @abstractmethod
    def forward(self, _: Tensor | None = None) -> list[Tensor]:
        """Return the output and the gradients that there are."""

    def run(self) -> list[Tensor]:
        """Do what is timed."""
        outputs: list[Tensor] = self()
        return outputs

    def given_bytes(self) -> int:
        """Bytes of input, guide, parameters and buffers."""
        return _num_bytes(itertools.chain(self.parameters(), self.buffers()))


class ForwardStep(Step):
    """An inference forward in eval mode."""

    @override
    def forward(self, _: Tensor | None = None) -> list[Tensor]:
        return [self.upsampler(self.x, size=self.size, guide=self.guide)]

    @override
    def run(self) -> list[Tensor]:
        with torch.inference_mode():
            return super().run()


class TrainingStep(Step):
    """A forward in training mode and the gradients of input, guide and parameters.

    Attributes:
        output_gradient: Made anew in every call where it is None, so that it counts as memory.
    """

    output_gradient: Tensor | None = None

    @override
    def forward(self, _: Tensor | None = None) -> list[Tensor]:
        with torch.enable_grad():
            x = self.x.detach().requires_grad_()
            guide = None if self.guide is None else self.guide.detach().requires_grad_()
            y = self.upsampler(x, size=self.size, guide=guide)
            dy = torch.ones_like(y) if self.output_gradient is None else self.output_gradient
            weights = (weight for weight in self.upsampler.parameters() if weight.requires_grad)
            leaves = [x, *weights, *([] if guide is None else [guide])]
            gradients = torch.autograd.grad(y, leaves, dy, allow_unused=True)
        return [y, *(gradient for gradient in gradients if gradient is not None)]

    @override
    def train(self, mode: bool = True) -> TrainingStep:
        # The memory count puts what it runs into eval mode.
        super().train(True)
        return self


class Case:
    """A step that has run once, with what is known of it before it is timed.

    Args:
        upsampler: On the device, in the dtype and layout of the inputs.
        inputs: Its tensors.
        mode: Forward, or forward and backward.
        memory_limit: Bytes above which a CPU refuses to run it.
        call_limit_s: Seconds above which it is not worth its samples.

    Attributes:
        step: What to time.
        extra_bytes: Peak of what lives beside what is given; see the module.
        floor_bytes: What has to be moved at least; see the module.
        first_s: Wall seconds of the first call.

    Raises:
        ValueError: If it would need more memory, or took more time, than the limit.
    """

    def __init__(
        self,
        upsampler: Upsampler,
        inputs: Inputs,
        mode: Mode,
        *,
        memory_limit: float,
        call_limit_s: float,
    ):
        is_training = mode == "training"
        self.step = (TrainingStep if is_training else ForwardStep)(upsampler, inputs)
        self.step.train(is_training)
        on_cuda = inputs.x.is_cuda
        if not on_cuda:  # before it runs: a process that takes too much is killed
            self.extra_bytes = _counted_bytes(self.step)
            if self.extra_bytes > memory_limit:
                needed, allowed = (f"{n / 2**30:.1f} GiB" for n in (self.extra_bytes, memory_limit))
                raise ValueError(f"It needs {needed} of memory; {allowed} may be used.")
        start_s = time.perf_counter()
        y, *gradients = self.step.run()
        self.first_s = time.perf_counter() - start_s
        if self.first_s > call_limit_s:
            raise ValueError(
                f"One call takes {self.first_s:.0f} s; with this budget {call_limit_s:.0f} s may."
            )
        self.floor_bytes = self.step.given_bytes() + y.nbytes
        if isinstance(self.step, TrainingStep):
            self.floor_bytes += y.nbytes + _num_bytes(gradients)
        if on_cuda:
            self.extra_bytes = _allocated_bytes(self.step)
        if isinstance(self.step, TrainingStep):
            self.step.output_gradient = inputs.gradient(y)


def build_entry(entry: StageChoice, shape: Shape, settings: BenchSettings) -> Upsampler:
    """Build an entry for a shape; what picks by resolution is collapsed to what it picks.

    Raises:
        UpnasError, ValueError: If the entry cannot do that.
    """
    torch.manual_seed(settings.seed)
    channels = shape.channels
    parameters: dict[str, Any] = dict(entry.parameters)
    if entry.upsampler in KERNELS:
        upsampler = KERNELS[entry.upsampler](channels, scale_factor=shape.scale_factor)
    else:
        upsampler = build_upsampler(
            entry.upsampler, channels, scale_factor=shape.scale_factor, **parameters
        )
    if isinstance(upsampler, Switched):
        upsampler = upsampler.collapse((shape.height, shape.width))
    return _placed(upsampler, settings)


def collapsed_to(entry: StageChoice, upsampler: Upsampler) -> str | None:
    """The class that an entry was collapsed to; None if it is its own."""
    if entry.upsampler in KERNELS or isinstance(upsampler, find_upsampler(entry.upsampler)):
        return None
    return type(upsampler).__name__


def build_naive(
    entry: StageChoice, upsampler: Upsampler, shape: Shape, settings: BenchSettings
) -> Upsampler | None:
    """Build the naive formulation of an entry, if there is one, with the same weights."""
    if entry.upsampler not in NAIVE:
        return None
    arguments: dict[str, Any] = dict(entry.parameters)
    if upsampler.guided:
        arguments["guide_channels"] = upsampler.guide_channels
    kind = NAIVE[entry.upsampler]
    naive = kind(shape.channels, scale_factor=shape.scale_factor, **arguments)
    naive.load_state_dict(upsampler.state_dict())
    return _placed(naive, settings)


def _placed(upsampler: Upsampler, settings: BenchSettings) -> Upsampler:
    upsampler = upsampler.to(settings.device, DTYPES[settings.dtype])
    return upsampler.to(memory_format=_memory_format(settings))


def _memory_format(settings: BenchSettings) -> torch.memory_format:
    return torch.channels_last if settings.layout == "nhwc" else torch.contiguous_format


def _num_bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def _counted_bytes(step: Step) -> int:
    # The step holds its tensors as buffers; the input that the counter makes is not read.
    unused = (1,)
    return peak_memory_bytes(step, unused) - step.given_bytes() - torch.zeros(unused).nbytes


def _allocated_bytes(step: Step) -> int:
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step.run()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before
