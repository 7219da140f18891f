"""Is a posterior right? With simulated truth by calibration; without, by importance weights."""

from apsgeo.diagnostics.calibration import (
    Uniformity,
    rank_histogram,
    ranks,
    reliability,
    tarp_ranks,
    uniformity,
)
from apsgeo.diagnostics.importance import ImportanceWeights, generalized_pareto, importance_weights

__all__ = [
    "ImportanceWeights",
    "Uniformity",
    "generalized_pareto",
    "importance_weights",
    "rank_histogram",
    "ranks",
    "reliability",
    "tarp_ranks",
    "uniformity",
]
