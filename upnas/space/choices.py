"""`stages:` of the YAML -> what each decoder stage chooses from."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from upnas.models import StageInfo, build_upsampler_of
from upnas.records import StageChoice, Value
from upnas.space.entries import Entry, default_parameters, read_entry
from upnas.space.schema import StageConfig, StageKey
from upnas.space.source import Mistake, YamlPath
from upnas.upsamplers import CatalogueError

ParameterValues = Mapping[str, tuple[Value, ...]]


@dataclass(frozen=True)
class UpsamplerChoice:
    """One upsampler that a stage may choose.

    Attributes:
        name: Of the catalogue.
        parameters: Every parameter of the upsampler with its allowed values, in the upsampler's
            order; a single value where the YAML gives no choice.
    """

    name: str
    parameters: ParameterValues

    def options(self) -> Iterator[StageChoice]:
        """Every combination of parameter values."""
        for values in itertools.product(*self.parameters.values()):
            parameters = dict(zip(self.parameters, values, strict=True))
            yield StageChoice(upsampler=self.name, parameters=parameters)


@dataclass(frozen=True)
class Stage:
    """One decoder stage and what it chooses from.

    Attributes:
        number: 1 = deepest.
        info: Its shapes.
        choices: The allowed upsamplers, in the order of the YAML.
    """

    number: int
    info: StageInfo
    choices: tuple[UpsamplerChoice, ...]

    @cached_property
    def options(self) -> tuple[StageChoice, ...]:
        """Every distinct upsampler with parameters, in canonical order."""
        options = (option for choice in self.choices for option in choice.options())
        return tuple(dict.fromkeys(options))


def default_choice(upsampler: str) -> StageChoice:
    """An upsampler with its own defaults."""
    return next(UpsamplerChoice(upsampler, default_parameters(upsampler)).options())


def resolve_stages(
    config: Mapping[StageKey, StageConfig], infos: Sequence[StageInfo] | None, folder: Path
) -> tuple[tuple[Stage, ...], list[Mistake]]:
    """Fill every stage from its own entry and from `default`.

    What a stage's entry does not say comes from `default`: the list of upsamplers, and each
    parameter of an upsampler that the stage may choose.

    Args:
        config: `stages` of the YAML.
        infos: The decoder's stages; None where the model is wrong, then names and values are
            checked alone.
        folder: Where relative paths in upsamplers' names begin.

    Returns:
        The stages, empty where there are mistakes, and the mistakes.
    """
    mistakes: list[Mistake] = []
    entries = {key: read_entry(key, entry, mistakes, folder) for key, entry in config.items()}
    if not mistakes:
        mistakes += _unused_parameters(entries)
    if infos is None:
        return (), mistakes
    mistakes += _stages_out_of_range(entries, infos) or ([] if mistakes else _bare(entries, infos))
    if mistakes:
        return (), mistakes
    stages = tuple(_stage(number, info, entries) for number, info in enumerate(infos, start=1))
    mistakes = _refusals(stages, entries)
    return ((), mistakes) if mistakes else (stages, [])


def _unused_parameters(entries: Mapping[StageKey, Entry]) -> list[Mistake]:
    """Parameters of an upsampler that no stage reading the entry may choose."""
    default = entries.get("default", Entry())
    anywhere = {name for entry in entries.values() for name in entry.names}
    mistakes = []
    for key, entry in entries.items():
        chosen = anywhere if key == "default" else set(entry.names or default.names)
        for name in entry.parameters:
            if name not in chosen:
                text = (
                    f"parameters of {name!r}, which this stage cannot choose. Allowed: parameters "
                    f"of {', '.join(sorted(chosen))}. Add {name!r} to upsampler, or remove them."
                )
                mistakes.append(Mistake(("stages", key, name), text, at_key=True))
    return mistakes


def _stages_out_of_range(
    entries: Mapping[StageKey, Entry], infos: Sequence[StageInfo]
) -> list[Mistake]:
    count = len(infos)
    labels = ", ".join(f"{number} ({info.label})" for number, info in enumerate(infos, start=1))
    return [
        Mistake(
            ("stages", key),
            f"there is no stage {key}: this model has {count} "
            f"stage{'s' if count > 1 else ''}, deepest first. Allowed: default, {labels}.",
            at_key=True,
        )
        for key in entries
        if key != "default" and key > count
    ]


def _bare(entries: Mapping[StageKey, Entry], infos: Sequence[StageInfo]) -> list[Mistake]:
    """Stages that nothing names an upsampler for."""
    count = len(infos)
    bare = [str(number) for number in range(1, count + 1) if not _names(entries, number)]
    if not bare:
        return []
    text = (
        f"no upsampler for stage {', '.join(bare)}; this model has {count} stages. "
        f"Add the missing entries, or `default: {{upsampler: [...]}}`."
    )
    return [Mistake(("stages",), text, at_key=True)]


def _keys(number: int) -> tuple[StageKey, StageKey]:
    return "default", number


def _names(entries: Mapping[StageKey, Entry], number: int) -> dict[str, YamlPath]:
    own = entries.get(number, Entry()).names
    return own or entries.get("default", Entry()).names


def _stage(number: int, info: StageInfo, entries: Mapping[StageKey, Entry]) -> Stage:
    choices = []
    for name in _names(entries, number):
        parameters = default_parameters(name)
        for key in _keys(number):
            parameters |= entries.get(key, Entry()).parameters.get(name, {})
        choices.append(UpsamplerChoice(name, parameters))
    return Stage(number, info, tuple(choices))


def _refusals(stages: Sequence[Stage], entries: Mapping[StageKey, Entry]) -> list[Mistake]:
    """Upsamplers that cannot be built; one mistake per reason, naming the stages."""
    found: dict[tuple[YamlPath, str, str], list[str]] = {}
    for stage in stages:
        info = stage.info
        for choice in stage.choices:
            reason = _refusal(choice, info)
            if reason is not None:
                place = _names(entries, stage.number)[choice.name]
                where = f"{stage.number} ({info.label}, {info.channels} channels)"
                found.setdefault((place, choice.name, reason), []).append(where)
    return [
        Mistake(
            place,
            f"{name!r} cannot work at stage {', '.join(where)}: {reason} "
            f"Give the stage its own list without it, or other parameters.",
        )
        for (place, name, reason), where in found.items()
    ]


def _refusal(choice: UpsamplerChoice, info: StageInfo) -> str | None:
    """Why an upsampler cannot be built with the stage's shapes; None where it can."""
    with torch.device("meta"):  # shapes alone: no weights are allocated
        for option in choice.options():
            try:
                build_upsampler_of(info, option)
            except (ValueError, CatalogueError) as error:
                return str(error)
    return None
