"""The sections of the YAML, each validated on its own so that all mistakes come at once."""

from __future__ import annotations

from functools import cache
from typing import Any

from pydantic import ValidationError, create_model

from upnas.errors import SpaceError
from upnas.models import DECODERS, StageInfo, describe_stages
from upnas.models.encoder import encoder_info
from upnas.records import EncoderSpec, ModelSpec, TaskSignature
from upnas.space.messages import mistakes_of, unknown
from upnas.space.schema import ModelConfig, Section, SpaceConfig
from upnas.space.source import Mistake, Source


def parse_sections(source: Source) -> tuple[dict[str, Any], list[Mistake]]:
    """Validate each top-level key.

    Returns:
        The sections that are right, defaults included, and the mistakes of the others.
    """
    fields = SpaceConfig.model_fields
    mistakes = [
        Mistake((key,), unknown("key", key, fields), at_key=True)
        for key in source.data
        if key not in fields
    ]
    sections: dict[str, Any] = {}
    for name, field in fields.items():
        if name not in source.data and field.is_required():
            mistakes.append(Mistake((name,), f"missing. {field.description}"))
            continue
        data = {name: source.data[name]} if name in source.data else {}
        model = _section_model(name)
        try:
            sections[name] = getattr(model.model_validate(data, strict=True), name)
        except ValidationError as error:
            mistakes += mistakes_of(error, model, data)
    return sections, mistakes


@cache
def _section_model(name: str) -> type[Section]:
    """A model of one key of :class:`SpaceConfig`, with its default and bounds."""
    field = SpaceConfig.model_fields[name]
    fields: dict[str, Any] = {name: (field.annotation, field)}
    return create_model(f"{name}_section", __base__=Section, **fields)


def resolve_model(
    config: ModelConfig, task: TaskSignature
) -> tuple[ModelSpec | None, tuple[StageInfo, ...] | None, list[Mistake]]:
    """Check the decoder's own settings and ask it for its stages."""
    if config.decoder not in DECODERS:
        text = unknown("decoder", config.decoder, sorted(DECODERS))
        return None, None, [Mistake(("model", "decoder"), text)]
    extra = config.__pydantic_extra__ or {}
    kind = DECODERS[config.decoder].Options
    try:
        options = kind.model_validate(extra, strict=True)
    except ValidationError as error:
        return None, None, _option_mistakes(error, kind, extra)
    spec = ModelSpec(
        decoder=config.decoder,
        encoder=config.encoder,
        options=options.model_dump(exclude_none=True),
    )
    wrong = _encoder_mistakes(spec) if DECODERS[config.decoder].needs_encoder else []
    if wrong:
        return None, None, wrong
    try:
        return spec, describe_stages(spec, task), []
    except SpaceError as error:
        return None, None, [Mistake(("model",), str(error), at_key=True)]


def _option_mistakes(error: ValidationError, kind: Any, extra: dict[str, Any]) -> list[Mistake]:
    """As elsewhere, but what is allowed beside the options are the keys of `model` itself."""
    mistakes = []
    for mistake in mistakes_of(error, kind, extra, ("model",)):
        if mistake.at_key:
            known = [*ModelConfig.model_fields, *kind.model_fields]
            mistake = Mistake(mistake.path, unknown("key", mistake.path[-1], known), at_key=True)
        mistakes.append(mistake)
    return mistakes


def _encoder_mistakes(spec: ModelSpec) -> list[Mistake]:
    encoder = spec.encoder
    if encoder is None:
        return []  # the decoder's own message says which encoder to write
    try:
        encoder_info(encoder)
    except SpaceError as error:
        shallow = encoder.model_copy(update={"depth": 1})
        return [Mistake(("model", "encoder", _culprit(shallow)), str(error))]
    return []


def _culprit(shallow: EncoderSpec) -> str:
    """The key that is wrong: the name, unless the encoder works at its shallowest."""
    try:
        encoder_info(shallow)
    except SpaceError:
        return "name"
    return "depth"
