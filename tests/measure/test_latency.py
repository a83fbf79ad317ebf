"""Timing with a scripted clock, which gives exact numbers; one run with the real one."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from upnas.errors import BusyDeviceError
from upnas.measure.conditions import LoadWatch
from upnas.measure.environment import available_cpus
from upnas.measure.runtimes import RUNTIMES
from upnas.measure.timing.clocks import CpuClock, DeviceClock, WallClock, clock_for
from upnas.measure.timing.latency import (
    LatencySettings,
    check_quiet,
    measure_arm_costs,
    measure_latency,
    measure_reference,
)
from upnas.records import Conditions, Latency, Target

from .helpers import CountingSession, FakeClock, calm

TARGET = Target(name="cpu", input=(1, 2, 2))


def nets(count: int = 2) -> list[CountingSession]:
    return [CountingSession() for _ in range(count)]


def test_latency_is_the_ratio_times_the_reference() -> None:
    reference, model = nets()
    clock = FakeClock([reference, model], lambda index, _: (4.0, 5.0)[index])
    latency = measure_latency(model, reference, TARGET, calm=calm(100.0), clock=clock)
    assert latency.median_ms == pytest.approx(125.0)
    assert latency.samples_ms == (5.0,) * 15
    assert latency.reference_samples_ms == (4.0,) * 15
    assert latency.wall_ms == 10.0
    assert latency.clock == "thread_cpu"


def test_a_slow_spell_that_hits_both_changes_nothing() -> None:
    reference, model = nets()
    spell = [1.0, 1.0, 3.0, 2.0, 1.0, 5.0]
    clock = FakeClock(
        [reference, model], lambda index, number: (4.0, 5.0)[index] * spell[number % len(spell)]
    )
    latency = measure_latency(model, reference, TARGET, calm=calm(100.0), clock=clock)
    assert latency.median_ms == pytest.approx(125.0)


def test_the_order_within_pairs_alternates() -> None:
    reference, model = nets()
    clock = FakeClock([reference, model], lambda *_: 1.0)
    measure_latency(model, reference, TARGET, calm=calm(1.0), clock=clock)
    assert clock.order == ([0, 1, 1, 0] * len(clock.order))[: len(clock.order)]


def test_warm_up_lasts_until_times_stop_falling() -> None:
    reference, model = nets()
    # Falls by 10 % a forward down to 10 ms: forward 23 is the last that is 5 % faster.
    clock = FakeClock(
        [reference, model],
        lambda index, number: 10.0 if index == 0 else max(10.0, 100 * 0.9**number),
    )
    settings = LatencySettings(max_warmup=40, budget_s=1e3)
    latency = measure_latency(
        model, reference, TARGET, calm=calm(10.0), settings=settings, clock=clock
    )
    assert latency.samples_ms == (10.0,) * 15


def test_warm_up_is_bounded() -> None:
    reference, model = nets()
    clock = FakeClock([reference, model], lambda _, number: 100 * 0.9**number)
    settings = LatencySettings(
        max_warmup=8, min_pairs=10, budget_s=1e3, max_drift=9.0, max_spread=9.0
    )
    measure_latency(model, reference, TARGET, calm=calm(1.0), settings=settings, clock=clock)
    assert reference.num_forwards == 8 + 10


@pytest.mark.parametrize(("ratio", "repeats"), [(1.2, 1), (3.0, 3), (50.0, 4)])
def test_the_faster_network_runs_warm_and_repeatedly(ratio: float, repeats: int) -> None:
    reference, model = nets()
    clock = FakeClock([reference, model], lambda index, _: (1.0, ratio)[index])
    latency = measure_latency(model, reference, TARGET, calm=calm(1.0), clock=clock)
    assert latency.median_ms == pytest.approx(ratio)
    num_warmup = 3
    num_pairs = len(latency.samples_ms)
    settle = 1 if repeats > 1 else 0  # untimed
    assert reference.num_forwards == num_warmup + num_pairs * (repeats + settle)
    assert model.num_forwards == num_warmup + num_pairs


def test_sampling_goes_on_until_the_interval_is_narrow() -> None:
    reference, model = nets()
    # A third of the pairs each at 0.97, 1 and 1.03: the interval [n/2 +- 1.96 sqrt(n)/2] of ranks
    # lies inside the middle third from n = (3 * 1.96)^2 = 35 on.
    clock = FakeClock(
        [reference, model],
        lambda index, number: 10.0 if index == 0 else (9.7, 10.0, 10.3)[number % 3],
    )
    settings = LatencySettings(budget_s=1e3)
    latency = measure_latency(
        model, reference, TARGET, calm=calm(1.0), settings=settings, clock=clock
    )
    low, high = latency.interval_ms
    assert 30 <= len(latency.samples_ms) <= 40
    assert (high - low) / 2 / latency.median_ms <= 0.01


def test_the_budget_ends_a_block_but_never_before_six_pairs() -> None:
    reference, model = nets()
    clock = FakeClock([reference, model], lambda *_: 500.0)  # 2 s of wall time a pair
    settings = LatencySettings(budget_s=1.0)
    latency = measure_latency(
        model, reference, TARGET, calm=calm(1.0), settings=settings, clock=clock
    )
    assert len(latency.samples_ms) == 6


def test_a_drifting_block_is_rejected_and_measured_anew() -> None:
    reference, model = nets()
    start = 3
    # The candidate alone gets 2.6 % slower half-way through the first block: half the interval is
    # 1.3 %, which would pass.
    clock = FakeClock(
        [reference, model],
        lambda index, number: 10.0 if index == 0 or number >= start + 8 else 9.75,
    )
    settings = LatencySettings(min_pairs=16, max_pairs=16, budget_s=1e3)
    latency = measure_latency(
        model, reference, TARGET, calm=calm(10.0), settings=settings, clock=clock
    )
    assert latency.samples_ms == (10.0,) * 16
    assert latency.median_ms == pytest.approx(10.0)
    assert latency.verdict == "rejected 1 block: ratio drifted 2.6 %"


def test_a_block_in_which_the_reference_drifted_is_rejected() -> None:
    reference, model = nets()
    start = 3
    # Both get slower by a third in the first block: the pairs agree, and are not believed.
    clock = FakeClock([reference, model], lambda _, number: 10.0 if number >= start + 10 else 7.5)
    settings = LatencySettings(min_pairs=15, max_pairs=15, budget_s=1e3)
    latency = measure_latency(
        model, reference, TARGET, calm=calm(10.0), settings=settings, clock=clock
    )
    assert latency.samples_ms == (10.0,) * 15
    assert latency.rejected == ("reference drifted 33 %",)
    assert latency.verdict == "rejected 1 block: reference drifted 33 %"
    assert latency.unsteady is None


@pytest.mark.parametrize(
    ("calm_samples", "is_rejected"), [((9.9, 10.0, 10.1), True), ((6.0, 10.0, 14.0), False)]
)
def test_a_reference_whose_spread_widened_rejects_the_block(
    calm_samples: tuple[float, ...], is_rejected: bool
) -> None:
    reference, model = nets()
    # 8, 10, 12 ms in turns, for both: interquartile range 40 % of the median, ratios all 1.
    clock = FakeClock([reference, model], lambda _, number: (8.0, 10.0, 12.0)[number % 3])
    settings = LatencySettings(min_pairs=15, max_pairs=15, budget_s=1e3, max_drift=0.5)
    latency = measure_latency(
        model, reference, TARGET, calm=calm(10.0, calm_samples), settings=settings, clock=clock
    )
    assert latency.median_ms == pytest.approx(10.0)
    if is_rejected:
        assert latency.unsteady == "reference spread 40 %"
        assert len(latency.rejected) == 2  # and the third block is the one that is shown
    else:
        assert latency.verdict == "stable"


def test_short_blocks_are_joined_where_only_their_union_is_steady() -> None:
    reference, model = nets()
    # One outlier of 30 % in six pairs keeps each block's interval (its whole range) wide.
    clock = FakeClock(
        [reference, model],
        lambda index, number: 13.0 if index == 1 and number in (4, 11) else 10.0,
    )
    settings = LatencySettings(min_pairs=6, max_pairs=6, budget_s=1e3)
    latency = measure_latency(
        model, reference, TARGET, calm=calm(10.0), settings=settings, clock=clock
    )
    assert len(latency.samples_ms) == 12
    assert sorted(latency.samples_ms)[-2:] == [13.0, 13.0]
    assert latency.median_ms == pytest.approx(10.0)


def test_what_never_settles_says_so() -> None:
    reference, model = nets()
    clock = FakeClock(
        [reference, model], lambda index, number: 10.0 * (1 + (number * 7 % 10) / 10 * index)
    )
    settings = LatencySettings(min_pairs=10, max_pairs=10, max_retries=2, budget_s=1e3)
    latency = measure_latency(
        model, reference, TARGET, calm=calm(10.0), settings=settings, clock=clock
    )
    assert latency.unsteady is not None
    assert re.match(r"unsteady: interval \+-\d+\.\d %", latency.verdict)
    assert len(latency.samples_ms) in (10, 20, 30)


def test_retries_stop_when_all_budgets_are_spent() -> None:
    reference, model = nets()
    clock = FakeClock(
        [reference, model], lambda index, number: 500.0 * (1 + (number * 7 % 10) / 10 * index)
    )
    settings = LatencySettings(budget_s=1.0)  # six pairs alone take over 12 s
    latency = measure_latency(model, reference, TARGET, calm=calm(), settings=settings, clock=clock)
    assert model.num_forwards == latency.num_warmup + 6


def test_the_record_says_what_it_took() -> None:
    reference, model = nets()
    clock = FakeClock([reference, model], lambda *_: 1.23456789)
    latency = measure_latency(model, reference, TARGET, calm=calm(), clock=clock)
    assert latency.samples_ms[0] == 1.2346
    assert latency.wall_samples_ms == (2.4691,) * 15
    assert latency.num_warmup == 3
    assert latency.device_s < 60
    assert latency.conditions is not None
    assert Latency.model_validate_json(latency.model_dump_json()) == latency


def busy(monkeypatch: pytest.MonkeyPatch, foreign_cpus: Sequence[float]) -> None:
    """Let each reading of the load in turn be one of these."""
    readings = iter(foreign_cpus)

    def read(_: LoadWatch) -> Conditions:
        return Conditions(foreign_cpus=next(readings))

    monkeypatch.setattr(LoadWatch, "read", read)


def test_load_is_recorded_unless_strict(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, model = nets()
    clock = FakeClock([reference, model], lambda *_: 1.0)
    busy(monkeypatch, [0.9])
    latency = measure_latency(model, reference, TARGET, calm=calm(), clock=clock)
    assert latency.verdict == "stable"
    assert latency.conditions == Conditions(foreign_cpus=0.9)


def test_strict_rejects_the_blocks_that_others_disturbed(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, model = nets()
    clock = FakeClock([reference, model], lambda *_: 1.0)
    busy(monkeypatch, [0.9, 0.01, 0.4])  # block, block, the whole
    strict = LatencySettings(is_strict=True)
    latency = measure_latency(model, reference, TARGET, calm=calm(), settings=strict, clock=clock)
    assert latency.rejected == ("other programs kept 0.90 CPUs busy",)
    assert latency.unsteady is None


def test_strict_refuses_a_number_where_others_never_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    reference, model = nets()
    clock = FakeClock([reference, model], lambda *_: 1.0)
    busy(monkeypatch, [0.9] * 9)
    strict = LatencySettings(is_strict=True, budget_s=1e3)
    with pytest.raises(BusyDeviceError, match=r"'cpu': other programs kept 0\.90 CPUs.*--strict"):
        measure_latency(model, reference, TARGET, calm=calm(), settings=strict, clock=clock)


@pytest.mark.parametrize("foreign_cpus", [(0.9, 0.01), (0.01, 0.9)], ids=["first", "last"])
def test_strict_takes_the_number_of_a_quiet_block_only(
    monkeypatch: pytest.MonkeyPatch, foreign_cpus: tuple[float, float]
) -> None:
    reference, model = nets()
    # The times are the same in both blocks, and no block's interval is narrow enough.
    clock = FakeClock(
        [reference, model], lambda index, number: 1.0 if index == 0 else (1.0, 1.5)[number // 2 % 2]
    )
    busy(monkeypatch, [*foreign_cpus, 0.4])  # block, block, the whole
    strict = LatencySettings(is_strict=True, max_retries=1, max_pairs=30, budget_s=1e3)
    latency = measure_latency(model, reference, TARGET, calm=calm(), settings=strict, clock=clock)
    assert latency.rejected == ("other programs kept 0.90 CPUs busy",)
    assert (latency.unsteady or "").startswith("interval +-")


def test_a_quiet_device_is_watched_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("upnas.measure.timing.latency._WATCH_S", 0.0)
    busy(monkeypatch, [0.01, 1.5])
    check_quiet(TARGET)
    with pytest.raises(BusyDeviceError, match=r"1\.50 CPUs busy"):
        check_quiet(TARGET)


def test_reference_is_the_median_of_its_own_samples() -> None:
    (net,) = nets(1)
    clock = FakeClock([net], lambda _, number: 10.0 if number % 3 else 90.0)
    reference = measure_reference(net, TARGET, num_samples=30, budget_s=1e3, clock=clock)
    assert reference.latency_ms == 10.0
    assert reference.target == "cpu"
    assert net.num_forwards >= 30


def test_reference_stops_at_the_budget() -> None:
    (net,) = nets(1)
    clock = FakeClock([net], lambda *_: 100.0)  # 0.2 s of wall time each
    measure_reference(net, TARGET, budget_s=2.0, clock=clock)
    assert net.num_forwards == 3 + 10


def test_arm_costs_are_shares_of_a_round() -> None:
    arms = nets(3)
    costs = (2.0, 1.0, 4.0)
    spell = [1.0, 1.0, 2.0, 1.0, 6.0, 1.0, 1.0]
    clock = FakeClock(arms, lambda index, number: costs[index])
    assert measure_arm_costs(arms, TARGET, clock=clock) == pytest.approx(list(costs))
    # Every fourth round is five times slower for all.
    arms = nets(3)
    equal = FakeClock(arms, lambda index, number: spell[number % 7])
    measured = measure_arm_costs(arms, TARGET, clock=equal)
    assert measured == pytest.approx([1.0, 1.0, 1.0])


def test_threads_are_set_while_measuring_and_restored() -> None:
    seen: list[tuple[int, bool]] = []

    class Probe(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
            assert x.shape == (3, 1, 2, 2)
            return x

    before = torch.get_num_threads()
    target = Target(name="cpu", input=(1, 2, 2), batch=3, threads=before + 1)
    with RUNTIMES["eager"].session(Probe(), target) as session:
        measure_reference(session, target, num_samples=6)
    assert set(seen) == {(before + 1, True)}
    assert torch.get_num_threads() == before


def test_real_clock_orders_networks() -> None:
    def net(depth: int) -> nn.Module:
        convs = [nn.Conv2d(8, 8, 3, padding=1) for _ in range(depth)]
        return nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), *convs).eval()

    target = Target(name="cpu", input=(1, 48, 48))
    settings = LatencySettings(budget_s=0.3)
    large, small = net(12), net(3)
    state = torch.get_rng_state()
    eager = RUNTIMES["eager"]
    with eager.session(large, target) as candidate, eager.session(small, target) as reference:
        latency = measure_latency(candidate, reference, target, calm=calm(), settings=settings)
    assert latency.median_ms > 1.5
    assert latency.clock == "thread_cpu"
    assert torch.equal(torch.get_rng_state(), state)  # the study's seeds are not touched


def test_one_thread_computes_on_the_calling_thread() -> None:
    # What the thread CPU clock relies on: no other thread of the process does the work.
    net = nn.Sequential(*[nn.Conv2d(16, 16, 3, padding=1) for _ in range(4)]).eval()
    x = torch.randn(1, 16, 64, 64)
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.inference_mode():
            for _ in range(20):
                net(x)
            process, thread = time.process_time(), time.thread_time()
            for _ in range(60):
                net(x)
            process, thread = time.process_time() - process, time.thread_time() - thread
    finally:
        torch.set_num_threads(num_threads)
    assert thread > 0.8 * process


def test_clock_of_a_target() -> None:
    cpus = available_cpus()
    assert clock_for(Target(name="a", threads=1)).name == "thread_cpu"
    assert clock_for(Target(name="a", threads=1), runs_on_caller=False).name == "process_cpu"
    assert clock_for(Target(name="a", threads=cpus + 1)).name == "wall"
    assert clock_for(Target(name="a", device="cuda")).name == "device"
    assert clock_for(Target(name="a", device="cuda"), runs_on_caller=False).name == "wall"
    assert clock_for(Target(name="a", device="mps")).name == "wall"


def test_process_clock_counts_other_threads() -> None:
    def spin() -> None:
        end = time.thread_time() + 0.05
        while time.thread_time() < end:
            pass

    def on_another_thread() -> None:
        thread = threading.Thread(target=spin)
        thread.start()
        thread.join()

    assert CpuClock("process_cpu")(on_another_thread).ms >= 50
    assert CpuClock("thread_cpu")(on_another_thread).ms < 25


def test_wall_clock_waits_for_the_device() -> None:
    pending: list[float] = []

    def synchronize() -> None:
        while pending:
            time.sleep(pending.pop())

    timing = WallClock(synchronize)(lambda: pending.append(0.03))
    assert timing.ms >= 30


def test_wall_clock_counts_sleep_and_cpu_clock_does_not() -> None:
    wall = WallClock()(lambda: time.sleep(0.05))
    cpu = CpuClock("thread_cpu")(lambda: time.sleep(0.05))
    assert wall.ms == wall.wall_ms >= 50
    assert cpu.ms < 25
    assert cpu.wall_ms >= 50


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_device_clock_waits_for_the_device() -> None:
    x = torch.randn(2048, 2048, device="cuda")
    clock = DeviceClock()
    clock(lambda: x @ x)
    few, many = clock(lambda: x @ x), clock(lambda: [x @ x for _ in range(50)])
    assert many.ms > 10 * few.ms
    assert many.wall_ms >= 0.9 * many.ms
