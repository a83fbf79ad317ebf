"""A gate per device: many may train at once, or one may measure, never both.

Trials that train share the gate for one batch at a time; a measurement takes it exclusively and
waits for the running batches only. Two ``flock`` files make it fair: every entry passes the
*turn* file before the *room* file, and whoever measures keeps the turn, so that new batches queue
up behind it and cannot starve it.

The gate is cooperative: it holds back the processes of one user on one machine that use it, and
nothing else. The kernel releases the locks of a process that dies, whatever killed it.

Cost: one shared entry takes about 10 microseconds. Torch is loaded only for CUDA devices.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

_FLAGS: Final = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW
_inside = threading.local()  # .gates: the gates that this thread has entered


class DeviceGate:
    """Readers/writer gate of one device, shared by all processes of this user on this machine.

    The gate holds no open file: it can be pickled, used from several threads, and survives a
    fork. It is not re-entrant: a thread inside a gate must leave it before it enters the same
    device's gate again, because the inner entry could wait for ever behind a measurement that
    waits for the outer one.

    Args:
        device: ``"cpu"`` (the whole machine), ``"cuda"`` or ``"cuda:<index>"``. CUDA devices are
            told apart by UUID, so that processes that number them differently agree.
        folder: Where the lock files lie; node-local and the same for all processes. None means
            the temporary folder.
    """

    def __init__(self, device: str, folder: Path | None = None):
        self._cuda = device if device.startswith("cuda") else None
        folder = Path(tempfile.gettempdir()) if folder is None else folder
        stem = f"upnas-{os.getuid()}-{_device_id(device)}"
        self._turn = folder / f"{stem}.turn"
        self._room = folder / f"{stem}.room"

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold off measurements, for one training or evaluation batch.

        On CUDA it leaves only after the device has finished what was queued on it.

        Raises:
            RuntimeError: If this thread is inside this gate already.
        """
        with self._entry():
            with _locked(self._turn, fcntl.LOCK_SH):
                room = _lock(self._room, fcntl.LOCK_SH)
            try:
                yield
            finally:
                try:
                    self._synchronize()
                finally:
                    _unlock(room)

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """Be alone on the device, for one measurement.

        Raises:
            RuntimeError: If this thread is inside this gate already.
        """
        with (
            self._entry(),
            _locked(self._turn, fcntl.LOCK_EX),
            _locked(self._room, fcntl.LOCK_EX),
        ):
            yield

    def _synchronize(self) -> None:
        if self._cuda is not None:
            import torch

            torch.cuda.synchronize(self._cuda)

    @contextmanager
    def _entry(self) -> Iterator[None]:
        """Turn what would be a deadlock into an error."""
        gates: set[Path] = _inside.__dict__.setdefault("gates", set())
        if self._room in gates:
            raise RuntimeError(
                f"This thread is inside the gate {self._room.name} already; a DeviceGate is not "
                "re-entrant. Leave shared() or exclusive() before entering again."
            )
        gates.add(self._room)
        try:
            yield
        finally:
            gates.discard(self._room)


class StudyGates:
    """The gates of all devices that a study measures on: its trials compute inside all of them.

    Args:
        devices: Of the study's targets; at least one.
        first: The gate of the first device; made where absent.
    """

    def __init__(self, devices: Sequence[str], first: DeviceGate | None = None):
        self._gates = {device: DeviceGate(device) for device in {*devices} - {devices[0]}}
        self._gates[devices[0]] = DeviceGate(devices[0]) if first is None else first

    def of(self, device: str) -> DeviceGate:
        """The gate of one device."""
        return self._gates[device]

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Hold while computing."""
        with ExitStack() as stack:
            for device in sorted(self._gates):  # always in this order, or two studies could lock up
                stack.enter_context(self._gates[device].shared())
            yield


def _device_id(device: str) -> str:
    if not device.startswith("cuda"):
        return device
    import torch

    return f"cuda-{torch.cuda.get_device_properties(torch.device(device)).uuid}"


def _lock(path: Path, operation: int) -> int:
    descriptor = os.open(path, _FLAGS, mode=0o600)
    try:
        fcntl.flock(descriptor, operation)
    except BaseException:  # e.g. KeyboardInterrupt while it waits
        os.close(descriptor)
        raise
    return descriptor


def _unlock(descriptor: int) -> None:
    # Explicitly: a child forked meanwhile (a data loader's worker) has the file open as well, and
    # closing our descriptor alone would leave the lock with the child.
    fcntl.flock(descriptor, fcntl.LOCK_UN)
    os.close(descriptor)


@contextmanager
def _locked(path: Path, operation: int) -> Iterator[None]:
    descriptor = _lock(path, operation)
    try:
        yield
    finally:
        _unlock(descriptor)
