"""Still pictures (matplotlib) for README files, TensorBoard and pages without scripts.

Figures are made without pyplot: no global state, no display, safe in any thread. The same study
gives the same bytes: no date, and the ids in the SVG are hashed with a fixed salt.
"""

from __future__ import annotations

import io
import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from upnas.front import CandidateSummary, StudySummary
from upnas.report.panel import Panel, errors, make_panel, panel_columns
from upnas.report.words import axis_title, plural

BLUE: Final = "#0072B2"
ORANGE: Final = "#D55E00"
GREY: Final = "#8A8A8A"

#: More front members than this are not numbered: the numbers would cover the points.
_MAX_NUMBERED: Final = 15

_STYLE: Final[Any] = {
    "svg.hashsalt": "upnas",
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "font.family": "DejaVu Sans",  # ships with matplotlib: the same everywhere
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
}


def pareto_svg(summary: StudySummary) -> str:
    """One panel per pair of the first objective with each other one, as SVG text.

    Draws a note instead of panels when there is nothing to draw.
    """
    with rc_context({**_STYLE, "font.size": 12}):
        columns = panel_columns(summary)
        num_columns = min(2, max(1, len(columns)))
        num_rows = max(1, math.ceil(len(columns) / num_columns))
        figure = Figure(figsize=(5.6 * num_columns, 4.4 * num_rows + 0.7))
        grid = figure.subplots(num_rows, num_columns, squeeze=False)
        flat = list(grid.flat)
        for axes, (x, y) in zip(flat, columns, strict=False):
            _draw_panel(axes, summary, make_panel(summary, x, y), is_small=False)
        for axes in flat[len(columns) :]:
            axes.set_axis_off()
        _legend(figure, flat)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().decode()


def pareto_image(summary: StudySummary, x: int, y: int) -> npt.NDArray[np.uint8]:
    """One pair of objectives as pixels, readable at a width of 320.

    Returns:
        (480, 640, 3) red, green and blue.
    """
    with rc_context({**_STYLE, "font.size": 11}):
        figure = Figure(figsize=(4.0, 3.0), dpi=160, layout="constrained")
        _draw_panel(figure.subplots(), summary, make_panel(summary, x, y), is_small=True)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="rgba", dpi="figure")
    return np.frombuffer(buffer.getvalue(), dtype=np.uint8).reshape(480, 640, 4)[..., :3]


def _draw_panel(axes: Axes, summary: StudySummary, panel: Panel, *, is_small: bool) -> None:
    objectives = summary.objectives
    axes.set_xlabel(axis_title(objectives[panel.x]))
    axes.set_ylabel(axis_title(objectives[panel.y]))
    axes.xaxis.set_major_locator(MaxNLocator(4 if is_small else 6))
    axes.yaxis.set_major_locator(MaxNLocator(4 if is_small else 6))
    if not (panel.front or panel.dominated or panel.excluded):
        axes.text(0.5, 0.5, "no complete candidate", ha="center", transform=axes.transAxes)
        return
    size = 0.7 if is_small else 1.0
    _scatter(axes, panel, panel.excluded, "off the front", marker="x", color=GREY, s=30 * size)
    _scatter(axes, panel, panel.dominated, "dominated", marker="o", color=GREY, s=26 * size)
    axes.plot(*zip(*panel.steps, strict=True), color=BLUE, lw=1.4, label="front of the two axes")
    _error_bars(axes, panel)
    pareto = f"Pareto set ({plural(len(objectives), 'objective')})"
    _scatter(axes, panel, panel.front, pareto, marker="D", color=BLUE, s=52 * size, zorder=3)
    ring: dict[str, Any] = {"facecolors": "none", "linewidths": 1.8, "zorder": 4}
    _scatter(
        axes,
        panel,
        panel.baselines,
        "baseline",
        marker="s",
        edgecolors=ORANGE,
        s=170 * size,
        **ring,
    )
    knee = [entry for entry in panel.front if entry.is_knee]
    _scatter(
        axes,
        panel,
        knee,
        "knee of the Pareto set",
        marker="o",
        edgecolors="black",
        s=300 * size,
        **ring,
    )
    _names(axes, panel, is_small=is_small)
    axes.set_xlim(*panel.limits[0])
    axes.set_ylim(*panel.limits[1])
    if panel.num_outside and not is_small:
        note = f"{plural(panel.num_outside, 'candidate')} outside the picture"
        axes.set_title(note, fontsize="small", color=GREY, loc="right")


def _scatter(
    axes: Axes,
    panel: Panel,
    entries: tuple[CandidateSummary, ...] | list[CandidateSummary],
    label: str,
    **style: Any,
) -> None:
    if entries:
        axes.scatter(*zip(*map(panel.point, entries), strict=True), label=label, **style)


def _error_bars(axes: Axes, panel: Panel) -> None:
    if not panel.front:
        return
    x, y = zip(*map(panel.point, panel.front), strict=True)
    horizontal, vertical = (
        np.transpose([errors(entry, column) for entry in panel.front])
        for column in (panel.x, panel.y)
    )
    axes.errorbar(x, y, vertical, horizontal, fmt="none", ecolor=GREY, elinewidth=1, capsize=2)


def _names(axes: Axes, panel: Panel, *, is_small: bool) -> None:
    """Baselines by name, front members by the number of the table's row."""
    for entry in panel.front:
        if entry.is_knee and is_small:  # there is no legend to say what the circle is
            _label(axes, panel, entry, "knee", 11, "black")
    for entry in panel.baselines:
        _label(axes, panel, entry, entry.label, -13, ORANGE)
    for entry in panel.front:
        if not (entry.baseline or is_small or len(panel.front) > _MAX_NUMBERED):
            _label(axes, panel, entry, str(entry.number), 5, BLUE)


def _label(
    axes: Axes, panel: Panel, entry: CandidateSummary, text: str, lift: int, colour: str
) -> None:
    """Write beside a point, towards the middle of the picture."""
    left = panel.is_right(entry)
    axes.annotate(
        text,
        panel.point(entry),
        (-9 if left else 9, lift),
        textcoords="offset points",
        ha="right" if left else "left",
        color=colour,
        fontsize="small",
        zorder=5,
    )


def _legend(figure: Figure, panels: list[Axes]) -> None:
    """One legend below all panels; a panel without candidates adds nothing."""
    found: dict[str, Any] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.set_layout_engine("constrained")
    if found:
        figure.legend(
            list(found.values()), list(found), loc="outside lower center", ncols=3, frameon=False
        )
