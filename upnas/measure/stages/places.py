"""Where a network's upsamplers are, and what they are given there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from upnas.errors import SpaceError
from upnas.measure.runtimes import random_input
from upnas.models import StageInfo
from upnas.upsamplers import Upsampler


@dataclass(frozen=True, slots=True)
class Place:
    """Where one stage's upsampler is.

    Attributes:
        name: Qualified name in the network.
        shape: (C, H, W) of its input.
        size: (height, width) that the decoder wants; None where it takes what comes.
    """

    name: str
    shape: tuple[int, int, int]
    size: tuple[int, int] | None

    @property
    def side(self) -> tuple[int, int]:
        """(H, W) of the input."""
        return self.shape[1:]


def find_places(
    network: nn.Module, stages: Sequence[StageInfo], input: tuple[int, int, int]
) -> tuple[Place, ...]:
    """Run a network once and note what its upsamplers are given, in order.

    Args:
        network: In eval mode, on the CPU; none of its upsamplers is deferred.
        stages: What its decoder says about itself.
        input: Channels, height and width of the input.

    Raises:
        SpaceError: If the decoder does not run one upsampler per stage, once and in order.
    """
    names = _outermost(network)
    places: list[Place] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x: Tensor = args[0] if args else kwargs["x"]
        size = args[1] if len(args) > 1 else kwargs.get("size")
        shape = (x.shape[1], x.shape[2], x.shape[3])
        places.append(Place(names[module], shape, None if size is None else (size[0], size[1])))

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in names]
    try:
        with torch.inference_mode():
            network(random_input((1, *input)))
    finally:
        for hook in hooks:
            hook.remove()
    if [place.shape[0] for place in places] != [info.channels for info in stages]:
        raise SpaceError(
            f"{type(network).__name__} cannot be costed stage by stage: it describes {len(stages)} "
            f"stages, and runs {len(places)} upsamplers ({', '.join(p.name for p in places)}). "
            "A decoder runs the upsampler of each stage once, in the order of describe()."
        )
    return tuple(places)


def _outermost(network: nn.Module) -> dict[nn.Module, str]:
    """The upsamplers that are no part of another one."""
    found: dict[nn.Module, str] = {}
    for name, module in network.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found.values())
        if isinstance(module, Upsampler) and not inside:
            found[module] = name
    return found


class OfOneInput(nn.Module):
    """An upsampler as a module of one input: with a guide of its own, if it needs one, and size.

    The guide depends on the input: compilers of exported programs work out beforehand what depends
    on constants alone, which was up to 99 % of a guided upsampler.

    Args:
        upsampler: Shared, not copied.
        shape: (B, C, H, W) of the inputs to come.
        size: Wanted (height, width); None takes s*H, s*W.
    """

    guide: Tensor | None

    def __init__(
        self, upsampler: Upsampler, shape: Sequence[int], size: tuple[int, int] | None = None
    ):
        super().__init__()
        self.upsampler = upsampler
        self.size = size
        guide = None
        if upsampler.guided:
            sides = size or tuple(side * upsampler.scale_factor for side in shape[2:])
            guide = random_input((shape[0], upsampler.guide_channels, *sides))
        self.register_buffer("guide", guide)

    @override
    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> (B, C_out, s*H, s*W), or (B, C_out, *size)."""
        guide = None if self.guide is None else self.guide + x[0, 0, 0, 0]
        y: Tensor = self.upsampler(x, size=self.size, guide=guide)
        return y
