"""Tables of text cells, and their forms: Markdown, HTML and CSV."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final

from upnas.front import (
    CandidateSummary,
    Estimate,
    StudySummary,
    latency_of,
    short_label,
    stage_labels,
)
from upnas.records import Objective, StudyHeader, TrialRecord
from upnas.report.words import (
    format_estimate,
    metric_name,
    metric_words,
    shared_decimals,
    unit,
)

UPSAMPLERS: Final = "upsamplers, deepest first"
#: What makes a spreadsheet read a text cell as a formula (OWASP, "CSV injection").
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")

_MARKDOWN_SPECIAL: Final = re.compile(r"([\\`*\[\]|#~])")


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of plain text.

    Attributes:
        columns: The heads.
        rows: One cell per column; not escaped.
        numeric: Columns that are aligned to the right.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    numeric: frozenset[str] = frozenset()


def front_table(summary: StudySummary) -> Table:
    """The Pareto set, best first objective first."""
    return candidate_table(summary, summary.front)


def baseline_table(summary: StudySummary) -> Table:
    """The complete baselines."""
    return candidate_table(summary, summary.baselines)


def candidate_table(
    summary: StudySummary, entries: Iterable[CandidateSummary], *, with_intervals: bool = True
) -> Table:
    """Number, upsamplers, objectives with intervals, test and other quality, seeds and remarks.

    Every table of a study uses the same decimals in the same column.
    """
    columns = _value_columns(summary)
    rows = []
    for entry in entries:
        values = [column.cell(entry, with_interval=with_intervals) for column in columns]
        num_seeds = str(len({trial.seed for trial in entry.trials}))
        remark = ", ".join(remarks(entry))
        rows.append((str(entry.number), entry.stages_text, *values, num_seeds, remark))
    heads = [column.head for column in columns]
    return Table(
        columns=("trial", UPSAMPLERS, *heads, "seeds", "remarks"),
        rows=tuple(rows),
        numeric=frozenset(["trial", *heads, "seeds"]),
    )


def remarks(entry: CandidateSummary) -> tuple[str, ...]:
    """Baseline name, knee, flags, broken constraints and unfinished seeds, in words."""
    unfinished = f"{entry.num_unfinished} unfinished" if entry.num_unfinished else ""
    words = (
        entry.baseline,
        "knee" if entry.is_knee else "",
        *(flag.replace("_", " ") for flag in entry.flags),
        *entry.violations,
        *_cost_remarks(entry),
        unfinished,
    )
    return tuple(word for word in words if word)


def _cost_remarks(entry: CandidateSummary) -> Iterator[str]:
    """What a reader must know of its latencies: predicted, unsteady, or not to be had."""
    for costs in entry.newest.costs:
        if costs.unserved is not None:
            yield f"does not run on {costs.target}: {costs.unserved}"
        elif costs.predicted is not None:
            yield f"latency on {costs.target} predicted"
        elif costs.latency is not None and costs.latency.unsteady is not None:
            yield f"latency on {costs.target} unsteady: {costs.latency.unsteady}"


def trouble_table(header: StudyHeader, trials: Iterable[TrialRecord]) -> Table:
    """Failed and refused trials with their reasons."""
    rows = tuple(
        (
            str(trial.number),
            trial.state.value,
            (trial.reason or "").replace("_", " "),
            short_label(header, trial.candidate),
            (trial.detail or "").strip(),
        )
        for trial in trials
    )
    columns = ("trial", "state", "reason", UPSAMPLERS, "detail")
    return Table(columns=columns, rows=rows, numeric=frozenset(["trial"]))


def to_markdown(table: Table) -> str:
    """A GitHub-flavoured table; cells are escaped and kept on one line."""
    rules = ["---:" if column in table.numeric else ":---" for column in table.columns]
    lines = [map(escape_markdown, table.columns), rules]
    lines += [map(escape_markdown, row) for row in table.rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_html(table: Table) -> str:
    """A ``<table>`` with every cell escaped."""

    def cells(tag: str, row: tuple[str, ...]) -> str:
        styles = (" class=number" if name in table.numeric else "" for name in table.columns)
        return "".join(
            f"<{tag}{style}>{html.escape(cell)}</{tag}>"
            for style, cell in zip(styles, row, strict=True)
        )

    body = "".join(f"<tr>{cells('td', row)}</tr>\n" for row in table.rows)
    head = cells("th", table.columns)
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def escape_markdown(text: str) -> str:
    """Make text show as it is, in GitHub's and in TensorBoard's Markdown, on one line."""
    one_line = " ".join(text.split())
    return _MARKDOWN_SPECIAL.sub(r"\\\1", html.escape(one_line, quote=False))


def pareto_csv(summary: StudySummary) -> str:
    """Every complete candidate with plain numbers, front members first.

    Text that a spreadsheet would run as a formula gets a leading apostrophe.
    """
    objectives = summary.objectives
    metrics = sorted({metric for entry in summary.entries for metric in entry.test_quality})
    heads = ["trial", "key", "on_front", "knee", "feasible", "baseline", "num_seeds", "remarks"]
    heads += summary.header.stages
    names = [objective.label for objective in objectives]
    reported = [_reported(summary, name) for name in summary.reported_targets]
    names += [f"latency_ms@{name}" for name in summary.reported_targets]
    for name in [*names, *summary.other_metrics, *(f"test_{metric}" for metric in metrics)]:
        heads += [name, f"{name}_low", f"{name}_high"]
    ratios = [_ratios(summary, o) for o in objectives if o.metric == "latency_ms"]
    heads += [f"{o.label}_ratio" for o in objectives if o.metric == "latency_ms"]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(map(_guard, heads))
    front = summary.front
    for entry in [*front, *(entry for entry in summary.entries if not entry.is_on_front)]:
        texts = [str(entry.number), entry.key]
        texts += [str(claim) for claim in (entry.is_on_front, entry.is_knee, entry.is_feasible)]
        texts += [entry.baseline or "", str(len({trial.seed for trial in entry.trials}))]
        texts += ["; ".join(remarks(entry))]
        texts += stage_labels(summary.header, entry.candidate).values()
        estimates = [*entry.values, *(column.estimates[entry.key] for column in reported)]
        estimates += map(entry.quality.get, summary.other_metrics)
        estimates += map(entry.test_quality.get, metrics)
        numbers = [number for estimate in estimates for number in _numbers(estimate)]
        numbers += [_numbers(column.estimates[entry.key])[0] for column in ratios]
        writer.writerow([*map(_guard, texts), *numbers])
    return buffer.getvalue()


def value_head(objective: Objective) -> str:
    """Name and unit: ``latency [ms]``."""
    return _with_bracket(metric_name(objective), objective.metric)


def _with_bracket(name: str, metric: str) -> str:
    return f"{name} [{unit(metric)}]" if unit(metric) else name


@dataclass(frozen=True, slots=True)
class _Values:
    """A column of estimates, by candidate key."""

    head: str
    metric: str
    estimates: Mapping[str, Estimate | None]

    def cell(self, entry: CandidateSummary, *, with_interval: bool) -> str:
        estimate = self.estimates[entry.key]
        if estimate is not None and not with_interval:
            estimate = replace(estimate, low=None, high=None)
        return format_estimate(self.metric, estimate, shared_decimals(self.estimates.values()))


def _value_columns(summary: StudySummary) -> list[_Values]:
    """One column per objective, then its quality on the test split, then what else was asked for.

    That is the validation split's.
    """
    entries = summary.entries
    columns = []
    for row, o in enumerate(summary.objectives):
        values = {entry.key: entry.values[row] for entry in entries}
        columns.append(_Values(value_head(o), o.metric, values))
    columns += [_reported(summary, name) for name in summary.reported_targets]
    for objective in summary.objectives:
        scores = {entry.key: entry.test_quality.get(objective.metric) for entry in entries}
        if any(scores.values()):
            columns.append(_Values(f"test {metric_name(objective)}", objective.metric, scores))
    for metric in summary.other_metrics:
        scores = {entry.key: entry.quality.get(metric) for entry in entries}
        columns.append(_Values(_with_bracket(metric_words(metric), metric), metric, scores))
    latencies = [o for o in summary.objectives if o.metric == "latency_ms"]
    return columns + [_ratios(summary, o) for o in latencies]


def _ratios(summary: StudySummary, objective: Objective) -> _Values:
    """Latency / the reference network's: what compares across hours and machines of one kind."""
    ratios: dict[str, Estimate | None] = {}
    for entry in summary.entries:
        costs = entry.newest.costs_on(objective.target)
        known = None if costs is None else costs.latency or costs.predicted
        ratios[entry.key] = None if known is None else Estimate(mean=known.ratio)
    where = "" if objective.target is None else f"@{objective.target}"
    return _Values(f"latency{where} / reference", "ratio", ratios)


def _reported(summary: StudySummary, target: str) -> _Values:
    """Latency on a target that was not searched for."""
    found: dict[str, Estimate | None] = {}
    for entry in summary.entries:
        costs = entry.newest.costs_on(target)
        found[entry.key] = None if costs is None else latency_of(costs)
    return _Values(f"latency@{target} [ms]", "latency_ms", found)


def _numbers(estimate: Estimate | None) -> tuple[str, str, str]:
    if estimate is None:
        return "", "", ""
    low, high = estimate.low, estimate.high
    return (
        repr(estimate.mean),
        "" if low is None else repr(low),
        "" if high is None else repr(high),
    )


def _guard(text: str) -> str:
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text
