"""What runs a network on a target: torch itself, its compilers, exported programs.

A new runtime is one file with a subclass of :class:`~upnas.measure.runtimes.base.Runtime`, one line
in :data:`RUNTIMES` and one word in ``upnas.records.RuntimeName``.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from upnas.measure.runtimes.base import Runtime, Session, random_input
from upnas.measure.runtimes.eager import Eager
from upnas.records import RuntimeName

RUNTIMES: Final[Mapping[RuntimeName, Runtime]] = MappingProxyType(
    {runtime.name: runtime for runtime in (Eager(),)}
)

__all__ = ["RUNTIMES", "Runtime", "Session", "random_input"]
