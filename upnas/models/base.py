"""What decoders share: the description of a stage, the catalogue entry, paired initial weights."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from upnas.records import Candidate, ModelSpec, Record, TaskSignature


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
    """

    label: str
    channels: int
    skip_channels: int
    out_channels: int
    scale_factor: int
    scale_in: float


class Decoder(Protocol):
    """A family of networks whose stages are searched; an entry of ``DECODERS``."""

    #: The decoder's own settings, checked when a search space is read.
    Options: type[Record]
    #: Whether ``model.encoder`` is required (True) or must be absent (False).
    needs_encoder: bool

    @staticmethod
    def describe(model: ModelSpec, task: TaskSignature) -> tuple[StageInfo, ...]:
        """The stages of a network, deepest first.

        Raises:
            SpaceError: If the specification cannot be built.
        """

    def __call__(
        self, candidate: Candidate, task: TaskSignature, *, seed: int, pretrained: bool
    ) -> nn.Module:
        """Build the network."""


@contextmanager
def seeded(seed: int, part: str) -> Iterator[None]:
    """Initialise one part of a network from its own random stream.

    Two candidates with one seed then share the initial weights of every part that they have in
    common, however many random numbers their upsamplers draw: paired seeds need this.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(f"{seed}/{part}".encode()))
        yield
