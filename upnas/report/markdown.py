"""The report as Markdown, for a repository."""

from __future__ import annotations

from upnas.front import StudySummary
from upnas.report.overview import cost_notes, counts, facts, hypervolume_note, trouble_counts
from upnas.report.paired import paired_note, paired_table, paired_title
from upnas.report.table import baseline_table, escape_markdown, front_table, to_markdown
from upnas.report.verdict import tie_notes, verdict


def report_markdown(summary: StudySummary, picture: str | None = None) -> str:
    """Write the report: verdict, picture, tables, facts and how costs were measured.

    Args:
        summary: The study.
        picture: Path of the Pareto picture, relative to the report; None leaves it out.
    """
    lines = [
        f"# {escape_markdown(summary.header.name)}",
        f"**{escape_markdown(verdict(summary))}**",
    ]
    if picture is not None:
        lines.append(f"![Pareto front]({picture})")
    lines += ["## Pareto set", to_markdown(front_table(summary)).rstrip()]
    lines += [f"- {escape_markdown(note)}" for note in tie_notes(summary)]
    lines += [escape_markdown(hypervolume_note(summary)), escape_markdown(counts(summary))]
    if summary.baselines:
        lines += ["## Baselines", to_markdown(baseline_table(summary)).rstrip()]
    paired = paired_table(summary)
    if paired.rows:
        lines.append(f"## {escape_markdown(paired_title(summary))}")
        lines += [escape_markdown(paired_note(len(paired.rows))), to_markdown(paired).rstrip()]
    trouble = (*summary.failed, *summary.refused)
    if trouble:
        lines += ["## Failed and refused", escape_markdown(trouble_counts(trouble))]
    lines.append("## What was searched, and where")
    lines.append("\n".join(f"- {name}: {escape_markdown(value)}" for name, value in facts(summary)))
    lines += ["## How costs are measured"]
    lines += [escape_markdown(note) for note in cost_notes(summary)]
    lines += ["## Reproduce", _code_block(summary.header.command)]
    return "\n\n".join(lines) + "\n"


def _code_block(text: str) -> str:
    """Indented rather than fenced: no text can end it."""
    return "\n".join(f"    {line}" for line in text.splitlines() or [""])
