"""The facts of a study as text: what was searched, where, and how costs were measured."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterator

from upnas.front import StudySummary
from upnas.prediction import Audit, LatencyModel, Observation
from upnas.records import Constraint, StageTable, TrialRecord
from upnas.report.words import (
    axis_title,
    format_number,
    plural,
    target_words,
    unit,
    with_unit,
)


def facts(summary: StudySummary) -> tuple[tuple[str, str], ...]:
    """Name and value of everything needed to judge or repeat the study."""
    header, environment = summary.header, summary.header.environment
    memory = f"{format_number(environment.memory_gib)} GiB"
    machine = [environment.machine, plural(environment.num_cpus, "CPU"), memory, *environment.gpus]
    rows = [
        ("Task", f"{header.task.name}; data {_data(header.space)}"),
        ("Search space", f"{header.num_candidates:,} candidates over {len(header.stages)} stages"),
        ("Stages, deepest first", ", ".join(header.stages)),
        ("Objectives", "; ".join(map(axis_title, header.objectives))),
        ("Constraints", "; ".join(map(_constraint, header.constraints)) or "none"),
        ("Targets", "; ".join(f"{t.name}: {target_words(t)}" for t in header.targets) or "none"),
        ("Search", _budget(summary)),
        ("Machine", ", ".join(machine)),
        ("Platform", f"{environment.platform}, Python {environment.python}"),
        ("Versions", ", ".join(f"{name} {version}" for name, version in environment.packages)),
        ("Started", header.created),
        ("Commit", environment.git_commit or "not recorded"),
    ]
    return tuple(rows)


def counts(summary: StudySummary) -> str:
    """How many trials are in which state, and what keeps complete candidates off the front."""
    num_complete = sum(len(entry.trials) for entry in summary.entries)
    parts = [
        f"{plural(summary.num_trials, 'trial')}: {num_complete} complete "
        f"({plural(len(summary.entries), 'candidate')})"
    ]
    for number, what in (
        (len(summary.running), "running"),
        (len(summary.failed), "failed"),
        (len(summary.refused), "refused by a constraint"),
        (summary.num_below_trivial, "kept off the front for not having learned"),
    ):
        if number:
            parts.append(f"{number} {what}")
    return ", ".join(parts) + "."


def hypervolume_line(summary: StudySummary) -> str:
    """The hypervolume with its reference point, and against the baselines' own, in one line."""
    if summary.reference is None:
        return "No hypervolume yet: no candidate is complete."
    units = " x ".join(unit(o.metric) or o.metric for o in summary.objectives)
    point = ", ".join(
        with_unit(objective.metric, value)
        for objective, value in zip(summary.objectives, summary.reference.values, strict=True)
    )
    line = f"Hypervolume {format_number(summary.hypervolume)} {units}, reference point ({point})"
    if summary.baseline_hypervolume > 0:
        ratio = summary.hypervolume / summary.baseline_hypervolume
        line += f", {ratio:.2f} times that of the baselines alone"
    return f"{line}."


def hypervolume_note(summary: StudySummary) -> str:
    """The line, how its reference point was chosen, and who has no share in it."""
    note = hypervolume_line(summary)
    if summary.reference is None:
        return note
    note += f" Reference: {summary.reference.rule}."
    if summary.num_outside_reference:
        number = plural(summary.num_outside_reference, "front member")
        note += f" Beyond the reference point, and so without a share in it: {number}."
    return note


def cost_notes(summary: StudySummary) -> tuple[str, ...]:
    """How costs are measured and what they do not tell."""
    measured = " ".join(_measured(summary))
    return (
        "Latency is the forward time of one batch after warm-up. Each sample is timed next to a "
        "sample of the study's reference network, and the median ratio is multiplied by the "
        f"reference's own time, so a machine that is slow for a while cancels out. {measured} "
        "Intervals are 95 % intervals of that median: they hold timing noise, not what another "
        "machine, runtime, batch or input size would change.",
        "Peak memory is the bytes of all tensors alive at the worst moment of one forward pass: "
        "weights, buffers, input and activations. It is neither the process's memory nor what "
        "training takes, and it leaves out what a library or an allocator keeps for itself.",
        "Quality is the mean over seeds of a short training; its interval is Student's over the "
        "seeds and holds seed noise, not the noise of the data or of the training recipe. A "
        "longer training can change the order of near-equals.",
        "The front was chosen by validation quality, which flatters the best of many; the test "
        "column comes from data that the search never read.",
    )


def _measured(summary: StudySummary) -> Iterator[str]:
    """How the latencies of this study were come by, and how far they are to be trusted."""
    trials = [entry.newest for entry in summary.entries]
    known = [costs for trial in trials for costs in trial.costs]
    latencies = [costs.latency for costs in known if costs.latency is not None]
    if latencies:
        clocks = sorted({latency.clock.replace("_", " ") for latency in latencies})
        pairs, _ = Counter(len(latency.ratios) for latency in latencies).most_common(1)[0]
        yield f"Here: {' and '.join(clocks)} clock, mostly {pairs} pairs per candidate."
        num_rejected = sum(len(latency.rejected) for latency in latencies)
        num_unsteady = sum(latency.unsteady is not None for latency in latencies)
        yield (
            f"{plural(len(latencies), 'measurement')}, {plural(num_rejected, 'block')} rejected "
            f"and measured anew, {num_unsteady} unsteady to the end."
        )
    conditions = [one.conditions for one in latencies if one.conditions is not None]
    loads = [one.foreign_cpus for one in conditions if one.foreign_cpus is not None]
    if loads:
        yield (
            f"Meanwhile other programs kept {statistics.median(loads):.2f} CPUs busy in the "
            f"median, {max(loads):.2f} at most."
        )
    machines = {one.target: one.machine for one in summary.header.references}
    num_elsewhere = sum(
        costs.machine != (machines.get(costs.target) or costs.machine) for costs in known
    )
    if num_elsewhere:
        yield (
            f"{plural(num_elsewhere, 'candidate')} ran on another kind of machine than the "
            "reference at the beginning: ratios still compare, their milliseconds do not."
        )
    num_predicted = sum(costs.predicted is not None for costs in known)
    for table in summary.header.stage_tables:
        audit = _audit(summary, table)
        yield (
            f"Latencies on {table.target} were predicted from single stages where that decided "
            f"({plural(num_predicted, 'candidate')} not on the front): {audit}."
        )


def _audit(summary: StudySummary, table: StageTable) -> Audit:
    """Held-out errors over every candidate that was measured."""
    observations = [
        Observation.of(trial.candidate, costs.latency)
        for entry in summary.entries
        for trial in (entry.newest,)
        if (costs := trial.costs_on(table.target)) is not None and costs.latency is not None
    ]
    return LatencyModel.fit(table, observations).audit()


def trouble_counts(trials: tuple[TrialRecord, ...]) -> str:
    """Failed and refused trials by reason: ``refused (constraint): 3``."""
    reasons = Counter(f"{trial.state.value} ({trial.reason or 'no reason'})" for trial in trials)
    return "; ".join(f"{reason.replace('_', ' ')}: {n}" for reason, n in reasons.most_common())


def _data(space: dict[str, object]) -> str:
    task = space.get("task")
    data = task.get("data") if isinstance(task, dict) else None
    if isinstance(data, dict):
        return ", ".join(f"{name}: {value}" for name, value in data.items())
    return "as in the space below" if data is None else str(data)


def _constraint(constraint: Constraint) -> str:
    where = f"@{constraint.target}" if constraint.target else ""
    limits = [
        f"= {constraint.equals}" if constraint.equals is not None else "",
        f">= {constraint.min:g}" if constraint.min is not None else "",
        f"<= {constraint.max:g}" if constraint.max is not None else "",
    ]
    return f"{constraint.metric}{where} {' and '.join(filter(None, limits))}"


def _budget(summary: StudySummary) -> str:
    header = summary.header
    rungs = ", ".join(map(str, header.rungs))
    return (
        f"{header.sampler}, {plural(header.num_trials, 'candidate')} with up to "
        f"{plural(header.num_seeds, 'seed')}, rungs at {rungs} epochs, seed {header.seed}"
    )
