"""How many trials run at a time and what each gets, derived where the YAML does not say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from upnas.errors import StudyError


class Node(NamedTuple):
    """What one machine of the cluster offers."""

    cpus: int
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Resources:
    """What one trial gets and how many run at a time.

    Attributes:
        concurrency: Trials at a time.
        cpus: CPUs, and compute threads, of one trial.
        gpus: GPUs of one trial; fractions share a GPU.
        reason: Why, in one line for the log.
    """

    concurrency: int
    cpus: int
    gpus: float
    reason: str


def derive_resources(
    nodes: Sequence[Node],
    *,
    concurrency: int | Literal["auto"],
    cpus_per_trial: int | Literal["auto"],
    gpus_per_trial: float | Literal["auto"],
) -> Resources:
    """Fill in what the YAML leaves to "auto".

    One thread per trial and one trial per CPU gives the most trained steps per second: on small
    proxy networks a second thread gains less than it costs the neighbour. Where there are GPUs,
    each trial gets one, and the CPUs of a node are shared out among its GPUs.

    Raises:
        StudyError: If no node could ever run a trial.
    """
    gpus = float(any(node.gpus >= 1 for node in nodes))
    if gpus_per_trial != "auto":
        gpus = float(gpus_per_trial)
    cpus = _cpu_share(nodes, gpus) if cpus_per_trial == "auto" else int(cpus_per_trial)
    fitting = sum(_slots(node, cpus, gpus) for node in nodes)
    offered = _plural(sum(node.cpus for node in nodes), "CPU")
    offered += f" and {_plural(sum(node.gpus for node in nodes), 'GPU')}"
    offered += f" on {len(nodes)} nodes" if len(nodes) > 1 else ""
    wanted = _plural(cpus, "CPU") + (f" and {_plural(gpus, 'GPU')}" if gpus else "")
    if fitting == 0:
        raise StudyError(
            f"no trial can start: each wants {wanted}, and there are {offered}"
            f"{', of which no node has enough' if len(nodes) > 1 else ''}. "
            "Lower search.cpus_per_trial or search.gpus_per_trial."
        )
    chosen = fitting if concurrency == "auto" else min(int(concurrency), fitting)
    reason = f"{_plural(chosen, 'trial')} at a time with {wanted} each: {offered}"
    if concurrency != "auto":
        reason += f", search.concurrency {concurrency}"
    return Resources(chosen, cpus, gpus, reason)


def _slots(node: Node, cpus: int, gpus: float) -> int:
    """How many trials fit on a node."""
    by_cpu = node.cpus // cpus
    return min(by_cpu, int(node.gpus / gpus)) if gpus else by_cpu


def _cpu_share(nodes: Sequence[Node], gpus: float) -> int:
    """The CPUs of one trial: one without GPUs, else what the tightest GPU node can give."""
    if not gpus:
        return 1
    shares = [node.cpus // int(node.gpus / gpus) for node in nodes if node.gpus >= gpus]
    return max(1, min(shares, default=1))


def _plural(count: float, noun: str) -> str:
    return f"{count:g} {noun}{'' if count == 1 else 's'}"
