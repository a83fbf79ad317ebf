"""A benchmark of the instrument that was never run."""

from __future__ import annotations

from bench.helpers import ENVIRONMENT
from upnas.bench.instrument.records import (
    Agreement,
    Beside,
    InstrumentBenchmark,
    MemoryCheck,
    Prediction,
    Reading,
    Rivalry,
    Timed,
    TimerName,
)
from upnas.prediction import Audit
from upnas.records import Candidate, Conditions, ModelSpec, StageChoice, Target, TargetReference

CANDIDATES = tuple(
    Candidate(model=ModelSpec(decoder="unet"), stages=(StageChoice(upsampler=name),))
    for name in ("nearest", "bilinear", "transposed")
)
KEYS = tuple(candidate.key for candidate in CANDIDATES)

# Timer -> latencies under load of the two candidates, without load, wall seconds.
TIMES: dict[TimerName, tuple[tuple[float, float], float, float]] = {
    "upnas": ((10.0, 10.2), 10.0, 0.71),
    "blocked_autorange": ((11.0, 13.0), 10.0, 0.72),
    "adaptive_autorange": ((12.0, 16.0), 10.0, 0.73),
    "mean of 10": ((14.0, 20.0), 10.0, 0.14),
    "mean loop": ((12.0, 15.0), 10.0, 0.75),
}


def readings(*latencies_ms: float, verdict: str = "stable") -> tuple[Reading, ...]:
    return tuple(
        Reading(
            key=key,
            ratio=ms / 10,
            ratio_low=ms / 10.1,
            ratio_high=ms / 9.9,
            latency_ms=ms,
            num_pairs=30 + number,
            device_s=0.5 + number / 4,
            verdict=verdict if number == 0 else "stable",
        )
        for number, (key, ms) in enumerate(zip(KEYS, latencies_ms, strict=False))
    )


def rivalry() -> Rivalry:
    return Rivalry(
        num_programs=2,
        timed=tuple(
            Timed(timer=timer, key=key, latencies_ms=latencies, wall_s=wall_s, idle_ms=idle)
            for timer, (latencies, idle, wall_s) in TIMES.items()
            for key in KEYS[:2]
        ),
    )


def memory(key: str, forward: tuple[int, int], training: tuple[int, int]) -> MemoryCheck:
    return MemoryCheck(
        key=key,
        fake_bytes=forward[0],
        live_bytes=forward[1],
        fake_training_bytes=training[0],
        live_training_bytes=training[1],
    )


def benchmark() -> InstrumentBenchmark:
    first = readings(10.0, 20.0, 30.0)
    second = readings(10.1, 20.6, 30.0, verdict="rejected 1 block: reference drifted 14 %")
    truth = (10.05, 20.3, 30.0)
    leased, naive = readings(10.2, 20.5, 29.5), (15.0, 31.0, 26.0)
    return InstrumentBenchmark(
        created="2026-01-01T00:00:00+00:00",
        command="upnas bench measure --candidates 3",
        environment=ENVIRONMENT,
        space="unet.yaml",
        target=Target(name="laptop"),
        reference=TargetReference(
            target="laptop",
            latency_ms=12.345,
            clock="thread_cpu",
            conditions=Conditions(load_average=0.25),
        ),
        candidates=CANDIDATES,
        first=first,
        second=second,
        repeatability=Agreement.of([10.1, 20.6, 30.0], [10.0, 20.0, 30.0]),
        effort=readings(19.0, 22.0),
        beside=Beside(
            num_trainings=4,
            leased=leased,
            naive_ms=naive,
            leased_agreement=Agreement.of([10.2, 20.5, 29.5], truth),
            naive_agreement=Agreement.of(naive, truth),
            wait_s=0.0234,
        ),
        rivalry=rivalry(),
        prediction=Prediction(
            num_options=77,
            table_s=41.0,
            additive=Agreement.of([0.9, 2.0, 2.5], [1.0, 2.0, 3.0]),
            audit=Audit(
                num_measured=3,
                median_error=0.012,
                max_error=0.034,
                num_covered=2,
                kendall_tau=0.87,
            ),
            num_learned=1,
            held_out=Agreement.of([2.1, 3.0], [2.0, 3.0]),
            num_covered=1,
            num_predicted=10_000,
            predict_s=0.37,
        ),
        memory=(
            memory(KEYS[0], (2**20, 2**20), (2**21, 2**21)),
            memory(KEYS[1], (3 * 2**20, 3 * 2**20), (101, 100)),
            memory(KEYS[2], (2**21, 2**20), (2**22, 2**22)),
        ),
    )
