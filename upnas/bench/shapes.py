"""What is measured: the shapes, and which entries run at which."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

from upnas.bench.naive import KERNELS
from upnas.bench.records import MODES, Mode, Shape
from upnas.errors import UpnasError, suggest_name
from upnas.records import StageChoice
from upnas.upsamplers import find_upsampler, upsampler_names

_CUSTOM: Final = re.compile(r"(\d+)x(\d+)x(\d+)x(\d+)(?:@(\d+))?")


class Job(NamedTuple):
    """Entries to be timed in turns at one shape, with or without naive formulations."""

    shape: Shape
    mode: Mode
    entries: tuple[StageChoice, ...]
    with_naive: bool


def _shape(
    name: str,
    input_shape: tuple[int, int, int, int],
    scale_factor: int = 2,
    *,
    size: tuple[int, int] | None = None,
    is_tutorial: bool = False,
) -> Shape:
    batch, channels, height, width = input_shape
    return Shape(
        name=name,
        batch=batch,
        channels=channels,
        height=height,
        width=width,
        scale_factor=scale_factor,
        size=size,
        is_tutorial=is_tutorial,
    )


def _tutorial(channels: int, side: int) -> Shape:
    return _shape(f"tutorial-{channels}", (1, channels, side, side), is_tutorial=True)


#: The shape on which the papers of CARAFE, SAPA and DySample give latencies, a deep and a shallow
#: decoder stage, odd sides, a factor of 4, and the map of the tutorial with channels that it does
#: not give. All entries together take some ten minutes on one CPU thread.
_FULL: Final = (
    _shape("paper", (1, 256, 120, 120)),
    _shape("deep", (8, 512, 16, 16)),
    _shape("shallow", (1, 64, 128, 128)),
    _shape("odd", (1, 64, 37, 53), size=(73, 105)),
    _shape("x4", (1, 128, 64, 64), 4),
    *(_tutorial(channels, side=512) for channels in (16, 64, 160)),
)
#: The naive formulations take as long as all else together: not everywhere by default.
_COMPARED: Final = frozenset({"paper", "odd"})
#: Seconds in all, for tests: too small for any conclusion.
_QUICK: Final = (
    _shape("quick", (1, 16, 12, 12)),
    _shape("quick-odd", (1, 16, 5, 7), size=(9, 13)),
    *(_tutorial(channels, side=16) for channels in (4, 8)),
)

#: What a tutorial on upsampling compares on a 512 x 512 map. It does not give the transposed
#: convolution's kernel: both.
TUTORIAL_ENTRIES: Final = (
    StageChoice(upsampler="nearest"),
    StageChoice(upsampler="bilinear"),
    StageChoice(upsampler="bicubic"),
    StageChoice(upsampler="transposed", parameters=(("kernel_size", 2),)),
    StageChoice(upsampler="transposed", parameters=(("kernel_size", 4),)),
)


def plan_jobs(
    names: Sequence[str] = (),
    shapes: Sequence[str] = (),
    modes: Sequence[Mode] = MODES,
    *,
    is_quick: bool = False,
) -> tuple[Job, ...]:
    """Decide what runs where.

    Args:
        names: Catalogue names, places of classes and names of :data:`~upnas.bench.naive.KERNELS`;
            none means the whole catalogue and all kernels.
        shapes: Names of shapes, or BxCxHxW with @s behind it for another factor than 2. None
            means all, then with naive formulations at two of them and the tutorial's as in the
            tutorial, forward only. The tutorial's shapes have entries of their own: those of
            :data:`TUTORIAL_ENTRIES` whose names are asked for.
        modes: Forward, training or both.
        is_quick: Tiny shapes.

    Raises:
        CatalogueError: If a name is unknown.
        UpnasError: If a shape is.
    """
    for name in names:
        if name not in KERNELS:
            find_upsampler(name)
    wanted = tuple(dict.fromkeys(names)) or (*upsampler_names(), *KERNELS)
    entries = tuple(StageChoice(upsampler=name) for name in wanted)
    tutorial = tuple(entry for entry in TUTORIAL_ENTRIES if entry.upsampler in wanted)
    known = _QUICK if is_quick else _FULL
    chosen = [_find_shape(text, known) for text in dict.fromkeys(shapes)] or known
    jobs = (
        Job(
            shape,
            mode,
            tutorial if shape.is_tutorial else entries,
            with_naive=bool(shapes) or is_quick or shape.name in _COMPARED,
        )
        for shape in chosen
        for mode in modes
        if shapes or is_quick or not shape.is_tutorial or mode == "forward"
    )
    return tuple(job for job in jobs if job.entries)


def _find_shape(text: str, known: Iterable[Shape]) -> Shape:
    by_name = {shape.name: shape for shape in known}
    if text in by_name:
        return by_name[text]
    match = _CUSTOM.fullmatch(text)
    if match is None or "0" in match.groups():
        raise UpnasError(
            f"--shape {text}: unknown.{suggest_name(text, by_name)} Available: "
            f"{', '.join(by_name)}; or batch x channels x height x width with @factor, such as "
            "1x64x128x128 or 1x64x32x32@4."
        )
    batch, channels, height, width, factor = match.groups()
    sides = (int(batch), int(channels), int(height), int(width))
    return _shape(text, sides, int(factor or 2))
