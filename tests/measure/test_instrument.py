"""Everything that a network costs on one target, and what runs on the device meanwhile."""

from __future__ import annotations

import copy
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from upnas.errors import BusyDeviceError, TargetError
from upnas.measure import instrument as instrument_module
from upnas.measure.conditions import LoadWatch
from upnas.measure.environment import available_cpus
from upnas.measure.fingerprint import machine_fingerprint
from upnas.measure.gate import DeviceGate, StudyGates
from upnas.measure.instrument import Instrument
from upnas.measure.memory.tensors import peak_memory_bytes, training_peak_memory_bytes
from upnas.measure.runtimes import RUNTIMES, Runtime, Session
from upnas.measure.runtimes.eager import Eager
from upnas.measure.timing.latency import LatencySettings
from upnas.records import Conditions, Costs, PredictedLatency, Target

TARGET = Target(name="laptop", input=(3, 16, 16), batch=2)
ONNX = Target(name="exported", input=(3, 8, 8), runtime="onnxruntime")
QUICK = LatencySettings(min_pairs=6, max_pairs=6, max_retries=0)


def net(width: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Dropout())


@pytest.fixture
def gates(tmp_path: Path) -> StudyGates:
    return StudyGates(["cpu"], DeviceGate("cpu", tmp_path))


def measured(model: nn.Module, gates: StudyGates, target: Target = TARGET, **options: Any) -> Costs:
    """Costs of a network in pairs with a small one."""
    instrument = Instrument(net(4), target)
    try:
        calm = instrument.time_reference(gates)
        return instrument.measure(model, calm, gates, **({"settings": QUICK} | options))
    finally:
        instrument.close()


class Scripted(Runtime):
    """Eager mode, but making a session runs a script first.

    Args:
        script: Called with every network.
    """

    name = "eager"

    def __init__(self, script: Callable[[nn.Module], object]):
        self._script = script

    @contextmanager
    def session(self, model: nn.Module, target: Target) -> Iterator[Session]:
        self._script(model)
        with Eager().session(model, target) as session:
            yield session


def raising(error: BaseException) -> Scripted:
    def script(_: nn.Module) -> None:
        raise error

    return Scripted(script)


def use(monkeypatch: pytest.MonkeyPatch, runtime: Runtime) -> None:
    """Let new instruments of eager targets use another runtime."""
    monkeypatch.setattr(instrument_module, "RUNTIMES", {**RUNTIMES, "eager": runtime})


def test_every_cost_is_in_the_record(gates: StudyGates) -> None:
    model, reference = net(8).train(), net(4).train()
    instrument = Instrument(reference, TARGET)
    calm = instrument.time_reference(gates)
    costs = instrument.measure(model, calm, gates, export_formats=("torch_export",), settings=QUICK)
    instrument.close()
    assert costs.target == calm.target == "laptop"
    assert costs.latency is not None
    assert len(costs.latency.samples_ms) == len(costs.latency.reference_samples_ms) == 6
    assert costs.latency.reference_ms == calm.latency_ms
    assert costs.latency_ms == costs.latency.ratio * calm.latency_ms
    weights = 4 * (9 * 3 * 8 + 8 + 16)
    buffers = 4 * 16 + 8  # mean, variance, and a counter of 64 bits
    x, features = 4 * 2 * 3 * 16 * 16, 4 * 2 * 8 * 14 * 14
    assert costs.peak_memory_mib * 2**20 == weights + buffers + x + 2 * features
    assert costs.training_peak_memory_mib is not None
    training = training_peak_memory_bytes(model, TARGET.input_shape)
    assert costs.training_peak_memory_mib * 2**20 == training
    assert costs.num_parameters == 9 * 3 * 8 + 8 + 16
    assert dict(costs.exportable) == {"torch_export": "ok"}
    assert costs.output_error == 0
    assert costs.machine == calm.machine == machine_fingerprint(TARGET)
    assert (costs.unserved, costs.predicted, costs.device_memory) == (None, None, None)
    assert costs.process_peak_rss_mib is None  # eager: torch is most of a process
    assert Costs.model_validate_json(costs.model_dump_json()) == costs
    assert model.training


def test_optional_costs_are_left_out_where_nobody_asks(gates: StudyGates) -> None:
    costs = measured(net(8), gates, optional=())
    assert costs.training_peak_memory_mib is None
    assert costs.exportable == ()
    assert costs.latency is not None


def test_lower_precision_takes_less_memory_and_is_less_exact(gates: StudyGates) -> None:
    model = net(8)
    costs = measured(model, gates, TARGET.model_copy(update={"dtype": "bfloat16"}))
    assert costs.output_error is not None
    assert 0 < costs.output_error < 0.02
    numbers = 240 + 16 + 2 * 3 * 16 * 16 + 2 * (2 * 8 * 14 * 14)
    assert costs.peak_memory_mib * 2**20 == 2 * numbers + 8
    cast = copy.deepcopy(model).bfloat16()
    training = training_peak_memory_bytes(cast, TARGET.input_shape, dtype=torch.bfloat16)
    assert costs.training_peak_memory_mib is not None
    assert costs.training_peak_memory_mib * 2**20 == training
    assert all(parameter.dtype is torch.float32 for parameter in model.parameters())


def test_layout_of_the_target(gates: StudyGates) -> None:
    """The network runs in it, and what a change of layout takes is in the memory."""
    layouts: set[bool] = set()

    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            layouts.add(x.is_contiguous())
            z = x.contiguous()  # this, and the next one, copy in the other layout only
            y: Tensor = self.conv(z)
            return y.contiguous() + 1

    flat, last = (
        measured(Flat(), gates, TARGET.model_copy(update={"memory_format": layout}), optional=())
        for layout in ("contiguous", "channels_last")
    )
    assert layouts == {True, False}  # False: in the forwards of the second one
    x, features = 4 * 2 * 3 * 16 * 16, 4 * 2 * 4 * 16 * 16
    assert (last.peak_memory_mib - flat.peak_memory_mib) * 2**20 == x + features
    assert last.output_error == pytest.approx(0, abs=1e-6)


def test_a_network_that_cannot_be_trained_has_no_training_peak(gates: StudyGates) -> None:
    costs = measured(nn.Upsample(scale_factor=2), gates)
    assert costs.training_peak_memory_mib is None
    assert costs.latency is not None
    assert costs.peak_memory_mib * 2**20 == 4 * 2 * 3 * (16 * 16 + 32 * 32)


def state_of_gate(folder: Path) -> str:
    descriptor = os.open(next(folder.glob("*.room")), os.O_RDWR)
    try:
        for operation, state in ((fcntl.LOCK_SH, "exclusive"), (fcntl.LOCK_EX, "shared")):
            try:
                fcntl.flock(descriptor, operation | fcntl.LOCK_NB)
            except BlockingIOError:
                return state
        return "free"
    finally:
        os.close(descriptor)


class Watch:
    """Notes in which state the gate is whenever something computes, and whether it is timed."""

    def __init__(self, folder: Path):
        self.seen: set[tuple[str, str]] = set()
        self._folder = folder
        self._is_timing = False

    def note(self, what: str = "") -> None:
        self.seen.add((what or ("timed" if self._is_timing else "not timed"), self._state()))

    def _state(self) -> str:
        return state_of_gate(self._folder)

    def timing(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            self._is_timing = True
            try:
                return function(*args, **kwargs)
            finally:
                self._is_timing = False

        return timed

    def network(self) -> nn.Module:
        watch = self

        class Noting(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.conv = nn.Conv2d(3, 3, 1)

            def forward(self, x: Tensor) -> Tensor:
                watch.note()
                y: Tensor = self.conv(x)
                return y

        return Noting()


@pytest.fixture
def watch(tmp_path: Path, gates: StudyGates, monkeypatch: pytest.MonkeyPatch) -> Watch:
    with gates.shared():  # makes the files
        watch = Watch(tmp_path)
    for name in ("measure_latency", "measure_reference"):
        monkeypatch.setattr(instrument_module, name, watch.timing(getattr(instrument_module, name)))
    return watch


def test_nothing_else_runs_while_timing_and_nothing_unseen_otherwise(
    tmp_path: Path, gates: StudyGates, watch: Watch
) -> None:
    instrument = Instrument(watch.network(), TARGET)
    calm = instrument.time_reference(gates)
    instrument.measure(
        watch.network(), calm, gates, export_formats=("torch_export",), settings=QUICK
    )
    assert watch.seen == {("timed", "exclusive"), ("not timed", "shared")}
    assert state_of_gate(tmp_path) == "free"


def test_exporting_and_processes_hold_the_gate_in_shared_mode(
    tmp_path: Path, gates: StudyGates, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def process(program: bytes, *_: object) -> float:
        assert len(program) > 100
        watch.note("process")
        return 123.0

    monkeypatch.setattr(instrument_module, "process_peak_rss_mib", process)
    instrument = Instrument(watch.network(), ONNX)
    calm = instrument.time_reference(gates)
    costs = instrument.measure(watch.network(), calm, gates, settings=QUICK)
    assert costs.process_peak_rss_mib == 123.0
    assert watch.seen == {("process", "shared"), ("not timed", "shared")}  # timed without torch
    assert state_of_gate(tmp_path) == "free"


def test_the_gate_opens_after_a_failure(
    tmp_path: Path, gates: StudyGates, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError

    instrument = Instrument(watch.network(), TARGET)
    calm = instrument.time_reference(gates)
    monkeypatch.setattr(instrument_module, "measure_latency", fail)
    with pytest.raises(KeyError):
        instrument.measure(watch.network(), calm, gates)
    assert state_of_gate(tmp_path) == "free"


def test_what_a_runtime_cannot_run_has_the_other_costs_and_a_reason(
    gates: StudyGates, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net(8)

    def refuse(wanted: nn.Module) -> None:
        if wanted is model:
            raise RuntimeError("no kernel for this\nand a page about it")

    use(monkeypatch, Scripted(refuse))
    costs = measured(model, gates)
    assert costs.unserved == "RuntimeError: no kernel for this"
    assert (costs.latency, costs.latency_ms, costs.output_error) == (None, None, None)
    assert costs.num_parameters == 240
    assert costs.peak_memory_mib * 2**20 == peak_memory_bytes(model, TARGET.input_shape)
    assert costs.training_peak_memory_mib is not None
    assert Costs.model_validate_json(costs.model_dump_json()) == costs


def test_numbers_that_a_dtype_cannot_hold_are_no_service(gates: StudyGates) -> None:
    model = nn.Conv2d(3, 4, 1, bias=False)
    nn.init.constant_(model.weight, 1e6)  # float16 ends at 65504
    half = measured(model, gates, TARGET.model_copy(update={"dtype": "float16"}))
    assert "not finite" in (half.unserved or "")
    assert measured(model, gates).unserved is None


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("full"), MemoryError()])
def test_want_of_memory_is_raised(
    error: Exception, gates: StudyGates, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net(8)

    def fill(wanted: nn.Module) -> None:
        if wanted is model:
            raise error

    use(monkeypatch, Scripted(fill))
    with pytest.raises(type(error)):
        measured(model, gates)


@pytest.mark.parametrize("optional", [("process_peak_rss_mib",), ()], ids=["asked", "not asked"])
def test_an_exported_network_has_a_process(gates: StudyGates, optional: tuple[str, ...]) -> None:
    costs = measured(net(8), gates, ONNX, optional=optional)
    assert costs.unserved is None
    assert costs.output_error == pytest.approx(0, abs=1e-6)
    if optional:
        assert costs.process_peak_rss_mib is not None
        assert 20 < costs.process_peak_rss_mib < 1000
    else:
        assert costs.process_peak_rss_mib is None


def test_predicting_runs_nothing_on_the_device(
    gates: StudyGates, watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, raising(AssertionError("no session is wanted")))
    instrument = Instrument(net(4), TARGET)
    predicted = PredictedLatency(
        ratio=2.0, ratio_low=1.5, ratio_high=3.0, reference_ms=5.0, num_measured=4
    )
    costs = instrument.predicted(watch.network(), predicted, gates)
    assert watch.seen == {("not timed", "shared")}
    assert (costs.latency_ms, costs.latency, costs.is_measured) == (10.0, None, False)
    assert costs.predicted == predicted
    assert costs.num_parameters == 3 * 3 + 3
    assert costs.peak_memory_mib > 0
    assert (costs.unserved, costs.output_error) == (None, None)


def test_strict_raises_where_others_use_the_device(
    gates: StudyGates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(LoadWatch, "read", lambda _: Conditions(foreign_cpus=1.5))
    strict = LatencySettings(min_pairs=6, max_pairs=6, max_retries=0, is_strict=True)
    with pytest.raises(BusyDeviceError, match=r"'laptop'.*1\.50 CPUs"):
        measured(net(8), gates, settings=strict)
    costs = measured(net(8), gates)
    assert costs.latency is not None
    assert costs.latency.conditions == Conditions(foreign_cpus=1.5)


def test_the_reference_is_made_ready_once(
    gates: StudyGates, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference, made = net(4), list[nn.Module]()
    use(monkeypatch, Scripted(made.append))
    instrument = Instrument(reference, TARGET)
    calm = instrument.time_reference(gates)
    for width in (5, 6, 7):
        instrument.measure(net(width), calm, gates, optional=(), settings=QUICK)
    assert [model is reference for model in made] == [True, False, False, False]
    instrument.close()
    instrument.measure(net(8), calm, gates, optional=(), settings=QUICK)
    assert sum(model is reference for model in made) == 2


def test_a_target_that_cannot_run_the_reference_is_an_error(
    gates: StudyGates, monkeypatch: pytest.MonkeyPatch
) -> None:
    use(monkeypatch, raising(RuntimeError("no kernel for this\nand a page about it")))
    instrument = Instrument(net(4), TARGET)
    message = r"'laptop'.*'eager' cannot run the reference.*RuntimeError: no kernel for this\.$"
    with pytest.raises(TargetError, match=message):
        instrument.time_reference(gates)


def test_an_impossible_target_is_refused_before_anything_runs() -> None:
    with pytest.raises(TargetError, match="threads"):
        Instrument(net(2), Target(name="a", threads=available_cpus() + 1))
