"""Climatology: what is known before looking at any other cell."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from apsgeo.baselines.base import Array, LinearBaseline

__all__ = ["Climatology"]


class Climatology(LinearBaseline):
    """Predict each cell by its normal for the season, and by its own observation if it has one.

    The Gaussian posterior of independent cells: covariance I in standardized anomalies.
    """

    name: ClassVar[str] = "climatology"

    def posterior(
        self, values: Array, mask: NDArray[np.bool_], noise_std: Array
    ) -> tuple[Array, Array]:
        """Return mean and standard deviation (N,) given one record's (N,) in anomalies."""
        gain = np.where(mask, 1.0 / (1.0 + noise_std**2), 0.0)
        return gain * values, np.sqrt(1.0 - gain)
