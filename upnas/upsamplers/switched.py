from __future__ import annotations

from abc import abstractmethod

from torch import Tensor
from typing_extensions import override

from upnas.upsamplers.base import Upsampler


class Switched(Upsampler):
    """An upsampler that is one of several, its arms, by the resolution of its input."""

    #: The resolution that decides instead of the input's own, see :meth:`pin`.
    pinned: tuple[int, int] | None = None

    @abstractmethod
    def alternatives(self) -> tuple[Upsampler, ...]:
        """All arms."""

    @override
    def macs_per_pixel(self) -> int:
        """Those of the costliest arm: which one runs depends on the resolution."""
        return max(arm.macs_per_pixel() for arm in self.alternatives())

    @abstractmethod
    def collapse(self, resolution: tuple[int, int]) -> Upsampler:
        """Return the arm for inputs of this (H, W): a plain module that shares its parameters.

        On such inputs its output is that of this upsampler in eval mode.
        """

    def pin(self, resolution: tuple[int, int] | None) -> None:
        """Decide as if every input had this (H, W); None = by the input's own.

        A network is trained on crops and shipped for whole images. Pinned at the resolution of the
        whole image, the arm that will be shipped is the one that is trained.
        """
        self.pinned = resolution

    def deciding_resolution(self, x: Tensor) -> tuple[int, int]:
        """The (H, W) that decides for an input."""
        return self.pinned or (x.shape[-2], x.shape[-1])
