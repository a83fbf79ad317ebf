"""Surveys of networks that were never timed: every number is known."""

from __future__ import annotations

from typing import Any

from upnas.records import (
    Candidate,
    Conditions,
    Costs,
    Environment,
    Latency,
    ModelSpec,
    StageChoice,
    StageTable,
    Survey,
    SurveyEntry,
    Target,
    TargetReference,
)

TARGET = Target(name="laptop", input=(3, 32, 48))
REFERENCE_MS = 20.0


def make_latency(*ratios: float, **changes: Any) -> Latency:
    """Pairs with these ratios, at references that are twice as slow as when the survey began."""
    fields: dict[str, Any] = {
        "samples_ms": tuple(2 * REFERENCE_MS * ratio for ratio in ratios),
        "reference_samples_ms": (2 * REFERENCE_MS,) * len(ratios),
        "reference_ms": REFERENCE_MS,
        "clock": "thread_cpu",
        "wall_ms": 99.0,
        "device_s": 1.25,
        "conditions": Conditions(foreign_cpus=0.5, clock_mhz=2000.0),
    }
    return Latency(**fields | changes)


def make_candidate(*upsamplers: str) -> Candidate:
    """Without parameters."""
    stages = tuple(StageChoice(upsampler=name) for name in upsamplers)
    return Candidate(model=ModelSpec(decoder="unet"), stages=stages)


def make_entry(label: str, *upsamplers: str, latency: Latency | None, **costs: Any) -> SurveyEntry:
    fields: dict[str, Any] = {
        "target": TARGET.name,
        "latency": latency,
        "peak_memory_mib": 1.5,
        "num_parameters": 12345,
    }
    return SurveyEntry(
        label=label,
        candidate=make_candidate(*upsamplers) if upsamplers else None,
        costs=Costs(**fields | costs),
    )


def make_survey(*entries: SurveyEntry, stage_table: StageTable | None = None) -> Survey:
    return Survey(
        created="2026-01-01T00:00:00+00:00",
        command="upnas measure --space unet.yaml",
        environment=Environment(
            machine="A processor",
            num_cpus=2,
            memory_gib=8,
            platform="Linux",
            python="3.11",
            packages=(("torch", "2.9"),),
        ),
        target=TARGET,
        reference=TargetReference(
            target=TARGET.name,
            latency_ms=REFERENCE_MS,
            samples_ms=(19.0, 20.0, 21.0),
            clock="thread_cpu",
            conditions=Conditions(load_average=0.25, governor="performance", temperature_c=51.0),
        ),
        reference_label="all-bilinear",
        entries=entries,
        stage_table=stage_table,
    )
