"""What candidates cost before anybody measures them, and where that decides something."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from upnas.front import CandidateSummary, StudySummary, minimised
from upnas.prediction import (
    Audit,
    LatencyModel,
    Observation,
    is_surely_dominated,
    predict_costs,
    verdict_on,
)
from upnas.records import (
    Candidate,
    Constraint,
    Costs,
    PredictedLatency,
    StageTable,
    StudyHeader,
    TrialRecord,
)
from upnas.space import SearchSpace


class CostOracle:
    """Predicts latencies from the study's stage tables and the candidates measured so far.

    Without tables, or while the predictions are not to be trusted, it says nothing, and every
    candidate is measured.

    Args:
        header: The study.
        records: Newest record of every earlier trial.
    """

    def __init__(self, header: StudyHeader, records: Sequence[TrialRecord]):
        self._constraints = header.constraints
        self._tables = {table.target: table for table in header.stage_tables}
        self._reference_ms = {one.target: one.latency_ms for one in header.references}
        self._first = header.targets[0].name if header.targets else ""
        self._observations: dict[str, dict[str, Observation]] = {name: {} for name in self._tables}
        self._models: dict[str, tuple[int, LatencyModel, Audit]] = {}
        for record in records:
            self.learn(record)

    def learn(self, record: TrialRecord) -> None:
        """Take the measured latencies of a record."""
        for costs in record.costs:
            if costs.target in self._tables and costs.latency is not None:
                seen = Observation.of(record.candidate, costs.latency)
                self._observations[costs.target][record.candidate.key] = seen

    def predict(self, candidate: Candidate) -> tuple[Costs, ...]:
        """The costs on every target that has a table; empty where one cannot be predicted."""
        predicted = []
        for name, table in self._tables.items():
            model, audit = self._model(table)
            if not audit.is_trusted:
                return ()
            (costs,) = predict_costs(model, [candidate], self._reference_ms[name])
            if costs is None:
                return ()
            predicted.append(costs)
        return tuple(predicted)

    def violation(self, predicted: Sequence[Costs]) -> str | None:
        """The first limit on latency that the costs break wherever in their intervals they lie."""
        for costs in predicted:
            latency, limits = costs.predicted, self._limits_on(costs.target)
            if latency is None or verdict_on(latency.interval_ms, limits) != "infeasible":
                continue
            low, high = latency.interval_ms
            wanted = " and ".join(map(_limit, limits))
            return (
                f"predicted latency_ms {latency.median_ms:.4g} [{low:.4g}, {high:.4g}] is not "
                f"{wanted} on {costs.target}"
            )
        return None

    def decided(self, predicted: Sequence[Costs]) -> tuple[tuple[str, PredictedLatency], ...]:
        """The latencies that need no measurement before the training: they keep every limit."""
        return tuple(
            (costs.target, costs.predicted)
            for costs in predicted
            if costs.predicted is not None
            and verdict_on(costs.predicted.interval_ms, self._limits_on(costs.target)) == "feasible"
        )

    def _limits_on(self, target: str) -> list[Constraint]:
        return [
            constraint
            for constraint in self._constraints
            if constraint.metric == "latency_ms" and (constraint.target or self._first) == target
        ]

    def _model(self, table: StageTable) -> tuple[LatencyModel, Audit]:
        """The model of a target; fitted anew once a tenth more candidates were measured."""
        seen = self._observations[table.target]
        known = self._models.get(table.target)
        if known is None or len(seen) > 1.1 * known[0]:
            model = LatencyModel.fit(table, seen.values())
            known = self._models[table.target] = (len(seen), model, model.audit())
        return known[1], known[2]


def lacks_measurement(summary: StudySummary, entry: CandidateSummary) -> bool:
    """Whether a candidate that matters has costs that are predicted or were never measured.

    A candidate matters if it is a baseline, on the front, or could be if its latency turned out at
    the better end of its interval.
    """
    targets = {target.name for target in summary.header.targets}
    measured = {costs.target for costs in entry.newest.costs if costs.is_measured}
    if targets <= measured:
        return False
    return entry.is_on_front or entry.baseline is not None or _may_be_on_front(summary, entry)


def _may_be_on_front(summary: StudySummary, entry: CandidateSummary) -> bool:
    if not entry.is_eligible or all(costs.is_measured for costs in entry.newest.costs):
        return False
    values = tuple(
        replace(value, mean=value.low)
        if objective.metric == "latency_ms" and value is not None and value.low is not None
        else value
        for objective, value in zip(summary.objectives, entry.values, strict=True)
    )
    best_case = minimised(summary.header, replace(entry, values=values))
    front = [minimised(summary.header, member) for member in summary.front]
    return not is_surely_dominated(best_case, front)


def predicts_costs(space: SearchSpace) -> bool:
    """Whether latencies are to be predicted; by default where the stages are timed sooner."""
    metrics = {o.metric for o in space.objectives} | {c.metric for c in space.constraints}
    if space.search.predict_costs == "never" or "latency_ms" not in metrics:
        return False
    num_options = sum(len(stage.options) for stage in space.stages)
    return space.search.predict_costs == "always" or space.search.trials > num_options


def _limit(constraint: Constraint) -> str:
    limits = [
        f"at least {constraint.min:g}" if constraint.min is not None else "",
        f"at most {constraint.max:g}" if constraint.max is not None else "",
    ]
    return " and ".join(filter(None, limits))
