"""Everything that a candidate costs on a target, without building or running it."""

from __future__ import annotations

from collections.abc import Sequence

from upnas.prediction.encoding import StageIndex
from upnas.prediction.latency import LatencyModel
from upnas.records import Candidate, Costs, StageCost, StageTable


def predict_costs(
    model: LatencyModel, candidates: Sequence[Candidate], reference_ms: float
) -> list[Costs | None]:
    """Predict latency, and work out peak memory and parameters.

    Exportability and the costs that are optional are not predicted.

    Args:
        model: With the stage table of the target.
        candidates: In any number.
        reference_ms: The reference network's own time on the target.

    Returns:
        In the order of the candidates; None for one with a stage that must be measured.
    """
    index = StageIndex(model.table)
    costs: list[Costs | None] = []
    latencies = model.predict(candidates, reference_ms)
    for candidate, latency in zip(candidates, latencies, strict=True):
        stages = None if latency is None else index.costs(candidate)
        peak_bytes = None if stages is None else _peak_bytes(model.table, stages)
        if stages is None or peak_bytes is None:
            costs.append(None)
            continue
        costs.append(
            Costs(
                target=model.table.target,
                predicted=latency,
                peak_memory_mib=peak_bytes / 2**20,
                num_parameters=model.table.num_parameters
                + sum(stage.num_parameters for stage in stages),
                machine=model.table.machine,
            )
        )
    return costs


def predicted_peak_bytes(table: StageTable, candidate: Candidate) -> int | None:
    """Work out the peak of live tensor bytes of one forward; None where it must be measured.

    All weights and buffers, and the activations of the stage that has most of them. Exact where
    what is alive during a stage depends on the upsampler of that stage alone. So it is in the
    U-Net, whose stages hand on the output of a convolution, and for a single stage. Where an
    upsampler reads another one's output, as in the super-resolution network from x4 on, two things
    can differ: some make channels_last maps, for which the next one can take a path that needs
    more, and an upsampler of a third party may return a view of a larger tensor.
    """
    stages = StageIndex(table).costs(candidate)
    return None if stages is None else _peak_bytes(table, stages)


def _peak_bytes(table: StageTable, stages: Sequence[StageCost]) -> int | None:
    activations = [stage.activation_bytes for stage in stages]
    known = [count for count in activations if count is not None]
    if len(known) < len(activations):
        return None
    return table.static_bytes + sum(stage.static_bytes for stage in stages) + max(known)
