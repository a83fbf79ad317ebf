"""Two passes over the same candidates, and measurements beside trainings, as a picture."""

from __future__ import annotations

import io
from typing import Any, Final

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from upnas.bench.instrument.records import InstrumentBenchmark

_STYLE: Final[Any] = {
    "svg.hashsalt": "upnas",
    "font.family": "DejaVu Sans",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
}
_BLUE: Final = "#0072B2"
_ORANGE: Final = "#C44E00"


def instrument_svg(benchmark: InstrumentBenchmark) -> str:
    """Each point is a candidate; on the diagonal both measurements agree."""
    with rc_context(_STYLE):
        number = 1 if benchmark.beside is None else 2
        figure = Figure(figsize=(4.6 * number, 4.4), layout="constrained")
        panels = list(figure.subplots(1, number, squeeze=False).flat)
        first = [reading.latency_ms for reading in benchmark.first]
        second = [reading.latency_ms for reading in benchmark.second]
        panels[0].scatter(first, second, s=18, color=_BLUE)
        panels[0].set_title("two passes, idle machine", loc="left")
        _axes(panels[0], "first pass [ms]", "second pass [ms]", first)
        if benchmark.beside is not None:
            _beside(
                panels[1], benchmark, [sum(pair) / 2 for pair in zip(first, second, strict=True)]
            )
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None})
    return buffer.getvalue()


def _beside(axes: Axes, benchmark: InstrumentBenchmark, truth: list[float]) -> None:
    assert benchmark.beside is not None
    leased = [reading.latency_ms for reading in benchmark.beside.leased]
    axes.scatter(truth, leased, s=18, color=_BLUE, label="upnas, trainings wait")
    style: dict[str, Any] = {"marker": "^", "facecolors": "none", "edgecolors": _ORANGE}
    axes.scatter(truth, benchmark.beside.naive_ms, s=22, label="mean of ten", **style)
    axes.set_title("beside trainings", loc="left")
    axes.set_yscale("log")
    axes.legend(frameon=False, fontsize="small")
    _axes(axes, "idle machine [ms]", "beside trainings [ms]", truth)


def _axes(axes: Axes, x: str, y: str, values: list[float]) -> None:
    ends = (min(values), max(values))
    axes.plot(ends, ends, color="#A6ADB4", linewidth=1, zorder=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
