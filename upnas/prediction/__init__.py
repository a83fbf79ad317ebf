"""What candidates cost, worked out from the costs of single stages and from measured candidates.

A space has more candidates than can be measured, but few stages and options: timed one by one
(:mod:`upnas.measure.stages.table`), they predict every candidate. :class:`LatencyModel` learns from
measured candidates where the sum of the stages is wrong, states an interval, and audits both
against measurements that it has not seen. :func:`verdict_on` and :func:`is_surely_dominated` say
whether an interval is narrow enough for a decision; a candidate is measured where it is not.

NumPy, SciPy and records alone: nothing here loads torch.
"""

from __future__ import annotations

from upnas.prediction.audit import Audit
from upnas.prediction.costs import predict_costs, predicted_peak_bytes
from upnas.prediction.decide import Verdict, is_surely_dominated, verdict_on
from upnas.prediction.kernel import Deviations
from upnas.prediction.latency import LatencyModel, Observation

__all__ = [
    "Audit",
    "Deviations",
    "LatencyModel",
    "Observation",
    "Verdict",
    "is_surely_dominated",
    "predict_costs",
    "predicted_peak_bytes",
    "verdict_on",
]
