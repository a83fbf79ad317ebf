"""Optuna's samplers by the words of the YAML."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Final

import optuna

from upnas.errors import SpaceError

SAMPLERS: Final = ("auto", "tpe", "nsga2", "gp", "random")

#: System attributes of trials that are added as known. NSGA-II takes parents only from trials that
#: carry a generation, so without it a resumed search would start from random candidates again.
KNOWN_TRIAL_ATTRIBUTES: Final[Mapping[str, int]] = {"NSGAIISampler:generation": 0}


def make_sampler(name: str, seed: int, num_trials: int) -> optuna.samplers.BaseSampler:
    """Create a sampler; "auto" is multivariate TPE, the best of Optuna's at these budgets.

    Raises:
        SpaceError: If the name is unknown.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        match name:
            case "auto" | "tpe":
                return optuna.samplers.TPESampler(
                    seed=seed,
                    multivariate=True,
                    group=True,  # conditional parameters are modelled within their own branch
                    n_startup_trials=max(5, min(15, num_trials // 4)),
                )
            case "nsga2":
                return optuna.samplers.NSGAIISampler(
                    seed=seed, population_size=max(4, min(50, num_trials // 4))
                )
            case "gp":
                return optuna.samplers.GPSampler(
                    seed=seed,
                    n_startup_trials=max(5, min(15, num_trials // 4)),
                )
            case "random":
                return optuna.samplers.RandomSampler(seed=seed)
    raise SpaceError(f"search.sampler: unknown sampler {name!r}. Allowed: {', '.join(SAMPLERS)}.")
