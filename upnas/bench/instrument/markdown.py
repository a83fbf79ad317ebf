"""The report of the instrument's benchmark for a repository."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Final

from upnas.bench.instrument.records import (
    Agreement,
    Beside,
    InstrumentBenchmark,
    MemoryCheck,
    Prediction,
    Reading,
    Rivalry,
    TimerName,
)

_TIMERS: Final[tuple[TimerName, ...]] = (
    "upnas",
    "blocked_autorange",
    "adaptive_autorange",
    "mean of 10",
    "mean loop",
)


def instrument_markdown(benchmark: InstrumentBenchmark, picture: str | None = None) -> str:
    """Write the report: what was asked, what was found, on which machine, by which command.

    Args:
        benchmark: The result.
        picture: Path of the picture, relative to the report; None leaves it out.
    """
    parts = ["# The instrument", _conditions(benchmark)]
    if picture is not None:
        parts.append(f"![Two passes, and measurements beside trainings]({picture})")
    parts += ["## The same candidates twice", _repeatability(benchmark)]
    if benchmark.beside is not None:
        parts += ["## Beside trainings", _beside(benchmark.beside)]
    if benchmark.rivalry is not None:
        parts += ["## Against other timers, under load", _rivalry(benchmark.rivalry)]
    if benchmark.prediction is not None:
        parts += ["## Prediction from single stages", _prediction(benchmark.prediction)]
    if benchmark.memory:
        parts += ["## Memory", _memory(benchmark.memory)]
    return "\n\n".join(parts) + "\n"


def _conditions(benchmark: InstrumentBenchmark) -> str:
    environment, target = benchmark.environment, benchmark.target
    versions = dict(environment.packages)
    shape = " x ".join(map(str, target.input_shape))
    threads = "thread" if target.threads == 1 else "threads"
    load = benchmark.reference.conditions.load_average if benchmark.reference.conditions else None
    return (
        f"`{benchmark.command}`\n\n"
        f"{environment.machine}, {environment.num_cpus} CPUs, {environment.memory_gib:.4g} GiB"
        f"{''.join(f', {gpu}' for gpu in environment.gpus) or ', no GPU'}; {environment.platform}; "
        f"Python {environment.python}, torch {versions.get('torch', 'unknown')}; upnas commit "
        f"{environment.git_commit or 'unknown'}. Target {target.name}: {target.device}, "
        f"{target.threads} {threads}, {target.runtime}, {target.dtype}, {shape}. Space "
        f"{benchmark.space}; reference {benchmark.reference.latency_ms:.2f} ms "
        f"({benchmark.reference.clock} clock)"
        f"{'' if load is None else f', load average {load:.2f} when it began'}. "
        f"{benchmark.created}."
    )


def _repeatability(benchmark: InstrumentBenchmark) -> str:
    readings = [*benchmark.first, *benchmark.second]
    rows = [
        ("asked", "at most 2 %", "", "at least 0.97"),
        ("second pass against the first", *_agreement(benchmark.repeatability)),
    ]
    heads = ("", "median difference", "largest", "Kendall's tau")
    effort = (
        ""
        if not benchmark.effort
        else f" Candidates of {_range([one.latency_ms for one in benchmark.effort])} ms (the "
        "input enlarged) took "
        f"{statistics.median(one.device_s for one in benchmark.effort):.2f} s of the device in "
        f"the median, {max(one.device_s for one in benchmark.effort):.2f} s at most; asked: 2 s."
    )
    return (
        f"{len(benchmark.first)} random candidates of "
        f"{_range([one.latency_ms for one in benchmark.first])} ms, measured in two orders, every "
        f"network built anew.\n\n{_table(heads, rows)}\n\n"
        f"One measurement took {statistics.median(one.device_s for one in readings):.2f} s of the "
        f"device in the median, {max(one.device_s for one in readings):.2f} s at most, and "
        f"{statistics.median(one.num_pairs for one in readings):.0f} pairs. {_verdicts(readings)}"
        f"{effort}"
    )


def _beside(beside: Beside) -> str:
    rows = [
        ("asked", "at most 3 %", "", "at least 0.95"),
        ("upnas, trainings wait at the gate", *_agreement(beside.leased_agreement)),
        ("mean of ten forwards, no gate", *_agreement(beside.naive_agreement)),
    ]
    heads = ("against the mean of both passes", "median error", "largest", "Kendall's tau")
    return (
        f"{beside.num_trainings} trainings of one thread each ran on this machine.\n\n"
        f"{_table(heads, rows)}\n\nThe device was free after {1e3 * beside.wait_s:.0f} ms in the "
        f"median. {_verdicts(beside.leased)}"
    )


def _rivalry(rivalry: Rivalry) -> str:
    rows = [
        (
            timer,
            f"{100 * rivalry.spread(timer):.1f} %",
            f"{100 * rivalry.bias(timer):+.1f} %",
            f"{rivalry.wall_s(timer):.2f}",
        )
        for timer in _TIMERS
    ]
    heads = ("timer", "spread", "shift by the load", "wall seconds")
    candidates = {one.key for one in rivalry.timed}
    repeats = len(rivalry.timed[0].latencies_ms)
    best = min(rivalry.spread(timer) for timer in _TIMERS[1:])
    return (
        f"{rivalry.num_programs} trainings that respect no gate ran all the time. "
        f"{len(candidates)} candidates, {repeats} measurements of each by each timer in turns; "
        "every timer but the mean of 10 got the wall time that upnas had just taken. Spread is the "
        "coefficient of variation over the repeats, shift the median against the same timer "
        f"without the load; both are medians over the candidates.\n\n{_table(heads, rows)}\n\n"
        f"The spread of upnas is {rivalry.spread('upnas') / best:.2f} of the best other one's; "
        "asked: half."
    )


def _prediction(prediction: Prediction) -> str:
    rows = [
        ("asked", "at most 3 %", "", ""),
        ("the plain sum of the stages", *_agreement(prediction.additive)),
        (
            f"learned from {prediction.num_learned}, the other "
            f"{prediction.held_out.num_candidates} predicted",
            *_agreement(prediction.held_out),
        ),
    ]
    heads = ("against measurements", "median error", "largest", "Kendall's tau")
    return (
        f"{prediction.num_options} upsamplers at stages were timed in {prediction.table_s:.0f} s; "
        f"{prediction.num_predicted:,} candidates were predicted from them in "
        f"{prediction.predict_s:.2f} s.\n\n{_table(heads, rows)}\n\n"
        f"{prediction.num_covered} of {prediction.held_out.num_candidates} held-out candidates lie "
        f"inside their 95 % interval. Every candidate from all the others: {prediction.audit}."
    )


def _memory(checks: Sequence[MemoryCheck]) -> str:
    forward = [abs(one.fake_bytes / one.live_bytes - 1) for one in checks]
    training = [abs(one.fake_training_bytes / one.live_training_bytes - 1) for one in checks]
    rows = [
        ("one forward", f"{sum(error == 0 for error in forward)}", f"{100 * max(forward):.2f} %"),
        ("a training step", f"{sum(e == 0 for e in training)}", f"{100 * max(training):.2f} %"),
    ]
    heads = ("peak bytes of tensors", f"equal, of {len(checks)}", "largest difference")
    return (
        "Counted on fake tensors, which runs nothing, against a tracker of the tensors of a real "
        f"run; asked: 1 %.\n\n{_table(heads, rows)}\n\nPeaks of a forward: "
        f"{_range([one.fake_bytes / 2**20 for one in checks])} MiB; of a training step: "
        f"{_range([one.fake_training_bytes / 2**20 for one in checks])} MiB."
    )


def _verdicts(readings: Sequence[Reading]) -> str:
    troubled = [reading.verdict for reading in readings if reading.verdict != "stable"]
    if not troubled:
        return f"All {len(readings)} measurements were stable at once."
    words = "; ".join(sorted(set(troubled)))
    return f"{len(readings) - len(troubled)} of {len(readings)} were stable at once; else: {words}."


def _agreement(agreement: Agreement) -> tuple[str, str, str]:
    return (
        f"{100 * agreement.median_difference:.2f} %",
        f"{100 * agreement.max_difference:.1f} %",
        "-" if agreement.kendall_tau is None else f"{agreement.kendall_tau:.3f}",
    )


def _range(values: Sequence[float]) -> str:
    return f"{min(values):.1f} to {max(values):.1f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rules = [":---", *["---:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, rules, *rows))
