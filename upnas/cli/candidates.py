"""What `upnas measure` measures: targets of a space, candidates by name, from files, at random."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import BaseModel, ConfigDict, ValidationError

from upnas.errors import SpaceError, UpnasError, suggest_name
from upnas.records import Candidate, StageChoice, Target

if TYPE_CHECKING:
    from upnas.space import SearchSpace

_RANDOM: Final = re.compile(r"([1-9]\d*)\s*(?:random)?")


def chosen_target(space: SearchSpace, name: str | None) -> Target:
    """The target of that name; the first one where no name is given.

    Raises:
        SpaceError: If the space has no such target.
    """
    targets = {target.name: target for target in space.targets}
    if name is None:
        return space.targets[0]
    if name not in targets:
        raise SpaceError(
            f"--target {name}: {space.name} has no such target.{suggest_name(name, targets)} "
            f"Allowed: {', '.join(targets)}."
        )
    return targets[name]


def chosen_candidates(
    space: SearchSpace, wanted: Sequence[str], seed: int
) -> list[tuple[str, Candidate]]:
    """What ``--candidate`` asks for, with labels.

    Args:
        space: The search space.
        wanted: Names of baselines, ``N random``, or JSON files with a list of stages, an object
            with ``stages``, or a list of such objects; the baselines where nothing is asked for.
        seed: Of random candidates.

    Raises:
        SpaceError: If something is none of these.
    """
    baselines = dict(space.baselines())
    rng = random.Random(seed)
    found: list[tuple[str, Candidate]] = []
    for word in wanted or tuple(baselines):
        if word in baselines:
            found.append((word, baselines[word]))
        elif (match := _RANDOM.fullmatch(word)) is not None:
            found += _random_candidates(space, int(match[1]), rng)
        elif _is_file(word):
            found += _read_candidates(space, Path(word))
        else:
            raise SpaceError(
                f"--candidate {word}: neither a baseline nor a file."
                f"{suggest_name(word, baselines)} Allowed: {', '.join(baselines)}, a JSON file "
                "with the stages' upsamplers, or a number of random ones such as '5 random'."
            )
    return found


def _is_file(word: str) -> bool:
    try:
        return Path(word).is_file()
    except OSError:  # JSON itself, longer than a name can be
        return False


def _random_candidates(
    space: SearchSpace, number: int, rng: random.Random
) -> list[tuple[str, Candidate]]:
    """Distinct ones, as many as there are."""
    distinct: dict[str, Candidate] = {}
    number = min(number, space.num_candidates)
    while len(distinct) < number:
        candidate = space.random_candidate(rng)
        distinct[candidate.key] = candidate
    return [(brief_label(candidate), candidate) for candidate in distinct.values()]


def brief_label(candidate: Candidate) -> str:
    """The stages, deepest first, with the parameters that are not the upsampler's defaults."""
    from upnas.space import default_choice

    stages = []
    for stage in candidate.stages:
        defaults = default_choice(stage.upsampler).parameters
        others = tuple(item for item in stage.parameters if item not in defaults)
        stages.append(str(stage.model_copy(update={"parameters": others})))
    return " | ".join(stages)


class _Stages(BaseModel):
    """One candidate of a file."""

    model_config = ConfigDict(extra="ignore")

    stages: tuple[StageChoice | str, ...]


def _read_candidates(space: SearchSpace, path: Path) -> list[tuple[str, Candidate]]:
    try:
        content = json.loads(path.read_bytes())
        is_stages = isinstance(content, list) and all(_is_stage(entry) for entry in content)
        entries = [{"stages": content}] if is_stages else content
        entries = entries if isinstance(entries, list) else [entries]
        parsed = [_Stages.model_validate(entry) for entry in entries]
    except (OSError, ValueError, TypeError) as error:  # TypeError: from a record's own reading
        reason = _first_mistake(error) if isinstance(error, ValidationError) else error
        raise SpaceError(
            f"{path}: is no list of stages: {reason}. Write one upsampler per stage, deepest "
            'first: ["bilinear", {"upsampler": "transposed", "parameters": {"kernel_size": 2}}].'
        ) from error
    return [_candidate(space, path, entry) for entry in parsed]


def _first_mistake(error: ValidationError) -> str:
    """Where it is, without the classes that were tried there, and what."""
    mistake = error.errors()[0]
    place = ".".join(str(part) for part in mistake["loc"] if part not in ("StageChoice", "str"))
    if mistake["type"] == "model_type":
        return f"{mistake['input']!r} has no stages"
    return f"{place}: {mistake['msg']}"


def _is_stage(entry: object) -> bool:
    return isinstance(entry, str) or (isinstance(entry, dict) and "upsampler" in entry)


def _candidate(space: SearchSpace, path: Path, entry: _Stages) -> tuple[str, Candidate]:
    from upnas.space import default_choice

    stages = []
    for stage in entry.stages:
        choice = StageChoice(upsampler=stage) if isinstance(stage, str) else stage
        try:
            defaults = dict(default_choice(choice.upsampler).parameters)
        except UpnasError as error:
            raise SpaceError(f"{path}: {error}") from error
        parameters = defaults | dict(choice.parameters)
        stages.append(StageChoice(upsampler=choice.upsampler, parameters=parameters))
    if len(stages) != len(space.stages):
        raise SpaceError(
            f"{path}: names {len(stages)} upsamplers, but {space.name} has {len(space.stages)} "
            "stages. Name one per stage, deepest first."
        )
    candidate = Candidate(model=space.model, stages=tuple(stages))
    return brief_label(candidate), candidate
