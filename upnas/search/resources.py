"""How many trials run at a time and what each gets, derived where the YAML does not say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


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
    *,
    num_cpus: int,
    num_gpus: float,
    concurrency: int | Literal["auto"],
    cpus_per_trial: int | Literal["auto"],
    gpus_per_trial: float | Literal["auto"],
) -> Resources:
    """Fill in what the YAML leaves to "auto".

    One thread per trial and one trial per CPU gives the most trained steps per second: on small
    proxy networks a second thread gains less than it costs the neighbour. Where there are GPUs,
    each trial gets one, and the CPUs are shared out among them.
    """
    gpus = (1.0 if num_gpus >= 1 else 0.0) if gpus_per_trial == "auto" else float(gpus_per_trial)
    slots = int(num_gpus / gpus) if gpus > 0 else num_cpus
    if cpus_per_trial == "auto":
        cpus = max(1, num_cpus // max(1, slots))
    else:
        cpus = int(cpus_per_trial)
    fitting = max(1, min(slots, num_cpus // cpus))
    chosen = fitting if concurrency == "auto" else int(concurrency)
    source = f"{num_cpus} CPUs, {num_gpus:g} GPUs"
    reason = (
        f"{chosen} trials at a time with {cpus} CPU{'s' if cpus > 1 else ''}"
        + (f" and {gpus:g} GPU" if gpus else "")
        + (f" each: {source}" if concurrency == "auto" else f" each: search.concurrency; {source}")
    )
    return Resources(min(chosen, fitting), cpus, gpus, reason)
