"""``upnas bench``: measurements that belong to no study."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

import typer

if TYPE_CHECKING:
    from upnas.bench.records import Benchmark

#: Narrower terminals get tables without spread, which is in the files.
_MIN_WIDTH: Final = 110

bench_app = typer.Typer(help="Measure on this device.", no_args_is_help=True)

Names = Annotated[
    list[str] | None,
    typer.Argument(help="Catalogue names; all if absent.", metavar="NAME"),
]
Shapes = Annotated[
    list[str] | None,
    typer.Option(
        help="paper, deep, shallow, odd, x4, tutorial-16, -64, -160, or BxCxHxW with @factor; "
        "repeatable. If absent all, the tutorial's forward only and naive formulations at two.",
        metavar="SHAPE",
    ),
]


@bench_app.command("upsamplers")
def bench_upsamplers(
    names: Names = None,
    shape: Shapes = None,
    dtype: Annotated[
        Literal["float32", "bfloat16", "float16"], typer.Option(help="Of tensors and weights.")
    ] = "float32",
    layout: Annotated[
        Literal["nchw", "nhwc"], typer.Option(help="nhwc is torch.channels_last.")
    ] = "nchw",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 1,
    device: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where.")] = "cpu",
    mode: Annotated[
        Literal["forward", "training", "both"],
        typer.Option(help="training is forward and backward."),
    ] = "both",
    budget: Annotated[
        float | None,
        typer.Option(min=0.001, help="Seconds of samples per measurement; 0.4 if absent."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of inputs, weights and orders.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for upsamplers-DEVICE.json, .md and .svg.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="Tiny shapes, to try the command; proves nothing.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Time upsamplers and count their memory, against memory bandwidth and naive formulations."""
    from upnas.bench.files import write_benchmark
    from upnas.bench.records import MODES, BenchSettings
    from upnas.bench.run import run_benchmark
    from upnas.bench.shapes import plan_jobs

    modes = MODES if mode == "both" else (mode,)
    jobs = plan_jobs(names or (), shape or (), modes, is_quick=quick)
    settings = BenchSettings(
        device=device,
        dtype=dtype,
        layout=layout,
        threads=threads,
        budget_s=budget or (0.02 if quick else 0.4),
        copy_bytes=2**21 if quick else 2**29,
        seed=seed,
    )
    benchmark = run_benchmark(
        jobs,
        settings,
        command=_command(sys.argv[1:]),
        progress=lambda line: typer.echo(f"upnas: {line}", err=True),
    )
    # A run that was stopped at once must not replace an earlier result.
    paths = write_benchmark(benchmark, out) if out is not None and benchmark.groups else ()
    if as_json:
        typer.echo(benchmark.model_dump_json())
    else:
        _show(benchmark, paths)
    if not benchmark.is_complete:
        raise typer.Exit(130)


@bench_app.command("measure")
def bench_measure(
    space: Annotated[str, typer.Option(help="A search space.", metavar="SPACE")] = "unet.yaml",
    candidates: Annotated[int, typer.Option(min=4, help="Random ones to measure.")] = 40,
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="beside, rivals, prediction or memory, after the two passes; repeatable. All if "
            "absent.",
            metavar="PART",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of candidates and orders.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Folder for measure-DEVICE.json, .md and .svg.")
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A handful of candidates, to try the command.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one line of JSON.")] = False,
) -> None:
    """Measure the instrument itself: repeatability, load, other timers, prediction, memory."""
    from upnas.bench.instrument.files import write_instrument_benchmark
    from upnas.bench.instrument.markdown import instrument_markdown
    from upnas.bench.instrument.run import PARTS, InstrumentSettings, run_instrument_benchmark

    settings = InstrumentSettings(
        space=space,
        num_candidates=min(candidates, 4) if quick else candidates,
        num_rivals=1 if quick else 6,
        num_repeats=2 if quick else 8,
        parts=tuple(part) if part else PARTS,
        seed=seed,
    )
    benchmark = run_instrument_benchmark(
        settings,
        command=_command(sys.argv[1:]),
        progress=lambda line: typer.echo(f"upnas: {line}", err=True),
    )
    paths = () if out is None else write_instrument_benchmark(benchmark, out)
    typer.echo(benchmark.model_dump_json() if as_json else instrument_markdown(benchmark))
    for path in paths:
        typer.echo(str(path), err=True)


def _show(benchmark: Benchmark, paths: Sequence[Path]) -> None:
    """Print the tables, what could not run and the files."""
    from rich.text import Text

    from upnas.bench.records import MODES
    from upnas.bench.tables import brief, group_table, missing, tutorial_table
    from upnas.cli.tables import output_console, rich_table
    from upnas.report.table import Table

    console = output_console()
    tables = [group_table(group) for group in benchmark.groups if not group.shape.is_tutorial]
    tutorial = [tutorial_table(benchmark, mode) for mode in MODES]
    if console.width < _MIN_WIDTH:
        tables = [brief(table) for table in tables]
    for table in (*tables, *(found for found in tutorial if found is not None)):
        shown = Table(table.columns, table.rows, numeric=frozenset(table.columns[1:]))
        console.print(rich_table(shown, table.title))
    for (name, reason), where in missing(benchmark.groups).items():
        console.print(Text(f"{name} at {', '.join(where)}: {reason}"), soft_wrap=True)
    for path in paths:
        console.print(Text(str(path)), soft_wrap=True)


def _command(arguments: Sequence[str]) -> str:
    """What a reader would type: without this machine's folder."""
    kept, remaining = ["upnas"], iter(arguments)
    for argument in remaining:
        if argument == "--out":
            next(remaining)
        elif not argument.startswith("--out="):
            kept.append(argument)
    return shlex.join(kept)
