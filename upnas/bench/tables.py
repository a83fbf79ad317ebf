"""The tables of a benchmark, as text cells; the terminal and the Markdown show the same."""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from upnas.bench.records import MIB, Benchmark, Group, Measurement, Mode


@dataclass(frozen=True, slots=True)
class Table:
    """Columns and rows of plain text; all columns but the first are numbers.

    Attributes:
        title: What it shows.
        columns: The heads.
        rows: One cell per column.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def group_table(group: Group) -> Table:
    """The upsamplers of one shape in one mode, fastest first."""
    measured = sorted(group.measurements, key=lambda measurement: measurement.lean.median_ms)
    bandwidth = group.bytes_per_ms / 1e6 if group.copy_ms else 0.0
    return Table(
        title=f"{group.shape}, {group.mode}; copy {bandwidth:.1f} GB/s",
        columns=(
            "upsampler",
            "time [ms]",
            "quartiles [ms]",
            "n",
            "floor [%]",
            "memory [MiB]",
            "naive [ms]",
            "time [/ naive]",
            "naive [MiB]",
            "memory [/ naive]",
        ),
        rows=tuple(_row(group, measurement) for measurement in measured),
    )


def _row(group: Group, measurement: Measurement) -> tuple[str, ...]:
    lean, naive = measurement.lean, measurement.naive
    low, high = lean.quartiles_ms
    return (
        label(measurement),
        number(lean.median_ms),
        f"{number(low)}-{number(high)}",
        str(len(lean.samples_ms)),
        number(group.floor_percent(measurement)),
        number(lean.extra_bytes / MIB),
        "" if naive is None else number(naive.median_ms),
        _ratio(measurement.time_ratio),
        "" if naive is None else number(naive.extra_bytes / MIB),
        _ratio(measurement.memory_ratio),
    )


def brief(table: Table) -> Table:
    """Without spread and the naive formulations' own numbers, for narrow terminals."""
    dropped = {"quartiles [ms]", "n", "naive [ms]", "naive [MiB]"}
    kept = [index for index, column in enumerate(table.columns) if column not in dropped]
    rows = tuple(tuple(row[index] for index in kept) for row in table.rows)
    return Table(table.title, tuple(table.columns[index] for index in kept), rows)


def tutorial_table(benchmark: Benchmark, mode: Mode) -> Table | None:
    """Upsamplers in rows, channels in columns; None if it was not measured."""
    groups = [group for group in benchmark.groups if group.shape.is_tutorial and group.mode == mode]
    if not groups:
        return None
    shape = groups[0].shape
    sides = f"{shape.height}x{shape.width} -> {shape.output[0]}x{shape.output[1]}"
    columns = ["upsampler"]
    for group in groups:
        channels = f"C={group.shape.channels}"
        columns += [f"{channels} [{unit}]" for unit in ("ms", "/ nearest", "MiB")]
    found = [{label(m): m for m in group.measurements} for group in groups]
    names = list(dict.fromkeys(name for measured in found for name in measured))
    return Table(
        title=f"{sides}, batch 1, {mode}",
        columns=tuple(columns),
        rows=tuple(
            (name, *(cell for measured in found for cell in _tutorial_cells(measured, name)))
            for name in names
        ),
    )


def _tutorial_cells(measured: dict[str, Measurement], name: str) -> tuple[str, ...]:
    if name not in measured:
        return "", "", ""
    lean = measured[name].lean
    ratio = None
    if "nearest" in measured:
        pairs = zip(lean.samples_ms, measured["nearest"].lean.samples_ms, strict=False)
        ratio = statistics.median(own / nearest for own, nearest in pairs)
    return number(lean.median_ms), _ratio(ratio), number(lean.extra_bytes / MIB)


def missing(groups: Iterable[Group]) -> dict[tuple[str, str], list[str]]:
    """What could not run: (upsampler or its naive formulation, reason) -> shapes and modes."""
    found: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        where = f"{group.shape.name} ({group.mode})"
        refused = [(str(refusal.entry), refusal.reason) for refusal in group.refusals]
        refused += [
            (f"{measurement.entry}, naive", measurement.no_naive)
            for measurement in group.measurements
            if measurement.no_naive is not None
        ]
        for key in refused:
            found.setdefault(key, []).append(where)
    return found


def label(measurement: Measurement) -> str:
    """The entry, and what it was collapsed to."""
    if measurement.collapsed_to is None:
        return str(measurement.entry)
    return f"{measurement.entry}: {measurement.collapsed_to}"


def number(value: float) -> str:
    """Three significant digits, without an exponent."""
    return f"{value:.{max(0, 2 - _exponent(value))}f}"


def _exponent(value: float) -> int:
    return int(f"{value:e}".split("e")[1]) if value else 0


def _ratio(value: float | None) -> str:
    return "" if value is None else number(value)
