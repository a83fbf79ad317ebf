"""The commands. Results go to stdout, progress and messages to stderr."""

from __future__ import annotations

import json
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

import upnas
from upnas.cli.bench import bench_app
from upnas.cli.cache import cache_app
from upnas.cli.measure import measure
from upnas.cli.target import target_app

app = typer.Typer(
    help="Neural architecture search for how decoders upsample.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
space_app = typer.Typer(help="Look at search spaces.", no_args_is_help=True)
app.add_typer(space_app, name="space")
app.add_typer(bench_app, name="bench")
app.add_typer(cache_app, name="cache")
app.add_typer(target_app, name="target")
app.command("measure")(measure)

SpaceArgument = Annotated[
    str, typer.Argument(help="A YAML file, or the name of a shipped search space.", metavar="SPACE")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"upnas {upnas.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True),
    ] = False,
) -> None:
    del version


@app.command()
def search(
    space: Annotated[
        str, typer.Option(help="A YAML file, or a shipped one such as unet.yaml.", metavar="SPACE")
    ],
    trials: Annotated[
        int | None, typer.Option(min=1, help="Candidates to train, instead of search.trials.")
    ] = None,
    sampler: Annotated[
        str | None, typer.Option(help="auto, tpe, nsga2, gp or random, instead of search.sampler.")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Instead of search.seed.")] = None,
    out: Annotated[
        Path | None, typer.Option(help="The study's folder; runs/NAME if absent.")
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start over; an earlier study is moved aside.")
    ] = False,
    address: Annotated[
        str | None, typer.Option(help="A Ray cluster ('auto', host:port); this machine if absent.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Refuse to measure while other programs compute.")
    ] = False,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Measure every cost anew: use no earlier ones.")
    ] = False,
    executor: Annotated[
        Literal["ray", "inline"],
        typer.Option(help="inline runs one trial at a time in this process, for debugging."),
    ] = "ray",
    as_json: JsonOption = False,
) -> None:
    """Search a space; the same command resumes a stopped search."""
    from upnas.cli.display import make_display
    from upnas.cli.tables import front_json, show_result
    from upnas.cli.tensorboard import TensorBoardObserver
    from upnas.report import write_report
    from upnas.search import SearchOptions, run_search
    from upnas.space import load_space

    wanted = {"search.trials": trials, "search.sampler": sampler, "search.seed": seed}
    overrides: dict[str, Any] = {path: value for path, value in wanted.items() if value is not None}
    loaded = load_space(space, overrides=overrides)
    folder = out if out is not None else Path("runs") / loaded.name
    if fresh:
        _move_aside(folder)
    options = SearchOptions(
        folder=folder,
        command=shlex.join(["upnas", *sys.argv[1:]]),
        address=address,
        executor=executor,
        is_strict=strict,
        uses_cache=not no_cache,
    )
    with make_display(folder) as display:
        study = run_search(loaded, options, [display, TensorBoardObserver(folder)])
    paths = write_report(folder)
    if as_json:
        typer.echo(json.dumps(front_json(study, paths)))
    else:
        show_result(study, folder, paths)
    if display.was_stopped:
        raise typer.Exit(130)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="A study's folder, e.g. runs/unet.", metavar="RUN")],
    out: Annotated[Path | None, typer.Option(help="Where to write; RUN itself if absent.")] = None,
) -> None:
    """Write report.html, report.md, pareto.svg and pareto.csv of a study."""
    from upnas.cli.tables import show_result
    from upnas.report import write_report
    from upnas.store import StudyFolder

    study = StudyFolder(run).read_study()
    show_result(study, run, write_report(run, out))


@app.command()
def upsamplers(
    name: Annotated[
        str | None,
        typer.Argument(help="Show the card of one: a name, or its place.", metavar="NAME"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the upsamplers with their properties, or show all about one."""
    from upnas.cli.upsamplers import card_json, show_card, show_catalogue
    from upnas.upsamplers import card_of, upsampler_names

    cards = [card_of(known) for known in ([name] if name else upsampler_names())]
    if as_json:
        typer.echo(json.dumps(card_json(cards[0]) if name else [card_json(c) for c in cards]))
    elif name:
        show_card(cards[0])
    else:
        show_catalogue(cards)


@space_app.command("show")
def space_show(space: SpaceArgument, as_json: JsonOption = False) -> None:
    """Show a search space: stages, channels, choices, and how many candidates it holds."""
    from upnas.cli.tables import show_space, space_json
    from upnas.space import describe, load_space

    description = describe(load_space(space))
    if as_json:
        typer.echo(json.dumps(space_json(description)))
    else:
        show_space(description)


@space_app.command("check")
def space_check(
    spaces: Annotated[list[str], typer.Argument(help="YAML files.", metavar="SPACE...")],
) -> None:
    """Check search spaces; exits with 2 if one has a mistake."""
    from upnas.errors import SpaceError
    from upnas.space import load_space

    has_mistakes = False
    for name in spaces:
        try:
            loaded = load_space(name)
        except SpaceError as error:
            has_mistakes = True
            typer.echo(str(error), err=True)
        else:
            noun = "candidate" if loaded.num_candidates == 1 else "candidates"
            typer.echo(f"{name}: ok, {loaded.num_candidates:,} {noun}")
    if has_mistakes:
        raise typer.Exit(2)


@space_app.command("list")
def space_list() -> None:
    """List the shipped search spaces."""
    from upnas.space import shipped_spaces

    for name in shipped_spaces():
        typer.echo(name)


def _move_aside(folder: Path) -> None:
    """Keep what an earlier study finished: nothing is deleted."""
    if folder.exists():
        stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
        aside = folder.with_name(f"{folder.name}.{stamp}")
        folder.rename(aside)
        typer.echo(f"upnas: the earlier study is now {aside}", err=True)
