"""The catalogue: upsamplers by name, of this package, of installed packages and of single files.

A new upsampler is one file with a subclass of :class:`Upsampler` and one line in
:data:`UPSAMPLERS`. Other packages join through the entry-point group ``upnas.upsamplers``::

    [project.entry-points."upnas.upsamplers"]
    my_upsampler = "my_package:MyUpsampler"

and a class without an installed entry point is named by its place, ``my_package.module:Class`` or
``path/to/file.py:Class``. Whatever is not from this package must pass
:func:`~upnas.upsamplers.contract.check_contract` when it is first asked for.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, Final

import pydantic

from upnas.errors import suggest_name
from upnas.upsamplers.adaptive import Adaptive
from upnas.upsamplers.base import CatalogueError, GuidedUpsampler, ScaleFactor, Upsampler
from upnas.upsamplers.carafe import Carafe
from upnas.upsamplers.contract import check_contract, parameters_model_of, reason_of
from upnas.upsamplers.deferred import Deferred
from upnas.upsamplers.dlu import Dlu
from upnas.upsamplers.dupsampling import DUpsampling
from upnas.upsamplers.dysample import DySample
from upnas.upsamplers.fade import Fade, FadeLite
from upnas.upsamplers.fir import Fir
from upnas.upsamplers.freqfusion import FreqFusion
from upnas.upsamplers.hybrid import Hybrid
from upnas.upsamplers.indexnet import IndexNet
from upnas.upsamplers.interpolation import Bicubic, Bilinear, Nearest, NearestExact, Trilinear
from upnas.upsamplers.jbu import JointBilateral, JointBilateralImage
from upnas.upsamplers.max_unpool import MaxUnpool
from upnas.upsamplers.resfu import ResfuLike
from upnas.upsamplers.resize_conv import BilinearConv1x1, NearestConv, UNetBlock
from upnas.upsamplers.sapa import Sapa
from upnas.upsamplers.selector import Selector
from upnas.upsamplers.separable import Eucb, Separable
from upnas.upsamplers.subpixel import LightSubPixel, SubPixel
from upnas.upsamplers.transposed import Transposed

GROUP: Final = "upnas.upsamplers"

UPSAMPLERS: Final[Mapping[str, type[Upsampler]]] = MappingProxyType(
    {
        "adaptive": Adaptive,
        "bicubic": Bicubic,
        "bilinear": Bilinear,
        "bilinear_conv1x1": BilinearConv1x1,
        "carafe": Carafe,
        "deferred": Deferred,
        "dlu": Dlu,
        "dupsampling": DUpsampling,
        "dysample": DySample,
        "eucb": Eucb,
        "fade": Fade,
        "fade_lite": FadeLite,
        "fir": Fir,
        "freqfusion": FreqFusion,
        "hybrid": Hybrid,
        "indexnet": IndexNet,
        "jbu": JointBilateral,
        "jbu_image": JointBilateralImage,
        "light_subpixel": LightSubPixel,
        "max_unpool": MaxUnpool,
        "nearest": Nearest,
        "nearest_conv": NearestConv,
        "nearest_exact": NearestExact,
        "resfu_like": ResfuLike,
        "sapa": Sapa,
        "selector": Selector,
        "separable": Separable,
        "subpixel": SubPixel,
        "transposed": Transposed,
        "trilinear": Trilinear,
        "unet_block": UNetBlock,
    }
)


def upsampler_names() -> tuple[str, ...]:
    """Names of this package and of installed third parties, sorted; loads none of them.

    Raises:
        CatalogueError: If a third party takes a name that exists.
    """
    return tuple(sorted({*UPSAMPLERS, *_installed()}))


def find_upsampler(name: str) -> type[Upsampler]:
    """Return the class of a catalogue name or of a place.

    Args:
        name: A catalogue name, ``package.module:Class``, or ``path/to/file.py:Class`` relative to
            the working directory.

    Raises:
        CatalogueError: If the name is unknown, nothing can be loaded from it, or what it names
            does not keep the contract.
    """
    if name in UPSAMPLERS:
        return UPSAMPLERS[name]
    return _third_party(name)


@functools.cache
def _third_party(name: str) -> type[Upsampler]:
    installed = _installed()
    if name in installed:
        where = _describe(installed[name])
        try:
            found = installed[name].load()
        except (Exception, SystemExit) as error:  # whatever a stranger's module raises
            raise CatalogueError(f"{where}: {reason_of(error)}.") from error
    elif ":" in name:
        where = f"Upsampler {name!r}"
        found = _from_place(name, where)
    elif name.endswith(".py"):
        raise CatalogueError(f"Upsampler {name!r} is a file; write {name}:Class.")
    else:
        known = upsampler_names()
        raise CatalogueError(
            f"Unknown upsampler {name!r}.{suggest_name(name, known)} Available: "
            f"{', '.join(known)}; or a class by its place, package.module:Class or file.py:Class."
        )
    if not (isinstance(found, type) and issubclass(found, Upsampler)):
        raise CatalogueError(f"{where}: not a subclass of upnas.upsamplers.Upsampler.")
    try:
        check_contract(found)
    except CatalogueError as error:
        raise CatalogueError(f"{where}: {error}") from None
    return found


@functools.cache
def _installed() -> Mapping[str, EntryPoint]:
    """Entry points of third parties by name."""
    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=GROUP):
        if entry.name in UPSAMPLERS:
            owner = UPSAMPLERS[entry.name].__module__
        elif entry.name in found and found[entry.name].value != entry.value:
            owner = _describe(found[entry.name])
        else:
            found[entry.name] = entry
            continue
        raise CatalogueError(
            f"{_describe(entry)}: the name is taken by {owner}. Rename the entry, or uninstall "
            f"one of the two."
        )
    return MappingProxyType(found)


def _describe(entry: EntryPoint) -> str:
    owner = f" of package {entry.dist.name!r}" if entry.dist is not None else ""
    return f"Entry point {entry.name!r} = {entry.value!r}{owner} (group {GROUP!r})"


def _from_place(place: str, where: str) -> object:
    module_name, _, class_name = place.rpartition(":")
    try:
        if module_name.endswith(".py"):
            module = _load_file(Path(module_name).resolve(strict=True))
        else:
            module = importlib.import_module(module_name)
    except FileNotFoundError:
        raise CatalogueError(f"{where}: there is no file {module_name}.") from None
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        raise CatalogueError(f"{where}: {reason_of(error)}.") from error
    if not hasattr(module, class_name):
        kinds = [name for name, value in vars(module).items() if _is_operator(value)]
        raise CatalogueError(
            f"{where}: {module_name} has no {class_name!r}.{suggest_name(class_name, kinds)} "
            f"Its upsamplers: {', '.join(kinds) or 'none'}."
        )
    found: object = getattr(module, class_name)
    return found


def _is_operator(value: object) -> bool:
    is_upsampler = isinstance(value, type) and issubclass(value, Upsampler)
    return is_upsampler and value not in (Upsampler, GuidedUpsampler)


def _load_file(path: Path) -> ModuleType:
    # A name of its own per path: pickling and inspect look a class's module up in sys.modules.
    name = f"upnas_file_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # it has a loader for every .py
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def build_upsampler(
    name: str,
    channels: int,
    out_channels: int | None = None,
    *,
    scale_factor: ScaleFactor = 2,
    spatial_dims: int = 2,
    guide_channels: int | None = None,
    **parameters: Any,
) -> Upsampler:
    """Build an upsampler by its catalogue name or place.

    Args:
        name: See :func:`find_upsampler`.
        channels: Channels C of the input.
        out_channels: Channels C_out of the output; None means C.
        scale_factor: Upsampling factor s.
        spatial_dims: 2 for (B, C, H, W), 3 for (B, C, D, H, W).
        guide_channels: Channels of the guide, for operators that read one; None means C, or 3 for
            an image; 0 means that there is none.
        parameters: The upsampler's own parameters, checked by :func:`parameters_model`.

    Raises:
        CatalogueError: If the name, a parameter or its value is unknown, or the code of a third
            party raises anything but a ValueError.
        ValueError: If the upsampler cannot do what is asked of it.
    """
    kind = find_upsampler(name)
    model = parameters_model(name)
    try:
        checked = model(**parameters)
    except pydantic.ValidationError as error:
        raise CatalogueError(f"Upsampler {name!r}: {_explain(error, model)}") from None
    if spatial_dims not in kind.dims:
        raise ValueError(f"{kind.__name__} is not defined for {spatial_dims}-D features.")
    arguments: dict[str, Any] = {"scale_factor": scale_factor, **dict(checked)}
    if len(kind.dims) > 1:
        arguments["spatial_dims"] = spatial_dims
    if "guide_channels" in inspect.signature(kind.__init__).parameters:
        arguments["guide_channels"] = guide_channels
    try:
        return kind(channels, out_channels, **arguments)
    except (ValueError, CatalogueError):
        raise
    except (Exception, SystemExit) as error:  # whatever a stranger's class raises
        if name in UPSAMPLERS:
            raise
        raise CatalogueError(f"building {name!r} raised {reason_of(error)}.") from error


@functools.cache
def parameters_model(name: str) -> type[pydantic.BaseModel]:
    """Return the pydantic model of an upsampler's searchable parameters.

    Its fields are the keyword-only arguments of the class's ``__init__`` other than those that
    the place in the network decides, with their annotations and defaults. It refuses unknown fields
    and does not convert: "4" is not 4 (a list is a tuple, as YAML knows no tuples).

    Raises:
        CatalogueError: If the name is unknown.
    """
    return parameters_model_of(find_upsampler(name))


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
