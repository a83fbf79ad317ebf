"""What every upsampler of a search space costs at every stage: some 80 numbers for 10,000 networks.

Timed: one forward of an upsampler alone, with the input that it has in the reference network, in
rounds with that network, as a share of it. Excluded: what the decoder does around it, such as
averaging the image down to a guide, and what it does to its neighbours: alone it finds its input
and its weights in caches that other layers use in the network. :mod:`upnas.prediction` learns
from whole candidates what that amounts to.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, NamedTuple

from torch import nn

from upnas.errors import TargetError
from upnas.measure.clocks import Clock, Timing, clock_for
from upnas.measure.gate import StudyGates
from upnas.measure.interleave import Forward, Interleaver, conditions_of
from upnas.measure.memory import num_parameters
from upnas.measure.runtimes import RUNTIMES, Session
from upnas.measure.stage_memory import Skeleton
from upnas.measure.stage_places import OfOneInput, Place, find_places
from upnas.models import StageInfo, build_model, build_upsampler_of, describe_stages
from upnas.models.base import seeded
from upnas.records import Candidate, StageChoice, StageCost, StageTable, Target, TaskSignature
from upnas.upsamplers import Switched, Upsampler

__all__ = ["DEFAULT_SETTINGS", "OfOneInput", "TableSettings", "measure_stage_table"]


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


class _Option(NamedTuple):
    """What a stage can choose, as the module that would ship."""

    choice: StageChoice
    upsampler: Upsampler
    place: Place

    @property
    def work(self) -> tuple[object, ...]:
        """Options with equal work take the same time."""
        module, place = self.upsampler, self.place
        guide_channels = module.guide_channels if module.guided else 0
        return self.choice, type(module), guide_channels, place.shape, place.size


# Ratios of each round, or why the upsampler cannot be timed alone; by work.
_Times = dict[tuple[object, ...], tuple[float, ...] | str]


def measure_stage_table(
    signature: TaskSignature,
    options: Sequence[Sequence[StageChoice]],
    reference: Candidate,
    target: Target,
    gates: StudyGates,
    *,
    deciding_input: tuple[int, int, int] | None = None,
    machine: str = "",
    settings: TableSettings = DEFAULT_SETTINGS,
    clock: Clock | None = None,
) -> StageTable:
    """Cost every option of every stage; each distinct upsampler and shape is timed once.

    The device is held exclusively for about a second at a time, so that trainings go on. Takes
    about a minute for 80 options of a network of 15 ms on a runtime that does not compile.

    Args:
        signature: Channels in and out of the networks, and the scale.
        options: What each stage can choose from, deepest first.
        reference: The study's reference network, whose upsamplers are added to the options. None
            of them is deferred.
        target: Where.
        gates: Of the devices of the study.
        deciding_input: Channels, height and width of the input that decides which arm an upsampler
            is that picks by resolution; None means the target's.
        machine: The machine's fingerprint, for the record.
        settings: Effort.
        clock: Replaces the clock that fits the target.

    Raises:
        SpaceError: If the decoder does not run one upsampler per stage.
        TargetError: If the target cannot run an upsampler of the reference alone: nothing could be
            predicted then.
    """
    with gates.shared():
        network = build_model(reference, signature, load_pretrained=False).eval()
        infos = describe_stages(reference.model, signature)
        places = find_places(network, infos, target.input)
        deciding = find_places(network, infos, deciding_input or target.input)
        stages = [
            [
                _Option(choice, _build(info, choice, decides.side), place)
                for choice in dict.fromkeys((*own, default))
            ]
            for info, own, default, place, decides in zip(
                infos, options, reference.stages, places, deciding, strict=True
            )
        ]
        skeleton = Skeleton(network, places, target)
    times = _time(stages, network, target, gates, settings, clock)
    _check_reference(reference, stages, times, target)
    return StageTable(
        target=target.name,
        reference=reference,
        stages=tuple(
            tuple(_cost(option, times[option.work], skeleton, gates) for option in stage)
            for stage in stages
        ),
        num_parameters=skeleton.num_parameters,
        static_bytes=skeleton.static_bytes,
        machine=machine,
    )


def _build(info: StageInfo, choice: StageChoice, side: tuple[int, int]) -> Upsampler:
    """The upsampler of a stage; one that picks by resolution as the arm for this (H, W)."""
    with seeded(0, "stage table"):
        upsampler = build_upsampler_of(info, choice)
    if isinstance(upsampler, Switched):
        upsampler = upsampler.collapse(side)
    return upsampler.eval()


def _cost(
    option: _Option, times: tuple[float, ...] | str, skeleton: Skeleton, gates: StudyGates
) -> StageCost:
    upsampler, is_timed = option.upsampler, not isinstance(times, str)
    with gates.shared():  # per option, so that measurements get their turn
        return StageCost(
            choice=option.choice,
            ratios=times if is_timed else (),
            reason=None if is_timed else times,
            num_parameters=num_parameters(upsampler),
            static_bytes=skeleton.static_bytes_of(upsampler),
            activation_bytes=None
            if upsampler.deferred
            else skeleton.activation_bytes(upsampler, option.place),
        )


def _check_reference(
    reference: Candidate, stages: Sequence[Sequence[_Option]], times: _Times, target: Target
) -> None:
    for choice, stage in zip(reference.stages, stages, strict=True):
        (own,) = (option for option in stage if option.choice == choice)
        if isinstance(reason := times[own.work], str):
            raise TargetError(
                f"Target {target.name!r}: latencies cannot be predicted, because {choice} of the "
                f"reference network cannot be timed alone: {reason}. Measure every candidate."
            )


def _time(
    stages: Sequence[Sequence[_Option]],
    network: nn.Module,
    target: Target,
    gates: StudyGates,
    settings: TableSettings,
    clock: Clock | None,
) -> _Times:
    """Time all options, those with equal work once."""
    times: _Times = {}
    waiting: dict[tuple[object, ...], _Option] = {}
    for option in (option for stage in stages for option in stage):
        if option.upsampler.deferred:
            times[option.work] = "deferred: it changes the resolution of the stages behind it"
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
    group: Sequence[_Option],
    reference: Session,
    target: Target,
    gates: StudyGates,
    settings: TableSettings,
    clock: Clock,
) -> _Times:
    times: _Times = {}
    sessions: dict[tuple[object, ...], Session] = {}
    with ExitStack() as stack:
        for option in group:
            try:
                with gates.shared():
                    sessions[option.work] = _opened(stack, option, target)
            except Exception as error:  # whatever a runtime raises is the answer
                times[option.work] = _first_line(error)
        if not sessions:
            return times
        forwards = [reference.run, *(session.run for session in sessions.values())]
        rounds = _take_rounds(forwards, clock, target, gates, settings)
    for index, work in enumerate(sessions, start=1):
        shares = (timings[index].ms / timings[0].ms for timings in rounds)
        times[work] = tuple(float(f"{share:.5g}") for share in shares)
    return times


def _opened(stack: ExitStack, option: _Option, target: Target) -> Session:
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


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {lines[0][:200]}"
