"""Ray Tune executes the trials; the queue decides.

Tune places actors, restarts dead ones and reuses warm ones: torch is imported and data is built
once per worker. Its own searcher, checkpoints and restore are not used, because the study and the
rung checkpoints are ours (stock ``OptunaSearch`` tells early results as complete and leaves
failed trials running).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import torch
from ray import tune
from ray.exceptions import RayTaskError
from ray.tune.search import Searcher
from typing_extensions import override

from upnas.errors import UpnasError
from upnas.measure.gate import DeviceGate
from upnas.records import TrialRecord, TrialState
from upnas.search.cluster import connected
from upnas.search.executor import gate_of
from upnas.search.queue import TrialQueue
from upnas.search.resources import Resources, derive_resources
from upnas.space import SearchConfig
from upnas.trial import (
    Preparation,
    TrialRequest,
    TrialSpec,
    iterate_trial,
    prepare_study,
)


class TrialActor(tune.Trainable):
    """Runs one trial after another; a step is one phase: the costs, or one rung."""

    def setup(self, config: dict[str, Any]) -> None:
        """Start a trial."""
        spec = TrialSpec.model_validate_json(config["spec"])
        request = TrialRequest.model_validate_json(config["request"])
        self._records: Iterator[TrialRecord] = iterate_trial(request, spec, gate_of(spec))

    def step(self) -> dict[str, Any]:
        """Run one phase and report its record."""
        record = next(self._records)
        if record.state is TrialState.FAILED and _uses_cuda():
            # Raises where the failure broke the CUDA context: every later trial of this process
            # would fail as well, so the process must end; Tune repeats the trial in a new one.
            torch.cuda.synchronize()
        return {"record": record.model_dump_json(), "done": record.is_final}

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        """Take the next trial without a new process."""
        self.setup(new_config)
        return True

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Rung checkpoints are written by the trial itself."""

    def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
        """A restarted trial finds its rung checkpoint by itself."""


class QueueSearcher(Searcher):
    """Lets Tune take trials from the queue and bring the records back.

    Attributes:
        error: What kept the queue from taking a record, e.g. a full disk. Tune would wrap it in
            errors of its own; here it ends the run and is raised afterwards.
    """

    def __init__(self, queue: TrialQueue, spec: TrialSpec):
        super().__init__()
        self._queue = queue
        self._spec_json = spec.model_dump_json()
        self._numbers: dict[str, int] = {}
        self.error: UpnasError | None = None
        # Choosing candidates computes as well, and not while a worker of this machine measures.
        self._gate = DeviceGate("cpu")

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher; the queue with its open files stays in the driver."""
        state = self.__dict__.copy()
        del state["_queue"]
        return state

    @property
    def is_stopping(self) -> bool:
        """Whether trials are to end at their next record."""
        return self._queue.is_stopping

    @override
    def suggest(  # type: ignore[override]  # FINISHED is a str
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """The next trial's configuration; None = not now, FINISHED = never again."""
        request = None
        with self._kept_error():
            request = self._queue.next()
        if request is None:
            waits = bool(self._numbers) and not self._queue.is_stopping
            return None if waits else Searcher.FINISHED
        self._numbers[trial_id] = request.number
        return {"request": request.model_dump_json(), "spec": self._spec_json}

    @override
    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A phase ended."""
        with self._kept_error():
            self._queue.receive(TrialRecord.model_validate_json(result["record"]))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The trial ended, was stopped at a rung, or its worker died once too often."""
        number = self._numbers.pop(trial_id, None)
        if result is not None and "record" in result:
            self.on_trial_result(trial_id, result)
        if error and number is not None:
            with self._kept_error():
                self._queue.lost(
                    number, "its worker died more often than search.max_retries allows"
                )

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records are the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""

    @contextmanager
    def _kept_error(self) -> Iterator[None]:
        try:
            with self._gate.shared():
                yield
        except UpnasError as error:
            self._queue.is_stopping = True
            self.error = self.error or error


class StopAtRung(tune.Stopper):
    """Ends every running trial at its next record once the queue is stopping."""

    def __init__(self, searcher: QueueSearcher):
        self._searcher: QueueSearcher | None = searcher

    def __getstate__(self) -> dict[str, Any]:
        return {"_searcher": None}

    @override
    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether this trial ends now."""
        return self._searcher is not None and self._searcher.is_stopping

    def stop_all(self) -> bool:
        """Only where records cannot be kept; otherwise each trial goes on to its rung."""
        return self._searcher is not None and self._searcher.error is not None


class RayExecutor:
    """Runs trials as Ray Tune actors.

    Args:
        resources: What each trial gets.
        scratch: Folder for Tune's own files; visible to all nodes; deleted at the end.
        max_retries: Restarts of a trial whose worker died.
    """

    def __init__(self, resources: Resources, scratch: Path, max_retries: int):
        self.resources = resources
        self._scratch = scratch
        self._max_retries = max_retries

    def prepare(self, spec: TrialSpec) -> Preparation:
        """Measure on a worker, where trials will be measured too.

        Raises:
            UpnasError: As the worker raised it, e.g. because its node has no data.
        """
        remote = ray.remote(
            num_cpus=self.resources.cpus, num_gpus=self.resources.gpus, max_retries=1
        )(_prepare)
        try:
            text: str = ray.get(remote.remote(spec.model_dump_json()))
        except RayTaskError as error:
            if isinstance(error.cause, UpnasError):
                raise error.cause from None
            raise
        return Preparation.model_validate_json(text)

    def run(self, queue: TrialQueue, spec: TrialSpec) -> None:
        """Run until the queue has no trial left.

        Raises:
            UpnasError: If a record cannot be kept.
        """
        searcher = QueueSearcher(queue, spec)
        shutil.rmtree(self._scratch, ignore_errors=True)  # of a driver that was killed
        try:
            self._tuner(searcher).fit()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)
        if searcher.error is not None:
            raise searcher.error

    def _tuner(self, searcher: QueueSearcher) -> tune.Tuner:
        trainable = tune.with_resources(
            TrialActor, {"cpu": self.resources.cpus, "gpu": self.resources.gpus}
        )
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=searcher,
                num_samples=-1,
                max_concurrent_trials=self.resources.concurrency,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self._scratch.resolve()),
                stop=StopAtRung(searcher),
                failure_config=tune.FailureConfig(max_failures=self._max_retries),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
                verbose=0,
            ),
        )


def _uses_cuda() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _prepare(spec_json: str) -> str:
    spec = TrialSpec.model_validate_json(spec_json)
    return prepare_study(spec, gate_of(spec)).model_dump_json()


@contextmanager
def ray_executor(
    config: SearchConfig, *, address: str | None, scratch: Path
) -> Iterator[RayExecutor]:
    """Connect to a cluster, or start Ray on this machine, for the time of the block.

    Args:
        config: `search:` of the YAML.
        address: Of a running cluster ("auto" finds one), or None for a private one here.
        scratch: See :class:`RayExecutor`.

    Raises:
        StudyError: If the cluster does not answer, or has no room for a trial.
    """
    with connected(address) as nodes:
        resources = derive_resources(
            nodes,
            concurrency=config.concurrency,
            cpus_per_trial=config.cpus_per_trial,
            gpus_per_trial=config.gpus_per_trial,
        )
        yield RayExecutor(resources, scratch, config.max_retries)
