"""From records to what is shown: candidates with their values, the front, and what it is worth."""

from upnas.front.compare import Comparison, Ties, compare, ties
from upnas.front.summary import (
    BELOW_TRIVIAL,
    CandidateSummary,
    Estimate,
    HypervolumePoint,
    ReferencePoint,
    Split,
    StudySummary,
    hypervolume_history,
    latency_of,
    minimised,
    quality_on,
    short_label,
    stage_labels,
    summarise,
)

__all__ = [
    "BELOW_TRIVIAL",
    "CandidateSummary",
    "Comparison",
    "Estimate",
    "HypervolumePoint",
    "ReferencePoint",
    "Split",
    "StudySummary",
    "Ties",
    "compare",
    "hypervolume_history",
    "latency_of",
    "minimised",
    "quality_on",
    "short_label",
    "stage_labels",
    "summarise",
    "ties",
]
