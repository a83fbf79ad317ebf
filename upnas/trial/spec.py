"""What a trial is told: frozen records, so that they reach any worker as JSON."""

from __future__ import annotations

from pathlib import Path

from upnas.records import (
    Candidate,
    Constraint,
    Costs,
    Origin,
    PredictedLatency,
    Quality,
    Record,
    StageChoice,
    StageTable,
    Target,
    TargetReference,
    TaskSignature,
    TrialRecord,
)
from upnas.space import TrainingConfig
from upnas.tasks import TaskConfig


class TrialSpec(Record):
    """What all trials of a study share.

    Attributes:
        task: Data, loss and metrics.
        signature: Channels in and out of the networks, and the scale.
        training: Optimiser, batch and length of an epoch.
        rungs: Epochs trained at each rung, increasing; the last is the full training.
        targets: Where costs are measured, at least one; the first decides for upsamplers that
            pick by resolution.
        decisive: Names of the targets whose costs are known before a trial trains; the others'
            are measured for the front alone. Empty means all.
        constraints: Limits; a candidate whose costs violate one never trains. Those on quality
            are judged from the records.
        optional_costs: Those of ``OPTIONAL_COSTS`` that somebody asks for.
        is_strict: Refuse to measure while other programs use the device.
        uses_cache: Take costs from, and leave them in, the cache of this machine.
        stage_options: What each stage can choose from, where latencies are to be predicted.
        reference: The network that every candidate is timed in pairs with.
        references: Its own time on each target, from :func:`upnas.trial.prepare_study`.
        trivial_quality: What the task's trivial baseline scores, likewise.
        main_metric: The quality metric that is compared with the trivial baseline's.
        maximize_main: Whether more of it is better.
        checkpoints: Folder of the rung checkpoints; None keeps none.
        num_threads: Compute threads of a trial; measurements have their target's.
    """

    task: TaskConfig
    signature: TaskSignature
    training: TrainingConfig
    rungs: tuple[int, ...]
    targets: tuple[Target, ...]
    decisive: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...]
    optional_costs: tuple[str, ...] = ()
    is_strict: bool = False
    uses_cache: bool = False
    stage_options: tuple[tuple[StageChoice, ...], ...] = ()
    reference: Candidate
    references: tuple[TargetReference, ...] = ()
    trivial_quality: Quality = ()
    main_metric: str
    maximize_main: bool = True
    checkpoints: Path | None = None
    num_threads: int = 1

    @property
    def decisive_targets(self) -> tuple[Target, ...]:
        """See ``decisive``."""
        if not self.decisive:
            return self.targets
        return tuple(target for target in self.targets if target.name in self.decisive)


class TrialRequest(Record):
    """One trial to run.

    Attributes:
        number: Of the trial in its study.
        candidate: What to train.
        seed: Of the initial weights, the data order and everything random in the network.
        origin: Who asked for it.
        baseline: The baseline's name, for baselines.
        known_costs: Costs of the same candidate from an earlier trial; they are not measured again.
        predicted: Latencies by target that need not be measured before the training.
        finished: The complete record of the same trial, of which only the costs that were not
            measured so far are wanted.
    """

    number: int
    candidate: Candidate
    seed: int
    origin: Origin = "sampler"
    baseline: str | None = None
    known_costs: tuple[Costs, ...] = ()
    predicted: tuple[tuple[str, PredictedLatency], ...] = ()
    finished: TrialRecord | None = None


class Preparation(Record):
    """What a study measures once, before its first trial."""

    references: tuple[TargetReference, ...]
    trivial_quality: Quality
    stage_tables: tuple[StageTable, ...] = ()
