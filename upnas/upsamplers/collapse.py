"""Replaces upsamplers that pick by resolution by the one that they pick."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from upnas.errors import UpnasError
from upnas.upsamplers.switched import Switched


def collapse(model: nn.Module, example: Tensor) -> nn.Module:
    """Return a copy of a network in which every adaptive upsampler and selector is its arm.

    The copy is what a network with a known input size should be measured, exported and shipped as:
    the unused arms and the gates are gone, the eval-mode output is unchanged.

    Args:
        model: The network; left as it is.
        example: An input of the size to collapse for, on the network's device.

    Returns:
        The collapsed copy, in the mode (training or eval) of ``model``.

    Raises:
        UpnasError: If the example does not reach one of them, or reaches it at several resolutions.
    """
    collapsed = copy.deepcopy(model)
    resolutions = record_resolutions(collapsed, example)
    arms: dict[Switched, nn.Module] = {}
    for name, module in _switched(collapsed).items():
        if name not in resolutions:
            raise UpnasError(
                f"Cannot collapse {_place(name, module)}: the example input does not reach it."
            )
        arms[module] = module.collapse(resolutions[name])
    if isinstance(collapsed, Switched):
        return arms[collapsed]
    # A module that is shared between several places has several names.
    for name, child in list(collapsed.named_modules(remove_duplicate=False)):
        if isinstance(child, Switched):
            collapsed.set_submodule(name, arms[child])
    return collapsed


def record_resolutions(model: nn.Module, example: Tensor) -> dict[str, tuple[int, int]]:
    """Return the (H, W) that each adaptive upsampler and selector sees, by qualified name.

    Runs the example through the network once, in eval mode and without gradients; the network is
    left as it was.

    Args:
        model: The network.
        example: An input of the size in question, on the network's device.

    Raises:
        UpnasError: If one of them sees several resolutions.
    """
    seen: dict[nn.Module, set[tuple[int, int]]] = defaultdict(set)

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: Tensor = args[0] if args else kwargs["x"]
        seen[module].add((x.shape[-2], x.shape[-1]))

    switched = _switched(model)
    hooks = [
        module.register_forward_pre_hook(note, with_kwargs=True) for module in switched.values()
    ]
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            model.eval()(example)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    for name, module in switched.items():
        if len(seen[module]) > 1:
            raise UpnasError(
                f"{_place(name, module)} sees several resolutions in one forward: "
                f"{sorted(seen[module])}. Give each place in the network its own."
            )
    return {name: next(iter(seen[module])) for name, module in switched.items() if seen[module]}


def pin(model: nn.Module, example: Tensor) -> None:
    """Make every upsampler that picks by resolution decide as it would for this example.

    See :meth:`Switched.pin`. The arguments are those of :func:`record_resolutions`.
    """
    switched = _switched(model)
    for name, resolution in record_resolutions(model, example).items():
        switched[name].pin(resolution)


def _switched(model: nn.Module) -> dict[str, Switched]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Switched)}


def _place(name: str, module: nn.Module) -> str:
    return f"{type(module).__name__} {name!r}" if name else type(module).__name__
