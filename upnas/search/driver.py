"""A search from start to end: open or resume the study, run trials, close it."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from upnas.errors import StudyError
from upnas.measure.environment import available_cpus, describe_environment
from upnas.measure.targets import check_target
from upnas.records import OPTIONAL_COSTS, StudyHeader, TrialRecord, decisive_targets
from upnas.search.executor import Executor, InlineExecutor
from upnas.search.observer import SearchObserver
from upnas.search.oracle import predicts_costs
from upnas.search.queue import TrialQueue
from upnas.search.resources import Node, derive_resources
from upnas.space import SearchSpace, difference
from upnas.store import Study, StudyFolder
from upnas.tasks import metrics_of, with_absolute_path
from upnas.trial import TrialSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How a search runs, beside its space.

    Attributes:
        folder: The study's folder.
        command: What the user typed, for the record.
        address: Of a Ray cluster; None = this machine alone.
        executor: "ray", "inline" for one trial after the other in this process, or an executor of
            the caller's own.
        is_strict: Refuse to measure while other programs use a target's device.
        uses_cache: Take costs that were measured on this machine before from its cache.
    """

    folder: Path
    command: str
    address: str | None = None
    executor: Literal["ray", "inline"] | Executor = "ray"
    is_strict: bool = False
    uses_cache: bool = True


def run_search(
    space: SearchSpace, options: SearchOptions, observers: Sequence[SearchObserver] = ()
) -> Study:
    """Start, resume or just read a study; returns it with everything that is finished.

    Running the same search again resumes it; a finished one returns at once.

    Raises:
        StudyError: If the folder holds a study of another space, another driver runs it, or the
            folder cannot be written.
        TargetError: If this machine cannot serve a target.
    """
    folder = StudyFolder(options.folder)
    with folder.lock():
        header = _resumed_header(space, folder, observers) if folder.exists() else None
        records = folder.read_trials()
        if header is not None and _settle_if_finished(space, header, folder, records, observers):
            return folder.read_study()
        if options.address is None:
            for target in space.targets:
                check_target(target)
        with _executor(space, options) as executor:
            _notify(observers, executor.resources.reason)
            if header is None:
                header = _create_study(space, options, folder, executor)
            for observer in observers:
                observer.study_opened(header, records)
            with contextlib.closing(TrialQueue(space, header, folder, records, observers)) as queue:
                is_finished = False
                try:
                    with _stopping_on_interrupt(queue, observers):
                        executor.run(queue, _spec(space, options, header, executor))
                    is_finished = queue.is_finished
                finally:
                    for observer in observers:
                        observer.study_closed(is_finished=is_finished)
        return folder.read_study()


def _settle_if_finished(
    space: SearchSpace,
    header: StudyHeader,
    folder: StudyFolder,
    records: Sequence[TrialRecord],
    observers: Sequence[SearchObserver],
) -> bool:
    """Whether nothing is left to run; the Optuna study is then in order as well."""
    queue = TrialQueue(space, header, folder, records, observers)
    if not queue.is_finished:
        return False
    queue.close()
    _notify(
        observers,
        f"{folder.path}: finished before; --trials with more candidates goes on, --fresh starts "
        "over",
    )
    return True


@contextlib.contextmanager
def _executor(space: SearchSpace, options: SearchOptions) -> Iterator[Executor]:
    if not isinstance(options.executor, str):
        yield options.executor
        return
    if options.executor == "inline":
        cpus = space.search.cpus_per_trial
        resources = derive_resources(
            [Node(available_cpus())], concurrency=1, cpus_per_trial=cpus, gpus_per_trial=0.0
        )
        yield InlineExecutor(resources)
        return
    if options.address is None:
        # Ray's own name for "no cluster but this machine": it then listens on loopback only.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    from upnas.search.ray_tune import ray_executor  # importing and starting Ray takes seconds

    scratch = options.folder / "ray"
    with ray_executor(space.search, address=options.address, scratch=scratch) as executor:
        yield executor


def _spec(
    space: SearchSpace, options: SearchOptions, header: StudyHeader | None, executor: Executor
) -> TrialSpec:
    main = metrics_of(space.task_config)[0]
    metrics = {o.metric for o in space.objectives} | {c.metric for c in space.constraints}
    decisive = decisive_targets(space.targets, space.objectives, space.constraints)
    return TrialSpec(
        task=with_absolute_path(space.task_config),
        signature=space.task,
        training=space.training,
        rungs=space.search.rungs,
        targets=space.targets,
        decisive=tuple(target.name for target in decisive),
        constraints=space.constraints,
        optional_costs=tuple(sorted(metrics & OPTIONAL_COSTS)),
        is_strict=options.is_strict,
        uses_cache=options.uses_cache,
        stage_options=tuple(stage.options for stage in space.stages)
        if predicts_costs(space)
        else (),
        reference=dict(space.baselines())["all-bilinear"],
        references=header.references if header is not None else (),
        trivial_quality=header.trivial_quality if header is not None else (),
        main_metric=main.name,
        maximize_main=main.direction == "maximize",
        checkpoints=StudyFolder(options.folder).checkpoints_path.resolve(),
        num_threads=executor.resources.cpus,
    )


def _create_study(
    space: SearchSpace, options: SearchOptions, folder: StudyFolder, executor: Executor
) -> StudyHeader:
    preparation = executor.prepare(_spec(space, options, None, executor))
    search = space.search
    header = StudyHeader(
        name=space.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        command=options.command,
        space=space.to_config(),
        num_candidates=space.num_candidates,
        stages=tuple(info.label for info in space.stage_infos),
        task=space.task,
        objectives=space.objectives,
        constraints=space.constraints,
        targets=space.targets,
        references=preparation.references,
        stage_tables=preparation.stage_tables,
        trivial_quality=preparation.trivial_quality,
        num_trials=search.trials,
        num_seeds=search.seeds,
        rungs=search.rungs,
        sampler=search.sampler,
        seed=search.seed,
        environment=describe_environment(Path.cwd()),
    )
    folder.create(header)
    return header


def _resumed_header(
    space: SearchSpace, folder: StudyFolder, observers: Sequence[SearchObserver]
) -> StudyHeader:
    """The header in the folder, with the budget of the space; other changes are refused."""
    header = folder.read_header()
    changes = difference(header.space, space.to_config())
    refused = [change for change in changes if not change.compatible]
    if refused:
        lines = "\n".join(f"  {c.path}: {c.old} -> {c.new}" for c in refused)
        raise StudyError(
            f"{folder.path}: holds a study of another search space. Changed:\n{lines}\n"
            "Use --fresh to start over, --out for another folder, or undo the change."
        )
    if changes:
        changed = ", ".join(f"{c.path}: {c.old} -> {c.new}" for c in changes)
        _notify(observers, f"resuming with {changed}")
        search = space.search
        header = header.model_copy(
            update={
                "space": space.to_config(),
                "num_trials": search.trials,
                "num_seeds": search.seeds,
                "sampler": search.sampler,
            }
        )
        folder.replace_header(header)
    return header


@contextlib.contextmanager
def _stopping_on_interrupt(
    queue: TrialQueue, observers: Sequence[SearchObserver]
) -> Iterator[None]:
    """First Ctrl-C (or SIGTERM): stop at the next rung of every trial. Second: stop now."""

    def handle(*_: object) -> None:
        if queue.is_stopping:
            raise KeyboardInterrupt
        queue.is_stopping = True
        _notify(
            observers,
            "stopping: running trials go on to their next rung, everything is kept; "
            "interrupt again to stop now",
        )

    if threading.current_thread() is not threading.main_thread():
        yield  # signals reach the main thread only: whoever runs it handles them
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _notify(observers: Sequence[SearchObserver], message: str) -> None:
    for observer in observers:
        observer.notice(message)
