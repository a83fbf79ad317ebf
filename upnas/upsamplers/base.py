"""The contract of an upsampler and what every one of them shares."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor, nn

from upnas.errors import UpnasError


class Upsampler(nn.Module):
    """Enlarges a feature map: ``(B, C, H, W) -> (B, C_out, s*H, s*W)``.

    A subclass implements :meth:`upsample` for the exact integer factor; this class does the rest
    of the contract. The subclass's own keyword-only ``__init__`` arguments are its searchable
    parameters: their annotations (``Literal[...]``, ``Annotated[int, Field(ge=1)]``) are what the
    YAML is checked against, and their defaults are the paper's. It passes ``channels``,
    ``out_channels`` and ``scale_factor`` on to this ``__init__``.

    Every upsampler runs for every H, W >= 1, in training and in eval mode, in float64, float32,
    bfloat16 and under autocast, with NCHW and channels_last inputs; in eval mode it traces with
    ``torch.export``, with symbolic sizes unless it picks by resolution. The contract tests hold
    every catalogue entry to it.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s of both axes.

    Raises:
        ValueError: If a size is not positive, or the operator cannot do what is asked of it.
    """

    #: The operator cannot change the number of channels (interpolation, reassembly).
    keeps_channels: ClassVar[bool] = False
    #: The operator reads the encoder skip and needs ``guide``.
    guided: ClassVar[bool] = False
    #: Scale factors that the operator is defined for; None means every integer >= 1.
    scale_factors: ClassVar[frozenset[int] | None] = None
    #: A spatially constant input gives a spatially constant output, borders included, whatever
    #: the weights are.
    keeps_constants: ClassVar[bool] = False

    def __init__(self, channels: int, out_channels: int | None = None, *, scale_factor: int = 2):
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        name = type(self).__name__
        if channels < 1 or out_channels < 1 or scale_factor < 1:
            raise ValueError(
                f"{name} needs positive channels, out_channels and scale_factor; "
                f"got {channels}, {out_channels}, {scale_factor}."
            )
        if self.keeps_channels and out_channels != channels:
            raise ValueError(
                f"{name} keeps the number of channels; got {channels} in and {out_channels} out."
            )
        if self.scale_factors is not None and scale_factor not in self.scale_factors:
            raise ValueError(
                f"{name} is defined for scale factors {sorted(self.scale_factors)}; "
                f"got {scale_factor}."
            )
        self.channels = channels
        self.out_channels = out_channels
        self.scale_factor = scale_factor

    def forward(
        self, x: Tensor, size: tuple[int, int] | None = None, guide: Tensor | None = None
    ) -> Tensor:
        """Upsample by ``scale_factor``, or to an exact size.

        Args:
            x: Features, (B, C, H, W) with any H, W >= 1.
            size: Wanted (height, width). The input must be ceil(size / s) in each axis: the
                operator makes s*H x s*W and the surplus at the bottom and right is cropped, so
                odd sizes need no padding.
            guide: Encoder features at the output resolution; read by guided operators only.

        Returns:
            (B, C_out, s*H, s*W), or (B, C_out, *size).

        Raises:
            ValueError: If ``size`` cannot be reached from the input, or a guided operator gets no
                guide.
        """
        if self.guided and guide is None:
            raise ValueError(f"{type(self).__name__} is guided and needs guide=...")
        if size is not None:
            needed = tuple(math.ceil(side / self.scale_factor) for side in size)
            if tuple(x.shape[-2:]) != needed:
                raise ValueError(
                    f"{type(self).__name__} cannot reach size={tuple(size)} from "
                    f"{tuple(x.shape[-2:])} with scale_factor={self.scale_factor}: "
                    f"it needs an input of {needed}."
                )
        y = self.upsample(x, guide)
        if size is not None and tuple(y.shape[-2:]) != tuple(size):
            y = y[..., : size[0], : size[1]]
        return y

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Return exactly ``(B, C_out, s*H, s*W)``. Implemented by each operator."""
        raise NotImplementedError(f"{type(self).__name__} must implement upsample().")

    def extra_repr(self) -> str:
        """Channels and scale, as torch prints them."""
        return f"{self.channels}, {self.out_channels}, scale_factor={self.scale_factor}"


class CatalogueError(UpnasError):
    """An upsampler is unknown or does not keep the contract."""


Catalogue = Mapping[str, type[Upsampler]]
