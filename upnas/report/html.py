"""The report as one HTML file that needs no network.

Everything from a study is text: escaped in the page, escaped inside the JSON of the figures, and
no script runs but the two whose hashes the page's content security policy names.
"""

from __future__ import annotations

import base64
import hashlib
import json
from functools import cache
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Final

from plotly.offline import get_plotlyjs

from upnas.front import StudySummary, hypervolume_history
from upnas.report.figures import (
    hypervolume_curve,
    learning_curves,
    parallel_coordinates,
    pareto_scatter,
)
from upnas.report.overview import cost_notes, counts, facts, hypervolume_note, trouble_counts
from upnas.report.paired import paired_note, paired_table, paired_title
from upnas.report.panel import MIN_SPREAD, panel_columns, spread
from upnas.report.static import pareto_svg
from upnas.report.table import baseline_table, front_table, to_html, trouble_table
from upnas.report.verdict import tie_notes, verdict
from upnas.report.words import metric_name, plural

_PAGE: Final = Path(__file__).with_name("page")

#: Failed and refused trials listed one by one; the rest is counted.
_MAX_TROUBLE_ROWS: Final = 200

#: Inside a script element these could end it, open a comment, or end a line of JavaScript.
_JSON_ESCAPES: Final = str.maketrans(
    {character: f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
)


def report_html(summary: StudySummary) -> str:
    """Build the whole page: about 5 MB, nearly all of it plotly.js."""
    script = (_PAGE / "report.js").read_text(encoding="utf-8")
    figures = _figures(summary)
    return _template("report.html").substitute(
        policy=_policy(get_plotlyjs(), script),
        style=(_PAGE / "report.css").read_text(encoding="utf-8"),
        title=escape(summary.header.name),
        verdict=escape(verdict(summary)),
        counts=escape(counts(summary)),
        scatter_slots="\n".join(
            f'<div><h3>{escape(title)}</h3><div class="figure" id="{slot}"></div></div>'
            for slot, title in _scatter_titles(summary).items()
        ),
        picture=_inline_svg(summary),
        front_table=to_html(front_table(summary)),
        tie_notes="\n".join(f"<p>{escape(note)}</p>" for note in tie_notes(summary)),
        hypervolume_note=escape(hypervolume_note(summary)),
        baseline_table=to_html(baseline_table(summary)),
        paired=_paired(summary),
        trouble=_trouble(summary),
        facts="\n".join(
            f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in facts(summary)
        ),
        space=escape(json.dumps(summary.header.space, indent=2, ensure_ascii=False)),
        cost_notes="\n".join(f"<p>{escape(note)}</p>" for note in cost_notes(summary)),
        command=escape(summary.header.command),
        figures=script_json(figures),
        plotly=get_plotlyjs(),
        script=script,
    )


def script_json(value: Any) -> str:
    """JSON that is safe inside ``<script>``: no markup, no NaN."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.translate(_JSON_ESCAPES)


def _figures(summary: StudySummary) -> dict[str, Any]:
    figures = {
        _slot(x): pareto_scatter(summary, x, y, _colour_column(summary, x, y))
        for x, y in panel_columns(summary)
    }
    figures["parallel"] = parallel_coordinates(summary)
    figures["hypervolume"] = hypervolume_curve(summary, hypervolume_history(summary))
    if summary.main_quality is not None:
        figures["curves"] = learning_curves(summary, summary.main_quality)
    return {slot: json.loads(figure.to_json()) for slot, figure in figures.items()}


def _colour_column(summary: StudySummary, x: int, y: int) -> int | None:
    """The objective that colours a picture: one that is not on its axes and differs visibly."""
    others = (column for column in range(len(summary.objectives)) if column not in (x, y))
    return next((column for column in others if spread(summary, column) >= MIN_SPREAD), None)


def _scatter_titles(summary: StudySummary) -> dict[str, str]:
    names = [metric_name(objective) for objective in summary.objectives]
    titles = {}
    for x, y in panel_columns(summary):
        share = spread(summary, x)
        alike = f" (which differs by only {100 * share:.1g} %)" if share < MIN_SPREAD else ""
        titles[_slot(x)] = f"{names[y]} and {names[x]}{alike}"
    return titles


def _slot(column: int) -> str:
    return f"scatter-{column}"


def _paired(summary: StudySummary) -> str:
    """The section with the paired table; nothing where no seeds are shared."""
    table = paired_table(summary)
    if not table.rows:
        return ""
    title = escape(paired_title(summary))
    return (
        f'<section aria-labelledby="paired">\n<h2 id="paired">{title}</h2>\n'
        f'<p class="note">{escape(paired_note(len(table.rows)))}</p>\n'
        f'<div class="scroll">{to_html(table)}</div>\n</section>'
    )


def _trouble(summary: StudySummary) -> str:
    trials = (*summary.failed, *summary.refused)
    if not trials:
        return "<p>None.</p>"
    table = to_html(trouble_table(summary.header, trials[:_MAX_TROUBLE_ROWS]))
    rest = len(trials) - _MAX_TROUBLE_ROWS
    more = f"<p>{plural(rest, 'more trial')} in trials.jsonl.</p>" if rest > 0 else ""
    return f'<p>{escape(trouble_counts(trials))}</p>\n<div class="scroll">{table}</div>\n{more}'


def _inline_svg(summary: StudySummary) -> str:
    """The picture without the XML prolog, which HTML does not know."""
    svg = pareto_svg(summary)
    return svg[svg.index("<svg") :]


def _policy(*scripts: str) -> str:
    """Content security policy: these scripts, inline styles, and nothing from anywhere.

    plotly.js compiles the shaders of parallel coordinates with ``Function``: 'unsafe-eval'.
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
        for text in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


@cache
def _template(name: str) -> Template:
    return Template((_PAGE / name).read_text(encoding="utf-8"))
