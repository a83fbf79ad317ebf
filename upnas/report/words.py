"""How metrics, numbers and intervals are written; shared by every form of the report."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Final

from upnas.front import Estimate
from upnas.records import COST_METRICS, Objective, Target

PLUS_MINUS: Final = "\N{PLUS-MINUS SIGN}"
TIMES: Final = "\N{MULTIPLICATION SIGN}"
NOT_MEASURED: Final = "not measured"

_UNITS: Final = {
    "_ms": "ms",
    "_mib": "MiB",
    "_s": "s",
    "psnr": "dB",
    "hd95": "px",
    "edge_rise_width": "px",
    "spectrum_distance": "nats",
}


def unit(metric: str) -> str:
    """The unit of a metric by the end of its name; empty for fractions and counts."""
    return next((unit for suffix, unit in _UNITS.items() if metric.endswith(suffix)), "")


def metric_name(objective: Objective) -> str:
    """The metric in words, with its target where one was named: ``latency@laptop``."""
    name = metric_words(objective.metric)
    return name if objective.target is None else f"{name}@{objective.target}"


def metric_words(metric: str) -> str:
    """A metric's name in words, without its unit."""
    for suffix in _UNITS:
        if suffix.startswith("_"):
            metric = metric.removesuffix(suffix)
    return metric.replace("_", " ")


def target_words(target: Target) -> str:
    """A target without its name: ``cpu, 1 thread, eager, float32, 1 x 3 x 256 x 256``.

    The memory format is named where it is not contiguous, threads and an allocator that keeps
    memory where the device is the CPU.
    """
    parts: list[str] = [target.device]
    if target.device == "cpu":
        parts.append(plural(target.threads, "thread"))
    parts += [target.runtime, target.dtype]
    if target.memory_format != "contiguous":
        parts.append(target.memory_format)
    if target.device == "cpu" and target.allocator == "keep":
        parts.append("freed memory kept")
    return ", ".join([*parts, " x ".join(map(str, target.input_shape))])


def axis_title(objective: Objective) -> str:
    """Name, unit and direction: ``latency [ms], lower is better``."""
    direction = "higher" if objective.direction == "maximize" else "lower"
    bracket = f" [{unit(objective.metric)}]" if unit(objective.metric) else ""
    return f"{metric_name(objective)}{bracket}, {direction} is better"


def format_number(value: float) -> str:
    """Four significant digits without an exponent; whole numbers from 1000 on."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def with_unit(metric: str, value: float) -> str:
    """A number with its metric's unit; two decimals where there is one, so that numbers align."""
    if not unit(metric) or abs(value) >= 1000:
        return f"{format_number(value)} {unit(metric)}".rstrip()
    return f"{value:.2f} {unit(metric)}"


def shared_decimals(estimates: Iterable[Estimate | None]) -> int:
    """Decimals for a whole column, so that its numbers align and differences show.

    With intervals: two significant digits of the median half-width. Without: two of the range,
    and at least four of the largest value. None for whole numbers, never more than four.
    """
    known = [estimate for estimate in estimates if estimate is not None]
    means = [estimate.mean for estimate in known]
    halves = [half for estimate in known if (half := _half_width(estimate)) is not None]
    if halves:
        return _decimals(statistics.median(halves))
    if all(value.is_integer() for value in means):
        return 0
    largest = max(map(abs, means))
    return max(_decimals(max(means) - min(means)), _decimals(largest / 100)) if largest else 4


def format_estimate(metric: str, estimate: Estimate | None, decimals: int | None = None) -> str:
    """A mean with its interval: ``mean +- half`` for a quality, ``mean [low, high]`` for a cost.

    Args:
        metric: Its name tells a cost from a quality.
        estimate: None where it was not measured.
        decimals: Those of the column; None = those of this value alone.
    """
    if estimate is None:
        return NOT_MEASURED
    digits = shared_decimals([estimate]) if decimals is None else decimals
    mean = f"{estimate.mean:,.{digits}f}"
    half = _half_width(estimate)
    if half is None:
        return mean
    if metric in COST_METRICS:
        return f"{mean} [{estimate.low:,.{digits}f}, {estimate.high:,.{digits}f}]"
    return f"{mean} {PLUS_MINUS} {half:.{digits}f}"


def format_difference(estimate: Estimate, decimals: int | None = None) -> str:
    """A signed difference with its interval: ``+0.012 +- 0.004``."""
    half = _half_width(estimate)
    if half is None:
        return f"{estimate.mean:+z.4f}"
    digits = shared_decimals([estimate]) if decimals is None else decimals
    return f"{estimate.mean:+z.{digits}f} {PLUS_MINUS} {half:.{digits}f}"


def plural(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _half_width(estimate: Estimate) -> float | None:
    if estimate.low is None or estimate.high is None:
        return None
    return (estimate.high - estimate.low) / 2


def _decimals(scale: float) -> int:
    """Decimals that show two significant digits of a half-width or a range; at most four."""
    if scale < 1e-6:
        return 4
    return min(4, max(0, 1 - math.floor(math.log10(scale))))
