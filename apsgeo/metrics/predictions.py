"""What a method predicts for each cell: a normal distribution or an ensemble, scored alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from apsgeo.metrics import scores

__all__ = ["EnsemblePrediction", "NormalPrediction", "Prediction"]

Array = NDArray[np.float64]


class Prediction(Protocol):
    """A predictive distribution by cell; all arrays are (T, N) in the unit of the data."""

    def mean(self) -> Array:
        """Return the predicted mean."""

    def variance(self) -> Array:
        """Return the expected squared error of ``mean()``, as the prediction itself sees it."""

    def crps(self, truth: Array) -> Array:
        """Return the continuous ranked probability score of each cell."""

    def covered(self, truth: Array, level: float) -> Array:
        """Say whether the central interval of probability ``level`` holds the truth: 0 to 1."""


@dataclass(frozen=True)
class NormalPrediction:
    """A normal distribution in each cell.

    Attributes:
        location: Means (T, N), in the unit of the data.
        std: Standard deviations (T, N), in the same unit.
    """

    location: Array
    std: Array

    def mean(self) -> Array:
        """Return the mean (T, N)."""
        return self.location

    def variance(self) -> Array:
        """Return the expected squared error of the mean (T, N)."""
        return self.std**2

    def crps(self, truth: Array) -> Array:
        """Return the CRPS (T, N)."""
        return scores.crps_normal(self.location, self.std, truth)

    def covered(self, truth: Array, level: float) -> Array:
        """Say whether the central interval of ``level`` holds the truth (T, N): 0 or 1."""
        half = ndtri((1 + level) / 2) * self.std
        return (np.abs(truth - self.location) <= half).astype(np.float64)


@dataclass(frozen=True)
class EnsemblePrediction:
    """Equally likely members.

    Attributes:
        members: Values (K, T, N) of the members in the unit of the data, K >= 2.
    """

    members: NDArray[np.floating]

    def mean(self) -> Array:
        """Return the mean (T, N)."""
        return self.members.mean(0, dtype=np.float64)

    def variance(self) -> Array:
        """Return the expected squared error of the mean (T, N)."""
        return scores.ensemble_variance(self.members)

    def crps(self, truth: Array) -> Array:
        """Return the CRPS (T, N)."""
        return scores.crps_ensemble(self.members, truth)

    def covered(self, truth: Array, level: float) -> Array:
        """Say whether the central interval of ``level`` holds the truth (T, N): 0 to 1."""
        return scores.covered(self.members, truth, level)
