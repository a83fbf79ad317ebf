"""Interactive figures (plotly), from records alone.

Colours are from the palette of Okabe and Ito, and a blue-to-gold scale, both safe for colour-blind
readers, and no meaning rests on colour only: diamond = Pareto set, line = front of the two axes,
circle = dominated, ring = baseline, cross = off the front. Backgrounds are transparent and text
takes the page's colour, so that light and dark pages both work.

Every text from a study is escaped: plotly reads a small HTML dialect in labels and hover texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any, Final

import plotly.graph_objects as go

from upnas.front import (
    CandidateSummary,
    HypervolumePoint,
    StudySummary,
    short_label,
    stage_labels,
)
from upnas.records import Objective, StudyHeader, TrialRecord
from upnas.report.panel import Panel, errors, make_panel, mean, thin
from upnas.report.words import axis_title, format_estimate, metric_name, plural, unit

BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREY: Final = "#8A8A8A"
BAR: Final = "rgba(120,140,160,0.45)"
#: Blue to gold through grey: unlike cividis, both ends show on white and on black.
SCALE: Final = ((0.0, "#2F86CE"), (0.5, "#9A9A94"), (1.0, "#E3A100"))
#: Lines of single trials; the dash changes when the colours start over.
LINE_COLOURS: Final = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
DASHES: Final = ("solid", "dash", "dot")

_MAX_CURVES: Final = 12
_MAX_OTHER_CURVES: Final = 200


def pareto_scatter(
    summary: StudySummary, x: int = 1, y: int = 0, colour: int | None = None
) -> go.Figure:
    """Two objectives, with the Pareto set of all of them and the step front of these two.

    Args:
        summary: The study.
        x: Column of the horizontal objective.
        y: Column of the vertical objective.
        colour: Column of the objective that colours the points; None for plain colours.
    """
    panel = make_panel(summary, x, y)
    objectives = summary.objectives
    pareto = f"Pareto set ({plural(len(objectives), 'objective')})"
    step_line = go.Scatter(
        x=[point[0] for point in panel.steps],
        y=[point[1] for point in panel.steps],
        mode="lines",
        name="front of the two axes",
        line={"color": BLUE, "width": 2},
        hoverinfo="skip",
    )
    traces = [
        *_points(summary, panel, panel.excluded, "off the front", None, "x"),
        *_points(summary, panel, panel.dominated, _dominated_name(panel), colour, "circle"),
        step_line,
        *_points(summary, panel, panel.front, pareto, colour, "diamond"),
        _rings(panel),
        _knee(panel),
    ]
    layout = _layout(axis_title(objectives[x]), axis_title(objectives[y]))
    layout["xaxis"]["range"], layout["yaxis"]["range"] = map(list, panel.limits)
    if colour is not None:
        # The direction word is in the table: here it would not fit.
        title = metric_name(objectives[colour])
        bracket = (
            f"<br>[{unit(objectives[colour].metric)}]" if unit(objectives[colour].metric) else ""
        )
        layout["coloraxis"] = {
            "colorscale": SCALE,
            **_colour_range(panel, colour),
            "colorbar": {"title": {"text": escape(title) + bracket}, "thickness": 12},
        }
    return go.Figure([trace for trace in traces if len(trace.x)], layout)


def parallel_coordinates(summary: StudySummary) -> go.Figure:
    """Stages and objectives of the eligible candidates; starts with the Pareto set brushed."""
    entries = [entry for entry in summary.entries if entry.is_eligible]
    labels = [stage_labels(summary.header, entry.candidate) for entry in entries]
    dimensions: list[dict[str, Any]] = []
    for stage in summary.header.stages:
        names = sorted({label[stage] for label in labels})
        dimensions.append(
            {
                "label": escape(stage),
                "values": [names.index(label[stage]) for label in labels],
                "tickvals": list(range(len(names))),
                "ticktext": [escape(name) for name in names],
                "range": [-0.3, max(len(names) - 0.7, 0.3)],
            }
        )
    for column, objective in enumerate(summary.objectives):
        name, bracket = metric_name(objective), unit(objective.metric)
        text = f"{name} [{bracket}]" if bracket else name
        dimensions.append(
            {
                "label": escape(text),
                "values": [mean(entry, column) for entry in entries],
                "tickformat": ".4~r",
            }
        )
    on_front = [int(entry.is_on_front) for entry in entries]
    dimensions.append(
        {
            "label": "Pareto set",
            "values": on_front,
            "tickvals": [0, 1],
            "ticktext": ["no", "yes"],
            "range": [-0.1, 1.1],
            **({"constraintrange": [0.5, 1.1]} if any(on_front) else {}),
        }
    )
    line = {
        "color": [mean(entry, 0) for entry in entries],
        "colorscale": SCALE,
        "showscale": False,
    }
    trace = go.Parcoords(dimensions=dimensions, line=line, labelfont={"size": 12})
    layout = _layout("", "")
    layout["margin"] = {"l": 130, "r": 40, "t": 50, "b": 20}
    return go.Figure([trace] if entries else [], layout)


def hypervolume_curve(summary: StudySummary, history: Sequence[HypervolumePoint]) -> go.Figure:
    """Hypervolume against finished trials, with the baselines' own as a line."""
    units = " x ".join(unit(o.metric) or o.metric for o in summary.objectives)
    counts = [point.num_finished for point in history]
    traces = [
        go.Scatter(
            x=counts,
            y=[point.hypervolume for point in history],
            mode="lines",
            line={"shape": "hv", "color": BLUE, "width": 2},
            name="all candidates so far",
            text=[f"after trial {point.number}" for point in history],
        ),
        go.Scatter(
            x=[counts[0], counts[-1]] if counts else [],
            y=[summary.baseline_hypervolume] * (2 if counts else 0),
            mode="lines",
            line={"dash": "dash", "color": ORANGE},
            name="baselines alone",
            hoverinfo="skip",
        ),
    ]
    traces = [trace for trace in traces if len(trace.x)]
    return go.Figure(traces, _layout("finished trials", f"hypervolume [{units}]"))


def learning_curves(summary: StudySummary, objective: Objective) -> go.Figure:
    """Validation quality against epochs: the Pareto set and the baselines by name, others grey."""
    named = [entry for entry in summary.baselines if not entry.is_on_front]
    named = [*summary.front, *named][:_MAX_CURVES]
    names = {entry.trials[0].number: entry for entry in named}
    complete = [trial for entry in summary.entries for trial in entry.trials]
    others = [
        trial
        for trial in (*complete, *summary.running, *summary.failed)
        if trial.number not in names and objective.metric in trial.quality
    ]
    traces = [_other_curves(summary.header, others, objective.metric)]
    for index, entry in enumerate(named):
        epochs, values = _curve(entry.trials[0], objective.metric)
        line = {
            "color": LINE_COLOURS[index % len(LINE_COLOURS)],
            "dash": DASHES[index // len(LINE_COLOURS) % len(DASHES)],
        }
        name = escape(entry.baseline or f"trial {entry.number}")
        traces.append(go.Scatter(x=epochs, y=values, mode="lines+markers", name=name, line=line))
    layout = _layout("epochs", axis_title(objective))
    layout["xaxis"]["tickvals"] = list(summary.header.rungs)
    return go.Figure([trace for trace in traces if len(trace.x)], layout)


def _points(
    summary: StudySummary,
    panel: Panel,
    entries: Sequence[CandidateSummary],
    name: str,
    colour: int | None,
    symbol: str,
) -> tuple[go.Scatter, ...]:
    """The points, and their legend entry: a colour scale has no colour of its own to show."""
    is_front = symbol == "diamond"
    marker: dict[str, Any] = {
        "symbol": symbol,
        "size": 12 if is_front else 8,
        "color": BLUE if is_front else GREY,
        "line": {"color": GREY, "width": 1},
    }
    key = go.Scatter(
        x=[None] * min(1, len(entries)),
        y=[None] * min(1, len(entries)),
        mode="markers",
        name=name,
        legendgroup=name,
        marker=marker,
    )
    if colour is not None:
        scale = {"color": [mean(entry, colour) for entry in entries], "coloraxis": "coloraxis"}
        marker = marker | scale
    points = go.Scatter(
        x=[panel.point(entry)[0] for entry in entries],
        y=[panel.point(entry)[1] for entry in entries],
        mode="markers",
        name=name,
        legendgroup=name,
        showlegend=False,
        marker=marker,
        hovertext=[_hover(summary, entry) for entry in entries],
        hoverinfo="text",
        hoverlabel={"bgcolor": BLUE if is_front else GREY, "font": {"color": "white"}},
        customdata=[entry.number for entry in entries],
        error_x=_error_bars(entries, panel.x) if is_front else None,
        error_y=_error_bars(entries, panel.y) if is_front else None,
    )
    return key, points


def _colour_range(panel: Panel, column: int) -> dict[str, float]:
    """Ends of the colour scale: what the front and the baselines span; outliers are clipped."""
    values = [mean(entry, column) for entry in (*panel.front, *panel.baselines)]
    return {"cmin": min(values), "cmax": max(values)} if values else {}


def _error_bars(entries: Iterable[CandidateSummary], column: int) -> dict[str, Any]:
    lengths = [errors(entry, column) for entry in entries]
    return {
        "type": "data",
        "symmetric": False,
        "arrayminus": [below for below, _ in lengths],
        "array": [above for _, above in lengths],
        "color": BAR,
        "thickness": 1.2,
        "width": 0,
    }


def _rings(panel: Panel) -> go.Scatter:
    return go.Scatter(
        x=[panel.point(entry)[0] for entry in panel.baselines],
        y=[panel.point(entry)[1] for entry in panel.baselines],
        mode="markers+text",
        name="baseline",
        text=[escape(entry.label) for entry in panel.baselines],
        textposition=[
            "bottom left" if panel.is_right(entry) else "bottom right" for entry in panel.baselines
        ],
        marker={"symbol": "square-open", "size": 18, "color": ORANGE, "line": {"width": 2}},
        hoverinfo="skip",
        cliponaxis=False,
    )


def _knee(panel: Panel) -> go.Scatter:
    knees = [entry for entry in panel.front if entry.is_knee]
    return go.Scatter(
        x=[panel.point(entry)[0] for entry in knees],
        y=[panel.point(entry)[1] for entry in knees],
        mode="markers",
        name="knee of the Pareto set",
        marker={"symbol": "star-open", "size": 22, "color": ORANGE, "line": {"width": 2}},
        hoverinfo="skip",
        cliponaxis=False,
    )


def _dominated_name(panel: Panel) -> str:
    if len(panel.dominated) == panel.num_dominated:
        return "dominated"
    return f"dominated ({len(panel.dominated)} of {panel.num_dominated} shown)"


def _hover(summary: StudySummary, entry: CandidateSummary) -> str:
    name = f" ({entry.baseline})" if entry.baseline else ""
    lines = [f"<b>trial {entry.number}{escape(name)}</b>"]
    lines += [
        escape(f"{stage}: {text}")
        for stage, text in stage_labels(summary.header, entry.candidate).items()
    ]
    for objective, value in zip(summary.objectives, entry.values, strict=True):
        text = f"{format_estimate(objective.metric, value)} {unit(objective.metric)}"
        lines.append(f"{escape(metric_name(objective))}: {text}")
    lines.append(plural(len({trial.seed for trial in entry.trials}), "seed"))
    lines += [escape(text) for text in (*entry.flags, *entry.violations)]
    return "<br>".join(lines)


def _curve(trial: TrialRecord, metric: str) -> tuple[list[int], list[float]]:
    pairs = [
        (rung.epochs, dict(rung.quality)[metric])
        for rung in trial.rungs
        if metric in dict(rung.quality)
    ]
    return [epochs for epochs, _ in pairs], [value for _, value in pairs]


def _other_curves(header: StudyHeader, others: Sequence[TrialRecord], metric: str) -> go.Scatter:
    """All in one trace, with gaps: hundreds of traces make a page crawl."""
    trials = thin(others, _MAX_OTHER_CURVES)
    x: list[int | None] = []
    y: list[float | None] = []
    texts: list[str] = []
    for trial in trials:
        epochs, values = _curve(trial, metric)
        x += [*epochs, None]
        y += [*values, None]
        text = f"trial {trial.number}: {short_label(header, trial.candidate)}"
        texts += [escape(text)] * (len(epochs) + 1)
    shown = "" if len(trials) == len(others) else f" ({len(trials)} of {len(others)} shown)"
    return go.Scatter(
        x=x,
        y=y,
        mode="lines",
        name=f"other trials{shown}",
        line={"color": GREY, "width": 1},
        opacity=0.5,
        hovertext=texts,
        hoverinfo="text+y",
    )


def _layout(x_title: str, y_title: str) -> dict[str, Any]:
    def axis(title: str) -> dict[str, Any]:
        return {
            "title": {"text": escape(title)},
            "gridcolor": "rgba(128,128,128,0.25)",
            "linecolor": GREY,
            "zeroline": False,
            "showline": True,
            "ticks": "outside",
            "automargin": True,
        }

    return {
        "template": "none",
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13},
        "xaxis": axis(x_title),
        "yaxis": axis(y_title),
        "legend": {"orientation": "h", "yref": "container", "y": 0, "font": {"size": 12.5}},
        "margin": {"l": 60, "r": 20, "t": 20, "b": 60},
        "hovermode": "closest",
    }
