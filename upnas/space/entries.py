"""One entry of `stages:` in the YAML: names and values checked against the upsamplers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from upnas.records import Value
from upnas.space.messages import mistakes_of, show_value, unknown
from upnas.space.schema import StageConfig, StageKey
from upnas.space.source import Mistake, YamlPath
from upnas.upsamplers import (
    CatalogueError,
    find_upsampler,
    parameters_model,
    upsampler_names,
)


@dataclass
class Entry:
    """One entry of `stages`.

    Attributes:
        names: Its upsamplers with the place of each.
        parameters: Upsampler -> parameter -> allowed values, as far as the entry says.
    """

    names: dict[str, YamlPath] = field(default_factory=dict)
    parameters: dict[str, dict[str, tuple[Value, ...]]] = field(default_factory=dict)


def read_entry(key: StageKey, config: StageConfig, mistakes: list[Mistake], folder: Path) -> Entry:
    """Check one entry and add what is wrong to ``mistakes``.

    Args:
        key: Of the entry.
        config: The entry.
        mistakes: Appended to.
        folder: Where relative paths of ``file.py:Class`` begin: the YAML's own folder.
    """
    entry = Entry()
    path: YamlPath = ("stages", key, "upsampler")
    written = config.upsampler
    if written == ():
        text = f"an empty choice. Allowed: one or more of {', '.join(upsampler_names())}."
        mistakes.append(Mistake(path, text))
    places = [(written, path)] if isinstance(written, str) else _indexed(written or (), path)
    for name, place in places:
        name = _absolute(name, folder)
        wrong = _unusable(name)
        if wrong is not None:
            mistakes.append(Mistake(place, wrong))
        elif name in entry.names:
            mistakes.append(Mistake(place, f"{name!r} is listed twice; keep one of the two."))
        entry.names[name] = place
    for written_name, parameters in (config.__pydantic_extra__ or {}).items():
        place = ("stages", key, written_name)
        name = _absolute(written_name, folder)
        wrong = _unusable(name)
        if wrong is not None:
            known = ["upsampler", *upsampler_names()]
            text = wrong if _is_place(name) else unknown("key", written_name, known)
            mistakes.append(Mistake(place, text, at_key=True))
            continue
        entry.parameters[name] = {
            parameter: _values(name, parameter, _all_absolute(value, folder), place, mistakes)
            for parameter, value in parameters.items()
        }
    return entry


def _absolute(name: str, folder: Path) -> str:
    """``file.py:Class`` with the whole path, which workers find from wherever they run."""
    file, colon, kind = str(name).rpartition(":")
    return f"{(folder / file).resolve()}:{kind}" if colon and file.endswith(".py") else name


def _all_absolute(value: object, folder: Path) -> object:
    """The same for the arms of a selector, and whatever else lists upsamplers."""
    if not isinstance(value, tuple):
        return value
    return tuple(
        _absolute(item, folder) if isinstance(item, str) else _all_absolute(item, folder)
        for item in value
    )


def _is_place(name: str) -> bool:
    return ":" in str(name) or str(name).endswith(".py")


def _unusable(name: str) -> str | None:
    """Why a name gives no upsampler; None where it does."""
    if not _is_place(name) and name not in upsampler_names():
        return unknown("upsampler", name, upsampler_names())
    try:
        find_upsampler(name)
    except CatalogueError as error:
        return str(error)
    return None


def _indexed(names: Sequence[str], path: YamlPath) -> list[tuple[str, YamlPath]]:
    return [(name, (*path, index)) for index, name in enumerate(names)]


def _values(
    upsampler: str, parameter: str, raw: object, place: YamlPath, mistakes: list[Mistake]
) -> tuple[Value, ...]:
    """Read a parameter's choice: a list of values, or a single value (which may be a list)."""
    path = (*place, parameter)
    if parameter not in parameters_model(upsampler).model_fields:
        known = parameters_model(upsampler).model_fields
        text = unknown(f"parameter of {upsampler}", parameter, known)
        mistakes.append(Mistake(path, text, at_key=True))
        return ()
    if raw == ():
        mistakes.append(Mistake(path, "an empty choice. Write one or more values."))
        return ()
    single, wrong = _value(upsampler, parameter, raw, place)
    if not wrong:
        return (single,)
    is_choice = isinstance(raw, tuple) and (
        not isinstance(default_parameters(upsampler)[parameter][0], tuple)
        or any(isinstance(item, tuple) for item in raw)
    )
    if not is_choice:
        mistakes += wrong
        return ()
    assert isinstance(raw, tuple)
    values: list[Value] = []
    for index, item in enumerate(raw):
        value, wrong = _value(upsampler, parameter, item, place)
        mistakes += [
            Mistake((*path, index, *mistake.path[len(path) :]), mistake.text) for mistake in wrong
        ]
        if not wrong and value in values:
            text = f"{show_value(value)} is listed twice; keep one of the two."
            mistakes.append(Mistake((*path, index), text))
        if not wrong:
            values.append(value)
    return tuple(values)


def _value(
    upsampler: str, parameter: str, raw: object, place: YamlPath
) -> tuple[Value, list[Mistake]]:
    model = parameters_model(upsampler)
    try:
        value: Value = getattr(model.model_validate({parameter: raw}), parameter)
    except ValidationError as error:
        return False, mistakes_of(error, model, {parameter: raw}, place)
    return value, []


def default_parameters(upsampler: str) -> dict[str, tuple[Value, ...]]:
    """Every parameter of an upsampler with its default as the only value."""
    defaults = parameters_model(upsampler)().model_dump()
    return {parameter: (value,) for parameter, value in defaults.items()}
