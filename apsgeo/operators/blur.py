"""The heat kernel of a domain's Laplacian: a Gaussian blur that means the same everywhere."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.base import Operator
from apsgeo.operators.laplacian import LaplacianFunction, series_of
from apsgeo.operators.linear import LinearMap

__all__ = ["GaussianBlur"]

Array = NDArray[np.float64]

HEAT_TOLERANCE = 1e-8
"""Largest error of the approximation of exp(-z), at any z >= 0, hence of any eigenvalue."""


@dataclass(frozen=True)
class GaussianBlur(Operator):
    r"""Observe :math:`e^{t \Delta} x` at every node, with the domain's own Laplacian.

    In the plane, heat that spreads for the time t = length² / 2 turns a point into a Gaussian
    whose standard deviation is `length`. On a sphere or a mesh it does what a Gaussian would. The
    area-weighted mean of a signal is kept.

    Attributes:
        length_km: The standard deviation in km, or in the unit of a domain whose `radius_km` is
            one: pixels of an image.
    """

    length_km: float
    kind: ClassVar[str] = "gaussian-blur"

    def __post_init__(self) -> None:
        if not 0.0 < self.length_km < np.inf:
            raise InputError(f"GaussianBlur(length_km={self.length_km}): give a positive length.")

    def on(self, domain: Domain) -> HeatMap:
        """Return the heat kernel; one sparse factorization."""
        return HeatMap(domain, 0.5 * (self.length_km / domain.radius_km) ** 2)


@lru_cache(maxsize=1)
def _heat_series() -> tuple[float, Array]:
    r"""Return a pole, and the series of exp(-z) in (z - pole) / (z + pole).

    The series has the least degree n whose error is below `HEAT_TOLERANCE` for all z >= 0. With
    the pole n / √2 the error falls by a factor of about 1 + √2 with each degree (Andersson 1981,
    *Approximation of e^{-x} by rational functions with concentrated negative poles*).
    """
    for degree in range(4, 100):
        pole = degree / math.sqrt(2.0)
        series = series_of(lambda z: np.exp(-z), pole, HEAT_TOLERANCE)
        if series is not None and len(series) <= degree + 1:
            return pole, series
    raise AssertionError("exp(-z) is not approximated")  # not reached: a fact about exp


class HeatMap(LinearMap):
    """exp(-t M^{-1} S) with the areas M and the stiffness S; see `LaplacianFunction`.

    Eigenvalues are exact to `HEAT_TOLERANCE`.
    """

    def __init__(self, domain: Domain, time: float) -> None:
        super().__init__(domain.num_nodes, domain.num_nodes, domain)
        self._time = time
        pole, series = _heat_series()
        self._kernel = LaplacianFunction(domain, series, pole / time)

    def _forward(self, signal: Array) -> Array:
        columns = signal.transpose(1, 0, 2).reshape(self.num_nodes, -1)
        out = self._kernel(columns)
        return out.reshape(self.num_nodes, signal.shape[0], -1).transpose(1, 0, 2)

    def _backward(self, values: Array) -> Array:
        areas = self._kernel.areas
        return areas * self._forward(values / areas)

    def response(self, eigenvalues: Array) -> Array:
        """Return exp(-t λ)."""
        return np.exp(-self._time * eigenvalues)
