"""Runs the benchmark of the instrument, part by part."""

from __future__ import annotations

import math
import random
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import torch
from torch import nn

import upnas
from upnas.bench.instrument.neighbour import neighbours
from upnas.bench.instrument.records import (
    Agreement,
    Beside,
    InstrumentBenchmark,
    MemoryCheck,
    Prediction,
    Reading,
    Rivalry,
    Timed,
)
from upnas.bench.instrument.rivals import RIVALS, mean_of_ten
from upnas.errors import SpaceError, TargetError, suggest_name
from upnas.measure.environment import available_cpus, describe_environment
from upnas.measure.gate import StudyGates
from upnas.measure.instrument import Instrument
from upnas.measure.memory.tensors import peak_memory_bytes, training_peak_memory_bytes
from upnas.measure.runtimes import RUNTIMES
from upnas.measure.stages.table import measure_stage_table
from upnas.measure.timing.interleave import conditions_of
from upnas.models import build_model
from upnas.prediction import LatencyModel, Observation
from upnas.records import Candidate, Latency, Target, TargetReference
from upnas.space import SearchSpace, load_space
from upnas.upsamplers import collapse

#: A network of so many milliseconds is asked to take at most two seconds of the device.
_EFFORT_MS: Final = 20.0
_NUM_EFFORT: Final = 5
_NUM_WAITS: Final = 20
_BETWEEN_WAITS_S: Final = 0.1
_NUM_PREDICTED: Final = 10_000

PARTS: Final = ("beside", "rivals", "prediction", "memory")


@dataclass(frozen=True, slots=True, kw_only=True)
class InstrumentSettings:
    """How much to measure.

    Attributes:
        space: A search space's name or path.
        num_candidates: Distinct random candidates.
        num_rivals: Candidates that all timers measure under load.
        num_repeats: Times that each of them does.
        parts: Of ``PARTS``; the two passes are always made.
        seed: Of candidates and orders.
    """

    space: str = "unet.yaml"
    num_candidates: int = 40
    num_rivals: int = 6
    num_repeats: int = 8
    parts: Sequence[str] = PARTS
    seed: int = 0


@dataclass(slots=True)
class _Bench:
    """What all parts share."""

    settings: InstrumentSettings
    space: SearchSpace
    target: Target
    candidates: list[Candidate]
    progress: Callable[[str], None]
    gates: StudyGates = field(init=False)
    instrument: Instrument = field(init=False)
    calm: TargetReference = field(init=False)

    def __post_init__(self) -> None:
        self.gates = StudyGates([self.target.device])
        reference = dict(self.space.baselines())["all-bilinear"]
        self.instrument = Instrument(self.network(reference), self.target)
        self.calm = self.instrument.time_reference(self.gates)

    def network(self, candidate: Candidate) -> nn.Module:
        """The network that would ship, with its own random weights."""
        model = build_model(candidate, self.space.task, load_pretrained=False)
        return collapse(model, torch.zeros(1, *self.space.targets[0].input)).eval()

    def latency(self, candidate: Candidate) -> Latency:
        """Build and measure."""
        costs = self.instrument.measure(self.network(candidate), self.calm, self.gates, optional=())
        if costs.latency is None:
            raise TargetError(
                f"{candidate} does not run on target {self.target.name!r}: {costs.unserved}. "
                "Give --space a search space whose candidates all run on its first target."
            )
        return costs.latency


def run_instrument_benchmark(
    settings: InstrumentSettings, *, command: str, progress: Callable[[str], None]
) -> InstrumentBenchmark:
    """Measure the instrument; the machine should have nothing else to do.

    Args:
        settings: How much.
        command: What a reader would type to repeat it.
        progress: Gets a line per part.

    Raises:
        TargetError: If this machine cannot serve the space's first target, or a candidate does not
            run on it, or a part is unknown.
    """
    for part in settings.parts:
        if part not in PARTS:
            raise TargetError(
                f"--part {part}: no part of the benchmark.{suggest_name(part, PARTS)} Allowed: "
                f"{', '.join(PARTS)}."
            )
    space = load_space(settings.space)
    rng = random.Random(settings.seed)
    bench = _Bench(
        settings, space, space.targets[0], _distinct(space, settings.num_candidates, rng), progress
    )
    progress(f"{len(bench.candidates)} candidates, two passes")
    first = _pass(bench, bench.candidates)
    second = _pass(bench, rng.sample(bench.candidates, len(bench.candidates)))
    truth = [(a.latency_ms + b.latency_ms) / 2 for a, b in zip(first, second, strict=True)]
    benchmark = InstrumentBenchmark(
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=command,
        environment=describe_environment(Path(upnas.__file__).parent),
        space=settings.space,
        target=bench.target,
        reference=bench.calm,
        candidates=tuple(bench.candidates),
        first=tuple(first),
        second=tuple(second),
        repeatability=Agreement.of(_ms(second), _ms(first)),
        effort=tuple(_effort(bench, rng)),
        beside=_beside(bench, truth) if "beside" in settings.parts else None,
        rivalry=_rivalry(bench) if "rivals" in settings.parts else None,
        prediction=_prediction(bench, first, second) if "prediction" in settings.parts else None,
        memory=tuple(_memory(bench)) if "memory" in settings.parts else (),
    )
    bench.instrument.close()
    return benchmark


def _distinct(space: SearchSpace, number: int, rng: random.Random) -> list[Candidate]:
    """Without learned selectors: which arm they are depends on their training.

    Raises:
        SpaceError: If a stage chooses from nothing else.
    """
    fixed = (sum(o.upsampler != "selector" for o in stage.options) for stage in space.stages)
    if (num_fixed := math.prod(fixed)) == 0:
        raise SpaceError(
            f"{space.name}: a stage has learned selectors only, and what they cost depends on "
            "their training. Choose another space."
        )
    found: dict[str, Candidate] = {}
    while len(found) < min(number, num_fixed):
        candidate = space.random_candidate(rng)
        if all(stage.upsampler != "selector" for stage in candidate.stages):
            found[candidate.key] = candidate
    return list(found.values())


def _pass(bench: _Bench, order: Sequence[Candidate]) -> list[Reading]:
    """Measure in this order; the readings are in the order of the candidates."""
    readings = {one.key: _reading(one, bench.latency(one)) for one in order}
    return [readings[candidate.key] for candidate in bench.candidates]


def _reading(candidate: Candidate, latency: Latency) -> Reading:
    low, high = latency.ratio_interval
    return Reading(
        key=candidate.key,
        ratio=latency.ratio,
        ratio_low=low,
        ratio_high=high,
        latency_ms=latency.median_ms,
        num_pairs=len(latency.samples_ms),
        device_s=latency.device_s,
        verdict=latency.verdict,
        foreign_cpus=None if latency.conditions is None else latency.conditions.foreign_cpus,
    )


def _ms(readings: Sequence[Reading]) -> list[float]:
    return [reading.latency_ms for reading in readings]


def _effort(bench: _Bench, rng: random.Random) -> list[Reading]:
    """Measure some candidates at an input at which the reference takes about 20 ms."""
    bench.progress("device time of networks of 20 ms")
    channels, *sides = bench.target.input
    factor = (_EFFORT_MS / bench.calm.latency_ms) ** 0.5
    height, width = (max(32, round(side * factor / 32) * 32) for side in sides)
    target = bench.target.model_copy(update={"input": (channels, height, width)})
    larger = _Bench(bench.settings, bench.space, target, bench.candidates, bench.progress)
    chosen = rng.sample(bench.candidates, min(_NUM_EFFORT, len(bench.candidates)))
    readings = [_reading(candidate, larger.latency(candidate)) for candidate in chosen]
    larger.instrument.close()
    return readings


def _beside(bench: _Bench, truth: Sequence[float]) -> Beside:
    """Measure every candidate while as many trainings run as there are processors."""
    number = available_cpus()
    bench.progress(f"beside {number} trainings that respect the gate, and by a naive timer")
    device = bench.target.device
    with neighbours(bench.settings.space, number, ignore_gate=False):
        leased = _pass(bench, bench.candidates)
        waits = []
        for _ in range(_NUM_WAITS):
            time.sleep(_BETWEEN_WAITS_S)  # or the trainings would still be waiting
            start = time.perf_counter()
            with bench.gates.of(device).exclusive():
                waits.append(time.perf_counter() - start)
        naive = []
        for candidate in bench.candidates:
            runtime = RUNTIMES[bench.target.runtime]
            with (
                runtime.session(bench.network(candidate), bench.target) as session,
                conditions_of(bench.target),
            ):
                naive.append(mean_of_ten(session))
    return Beside(
        num_trainings=number,
        leased=tuple(leased),
        naive_ms=tuple(naive),
        leased_agreement=Agreement.of(_ms(leased), truth),
        naive_agreement=Agreement.of(naive, truth),
        wait_s=statistics.median(waits),
    )


def _rivalry(bench: _Bench) -> Rivalry:
    """All timers in turns on the same candidates, without and with load that respects no gate."""
    number, chosen = available_cpus(), bench.candidates[: bench.settings.num_rivals]
    bench.progress(f"against other timers under {number} programs that respect no gate")
    idle: dict[tuple[str, str], float] = {}
    for candidate in chosen:
        for timer, (latency_ms, _) in _timed_by_all(bench, candidate).items():
            idle[timer, candidate.key] = latency_ms
    found: dict[tuple[str, str], list[tuple[float, float]]] = {key: [] for key in idle}
    with neighbours(bench.settings.space, number, ignore_gate=True):
        for _ in range(bench.settings.num_repeats):
            for candidate in chosen:
                for timer, result in _timed_by_all(bench, candidate).items():
                    found[timer, candidate.key].append(result)
    timed = [
        Timed.model_validate(
            {
                "timer": timer,
                "key": key,
                "latencies_ms": [latency_ms for latency_ms, _ in results],
                "wall_s": statistics.median(wall_s for _, wall_s in results),
                "idle_ms": idle[timer, key],
            }
        )
        for (timer, key), results in found.items()
    ]
    return Rivalry(num_programs=number, timed=tuple(timed))


def _timed_by_all(bench: _Bench, candidate: Candidate) -> dict[str, tuple[float, float]]:
    """Milliseconds and wall seconds by timer; the others get the time that upnas took."""
    latency = bench.latency(candidate)
    results = {"upnas": (latency.median_ms, latency.device_s)}
    runtime = RUNTIMES[bench.target.runtime]
    with (
        runtime.session(bench.network(candidate), bench.target) as session,
        conditions_of(bench.target),
    ):
        for timer, rival in RIVALS.items():
            start = time.perf_counter()
            latency_ms = rival(session, latency.device_s)
            results[timer] = (latency_ms, time.perf_counter() - start)
    return results


def _prediction(
    bench: _Bench, first: Sequence[Reading], second: Sequence[Reading]
) -> Prediction | None:
    """Learn from every other candidate and predict the rest; None where there is no other."""
    bench.progress("single stages, and what they tell about whole candidates")
    space, start = bench.space, time.perf_counter()
    table = measure_stage_table(
        space.task,
        [stage.options for stage in space.stages],
        dict(space.baselines())["all-bilinear"],
        bench.target,
        bench.gates,
    )
    table_s = time.perf_counter() - start
    # The plain sum of the stages; NaN for candidates that must be measured.
    sums = LatencyModel.fit(table, ()).predict_ratios(bench.candidates)[:, 0].tolist()
    observations, plain = [], []
    for candidate, a, b, ratio in zip(bench.candidates, first, second, sums, strict=True):
        if not math.isnan(ratio):
            error = (a.ratio_high - a.ratio_low) / 2 / 1.96
            observations.append(Observation(candidate, (a.ratio + b.ratio) / 2, error))
            plain.append(ratio)
    if len(observations) < 2:
        bench.progress("too few candidates whose stages can be timed alone: no prediction")
        return None
    learned, rest = observations[::2], observations[1::2]
    model = LatencyModel.fit(table, learned)
    predicted = model.predict_ratios([one.candidate for one in rest])
    rng = random.Random(bench.settings.seed)
    many = [space.random_candidate(rng) for _ in range(_NUM_PREDICTED)]
    start = time.perf_counter()
    model.predict_ratios(many)
    predict_s = time.perf_counter() - start
    return Prediction(
        num_options=sum(len(stage) for stage in table.stages),
        table_s=table_s,
        additive=Agreement.of(plain, [one.ratio for one in observations]),
        audit=LatencyModel.fit(table, observations).audit(),
        num_learned=len(learned),
        held_out=Agreement.of(predicted[:, 0].tolist(), [one.ratio for one in rest]),
        num_covered=sum(
            low <= one.ratio <= high
            for one, (_, low, high) in zip(rest, predicted.tolist(), strict=True)
        ),
        num_predicted=len(many),
        predict_s=predict_s,
    )


def _memory(bench: _Bench) -> list[MemoryCheck]:
    """Count every candidate's tensors without and with running it."""
    bench.progress("memory by fake tensors and by running")
    shape, checks = bench.target.input_shape, []
    for candidate in bench.candidates:
        network = bench.network(candidate)
        checks.append(
            MemoryCheck(
                key=candidate.key,
                fake_bytes=peak_memory_bytes(network, shape),
                live_bytes=peak_memory_bytes(network, shape, live=True),
                fake_training_bytes=training_peak_memory_bytes(network, shape),
                live_training_bytes=training_peak_memory_bytes(network, shape, live=True),
            )
        )
    return checks
