"""Matern fields on a domain, through the sparse precision of an elliptic operator."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.sparse as sp

from apsgeo.domains.base import Domain
from apsgeo.linalg import Cholesky, Dissection

__all__ = ["MaternField"]

_MATERN_NU = 1.0  # alpha = nu + d/2 = 2 on a surface


class MaternField:
    r"""A Matern field (smoothness nu = 1) on a domain, of unit variance up to discretization.

    It solves (kappa^2 - Laplacian) v = white noise, discretized by finite volumes: with areas
    W and stiffness G, K = kappa^2 W + G and v = K^{-1} W^{1/2} e, so that its precision
    K W^{-1} K is sparse (Lindgren, Rue & Lindstrom 2011, https://doi.org/10.1111/j.1467-9868.2011.00777.x).
    `range_km` is sqrt(8 nu) / kappa, the distance at which the correlation is about 0.14;
    `variance` (node,) spares its computation where it is known.
    """

    def __init__(self, domain: Domain, range_km: float, variance: np.ndarray | None = None) -> None:
        self.domain = domain
        self._variance = variance
        self.range_km = float(range_km)
        self.kappa = np.sqrt(8.0 * _MATERN_NU) * domain.radius_km / self.range_km
        areas = domain.areas.numpy()
        self._root_areas = np.sqrt(areas)
        operator = (domain.stiffness + self.kappa**2 * sp.diags(areas)).tocsc()
        # The planar Matern field that this operator makes has variance 1 / (4 pi kappa^2).
        self._amplitude = np.sqrt(4.0 * np.pi) * self.kappa
        self._factor = Cholesky(operator, Dissection(operator, domain.positions.numpy()))
        self.precision: sp.csc_matrix = (
            operator @ sp.diags(1.0 / areas) @ operator / self._amplitude**2
        ).tocsc()

    def sample(self, white: np.ndarray) -> np.ndarray:
        """Map standard normal noise (nodes, m) to fields (nodes, m)."""
        return self._amplitude * self._factor.solve(self._root_areas[:, None] * white)

    def spectrum(self, eigenvalues: np.ndarray) -> np.ndarray:
        """Return the variance of coefficients of eigenfunctions of the Laplacian."""
        return (self._amplitude / (self.kappa**2 + eigenvalues)) ** 2

    def covariance_apply(self, columns: np.ndarray) -> np.ndarray:
        """Return the covariance times columns (nodes, m): two solves a column."""
        half = self._root_areas[:, None] ** 2 * self._factor.solve(columns)
        return self._amplitude**2 * self._factor.solve(half)

    def covariance(self, columns: np.ndarray) -> np.ndarray:
        """Return columns (nodes, m) of the covariance: two solves a column."""
        unit = np.zeros((len(self._root_areas), len(columns)))
        unit[columns, np.arange(len(columns))] = 1.0
        return self.covariance_apply(unit)

    @cached_property
    def dissection(self) -> Dissection:
        """Order of elimination for the precision, or for it and noise."""
        return Dissection(self.precision, self.domain.positions.numpy())

    @property
    def variance(self) -> np.ndarray:
        """Exact variance (node,) of the field, computed once."""
        if self._variance is None:
            self._variance = Cholesky(self.precision, self.dissection).inverse_diagonal()
        return self._variance
