"""The instrument: everything that a network costs on one target, in one record."""

from __future__ import annotations

import copy
import logging
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn

from upnas.errors import TargetError, first_line
from upnas.measure.export.numerics import output_error
from upnas.measure.export.probe import probe_candidate
from upnas.measure.fingerprint import machine_fingerprint
from upnas.measure.gate import StudyGates
from upnas.measure.memory.device import device_memory
from upnas.measure.memory.process import ProcessRuntime, process_peak_rss_mib
from upnas.measure.memory.tensors import (
    num_parameters,
    peak_memory_bytes,
    training_peak_memory_bytes,
)
from upnas.measure.runtimes import RUNTIMES, Session, random_input
from upnas.measure.runtimes.base import DTYPES, ExportedSession, target_model
from upnas.measure.targets import check_target
from upnas.measure.timing.latency import (
    DEFAULT_SETTINGS,
    LatencySettings,
    measure_latency,
    measure_reference,
)
from upnas.records import (
    OPTIONAL_COSTS,
    Costs,
    DeviceMemory,
    Latency,
    PredictedLatency,
    Target,
    TargetReference,
)

logger = logging.getLogger(__name__)


class Instrument:
    """Measures networks on one target, in pairs with one reference network.

    Keeps the reference ready on the target, which may have taken a compilation: make one per
    target and process, and hold on to it.

    Args:
        reference: The study's reference network; takes (batch, *target.input).
        target: Where to measure.

    Raises:
        TargetError: If this machine cannot serve the target.
    """

    def __init__(self, reference: nn.Module, target: Target):
        check_target(target)
        self.target = target
        self.machine = machine_fingerprint(target)
        self._reference = reference.eval()
        self._runtime = RUNTIMES[target.runtime]
        self._open = ExitStack()
        self._ready: Session | None = None

    def close(self) -> None:
        """Let go of the reference."""
        self._open.close()
        self._ready = None

    def time_reference(self, gates: StudyGates) -> TargetReference:
        """Time the reference alone, once for a study.

        Raises:
            TargetError: If the target cannot run the reference.
        """
        try:
            session = self._reference_session(gates)
        except Exception as error:
            raise TargetError(
                f"Target {self.target.name!r}: runtime {self.target.runtime!r} cannot run the "
                f"reference network: {first_line(error)}."
            ) from error
        with gates.of(self.target.device).exclusive():
            return measure_reference(session, self.target, machine=self.machine)

    def measure(
        self,
        model: nn.Module,
        calm: TargetReference,
        gates: StudyGates,
        *,
        export_formats: Sequence[str] = (),
        optional: Collection[str] = OPTIONAL_COSTS,
        settings: LatencySettings = DEFAULT_SETTINGS,
    ) -> Costs:
        """Measure a network.

        Works on copies in eval mode: the network is not changed, and may lie on any device. The
        device is held exclusively while the network is timed, and not longer.

        Args:
            model: Takes (batch, *target.input).
            calm: From :meth:`time_reference`.
            gates: Of the devices of the study.
            export_formats: Formats to probe, see :mod:`upnas.measure.export.probe`.
            optional: Which of ``OPTIONAL_COSTS`` to work out.
            settings: Precision and effort of the latency.

        Raises:
            BusyDeviceError: If the settings are strict and other programs used the device.
            torch.OutOfMemoryError: If the network does not fit on the device.
        """
        with gates.shared():
            costs = self.without_latency(model, export_formats=export_formats, optional=optional)
        self._reference_session(gates)
        with ExitStack() as stack:
            held_bytes = self._held_bytes()
            try:
                with gates.shared():
                    session = stack.enter_context(self._runtime.session(model, self.target))
                    error = self._output_error(model, session)
            except (torch.OutOfMemoryError, MemoryError):
                raise
            except Exception as reason:  # whatever a runtime raises is the answer
                return costs.model_copy(update={"unserved": first_line(reason)})
            rss = None
            if "process_peak_rss_mib" in optional and isinstance(session, ExportedSession):
                with gates.shared():
                    rss = self._process_memory(session)
            latency, memory = self._time(session, calm, gates, settings, held_bytes)
        return costs.model_copy(
            update={
                "latency": latency,
                "device_memory": memory,
                "output_error": error,
                "process_peak_rss_mib": rss,
            }
        )

    def predicted(
        self,
        model: nn.Module,
        latency: PredictedLatency,
        gates: StudyGates,
        *,
        export_formats: Sequence[str] = (),
        optional: Collection[str] = (),
    ) -> Costs:
        """The costs with a latency that was predicted: nothing runs on the device."""
        with gates.shared():
            costs = self.without_latency(model, export_formats=export_formats, optional=optional)
        return costs.model_copy(update={"predicted": latency})

    def without_latency(
        self, model: nn.Module, *, export_formats: Sequence[str], optional: Collection[str]
    ) -> Costs:
        """What needs no forward on the target; hold the gates in shared mode."""
        shape, placed = self.target.input_shape, target_model(model, self.target)
        counted: dict[str, Any] = {
            "dtype": DTYPES[self.target.dtype],
            "memory_format": torch.channels_last
            if self.target.memory_format == "channels_last"
            else torch.contiguous_format,
        }
        training = None
        if "training_peak_memory_mib" in optional:
            training = _training_peak_mib(placed, shape, counted)
        outcomes = probe_candidate(model, shape, export_formats, reference=self._reference)
        return Costs(
            target=self.target.name,
            peak_memory_mib=peak_memory_bytes(placed, shape, **counted) / 2**20,
            training_peak_memory_mib=training,
            num_parameters=num_parameters(model),
            exportable=tuple(outcomes.items()),
            machine=self.machine,
        )

    def _reference_session(self, gates: StudyGates) -> Session:
        if self._ready is None:
            with gates.shared():
                session = self._runtime.session(self._reference, self.target)
                self._ready = self._open.enter_context(session)
        return self._ready

    def _output_error(self, model: nn.Module, session: Session) -> float:
        """How far the target's output is from eager float32 on the CPU."""
        exact = copy.deepcopy(model).float().cpu().eval()
        with torch.inference_mode():
            expected = exact(random_input(self.target.input_shape))
        return output_error(session.output(), expected)

    def _process_memory(self, session: ExportedSession) -> float | None:
        """Of a fresh process; None for a runtime on a GPU, whose memory is not the process's."""
        if self.target.device != "cpu":
            return None
        runtime: ProcessRuntime = "openvino" if self.target.runtime == "openvino" else "onnxruntime"
        shape, threads = self.target.input_shape, self.target.threads
        try:
            return process_peak_rss_mib(session.program, shape, threads, runtime)
        except TargetError as error:  # the candidate's fault: this process has run it
            logger.info("No peak of a process of its own: %s", error)
            return None

    def _held_bytes(self) -> int:
        """What torch's allocator holds on the GPU before the candidate, the reference above all."""
        if self.target.device != "cuda":
            return 0
        return int(torch.cuda.memory_allocated())

    def _time(
        self,
        session: Session,
        calm: TargetReference,
        gates: StudyGates,
        settings: LatencySettings,
        held_bytes: int,
    ) -> tuple[Latency, DeviceMemory | None]:
        memory, reference = None, self._reference_session(gates)
        with gates.of(self.target.device).exclusive():
            latency = measure_latency(session, reference, self.target, calm=calm, settings=settings)
            if self.target.device == "cuda":
                memory = device_memory(session.run, self.target.device)
                own_mib = max(0.0, memory.allocated_mib - held_bytes / 2**20)
                memory = memory.model_copy(update={"allocated_mib": own_mib})
        return latency, memory


def _training_peak_mib(
    model: nn.Module, shape: Sequence[int], counted: dict[str, Any]
) -> float | None:
    """None for a network that cannot be trained: without parameters, or with classes as output."""
    try:
        return training_peak_memory_bytes(model, shape, **counted) / 2**20
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:
        logger.info("No training peak of %s: %s", type(model).__name__, first_line(error))
        return None
