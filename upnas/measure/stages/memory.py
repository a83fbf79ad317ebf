"""Memory of single stages, worked out on fake tensors: nothing runs.

The activations of a stage are the peak of the network with one upsampler, in which blanks that
make their output and nothing else stand for the others. Every upsampler has its input and its
output alive at once, so that no blank is the peak where the upsampler that it stands for is not:
the peak of a network is then that of its worst stage.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from upnas.measure.memory.tensors import num_parameters, peak_memory_bytes
from upnas.measure.runtimes.base import DTYPES, target_model
from upnas.measure.stages.places import Place
from upnas.records import Target
from upnas.upsamplers import Upsampler


class Skeleton:
    """A network without its upsamplers.

    Args:
        network: With any upsamplers; it is left as it is.
        places: Where they are.
        target: Device, dtype, memory format and input.

    Attributes:
        num_parameters: Of all that is no upsampler.
        static_bytes: Weights and buffers, likewise.
    """

    def __init__(self, network: nn.Module, places: Sequence[Place], target: Target):
        self._target = target
        self._memory_format = (
            torch.channels_last
            if target.memory_format == "channels_last"
            else torch.contiguous_format
        )
        self._network = target_model(network, target)
        for place in places:
            blank = _Blank.of(self._network, place, self._memory_format)
            self._network.set_submodule(place.name, blank)
        self.num_parameters: Final = num_parameters(self._network)
        self.static_bytes: Final = static_bytes(self._network)

    def static_bytes_of(self, upsampler: Upsampler) -> int:
        """Weights and buffers of an upsampler in the target's dtype."""
        return static_bytes(target_model(upsampler, self._target))

    def activation_bytes(self, upsampler: Upsampler, place: Place) -> int:
        """The peak of input and activations where this is the only upsampler.

        Args:
            upsampler: One that is not deferred, float32; it is left as it is.
            place: Where it goes.
        """
        blank = self._network.get_submodule(place.name)
        self._network.set_submodule(place.name, target_model(upsampler, self._target))
        try:
            peak = peak_memory_bytes(
                self._network,
                self._target.input_shape,
                dtype=DTYPES[self._target.dtype],
                memory_format=self._memory_format,
            )
            return peak - static_bytes(self._network)
        finally:
            self._network.set_submodule(place.name, blank)


def static_bytes(module: nn.Module) -> int:
    """Bytes of all weights and buffers, each storage counted once."""
    tensors = itertools.chain(module.parameters(), module.buffers())
    storages = {storage._cdata: storage for storage in (t.untyped_storage() for t in tensors)}
    return sum(storage.nbytes() for storage in storages.values())


class _Blank(Upsampler):
    """Makes its output and nothing else, without a value: no upsampler needs less memory."""

    memory_format = torch.contiguous_format

    @classmethod
    def of(cls, network: nn.Module, place: Place, memory_format: torch.memory_format) -> _Blank:
        """The blank that stands for a network's upsampler."""
        upsampler = network.get_submodule(place.name)
        assert isinstance(upsampler, Upsampler)  # find_places() returns nothing else
        blank = cls(upsampler.channels, upsampler.out_channels, scale_factor=upsampler.scale_factor)
        blank.memory_format = memory_format
        return blank

    @override
    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        shape = (x.shape[0], self.out_channels, *self.upsampled_size(x))
        return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=self.memory_format)
