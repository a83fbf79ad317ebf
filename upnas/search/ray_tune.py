"""Ray Tune executes the trials; the queue decides. Only this module imports ray.

Tune places actors, restarts dead ones and reuses warm ones: torch is imported and data is built
once per worker. Its own searcher, checkpoints and restore are not used, because the study and the
rung checkpoints are ours (stock ``OptunaSearch`` tells early results as complete and leaves
failed trials running).
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

# Read when ray is imported: no usage reports, no output of its own, and Ctrl-C is ours.
_ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402
from ray import tune  # noqa: E402
from ray.tune.search import Searcher  # noqa: E402

from upnas.errors import StudyError  # noqa: E402
from upnas.records import TrialRecord  # noqa: E402
from upnas.search.executor import gate_of  # noqa: E402
from upnas.search.queue import TrialQueue  # noqa: E402
from upnas.search.resources import Resources, derive_resources  # noqa: E402
from upnas.space import SearchConfig  # noqa: E402
from upnas.trial import (  # noqa: E402
    Preparation,
    TrialRequest,
    TrialSpec,
    iterate_trial,
    prepare_study,
)

logger = logging.getLogger(__name__)


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
    """Lets Tune take trials from the queue and bring the records back."""

    def __init__(self, queue: TrialQueue, spec: TrialSpec):
        super().__init__()
        self._queue = queue
        self._spec_json = spec.model_dump_json()
        self._numbers: dict[str, int] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Tune pickles its searcher; the queue with its open files stays in the driver."""
        state = self.__dict__.copy()
        del state["_queue"]
        return state

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The next trial's configuration; None = not now, FINISHED = never again."""
        request = self._queue.next()
        if request is None:
            waits = bool(self._numbers) and not self._queue.is_stopping
            return None if waits else Searcher.FINISHED
        self._numbers[trial_id] = request.number
        return {"request": request.model_dump_json(), "spec": self._spec_json}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """A phase ended."""
        self._queue.receive(TrialRecord.model_validate_json(result["record"]))

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        """The trial ended, was stopped at a rung, or its worker died once too often."""
        number = self._numbers.pop(trial_id, None)
        if result is not None and "record" in result:
            self.on_trial_result(trial_id, result)
        if error and number is not None:
            self._queue.lost(number, "its worker died more often than search.max_retries allows")

    def save(self, checkpoint_path: str) -> None:
        """Nothing to save: the records are the truth."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing to restore."""


class StopAtRung(tune.Stopper):
    """Ends every running trial at its next record once the queue is stopping."""

    def __init__(self, queue: TrialQueue):
        self._queue: TrialQueue | None = queue

    def __getstate__(self) -> dict[str, Any]:
        return {"_queue": None}

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        """Whether this trial ends now."""
        return self._queue is not None and self._queue.is_stopping

    def stop_all(self) -> bool:
        """Never: each trial reaches its rung, which is on disk then."""
        return False


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
        """Measure on a worker, where trials will be measured too."""
        remote = ray.remote(
            num_cpus=self.resources.cpus, num_gpus=self.resources.gpus, max_retries=1
        )(_prepare)
        text: str = ray.get(remote.remote(spec.model_dump_json()))
        return Preparation.model_validate_json(text)

    def run(self, queue: TrialQueue, spec: TrialSpec) -> None:
        """Run until the queue has no trial left."""
        try:
            self._tuner(queue, spec).fit()
        finally:
            shutil.rmtree(self._scratch, ignore_errors=True)

    def _tuner(self, queue: TrialQueue, spec: TrialSpec) -> tune.Tuner:
        trainable = tune.with_resources(
            TrialActor, {"cpu": self.resources.cpus, "gpu": self.resources.gpus}
        )
        return tune.Tuner(
            trainable,
            tune_config=tune.TuneConfig(
                search_alg=QueueSearcher(queue, spec),
                num_samples=-1,
                max_concurrent_trials=self.resources.concurrency,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self._scratch.resolve()),
                stop=StopAtRung(queue),
                failure_config=tune.FailureConfig(max_failures=self._max_retries),
                checkpoint_config=tune.CheckpointConfig(
                    checkpoint_frequency=0, checkpoint_at_end=False
                ),
                verbose=0,
            ),
        )


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
        StudyError: If the cluster does not answer.
    """
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        # "local" never joins a cluster that somebody else started on this machine.
        options |= {"include_dashboard": False}
    try:
        ray.init(address=address or "local", **options)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        raise StudyError(
            f"--address {address}: no Ray cluster answers there ({error}). Start one with "
            "`ray start --head`, or leave --address out to run on this machine."
        ) from error
    try:
        available = ray.cluster_resources()
        resources = derive_resources(
            num_cpus=int(available.get("CPU", 1)),
            num_gpus=float(available.get("GPU", 0)),
            concurrency=config.concurrency,
            cpus_per_trial=config.cpus_per_trial,
            gpus_per_trial=config.gpus_per_trial,
        )
        yield RayExecutor(resources, scratch, config.max_retries)
    finally:
        ray.shutdown()
