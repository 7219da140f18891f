"""What was measured of a field, and in which units."""

from apsgeo.measurement.measurement import Measurement
from apsgeo.measurement.normals import Normals

__all__ = ["Measurement", "Normals"]
