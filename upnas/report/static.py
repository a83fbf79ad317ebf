"""Still pictures (matplotlib) for README files, TensorBoard and pages without scripts.

Figures are made without pyplot: no global state, no display, safe in any thread. The same study
gives the same bytes: no date, and the ids in the SVG are hashed with a fixed salt.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Polygon
from matplotlib.textpath import TextPath
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import Affine2D

from upnas.front import CandidateSummary, StudySummary
from upnas.report.labels import Box, place_labels
from upnas.report.panel import Panel, drawn_columns, errors, make_panel, spread
from upnas.report.words import axis_title, metric_name, plural

BLUE: Final = "#0072B2"
ORANGE: Final = "#C44E00"
GREY: Final = "#A6ADB4"
INK: Final = "#2B3137"
MUTED: Final = "#6A737D"

#: More front members than this are not numbered: the numbers would cover the points.
_MAX_NUMBERED: Final = 15

STYLE: Final[Any] = {
    "svg.hashsalt": "upnas",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
    "text.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E9EC",
    "grid.linewidth": 0.8,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "axes.formatter.useoffset": False,
}


def pareto_svg(summary: StudySummary) -> str:
    """One panel per pair of the first objective with each other one, as SVG text.

    Costs that hardly differ get a sentence instead of a panel. Draws a note instead of panels when
    there is nothing to draw.
    """
    with rc_context({**STYLE, "font.size": 12}):
        columns = drawn_columns(summary)
        num_columns = min(2, max(1, len(columns)))
        num_rows = max(1, math.ceil(len(columns) / num_columns))
        width = 6.0 * num_columns if num_columns > 1 else 8.6
        figure = Figure(figsize=(width, 4.6 * num_rows + 1.3), layout="constrained")
        _title(figure, summary)
        grid = figure.subplots(num_rows, num_columns, squeeze=False)
        flat = list(grid.flat)
        panels = [make_panel(summary, x, y) for x, y in columns]
        for axes, panel in zip(flat, panels, strict=False):
            _draw_panel(axes, summary, panel, is_small=False)
        for axes in flat[len(columns) :]:
            axes.set_axis_off()
        _legend(figure, flat)
        for axes, panel in zip(flat, panels, strict=False):
            _names(axes, panel, is_small=False)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().decode()


def pareto_image(summary: StudySummary, x: int, y: int) -> npt.NDArray[np.uint8]:
    """One pair of objectives as pixels, readable at a width of 320.

    Returns:
        (480, 640, 3) red, green and blue.
    """
    with rc_context({**STYLE, "font.size": 10.5}):
        figure = Figure(figsize=(4.0, 3.0), dpi=160, layout="constrained")
        axes, panel = figure.subplots(), make_panel(summary, x, y)
        _draw_panel(axes, summary, panel, is_small=True)
        _names(axes, panel, is_small=True)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="rgba", dpi="figure")
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8).reshape(480, 640, 4)[..., :3]


def _title(figure: Figure, summary: StudySummary) -> None:
    """What the picture shows, and the costs that are left out for being alike."""
    name, num_candidates = summary.header.name, plural(len(summary.entries), "candidate")
    lines = [
        f"{name}: {num_candidates}, {len(summary.front)} in the Pareto set. "
        "Numbers are trials, bars 95 % intervals."
    ]
    drawn = {x for x, _ in drawn_columns(summary)}
    for column, objective in enumerate(summary.objectives):
        if column > 0 and column not in drawn:
            share = f"{100 * spread(summary, column):.1g} %"
            lines.append(f"No panel for {metric_name(objective)}: it differs by only {share}.")
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=12)


def _draw_panel(axes: Axes, summary: StudySummary, panel: Panel, *, is_small: bool) -> None:
    objectives = summary.objectives
    axes.set_xlabel(axis_title(objectives[panel.x]))
    axes.set_ylabel(axis_title(objectives[panel.y]))
    axes.xaxis.set_major_locator(MaxNLocator(4 if is_small else 7, steps=[1, 2, 5, 10]))
    axes.yaxis.set_major_locator(MaxNLocator(4 if is_small else 7, steps=[1, 2, 5, 10]))
    axes.tick_params(length=0)
    if not (panel.front or panel.dominated or panel.excluded):
        axes.text(0.5, 0.5, "no complete candidate", ha="center", transform=axes.transAxes)
        return
    axes.set_xlim(*panel.limits[0])
    axes.set_ylim(*panel.limits[1])
    _points(axes, panel, plural(len(objectives), "objective"), 0.7 if is_small else 1.0)
    _front_line(axes, summary, panel)
    _error_bars(axes, panel)
    if panel.num_outside and not is_small:
        note = f"{plural(panel.num_outside, 'candidate')} outside the picture"
        axes.set_title(note, fontsize="small", color=MUTED, loc="right")


def _points(axes: Axes, panel: Panel, objectives: str, scale: float) -> None:
    def scatter(entries: Sequence[CandidateSummary], label: str, size: float, **style: Any) -> None:
        if entries:
            x, y = zip(*map(panel.point, entries), strict=True)
            axes.scatter(x, y, label=label, s=scale * size, **style)

    ring: dict[str, Any] = {"facecolors": "none", "zorder": 5}
    pareto = {"marker": "D", "color": BLUE, "edgecolors": "white", "zorder": 4}
    scatter(panel.front, f"Pareto set ({objectives})", 64, **pareto)
    scatter(panel.dominated, "dominated", 34, color=GREY, linewidths=0)
    scatter(panel.excluded, "off the front", 34, marker="x", color=GREY)
    scatter(panel.baselines, "baseline", 190, marker="s", edgecolors=ORANGE, lw=1.8, **ring)
    knee = [entry for entry in panel.front if entry.is_knee]
    scatter(knee, "knee of the Pareto set", 250, edgecolors=INK, lw=1.6, **ring)


def _front_line(axes: Axes, summary: StudySummary, panel: Panel) -> None:
    """The step front, and a shade over what it dominates within the picture."""
    if not panel.steps:  # no trial has beaten the trivial baseline
        return
    axes.plot(
        *zip(*panel.steps, strict=True), color=BLUE, lw=1.8, label="front of the two axes", zorder=3
    )
    directions = [summary.objectives[column].direction for column in (panel.x, panel.y)]
    x, y = (
        limits[direction == "minimize"]  # the worse end of the axis
        for limits, direction in zip(panel.limits, directions, strict=True)
    )
    first, last = panel.steps[0], panel.steps[-1]  # best in x, best in y
    outline = [(first[0], y), *panel.steps, (x, last[1]), (x, y)]
    axes.add_patch(Polygon(outline, facecolor=BLUE, alpha=0.06, linewidth=0, zorder=0.5))


def _error_bars(axes: Axes, panel: Panel) -> None:
    if not panel.front:
        return
    x, y = zip(*map(panel.point, panel.front), strict=True)
    horizontal, vertical = (
        np.transpose([errors(entry, column) for entry in panel.front])
        for column in (panel.x, panel.y)
    )
    axes.errorbar(
        x, y, vertical, horizontal, fmt="none", ecolor=BLUE, elinewidth=1.1, alpha=0.28, zorder=2
    )


def _names(axes: Axes, panel: Panel, *, is_small: bool) -> None:
    """Baselines and the knee by name, front members by the number of the table's row."""
    labels = [(entry, entry.label, ORANGE) for entry in panel.baselines]
    labels += [
        (entry, str(entry.number), BLUE)
        for entry in panel.front
        if not (entry.baseline or is_small or len(panel.front) > _MAX_NUMBERED)
    ]
    if is_small:  # there is no legend to say what the circle is
        labels += [(entry, "knee", INK) for entry in panel.front if entry.is_knee]
    if not labels:
        return
    figure = axes.get_figure(root=True)
    assert figure is not None
    figure.draw_without_rendering()  # settles the layout, on which places depend
    to_points = axes.transData + Affine2D().scale(72 / figure.dpi)

    def spots(places: Iterable[tuple[float, float]]) -> list[tuple[float, float]]:
        return [tuple(to_points.transform(place)) for place in places]

    (left, bottom), (right, top) = spots(zip(axes.get_xlim(), axes.get_ylim(), strict=True))
    placed = place_labels(
        anchors := spots(panel.point(entry) for entry, _, _ in labels),
        [_text_size(text) for _, text, _ in labels],
        frame=Box(left, bottom, right, top),
        obstacles=[
            *(Box.around(spot, 4) for spot in spots(map(panel.point, panel.dominated))),
            *(Box.around(spot, 6) for spot in spots(map(panel.point, panel.front))),
            *(Box.around(spot, 8) for spot in spots(map(panel.point, panel.baselines))),
            *(Box.between(*ends, width=2) for ends in itertools.pairwise(spots(panel.steps))),
        ],
    )
    for (entry, text, colour), (x, y), place in zip(labels, anchors, placed, strict=True):
        line = {"arrowstyle": "-", "color": colour, "lw": 0.7, "alpha": 0.6, "shrinkB": 5}
        axes.annotate(
            text,
            panel.point(entry),
            (place.centre[0] - x, place.centre[1] - y),
            textcoords="offset points",
            ha="center",
            va="center",
            color=colour,
            fontsize="small",
            zorder=6,
            arrowprops=line if place.has_line else None,
        )


def _text_size(text: str) -> tuple[float, float]:
    """Width and height of a small label, in points; one line of any text is as high."""
    font = FontProperties(size="small")
    size = font.get_size_in_points()
    return TextPath((0, 0), text, size=size, prop=font).get_extents().width, 1.1 * size


def _legend(figure: Figure, panels: list[Axes]) -> None:
    """One legend below all panels; a panel without candidates adds nothing."""
    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    if found:
        figure.legend(
            list(found.values()),
            list(found),
            loc="outside lower center",
            ncols=3,
            frameon=False,
            fontsize="small",
            markerscale=0.8,
        )
