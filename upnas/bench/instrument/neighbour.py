"""A training that runs beside a measurement: a process of its own, until its input closes.

``python -m upnas.bench.instrument.neighbour SPACE SEED [--ignore-gate]`` says ``ready`` after its
first step.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Final

from upnas.errors import DataError, UpnasError

_NUM_STEPS: Final = 10**9  # never reached


class _NoGate:
    """Respects nobody, as another program would."""

    def shared(self) -> AbstractContextManager[None]:
        """Compute at once."""
        return contextlib.nullcontext()


@contextmanager
def neighbours(space: str, number: int, *, ignore_gate: bool) -> Iterator[None]:
    """Run trainings of a space's all-bilinear network for the time of the block.

    Args:
        space: A search space's name or path.
        number: Of processes, one thread each.
        ignore_gate: Train on while somebody measures.

    Raises:
        DataError: If one does not start.
    """
    with ExitStack() as stack:
        found = [_start(stack, space, seed, ignore_gate) for seed in range(number)]
        for process in found:
            assert process.stdout is not None
            if process.stdout.readline().strip() != "ready":
                raise DataError(
                    f"A training of {space} beside the measurement did not start; why stands "
                    "above. Choose another space, or leave out the parts that need trainings."
                )
        try:
            yield
        finally:
            for process in found:
                process.kill()


def _start(stack: ExitStack, space: str, seed: int, ignore_gate: bool) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", __spec__.name, space, str(seed)]
    command += ["--ignore-gate"] if ignore_gate else []
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    return stack.enter_context(process)


def _train(space_name: str, seed: int, *, ignore_gate: bool) -> None:
    from upnas.measure.gate import StudyGates
    from upnas.models import build_model
    from upnas.space import load_space
    from upnas.tasks import build_task
    from upnas.training import Trainer, compute_threads

    space = load_space(space_name)
    candidate = dict(space.baselines())["all-bilinear"]
    gate = _NoGate() if ignore_gate else StudyGates([space.targets[0].device])
    with compute_threads(1):
        trainer = Trainer(
            build_model(candidate, space.task, seed=seed),
            build_task(space.task_config),
            space.training,
            total_steps=_NUM_STEPS,
            seed=seed,
            gate=gate,
        )
        ended = threading.Event()
        threading.Thread(target=_wait_for_end, args=(ended,), daemon=True).start()
        while not ended.is_set():
            trainer.train_to(trainer.step + 1)
            if trainer.step == 1:
                sys.stdout.write("ready\n")
                sys.stdout.flush()


def _wait_for_end(ended: threading.Event) -> None:
    sys.stdin.read()  # until whoever started this process closes it, or dies
    ended.set()


if __name__ == "__main__":
    try:
        _train(sys.argv[1], int(sys.argv[2]), ignore_gate="--ignore-gate" in sys.argv[3:])
    except UpnasError as error:
        sys.exit(f"upnas: {error}")
