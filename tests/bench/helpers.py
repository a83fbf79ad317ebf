"""Small benchmarks, made without timing anything."""

from __future__ import annotations

from upnas.bench.records import Benchmark, BenchSettings, Group, Measurement, Refusal, Shape, Timed
from upnas.records import Environment, StageChoice

SHAPE = Shape(name="small", batch=1, channels=4, height=6, width=8)
ENVIRONMENT = Environment(
    machine="A processor",
    num_cpus=2,
    memory_gib=8,
    platform="Linux",
    python="3.11",
    packages=(("torch", "2.9"), ("upnas", "1.0")),
)


def timed(*samples_ms: float, extra_bytes: int = 2**20) -> Timed:
    return Timed(samples_ms=samples_ms, extra_bytes=extra_bytes)


def measurement(
    name: str, lean: Timed, naive: Timed | None = None, *, floor_bytes: int = 1000
) -> Measurement:
    entry = StageChoice(upsampler=name)
    return Measurement(entry=entry, floor_bytes=floor_bytes, lean=lean, naive=naive)


def group(*measurements: Measurement, shape: Shape = SHAPE) -> Group:
    return Group(
        shape=shape,
        mode="forward",
        copy_bytes=4000,
        copy_ms=(2.0, 2.0, 4.0),
        measurements=measurements,
    )


def benchmark() -> Benchmark:
    small = group(
        measurement("carafe", timed(2, 3, 7, 8), timed(20, 30, 35, extra_bytes=2**22)),
        measurement("nearest", timed(1, 1, 1)),
    )
    refusal = Refusal(entry=StageChoice(upsampler="odd_one"), reason="ValueError: not | here")
    tutorial = SHAPE.model_copy(update={"name": "tutorial-4", "is_tutorial": True})
    wide = measurement("bilinear", timed(3, 3, 9))
    return Benchmark(
        created="2026-01-01T00:00:00+00:00",
        command="upnas bench upsamplers carafe",
        settings=BenchSettings(),
        clock="thread_cpu",
        environment=ENVIRONMENT,
        groups=(
            small.model_copy(update={"refusals": (refusal,)}),
            group(measurement("nearest", timed(1, 2, 3)), wide, shape=tutorial),
        ),
        is_complete=True,
    )
