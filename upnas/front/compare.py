"""Which candidates the seeds can tell apart."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from upnas.front.summary import (
    CandidateSummary,
    Estimate,
    Split,
    StudySummary,
    minimised,
    quality_on,
)
from upnas.records import Objective


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """Two candidates on one quality metric, by the seeds that both were trained with.

    Attributes:
        difference: First minus second, seed by seed; None without a common seed.
        outcome: "undecidable" with fewer than two common seeds, "indistinguishable" when the
            interval of the difference holds 0 (which is not proof of equality).
    """

    metric: str
    split: Split
    difference: Estimate | None
    outcome: Literal["better", "worse", "indistinguishable", "undecidable"]

    @property
    def num_seeds(self) -> int:
        """Common seeds."""
        return 0 if self.difference is None else self.difference.num_samples


@dataclass(frozen=True, slots=True, kw_only=True)
class Ties:
    """Front members that the seeds cannot tell apart on the main quality.

    Attributes:
        groups: Each led by its best member; every other member is indistinguishable from the
            leader (not necessarily from one another: that relation is not transitive).
        undecidable: Members with fewer than two seeds in common with a leader and in no group.
    """

    groups: tuple[tuple[CandidateSummary, ...], ...]
    undecidable: tuple[CandidateSummary, ...]


def compare(
    first: CandidateSummary,
    second: CandidateSummary,
    objective: Objective,
    split: Split = "validation",
) -> Comparison:
    """Compare two candidates on a quality metric, paired by seed.

    Seeds share their data order and initialisation, so their difference is less noisy than either
    value. The interval is Student's, per comparison: it is not corrected for making many.
    """
    samples = [
        {trial.seed: quality_on(trial, split).get(objective.metric) for trial in side.trials}
        for side in (first, second)
    ]
    differences = [
        value - other
        for seed, value in samples[0].items()
        if value is not None and (other := samples[1].get(seed)) is not None
    ]
    difference = Estimate.of(differences) if differences else None
    outcome: Literal["better", "worse", "indistinguishable", "undecidable"]
    if difference is None or difference.low is None or difference.high is None:
        outcome = "undecidable"
    elif difference.low <= 0 <= difference.high:
        outcome = "indistinguishable"
    else:
        is_better = (difference.mean > 0) == (objective.direction == "maximize")
        outcome = "better" if is_better else "worse"
    return Comparison(metric=objective.metric, split=split, difference=difference, outcome=outcome)


def ties(summary: StudySummary, split: Split = "validation") -> Ties:
    """Group the front's members by what the seeds can tell apart on the main quality.

    The best member leads the first group and takes everything indistinguishable from it; the best
    of the rest leads the next. Groups of one are left out.
    """
    objective = summary.main_quality
    if objective is None:
        return Ties(groups=(), undecidable=())
    column = summary.objectives.index(objective)
    rest = sorted(summary.front, key=lambda member: minimised(summary.header, member)[column])
    groups: list[tuple[CandidateSummary, ...]] = []
    undecidable: dict[str, CandidateSummary] = {}
    while rest:
        leader, *others = rest
        outcomes = [compare(leader, other, objective, split).outcome for other in others]
        pairs = list(zip(others, outcomes, strict=True))
        tied = [other for other, outcome in pairs if outcome == "indistinguishable"]
        undecidable |= {o.key: o for o, outcome in pairs if outcome == "undecidable"}
        if tied:
            groups.append((leader, *tied))
        rest = [other for other in others if other not in tied]
    grouped = {member.key for group in groups for member in group}
    return Ties(
        groups=tuple(groups),
        undecidable=tuple(o for key, o in undecidable.items() if key not in grouped),
    )
