"""Fakes that make measurements exact, and small networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from upnas.measure.clocks import ClockName, Timing


class CountingNet(nn.Module):
    """Returns its input and counts its forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.num_forwards = 0

    def forward(self, x: Tensor) -> Tensor:
        self.num_forwards += 1
        return x


class FakeClock:
    """Charges each forward of a network what a script says, and really runs it.

    Args:
        nets: The networks that may run.
        cost_ms: (network index, number of its forwards so far) -> milliseconds of this forward.
    """

    name: ClockName = "thread_cpu"

    def __init__(self, nets: Sequence[CountingNet], cost_ms: Callable[[int, int], float]):
        self._nets = nets
        self._cost_ms = cost_ms
        self.order: list[int] = []

    def __call__(self, run: Callable[[], object]) -> Timing:
        before = [net.num_forwards for net in self._nets]
        run()
        ms = 0.0
        for index, net in enumerate(self._nets):
            for number in range(before[index], net.num_forwards):
                ms += self._cost_ms(index, number)
                self.order.append(index)
        return Timing(ms, 2 * ms)
