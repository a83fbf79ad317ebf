"""Which trial runs next, and what becomes of its records.

The order is: trials that an earlier session left unfinished, the baselines, new candidates until
the budget is spent, measurements of what the front and the baselines cost where that was predicted
or not wanted so far, then replicates of both with further seeds. Nothing here knows how trials are
executed.
"""

from __future__ import annotations

import random
import time
from collections.abc import Sequence
from typing import Final

from optuna.trial import Trial

from upnas.front import summarise
from upnas.records import Candidate, Costs, StudyHeader, TrialRecord, TrialState
from upnas.search.observer import SearchObserver
from upnas.search.oracle import CostOracle, lacks_measurement
from upnas.search.study import SamplerStudy, is_settled
from upnas.space import SearchSpace
from upnas.store import StudyFolder
from upnas.trial import TrialRequest

_MAX_REPEATED_PROPOSALS: Final = 10  # before a random unseen candidate is taken instead
_MAX_ENUMERATION: Final = 50_000


class TrialQueue:
    """Hands out trials and takes their records, the single writer of ``trials.jsonl``.

    Args:
        space: The search space.
        header: Budget, seeds, objectives.
        folder: Where records are appended, under the driver's lock.
        records: Newest record of every earlier trial, by number.
        observers: Told of every start and record.
    """

    def __init__(
        self,
        space: SearchSpace,
        header: StudyHeader,
        folder: StudyFolder,
        records: Sequence[TrialRecord],
        observers: Sequence[SearchObserver],
    ):
        self._space = space
        self._header = header
        self._folder = folder
        self._observers = observers
        self._records = {record.number: record for record in records}
        self._unfinished = [record for record in records if not record.is_final]
        self._running: dict[int, TrialRequest] = {}
        self._asked: dict[int, Trial] = {}
        self._study: SamplerStudy | None = None  # made when first needed
        self._oracle = CostOracle(header, records)
        self._measured: set[int] = set()  # trials whose missing costs were asked for
        self._random = random.Random(header.seed)
        self.is_stopping = False

    @property
    def records(self) -> list[TrialRecord]:
        """The newest record of every trial, by number."""
        return [self._records[number] for number in sorted(self._records)]

    @property
    def is_finished(self) -> bool:
        """Whether nothing runs and nothing is left to run."""
        return not self._running and not self._has_next()

    def next(self) -> TrialRequest | None:
        """The next trial to run, or None if there is nothing to start now."""
        if self.is_stopping:
            return None
        request = (
            self._resumed()
            or self._baseline()
            or self._proposal()
            or self._measurement()
            or self._replicate()
        )
        if request is not None:
            self._running[request.number] = request
            for observer in self._observers:
                observer.trial_started(request)
        return request

    def receive(self, record: TrialRecord) -> None:
        """Store a record of a running trial, and let the sampler learn from a final one."""
        request = self._running.get(record.number)
        if request is None:
            return  # a result that arrives twice
        self._folder.append(record)
        self._records[record.number] = record
        self._oracle.learn(record)
        if record.is_final:
            del self._running[record.number]
            asked = self._asked.pop(record.number, None)
            if asked is not None:
                self._sampler_study().tell(asked, record)
            elif self._study is not None and request.finished is None:
                self._study.add(record)
        for observer in self._observers:
            observer.trial_updated(record)

    def lost(self, number: int, detail: str) -> None:
        """A trial's worker died more often than is retried: the trial has failed."""
        request = self._running.get(number)
        if request is None:
            return
        if request.finished is not None:  # it keeps the costs that it has
            del self._running[number]
            return
        record = self._records.get(number) or TrialRecord(
            number=number,
            candidate=request.candidate,
            task=self._header.task,
            seed=request.seed,
            state=TrialState.RUNNING,
            origin=request.origin,
            baseline=request.baseline,
        )
        self.receive(
            record.model_copy(
                update={"state": TrialState.FAILED, "reason": "worker_died", "detail": detail}
            )
        )

    def close(self) -> None:
        """Leave no trial RUNNING in the Optuna study; unfinished ones are resumed from records."""
        for trial in self._asked.values():
            self._sampler_study().reject(trial)
        self._asked.clear()
        self._running.clear()
        if self._study is None and not self._is_settled():
            self._sampler_study()

    def _is_settled(self) -> bool:
        known = [r.number for r in self._final() if self._space.contains(r.candidate)]
        return is_settled(self._folder.journal_path, self._header.name, known)

    def _has_next(self) -> bool:
        return bool(
            self._pending_resumes()
            or self._pending_baselines()
            or self._num_proposals_left() > 0
            or self._pending_measurements()
            or self._pending_replicates()
        )

    def _resumed(self) -> TrialRequest | None:
        for record in self._pending_resumes():
            return TrialRequest(
                number=record.number,
                candidate=record.candidate,
                seed=record.seed,
                origin=record.origin,
                baseline=record.baseline,
                known_costs=record.costs,
            )
        return None

    def _pending_resumes(self) -> list[TrialRecord]:
        return [
            record
            for record in self._unfinished
            if record.number not in self._running and not self._records[record.number].is_final
        ]

    def _baseline(self) -> TrialRequest | None:
        for name, candidate in self._pending_baselines():
            return TrialRequest(
                number=self._next_number(),
                candidate=candidate,
                seed=self._header.seed,
                origin="baseline",
                baseline=name,
            )
        return None

    def _pending_baselines(self) -> list[tuple[str, Candidate]]:
        seen = self._seen()
        return [named for named in self._space.baselines() if named[1].key not in seen]

    def _proposal(self) -> TrialRequest | None:
        """A new candidate; those that are too slow for certain are refused on the way."""
        while self._num_proposals_left() > 0:
            request = self._proposed()
            predicted = self._oracle.predict(request.candidate)
            violation = self._oracle.violation(predicted)
            if violation is None:
                latencies = self._oracle.decided(predicted)
                return request.model_copy(update={"predicted": latencies})
            self._refuse(request, predicted, violation)
        return None

    def _proposed(self) -> TrialRequest:
        number = self._next_number()
        study = self._sampler_study()
        seen = self._seen()
        for _ in range(_MAX_REPEATED_PROPOSALS):
            trial, candidate = study.ask()
            if candidate.key not in seen:
                self._asked[number] = trial
                return TrialRequest(number=number, candidate=candidate, seed=self._header.seed)
            study.reject(trial)
        return TrialRequest(number=number, candidate=self._unseen(seen), seed=self._header.seed)

    def _refuse(self, request: TrialRequest, costs: tuple[Costs, ...], detail: str) -> None:
        """Record a candidate that needs neither a worker nor the device."""
        self._running[request.number] = request
        now_s = time.time()
        self.receive(
            TrialRecord(
                number=request.number,
                candidate=request.candidate,
                task=self._header.task,
                seed=request.seed,
                state=TrialState.REFUSED,
                reason="constraint",
                detail=detail,
                costs=costs,
                started_s=now_s,
                finished_s=now_s,
            )
        )

    def _unseen(self, seen: set[str]) -> Candidate:
        """A random candidate of the space that no trial has had; there is one."""
        if self._space.num_candidates <= _MAX_ENUMERATION:
            return self._random.choice(
                [one for one in self._space.candidates() if one.key not in seen]
            )
        while True:  # a study never sees more than a sliver of such a space
            candidate = self._space.random_candidate(self._random)
            if candidate.key not in seen:
                return candidate

    def _num_proposals_left(self) -> int:
        """Candidates that may still be proposed: those of the budget, while the space has some.

        A candidate that is refused before it trains is free, but not without end.
        """
        first = {
            record.candidate.key: record
            for record in self._records.values()
            if record.origin != "replicate"
        }
        free = [
            key
            for key, record in first.items()
            if record.state is TrialState.REFUSED and not record.rungs
        ]
        if len(free) >= 10 * self._header.num_trials + 50:
            return 0
        candidates = {key: record.candidate for key, record in first.items()}
        candidates |= {one.candidate.key: one.candidate for one in self._running.values()}
        num_known = sum(map(self._space.contains, candidates.values()))
        return min(
            self._header.num_trials - (len(candidates) - len(free)),
            self._space.num_candidates - num_known,
        )

    def _measurement(self) -> TrialRequest | None:
        for record in self._pending_measurements():
            self._measured.add(record.number)
            return TrialRequest(
                number=record.number,
                candidate=record.candidate,
                seed=record.seed,
                origin=record.origin,
                baseline=record.baseline,
                finished=record,
            )
        return None

    def _pending_measurements(self) -> list[TrialRecord]:
        """Complete trials of the front and of baselines that lack a measured cost.

        Asked for once a session: what a target cannot measure must not be asked for ever.
        """
        if self._running_new():
            return []
        summary = summarise(self._header, self.records)
        entries = [entry for entry in summary.entries if lacks_measurement(summary, entry)]
        return [entry.newest for entry in entries if entry.newest.number not in self._measured]

    def _replicate(self) -> TrialRequest | None:
        for candidate, seed in self._pending_replicates():
            trials = self._trials_of(candidate.key)
            return TrialRequest(
                number=self._next_number(),
                candidate=candidate,
                seed=seed,
                origin="replicate",
                baseline=trials[0].baseline,
                known_costs=max(trials, key=lambda trial: trial.finished_s).costs,
            )
        return None

    def _pending_replicates(self) -> list[tuple[Candidate, int]]:
        """Front members and baselines (or all) with fewer trainings than wanted, fewest first.

        A front is chosen by noisy values: its members are the lucky ones. Further seeds, the same
        for all (pairs), show which of them stay.
        """
        if self._header.num_seeds <= 1 or self._running_new():
            return []
        summary = summarise(self._header, self.records)
        wanted = []
        for entry in summary.entries:
            is_wanted = entry.is_on_front or entry.baseline is not None
            if not is_wanted and self._space.search.replicate == "front":
                continue
            used = {trial.seed for trial in self._trials_of(entry.candidate.key)}
            used |= {
                request.seed
                for request in self._running.values()
                if request.candidate.key == entry.candidate.key
            }
            seeds = range(self._header.seed, self._header.seed + self._header.num_seeds)
            wanted += [(len(used), entry.candidate, seed) for seed in seeds if seed not in used][:1]
        wanted.sort(key=lambda item: item[0])
        return [(candidate, seed) for _, candidate, seed in wanted]

    def _running_new(self) -> bool:
        """Whether a candidate is still in its first training, so that the front is not settled."""
        return any(
            request.origin != "replicate" and request.finished is None
            for request in self._running.values()
        )

    def _trials_of(self, key: str) -> list[TrialRecord]:
        return [record for record in self.records if record.candidate.key == key]

    def _seen(self) -> set[str]:
        running = {request.candidate.key for request in self._running.values()}
        return running | {record.candidate.key for record in self._records.values()}

    def _next_number(self) -> int:
        return max([*self._records, *self._running], default=-1) + 1

    def _sampler_study(self) -> SamplerStudy:
        if self._study is None:
            journal = self._folder.journal_path
            self._study = SamplerStudy(self._space, self._header, journal, self._final())
        return self._study

    def _final(self) -> list[TrialRecord]:
        return [record for record in self.records if record.is_final]
