"""Small candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from upnas.records import Candidate, EncoderSpec, ModelSpec, StageChoice, TaskSignature

SEGMENTATION = TaskSignature(name="segmentation", in_channels=3, out_channels=1)
SMALL_ENCODER = EncoderSpec(name="mobilenetv3_small_050", depth=2)


def choices(names: Sequence[str | tuple[str, dict[str, Any]]]) -> tuple[StageChoice, ...]:
    pairs = [(name, {}) if isinstance(name, str) else name for name in names]
    return tuple(StageChoice(upsampler=name, parameters=parameters) for name, parameters in pairs)


def unet(
    *stages: str | tuple[str, dict[str, Any]],
    encoder: EncoderSpec = SMALL_ENCODER,
    **options: Any,
) -> Candidate:
    model = ModelSpec(decoder="unet", encoder=encoder, options=options)
    return Candidate(model=model, stages=choices(stages))


def sr(*stages: str | tuple[str, dict[str, Any]]) -> Candidate:
    options: Any = {"channels": 4, "num_blocks": 1}
    return Candidate(model=ModelSpec(decoder="sr", options=options), stages=choices(stages))


def sr_signature(scale: int) -> TaskSignature:
    return TaskSignature(name="super_resolution", in_channels=3, out_channels=3, scale_factor=scale)
