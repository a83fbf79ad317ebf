"""How metrics, numbers and intervals are written; shared by every form of the report."""

from __future__ import annotations

import math
from typing import Final

from upnas.front import Estimate
from upnas.records import COST_METRICS, Objective

PLUS_MINUS: Final = "\N{PLUS-MINUS SIGN}"
TIMES: Final = "\N{MULTIPLICATION SIGN}"

_UNITS: Final = {"_ms": "ms", "_mib": "MiB", "_s": "s", "psnr": "dB"}


def unit(metric: str) -> str:
    """The unit that a metric's suffix names; empty for fractions and counts."""
    return next((unit for suffix, unit in _UNITS.items() if metric.endswith(suffix)), "")


def metric_name(objective: Objective) -> str:
    """The metric in words, with its target where one was named: ``latency@laptop``."""
    name = objective.metric
    for suffix in _UNITS:
        if suffix.startswith("_"):
            name = name.removesuffix(suffix)
    name = name.replace("_", " ")
    return name if objective.target is None else f"{name}@{objective.target}"


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
    """A number with its metric's unit."""
    return f"{format_number(value)} {unit(metric)}".rstrip()


def format_estimate(metric: str, estimate: Estimate | None) -> str:
    """A mean with its interval: ``mean +- half`` for a quality, ``mean [low, high]`` for a cost."""
    if estimate is None:
        return "not measured"
    if estimate.low is None or estimate.high is None:
        return format_number(estimate.mean)
    half = (estimate.high - estimate.low) / 2
    digits = _decimals(half)
    if metric in COST_METRICS:
        ends = f"{estimate.low:.{digits}f}, {estimate.high:.{digits}f}"
        return f"{estimate.mean:.{digits}f} [{ends}]"
    return f"{estimate.mean:.{digits}f} {PLUS_MINUS} {half:.{digits}f}"


def format_difference(estimate: Estimate) -> str:
    """A signed difference with its interval: ``+0.012 +- 0.004``."""
    if estimate.low is None or estimate.high is None:
        return f"{estimate.mean:+.4f}"
    half = (estimate.high - estimate.low) / 2
    digits = _decimals(half)
    return f"{estimate.mean:+.{digits}f} {PLUS_MINUS} {half:.{digits}f}"


def plural(count: int, noun: str) -> str:
    """``1 trial``, ``2 trials``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _decimals(half: float) -> int:
    """Decimals that show two significant digits of a half-width."""
    if half < 1e-6:
        return 4
    return max(0, 1 - math.floor(math.log10(half)))
