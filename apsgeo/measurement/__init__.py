"""Measurements of fields, their units, and the contract of every method that samples p(x | y)."""

from apsgeo.measurement.draws import Bias, Draws, Method, NoiseDraws, members_noise, noise_batches
from apsgeo.measurement.family import Family
from apsgeo.measurement.measurement import Measurement
from apsgeo.measurement.normals import Normals
from apsgeo.measurement.quantiles import Bounds, QuantileNormals, bounds_in, normals_from

__all__ = [
    "Bias",
    "Bounds",
    "Draws",
    "Family",
    "Measurement",
    "Method",
    "NoiseDraws",
    "Normals",
    "QuantileNormals",
    "bounds_in",
    "members_noise",
    "noise_batches",
    "normals_from",
]
