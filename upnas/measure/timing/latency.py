"""Forward time of one batch, in pairs with a reference network.

Timed: one forward in eval mode and inference mode on the target's runtime, on an input of normal
random numbers that is on the device already. Excluded: start-up, compilation, warm-up, copies from
and to the device, pre- and post-processing.

A machine is never equally fast for long, so absolute times of two candidates that were measured
an hour apart cannot be compared. Here every sample of the candidate is paired with a sample of
the study's reference network, and the candidate's latency is the median of the pair ratios times
the reference's own time, measured once for the study. Known bias: load on the other processors
slows memory-bound networks more than compute-bound ones, so the ratio itself moves by a few
percent on a busy machine. Hold the device's gate while anything here runs.
"""

from __future__ import annotations

import logging
import statistics
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from upnas.errors import BusyDeviceError
from upnas.measure.conditions import LoadWatch, disturbance
from upnas.measure.runtimes import Session
from upnas.measure.timing.clocks import Clock, Timing, clock_for
from upnas.measure.timing.interleave import MAX_WARMUP_ROUNDS, Interleaver, conditions_of
from upnas.measure.timing.judge import Judge, Pair, half_width, spread
from upnas.records import Latency, Target, TargetReference

logger = logging.getLogger(__name__)

# The fewest pairs for which the order statistics give a 95 % interval; taken whatever the budget.
_FEWEST_ROUNDS: Final = 6
_WATCH_S: Final = 1.0
# The kernel counts processor time in hundredths of a second: a shorter look sees load that is none.
_SHORTEST_WATCH_S: Final = 0.2
# A spread counts as widened above so many times what it was when the study began.
_WIDENED: Final = 3.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySettings:
    """How long to measure, and what to accept.

    Args:
        relative_width: A block ends when half the 95 % interval of its median pair ratio is below
            this share of it.
        max_width: A block is rejected if it ended wider than that, or if the medians of its two
            halves differ by more than that (drift).
        min_pairs: Pairs in a block unless the budget is spent before.
        max_pairs: Pairs after which a block ends in any case.
        budget_s: Wall seconds after which a block ends, but never before six pairs.
        max_retries: Blocks measured anew after a rejected one, while the wall time so far is
            less than all blocks' budgets.
        max_warmup: Warm-up rounds; it ends sooner once times stop falling.
        max_drift: A block is rejected if the reference's own time changed by more than this share
            between its first and its last third.
        max_spread: A block is rejected if the reference's interquartile range is above this share
            of its median, and above three times what it was when the study began.
        is_strict: Reject blocks during which other programs used the device, and refuse to give a
            number if all were.
    """

    relative_width: float = 0.005
    max_width: float = 0.02
    min_pairs: int = 15
    max_pairs: int = 300
    budget_s: float = 1.0
    max_retries: int = 2
    max_warmup: int = MAX_WARMUP_ROUNDS
    max_drift: float = 0.1
    max_spread: float = 0.15
    is_strict: bool = False


DEFAULT_SETTINGS: Final = LatencySettings()


@dataclass(frozen=True, slots=True)
class _Outcome:
    """The pairs that count, why the others do not, and what is wrong with those that do."""

    pairs: Sequence[Pair]
    rejected: tuple[str, ...]
    unsteady: str | None = None


def measure_latency(
    candidate: Session,
    reference: Session,
    target: Target,
    *,
    calm: TargetReference,
    settings: LatencySettings = DEFAULT_SETTINGS,
    clock: Clock | None = None,
) -> Latency:
    """Time a network in interleaved pairs with the reference.

    A block of pairs is judged (:class:`~upnas.measure.timing.judge.Judge`) and measured anew if
    it is rejected. The result is the first block that is accepted, or all blocks together that
    were merely too short, or the narrowest block with the reason why it is not to be trusted.
    Where one network is several times faster, its samples are means of some forwards.

    Args:
        candidate: The network, ready on the target.
        reference: The study's reference network, likewise.
        target: Device and threads.
        calm: The reference's own time and spread on this target (:func:`measure_reference`).
        settings: Precision and effort.
        clock: Replaces the clock that fits the target.

    Raises:
        BusyDeviceError: If the settings are strict and other programs used the device.
    """
    if clock is None:
        clock = clock_for(target, runs_on_caller=candidate.runs_on_caller)
    watch, start_s = LoadWatch(target.device), time.perf_counter()
    with conditions_of(target):
        timer = Interleaver((reference.run, candidate.run), clock)
        timer.warm_up(settings.max_warmup)
        outcome = _take_blocks(timer, target, _judge(settings, calm), settings)
    device_s = time.perf_counter() - start_s
    if outcome.unsteady is not None:
        logger.info("Latency on target %s is unsteady: %s.", target.name, outcome.unsteady)
    return Latency(
        samples_ms=_times(candidate.ms for _, candidate in outcome.pairs),
        reference_samples_ms=_times(reference.ms for reference, _ in outcome.pairs),
        reference_ms=calm.latency_ms,
        clock=clock.name,
        wall_ms=statistics.median(candidate.wall_ms for _, candidate in outcome.pairs),
        wall_samples_ms=_times(candidate.wall_ms for _, candidate in outcome.pairs),
        rejected=outcome.rejected,
        unsteady=outcome.unsteady,
        num_warmup=timer.num_warmup,
        device_s=round(device_s, 3),
        conditions=watch.read(),
    )


def check_quiet(target: Target) -> None:
    """Watch the device for a second.

    Raises:
        BusyDeviceError: If other programs use it.
    """
    watch = LoadWatch(target.device)
    time.sleep(_WATCH_S)
    if (reason := disturbance(watch.read())) is not None:
        raise _busy(target, reason)


def measure_reference(
    reference: Session,
    target: Target,
    *,
    machine: str = "",
    num_samples: int = 100,
    budget_s: float = 3.0,
    clock: Clock | None = None,
) -> TargetReference:
    """Time the study's reference network alone: the median of many samples.

    Args:
        reference: The network, ready on the target.
        target: Device and threads.
        machine: The machine's fingerprint, for the record.
        num_samples: Samples to take.
        budget_s: Wall seconds after which it stops, but never before six samples.
        clock: Replaces the clock that fits the target.
    """
    if clock is None:
        clock = clock_for(target, runs_on_caller=reference.runs_on_caller)
    watch = LoadWatch(target.device)
    with conditions_of(target):
        rounds = _measure_rounds(Interleaver((reference.run,), clock), num_samples, budget_s)
    samples = [timing for (timing,) in rounds]
    return TargetReference(
        target=target.name,
        latency_ms=statistics.median(timing.ms for timing in samples),
        samples_ms=_times(timing.ms for timing in samples),
        wall_samples_ms=_times(timing.wall_ms for timing in samples),
        clock=clock.name,
        conditions=watch.read(),
        machine=machine,
    )


def measure_arm_costs(
    arms: Sequence[Session],
    target: Target,
    *,
    num_rounds: int = 50,
    budget_s: float = 1.0,
    clock: Clock | None = None,
) -> list[float]:
    """Time several modules that take the same input, e.g. the arms of one decoder stage.

    A module's cost is its median share of a round times the median round.

    Args:
        arms: At least one, ready on the target.
        target: Device and threads.
        num_rounds: Rounds to take.
        budget_s: Wall seconds after which it stops, but never before six rounds.
        clock: Replaces the clock that fits the target.

    Returns:
        Milliseconds, in the order of ``arms``.
    """
    if clock is None:
        clock = clock_for(target, runs_on_caller=arms[0].runs_on_caller)
    with conditions_of(target):
        timer = Interleaver([arm.run for arm in arms], clock)
        rounds = _measure_rounds(timer, num_rounds, budget_s)
    totals = [sum(timing.ms for timing in timings) for timings in rounds]
    typical_total = statistics.median(totals)
    return [
        typical_total
        * statistics.median(
            timings[index].ms / total for timings, total in zip(rounds, totals, strict=True)
        )
        for index in range(len(arms))
    ]


class _Block(NamedTuple):
    """A rejected block of pairs."""

    pairs: list[Pair]
    objection: str
    is_only_wide: bool = False
    is_busy: bool = False


def _take_blocks(
    timer: Interleaver, target: Target, judge: Judge, settings: LatencySettings
) -> _Outcome:
    """Measure blocks until one is accepted or the budgets are spent."""
    blocks: list[_Block] = []
    joined: list[Pair] = []  # of the blocks that were only too short
    num_blocks = 1 + settings.max_retries
    end_s = timer.wall_s + num_blocks * settings.budget_s
    while len(blocks) < num_blocks and (not blocks or timer.wall_s < end_s):
        block = _take_block(timer, target, judge, settings)
        if not block.objection:
            return _Outcome(block.pairs, tuple(b.objection for b in blocks))
        blocks.append(block)
        if block.is_only_wide:
            joined += block.pairs
            if judge.objection(joined) is None:
                return _Outcome(joined, tuple(b.objection for b in blocks if not b.is_only_wide))
    candidates = [block for block in blocks if not block.is_busy]
    if not candidates:
        raise _busy(target, blocks[-1].objection)
    if joined:
        candidates.append(_Block(joined, judge.objection(joined) or ""))
    best = min(candidates, key=lambda block: half_width(block.pairs))
    rejected = tuple(block.objection for block in blocks if block is not best)
    return _Outcome(best.pairs, rejected, best.objection)


def _take_block(
    timer: Interleaver, target: Target, judge: Judge, settings: LatencySettings
) -> _Block:
    """Measure a block and judge it; without an objection it is accepted."""
    watch, start_s = LoadWatch(target.device), time.perf_counter()
    pairs = _measure_block(timer, settings)
    if settings.is_strict:
        time.sleep(max(0.0, _SHORTEST_WATCH_S - (time.perf_counter() - start_s)))
        if (reason := disturbance(watch.read())) is not None:
            return _Block(pairs, reason, is_busy=True)
    return _Block(pairs, judge.objection(pairs) or "", judge.is_only_wide(pairs))


def _judge(settings: LatencySettings, calm: TargetReference) -> Judge:
    """The judge of a study: a reference that was unsteady from the start is let be so."""
    calm_spread = spread(calm.samples_ms) if len(calm.samples_ms) > 1 else 0.0
    return Judge(
        max_half_width=settings.max_width,
        max_drift=settings.max_drift,
        max_spread=max(settings.max_spread, _WIDENED * calm_spread),
    )


def _busy(target: Target, reason: str) -> BusyDeviceError:
    return BusyDeviceError(
        f"Target {target.name!r}: {reason} while {target.device} was to be timed. Stop them, wait, "
        "or leave --strict out: load is then recorded beside the numbers."
    )


def _measure_rounds(timer: Interleaver, num_rounds: int, budget_s: float) -> list[list[Timing]]:
    """Warm up, then take rounds until there are enough or the budget is spent."""
    timer.warm_up()
    end_s = timer.wall_s + budget_s
    rounds: list[list[Timing]] = []
    while len(rounds) < _FEWEST_ROUNDS or (len(rounds) < num_rounds and timer.wall_s < end_s):
        rounds.append(timer.sample_round())
    return rounds


def _measure_block(timer: Interleaver, settings: LatencySettings) -> list[Pair]:
    """Take pairs until the interval of the median ratio is narrow or the budget is spent."""
    end_s = timer.wall_s + settings.budget_s
    pairs: list[Pair] = []
    while len(pairs) < _FEWEST_ROUNDS or (
        len(pairs) < settings.max_pairs
        and timer.wall_s < end_s
        and not (len(pairs) >= settings.min_pairs and half_width(pairs) <= settings.relative_width)
    ):
        pairs.append(timer.sample_round())
    return pairs


def _times(milliseconds: Iterable[float]) -> tuple[float, ...]:
    """Five significant digits: clocks have no more, and every record keeps all samples."""
    return tuple(float(f"{ms:.5g}") for ms in milliseconds)
