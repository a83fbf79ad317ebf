"""Ends Ray's agents after a driver that was killed: a program of its own, without imports of upnas.

Ray's agents try for a minute to tell a control store that died with the driver that their parent is
gone. This waits for the end of its input, which is the driver's end, however it comes, and then
kills those of the given processes that are still the same.

Usage: ``python -I orphan_watch.py PID:START_TIME ...``
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

_GRACE_S = 3.0  # they end by themselves where Ray was shut down


def start_time(pid: int) -> str | None:
    """When a process started, in ticks since boot: tells it from a later one of the same number."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:
        return None


def main(processes: list[str]) -> None:
    """Wait, then kill."""
    sys.stdin.read()
    time.sleep(_GRACE_S)
    for process in processes:
        pid, _, started = process.partition(":")
        if start_time(int(pid)) == started:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
