"""What is kept of an ensemble whose members are not: each statistic from one pass over them."""

from apsgeo.statistics.areas import AreaMean, Box
from apsgeo.statistics.density import EffectiveSampleSize, LogDensity
from apsgeo.statistics.moments import Mean, Std
from apsgeo.statistics.names import statistics_of
from apsgeo.statistics.order import Quantile
from apsgeo.statistics.probability import Exceedance
from apsgeo.statistics.statistic import Accumulator, Output, Site, Statistic

__all__ = [
    "Accumulator",
    "AreaMean",
    "Box",
    "EffectiveSampleSize",
    "Exceedance",
    "LogDensity",
    "Mean",
    "Output",
    "Quantile",
    "Site",
    "Statistic",
    "Std",
    "statistics_of",
]
