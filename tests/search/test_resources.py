"""Trials at a time, and what each gets."""

from __future__ import annotations

from typing import Any

import pytest

from upnas.errors import StudyError
from upnas.search.resources import Node, derive_resources

AUTO = {"concurrency": "auto", "cpus_per_trial": "auto", "gpus_per_trial": "auto"}


@pytest.mark.parametrize(
    ("nodes", "wanted", "expected"),
    [
        ([Node(2)], {}, (2, 1, 0)),
        ([Node(8)], {"concurrency": 3}, (3, 1, 0)),
        ([Node(8)], {"cpus_per_trial": 4}, (2, 4, 0)),
        ([Node(8)], {"cpus_per_trial": 3, "concurrency": 9}, (2, 3, 0)),
        ([Node(16, 1)], {}, (1, 16, 1)),
        ([Node(16, 1)], {"gpus_per_trial": 0.5}, (2, 8, 0.5)),
        ([Node(16, 1)], {"gpus_per_trial": 0.0}, (16, 1, 0)),
        ([Node(3, 4)], {}, (3, 1, 1)),
        # A head without a GPU lends no CPUs to trials that must run beside a GPU elsewhere.
        ([Node(64), Node(8, 4)], {}, (4, 2, 1)),
        ([Node(16, 2), Node(4, 2)], {}, (4, 2, 1)),
        # Three trials of two CPUs do not fit on nodes of three.
        ([Node(3), Node(3)], {"cpus_per_trial": 2}, (2, 2, 0)),
        ([Node(0), Node(2), Node(2)], {}, (4, 1, 0)),
    ],
)
def test_derivation(
    nodes: list[Node], wanted: dict[str, Any], expected: tuple[int, int, float]
) -> None:
    resources = derive_resources(nodes, **(AUTO | wanted))
    assert (resources.concurrency, resources.cpus, resources.gpus) == expected


def test_reason_says_what_and_why() -> None:
    resources = derive_resources([Node(8)], **(AUTO | {"concurrency": 3}))  # type: ignore[arg-type]
    assert resources.reason == (
        "3 trials at a time with 1 CPU each: 8 CPUs and 0 GPUs, search.concurrency 3"
    )


@pytest.mark.parametrize(
    ("nodes", "wanted"),
    [
        ([Node(2)], {"cpus_per_trial": 4}),
        ([Node(2)], {"gpus_per_trial": 1.0}),
        ([Node(3), Node(3)], {"cpus_per_trial": 4}),
    ],
)
def test_trial_that_fits_nowhere_is_refused(nodes: list[Node], wanted: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=r"no trial can start.*Lower search\.cpus_per_trial"):
        derive_resources(nodes, **(AUTO | wanted))
