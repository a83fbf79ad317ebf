"""The picture of a benchmark (matplotlib, without pyplot): one panel per shape, rows in common."""

from __future__ import annotations

import io
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from upnas.bench.records import Benchmark, Group, Mode, Timed

#: Okabe and Ito's blue and vermilion; shapes of the marks tell the modes apart without colour.
_COLOURS: Final[dict[Mode, str]] = {"forward": "#0072B2", "training": "#D55E00"}
_MARKS: Final[dict[Mode, str]] = {"forward": "o", "training": "s"}
_GREY: Final = "#A6ADB4"

_STYLE: Final[Any] = {
    "svg.hashsalt": "upnas",  # the same result gives the same bytes
    "text.parse_math": False,
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E6E9EC",
}


def benchmark_svg(benchmark: Benchmark) -> str:
    """Draw the medians with their quartiles, the naive formulations and the bandwidth floor."""
    groups = [group for group in benchmark.groups if not group.shape.is_tutorial]
    shapes = list(dict.fromkeys(group.shape for group in groups))
    names = _names_by_time(groups)
    settings = benchmark.settings
    with rc_context(_STYLE):
        size = (max(8.0, 2.2 + 3.0 * len(shapes)), 1.9 + 0.22 * len(names))
        figure = Figure(figsize=size, layout="constrained")
        figure.suptitle(
            f"Upsamplers on {settings.device}: {settings.dtype}, {settings.layout}, "
            f"{settings.threads} thread{'' if settings.threads == 1 else 's'}. "
            "Medians with quartiles.",
            x=0.01,
            ha="left",
        )
        panels = figure.subplots(1, max(1, len(shapes)), sharey=True, squeeze=False)[0]
        for axes, shape in zip(panels, shapes, strict=False):
            axes.set_title(str(shape).replace(": ", "\n"), fontsize="small", loc="left")
            for group in groups:
                if group.shape == shape:
                    _draw(axes, group, names)
            axes.set_xscale("log")
            axes.xaxis.set_major_formatter("{x:g}")
            axes.xaxis.set_minor_formatter(NullFormatter())
            axes.set_xlabel("ms")
        panels[0].set_yticks(range(len(names)), names)
        panels[0].set_ylim(max(1, len(names)) - 0.5, -0.5)
        _legend(figure, list(panels))
        buffer = io.BytesIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue().decode()


def _names_by_time(groups: list[Group]) -> list[str]:
    """All entries; in the order of the first shape and mode that they were measured in."""
    names: dict[str, None] = {}
    for group in groups:
        for measurement in sorted(group.measurements, key=lambda found: found.lean.median_ms):
            names.setdefault(str(measurement.entry))
    return list(names)


def _draw(axes: Axes, group: Group, names: list[str]) -> None:
    colour, mark = _COLOURS[group.mode], _MARKS[group.mode]
    rows = [names.index(str(measurement.entry)) for measurement in group.measurements]
    if not rows:
        return
    floors = [measurement.floor_bytes / group.bytes_per_ms for measurement in group.measurements]
    label = f"{group.mode}, bandwidth floor"
    axes.scatter(floors, rows, s=60, marker="|", color=colour, alpha=0.7, label=label)
    _errorbar(axes, rows, [m.lean for m in group.measurements], group.mode, fmt=mark, color=colour)
    naive = [(row, m.naive) for row, m in zip(rows, group.measurements, strict=True) if m.naive]
    if naive:
        slow_rows, slow = zip(*naive, strict=True)
        label = f"{group.mode}, naive formulation"
        style = {"markerfacecolor": "none", "color": colour}
        _errorbar(axes, list(slow_rows), list(slow), label, fmt=mark, **style)
        for row, measurement in zip(rows, group.measurements, strict=True):
            if measurement.naive is not None:
                ends = (measurement.lean.median_ms, measurement.naive.median_ms)
                axes.plot(ends, (row, row), color=_GREY, linewidth=0.8, zorder=1)


def _errorbar(axes: Axes, rows: list[int], timed: list[Timed], label: str, **style: Any) -> None:
    medians = [entry.median_ms for entry in timed]
    low = [entry.median_ms - entry.quartiles_ms[0] for entry in timed]
    high = [entry.quartiles_ms[1] - entry.median_ms for entry in timed]
    axes.errorbar(medians, rows, xerr=(low, high), label=label, markersize=5, lw=1, **style)


def _legend(figure: Figure, panels: list[Axes]) -> None:
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
        )
