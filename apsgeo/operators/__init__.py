"""How a signal was measured: y = A x + n."""

from apsgeo.operators.mask import Mask
from apsgeo.operators.measurement import Measurement

__all__ = ["Mask", "Measurement"]
