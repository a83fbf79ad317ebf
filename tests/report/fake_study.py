"""A seeded study that never ran: 4 stages, 3 objectives, every state of a trial."""

from __future__ import annotations

from typing import Final

import numpy as np

from upnas.records import (
    Candidate,
    Constraint,
    Costs,
    EncoderSpec,
    Environment,
    Latency,
    ModelSpec,
    Objective,
    RungResult,
    StageChoice,
    StudyHeader,
    Target,
    TargetReference,
    TaskSignature,
    TrialRecord,
    TrialState,
)

HOSTILE: Final = "</script><script>window.__xss=1</script>"
RUNGS: Final = (1, 3, 9)
TASK: Final = TaskSignature(name="segmentation", in_channels=3, out_channels=1)
MODEL: Final = ModelSpec(decoder="unet", encoder=EncoderSpec(name="resnet18"))

# Upsampler -> (parameters, gain in dice, extra ms, extra MiB) of one stage.
EFFECTS: Final[dict[str, tuple[dict[str, int], float, float, float]]] = {
    "nearest": ({}, -0.004, 0.0, 0.0),
    "bilinear": ({}, 0.0, 0.3, 0.5),
    "nearest_conv": ({}, 0.003, 1.1, 4.0),
    "transposed": ({"kernel_size": 2}, 0.002, 0.8, 7.0),
    "subpixel": ({}, 0.004, 1.4, 9.0),
    "carafe": ({"compressed_channels": 32}, 0.009, 3.9, 6.0),
    "dysample": ({}, 0.007, 1.5, 2.0),
}


def make_header(name: str = "unet-filaments", **changes: object) -> StudyHeader:
    fields: dict[str, object] = {
        "name": name,
        "created": "2026-03-01T10:00:00Z",
        "command": "upnas search --space unet.yaml",
        "space": {
            "name": name,
            "task": {"type": "segmentation", "data": {"type": "filaments"}, "crop": 128},
            "stages": {
                str(number): {
                    "upsampler": list(EFFECTS),
                    "carafe": {"compressed_channels": [32, 64]},
                    "transposed": {"kernel_size": [2, 4]},
                    "x": {"a": [[1, 2], [3]], "b": ["y", "z"], "c": [0]},
                }
                for number in (1, 2, 3, 4)
            },
        },
        "num_candidates": len(EFFECTS) ** 4,
        "stages": ("stage 0 (1/16)", "stage 1 (1/8)", "stage 2 (1/4)", "stage 3 (1/2)"),
        "task": TASK,
        "objectives": (
            Objective(metric="dice", direction="maximize"),
            Objective(metric="latency_ms", direction="minimize"),
            Objective(metric="peak_memory_mib", direction="minimize"),
        ),
        "constraints": (Constraint(metric="latency_ms", max=25.0),),
        "targets": (Target(name="laptop"),),
        "references": (TargetReference(target="laptop", latency_ms=11.0),),
        "trivial_quality": {"dice": 0.4},
        "num_trials": 40,
        "num_seeds": 3,
        "rungs": RUNGS,
        "sampler": "exact_costs",
        "seed": 0,
        "environment": Environment(
            machine="Example CPU 3.0 GHz",
            num_cpus=8,
            memory_gib=16.0,
            platform="Linux 6.1",
            python="3.12.1",
            packages=(("torch", "2.9.0"), ("upnas", "0.1.0")),
            git_commit="0123456789abcdef0123456789abcdef01234567",
        ),
    }
    return StudyHeader.model_validate(fields | changes)


def make_candidate(*upsamplers: str) -> Candidate:
    stages = tuple(
        StageChoice.model_validate({"upsampler": name, "parameters": EFFECTS[name][0]})
        for name in upsamplers
    )
    return Candidate(model=MODEL, stages=stages)


def make_costs(latency_ms: float, memory_mib: float, spread: float = 0.0) -> Costs:
    """Costs whose median latency is exactly ``latency_ms``."""
    ratios = 1 + spread * np.linspace(-1, 1, 9)
    return Costs(
        target="laptop",
        latency=Latency(
            samples_ms=tuple(latency_ms * ratios),
            reference_samples_ms=(11.0,) * 9,
            reference_ms=11.0,
            clock="thread_cpu",
            wall_ms=latency_ms * 1.05,
        ),
        peak_memory_mib=memory_mib,
        num_parameters=1_000_000 + int(1000 * memory_mib),
    )


def make_trial(
    number: int,
    candidate: Candidate,
    dice: float | None = None,
    *,
    latency_ms: float = 10.0,
    memory_mib: float = 50.0,
    **changes: object,
) -> TrialRecord:
    """A complete trial, or with ``dice=None`` one that only has its costs."""
    rungs = (
        ()
        if dice is None
        else tuple(
            RungResult(
                rung=index,
                epochs=epochs,
                num_steps=100 * epochs,
                quality=(("dice", dice - 0.1 * (len(RUNGS) - 1 - index)),),
                train_loss=1.0 / epochs,
                train_s=2.0 * epochs,
            )
            for index, epochs in enumerate(RUNGS)
        )
    )
    fields: dict[str, object] = {
        "number": number,
        "candidate": candidate,
        "task": TASK,
        "seed": 0,
        "state": TrialState.RUNNING if dice is None else TrialState.COMPLETE,
        "costs": (make_costs(latency_ms, memory_mib, spread=0.02),),
        "rungs": rungs,
        "started_s": 1_700_000_000.0 + 60 * number,
        "finished_s": 1_700_000_050.0 + 60 * number,
        "worker": "host:1",
    }
    return TrialRecord.model_validate(fields | changes)


def fake_trials(num_trials: int = 40, seed: int = 0) -> list[TrialRecord]:
    """Baselines, sampled candidates of every state, and replicates of some with two more seeds."""
    rng = np.random.default_rng(seed)
    names = list(EFFECTS)
    plans = [
        ("all-bilinear", ["bilinear"] * 4),
        ("all-transposed", ["transposed"] * 4),
        ("resolution-rule", ["transposed", "transposed", "bilinear", "bilinear"]),
    ]
    plans += [("", list(rng.choice(names, size=4))) for _ in range(num_trials - 12 - len(plans))]
    trials = [
        _fake_trial(number, rng, upsamplers, baseline or None, seed=0)
        for number, (baseline, upsamplers) in enumerate(plans)
    ]
    for repeated in (0, 1, 2, 6, 11, 25):
        first = trials[repeated]
        upsamplers = [stage.upsampler for stage in first.candidate.stages]
        for other in (1, 2):
            trials.append(
                _fake_trial(len(trials), rng, upsamplers, first.baseline, other, "replicate")
            )
    return trials


def _fake_trial(
    number: int,
    rng: np.random.Generator,
    upsamplers: list[str],
    baseline: str | None,
    seed: int,
    origin: str = "sampler",
) -> TrialRecord:
    effects = np.array([EFFECTS[name][1:] for name in upsamplers])  # (4, 3)
    # Later stages work on larger maps: they matter and cost more.
    gain, extra_ms, extra_mib = (float(total) for total in np.array([0.4, 0.7, 1.0, 1.6]) @ effects)
    dice = 0.80 + gain + float(rng.normal(0, 0.002))
    changes: dict[str, object] = {
        "baseline": baseline,
        "origin": "baseline" if baseline and seed == 0 else origin,
        "seed": seed,
        "test_quality": {"dice": dice - 0.01 + float(rng.normal(0, 0.001))},
    }
    value: float | None = dice
    if seed == 0 and baseline is None:
        if number in (14, 19):
            extra_ms = 18.1
            value = None
            changes |= {
                "state": TrialState.REFUSED,
                "reason": "constraint",
                "detail": "latency_ms 26.1 > 25",
                "test_quality": {},
            }
        elif number in (9, 17):
            value = None
            changes |= {
                "state": TrialState.FAILED,
                "reason": "out_of_memory",
                "detail": "tried to allocate 2.1 GiB",
                "test_quality": {},
            }
        elif number == 23:
            value = None
            changes |= {"test_quality": {}}  # still running
        elif number == 20:
            value = 0.31
            changes |= {"flags": ("below_trivial_baseline",), "test_quality": {"dice": 0.3}}
    return make_trial(
        number,
        make_candidate(*upsamplers),
        value,
        latency_ms=8.0 + extra_ms,
        memory_mib=40.0 + extra_mib,
        **changes,
    )
