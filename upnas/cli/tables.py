"""What commands print: the front, the baselines and search spaces, as text or JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Literal

import rich.box
import rich.table
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.text import Text

from upnas.front import CandidateSummary, Estimate, StudySummary, short_label, summarise
from upnas.report import ReportPaths
from upnas.report.overview import counts, hypervolume_line
from upnas.report.table import UPSAMPLERS, Table, candidate_table, value_head
from upnas.report.verdict import verdict
from upnas.report.words import target_words
from upnas.space import SpaceDescription
from upnas.space.describe import StageDescription
from upnas.store import Study

#: Columns of text may wrap, but not to less than this.
_MIN_TEXT_WIDTH: Final = 28
#: No table is wider.
_UNBOUNDED: Final = 10_000


def rich_table(table: Table, title: str, *, may_wrap: bool = True) -> rich.table.Table:
    """Draw a report's table for the terminal: numbers stay whole, words wrap or are cut."""
    drawn = rich.table.Table(
        title=Text(title, style="bold"),
        title_justify="left",
        box=rich.box.SIMPLE_HEAD,
        pad_edge=False,
    )
    overflow: Literal["fold", "ellipsis"] = "fold" if may_wrap else "ellipsis"
    for column in table.columns:
        is_number = column in table.numeric
        # The unit goes below: narrower.
        head = Text(column.replace(" [", "\n["), no_wrap=not may_wrap, overflow=overflow)
        justify: Literal["left", "right"] = "right" if is_number else "left"
        drawn.add_column(head, justify=justify, no_wrap=is_number)
    for row in table.rows:
        drawn.add_row(*(Text(cell, no_wrap=not may_wrap, overflow=overflow) for cell in row))
    return drawn


def live_table(summary: StudySummary, title: str, max_rows: int) -> rich.table.Table:
    """The best of the front as it is now: the objectives, and one line per candidate."""
    table = _table(summary, summary.front[:max_rows], is_brief=True)
    heads = ("trial", *map(value_head, summary.objectives))
    shown = [table.columns.index(head) for head in (*heads, UPSAMPLERS)]
    rows = tuple(tuple(row[column] for column in shown) for row in table.rows)
    brief = Table(columns=(*heads, UPSAMPLERS), rows=rows, numeric=table.numeric)
    return rich_table(brief, title, may_wrap=False)


def _table(summary: StudySummary, entries: Iterable[CandidateSummary], *, is_brief: bool) -> Table:
    """The report's table; brief: without intervals, and the candidate with its remarks last."""
    table = candidate_table(summary, entries, with_intervals=not is_brief)
    if not is_brief:
        return table
    numbers = [row for row, column in enumerate(table.columns) if column in table.numeric]
    name, remarks = table.columns.index(UPSAMPLERS), table.columns.index("remarks")
    rows = tuple(
        (
            *(row[column] for column in numbers),
            f"{row[name]} ({row[remarks]})" if row[remarks] else row[name],
        )
        for row in table.rows
    )
    columns = (*(table.columns[column] for column in numbers), UPSAMPLERS)
    return Table(columns=columns, rows=rows, numeric=table.numeric)


def _result_tables(summary: StudySummary, console: Console) -> tuple[list[Table], list[str]]:
    """The front and the baselines behind it as they fit the console, and the heads left out.

    First the intervals go; then the columns of numbers from the last one, so that the objectives
    stay longest. They are all in the report.
    """
    behind = [entry for entry in summary.baselines if not entry.is_on_front]
    groups = (summary.front, behind)
    tables = [_table(summary, entries, is_brief=False) for entries in groups]
    if all(_width(table) <= console.width for table in tables):
        return tables, []
    tables = [_table(summary, entries, is_brief=True) for entries in groups]
    left_out: list[str] = []
    # Trial, first objective, seeds and upsamplers stay.
    for head in reversed(tables[0].columns[2:-2]):
        if all(_width(table) <= console.width for table in tables):
            break
        tables = [_without(table, head) for table in tables]
        left_out.insert(0, head)
    return tables, left_out


def _whole_table(table: Table, title: str) -> rich.table.Table:
    """A table whose numbers never wrap, and whose text keeps some width."""
    drawn = rich_table(table, title)
    for row, column in enumerate(drawn.columns):
        head = table.columns[row]
        lines = [*head.split(" ["), *(cells[row] for cells in table.rows)]
        longest = max(map(cell_len, lines))
        column.min_width = longest if head in table.numeric else min(longest, _MIN_TEXT_WIDTH)
    return drawn


def _width(table: Table) -> int:
    """The least width that :func:`_whole_table` needs."""
    console = Console(width=_UNBOUNDED)
    return Measurement.get(console, console.options, _whole_table(table, "")).minimum


def _without(table: Table, head: str) -> Table:
    """The table without a column."""
    place = table.columns.index(head)
    columns, *rows = (row[:place] + row[place + 1 :] for row in (table.columns, *table.rows))
    return replace(table, columns=columns, rows=tuple(rows))


def show_result(study: Study, folder: Path, paths: ReportPaths) -> None:
    """Print the front, the baselines that are not on it, the verdict and the files."""
    console = output_console()
    summary = summarise(study.header, study.trials)
    (front, behind), left_out = _result_tables(summary, console)
    console.print(_whole_table(front, f"Pareto set of {study.header.name}, best first"))
    if behind.rows:
        console.print(_whole_table(behind, "Baselines behind it"))
    if left_out:
        heads = ", ".join(left_out)
        line = f"Left out for want of width, see {paths.markdown.name}: {heads}"
        console.print(Text(line), soft_wrap=True)
    console.print(Text(verdict(summary), style="bold"))
    console.print()
    console.print(Text(counts(summary)))
    console.print(Text(hypervolume_line(summary)))
    _show_files(console, folder, paths)


def _show_files(console: Console, folder: Path, paths: ReportPaths) -> None:
    console.print()
    files = {
        "report": paths.html,
        "figure": paths.svg,
        "table": paths.csv,
        "summary": paths.markdown,
        "trials": folder / "trials.jsonl",
    }
    for name, path in files.items():
        console.print(Text(f"{name:<12}{path}"), soft_wrap=True)
    console.print(Text(f"TensorBoard tensorboard --logdir {folder}"), soft_wrap=True)


def front_json(study: Study, paths: ReportPaths) -> dict[str, Any]:
    """The result as JSON values: the front, the baselines, hypervolume and the files."""
    summary = summarise(study.header, study.trials)
    return {
        "study": study.header.name,
        "num_trials": summary.num_trials,
        "num_failed": len(summary.failed),
        "num_refused": len(summary.refused),
        "hypervolume": summary.hypervolume,
        "reference_point": list(summary.reference.values) if summary.reference else None,
        "front": [_entry_json(summary, entry) for entry in summary.front],
        "baselines": [_entry_json(summary, entry) for entry in summary.baselines],
        "verdict": verdict(summary),
        "report": {name: str(getattr(paths, name)) for name in ("html", "svg", "csv", "markdown")},
    }


def _entry_json(summary: StudySummary, entry: CandidateSummary) -> dict[str, Any]:
    values = zip(summary.objectives, entry.values, strict=True)
    return {
        "trial": entry.number,
        "key": entry.key,
        "stages": [stage.model_dump(mode="json") for stage in entry.candidate.stages],
        "label": short_label(summary.header, entry.candidate),
        "baseline": entry.baseline,
        "is_knee": entry.is_knee,
        "values": {objective.label: _estimate_json(value) for objective, value in values},
        "quality": {name: _estimate_json(value) for name, value in entry.quality.items()},
        "test_quality": {name: _estimate_json(value) for name, value in entry.test_quality.items()},
        "flags": list(entry.flags),
    }


def _estimate_json(estimate: Estimate | None) -> dict[str, Any] | None:
    if estimate is None:
        return None
    return {
        "mean": estimate.mean,
        "low": estimate.low,
        "high": estimate.high,
        "num_samples": estimate.num_samples,
    }


def show_space(description: SpaceDescription) -> None:
    """Print a search space."""
    console = output_console()
    table = rich.table.Table(title=f"Search space {description.name}", title_justify="left")
    for column in ("stage", "resolution", "channels", "skip", "out", "options", "choices"):
        table.add_column(column, justify="left" if column in ("resolution", "choices") else "right")
    for stage in description.stages:
        table.add_row(
            str(stage.number),
            stage.label,
            str(stage.channels),
            str(stage.skip_channels or "-"),
            str(stage.out_channels),
            str(stage.num_options),
            Text(_choices_text(stage)),
        )
    console.print(table)
    for name, value in _space_facts(description).items():
        console.print(Text(f"{name:<13}{value}"), soft_wrap=True)


def space_json(description: SpaceDescription) -> dict[str, Any]:
    """A search space as JSON values."""
    return {
        **_space_facts(description),
        "num_candidates": description.num_candidates,
        "stages": [
            {
                "number": stage.number,
                "resolution": stage.label,
                "channels": stage.channels,
                "skip_channels": stage.skip_channels,
                "out_channels": stage.out_channels,
                "choices": {
                    choice.upsampler: {name: list(values) for name, values in choice.searched}
                    for choice in stage.choices
                },
            }
            for stage in description.stages
        ],
    }


def _choices_text(stage: StageDescription) -> str:
    texts = []
    for choice in stage.choices:
        searched = "; ".join(
            f"{name}: {', '.join(map(str, values))}" for name, values in choice.searched
        )
        texts.append(f"{choice.upsampler} ({searched})" if searched else choice.upsampler)
    return ", ".join(texts)


def _space_facts(description: SpaceDescription) -> dict[str, str]:
    search = description.search
    constraints = "; ".join(
        f"{c.metric} {c.equals or ''}"
        + (f"at least {c.min:g} " if c.min is not None else "")
        + (f"at most {c.max:g}" if c.max is not None else "")
        for c in description.constraints
    )
    targets = "; ".join(f"{t.name} ({target_words(t)})" for t in description.targets)
    return {
        "task": description.task,
        "encoder": description.encoder or "none",
        "decoder": description.decoder,
        "candidates": f"{description.num_candidates:,} distinct",
        "objectives": ", ".join(f"{o.label} ({o.direction})" for o in description.objectives),
        "constraints": constraints or "none",
        "targets": targets,
        "search": f"{search.trials} candidates, sampler {search.sampler}, rungs at epochs "
        f"{', '.join(map(str, search.rungs))}, up to {search.seeds} seeds",
    }


def output_console() -> Console:
    """Standard output; as wide as COLUMNS says, or as tables need where it is no terminal."""
    console = Console(highlight=False)
    if console.is_terminal or os.environ.get("COLUMNS", "").isdigit():
        return console
    return Console(highlight=False, width=200)
