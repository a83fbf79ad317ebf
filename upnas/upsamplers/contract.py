"""What is checked of an upsampler from outside this package before it is used.

The same promises that the tests of this package hold the catalogue to, on maps of a few pixels, so
that a mistake shows before a search starts and not in its tenth trial. Exporting and compiling take
seconds and are left out; the search measures exportability anyway.
"""

from __future__ import annotations

import inspect
import itertools
import typing
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NoReturn

import pydantic
import torch
from torch import Tensor

from upnas.records import Scalar
from upnas.upsamplers.base import CatalogueError, Upsampler

#: Divisible by what operators usually divide channels by: groups, and the s*s of a shuffle.
CHANNELS: Final = 36
#: Another number, as encoder skips have.
GUIDE_CHANNELS: Final = 20
SIZES: Final = ((1, 1), (5, 7))
#: Arguments that the place in the network decides, not the search space.
STRUCTURAL: Final = frozenset({"scale_factor", "spatial_dims", "guide_channels"})


def check_contract(kind: type[Upsampler]) -> None:
    """Build an upsampler with its defaults, run it on small maps and hold it to the contract.

    Checks the signature of ``__init__``, the types and defaults of the parameters, shapes and
    explicit sizes, that gradients reach the input and every parameter, that eval mode is
    deterministic and independent of the rest of the batch and of the memory format, that a state
    dict brings the same function back, and what the class promises of itself (``keeps_channels``,
    ``keeps_constants``, ``scales``). torch's random state is left alone.

    Args:
        kind: The class.

    Raises:
        CatalogueError: If it breaks the contract, saying how.
    """
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.default_generator.manual_seed(0)
        _check_signature(kind)
        _check_parameters(kind)
        for dims, scale in itertools.product(sorted(kind.dims), sorted(kind.scales or {2, 3})):
            upsampler = _build(kind, scale_factor=scale, spatial_dims=dims)
            for check in (_check_shapes, _check_macs, _check_gradients, _check_eval):
                check(upsampler)
            if not kind.keeps_channels:
                fewer = _build(kind, CHANNELS // 2, scale_factor=scale, spatial_dims=dims)
                _check_shapes(fewer)


def _check_signature(kind: type[Upsampler]) -> None:
    arguments = dict(inspect.signature(kind.__init__).parameters)
    arguments.pop("self", None)
    names = list(arguments)
    if names[:2] != ["channels", "out_channels"] or arguments["out_channels"].default is not None:
        _refuse(kind, "__init__ must begin with (self, channels, out_channels=None, *, ...)")
    if "scale_factor" not in names:
        _refuse(kind, "__init__ has no keyword-only scale_factor")
    if kind.guided and "guide_channels" not in names:
        _refuse(kind, "__init__ of a guided upsampler needs a keyword-only guide_channels=None")
    for name in names[2:]:
        argument = arguments[name]
        if argument.kind is argument.VAR_KEYWORD:
            _refuse(kind, f"**{name} cannot be searched: name every argument of __init__")
        if argument.kind is not argument.KEYWORD_ONLY:
            _refuse(kind, f"argument {name!r} of __init__ must be keyword-only, behind a *")
        if argument.default is argument.empty:
            _refuse(kind, f"argument {name!r} of __init__ needs a default")
        if name not in STRUCTURAL and argument.annotation is argument.empty:
            _refuse(kind, f"argument {name!r} of __init__ needs a type: the YAML is checked by it")


def _check_parameters(kind: type[Upsampler]) -> None:
    model = parameters_model_of(kind)
    defaults = {name: field.default for name, field in model.model_fields.items()}
    for name, default in defaults.items():
        what = f"the default {default!r} of argument {name!r} of __init__"
        items = default if isinstance(default, tuple) else (default,)
        if not all(isinstance(item, Scalar) for item in items):
            hint = "; use tuple[...]" if isinstance(default, list) else ""
            _refuse(kind, f"{what} must be a bool, a number, a str or a tuple of these{hint}")
        try:
            model.model_validate({name: default})
        except pydantic.ValidationError as error:
            mistake = error.errors()[0]
            hint = "; use tuple[...]" if mistake["type"] == "list_type" else ""
            _refuse(kind, f"{what} does not fit its type: {mistake['msg']}{hint}")


def parameters_model_of(kind: type[Upsampler]) -> type[pydantic.BaseModel]:
    """Return the pydantic model of the searchable parameters of a class.

    See :func:`~upnas.upsamplers.catalogue.parameters_model`.

    Raises:
        CatalogueError: If a YAML cannot be checked by the annotations.
    """
    config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True)
    with _blame(kind, "reading the types of its parameters"):
        annotations = typing.get_type_hints(kind.__init__, include_extras=True)
        fields: dict[str, Any] = {
            argument.name: (annotations[argument.name], argument.default)
            for argument in inspect.signature(kind.__init__).parameters.values()
            if argument.kind is argument.KEYWORD_ONLY and argument.name not in STRUCTURAL
        }
        try:
            model: type[pydantic.BaseModel] = pydantic.create_model(
                f"{kind.__name__}Parameters", __config__=config, **fields
            )
            model.model_json_schema()  # messages say from it what is allowed
        except (pydantic.PydanticSchemaGenerationError, pydantic.PydanticInvalidForJsonSchema):
            _refuse(kind, "the type of an argument of __init__ is none that a YAML can hold")
    for name in fields.keys() - model.model_fields.keys():
        _refuse(kind, f"argument {name!r} of __init__ cannot be searched; give it another name")
    return model


def _build(
    kind: type[Upsampler], out_channels: int | None = None, *, scale_factor: int, spatial_dims: int
) -> Upsampler:
    place: dict[str, Any] = {"scale_factor": scale_factor}
    if len(kind.dims) > 1:
        place["spatial_dims"] = spatial_dims
    if "guide_channels" in inspect.signature(kind.__init__).parameters:
        place["guide_channels"] = GUIDE_CHANNELS
    with _blame(kind, f"building it with {CHANNELS} channels, scale_factor={scale_factor}"):
        upsampler = kind(CHANNELS, out_channels, **place)
    if upsampler.guided and getattr(upsampler, "guide_channels", None) != GUIDE_CHANNELS:
        _refuse(kind, "guide_channels of __init__ does not become the attribute guide_channels")
    return upsampler


def _features(upsampler: Upsampler, height: int, width: int) -> Tensor:
    """Random input; volumes have 3 slices."""
    return torch.randn(2, CHANNELS, *(3,) * (upsampler.spatial_dims - 2), height, width)


def _check_shapes(upsampler: Upsampler) -> None:
    s = upsampler.scale_factor
    for height, width in SIZES:
        x = _features(upsampler, height, width)
        y = _run(upsampler, x)
        wanted = (2, upsampler.out_channels, *(s * side for side in x.shape[2:]))
        if tuple(y.shape) != wanted:
            _refuse(upsampler, f"{tuple(x.shape)} became {tuple(y.shape)}, not {wanted}")
        if y.dtype != x.dtype:
            _refuse(upsampler, f"a {x.dtype} input gave a {y.dtype} output")
    with _blame(upsampler, "an explicit odd size"):
        size = tuple(s * side - s + 1 for side in x.shape[2:])
        cropped = upsampler(x, size=size, guide=_guide(upsampler, x, size))
    if tuple(cropped.shape[2:]) != size:
        _refuse(upsampler, f"size={size} gave {tuple(cropped.shape[2:])}; do not override forward")


def _check_macs(upsampler: Upsampler) -> None:
    with _blame(upsampler, "macs_per_pixel()"):
        if upsampler.macs_per_pixel() < 0:
            _refuse(upsampler, "macs_per_pixel() is negative")


def _check_gradients(upsampler: Upsampler) -> None:
    _perturb(upsampler)
    upsampler.train()
    x = _features(upsampler, *SIZES[-1]).requires_grad_()
    for _ in range(32):  # many draws, for operators that choose at random
        y = _run(upsampler, x)
        if not y.requires_grad:
            _refuse(upsampler, "no gradient reaches the input")
        with _blame(upsampler, "its backward"):
            torch.autograd.backward((y * torch.randn_like(y)).sum())
    for name, tensor in [("the input", x), *upsampler.named_parameters()]:
        if tensor.grad is None or not tensor.grad.any():
            _refuse(upsampler, f"no gradient reaches {name}")
        if not torch.isfinite(tensor.grad).all():
            _refuse(upsampler, f"the gradient of {name} is not finite")


@torch.no_grad()
def _check_eval(upsampler: Upsampler) -> None:
    upsampler.eval()
    x = _features(upsampler, *SIZES[-1])
    guide = _guide(upsampler, x)
    y = _run(upsampler, x, guide)

    def expect(same: Tensor, what: str, tolerance: float = 1e-4) -> None:
        largest = max(1.0, float(y.abs().max()))
        if not torch.allclose(same.float(), y, rtol=0, atol=tolerance * largest):
            _refuse(upsampler, f"in eval mode {what}")

    expect(_run(upsampler, x, guide), "two runs on one input differ")
    first = _run(upsampler, x[:1], None if guide is None else guide[:1])
    expect(torch.cat([first, y[1:]]), "the output depends on the rest of the batch")
    layout = torch.channels_last if x.dim() == 4 else torch.channels_last_3d
    last = x.to(memory_format=layout)
    expect(_run(upsampler, last, guide), "a channels_last input gives another output")
    place = {"scale_factor": upsampler.scale_factor, "spatial_dims": upsampler.spatial_dims}
    other = _build(type(upsampler), **place).eval()
    with _blame(upsampler, "loading its own state_dict"):
        other.load_state_dict(upsampler.state_dict())
    expect(_run(other, x, guide), "a copy with the same state_dict gives another output")
    if upsampler.keeps_constants:
        corner = (slice(None), slice(None), *(slice(1) for _ in x.shape[2:]))
        y = _run(upsampler, x[corner].expand_as(x), guide)
        expect(y[corner].expand_as(y), "a constant does not stay constant (keeps_constants)")


def _run(upsampler: Upsampler, x: Tensor, guide: Tensor | None = None) -> Tensor:
    if guide is None:
        guide = _guide(upsampler, x)
    with _blame(upsampler, f"running it on {tuple(x.shape)}"):
        y: object = upsampler(x, guide=guide)
    if not isinstance(y, Tensor):
        _refuse(upsampler, f"upsample() returned {type(y).__name__}, not a Tensor")
    return y


def _guide(upsampler: Upsampler, x: Tensor, size: tuple[int, ...] | None = None) -> Tensor | None:
    if not upsampler.guided:
        return None
    return torch.randn(len(x), GUIDE_CHANNELS, *(size or upsampler.upsampled_size(x)))


@torch.no_grad()
def _perturb(upsampler: Upsampler) -> None:
    """Leave the zeros of the initial weights, behind which gradients vanish."""
    for parameter in upsampler.parameters():
        parameter.add_(torch.randn_like(parameter), alpha=0.1)


@contextmanager
def _blame(kind: type[Upsampler] | Upsampler, doing: str) -> Iterator[None]:
    try:
        yield
    except CatalogueError:
        raise
    except (Exception, SystemExit) as error:  # whatever a stranger's code raises
        _refuse(kind, f"{doing} raised {reason_of(error)}")


def reason_of(error: BaseException) -> str:
    """The class and the first line of an exception, without a full stop."""
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first}".rstrip(".: ")


def _refuse(kind: type[Upsampler] | Upsampler, reason: str) -> NoReturn:
    name = kind.__name__ if isinstance(kind, type) else type(kind).__name__
    raise CatalogueError(f"{name} breaks the contract: {reason}.")
