"""The gates of a study that measures on several devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

import upnas.measure.gate
from upnas.measure.gate import DeviceGate, StudyGates


class Spy(DeviceGate):
    """A gate of any name that notes when it is entered and left."""

    def __init__(self, device: str, folder: Path, events: list[str]):
        folder.mkdir(exist_ok=True)
        super().__init__("cpu", folder)
        self._name = device
        self._events = events

    @contextmanager
    def shared(self) -> Iterator[None]:
        with super().shared():
            self._events.append(f"+{self._name}")
            try:
                yield
            finally:
                self._events.append(f"-{self._name}")


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What happened to the gates that are made from now on."""
    events: list[str] = []
    monkeypatch.setattr(
        upnas.measure.gate, "DeviceGate", lambda device: Spy(device, tmp_path / device, events)
    )
    return events


@pytest.mark.parametrize("devices", [("cpu", "cuda"), ("cuda", "cpu"), ("cuda", "cpu", "cuda")])
def test_all_gates_are_entered_in_one_order(devices: Sequence[str], events: list[str]) -> None:
    gates = StudyGates(devices)
    with gates.shared():
        assert events == ["+cpu", "+cuda"]
    assert events[2:] == ["-cuda", "-cpu"]


def test_one_gate_per_device(events: list[str], tmp_path: Path) -> None:
    first = DeviceGate("cpu", tmp_path)
    gates = StudyGates(["cpu", "cuda", "cpu"], first)
    assert gates.of("cpu") is first
    assert isinstance(gates.of("cuda"), Spy)
    with pytest.raises(KeyError):
        gates.of("mps")
    with gates.of("cpu").exclusive():  # the other device's trainings go on
        assert events == []
        with gates.of("cuda").shared():
            pass


def test_the_first_gate_may_be_made_here(events: list[str]) -> None:
    gates = StudyGates(["cuda"])
    with gates.shared():
        assert events == ["+cuda"]


def test_nesting_is_an_error_that_leaves_no_gate_closed(events: list[str], tmp_path: Path) -> None:
    gates = StudyGates(["cpu", "cuda"])
    with gates.shared():
        with pytest.raises(RuntimeError, match="not re-entrant"), gates.shared():
            pass
        for device in ("cpu", "cuda"):
            exclusive = gates.of(device).exclusive()
            with pytest.raises(RuntimeError, match="not re-entrant"), exclusive:
                pass
    with gates.of("cuda").exclusive():
        with pytest.raises(RuntimeError, match="not re-entrant"), gates.shared():
            pass
        with gates.of("cpu").exclusive():  # which the failed entry had entered first
            pass
