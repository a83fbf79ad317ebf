"""Networks: candidate -> ``nn.Module``.

A new decoder is one file with a subclass of :class:`~upnas.models.base.Decoder`, and one line in
:data:`DECODERS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from torch import Tensor, nn

from upnas.errors import SpaceError, suggest_name
from upnas.models.base import Decoder, StageInfo, build_upsampler_of
from upnas.models.super_resolution import SuperResolution
from upnas.models.unet import UNet
from upnas.records import Candidate, ModelSpec, TaskSignature

DECODERS: Final[Mapping[str, type[Decoder]]] = MappingProxyType(
    {"unet": UNet, "sr": SuperResolution}
)


def decoder_of(name: str) -> type[Decoder]:
    """Look a decoder up.

    Raises:
        SpaceError: If there is none of that name.
    """
    if name not in DECODERS:
        raise SpaceError(
            f"unknown decoder {name!r}.{suggest_name(name, DECODERS)} "
            f"Allowed: {', '.join(sorted(DECODERS))}."
        )
    return DECODERS[name]


def describe_stages(model: ModelSpec, task: TaskSignature) -> tuple[StageInfo, ...]:
    """The stages of a network, deepest first, without building it.

    Raises:
        SpaceError: If the network cannot be built.
    """
    return decoder_of(model.decoder).describe(model, task)


def build_model(
    candidate: Candidate, task: TaskSignature, *, seed: int = 0, load_pretrained: bool = True
) -> nn.Module:
    """Build a candidate's network; equal arguments give equal weights.

    Args:
        candidate: The architecture.
        task: Channels in and out, and the scale.
        seed: Of the initial weights. Parts that two candidates share get equal weights.
        load_pretrained: False leaves a pretrained encoder at random weights, where only shapes
            matter or a state dict is going to replace them.

    Raises:
        SpaceError: If the candidate cannot be built.
        CatalogueError: If an upsampler or a parameter is unknown.
        DataError: If pretrained weights cannot be fetched.
    """
    encoder = candidate.model.encoder
    pretrained = load_pretrained and encoder is not None and encoder.pretrained
    decoder = decoder_of(candidate.model.decoder)
    return decoder(candidate, task, seed=seed, pretrained=pretrained)


def rebuild_model(
    candidate: Candidate, task: TaskSignature, state_dict: Mapping[str, Tensor]
) -> nn.Module:
    """Build the network of a record and load its trained weights; returned in eval mode.

    Upsamplers that pick by resolution were trained as the arm that they are at the first target's
    input size: :func:`upnas.upsamplers.collapse` the network at that size to ship it.

    Raises:
        RuntimeError: If the weights are not those of this candidate.
    """
    model = build_model(candidate, task, load_pretrained=False)
    model.load_state_dict(state_dict)
    return model.eval()


__all__ = [
    "DECODERS",
    "Decoder",
    "StageInfo",
    "build_model",
    "build_upsampler_of",
    "decoder_of",
    "describe_stages",
    "rebuild_model",
]
