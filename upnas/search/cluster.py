"""Starts Ray on this machine or joins a cluster, quietly."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import ray

from upnas.errors import StudyError
from upnas.measure.environment import available_cpus
from upnas.search import orphan_watch
from upnas.search.orphan_watch import start_time
from upnas.search.resources import Node

# Read when Ray starts and when Tune runs.
_ENVIRONMENT: Final = {
    "RAY_USAGE_STATS_ENABLED": "0",  # no reports to the outside
    "RAY_AIR_NEW_OUTPUT": "0",  # the old output is silent at verbose=0, the new one is not
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # no CSV, JSON and TensorBoard files of Tune's own
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is the driver's
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",  # a failed trial is a record
}
_CONNECT_TIMEOUT_S: Final = 10.0
_ADVICE: Final = (
    "Start a cluster with `ray start --head` and give its address, or leave --address out to run "
    "on this machine."
)


@contextmanager
def connected(address: str | None) -> Iterator[list[Node]]:
    """Be connected to Ray for the time of the block; gives the nodes that are there.

    Args:
        address: Of a running cluster ("auto" finds one), or None for a private one here.

    Raises:
        StudyError: If the cluster does not answer.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    watch = None
    if address is None:
        _start_here()
        watch = _watch_agents()
    else:
        _join(address)
    try:
        found = ray.nodes()  # type: ignore[no-untyped-call]
        offers = [node["Resources"] for node in found if node["Alive"]]
        yield [Node(int(offer.get("CPU", 0)), float(offer.get("GPU", 0))) for offer in offers]
    finally:
        ray.shutdown()
        if watch is not None:
            watch.kill()
            watch.communicate()


def _watch_agents() -> subprocess.Popen[bytes]:
    """Have Ray's agents on this machine ended soon after this process, even if it is killed."""
    agents = [agent for child in _children(os.getpid()) for agent in _children(child)]
    marks = [f"{pid}:{started}" for pid in agents if (started := start_time(pid)) is not None]
    command = [sys.executable, "-I", orphan_watch.__file__, *marks]
    # In a session of its own: Ctrl-C in the terminal is not for it.
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _children(parent: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):  # gone meanwhile
            if entry.name.isdecimal():
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                found += [int(entry.name)] if int(fields[1]) == parent else []
    return found


def _start_here() -> None:
    try:
        # "local" never joins a cluster that somebody else started on this machine.
        _init(address="local", num_cpus=available_cpus(), include_dashboard=False)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        raise StudyError(f"Ray did not start on this machine: {error}.") from error


def _join(address: str) -> None:
    _check_answers(address)
    try:
        _init(address=address)
    except (ConnectionError, TimeoutError, ValueError, RuntimeError) as error:
        raise StudyError(
            f"--address {address}: no Ray cluster answers there: {error}. {_ADVICE}"
        ) from error


def _init(**where: Any) -> None:
    ray.init(log_to_driver=False, logging_level=logging.ERROR, **where)


def _check_answers(address: str) -> None:
    """Ray would try for minutes before it says that nothing answers."""
    if address == "auto":
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise StudyError(
            f"--address {address!r}: not an address. Allowed: host:port of a running Ray cluster, "
            f"or 'auto'. {_ADVICE}"
        )
    try:
        socket.create_connection((host, int(port)), timeout=_CONNECT_TIMEOUT_S).close()
    except (OSError, OverflowError) as error:
        raise StudyError(
            f"--address {address}: no Ray cluster answers there: {error}. {_ADVICE}"
        ) from error
