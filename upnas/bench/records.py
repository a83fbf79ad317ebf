"""What a benchmark leaves behind: frozen records with JSON both ways, nothing of torch."""

from __future__ import annotations

import statistics
from typing import Final, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from upnas.records import Environment, Record, StageChoice

Mode = Literal["forward", "training"]
DType = Literal["float32", "bfloat16", "float16"]
Layout = Literal["nchw", "nhwc"]
Device = Literal["cpu", "cuda"]

MODES: Final[tuple[Mode, ...]] = ("forward", "training")
MIB: Final = 2**20


class Shape(Record):
    """One input size; the output has as many channels as the input."""

    name: str
    batch: PositiveInt
    channels: PositiveInt
    height: PositiveInt
    width: PositiveInt
    scale_factor: PositiveInt = 2
    size: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="Wanted output; the exact multiple is made and cropped."
    )
    is_tutorial: bool = Field(False, description="Belongs to the table of the tutorial.")

    @property
    def output(self) -> tuple[int, int]:
        """Height and width of the output, and of the guide."""
        return self.size or (self.scale_factor * self.height, self.scale_factor * self.width)

    @property
    def num_outputs(self) -> int:
        """Numbers in the output."""
        height, width = self.output
        return self.batch * self.channels * height * width

    def __str__(self) -> str:
        height, width = self.output
        sides = f"{self.height}x{self.width} -> {height}x{width}"
        return f"{self.name}: {self.batch}x{self.channels}x{sides}"


class Timed(Record):
    """One formulation of one upsampler."""

    samples_ms: tuple[PositiveFloat, ...] = Field(min_length=1, description="One per round.")
    extra_bytes: NonNegativeInt = Field(
        description="Peak of what is alive beside input, guide and weights: output, temporaries "
        "and, in training, what the backward needs, the output's gradient and all gradients."
    )

    @property
    def median_ms(self) -> float:
        """The median time of a call."""
        return statistics.median(self.samples_ms)

    @property
    def quartiles_ms(self) -> tuple[float, float]:
        """First and third quartile."""
        if len(self.samples_ms) == 1:
            return self.samples_ms[0], self.samples_ms[0]
        low, _, high = statistics.quantiles(self.samples_ms, n=4, method="inclusive")
        return low, high


class Measurement(Record):
    """One upsampler at one shape, beside its naive formulation where there is one."""

    entry: StageChoice
    collapsed_to: str | None = Field(
        None, description="The class that ran, where the entry picks one by resolution."
    )
    floor_bytes: PositiveInt = Field(description="See :func:`upnas.bench.cases.floor_bytes`.")
    lean: Timed = Field(description="As the catalogue computes it.")
    naive: Timed | None = None
    no_naive: str | None = Field(None, description="Why a naive formulation could not run.")

    @property
    def time_ratio(self) -> float | None:
        """Median over the common rounds of lean time / naive time."""
        if self.naive is None:
            return None
        pairs = zip(self.lean.samples_ms, self.naive.samples_ms, strict=False)
        return statistics.median(lean / naive for lean, naive in pairs)

    @property
    def memory_ratio(self) -> float | None:
        """Extra bytes, lean / naive."""
        if self.naive is None:
            return None
        return self.lean.extra_bytes / self.naive.extra_bytes


class Refusal(Record):
    """An upsampler that cannot do a shape, with the reason."""

    entry: StageChoice
    reason: str


class Group(Record):
    """Everything that was timed in turns: one shape, one mode, and a copy of memory."""

    shape: Shape
    mode: Mode
    copy_bytes: PositiveInt = Field(description="Read and written by one copy.")
    copy_ms: tuple[PositiveFloat, ...] = Field(description="One per round.")
    measurements: tuple[Measurement, ...]
    refusals: tuple[Refusal, ...] = ()

    @property
    def bytes_per_ms(self) -> float:
        """Median bandwidth of the copy, reading and writing counted."""
        return self.copy_bytes / statistics.median(self.copy_ms)

    def floor_percent(self, measurement: Measurement) -> float:
        """Share of the copy's bandwidth at which the floor's bytes were moved, paired by round."""
        pairs = zip(self.copy_ms, measurement.lean.samples_ms, strict=False)
        share = measurement.floor_bytes / self.copy_bytes
        return 100 * share * statistics.median(copy / lean for copy, lean in pairs)


class BenchSettings(Record):
    """The conditions of all groups."""

    device: Device = "cpu"
    dtype: DType = "float32"
    layout: Layout = "nchw"
    threads: PositiveInt = 1
    budget_s: PositiveFloat = Field(0.4, description="Wall seconds per measurement.")
    copy_bytes: PositiveInt = Field(512 * MIB, description="Read and written by one copy.")
    seed: NonNegativeInt = 0


class Benchmark(Record):
    """``upsamplers-<device>.json``."""

    schema_version: Literal[1] = 1
    created: str = Field(description="ISO 8601, UTC.")
    command: str
    settings: BenchSettings
    clock: Literal["thread_cpu", "wall", "device"]
    environment: Environment
    groups: tuple[Group, ...]
    is_complete: bool = Field(description="False: it was stopped; groups not finished are missing.")
