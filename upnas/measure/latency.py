"""Forward time of one batch, in pairs with a reference network.

Timed: one forward in eval mode and inference mode, eager, float32, in torch's default (contiguous)
memory format, on an input of normal random numbers that is on the device already. Excluded:
start-up, warm-up, copies from and to the device, pre- and post-processing.

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
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from torch import nn

from upnas.measure.clocks import Clock, ClockName, Timing, clock_for
from upnas.measure.interleave import MAX_WARMUP_ROUNDS, Interleaver, interleaved
from upnas.records import Latency, Target, TargetReference

logger = logging.getLogger(__name__)

# The fewest pairs for which the order statistics give a 95 % interval; taken whatever the budget.
_FEWEST_ROUNDS: Final = 6
Pair = list[Timing]  # reference, candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencySettings:
    """How long to measure, and what to accept.

    Args:
        relative_width: A block ends when half the 95 % interval of its median pair ratio is below
            this share of it. A block is rejected if it ended wider than twice that, or if the
            medians of its two halves differ by more than twice that (drift).
        min_pairs: Pairs in a block unless the budget is spent before.
        max_pairs: Pairs after which a block ends in any case.
        budget_s: Wall seconds after which a block ends, but never before six pairs.
        max_retries: Blocks measured anew after a rejected one, while the wall time so far is
            less than all blocks' budgets.
        max_warmup: Warm-up rounds; it ends sooner once times stop falling.
    """

    relative_width: float = 0.015
    min_pairs: int = 15
    max_pairs: int = 300
    budget_s: float = 1.0
    max_retries: int = 2
    max_warmup: int = MAX_WARMUP_ROUNDS


DEFAULT_SETTINGS: Final = LatencySettings()


def measure_latency(
    model: nn.Module,
    reference: nn.Module,
    target: Target,
    *,
    reference_ms: float,
    settings: LatencySettings = DEFAULT_SETTINGS,
    clock: Clock | None = None,
) -> Latency:
    """Time a network in interleaved pairs with the reference.

    Both networks must be on ``target.device``. A block that drifts or stays too wide is rejected
    and measured anew; the result is the first block that is steady, or all blocks together where
    only their union is (few pairs of a slow network), or, with a warning in the log, the narrowest
    of these. Where one network is several times faster, its samples are means of some forwards.

    Args:
        model: The candidate, in eval mode; takes (batch, *target.input).
        reference: The study's reference network, in eval mode; same input.
        target: Device, threads, batch and input size.
        reference_ms: The reference's own time on this target (:func:`measure_reference`).
        settings: Precision and effort.
        clock: Replaces the clock that fits the target.

    Raises:
        ValueError: If a network is in training mode.
    """
    clock = clock_for(target) if clock is None else clock
    pairs: list[Pair] = []
    attempts: list[Latency] = []
    input_shape = (target.batch, *target.input)
    with interleaved((reference, model), input_shape, target, clock) as timer:
        timer.warm_up(settings.max_warmup)
        num_blocks = 1 + settings.max_retries
        end_s = timer.wall_s + num_blocks * settings.budget_s
        while len(attempts) < 2 * num_blocks and timer.wall_s < end_s:
            block = _measure_block(timer, settings)
            pairs += block
            for attempt in (block, pairs):
                attempts.append(_latency(attempt, reference_ms, clock.name))
                if _is_steady(attempts[-1], settings):
                    return attempts[-1]
    best = min(attempts, key=_relative_half_width)
    logger.warning(
        "Latency on target %s did not settle in %d blocks: 95 %% interval +-%.1f %%, wanted "
        "+-%.1f %%. Is something else running on the %s?",
        target.name,
        len(attempts) // 2,
        100 * _relative_half_width(best),
        100 * settings.relative_width,
        target.device,
    )
    return best


def measure_reference(
    model: nn.Module,
    target: Target,
    *,
    num_samples: int = 100,
    budget_s: float = 3.0,
    clock: Clock | None = None,
) -> TargetReference:
    """Time the study's reference network alone: the median of many samples.

    Args:
        model: The reference, in eval mode, on ``target.device``; takes (batch, *target.input).
        target: Device, threads, batch and input size.
        num_samples: Samples to take.
        budget_s: Wall seconds after which it stops, but never before six samples.
        clock: Replaces the clock that fits the target.

    Raises:
        ValueError: If the network is in training mode.
    """
    clock = clock_for(target) if clock is None else clock
    with interleaved((model,), (target.batch, *target.input), target, clock) as timer:
        rounds = _measure_rounds(timer, num_samples, budget_s)
    median_ms = statistics.median(timing.ms for (timing,) in rounds)
    return TargetReference(target=target.name, latency_ms=median_ms)


def measure_arm_costs(
    modules: Sequence[nn.Module],
    input_shape: Sequence[int],
    target: Target,
    *,
    num_rounds: int = 50,
    budget_s: float = 1.0,
    clock: Clock | None = None,
) -> list[float]:
    """Time several modules that take the same input, e.g. the arms of one decoder stage.

    A module's cost is its median share of a round times the median round.

    Args:
        modules: At least one, in eval mode, on ``target.device``.
        input_shape: (B, C, H, W) of the common input; ``target.batch`` and ``target.input`` are
            not read.
        target: Device and threads.
        num_rounds: Rounds to take.
        budget_s: Wall seconds after which it stops, but never before six rounds.
        clock: Replaces the clock that fits the target.

    Returns:
        Milliseconds, in the order of ``modules``.

    Raises:
        ValueError: If a module is in training mode.
    """
    clock = clock_for(target) if clock is None else clock
    with interleaved(modules, input_shape, target, clock) as timer:
        rounds = _measure_rounds(timer, num_rounds, budget_s)
    totals = [sum(timing.ms for timing in timings) for timings in rounds]
    typical_total = statistics.median(totals)
    return [
        typical_total
        * statistics.median(
            timings[index].ms / total for timings, total in zip(rounds, totals, strict=True)
        )
        for index in range(len(modules))
    ]


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
        and not (len(pairs) >= settings.min_pairs and _is_precise(pairs, settings))
    ):
        pairs.append(timer.sample_round())
    return pairs


def _latency(pairs: Sequence[Pair], reference_ms: float, clock: ClockName) -> Latency:
    return Latency(
        samples_ms=tuple(candidate.ms for _, candidate in pairs),
        reference_samples_ms=tuple(reference.ms for reference, _ in pairs),
        reference_ms=reference_ms,
        clock=clock,
        wall_ms=statistics.median(candidate.wall_ms for _, candidate in pairs),
    )


def _is_precise(pairs: Sequence[Pair], settings: LatencySettings) -> bool:
    # The width is relative, so neither the reference's own time nor the clock matters.
    latency = _latency(pairs, reference_ms=1.0, clock="wall")
    return _relative_half_width(latency) <= settings.relative_width


def _is_steady(latency: Latency, settings: LatencySettings) -> bool:
    """Whether a block is narrow enough and its halves agree.

    A half has half the pairs, so the difference of the halves' medians has twice the standard
    error of the whole median: without drift, a block that is as precise as wanted fails the
    second test about once in twenty.
    """
    limit = 2 * settings.relative_width
    middle = len(latency.ratios) // 2
    first, second = latency.ratios[:middle], latency.ratios[middle:]
    drift = abs(statistics.median(second) / statistics.median(first) - 1)
    return _relative_half_width(latency) <= limit and drift <= limit


def _relative_half_width(latency: Latency) -> float:
    low, high = latency.interval_ms
    return (high - low) / 2 / latency.median_ms
