"""Times upsamplers alone, in rounds with the reference network."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, NamedTuple

from torch import nn

from upnas.errors import first_line
from upnas.measure.gate import StudyGates
from upnas.measure.runtimes import RUNTIMES, Session
from upnas.measure.stages.places import OfOneInput, Place
from upnas.measure.timing.clocks import Clock, Timing, clock_for
from upnas.measure.timing.interleave import Forward, Interleaver, conditions_of
from upnas.records import StageChoice, Target
from upnas.upsamplers import Upsampler


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSettings:
    """How long to time the upsamplers of a space.

    Args:
        num_rounds: Samples of each upsampler. It is a small share of the network, so that a
            moderate precision of its own is enough.
        min_rounds: Taken whatever the budget.
        group: Upsamplers that are timed in one round with the reference network.
        budget_s: Wall seconds of a group's samples.
        slice_s: Wall seconds for which the device is held at a time, but one round at least.
        max_warmup: Warm-up rounds of a group; it ends sooner once times stop falling.
    """

    num_rounds: int = 15
    min_rounds: int = 6
    group: int = 8
    budget_s: float = 2.0
    slice_s: float = 1.0
    max_warmup: int = 8


DEFAULT_SETTINGS: Final = TableSettings()


class Option(NamedTuple):
    """What a stage can choose, as the module that would ship, and why it has no costs alone."""

    choice: StageChoice
    upsampler: Upsampler
    place: Place
    reason: str | None

    @property
    def work(self) -> tuple[object, ...]:
        """Options with equal work take the same time."""
        module, place = self.upsampler, self.place
        guide_channels = module.guide_channels if module.guided else 0
        kind = (self.choice, type(module), module.factors, guide_channels)
        return *kind, place.shape, place.size


#: Ratios of each round, or why the upsampler cannot be timed alone; by ``Option.work``.
Times = dict[tuple[object, ...], tuple[float, ...] | str]


def time_options(
    options: Iterable[Option],
    network: nn.Module,
    target: Target,
    gates: StudyGates,
    settings: TableSettings,
    clock: Clock | None,
) -> Times:
    """Time options as shares of a network, those with equal work once.

    Args:
        options: Of all stages.
        network: The reference network, in eval mode on the CPU.
        target: Where.
        gates: Of the devices of the study; held shared to build and exclusively to time.
        settings: Effort.
        clock: Replaces the clock that fits the target.
    """
    times: Times = {}
    waiting: dict[tuple[object, ...], Option] = {}
    for option in options:
        if option.reason is not None:
            times[option.work] = option.reason
        else:
            waiting.setdefault(option.work, option)
    with ExitStack() as stack:
        with gates.shared():
            session = RUNTIMES[target.runtime].session(network, target)
            reference = stack.enter_context(session)
        clock = clock or clock_for(target, runs_on_caller=reference.runs_on_caller)
        distinct = list(waiting.values())
        for start in range(0, len(distinct), settings.group):
            group = distinct[start : start + settings.group]
            times |= _time_group(group, reference, target, gates, settings, clock)
    return times


def _time_group(
    group: Sequence[Option],
    reference: Session,
    target: Target,
    gates: StudyGates,
    settings: TableSettings,
    clock: Clock,
) -> Times:
    times: Times = {}
    sessions: dict[tuple[object, ...], Session] = {}
    with ExitStack() as stack:
        for option in group:
            try:
                with gates.shared():
                    sessions[option.work] = _opened(stack, option, target)
            except Exception as error:  # whatever a runtime raises is the answer
                times[option.work] = first_line(error)
        if not sessions:
            return times
        forwards = [reference.run, *(session.run for session in sessions.values())]
        rounds = _take_rounds(forwards, clock, target, gates, settings)
    for index, work in enumerate(sessions, start=1):
        shares = (timings[index].ms / timings[0].ms for timings in rounds)
        times[work] = tuple(float(f"{share:.5g}") for share in shares)
    return times


def _opened(stack: ExitStack, option: Option, target: Target) -> Session:
    """The upsampler, ready on the target, after one forward that shows whether it runs."""
    of_stage = target.model_copy(update={"input": option.place.shape})
    module = OfOneInput(option.upsampler, of_stage.input_shape, option.place.size)
    session = stack.enter_context(RUNTIMES[target.runtime].session(module.eval(), of_stage))
    with conditions_of(target):
        session.run()
    return session


def _take_rounds(
    forwards: Sequence[Forward],
    clock: Clock,
    target: Target,
    gates: StudyGates,
    settings: TableSettings,
) -> list[list[Timing]]:
    """Time forwards in rounds, holding the device for a slice at a time."""
    timer = Interleaver(forwards, clock)
    rounds: list[list[Timing]] = []
    gate = gates.of(target.device)
    with conditions_of(target):
        with gate.exclusive():
            timer.warm_up(settings.max_warmup)
        end_s = timer.wall_s + settings.budget_s
        while len(rounds) < settings.num_rounds and (
            len(rounds) < settings.min_rounds or timer.wall_s < end_s
        ):
            with gate.exclusive():
                timer.sample_round()  # warms up again what another process has displaced
                slice_end_s = timer.wall_s + settings.slice_s
                rounds.append(timer.sample_round())
                while len(rounds) < settings.num_rounds and timer.wall_s < slice_end_s:
                    rounds.append(timer.sample_round())
    return rounds
