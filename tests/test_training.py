"""Training: exact resume, the schedule, selectors, the gate, checkpoints."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from upnas.records import TaskSignature
from upnas.space import TrainingConfig
from upnas.tasks.base import Metric, Predict, Split, Task
from upnas.training import (
    NanLossError,
    Trainer,
    compute_threads,
    learning_rate_factor,
    load_checkpoint,
    save_checkpoint,
    training_device,
)
from upnas.upsamplers import Selector, build_upsampler

CPU = TrainingConfig(device="cpu", batch=2, learning_rate=0.01)


class Recorder:
    """A gate that knows whether it is held, and how often it was entered."""

    def __init__(self) -> None:
        self.is_held = False
        self.num_entries = 0

    @contextlib.contextmanager
    def shared(self) -> Iterator[None]:
        assert not self.is_held
        self.is_held = True
        self.num_entries += 1
        try:
            yield
        finally:
            self.is_held = False


class EnlargeTask(Task):
    """Restore noise that is the same in 2 x 2 pixels, from one pixel of it."""

    signature = TaskSignature(name="enlarge", in_channels=2, out_channels=2, scale_factor=2)
    metrics = (Metric("mse", "minimize", "fraction"),)

    def __init__(self, gate: Recorder, bad_step: int | None = None, bad_value: float = math.nan):
        self._gate = gate
        self._bad_step = bad_step
        self._bad_value = bad_value
        self.steps: list[int] = []

    def steps_per_epoch(self, batch_size: int) -> int:
        return 4

    def train_batch(self, step: int, seed: int, batch_size: int) -> tuple[Tensor, Tensor]:
        assert self._gate.is_held
        self.steps.append(step)
        generator = torch.Generator().manual_seed(1000 * seed + step)
        x = torch.randn(batch_size, 2, 4, 4, generator=generator)
        return x, x.repeat_interleave(2, 2).repeat_interleave(2, 3)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        assert self._gate.is_held
        loss = (outputs - targets).square().mean()
        return loss * self._bad_value if len(self.steps) - 1 == self._bad_step else loss

    def evaluate(self, predict: Predict, split: Split) -> dict[str, float]:
        assert self._gate.is_held
        x, y = self.train_batch(0, 12345 if split == "test" else 54321, 4)
        self.steps.pop()
        outputs = predict(x)
        assert outputs.is_inference()
        return {"mse": float((outputs - y).square().mean())}

    def trivial_quality(self, split: Split) -> dict[str, float]:
        return {"mse": 1.0}


def network(upsampler: str = "subpixel", **parameters: Any) -> nn.Module:
    torch.manual_seed(7)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.Dropout(0.3),
        build_upsampler(upsampler, 4, **parameters),
        nn.Conv2d(4, 2, 1),
    )


def make_trainer(
    model: nn.Module | None = None,
    settings: TrainingConfig = CPU,
    *,
    task: Task | None = None,
    total_steps: int = 8,
    seed: int = 3,
    gate: Recorder | None = None,
) -> Trainer:
    gate = Recorder() if gate is None else gate
    return Trainer(
        network() if model is None else model,
        EnlargeTask(gate) if task is None else task,
        settings,
        total_steps=total_steps,
        seed=seed,
        gate=gate,
    )


def learning_rates(trainer: Trainer, num_steps: int) -> list[float]:
    rates = []
    for step in range(num_steps):
        trainer.train_to(step + 1)
        rates.append(trainer.state()["optimizer"]["param_groups"][0]["lr"])
    return rates


def assert_equal_weights(one: nn.Module, other: nn.Module) -> None:
    second = other.state_dict()
    for name, tensor in one.state_dict().items():
        assert torch.equal(tensor, second[name]), name


def test_training_learns() -> None:
    trainer = make_trainer(nn.Sequential(build_upsampler("transposed", 2)), total_steps=60)
    before = trainer.evaluate("validation")["mse"]
    first = trainer.train_to(5)
    last = trainer.train_to(60)
    assert last < first
    assert trainer.evaluate("validation")["mse"] < 0.8 * before
    assert trainer.step == 60


@pytest.mark.parametrize("seed", [3, 2**40])
def test_equal_seeds_give_equal_weights(seed: int) -> None:
    one, two = make_trainer(seed=seed), make_trainer(seed=seed)
    torch.manual_seed(1)
    loss = one.train_to(6)
    torch.manual_seed(2)  # whatever ran before in the process
    assert two.train_to(6) == loss
    assert_equal_weights(one.model, two.model)
    other = make_trainer(seed=4)
    assert other.train_to(6) != loss


@pytest.mark.parametrize(
    ("upsampler", "parameters"),
    [("subpixel", {}), ("selector", {"arms": ("bilinear", "transposed")})],
    ids=["plain", "selector"],
)
def test_a_resumed_training_ends_where_it_would_have_ended(
    tmp_path: Path, upsampler: str, parameters: dict[str, Any]
) -> None:
    straight, first, second = (make_trainer(network(upsampler, **parameters)) for _ in range(3))
    for trainer in (straight, first, second):
        for module in trainer.model.modules():
            if isinstance(module, Selector):
                module.set_arm_costs((4, 4), [1.0, 3.0])
    straight.train_to(3)
    straight.evaluate("validation")
    expected = straight.train_to(8)

    first.train_to(3)
    save_checkpoint(tmp_path / "a.pt", first.state())
    saved = load_checkpoint(tmp_path / "a.pt")
    assert saved is not None
    with torch.no_grad():
        for parameter in second.model.parameters():
            parameter.fill_(9.0)
    second.load_state(saved)
    assert second.step == 3
    assert second.train_s == first.train_s > 0
    assert second.train_to(8) == expected
    assert_equal_weights(second.model, straight.model)
    assert second.evaluate("test") == straight.evaluate("test")


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_the_training(bad: float) -> None:
    gate = Recorder()
    trainer = make_trainer(task=EnlargeTask(gate, bad_step=2, bad_value=bad), gate=gate)
    with pytest.raises(NanLossError, match=r"loss (nan|inf) at step 2"):
        trainer.train_to(4)
    assert not gate.is_held


def test_a_quality_that_is_not_finite_is_a_divergence() -> None:
    trainer = make_trainer()
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(math.nan)
    with pytest.raises(NanLossError, match="mse nan on the validation split after step 0"):
        trainer.evaluate("validation")


def test_warm_up_then_cosine() -> None:
    settings = CPU.model_copy(update={"warmup": 0.4, "learning_rate": 0.02})
    rates = learning_rates(make_trainer(settings=settings, total_steps=10), 10)
    assert rates[:4] == pytest.approx([0.005, 0.01, 0.015, 0.02])
    cosine = [0.01 * (1 + math.cos(math.pi * k / 6)) for k in range(6)]
    assert rates[4:] == pytest.approx(cosine)


def test_schedule_without_warm_up_and_its_ends() -> None:
    rates = learning_rates(make_trainer(settings=CPU.model_copy(update={"warmup": 0.0})), 2)
    assert rates == pytest.approx([0.01, 0.01 * 0.5 * (1 + math.cos(math.pi / 8))])
    assert learning_rate_factor(0, 1, 0.0) == 1.0
    assert learning_rate_factor(0, 1, 0.1) == 1.0  # the warm-up is shorter than a step
    assert learning_rate_factor(1, 15, 0.1) == 1.0  # never above the peak
    assert learning_rate_factor(9999, 10_000, 0.0) == 1e-3


@pytest.mark.parametrize(("start", "end"), [(5.0, 0.5), (0.2, 0.2)])
def test_the_selectors_temperature_is_annealed(start: float, end: float) -> None:
    trainer = make_trainer(network("selector", temperature=start), total_steps=4)
    selector = trainer.model[3]
    seen = []
    for step in range(4):
        trainer.train_to(step + 1)
        seen.append(selector.temperature)
    assert seen == pytest.approx([start * (end / start) ** (step / 4) for step in range(4)])
    resumed = make_trainer(network("selector", temperature=start), total_steps=4)
    resumed.load_state(trainer.state() | {"step": 3})
    resumed.train_to(4)
    assert resumed.model[3].temperature == seen[-1]


@pytest.mark.parametrize("cheap", [0, 1])
def test_a_high_cost_weight_pulls_the_gate_to_the_cheap_arm(cheap: int) -> None:
    settings = CPU.model_copy(update={"selector_cost_weight": 100.0, "learning_rate": 0.05})
    selector = build_upsampler("selector", 2, arms=("bilinear", "nearest_conv"))
    assert isinstance(selector, Selector)
    selector.set_arm_costs((4, 4), [1.0 + 9.0 * (arm != cheap) for arm in range(2)])
    make_trainer(nn.Sequential(selector), settings, total_steps=30).train_to(30)
    assert float(selector.arm_probabilities((4, 4))[cheap].detach()) > 0.9


def test_the_reported_loss_leaves_the_cost_penalty_out() -> None:
    losses = []
    for weight in (0.0, 1000.0):
        settings = CPU.model_copy(update={"selector_cost_weight": weight})
        selector = build_upsampler("selector", 2)
        assert isinstance(selector, Selector)
        selector.set_arm_costs((4, 4), [1.0, 2.0])
        with torch.no_grad():
            for parameter in selector.parameters():
                parameter.fill_(0.1)
        losses.append(make_trainer(nn.Sequential(selector), settings).train_to(1))
    assert losses[0] == losses[1]


def test_the_gate_is_held_for_each_step_and_each_evaluation() -> None:
    gate = Recorder()  # EnlargeTask asserts that it is held wherever the task or the network runs
    trainer = make_trainer(gate=gate)
    trainer.train_to(3)
    assert gate.num_entries == 3
    trainer.evaluate("test")
    assert gate.num_entries == 4
    assert not gate.is_held


def test_evaluation_is_in_eval_mode_and_does_not_train() -> None:
    trainer = make_trainer()
    trainer.train_to(2)
    before = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    assert trainer.evaluate("validation") == trainer.evaluate("validation")
    assert all(torch.equal(before[n], t) for n, t in trainer.model.state_dict().items())


def test_device_of_the_training() -> None:
    assert training_device(CPU) == torch.device("cpu")
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    assert training_device(TrainingConfig()) == torch.device(auto)


def test_a_checkpoint_is_replaced_as_a_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "new" / "a.pt"
    assert load_checkpoint(path) is None
    save_checkpoint(path, {"step": 1, "weight": torch.arange(3.0)})
    real_save = torch.save

    def dies_half_way(state: Any, file: Any) -> None:
        real_save({"step": 2}, file)
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", dies_half_way)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(path, {"step": 2})
    monkeypatch.undo()
    state = load_checkpoint(path)
    assert state is not None
    assert state["step"] == 1
    assert torch.equal(state["weight"], torch.arange(3.0))
    assert [child.name for child in path.parent.iterdir()] == ["a.pt"]


@pytest.mark.parametrize("damage", ["empty", "truncated", "garbage", "pickle", "folder"])
def test_a_damaged_checkpoint_is_none_and_logged(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "a.pt"
    save_checkpoint(path, make_trainer().state())
    whole = path.read_bytes()
    contents = {
        "empty": b"",
        "truncated": whole[: len(whole) // 2],
        "garbage": bytes(range(256)) * 8,
        "pickle": b"\x80\x02]q\x00(K\x01e.abc"[:9],
    }
    if damage == "folder":
        path.unlink()
        path.mkdir()
    else:
        path.write_bytes(contents[damage])
    with caplog.at_level(logging.WARNING):
        assert load_checkpoint(path) is None
    assert f"{path} is damaged" in caplog.text


class Malicious:
    """Runs a command when it is unpickled the careless way."""

    def __init__(self, path: Path):
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self._path}",)


@pytest.mark.parametrize("form", ["pickle", "torch"])
def test_code_in_a_checkpoint_is_not_run(tmp_path: Path, form: str) -> None:
    witness, path = tmp_path / "witness", tmp_path / "a.pt"
    state = {"model": Malicious(witness)}
    if form == "torch":
        torch.save(state, path)
    else:
        path.write_bytes(pickle.dumps(state))
    assert load_checkpoint(path) is None
    assert not witness.exists()
    with path.open("rb") as file:  # the file does what it should do
        torch.load(file, weights_only=False) if form == "torch" else pickle.load(file)
    assert witness.exists()


def test_threads_are_set_inside_the_block_only() -> None:
    before = torch.get_num_threads()

    def fail_inside() -> None:
        with compute_threads(before + 1):
            assert torch.get_num_threads() == before + 1
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert torch.get_num_threads() == before
