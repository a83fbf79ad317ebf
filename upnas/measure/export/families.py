"""Which modules are the same but for the values of their weights."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

# Hooks, the mode and the like, which torch keeps with every module.
_SAME: Final = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", "_modules"}
_SCALARS: Final = (bool, int, float, complex, str, bytes, type(None), type, torch.dtype)


def family(module: nn.Module, *, without: tuple[type[nn.Module], ...] = ()) -> Hashable:
    """Return what a module is, but for the values of its tensors and its mode.

    Two modules whose families are equal run the same code over tensors of the same shapes: types,
    attributes, and shapes and dtypes of parameters and buffers are equal, also in all the modules
    inside. What they look up elsewhere, in globals or in functions made at run time, is not seen.

    Args:
        module: Is neither run nor changed.
        without: Types of modules inside that are left out, with all that is in them.
    """
    return _family(module, without, frozenset())


def _family(
    module: nn.Module, without: tuple[type[nn.Module], ...], around: frozenset[int]
) -> Hashable:
    around |= {id(module)}
    own = {key: value for key, value in vars(module).items() if key not in _SAME}
    children = own.pop("_modules").items()
    left_out = (*without, type(None))
    return (
        # Weight normalisation and its kind make a class per module.
        parametrize.type_before_parametrizations(module),
        _value(own, around),
        tuple(
            (name, _family(child, without, around))
            for name, child in children
            if not isinstance(child, left_out)
        ),
    )


def _value(value: Any, around: frozenset[int]) -> Hashable:
    """An attribute by what is in it, as far as that goes; else by how it is printed."""
    if isinstance(value, _SCALARS):
        return type(value), value  # True is not 1
    if isinstance(value, Tensor):
        return Tensor, tuple(value.shape), value.dtype
    if id(value) in around:
        return "around"
    around |= {id(value)}
    if isinstance(value, nn.Module):
        return _family(value, (), around)
    if isinstance(value, dict):
        # None is as good as absent: an optional module is an attribute while it is None.
        items = ((key, _value(item, around)) for key, item in value.items() if item is not None)
        return type(value), tuple(items)
    if isinstance(value, (list, tuple)):
        return type(value), tuple(_value(item, around) for item in value)
    if hasattr(value, "__dict__") and not callable(value):
        return type(value), _value(vars(value), around)
    return type(value), repr(value)  # the address, if need be: then no other is of this family
