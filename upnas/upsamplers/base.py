"""The contract of an upsampler and what every one of them shares."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar, Literal

import torch.nn.functional as F
from torch import Tensor, nn

from upnas.errors import UpnasError

ScaleFactor = int | float | Sequence[int] | Sequence[float]


class Upsampler(nn.Module):
    """Enlarges a feature map: ``(B, C, H, W) -> (B, C_out, s*H, s*W)``.

    A subclass implements :meth:`upsample` for the exact factor; this class does the rest of the
    contract. The subclass's own keyword-only ``__init__`` arguments are its searchable parameters:
    their annotations (``Literal[...]``, ``Annotated[int, Field(ge=1)]``) are what the YAML is
    checked against, and their defaults are the paper's. ``scale_factor``, and where the operator
    knows them ``spatial_dims`` and ``guide_channels``, come from the place in the network; the
    subclass passes them on to this ``__init__``.

    Every upsampler runs for every H, W >= 1, in training and in eval mode, in float64, float32,
    bfloat16 and under autocast, with NCHW and channels_last inputs. channels_last in gives
    channels_last out; some operators give it for NCHW inputs too, so use ``reshape``, not ``view``,
    behind them. (Batch normalisation needs more than one value per channel in training.) It traces
    in one graph with ``torch.compile`` and, in eval mode, with ``torch.export``, with symbolic
    sizes unless it picks by resolution. The contract tests hold every catalogue entry to it, and
    :func:`upnas.upsamplers.contract.check_contract` every entry of a third party.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Upsampling factor s: a positive integer; one per axis where ``per_axis``; a
            float above 1 where ``fractional``.
        spatial_dims: 2 for (B, C, H, W), 3 for (B, C, D, H, W) where ``dims`` has it.

    Attributes:
        factors: The factor of each axis.

    Raises:
        ValueError: If a size is not positive, or the operator cannot do what is asked of it.
    """

    #: The operator cannot change the number of channels (interpolation, reassembly).
    keeps_channels: ClassVar[bool] = False
    #: Numbers of spatial axes that the operator is defined for.
    dims: ClassVar[frozenset[int]] = frozenset({2})
    #: Scale factors that the operator is defined for; None means every integer >= 1.
    scales: ClassVar[frozenset[int] | None] = None
    #: The factors of the axes may differ.
    per_axis: ClassVar[bool] = False
    #: Factors need not be integers; the output side is then floor(s * H).
    fractional: ClassVar[bool] = False
    #: A spatially constant input gives a spatially constant output, borders included, whatever
    #: the weights are.
    keeps_constants: bool = False
    #: A decoder leaves the operator out and enlarges its own output instead.
    deferred: ClassVar[bool] = False
    #: The operator reads a guide at the output resolution.
    guided: bool = False
    #: Channels of that guide; 0 without one.
    guide_channels: int = 0
    #: What a decoder must pass as the guide: the encoder feature that the stage fuses with (the
    #: image where there is none), or always the network's input image.
    guide_source: ClassVar[Literal["skip", "image"]] = "skip"

    #: What a person should know before choosing the operator, see ``upnas upsamplers NAME``.
    #: Where it comes from: authors, venue, address; "" for the common knowledge of the field.
    paper: ClassVar[str] = ""
    #: The definition, in the symbols of the docstring.
    formula: ClassVar[str] = ""
    #: What goes wrong with it.
    pitfalls: ClassVar[tuple[str, ...]] = ()
    #: Number of parameters, as an expression in C, C_out, C_guide, s and the operator's own
    #: parameters, true for its defaults.
    params_formula: ClassVar[str] = "0"
    #: Multiply-accumulates per input pixel, likewise; see :meth:`macs_per_pixel`.
    macs_formula: ClassVar[str] = "0"
    #: Why the operator does not export to ONNX; None: it does.
    not_onnx: ClassVar[str | None] = None
    #: Why its gradient is not deterministic on CUDA; None: it is.
    nondeterministic: str | None = None

    factors: tuple[int, ...]

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: ScaleFactor = 2,
        spatial_dims: int = 2,
    ):
        super().__init__()
        out_channels = channels if out_channels is None else out_channels
        name = type(self).__name__
        if spatial_dims not in self.dims:
            raise ValueError(
                f"{name} is defined for {' and '.join(f'{n}-D' for n in sorted(self.dims))} "
                f"features; got spatial_dims={spatial_dims}."
            )
        if channels < 1 or out_channels < 1:
            raise ValueError(
                f"{name} needs positive channels and out_channels; got {channels}, {out_channels}."
            )
        if self.keeps_channels and out_channels != channels:
            raise ValueError(
                f"{name} keeps the number of channels; got {channels} in and {out_channels} out."
            )
        self.channels = channels
        self.out_channels = out_channels
        self.spatial_dims = spatial_dims
        self.factors = self._checked_factors(scale_factor)

    def _checked_factors(self, scale_factor: ScaleFactor) -> tuple[int, ...]:
        name = type(self).__name__
        given = (
            tuple(scale_factor)
            if isinstance(scale_factor, Sequence)
            else (scale_factor,) * self.spatial_dims
        )
        if len(given) != self.spatial_dims:
            raise ValueError(
                f"{name} needs one scale factor, or one per axis ({self.spatial_dims}); "
                f"got {given}."
            )
        factors = tuple(int(s) if math.isfinite(s) and s == int(s) else s for s in given)
        if not all(1 <= s < math.inf and (isinstance(s, int) or self.fractional) for s in factors):
            kind = "finite scale factors >= 1" if self.fractional else "positive integer factors"
            raise ValueError(f"{name} needs {kind}; got scale_factor={scale_factor}.")
        if len(set(factors)) > 1 and not self.per_axis:
            raise ValueError(f"{name} needs the same scale factor for all axes; got {factors}.")
        if self.scales is not None and factors[0] not in self.scales:
            raise ValueError(
                f"{name} is defined for scale factors {sorted(self.scales)}; got {factors[0]}."
            )
        return factors  # type: ignore[return-value]  # floats where ``fractional``

    @property
    def scale_factor(self) -> int:
        """The factor s of all axes; operators with one factor per axis read ``factors``."""
        (factor,) = set(self.factors)
        return factor

    def forward(
        self, x: Tensor, size: Sequence[int] | None = None, guide: Tensor | None = None
    ) -> Tensor:
        """Upsample by ``scale_factor``, or to an exact size.

        Args:
            x: Features, (B, C, H, W) with any H, W >= 1.
            size: Wanted (height, width). The input must be ceil(size / s) in each axis: the
                operator makes s*H x s*W and the surplus at the bottom and right is cropped, so
                odd sizes need no padding.
            guide: Features at the output resolution; read by guided operators only.

        Returns:
            (B, C_out, s*H, s*W), or (B, C_out, *size).

        Raises:
            ValueError: If the input has other axes or channels, ``size`` cannot be reached from it,
                or a guided operator gets no guide or one of another shape.
        """
        self._check_call(x, size)
        full = self.upsampled_size(x)
        if size is not None:
            needed = tuple(_input_side(n, s) for n, s in zip(size, self.factors, strict=True))
            if tuple(x.shape[2:]) != needed:
                raise ValueError(
                    f"{type(self).__name__} cannot reach size={tuple(size)} from "
                    f"{tuple(x.shape[2:])} with scale_factor={self._shown_factor()}: "
                    f"it needs an input of {needed}."
                )
        if self.guided:
            guide = self._fitted_guide(guide, x.shape[0], tuple(size or full), full)
        y = self.upsample(x, guide)
        if size is not None and tuple(y.shape[2:]) != tuple(size):
            for axis, side in enumerate(size, start=2):
                y = y.narrow(axis, 0, side)
        return y

    def upsample(self, x: Tensor, guide: Tensor | None) -> Tensor:
        """Return exactly ``(B, C_out, s*H, s*W)``. Implemented by each operator.

        Args:
            x: (B, C, H, W).
            guide: (B, C_guide, s*H, s*W) for a guided operator; others do not read it.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement upsample().")

    def macs_per_pixel(self) -> int:
        """Multiply-accumulates per pixel of the input, for the parameters of this module.

        Counts convolutions, weighted sums and interpolation (4 s^2 C bilinear, nothing for
        nearest); not biases, normalisation, activations and softmax, as the literature does.
        """
        raise NotImplementedError(f"{type(self).__name__} must implement macs_per_pixel().")

    def upsampled_size(self, x: Tensor) -> tuple[int, ...]:
        """(s*H, s*W). An integer size, unlike a float factor, traces with symbolic shapes."""
        return tuple(
            side * s if isinstance(s, int) else math.floor(side * s)
            for side, s in zip(x.shape[2:], self.factors, strict=True)
        )

    def _check_call(self, x: Tensor, size: Sequence[int] | None) -> None:
        name = type(self).__name__
        if x.dim() != 2 + self.spatial_dims or x.shape[1] != self.channels:
            axes = "D, H, W" if self.spatial_dims == 3 else "H, W"
            raise ValueError(
                f"{name} needs features (B, {self.channels}, {axes}); got {tuple(x.shape)}."
            )
        if size is not None and len(size) != self.spatial_dims:
            raise ValueError(
                f"{name} needs a size of {self.spatial_dims} integers; got {tuple(size)}."
            )

    def _fitted_guide(
        self, guide: Tensor | None, batch: int, size: tuple[int, ...], full: tuple[int, ...]
    ) -> Tensor:
        """The guide of an odd size, continued to s*H x s*W by its last row and column."""
        name = type(self).__name__
        if guide is None:
            raise ValueError(f"{name} is guided and needs guide=...")
        if tuple(guide.shape[2:]) != size:
            raise ValueError(
                f"{name} needs a guide at the output resolution {size}; "
                f"got one of {tuple(guide.shape[2:])}."
            )
        if tuple(guide.shape[:2]) != (batch, self.guide_channels):
            raise ValueError(
                f"{name} needs a guide of batch {batch} and {self.guide_channels} channels; got "
                f"{guide.shape[0]} and {guide.shape[1]}."
            )
        if size == full:
            return guide
        missing = [n for side, whole in zip(size, full, strict=True) for n in (whole - side, 0)]
        return F.pad(guide, missing[::-1], mode="replicate")

    def _shown_factor(self) -> str:
        return str(self.factors[0] if len(set(self.factors)) == 1 else self.factors)

    def extra_repr(self) -> str:
        """Channels and scale, as torch prints them."""
        dims = "" if self.spatial_dims == 2 else f", spatial_dims={self.spatial_dims}"
        shown = self._shown_factor()
        return f"{self.channels}, {self.out_channels}, scale_factor={shown}{dims}"


def _input_side(side: int, factor: float) -> int:
    """ceil(side / factor); 21 / 1.4 is 15.000000000000002 in floating point, and means 15."""
    return -(-side // factor) if isinstance(factor, int) else math.ceil(side / factor - 1e-9)


class GuidedUpsampler(Upsampler):
    """An upsampler that reads a guide at the output resolution.

    Args:
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.
        guide_channels: Channels C_guide of the guide; None means C, or 3 for an image.

    Raises:
        ValueError: If there is no guide (``guide_channels`` is 0), besides those of
            :class:`Upsampler`.
    """

    guided = True

    def __init__(
        self,
        channels: int,
        out_channels: int | None = None,
        *,
        scale_factor: int = 2,
        guide_channels: int | None = None,
    ):
        super().__init__(channels, out_channels, scale_factor=scale_factor)
        if guide_channels is None:
            guide_channels = 3 if self.guide_source == "image" else channels
        if guide_channels < 1:
            raise ValueError(
                f"{type(self).__name__} is guided, but there is no guide here "
                f"(guide_channels={guide_channels})."
            )
        self.guide_channels = guide_channels


class CatalogueError(UpnasError):
    """An upsampler is unknown or does not keep the contract."""
