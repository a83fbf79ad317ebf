"""`upnas measure`: the instrument alone, on candidates of a space or on any network."""

from __future__ import annotations

import importlib
import itertools
import json
import random
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import typer
from pydantic import BaseModel, ConfigDict, ValidationError

from upnas.errors import SpaceError, StudyError, TargetError, UpnasError, suggest_name
from upnas.records import (
    Allocator,
    Candidate,
    Device,
    DType,
    MemoryFormat,
    RuntimeName,
    StageChoice,
    Survey,
    Target,
)

if TYPE_CHECKING:
    from torch import nn

    from upnas.space import SearchSpace

_MAX_PREDICTIONS: Final = 1_000_000
_RANDOM: Final = re.compile(r"(\d+)\s*(?:random)?")


def measure(
    space: Annotated[
        str | None,
        typer.Option(
            help="A YAML file, or a shipped one: measure its candidates.", metavar="SPACE"
        ),
    ] = None,
    candidate: Annotated[
        list[str] | None,
        typer.Option(
            help="A baseline such as all-bilinear, a JSON file with the stages' upsamplers, or "
            "'5 random'; repeatable. The baselines if absent.",
            metavar="WHAT",
        ),
    ] = None,
    target: Annotated[
        str | None, typer.Option(help="A target of the space; its first if absent.", metavar="NAME")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="Any network instead: package.module:factory.", metavar="PLACE"),
    ] = None,
    input: Annotated[
        str | None, typer.Option(help="Of --model: channels, height, width.", metavar="C,H,W")
    ] = None,
    device: Annotated[Device, typer.Option(help="Of --model.")] = "cpu",
    runtime: Annotated[RuntimeName, typer.Option(help="Of --model.")] = "eager",
    dtype: Annotated[DType, typer.Option(help="Of --model.")] = "float32",
    memory_format: Annotated[MemoryFormat, typer.Option(help="Of --model.")] = "contiguous",
    allocator: Annotated[
        Allocator, typer.Option(help="Of --model: keep freed memory, or leave that to the system.")
    ] = "keep",
    threads: Annotated[int, typer.Option(min=1, help="Of --model: CPU threads.")] = 1,
    batch: Annotated[int, typer.Option(min=1, help="Of --model.")] = 1,
    export: Annotated[
        list[str] | None,
        typer.Option(help="Also try onnx, torch_export or compile; repeatable.", metavar="FORMAT"),
    ] = None,
    predict: Annotated[
        bool,
        typer.Option(
            "--predict",
            help="Time every upsampler at every stage, and predict the whole space from that.",
        ),
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse while other programs use the device.")
    ] = False,
    seed: Annotated[int, typer.Option(min=0, help="Of random candidates.")] = 0,
    plot: Annotated[Path | None, typer.Option(help="Draw the samples: an SVG file.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="With --predict: a CSV file of every candidate's costs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Measure latency, memory and exportability, without a search."""
    from upnas.cli.survey import show_survey, survey_json
    from upnas.report.samples import samples_svg
    from upnas.trial import SurveyOptions, survey_candidates, survey_network

    options = SurveyOptions(
        command=shlex.join(["upnas", *sys.argv[1:]]),
        is_strict=strict,
        export_formats=tuple(dict.fromkeys(export or ())),
        predicts=predict,
        progress=lambda line: typer.echo(f"upnas: {line}", err=True),
    )
    if (space is None) == (model is None):
        raise TargetError("upnas measure: give --space SPACE or --model PLACE, one of the two.")
    if model is not None:
        if input is None or predict or candidate or target:
            raise TargetError(
                "--model needs --input C,H,W, and goes without --candidate, --target and --predict."
            )
        where = Target(
            name="here",
            device=device,
            threads=threads,
            batch=batch,
            input=parse_input(input),
            dtype=dtype,
            memory_format=memory_format,
            runtime=runtime,
            allocator=allocator,
        )
        survey = survey_network(load_network(model), model, where, options)
    else:
        from upnas.space import load_space

        assert space is not None
        loaded = load_space(space)
        wanted = chosen_candidates(loaded, candidate or (), seed)
        survey = survey_candidates(loaded, chosen_target(loaded, target), wanted, options)
        if out is not None and survey.stage_table is not None:
            _write_predictions(loaded, survey, out)
    if plot is not None:
        _write(plot, samples_svg(survey))
    if as_json:
        typer.echo(json.dumps(survey_json(survey)))
    else:
        show_survey(survey)


def _write_predictions(space: SearchSpace, survey: Survey, path: Path) -> None:
    from upnas.cli.survey import predictions_csv

    assert survey.stage_table is not None
    every = list(itertools.islice(space.candidates(), _MAX_PREDICTIONS))
    _write(path, predictions_csv(survey, survey.stage_table, every))
    typer.echo(f"upnas: {path}: {len(every):,} of {space.num_candidates:,} candidates", err=True)


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{path}: cannot be written: {error.strerror}.") from error


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
        elif Path(word).is_file():
            found += _read_candidates(space, Path(word))
        elif (match := _RANDOM.fullmatch(word)) is not None:
            found += _random_candidates(space, int(match[1]), rng)
        else:
            raise SpaceError(
                f"--candidate {word}: neither a baseline nor a file."
                f"{suggest_name(word, baselines)} Allowed: {', '.join(baselines)}, a JSON file "
                "with the stages' upsamplers, or a number of random ones such as '5 random'."
            )
    return found


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
    except (OSError, ValueError) as error:
        reason = error.errors()[0]["msg"] if isinstance(error, ValidationError) else error
        raise SpaceError(
            f"{path}: is no list of stages: {reason}. Write one upsampler per stage, deepest "
            'first: ["bilinear", {"upsampler": "transposed", "parameters": {"kernel_size": 2}}].'
        ) from error
    return [_candidate(space, path, entry) for entry in parsed]


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


def load_network(place: str) -> nn.Module:
    """Call ``package.module:factory`` and return the network.

    Raises:
        TargetError: If there is no such function, or it does not return a network.
    """
    from torch import nn

    module_name, _, attribute = place.partition(":")
    if not module_name or not attribute:
        raise TargetError(
            f"--model {place}: not a place. Write package.module:factory, where factory is a "
            "function without arguments, or a class, that gives an nn.Module."
        )
    sys.path.insert(0, str(Path.cwd()))  # as `python -m` does
    try:
        factory = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError) as error:
        raise TargetError(
            f"--model {place}: {error}. Name a module that Python finds from this folder and a "
            "function in it."
        ) from error
    try:
        model = factory()
    except Exception as error:
        raise TargetError(f"--model {place}: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise TargetError(
            f"--model {place}: returned {type(model).__name__}, and an nn.Module was expected."
        )
    return model


def parse_input(text: str) -> tuple[int, int, int]:
    """Channels, height and width of ``3,512,512``.

    Raises:
        TargetError: If they are not three positive numbers.
    """
    sides = [int(part) if part.strip().isdecimal() else 0 for part in text.split(",")]
    if len(sides) != 3 or min(sides) < 1:
        raise TargetError(
            f"--input {text}: not an input. Write channels, height and width: --input 3,512,512."
        )
    return sides[0], sides[1], sides[2]
