"""Proxy training: one network, one seed, a budget in optimiser steps.

The budget is counted in steps and never in seconds, so that equal trials stay equal on a loaded
machine. On a CPU a training is deterministic for a seed and a number of threads: data, order and
random numbers are pure functions of the seed and the step, so that a training that is resumed from
a checkpoint ends bit for bit where it would have ended.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, Protocol

import torch
from torch import Tensor, nn

from upnas.space import TrainingConfig
from upnas.tasks.base import Split, Task
from upnas.upsamplers import selectors

logger = logging.getLogger(__name__)

_END_TEMPERATURE: Final = 0.5  # of learned selectors; Jang et al. 2017 anneal likewise
_MAX_GRADIENT_NORM: Final = (
    5.0  # short trainings at a high learning rate seldom recover from a jump
)
_LEAST_FACTOR: Final = 1e-3  # of the learning rate: the last steps still learn


class NanLossError(RuntimeError):
    """The training diverged: its loss, or the quality of its network, is not finite."""


class Gate(Protocol):
    """Keeps training off a device while a latency is measured on it."""

    def shared(self) -> contextlib.AbstractContextManager[None]:
        """Hold while computing; many holders at a time."""


def training_device(settings: TrainingConfig) -> torch.device:
    """The device to train on: CUDA where there is one, unless the YAML says otherwise."""
    if settings.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(settings.device)


class Trainer:
    """Trains one network up to given numbers of steps.

    Args:
        model: The network; moved to the training device.
        task: Data, loss and metrics.
        settings: Optimiser and batch.
        total_steps: Length of the learning-rate schedule: the steps of the last rung.
        seed: Of the data order and of everything random in the network.
        gate: Held in shared mode during every step and every evaluation, data and metrics
            included: whatever computes disturbs a measurement.

    Attributes:
        step: Optimiser steps done.
        train_s: Seconds spent in them, without the waiting for the gate.
    """

    def __init__(
        self,
        model: nn.Module,
        task: Task,
        settings: TrainingConfig,
        *,
        total_steps: int,
        seed: int,
        gate: Gate,
    ):
        self.device = training_device(settings)
        # Convolutions on a CPU are up to several times faster in this layout.
        self.model = model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.task = task
        self.settings = settings
        self.total_steps = total_steps
        self.seed = seed
        self.gate = gate
        self.step = 0
        self.train_s = 0.0
        self._selectors = [selector for _, selector in selectors(self.model)]
        self._start_temperatures = [selector.temperature for selector in self._selectors]
        self._optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=settings.learning_rate,
            weight_decay=settings.weight_decay,
        )

    def train_to(self, step: int) -> float:
        """Train until ``step`` optimiser steps are done in all.

        Args:
            step: Above :attr:`step`.

        Returns:
            Mean loss of the new steps, without the selectors' cost penalty.

        Raises:
            NanLossError: If a loss is not finite.
        """
        losses = []
        self.model.train()
        while self.step < step:
            with self.gate.shared():
                start_s = time.perf_counter()
                batch = self.task.train_batch(self.step, self.seed, self.settings.batch)
                losses.append(self._optimise(*batch))
                self.train_s += time.perf_counter() - start_s
            self.step += 1
        return sum(losses) / len(losses)

    def _optimise(self, inputs: Tensor, targets: Tensor) -> float:
        self._schedule()
        inputs = inputs.to(self.device, memory_format=torch.channels_last)
        targets = targets.to(self.device)
        # Stochastic modules (dropout, Gumbel noise) draw from the step's own stream, so that a
        # training resumed at step k continues as if it had never stopped. Torch takes 64 bits.
        torch.manual_seed(((self.seed << 32) + self.step) % 2**64)
        loss = self.task.loss(self.model(inputs), targets)
        total = loss
        for selector in self._selectors:
            total = total + self.settings.selector_cost_weight * selector.cost_penalty()
        self._optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), max_norm=_MAX_GRADIENT_NORM)
        self._optimizer.step()
        value = float(loss.detach())  # waits for the GPU, so it comes last
        if not math.isfinite(value):
            raise NanLossError(f"loss {value} at step {self.step}")
        return value

    def _schedule(self) -> None:
        """Set the learning rate (linear warm-up, then cosine) and the selectors' temperature."""
        factor = learning_rate_factor(self.step, self.total_steps, self.settings.warmup)
        for group in self._optimizer.param_groups:
            group["lr"] = self.settings.learning_rate * factor
        progress = self.step / self.total_steps
        for selector, start in zip(self._selectors, self._start_temperatures, strict=True):
            end = min(start, _END_TEMPERATURE)
            selector.set_temperature(start * (end / start) ** progress)

    def evaluate(self, split: Split) -> dict[str, float]:
        """Quality of the network as it is now.

        Raises:
            NanLossError: If a metric is not finite, as the outputs then are not.
        """
        self.model.eval()
        with self.gate.shared(), torch.inference_mode():
            quality = self.task.evaluate(self._predict, split)
        for name, value in quality.items():
            if not math.isfinite(value):
                raise NanLossError(f"{name} {value} on the {split} split after step {self.step}")
        return quality

    def _predict(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.model(inputs.to(self.device, memory_format=torch.channels_last))
        return outputs.cpu()

    def state(self) -> dict[str, Any]:
        """Everything that continuing needs."""
        return {
            "step": self.step,
            "train_s": self.train_s,
            "model": self.model.state_dict(),
            "optimizer": self._optimizer.state_dict(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continue from the :meth:`state` of a trainer of the same candidate and settings."""
        self.model.load_state_dict(state["model"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])
        self.train_s = float(state["train_s"])


def learning_rate_factor(step: int, total_steps: int, warmup: float) -> float:
    """The share of the peak learning rate at a step: linear warm-up, then a half cosine.

    The cosine is SGDR's, Loshchilov and Hutter, ICLR 2017, https://arxiv.org/abs/1608.03983,
    eq. 5, without restarts.

    Args:
        step: Counted from 0.
        total_steps: Length of the schedule.
        warmup: Fraction of it in which the rate rises; in [0, 1).
    """
    progress = step / total_steps
    if progress < warmup:
        return min(1.0, (step + 1) / (warmup * total_steps))
    cosine = 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
    return max(_LEAST_FACTOR, cosine)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint so that the path holds either the old or the new one, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Read a checkpoint, tensors and plain values only: no code in it is run.

    Returns:
        The state, or None if the file is absent or, with a warning in the log, damaged.
    """
    if not path.exists():
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler raises almost anything on bytes that are not its own
        logger.warning("%s is damaged, its rungs are trained again: %s", path, error)
        return None
    return state


@contextlib.contextmanager
def compute_threads(num_threads: int) -> Iterator[None]:
    """Compute with this many threads inside the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
