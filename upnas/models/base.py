"""What decoders share: their contract, the description of a stage, paired initial weights."""

from __future__ import annotations

import math
import zlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import nn

from upnas.errors import SpaceError
from upnas.records import Candidate, ModelSpec, Record, StageChoice, TaskSignature
from upnas.upsamplers import Bilinear, Upsampler, build_upsampler, find_upsampler


@dataclass(frozen=True, slots=True)
class StageInfo:
    """Shapes of one decoder stage. All upsamplers of a stage map ``channels`` to ``channels``.

    Attributes:
        label: Output stride before and after, e.g. "16->8"; for super-resolution "x1->x2".
        channels: Channels that enter and leave the upsampler.
        skip_channels: Channels of the encoder skip; 0 without one.
        out_channels: Channels that leave the stage.
        scale_factor: The upsampler's factor.
        scale_in: Feature side / network input side at the stage's entry (1/16 for stride 16).
        image_channels: Channels of the image that the decoder passes to guided upsamplers which
            want it, or have no skip; 0 where it passes none.
    """

    label: str
    channels: int
    skip_channels: int
    out_channels: int
    scale_factor: int
    scale_in: float
    image_channels: int = 0


class Decoder(nn.Module, ABC):
    """A family of networks whose stages are searched; an entry of ``DECODERS``.

    Initial weights are drawn inside :func:`seeded`, part by part.

    Args:
        candidate: The network and the upsampler of each stage, in the order of :meth:`describe`.
        task: Channels in and out, and the scale.
        seed: Of the initial weights.
        pretrained: Load the encoder's pretrained weights.

    Raises:
        SpaceError: If the candidate cannot be built.
    """

    #: The decoder's own settings, checked when a search space is read.
    Options: ClassVar[type[Record]]
    #: Whether ``model.encoder`` is required (True) or must be absent (False).
    needs_encoder: ClassVar[bool]

    @abstractmethod
    def __init__(self, candidate: Candidate, task: TaskSignature, *, seed: int, pretrained: bool):
        super().__init__()

    @staticmethod
    @abstractmethod
    def describe(model: ModelSpec, task: TaskSignature) -> tuple[StageInfo, ...]:
        """The stages of a network, deepest first.

        Raises:
            SpaceError: If the specification cannot be built.
        """


def build_upsampler_of(info: StageInfo, choice: StageChoice) -> Upsampler:
    """Build the upsampler that a stage chose.

    Raises:
        CatalogueError: If the upsampler or a parameter is unknown.
        ValueError: If the upsampler cannot work at this stage.
    """
    skip = find_upsampler(choice.upsampler).guide_source == "skip"
    parameters: dict[str, Any] = dict(choice.parameters)
    return build_upsampler(
        choice.upsampler,
        info.channels,
        scale_factor=info.scale_factor,
        guide_channels=(info.skip_channels if skip else 0) or info.image_channels,
        **parameters,
    )


def build_upsamplers(
    stages: Sequence[StageInfo], choices: Sequence[StageChoice], seed: int
) -> list[Upsampler]:
    """Build the upsampler of each stage, in order.

    Raises:
        SpaceError: If there is not one choice per stage.
        CatalogueError: If an upsampler or a parameter is unknown.
    """
    if len(choices) != len(stages):
        raise SpaceError(
            f"the network has {len(stages)} stages ({', '.join(info.label for info in stages)}), "
            f"but the candidate names {len(choices)} upsamplers. Name one per stage."
        )
    upsamplers = []
    for number, (info, choice) in enumerate(zip(stages, choices, strict=True), 1):
        with seeded(seed, f"upsampler{number}"):
            upsamplers.append(build_upsampler_of(info, choice))
    return upsamplers


def deferred_enlargement(upsamplers: Sequence[Upsampler], out_channels: int) -> Bilinear | None:
    """What makes up for deferred upsamplers at a decoder's output; None where there are none."""
    factor = math.prod(u.scale_factor for u in upsamplers if u.deferred)
    return Bilinear(out_channels, scale_factor=factor) if factor > 1 else None


@contextmanager
def seeded(seed: int, part: str) -> Iterator[None]:
    """Initialise one part of a network from its own random stream; torch's own is left alone.

    Two candidates with one seed then share the initial weights of every part that they have in
    common, however many random numbers their upsamplers draw: paired seeds need this.
    """
    with torch.random.fork_rng(devices=[]):
        # Networks are built on the CPU. torch.manual_seed would reseed every GPU as well, whose
        # generators are not restored.
        torch.default_generator.manual_seed(zlib.crc32(f"{seed}/{part}".encode()))
        yield
