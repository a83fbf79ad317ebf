"""`upnas measure`: the instrument alone, on candidates of a space or on any network."""

from __future__ import annotations

import importlib
import itertools
import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from pydantic import ValidationError

from upnas.cli.candidates import chosen_candidates, chosen_target
from upnas.errors import StudyError, TargetError
from upnas.records import (
    Allocator,
    Device,
    DType,
    MemoryFormat,
    RuntimeName,
    Survey,
    Target,
)

if TYPE_CHECKING:
    from torch import nn

    from upnas.space import SearchSpace

_MAX_PREDICTIONS: Final = 1_000_000
#: What describes the target of --model; the targets of a space say it themselves.
_OF_MODEL: Final = (
    "input", "device", "runtime", "dtype", "memory_format", "allocator", "threads", "batch",
)  # fmt: skip


def measure(
    context: typer.Context,
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
    _check_together(space, model, input, of_space=bool(predict or candidate or target))
    if out is not None and not predict:
        raise TargetError("--out holds predictions: give --predict as well, or leave it out.")

    # These load torch: the mistakes above are answered at once.
    from upnas.cli.survey import show_survey, survey_json
    from upnas.trial import SurveyOptions, survey_candidates, survey_network

    options = SurveyOptions(
        command=shlex.join(["upnas", *sys.argv[1:]]),
        is_strict=strict,
        export_formats=tuple(dict.fromkeys(export or ())),
        predicts=predict,
        progress=lambda line: typer.echo(f"upnas: {line}", err=True),
    )
    if model is not None:
        assert input is not None
        where = _target(
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
        _refuse_options_of_model(context)
        loaded = load_space(space)
        wanted = chosen_candidates(loaded, candidate or (), seed)
        survey = survey_candidates(loaded, chosen_target(loaded, target), wanted, options)
    if as_json:
        typer.echo(json.dumps(survey_json(survey)))
    else:
        show_survey(survey)
    # Last: a folder that cannot be written must not cost the numbers.
    if out is not None:
        _write_predictions(loaded, survey, out)
    if plot is not None:
        _write_plot(survey, plot)


def _check_together(
    space: str | None, model: str | None, input: str | None, *, of_space: bool
) -> None:
    """Raise a TargetError unless the options say what to measure, once."""
    if (space is None) == (model is None):
        raise TargetError("upnas measure: give --space SPACE or --model PLACE, one of the two.")
    if model is not None and (input is None or of_space):
        raise TargetError(
            "--model needs --input C,H,W, and goes without --candidate, --target and --predict."
        )


def _target(**fields: Any) -> Target:
    """The target that the options describe.

    Raises:
        TargetError: If they contradict each other.
    """
    try:
        return Target(name="here", **fields)
    except ValidationError as error:
        reason = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise TargetError(f"upnas measure --model: {reason}") from error


def _refuse_options_of_model(context: typer.Context) -> None:
    """Options that would be ignored are not: the numbers would be of something else."""
    for name in _OF_MODEL:
        source = context.get_parameter_source(name)
        if source is not None and source.name != "DEFAULT":
            raise TargetError(
                f"--{name.replace('_', '-')} is for --model. What a space is measured on stands in "
                "its `targets`; choose one of them with --target NAME."
            )


def _write_predictions(space: SearchSpace, survey: Survey, path: Path) -> None:
    from upnas.cli.survey import predictions_csv

    assert survey.stage_table is not None
    every = list(itertools.islice(space.candidates(), _MAX_PREDICTIONS))
    _write(path, predictions_csv(survey, survey.stage_table, every))
    typer.echo(f"upnas: {path}: {len(every):,} of {space.num_candidates:,} candidates", err=True)


def _write_plot(survey: Survey, path: Path) -> None:
    from upnas.report.samples import samples_svg

    _write(path, samples_svg(survey))


def _write(path: Path, text: str) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StudyError(f"{path}: cannot be written: {error.strerror}.") from error


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
    except (Exception, SystemExit) as error:  # whatever a stranger's module raises
        raise TargetError(
            f"--model {place}: {type(error).__name__}: {error}. Name a module that Python finds "
            "from this folder and a function in it."
        ) from error
    try:
        model = factory()
    except (Exception, SystemExit) as error:
        raise TargetError(
            f"--model {place}: calling it raised {type(error).__name__}: {error}. It is called "
            "without arguments."
        ) from error
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
