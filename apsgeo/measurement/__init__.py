"""Measurements of fields, their units, and the contract of every method that samples p(x | y)."""

from apsgeo.measurement.draws import Bias, Draws, Method, NoiseDraws, members_noise, noise_batches
from apsgeo.measurement.family import Family
from apsgeo.measurement.kinds import fit_normals, normals_from
from apsgeo.measurement.measurement import Measurement
from apsgeo.measurement.normals import Normals
from apsgeo.measurement.projected import ProjectedNormals
from apsgeo.measurement.quantiles import Bounds, QuantileNormals, bounds_in
from apsgeo.measurement.valued import ValuedNormals

__all__ = [
    "Bias",
    "Bounds",
    "Draws",
    "Family",
    "Measurement",
    "Method",
    "NoiseDraws",
    "Normals",
    "ProjectedNormals",
    "QuantileNormals",
    "ValuedNormals",
    "bounds_in",
    "fit_normals",
    "members_noise",
    "noise_batches",
    "normals_from",
]
