"""The Optuna study, derived from the records: what the sampler learns from.

``trials.jsonl`` is the truth. The Optuna journal is made anew from it whenever a driver starts,
so it can neither be lost nor keep a trial that died with an earlier driver as RUNNING.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, create_trial

from upnas.records import (
    Candidate,
    Constraint,
    Objective,
    StudyHeader,
    TrialRecord,
    TrialState,
    Value,
)
from upnas.search.samplers import make_sampler
from upnas.space import SearchSpace

logger = logging.getLogger(__name__)

_STATES = {
    TrialState.COMPLETE: optuna.trial.TrialState.COMPLETE,
    TrialState.FAILED: optuna.trial.TrialState.FAIL,
    # PRUNED keeps the sampler away from the region; FAIL would teach it nothing.
    TrialState.REFUSED: optuna.trial.TrialState.PRUNED,
}


class SamplerStudy:
    """Ask/tell over an Optuna study in ``journal``.

    Args:
        space: What can be asked for.
        header: Objectives, constraints, sampler and seed.
        journal: The journal file; replaced.
        records: Final trials of earlier sessions, in order.
    """

    def __init__(
        self,
        space: SearchSpace,
        header: StudyHeader,
        journal: Path,
        records: Sequence[TrialRecord],
    ):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self._space = space
        self._objectives = header.objectives
        self._constraints = header.constraints
        for stale in (journal, journal.with_name(journal.name + ".lock")):
            stale.unlink(missing_ok=True)
        self._study = optuna.create_study(
            study_name=header.name,
            storage=JournalStorage(JournalFileBackend(str(journal))),
            # Reseeded by what is known, so that a resumed sampler does not repeat its proposals.
            sampler=make_sampler(header.sampler, header.seed + len(records), header.num_trials),
            directions=[objective.direction for objective in header.objectives],
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self._study.set_metric_names([objective.label for objective in header.objectives])
        for record in records:
            self.add(record)

    def ask(self) -> tuple[Trial, Candidate]:
        """Let the sampler choose a candidate."""
        trial = self._study.ask()

        def suggest(name: str, choices: tuple[Value, ...]) -> Value:
            chosen: Value = trial.suggest_categorical(name, choices)  # type: ignore[arg-type, assignment]
            return chosen

        return trial, self._space.choose(suggest)

    def reject(self, trial: Trial) -> None:
        """Give back a candidate that will not be trained; the sampler learns nothing from it."""
        self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def tell(self, trial: Trial, record: TrialRecord) -> None:
        """Report the final record of a candidate that was asked for."""
        values, state = self._outcome(record)
        trial.set_user_attr("trial", record.number)
        trial.set_user_attr("candidate", record.candidate.key)
        if record.costs:
            for name, violation in self._violations(record).items():
                trial.set_constraint(name, violation)
        self._study.tell(trial, values, state=state)

    def add(self, record: TrialRecord) -> None:
        """Report a final record that was not asked for: a baseline, a replicate, the past."""
        if not self._space.contains(record.candidate):
            return  # a baseline outside the space has no parameters that Optuna could learn from
        values, state = self._outcome(record)
        self._study.add_trial(
            create_trial(
                state=state,
                values=values,
                params=dict(self._space.parameters(record.candidate)),
                distributions=self._distributions(record.candidate),
                user_attrs={"trial": record.number, "candidate": record.candidate.key},
                constraints=self._violations(record) if record.costs else None,
            )
        )

    def _outcome(
        self, record: TrialRecord
    ) -> tuple[list[float] | None, optuna.trial.TrialState]:
        if record.state is not TrialState.COMPLETE:
            return None, _STATES[record.state]
        values = [objective_value(record, objective) for objective in self._objectives]
        return values, optuna.trial.TrialState.COMPLETE

    def _violations(self, record: TrialRecord) -> dict[str, float]:
        """By how much each constraint is violated; zero or less is feasible."""
        violations = {}
        for constraint in self._constraints:
            name = f"{constraint.metric}@{constraint.target or 'first'}"
            violations[name] = _violation(record, constraint)
        return violations

    def _distributions(self, candidate: Candidate) -> dict[str, CategoricalDistribution]:
        """The distributions on the path that leads to a candidate."""
        parameters = self._space.parameters(candidate)
        distributions: dict[str, CategoricalDistribution] = {}

        def replay(name: str, choices: tuple[Value, ...]) -> Value:
            distributions[name] = CategoricalDistribution(choices)  # type: ignore[arg-type]
            return parameters[name]

        self._space.choose(replay)
        return distributions


def is_settled(journal: Path, name: str) -> bool:
    """Whether the journal exists and holds no trial that a dead driver left RUNNING."""
    if not journal.exists():
        return False
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.load_study(
            study_name=name, storage=JournalStorage(JournalFileBackend(str(journal)))
        )
    except (KeyError, ValueError):  # another study, or a line that a crash cut
        return False
    return all(trial.state.is_finished() for trial in study.get_trials(deepcopy=False))


def objective_value(record: TrialRecord, objective: Objective) -> float:
    """The objective's value of a complete record."""
    value = record.value(objective.metric, objective.target)
    assert value is not None and math.isfinite(value)  # a complete record has every objective
    return value


def _violation(record: TrialRecord, constraint: Constraint) -> float:
    if constraint.equals is not None:
        costs = record.costs_on(constraint.target)
        assert costs is not None
        return 0.0 if dict(costs.exportable).get(constraint.equals) == "ok" else 1.0
    value = record.value(constraint.metric, constraint.target)
    assert value is not None
    above = value - constraint.max if constraint.max is not None else -math.inf
    below = constraint.min - value if constraint.min is not None else -math.inf
    return max(above, below)
