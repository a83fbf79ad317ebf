"""What ``upnas target show`` prints: a machine with what it serves, or the targets of a space."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from importlib import metadata
from typing import Any, NamedTuple

import rich.box
import rich.table
from rich.text import Text

from upnas.cli.tables import output_console
from upnas.measure.runtimes import RUNTIMES
from upnas.measure.targets import missing_for
from upnas.records import RUNTIME_DTYPES, Device, DType, Environment, RuntimeName, Target
from upnas.report.words import format_number, plural


class Offer(NamedTuple):
    """What a machine serves of one runtime on one device.

    Attributes:
        device: The device.
        runtime: The runtime.
        missing: What keeps each dtype from being served; empty where it is.
    """

    device: Device
    runtime: RuntimeName
    missing: dict[DType, tuple[str, ...]]

    @property
    def dtypes(self) -> tuple[DType, ...]:
        """Those that are served."""
        return tuple(dtype for dtype, missing in self.missing.items() if not missing)


def offers() -> list[Offer]:
    """Try every runtime on every device, in every dtype that it knows."""
    pairs = [(device, runtime) for runtime, dtypes in RUNTIME_DTYPES.items() for device in dtypes]
    found = []
    for device, runtime in sorted(pairs, key=lambda pair: pair[0]):
        missing = {
            dtype: missing_for(Target(name="any", device=device, runtime=runtime, dtype=dtype))
            for dtype in RUNTIME_DTYPES[runtime][device]
        }
        found.append(Offer(device, runtime, missing))
    return found


def show_machine(environment: Environment, found: Sequence[Offer]) -> None:
    """Print the machine, and a row per device and runtime."""
    console = output_console()
    memory = f"{format_number(environment.memory_gib)} GiB"
    machine = [environment.machine, plural(environment.num_cpus, "CPU"), memory]
    facts = {
        "machine": ", ".join([*machine, *(environment.gpus or ("no GPU for torch",))]),
        "platform": f"{environment.platform}, Python {environment.python}",
        "versions": ", ".join(f"{name} {version}" for name, version in _versions().items()),
    }
    for name, fact in facts.items():
        console.print(Text(f"{name:<10}{fact}"), soft_wrap=True)
    table = _table("device", "runtime", "dtypes", "missing")
    said: set[tuple[Device, str]] = set()
    for offer in found:
        texts = []
        for text in dict.fromkeys(text for texts in offer.missing.values() for text in texts):
            texts.append("as above" if (offer.device, text) in said else text)
            said.add((offer.device, text))
        cells = (offer.device, offer.runtime, ", ".join(offer.dtypes) or "none", "\n".join(texts))
        table.add_row(*map(Text, cells))
    console.print(table)


def machine_json(environment: Environment, found: Sequence[Offer]) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "environment": environment.model_dump(mode="json"),
        "versions": _versions(),
        "runtimes": [
            {
                "device": offer.device,
                "runtime": offer.runtime,
                "dtypes": list(offer.dtypes),
                "missing": {dtype: list(texts) for dtype, texts in offer.missing.items() if texts},
            }
            for offer in found
        ],
    }


def show_targets(targets: Sequence[Target], missing: Sequence[tuple[str, ...]]) -> None:
    """Print a row per target, and below everything that keeps one from being served."""
    console = output_console()
    heads = ("target", "device", "runtime", "dtype", "memory format", "threads", "batch", "input")
    table = _table(*heads, "here")
    for target, texts in zip(targets, missing, strict=True):
        cells = (
            target.name,
            target.device,
            target.runtime,
            target.dtype,
            target.memory_format,
            str(target.threads),
            str(target.batch),
            " x ".join(map(str, target.input)),
            "not served" if texts else "served",
        )
        table.add_row(*map(Text, cells))
    console.print(table)
    for target, texts in zip(targets, missing, strict=True):
        if texts:
            lines = "".join(f"\n  - {text}" for text in texts)
            console.print(Text(f"{target.name} cannot be served by this machine:{lines}"))


def targets_json(targets: Sequence[Target], missing: Sequence[tuple[str, ...]]) -> dict[str, Any]:
    """The same as JSON values."""
    return {
        "targets": [
            {**target.model_dump(mode="json"), "is_served": not texts, "missing": list(texts)}
            for target, texts in zip(targets, missing, strict=True)
        ]
    }


def _table(*heads: str) -> rich.table.Table:
    """An empty table. Words of ours stay whole; the rest wraps where it is too wide."""
    table = rich.table.Table(box=rich.box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for head in heads:
        may_wrap = head in ("target", "input", "here", "dtypes", "missing")
        table.add_column(head.replace(" ", "\n"), no_wrap=not may_wrap, overflow="fold")
    return table


def _versions() -> dict[str, str]:
    """Of what runtimes consist of, where it is installed."""
    packages = ("torch", "triton", "tensorrt", *(p for r in RUNTIMES.values() for p in r.packages))
    versions = {}
    for name in dict.fromkeys(packages):
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions
