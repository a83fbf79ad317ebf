"""Candidates with their values, the front and its hypervolume, from records.

A candidate may have several trials, one per seed. Its quality is the mean over its complete
trials; its costs are those of its newest record; its constraints are judged by these. The front
holds the candidates whose values no other candidate dominates, among those that are complete,
within the constraints, and above the task's trivial baseline.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

import numpy as np
from scipy.special import stdtrit

from upnas.pareto import Points, hypervolume, knee, non_dominated
from upnas.records import (
    COST_METRICS,
    Candidate,
    Constraint,
    Costs,
    Objective,
    StageChoice,
    StudyHeader,
    TrialRecord,
    TrialState,
)

#: The flag of a trial whose quality is below the task's trivial baseline: it has not learned.
BELOW_TRIVIAL: Final = "below_trivial_baseline"

Split = Literal["validation", "test"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A value with its 95 % interval.

    Attributes:
        mean: The value.
        low: Lower end of the interval; None where one sample gives no interval.
        high: Upper end.
        num_samples: Seeds (quality, differences) or timed pairs (latency) behind it.
    """

    mean: float
    low: float | None = None
    high: float | None = None
    num_samples: int = 1

    @classmethod
    def of(cls, samples: Sequence[float]) -> Estimate:
        """Mean and Student-t interval, for independent, roughly normal samples."""
        mean = float(np.mean(samples))
        if len(samples) < 2:
            return cls(mean=mean)
        quantile = float(stdtrit(len(samples) - 1, 0.975))
        half = quantile * float(np.std(samples, ddof=1)) / math.sqrt(len(samples))
        return cls(mean=mean, low=mean - half, high=mean + half, num_samples=len(samples))


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateSummary:
    """A candidate that finished with at least one seed.

    Attributes:
        number: Its first complete trial.
        key: See :attr:`Candidate.key`.
        trials: Its complete trials, by number; the last one of a seed counts.
        num_unfinished: Its failed and running trials.
        values: One estimate per objective; None where a cost was not measured.
        quality: One estimate per quality metric scored on the validation split.
        test_quality: One estimate per quality metric scored on the test split.
        stages_text: See :func:`short_label`.
        baseline: Its name, for a baseline.
        flags: Every flag of its trials.
        violations: Constraints that it breaks, in words.
        is_on_front: See the module.
        is_knee: See :func:`upnas.pareto.knee`.
    """

    number: int
    key: str
    candidate: Candidate
    trials: tuple[TrialRecord, ...]
    num_unfinished: int
    values: tuple[Estimate | None, ...]
    quality: Mapping[str, Estimate]
    test_quality: Mapping[str, Estimate]
    stages_text: str
    baseline: str | None
    flags: tuple[str, ...]
    violations: tuple[str, ...]
    is_on_front: bool = False
    is_knee: bool = False

    @property
    def is_feasible(self) -> bool:
        """Whether every constraint holds."""
        return not self.violations

    @property
    def is_eligible(self) -> bool:
        """Whether it may be on the front."""
        return self.is_feasible and BELOW_TRIVIAL not in self.flags and None not in self.values

    @property
    def newest(self) -> TrialRecord:
        """The record that its costs are taken from."""
        return max(self.trials, key=_finish_order)

    @property
    def label(self) -> str:
        """The baseline's name, or the stages in short."""
        return self.baseline or self.stages_text


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferencePoint:
    """The corner that bounds the hypervolume.

    Attributes:
        values: One per objective, in its own direction and unit.
        rule: How it was chosen, in words.
    """

    values: tuple[float, ...]
    rule: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySummary:
    """What a study found so far.

    Attributes:
        entries: Candidates with a complete trial, by number; see :class:`CandidateSummary`.
        running: Trials that may continue.
        failed: Trials that ended with a reason other than a constraint.
        refused: Trials that a constraint kept from training.
        reference: None before the first complete candidate.
        hypervolume: Of the front, in the product of the objectives' units; 0 without a reference.
        baseline_hypervolume: Of the baselines alone, with the same reference.
    """

    header: StudyHeader
    entries: tuple[CandidateSummary, ...]
    running: tuple[TrialRecord, ...]
    failed: tuple[TrialRecord, ...]
    refused: tuple[TrialRecord, ...]
    reference: ReferencePoint | None
    hypervolume: float
    baseline_hypervolume: float

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """The study's objectives; the order of every ``values``."""
        return self.header.objectives

    @property
    def front(self) -> tuple[CandidateSummary, ...]:
        """The Pareto set, by the first objective, best first."""
        members = [entry for entry in self.entries if entry.is_on_front]
        return tuple(sorted(members, key=lambda member: minimised(self.header, member)[0]))

    @property
    def baselines(self) -> tuple[CandidateSummary, ...]:
        """The baselines that are complete, by number."""
        return tuple(entry for entry in self.entries if entry.baseline)

    @property
    def num_trials(self) -> int:
        """Trials of every state."""
        unfinished = len(self.running) + len(self.failed) + len(self.refused)
        return unfinished + sum(len(entry.trials) for entry in self.entries)

    @property
    def num_below_trivial(self) -> int:
        """Complete candidates that stay off the front because they have not learned."""
        return sum(BELOW_TRIVIAL in entry.flags for entry in self.entries)

    @property
    def num_outside_reference(self) -> int:
        """Front members that add nothing to the hypervolume: beyond the reference point."""
        if self.reference is None:
            return 0
        corner = _signs(self.header) * self.reference.values
        return int((_points(self.header, self.front) >= corner).any(axis=1).sum())

    @property
    def other_metrics(self) -> tuple[str, ...]:
        """The quality metrics that were asked for and are no objectives."""
        asked = self.header.space.get("task", {}).get("metrics", ())
        objectives = {objective.metric for objective in self.objectives}
        return tuple(metric for metric in asked if metric not in objectives)

    @property
    def reported_targets(self) -> tuple[str, ...]:
        """Targets whose latency is no objective: measured for the front and the baselines."""
        targets = [target.name for target in self.header.targets]
        searched = {o.target or targets[0] for o in self.objectives if o.metric == "latency_ms"}
        return tuple(name for name in targets if name not in searched)

    @property
    def main_quality(self) -> Objective | None:
        """The first objective that is not a cost."""
        return next((o for o in self.objectives if o.metric not in COST_METRICS), None)

    @property
    def main_cost(self) -> Objective | None:
        """The first objective that is a cost."""
        return next((o for o in self.objectives if o.metric in COST_METRICS), None)

    def cheapest(self, members: Iterable[CandidateSummary]) -> CandidateSummary:
        """The member with the lowest main cost; the first one in a study without costs."""
        if self.main_cost is None:
            return next(iter(members))
        column = self.objectives.index(self.main_cost)
        return min(members, key=lambda member: minimised(self.header, member)[column])


@dataclass(frozen=True, slots=True, kw_only=True)
class HypervolumePoint:
    """Hypervolume of everything complete after ``num_finished`` trials were final."""

    num_finished: int
    number: int
    hypervolume: float


def short_label(header: StudyHeader, candidate: Candidate) -> str:
    """Stages, deepest first, with equal neighbours folded: ``carafe(32) | bilinear x3``.

    Of the parameters, the searched ones are shown.
    """
    texts = _stage_texts(header, candidate)
    runs = [(text, len(list(run))) for text, run in itertools.groupby(texts)]
    return " | ".join(text if count == 1 else f"{text} x{count}" for text, count in runs)


def stage_labels(header: StudyHeader, candidate: Candidate) -> dict[str, str]:
    """The upsampler of each stage by the stage's label, deepest first."""
    return dict(zip(header.stages, _stage_texts(header, candidate), strict=True))


def quality_on(trial: TrialRecord, split: Split) -> dict[str, float]:
    """A trial's quality by metric on the validation or the test split."""
    return trial.quality if split == "validation" else dict(trial.test_quality)


def minimised(header: StudyHeader, candidate: CandidateSummary) -> tuple[float, ...]:
    """A candidate's objective means with the sign that makes smaller better; NaN where missing."""
    means = (math.nan if value is None else value.mean for value in candidate.values)
    return tuple(float(sign) * mean for sign, mean in zip(_signs(header), means, strict=True))


def summarise(header: StudyHeader, trials: Iterable[TrialRecord]) -> StudySummary:
    """Work out the front and its hypervolume.

    Args:
        header: The study.
        trials: The newest record of each trial.
    """
    trials = sorted(trials, key=lambda trial: trial.number)
    by_state = {state: tuple(t for t in trials if t.state is state) for state in TrialState}
    candidates = _summarise_candidates(header, trials)
    reference = _reference_point(header, candidates)
    eligible = [candidate for candidate in candidates if candidate.is_eligible]
    points = _points(header, eligible)
    on_front = non_dominated(points)
    knee_row = knee(points)
    marked = {
        candidate.key: replace(candidate, is_on_front=bool(on_front[row]), is_knee=row == knee_row)
        for row, candidate in enumerate(eligible)
    }
    baselines = [candidate for candidate in eligible if candidate.baseline]
    return StudySummary(
        header=header,
        entries=tuple(marked.get(candidate.key, candidate) for candidate in candidates),
        running=by_state[TrialState.RUNNING],
        failed=by_state[TrialState.FAILED],
        refused=by_state[TrialState.REFUSED],
        reference=reference,
        hypervolume=_hypervolume(header, points, reference),
        baseline_hypervolume=_hypervolume(header, _points(header, baselines), reference),
    )


def hypervolume_history(summary: StudySummary) -> tuple[HypervolumePoint, ...]:
    """Hypervolume after each final trial, in the order they finished, with the final reference."""
    header = summary.header
    complete = [trial for entry in summary.entries for trial in entry.trials]
    finished = sorted([*complete, *summary.failed, *summary.refused], key=_finish_order)
    trials: dict[str, list[TrialRecord]] = {}
    points: dict[str, tuple[float, ...]] = {}  # of the eligible candidates
    front = _points(header, ())
    volume = 0.0
    history = []
    for num_finished, trial in enumerate(finished, start=1):
        if trial.state is TrialState.COMPLETE:
            key = trial.candidate.key
            trials.setdefault(key, []).append(trial)
            candidate = _summarise_candidate(header, trials[key])
            was_eligible = points.pop(key, None) is not None
            point = np.array(minimised(header, candidate))
            if candidate.is_eligible:
                points[key] = minimised(header, candidate)
            # A new candidate behind the front changes nothing, which spares most of the work.
            if was_eligible or not (front <= point).all(axis=1).any():
                front = np.array(list(points.values())).reshape(-1, len(point))
                front = front[non_dominated(front)]
                volume = _hypervolume(header, front, summary.reference)
        history.append(
            HypervolumePoint(num_finished=num_finished, number=trial.number, hypervolume=volume)
        )
    return tuple(history)


def _stage_texts(header: StudyHeader, candidate: Candidate) -> list[str]:
    spaces = header.space.get("stages", {})
    return [
        _short(stage, spaces.get(str(number), {}).get(stage.upsampler, {}))
        for number, stage in enumerate(candidate.stages, start=1)
    ]


def _short(stage: StageChoice, choices: Mapping[str, Sequence[object]]) -> str:
    values = [
        "+".join(map(str, value)) if isinstance(value, tuple) else str(value)
        for name, value in stage.parameters
        if len(choices.get(name, ())) > 1
    ]
    return f"{stage.name}({','.join(values)})" if values else stage.name


def _finish_order(trial: TrialRecord) -> tuple[float, int]:
    return trial.finished_s, trial.number


def _signs(header: StudyHeader) -> Points:
    return np.array([1.0 if o.direction == "minimize" else -1.0 for o in header.objectives])


def _points(header: StudyHeader, candidates: Iterable[CandidateSummary]) -> Points:
    rows = [minimised(header, candidate) for candidate in candidates]
    return np.array(rows, dtype=np.float64).reshape(-1, len(header.objectives))


def _summarise_candidates(
    header: StudyHeader, trials: Iterable[TrialRecord]
) -> tuple[CandidateSummary, ...]:
    by_key: dict[str, list[TrialRecord]] = {}
    for trial in trials:
        by_key.setdefault(trial.candidate.key, []).append(trial)
    summaries = (
        _summarise_candidate(header, group)
        for group in by_key.values()
        if any(trial.state is TrialState.COMPLETE for trial in group)
    )
    return tuple(sorted(summaries, key=lambda summary: summary.number))


def _summarise_candidate(header: StudyHeader, trials: Sequence[TrialRecord]) -> CandidateSummary:
    """Summarise the trials of one candidate, at least one of them complete."""
    complete = [trial for trial in trials if trial.state is TrialState.COMPLETE]
    # Repeating a seed adds no independent sample: the last one counts.
    samples = list({trial.seed: trial for trial in complete}.values())
    newest = max(complete, key=_finish_order)
    names = dict.fromkeys(trial.baseline for trial in trials if trial.baseline)
    return CandidateSummary(
        number=min(trial.number for trial in complete),
        key=newest.candidate.key,
        candidate=newest.candidate,
        trials=tuple(sorted(complete, key=lambda trial: trial.number)),
        num_unfinished=sum(trial.state is not TrialState.COMPLETE for trial in trials),
        values=tuple(_value(objective, samples, newest) for objective in header.objectives),
        stages_text=short_label(header, trials[0].candidate),
        quality=_mean_qualities(samples, "validation"),
        test_quality=_mean_qualities(samples, "test"),
        baseline=" = ".join(names) or None,
        flags=tuple(sorted({flag for trial in complete for flag in trial.flags})),
        violations=tuple(
            text
            for constraint in header.constraints
            if (text := _violation(constraint, samples, newest))
        ),
    )


def _value(
    objective: Objective, samples: Sequence[TrialRecord], newest: TrialRecord
) -> Estimate | None:
    if objective.metric not in COST_METRICS:
        return _mean_quality(objective.metric, samples, "validation")
    costs = newest.costs_on(objective.target)
    if costs is None:
        return None
    if objective.metric == "latency_ms":
        return latency_of(costs)
    value = newest.value(objective.metric, objective.target)
    return None if value is None else Estimate(mean=value)


def latency_of(costs: Costs) -> Estimate | None:
    """The latency, measured with its interval or predicted with a wider one; None without one."""
    known = costs.latency or costs.predicted
    if known is None:
        return None
    low, high = known.interval_ms
    num_pairs = len(costs.latency.ratios) if costs.latency is not None else 0
    return Estimate(mean=known.median_ms, low=low, high=high, num_samples=num_pairs)


def _mean_quality(metric: str, samples: Sequence[TrialRecord], split: Split) -> Estimate | None:
    scores = (quality_on(trial, split).get(metric) for trial in samples)
    values = [score for score in scores if score is not None]
    return Estimate.of(values) if values else None


def _mean_qualities(samples: Sequence[TrialRecord], split: Split) -> dict[str, Estimate]:
    names = dict.fromkeys(name for trial in samples for name in quality_on(trial, split))
    means = {name: _mean_quality(name, samples, split) for name in names}
    return {name: mean for name, mean in means.items() if mean is not None}


def _violation(
    constraint: Constraint, samples: Sequence[TrialRecord], newest: TrialRecord
) -> str | None:
    """Say how a candidate breaks a constraint; what was not measured counts as broken."""
    metric = constraint.metric
    if constraint.equals is not None:
        costs = newest.costs_on(constraint.target)
        found = dict(costs.exportable).get(constraint.equals, "not probed") if costs else "unknown"
        return None if found == "ok" else f"{metric} to {constraint.equals}: {found}"
    if constraint.is_on_quality:
        mean = _mean_quality(metric, samples, "validation")
        value = None if mean is None else mean.mean
    else:
        value = newest.value(metric, constraint.target)
    if value is None:
        return f"{metric} was not measured"
    if constraint.max is not None and value > constraint.max:
        return f"{metric} {value:.4g} > {constraint.max:.4g}"
    if constraint.min is not None and value < constraint.min:
        return f"{metric} {value:.4g} < {constraint.min:.4g}"
    return None


def _reference_point(
    header: StudyHeader, candidates: Sequence[CandidateSummary]
) -> ReferencePoint | None:
    """Choose a corner that stays put while a study runs.

    Baselines are the first trials of a study; only the first seed of each is used, so that later
    replicates do not move the corner. It leaves room beyond the baselines: the best candidates
    often cost more than all of them.
    """
    known = [candidate for candidate in candidates if None not in candidate.values]
    baselines = [candidate for candidate in known if candidate.baseline]
    chosen, who = (baselines, "baseline") if baselines else (known, "complete candidate")
    if not chosen:
        return None
    columns = zip(
        *(_trial_values(header, candidate.trials[0]) for candidate in chosen), strict=True
    )
    return ReferencePoint(
        values=tuple(
            _reference_value(header, objective, column)
            for objective, column in zip(header.objectives, columns, strict=True)
        ),
        rule=f"costs: the constraint's limit, else twice the worst {who}; quality: the worst "
        f"{who}, moved by the range of the {who}s (by 10 % where they do not differ)",
    )


def _reference_value(header: StudyHeader, objective: Objective, values: Sequence[float]) -> float:
    is_minimised = objective.direction == "minimize"
    worst = max(values) if is_minimised else min(values)
    if objective.metric in COST_METRICS:
        limits = [
            constraint.max
            for constraint in header.constraints
            if (constraint.metric, constraint.target) == (objective.metric, objective.target)
        ]
        limit = next((limit for limit in limits if limit is not None), None)
        return 2 * worst if limit is None else limit
    margin = (max(values) - min(values)) or 0.1 * abs(worst) or 1.0
    return worst + margin if is_minimised else worst - margin


def _trial_values(header: StudyHeader, trial: TrialRecord) -> list[float]:
    values = (trial.value(objective.metric, objective.target) for objective in header.objectives)
    return [math.nan if value is None else value for value in values]


def _hypervolume(header: StudyHeader, points: Points, reference: ReferencePoint | None) -> float:
    if reference is None:
        return 0.0
    return hypervolume(points, _signs(header) * reference.values)
