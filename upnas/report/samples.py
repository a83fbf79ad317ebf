"""Every timed sample of a survey as a picture: what a median and its interval stand for."""

from __future__ import annotations

import io
from collections.abc import Sequence

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from upnas.records import Latency, Survey
from upnas.report.static import BLUE, GREY, ORANGE, STYLE


def samples_svg(survey: Survey) -> str:
    """One row per network: its samples in the order they were taken, median and 95 % interval.

    Samples are pair ratios times the reference's own time, so that the median of the points is
    the latency. Points of an unsteady measurement are open.
    """
    timed = [(entry.label, entry.costs.latency) for entry in survey.entries]
    rows = [(label, latency) for label, latency in timed if latency is not None]
    with rc_context({**STYLE, "font.size": 11}):
        figure = Figure(figsize=(8.6, 1.4 + 0.42 * max(1, len(rows))), layout="constrained")
        axes = figure.subplots()
        _draw(axes, rows)
        axes.set_title(f"{survey.target.name}: samples, median, 95 % interval", loc="left")
        axes.set_xlabel("latency [ms]")
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _draw(axes: Axes, rows: Sequence[tuple[str, Latency]]) -> None:
    for row, (_, latency) in enumerate(rows):
        times = [ratio * latency.reference_ms for ratio in latency.ratios]
        # From the top to the bottom of the row in the order of time: a drift is a slope.
        heights = [row - 0.3 + 0.6 * index / max(1, len(times) - 1) for index in range(len(times))]
        is_steady = latency.unsteady is None
        face = GREY if is_steady else "none"
        axes.scatter(times, heights, s=12, facecolors=face, edgecolors=GREY, linewidths=0.8)
        low, high = latency.interval_ms
        axes.plot((low, high), (row, row), color=ORANGE, linewidth=3, solid_capstyle="butt")
        axes.plot(latency.median_ms, row, marker="|", markersize=14, color=BLUE, mew=2)
    axes.set_yticks(range(len(rows)), [label for label, _ in rows])
    axes.invert_yaxis()
