"""The report of a benchmark for a repository."""

from __future__ import annotations

import re
from typing import Final

from upnas.bench.records import MIB, MODES, Benchmark
from upnas.bench.tables import Table, group_table, missing, tutorial_table

_SPECIAL: Final = re.compile(r"([\\`*\[\]|#~<])")

_CLOCKS: Final = {
    "thread_cpu": "processor time of the one thread that works",
    "wall": "elapsed time",
    "device": "elapsed time between two events on the CUDA stream, the device's cache emptied "
    "before every call",
}
_MEMORY: Final = {
    "cpu": "the bytes of all tensors, counted on fake tensors: exact and repeatable, without what "
    "a kernel of torch allocates inside itself (some convolutions do)",
    "cuda": "what the caching allocator gave out (`max_memory_allocated`), workspaces included",
}


def benchmark_markdown(benchmark: Benchmark, picture: str | None = None) -> str:
    """Write the report: conditions, one table per shape and mode, the tutorial's, the method.

    Args:
        benchmark: The result.
        picture: Path of the picture, relative to the report; None leaves it out.
    """
    settings = benchmark.settings
    parts = [f"# Upsamplers on {settings.device}", _conditions(benchmark)]
    if not benchmark.is_complete:
        parts.append("**Stopped before the end: shapes are missing.**")
    if picture is not None:
        parts.append(f"![Times per shape]({picture})")
    parts.append(
        "`/ naive` is the ratio to a straightforward formulation of the same function with the "
        "same weights, timed in the same rounds: below 1 is better. `floor` and `memory` are "
        "explained below."
    )
    groups = [group for group in benchmark.groups if not group.shape.is_tutorial]
    parts.append("## Shapes")
    parts += [_section(group_table(group)) for group in groups]
    tutorial = [tutorial_table(benchmark, mode) for mode in MODES]
    tables = [table for table in tutorial if table is not None]
    if tables:
        parts += ["## The tutorial's comparison, on this device", _TUTORIAL]
        parts += [_section(table) for table in tables]
    if refused := missing(benchmark.groups):
        parts.append("## Not measured")
        parts.append(
            "\n".join(
                f"- {_escape(name)} at {', '.join(where)}: {_escape(reason)}"
                for (name, reason), where in refused.items()
            )
        )
    parts += ["## How it was measured", _method(benchmark)]
    parts += ["## Repeat it", f"    {benchmark.command}"]
    return "\n\n".join(parts) + "\n"


_TUTORIAL: Final = (
    "A widely copied tutorial gives four latencies for a 512x512 map enlarged by 2, without "
    "channels, dtype, memory layout or kernel size, all of which change the order. Here are the "
    "same operators for three numbers of channels and both kernels."
)


def _conditions(benchmark: Benchmark) -> str:
    settings, environment = benchmark.settings, benchmark.environment
    packages = dict(environment.packages)
    facts = {
        "device": ", ".join(environment.gpus) if settings.device == "cuda" else environment.machine,
        "processors, memory": f"{environment.num_cpus}, {environment.memory_gib:g} GiB",
        "threads": settings.threads,
        "dtype, layout": f"{settings.dtype}, {settings.layout}",
        "versions": f"upnas {packages['upnas']}, torch {packages['torch']}, "
        f"Python {environment.python}, {environment.platform}",
        "commit": environment.git_commit or "unknown",
        "made": benchmark.created,
    }
    return "\n".join(f"- {name}: {_escape(str(value))}" for name, value in facts.items())


def _method(benchmark: Benchmark) -> str:
    settings = benchmark.settings
    notes = [
        f"**Time**: {_CLOCKS[benchmark.clock]}. *Forward* is one inference forward in eval mode; "
        "*training* a forward in training mode and the gradients of input, guide and parameters. "
        "The tensors are on the device already; channels stay what they are.",
        "**Rounds**: after a warm-up, every round runs every upsampler, its naive formulation and "
        "a copy of memory once, in a fresh random order. One leaves the rounds after "
        f"{settings.budget_s:g} s of samples, but not before 3 and always after 50. Medians, "
        "quartiles and the number n of samples are given; ratios are medians over the rounds that "
        "both took part in.",
        "**Floor**: no implementation can move less than input, guide, parameters and output "
        "once and, in training, the output's gradient and all gradients once. `floor` is the "
        "time that these bytes take at the bandwidth of the copy "
        f"({settings.copy_bytes / MIB:g} MiB read and written, in the same rounds, with the same "
        "threads), over the measured time: 100 % is perfect. Arithmetic is not in it, so "
        "convolutions with many channels are far from it on any machine.",
        f"**Memory**: peak of {_MEMORY[settings.device]}. Input, guide and weights are not in it; "
        "the output is, and in training the output's gradient and all gradients are.",
        "**Known bias**: the copy writes to memory that exists, an upsampler to memory that it "
        "must ask the system for, which on a CPU can cost as much as writing it; maps that fit "
        "into the cache can be above 100 %. Calls below 2 ms on a CPU are repeated with warm "
        "caches, longer ones start with what their predecessor left. Weights are the initial "
        "ones. Entries that pick by resolution are collapsed to what they pick (after the colon); "
        "an untrained selector picks its first arm.",
    ]
    return "\n".join(f"- {note}" for note in notes)


def _section(table: Table) -> str:
    rules = [":---", *["---:"] * (len(table.columns) - 1)]
    lines = [table.columns, rules, *table.rows]
    cells = ("| " + " | ".join(map(_escape, line)) + " |" for line in lines)
    return f"### {_escape(table.title)}\n\n" + "\n".join(cells)


def _escape(text: str) -> str:
    """Show text as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))
