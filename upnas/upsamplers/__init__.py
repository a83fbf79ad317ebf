"""The catalogue of upsamplers.

A new upsampler is one file with a subclass of :class:`Upsampler` and one line in
:data:`UPSAMPLERS`. Other packages join through the entry-point group ``upnas.upsamplers``::

    [project.entry-points."upnas.upsamplers"]
    my_upsampler = "my_package:MyUpsampler"
"""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Mapping
from importlib.metadata import entry_points
from types import MappingProxyType
from typing import Any, Final

import pydantic

from upnas.errors import suggest_name
from upnas.upsamplers.adaptive import Adaptive
from upnas.upsamplers.base import CatalogueError, Upsampler
from upnas.upsamplers.carafe import Carafe
from upnas.upsamplers.collapse import collapse, pin, record_resolutions
from upnas.upsamplers.dysample import DySample
from upnas.upsamplers.hybrid import Hybrid
from upnas.upsamplers.interpolation import Bicubic, Bilinear, Nearest
from upnas.upsamplers.projected import Projected
from upnas.upsamplers.reassembly import reassemble
from upnas.upsamplers.resize_conv import BilinearConv1x1, NearestConv, UNetBlock
from upnas.upsamplers.selector import Selector, selectors
from upnas.upsamplers.separable import Separable
from upnas.upsamplers.subpixel import LightSubPixel, SubPixel
from upnas.upsamplers.switched import Switched
from upnas.upsamplers.transposed import Transposed

__all__ = [
    "UPSAMPLERS",
    "Adaptive",
    "Bicubic",
    "Bilinear",
    "BilinearConv1x1",
    "Carafe",
    "CatalogueError",
    "DySample",
    "Hybrid",
    "LightSubPixel",
    "Nearest",
    "NearestConv",
    "Projected",
    "Selector",
    "Separable",
    "SubPixel",
    "Switched",
    "Transposed",
    "UNetBlock",
    "Upsampler",
    "build_upsampler",
    "catalogue",
    "collapse",
    "find_upsampler",
    "parameters_model",
    "pin",
    "reassemble",
    "record_resolutions",
    "selectors",
]

UPSAMPLERS: Final[Mapping[str, type[Upsampler]]] = MappingProxyType(
    {
        "adaptive": Adaptive,
        "bicubic": Bicubic,
        "bilinear": Bilinear,
        "bilinear_conv1x1": BilinearConv1x1,
        "carafe": Carafe,
        "dysample": DySample,
        "hybrid": Hybrid,
        "light_subpixel": LightSubPixel,
        "nearest": Nearest,
        "nearest_conv": NearestConv,
        "selector": Selector,
        "separable": Separable,
        "subpixel": SubPixel,
        "transposed": Transposed,
        "unet_block": UNetBlock,
    }
)


@functools.cache
def catalogue() -> Mapping[str, type[Upsampler]]:
    """Return the upsamplers of this package and of installed third parties, by name.

    Raises:
        CatalogueError: If a third party takes a name that exists or gives no upsampler.
    """
    found = dict(UPSAMPLERS)
    for entry in entry_points(group="upnas.upsamplers"):
        where = f"Entry point {entry.name!r} = {entry.value!r} of group 'upnas.upsamplers'"
        if entry.name in found:
            raise CatalogueError(
                f"{where}: the name is taken by {found[entry.name].__module__}. Rename the entry."
            )
        kind = entry.load()
        if not (isinstance(kind, type) and issubclass(kind, Upsampler)):
            raise CatalogueError(f"{where}: not a subclass of upnas.upsamplers.Upsampler.")
        found[entry.name] = kind
    return MappingProxyType(found)


def find_upsampler(name: str) -> type[Upsampler]:
    """Return the class of a catalogue name.

    Raises:
        CatalogueError: If the name is unknown.
    """
    known = catalogue()
    if name not in known:
        raise CatalogueError(
            f"Unknown upsampler {name!r}.{suggest_name(name, known)} "
            f"Available: {', '.join(sorted(known))}."
        )
    return known[name]


def build_upsampler(
    name: str,
    channels: int,
    out_channels: int | None = None,
    *,
    scale_factor: int = 2,
    **parameters: Any,
) -> Upsampler:
    """Build an upsampler by its catalogue name.

    Args:
        name: Catalogue name.
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Integer upsampling factor s.
        parameters: The upsampler's own parameters, checked by :func:`parameters_model`.

    Raises:
        CatalogueError: If the name, a parameter or its value is unknown.
        ValueError: If the upsampler cannot do what is asked of it.
    """
    kind = find_upsampler(name)
    model = parameters_model(name)
    try:
        checked = model(**parameters)
    except pydantic.ValidationError as error:
        raise CatalogueError(f"Upsampler {name!r}: {_explain(error, model)}") from None
    return kind(channels, out_channels, scale_factor=scale_factor, **dict(checked))


@functools.cache
def parameters_model(name: str) -> type[pydantic.BaseModel]:
    """Return the pydantic model of an upsampler's searchable parameters.

    Its fields are the keyword-only arguments of the class's ``__init__`` other than
    ``scale_factor``, with their annotations and defaults. It refuses unknown fields and does not
    convert: "4" is not 4 (a list is a tuple, as YAML knows no tuples).

    Raises:
        CatalogueError: If the name is unknown.
    """
    kind = find_upsampler(name)
    annotations = typing.get_type_hints(kind.__init__, include_extras=True)
    fields: dict[str, Any] = {
        argument.name: (annotations[argument.name], argument.default)
        for argument in inspect.signature(kind.__init__).parameters.values()
        if argument.kind is argument.KEYWORD_ONLY and argument.name != "scale_factor"
    }
    config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)
    model: type[pydantic.BaseModel] = pydantic.create_model(
        f"{kind.__name__}Parameters", __config__=config, **fields
    )
    return model


def _explain(error: pydantic.ValidationError, model: type[pydantic.BaseModel]) -> str:
    """One sentence per mistake: parameter, value, what is allowed."""
    sentences = []
    for mistake in error.errors():
        parameter = str(mistake["loc"][0])
        if mistake["type"] == "extra_forbidden":
            known = ", ".join(model.model_fields) or "none"
            hint = suggest_name(parameter, model.model_fields)
            sentences.append(f"unknown parameter {parameter!r}.{hint} Allowed: {known}.")
        else:
            sentences.append(f"{parameter}={mistake['input']!r}: {mistake['msg']}.")
    return " ".join(sentences)
