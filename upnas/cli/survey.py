"""What `upnas measure` prints: costs, samples, verdicts, and how well stages predict a space."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Sequence
from typing import Any, Final

from rich.text import Text

from upnas.cli.tables import output_console, rich_table
from upnas.prediction import LatencyModel, Observation, predict_costs
from upnas.records import Candidate, Latency, StageTable, Survey, SurveyEntry
from upnas.report.table import Table
from upnas.report.words import PLUS_MINUS, TIMES, target_words

_BARS: Final = " \u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_NUM_BINS: Final = 40
_MAX_LABEL: Final = 48


def show_survey(survey: Survey) -> None:
    """Print a table, the samples and the verdicts."""
    console = output_console()
    target, reference = survey.target, survey.reference
    console.print(Text(_conditions_line(survey)), soft_wrap=True)
    console.print(
        Text(
            f"reference {survey.reference_label}: {reference.latency_ms:.4g} ms "
            f"({reference.clock} clock, {len(reference.samples_ms)} samples)"
        ),
        soft_wrap=True,
    )
    console.print()
    title = f"Costs on {target.name}: {target_words(target)}"
    console.print(rich_table(survey_table(survey), title))
    if lines := sample_lines(survey.entries):
        console.print(Text("Samples; the last column holds all slower ones", style="bold"))
        for line in lines:
            console.print(Text(line), soft_wrap=True)
        console.print()
    for entry in survey.entries:
        console.print(Text(f"{entry.label}: {_verdict(entry)}"), soft_wrap=True)
    if survey.stage_table is not None:
        console.print()
        title = f"One upsampler alone, as a share of {survey.reference_label}"
        console.print(rich_table(stage_table(survey.stage_table), title))
        model = latency_model(survey, survey.stage_table)
        console.print(Text(f"Prediction of whole networks: {model.audit()}"), soft_wrap=True)


def latency_model(survey: Survey, table: StageTable) -> LatencyModel:
    """What the survey's stages and measured candidates say about all the others."""
    observations = [
        Observation.of(entry.candidate, entry.costs.latency)
        for entry in survey.entries
        if entry.candidate is not None and entry.costs.latency is not None
    ]
    return LatencyModel.fit(table, observations)


def stage_table(table: StageTable) -> Table:
    """One row per upsampler with its settings, one column per stage; why where it has no time."""
    cells: dict[str, dict[int, str]] = {}
    for number, stage in enumerate(table.stages, start=1):
        for cost in stage:
            text = cost.reason if cost.ratio is None else f"{100 * cost.ratio:.1f} %"
            cells.setdefault(str(cost.choice), {})[number] = text or ""
    numbers = range(1, len(table.stages) + 1)
    heads = tuple(f"stage {number}" for number in numbers)
    rows = tuple(
        (name, *(found.get(number, "-") for number in numbers)) for name, found in cells.items()
    )
    return Table(columns=("upsampler", *heads), rows=rows, numeric=frozenset(heads))


def predictions_csv(survey: Survey, table: StageTable, candidates: Sequence[Candidate]) -> str:
    """Predicted costs of candidates, one per line; empty where one must be measured."""
    model = latency_model(survey, table)
    predicted = predict_costs(model, candidates, survey.reference.latency_ms)
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    stages = [f"stage{number}" for number in range(1, len(table.stages) + 1)]
    numbers = ["latency_ms", "latency_ms_low", "latency_ms_high", "peak_memory_mib"]
    writer.writerow([*stages, *numbers, "num_parameters"])
    for candidate, costs in zip(candidates, predicted, strict=True):
        names = map(str, candidate.stages)
        if costs is None or costs.predicted is None:
            writer.writerow([*names, "", "", "", "", ""])
            continue
        latency = (costs.predicted.median_ms, *costs.predicted.interval_ms)
        texts = [f"{value:.6g}" for value in (*latency, costs.peak_memory_mib)]
        writer.writerow([*names, *texts, costs.num_parameters])
    return buffer.getvalue()


def survey_table(survey: Survey) -> Table:
    """One row per network."""
    rows = [_row(entry) for entry in survey.entries]
    heads = {
        "latency [ms]": "latency",
        f"{TIMES} reference": "ratio",
        "peak memory [MiB]": "peak",
        "training peak [MiB]": "training",
        "process RSS [MiB]": "rss",
        "GPU allocated [MiB]": "gpu",
        "parameters": "parameters",
        "output error": "error",
        "exports": "exports",
        "pairs": "pairs",
        "device [s]": "device_s",
    }
    kept = {head: key for head, key in heads.items() if any(row[key] for row in rows)}
    return Table(
        columns=("network", *kept),
        rows=tuple((row["label"], *(row[key] for key in kept.values())) for row in rows),
        numeric=frozenset(set(kept) - {"exports"}),
    )


def _row(entry: SurveyEntry) -> dict[str, str]:
    costs, latency = entry.costs, entry.costs.latency
    row = {
        "label": entry.label,
        "latency": "",
        "ratio": "",
        "peak": f"{costs.peak_memory_mib:.2f}",
        "training": _optional(costs.training_peak_memory_mib, ".2f"),
        "rss": _optional(costs.process_peak_rss_mib, ".0f"),
        "gpu": "" if costs.device_memory is None else f"{costs.device_memory.allocated_mib:.1f}",
        "parameters": f"{costs.num_parameters:,}",
        "error": _optional(costs.output_error, ".1e"),
        "exports": ", ".join(f"{name}: {outcome}" for name, outcome in costs.exportable),
        "pairs": "",
        "device_s": "",
    }
    if latency is not None:
        low, high = latency.interval_ms
        row |= {
            "latency": f"{_ms(latency.median_ms)} [{_ms(low)}, {_ms(high)}]",
            "ratio": f"{latency.ratio:.3f}",
            "pairs": str(len(latency.samples_ms)),
            "device_s": f"{latency.device_s:.1f}",
        }
    return row


def _ms(value: float) -> str:
    """Hundredths are enough of a network, and nothing of an operator on a small input."""
    return f"{value:.2f}" if value >= 1 else f"{value:.3g}"


def _optional(value: float | None, spec: str) -> str:
    return "" if value is None else format(value, spec)


def sample_lines(entries: Sequence[SurveyEntry]) -> list[str]:
    """One histogram per network over a common axis, and the axis.

    It ends where 95 % of the samples of the slowest network do: a single outlier would leave no
    room for the others.
    """
    timed = [(_cut(entry.label), _times_ms(entry.costs.latency)) for entry in entries]
    timed = [(label, times) for label, times in timed if times]
    if not timed:
        return []
    low = min(min(times) for _, times in timed)
    high = max(sorted(times)[int(0.95 * (len(times) - 1))] for _, times in timed)
    width = max(len(label) for label, _ in timed)
    lines = [f"{label:<{width}}  {_histogram(times, low, high)}" for label, times in timed]
    left = f"{_ms(low)} ms"
    axis = f"{left}{f'{_ms(high)} ms':>{_NUM_BINS - len(left)}}"
    return [*lines, f"{'':<{width}}  {axis}"]


def _cut(label: str) -> str:
    return label if len(label) <= _MAX_LABEL else f"{label[: _MAX_LABEL - 3]}..."


def _times_ms(latency: Latency | None) -> list[float]:
    """The candidate's samples as the pairs see them: ratios times the reference's own time."""
    return [] if latency is None else [ratio * latency.reference_ms for ratio in latency.ratios]


def _histogram(times: Sequence[float], low: float, high: float) -> str:
    counts = [0] * _NUM_BINS
    for time in times:
        position = (time - low) / (high - low) if high > low else float(time > low)
        counts[min(_NUM_BINS - 1, int(position * _NUM_BINS))] += 1
    top = max(counts)
    steps = len(_BARS) - 1
    return "".join(_BARS[-(-count * steps // top)] for count in counts)


def _verdict(entry: SurveyEntry) -> str:
    costs, latency = entry.costs, entry.costs.latency
    if latency is None:
        return f"does not run: {costs.unserved}"
    low, high = latency.ratio_interval
    width = 100 * (high - low) / 2 / latency.ratio
    load = latency.conditions.foreign_cpus if latency.conditions else None
    others = "" if load is None else f", other programs used {load:.2f} CPUs"
    return f"{latency.verdict}, {PLUS_MINUS}{width:.1f} %{others}"


def _conditions_line(survey: Survey) -> str:
    environment = survey.environment
    versions = dict(environment.packages)
    found = [
        environment.machine,
        f"{environment.num_cpus} CPUs",
        *environment.gpus,
        f"torch {versions.get('torch', 'unknown')}",
    ]
    conditions = survey.reference.conditions
    if conditions is not None and conditions.load_average is not None:
        found.append(f"load average {conditions.load_average:.2f}")
    clocks = [
        entry.costs.latency.conditions.clock_mhz
        for entry in survey.entries
        if entry.costs.latency is not None and entry.costs.latency.conditions is not None
    ]
    if known := [clock for clock in clocks if clock is not None]:
        found.append(f"{statistics.median(known):.0f} MHz")
    if conditions is not None and conditions.governor is not None:
        found.append(f"governor {conditions.governor}")
    if conditions is not None and conditions.temperature_c is not None:
        found.append(f"{conditions.temperature_c:.0f} C")
    return ", ".join(found)


def survey_json(survey: Survey) -> dict[str, Any]:
    """The survey as JSON values, with the numbers that are derived from the samples."""
    content = survey.model_dump(mode="json")
    for entry, record in zip(content["entries"], survey.entries, strict=True):
        latency = record.costs.latency
        entry["latency_ms"] = record.costs.latency_ms
        entry["interval_ms"] = None if latency is None else list(latency.interval_ms)
        entry["ratio"] = None if latency is None else latency.ratio
        entry["verdict"] = record.costs.unserved if latency is None else latency.verdict
    return content
