"""What trained posteriors are compared with, one method a file.

A baseline takes `Observations` in the unit of the data and predicts every node. To add one, write
its file, name it in `BASELINES`, and give the shared tests in tests/baselines/test_baselines.py its
covariance.
"""

from apsgeo.baselines.base import LinearBaseline, Method, Observations
from apsgeo.baselines.climatology import Climatology
from apsgeo.baselines.eof import EofInterpolation
from apsgeo.baselines.hybrid import HybridGaussian
from apsgeo.baselines.kriging import Kriging

__all__ = [
    "BASELINES",
    "Climatology",
    "EofInterpolation",
    "HybridGaussian",
    "Kriging",
    "LinearBaseline",
    "Method",
    "Observations",
]

BASELINES = (Climatology, EofInterpolation, Kriging, HybridGaussian)
