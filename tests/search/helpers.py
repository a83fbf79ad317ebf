"""A small search space and a fake trial whose results have a closed form."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from upnas.measure.gate import DeviceGate
from upnas.records import (
    Candidate,
    Costs,
    Latency,
    PredictedLatency,
    RungResult,
    StageCost,
    StageTable,
    StudyHeader,
    TargetReference,
    TrialRecord,
    TrialState,
)
from upnas.search import SearchObserver, SearchOptions, run_search
from upnas.search.executor import InlineExecutor
from upnas.search.resources import Resources
from upnas.space import SearchSpace, load_space
from upnas.store import Study
from upnas.trial import Preparation, TrialRequest, TrialSpec, violated

SPACE: Final = """\
name: small
task: {{type: segmentation, data: {{type: filaments}}, crop: 32}}
model:
  decoder: unet
  encoder: {{name: mobilenetv3_small_050, depth: 3}}
stages:
  default:
    upsampler: [{upsamplers}]
objectives: [{{metric: dice}}, {{metric: latency_ms}}]
constraints: {constraints}
targets: [{{name: laptop, input: [3, 64, 64]}}]
search: {{{search}}}
"""

LATENCY_MS: Final = {
    "nearest": 1.0, "bilinear": 2.0, "transposed": 3.0, "subpixel": 4.0, "carafe": 8.0
}  # fmt: skip

#: Of the all-bilinear network, by :func:`latency_of`: three stages.
REFERENCE_MS: Final = 3 * LATENCY_MS["bilinear"]


def make_space(
    folder: Path,
    search: str = "trials: 8, rungs: [1, 2], seeds: 1, sampler: random",
    constraints: str = "{}",
    upsamplers: str = "nearest, bilinear, transposed, subpixel",
) -> SearchSpace:
    path = folder / "small.yaml"
    text = SPACE.format(search=search, constraints=constraints, upsamplers=upsamplers)
    path.write_text(text, encoding="utf-8")
    return load_space(path)


def latency_of(candidate: Candidate) -> float:
    """Additive over the stages: 1 ms (all nearest) and more."""
    return sum(LATENCY_MS.get(stage.upsampler, 5.0) for stage in candidate.stages)


def quality_of(candidate: Candidate, seed: int) -> float:
    """Better where it is slower, so that most candidates are on the front."""
    return 0.5 + latency_of(candidate) / 100 + seed / 1000


class FakeTrials:
    """Stands in for ``iterate_trial``, and remembers what it was asked for.

    Args:
        failing: Keys of candidates that fail.
        interrupt_after: Raises KeyboardInterrupt instead of that record, as a kill would cut.
        quality: (candidate, seed) -> dice.
    """

    def __init__(
        self,
        failing: Sequence[str] = (),
        interrupt_after: int | None = None,
        quality: Callable[[Candidate, int], float] = quality_of,
    ):
        self.requests: list[TrialRequest] = []
        self._quality = quality
        self._failing = failing
        self._num_left = interrupt_after

    def __call__(
        self, request: TrialRequest, spec: TrialSpec, gate: DeviceGate
    ) -> Iterator[TrialRecord]:
        self.requests.append(request)
        for record in self._records(request, spec):
            if self._num_left is not None:
                self._num_left -= 1
                if self._num_left < 0:
                    raise KeyboardInterrupt
            yield record

    def _records(self, request: TrialRequest, spec: TrialSpec) -> Iterator[TrialRecord]:
        if request.finished is not None:
            latency_ms = latency_of(request.candidate)
            costs = tuple(make_costs(latency_ms, target.name) for target in spec.targets)
            yield request.finished.model_copy(update={"costs": costs})
            return
        predicted = dict(request.predicted)
        costs = tuple(
            make_costs(latency_of(request.candidate), target.name, predicted.get(target.name))
            for target in spec.decisive_targets
        )
        record = TrialRecord(
            number=request.number,
            candidate=request.candidate,
            task=spec.signature,
            seed=request.seed,
            state=TrialState.RUNNING,
            origin=request.origin,
            baseline=request.baseline,
            costs=request.known_costs or costs,
        )
        if reason := violated(record.costs, spec.constraints):
            changes = {"state": TrialState.REFUSED, "reason": "constraint", "detail": reason}
            yield record.model_copy(update=changes)
            return
        yield record
        if request.candidate.key in self._failing:
            changes = {"state": TrialState.FAILED, "reason": "nan_loss"}
            yield record.model_copy(update=changes)
            return
        for rung, epochs in enumerate(spec.rungs):
            result = RungResult(
                rung=rung,
                epochs=epochs,
                num_steps=epochs,
                quality={"dice": self._quality(request.candidate, request.seed)},
                train_loss=0.5,
                train_s=1.0,
            )
            is_last = rung == len(spec.rungs) - 1
            state = TrialState.COMPLETE if is_last else TrialState.RUNNING
            record = record.model_copy(update={"rungs": (*record.rungs, result), "state": state})
            yield record


def make_costs(
    latency_ms: float, target: str = "laptop", predicted: PredictedLatency | None = None
) -> Costs:
    latency = Latency(
        samples_ms=(latency_ms,) * 6,
        reference_samples_ms=(REFERENCE_MS,) * 6,
        reference_ms=REFERENCE_MS,
        clock="wall",
        wall_ms=latency_ms,
    )
    return Costs(
        target=target,
        latency=latency if predicted is None else None,
        predicted=predicted,
        peak_memory_mib=1.0,
        num_parameters=10,
    )


def prepare(spec: TrialSpec, gate: DeviceGate) -> Preparation:
    return Preparation(
        references=tuple(
            TargetReference(target=target.name, latency_ms=REFERENCE_MS) for target in spec.targets
        ),
        trivial_quality=(),
        stage_tables=tuple(
            make_table(spec, target.name) for target in spec.decisive_targets if spec.stage_options
        ),
    )


def make_table(spec: TrialSpec, target: str) -> StageTable:
    """What each upsampler takes of :func:`latency_of`, which is the sum over the stages."""
    stages = [
        tuple(
            StageCost(
                choice=choice,
                ratios=(LATENCY_MS.get(choice.upsampler, 5.0) / REFERENCE_MS,) * 3,
                num_parameters=1,
                static_bytes=0,
                activation_bytes=2**20,
            )
            for choice in dict.fromkeys((*options, default))
        )
        for options, default in zip(spec.stage_options, spec.reference.stages, strict=True)
    ]
    return StageTable(
        target=target,
        reference=spec.reference,
        stages=tuple(stages),
        num_parameters=7,
        static_bytes=0,
    )


def run(
    space: SearchSpace,
    folder: Path,
    trials: FakeTrials | None = None,
    observers: Sequence[SearchObserver] = (),
) -> Study:
    executor = InlineExecutor(
        Resources(1, 1, 0.0, "fake"), iterate=trials or FakeTrials(), prepare=prepare
    )
    options = SearchOptions(folder=folder, command="upnas search", executor=executor)
    return run_search(space, options, observers)


def optuna_study(folder: Path, header: StudyHeader) -> optuna.Study:
    storage = JournalStorage(JournalFileBackend(str(folder / "optuna.journal")))
    return optuna.load_study(study_name=header.name, storage=storage)
