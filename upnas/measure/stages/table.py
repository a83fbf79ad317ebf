"""What every upsampler of a search space costs at every stage: some 80 numbers for 10,000 networks.

Timed: one forward of an upsampler alone, with the input that it has in the reference network, in
rounds with that network, as a share of it. Excluded: what the decoder does around it, such as
averaging the image down to a guide, and what it does to its neighbours: alone it finds its input
and its weights in caches that other layers use in the network. :mod:`upnas.prediction` learns
from whole candidates what that amounts to.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from upnas.errors import TargetError
from upnas.measure.gate import StudyGates
from upnas.measure.memory.tensors import num_parameters
from upnas.measure.stages.memory import Skeleton
from upnas.measure.stages.places import OfOneInput, Place, find_places
from upnas.measure.stages.times import (
    DEFAULT_SETTINGS,
    Option,
    TableSettings,
    Times,
    time_options,
)
from upnas.measure.timing.clocks import Clock
from upnas.models import StageInfo, build_model, build_upsampler_of, describe_stages
from upnas.models.base import seeded
from upnas.records import Candidate, StageChoice, StageCost, StageTable, Target, TaskSignature
from upnas.upsamplers import Switched, selectors

__all__ = ["DEFAULT_SETTINGS", "OfOneInput", "TableSettings", "measure_stage_table"]


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
                _option(info, choice, place, decides.side)
                for choice in dict.fromkeys((*own, default))
            ]
            for info, own, default, place, decides in zip(
                infos, options, reference.stages, places, deciding, strict=True
            )
        ]
        skeleton = Skeleton(network, places, target)
    every = itertools.chain.from_iterable(stages)
    times = time_options(every, network, target, gates, settings, clock)
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


def _option(info: StageInfo, choice: StageChoice, place: Place, side: tuple[int, int]) -> Option:
    """An option of a stage; an upsampler that picks by resolution as the arm for this (H, W)."""
    with seeded(0, "stage table"):
        upsampler = build_upsampler_of(info, choice)
    reason = None
    if upsampler.deferred:
        reason = "deferred: it changes the resolution of the stages behind it"
    elif selectors(upsampler):
        reason = "learned: which arm ships is known only after the training"
    if isinstance(upsampler, Switched):
        upsampler = upsampler.collapse(side)
    return Option(choice, upsampler.eval(), place, reason)


def _cost(
    option: Option, times: tuple[float, ...] | str, skeleton: Skeleton, gates: StudyGates
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
            if option.reason
            else skeleton.activation_bytes(upsampler, option.place),
        )


def _check_reference(
    reference: Candidate, stages: Sequence[Sequence[Option]], times: Times, target: Target
) -> None:
    for choice, stage in zip(reference.stages, stages, strict=True):
        (own,) = (option for option in stage if option.choice == choice)
        if isinstance(reason := times[own.work], str):
            raise TargetError(
                f"Target {target.name!r}: latencies cannot be predicted, because {choice} of the "
                f"reference network cannot be timed alone: {reason}. Measure every candidate."
            )
