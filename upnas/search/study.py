"""The Optuna study, derived from the records: what the sampler learns from.

``trials.jsonl`` is the truth. The Optuna journal is made anew from it whenever a driver starts,
so it can neither be lost nor keep a trial that died with an earlier driver as RUNNING.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, create_trial

from upnas.errors import StudyError
from upnas.records import (
    Candidate,
    Constraint,
    Objective,
    StudyHeader,
    TrialRecord,
    TrialState,
    Value,
)
from upnas.search.samplers import KNOWN_TRIAL_ATTRIBUTES, make_sampler
from upnas.space import SearchSpace

_NUMBER: Final = "trial"  # user attribute: the record's number
_STATES: Final = {
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
        self._journal = journal
        with self._writing():
            for stale in (journal, journal.with_name(journal.name + ".lock")):
                stale.unlink(missing_ok=True)
            self._study = self._create(header, len(records))
            for record in records:
                self.add(record)

    def _create(self, header: StudyHeader, num_known: int) -> optuna.Study:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study = optuna.create_study(
                study_name=header.name,
                storage=JournalStorage(JournalFileBackend(str(self._journal))),
                # Reseeded by what is known: a resumed sampler does not repeat its proposals.
                sampler=make_sampler(header.sampler, header.seed + num_known, header.num_trials),
                directions=[objective.direction for objective in header.objectives],
            )
            study.set_metric_names([objective.label for objective in header.objectives])
        return study

    def ask(self) -> tuple[Trial, Candidate]:
        """Let the sampler choose a candidate."""
        with self._writing():
            trial = self._study.ask()

            def suggest(name: str, choices: tuple[Value, ...]) -> Value:
                chosen: Value = trial.suggest_categorical(name, choices)  # type: ignore[arg-type, assignment]
                return chosen

            return trial, self._space.choose(suggest)

    def reject(self, trial: Trial) -> None:
        """Give back a candidate that will not be trained; the sampler learns nothing from it."""
        with self._writing():
            self._study.tell(trial, state=optuna.trial.TrialState.FAIL)

    def tell(self, trial: Trial, record: TrialRecord) -> None:
        """Report the final record of a candidate that was asked for."""
        values, state = self._outcome(record)
        with self._writing():
            trial.set_user_attr(_NUMBER, record.number)
            trial.set_user_attr("candidate", record.candidate.key)
            for name, violation in self._violations(record).items():
                trial.set_constraint(name, violation)
            self._study.tell(trial, values, state=state)

    def add(self, record: TrialRecord) -> None:
        """Report a final record that was not asked for: a baseline, a replicate, the past."""
        if not self._space.contains(record.candidate):
            return  # a baseline outside the space has no parameters that Optuna could learn from
        values, state = self._outcome(record)
        trial = create_trial(
            state=state,
            values=values,
            params=dict(self._space.parameters(record.candidate)),
            distributions=self._distributions(record.candidate),
            user_attrs={_NUMBER: record.number, "candidate": record.candidate.key},
            system_attrs=dict(KNOWN_TRIAL_ATTRIBUTES),
            constraints=self._violations(record) or None,
        )
        with self._writing():
            self._study.add_trial(trial)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn a full disk into words."""
        try:
            yield
        except OSError as error:
            raise StudyError(
                f"{self._journal}: cannot be written: {error.strerror}. It is rebuilt from "
                "trials.jsonl, so nothing is lost: free space or fix the permissions, then run "
                "the same command again to resume."
            ) from error

    def _outcome(self, record: TrialRecord) -> tuple[list[float] | None, optuna.trial.TrialState]:
        if record.state is not TrialState.COMPLETE:
            return None, _STATES[record.state]
        values = [objective_value(record, objective) for objective in self._objectives]
        return values, optuna.trial.TrialState.COMPLETE

    def _violations(self, record: TrialRecord) -> dict[str, float]:
        """By how much each constraint is violated; zero or less is feasible.

        Those on quality are left out of a record that has none: it never trained.
        """
        if not record.costs:
            return {}
        return {
            f"{constraint.metric}@{constraint.target or 'first'}": _violation(record, constraint)
            for constraint in self._constraints
            if record.rungs or not constraint.is_on_quality
        }

    def _distributions(self, candidate: Candidate) -> dict[str, BaseDistribution]:
        """The distributions on the path that leads to a candidate."""
        parameters = self._space.parameters(candidate)
        distributions: dict[str, BaseDistribution] = {}

        def replay(name: str, choices: tuple[Value, ...]) -> Value:
            distributions[name] = CategoricalDistribution(choices)  # type: ignore[arg-type]
            return parameters[name]

        self._space.choose(replay)
        return distributions


def is_settled(journal: Path, name: str, numbers: Iterable[int]) -> bool:
    """Whether the journal holds exactly these trials, and none that a dead driver left RUNNING."""
    if not journal.exists():
        return False
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        study = optuna.load_study(
            study_name=name, storage=JournalStorage(JournalFileBackend(str(journal)))
        )
    except (KeyError, ValueError):  # another study, or a line that a crash cut
        return False
    trials = study.get_trials(deepcopy=False)
    told = [trial.user_attrs[_NUMBER] for trial in trials if _NUMBER in trial.user_attrs]
    return sorted(told) == sorted(numbers) and all(trial.state.is_finished() for trial in trials)


def objective_value(record: TrialRecord, objective: Objective) -> float:
    """The objective's value of a complete record."""
    value = record.value(objective.metric, objective.target)
    assert value is not None  # a complete record has every objective, and finite ones only
    return value


def _violation(record: TrialRecord, constraint: Constraint) -> float:
    if constraint.equals is not None:
        costs = record.costs_on(constraint.target)
        assert costs is not None
        return 0.0 if dict(costs.exportable).get(constraint.equals) == "ok" else 1.0
    value = record.value(constraint.metric, constraint.target)
    if value is None:  # the target cannot run it
        return 1.0
    above = value - constraint.max if constraint.max is not None else -math.inf
    below = constraint.min - value if constraint.min is not None else -math.inf
    return max(above, below)
