"""Matern fields on a domain, through the sparse precision of an elliptic operator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from apsgeo.domains.base import Domain
from apsgeo.gaussian.anisotropy import conducting
from apsgeo.linalg.cholesky import Cholesky
from apsgeo.linalg.dissection import Dissection

__all__ = ["LocalField", "MaternField", "MaternSum"]

Array = NDArray[np.float64]


def _single(values: Array) -> Array:
    """Round to single precision."""
    return values.astype(np.float32).astype(np.float64)


class LocalField(ABC):
    """A field on a domain that is B z, with z of a sparse precision and B sparse.

    Attributes:
        domain: Where it lives.
        precision: (latent, latent), of z.
        spread: (node, latent): B.
        positions: (latent, d), of z.
        reach: (face,), by which conductances were multiplied, or None.
    """

    domain: Domain
    reach: Array | None
    precision: sp.csc_array
    spread: sp.csr_array
    positions: Array

    @cached_property
    def pattern(self) -> sp.csc_array:
        """Where the precision of z may differ from zero once nodes are measured one by one."""
        return sp.csc_array(
            self.precision.astype(bool) + (self.spread.T @ self.spread).astype(bool)
        )

    @cached_property
    def dissection(self) -> Dissection:
        """Order of elimination for that."""
        return Dissection(self.pattern, self.positions)

    @property
    @abstractmethod
    def variance(self) -> Array:
        """Exact variance (node,) of the field, computed once."""

    @abstractmethod
    def sample(self, white: Array) -> Array:
        """Map standard normal noise (latent, m) to fields (node, m)."""

    @abstractmethod
    def spectrum(self, eigenvalues: Array) -> Array:
        """Return the variance of coefficients of eigenfunctions of the Laplacian."""

    @abstractmethod
    def covariance_apply(self, columns: Array) -> Array:
        """Return the covariance times columns (node, m)."""


class MaternField(LocalField):
    r"""A Matern field on a domain, of unit variance up to discretization.

    It solves (kappa^2 - Laplacian)^{(nu + 1) / 2} v = white noise, discretized by finite volumes on
    the cells of `Domain.reduced`: with areas W and stiffness G, K = kappa^2 W + G, its precision is
    K (W^{-1} K)^nu, which is sparse (Lindgren, Rue & Lindstrom 2011,
    https://doi.org/10.1111/j.1467-9868.2011.00777.x).

    Args:
        domain: Where it lives.
        range_km: sqrt(8 nu) / kappa, the distance at which the correlation is about 0.14.
        smoothness: nu, a positive integer.
        reach: (face,), by which the conductance of each face is multiplied, so that the range
            follows place and direction; see `apsgeo.gaussian.anisotropy.face_reach`.
        variance: (node,), where it is known; spares its computation.
    """

    def __init__(
        self,
        domain: Domain,
        range_km: float,
        smoothness: int = 1,
        *,
        reach: Array | None = None,
        variance: Array | None = None,
    ) -> None:
        # In single precision, as it is saved: what is loaded is the same field to the bit.
        reach = None if reach is None else _single(reach)
        self.domain, self.reach = domain, reach
        self._variance = variance
        self.range_km, self.smoothness = float(range_km), smoothness
        self.kappa = np.sqrt(8.0 * smoothness) * domain.radius_km / self.range_km
        cells = domain.reduced
        self.positions, self.spread = cells.positions, cells.spread
        self._areas = cells.areas[:, None]
        stiffness = cells.stiffness if reach is None else conducting(cells.stiffness, reach)
        operator = sp.csc_array(stiffness + self.kappa**2 * sp.diags_array(cells.areas))
        # The planar field that this operator makes has variance 1 / (4 pi nu kappa^{2 nu}).
        self._amplitude = np.sqrt(4.0 * np.pi * smoothness) * self.kappa**smoothness
        self._factor = Cholesky(operator, Dissection(operator, self.positions))
        precision = operator / self._amplitude**2
        for _ in range(smoothness):
            precision = precision @ sp.diags_array(1.0 / cells.areas) @ operator
        self.precision = sp.csc_array(precision)

    def __repr__(self) -> str:
        return f"MaternField(range_km={self.range_km:.0f}, smoothness={self.smoothness})"

    def _again(self, columns: Array, times: int) -> Array:
        """Return (K^{-1} W)^times columns."""
        for _ in range(times):
            columns = self._factor.solve(self._areas * columns)
        return columns

    def sample(self, white: Array) -> Array:
        """Map standard normal noise (latent, m) to fields (node, m)."""
        if self.smoothness % 2:
            half = self._factor.solve(np.sqrt(self._areas) * white)
        else:
            half = self._factor.sample(white)
        return self._amplitude * (self.spread @ self._again(half, self.smoothness // 2))

    def spectrum(self, eigenvalues: Array) -> Array:
        """Return the variance of coefficients of eigenfunctions, as if the range were one."""
        return self._amplitude**2 / (self.kappa**2 + eigenvalues) ** (self.smoothness + 1)

    def covariance_apply(self, columns: Array) -> Array:
        """Return the covariance times columns (node, m): nu + 1 solves a column."""
        solved = self._again(self._factor.solve(self.spread.T @ columns), self.smoothness)
        return self._amplitude**2 * (self.spread @ solved)

    @property
    def variance(self) -> Array:
        """Exact variance (node,) of the field, computed once, to single precision."""
        if self._variance is None:
            of_cells = Cholesky(self.precision, self.dissection).inverse_diagonal()
            self._variance = _single(self.spread @ of_cells)
        return self._variance


class MaternSum(LocalField):
    """The sum of independent Matern fields, of which each has a share of the variance.

    Args:
        fields: On one domain.
        shares: Of the variance, as many; they sum to one.
        variance: (node,), where it is known; spares its computation.
    """

    def __init__(
        self,
        fields: Sequence[MaternField],
        shares: Sequence[float],
        *,
        variance: Array | None = None,
    ) -> None:
        self.domain, self.reach = fields[0].domain, fields[0].reach
        self._fields, self._shares, self._variance = fields, shares, variance
        self.precision = sp.csc_array(sp.block_diag([f.precision for f in fields], format="csc"))
        scaled = [np.sqrt(a) * f.spread for f, a in zip(fields, shares, strict=True)]
        self.spread = sp.csr_array(sp.hstack(scaled))
        self.positions = np.concatenate([field.positions for field in fields])

    def __repr__(self) -> str:
        return " + ".join(
            f"{share:.2f} {field!r}"
            for field, share in zip(self._fields, self._shares, strict=True)
        )

    def sample(self, white: Array) -> Array:
        """Map standard normal noise (latent, m) to fields (node, m)."""
        ends = np.cumsum([field.spread.shape[1] for field in self._fields])
        parts = zip(self._fields, self._shares, np.split(white, ends[:-1]), strict=True)
        return np.sum([np.sqrt(share) * field.sample(part) for field, share, part in parts], axis=0)

    def _shared(self, parts: list[Array]) -> Array:
        """Return the sum of what belongs to each field, times its share."""
        total = np.zeros_like(parts[0])
        for share, part in zip(self._shares, parts, strict=True):
            total += share * part
        return total

    def spectrum(self, eigenvalues: Array) -> Array:
        """Return the variance of coefficients of eigenfunctions of the Laplacian."""
        return self._shared([field.spectrum(eigenvalues) for field in self._fields])

    def covariance_apply(self, columns: Array) -> Array:
        """Return the covariance times columns (node, m)."""
        return self._shared([field.covariance_apply(columns) for field in self._fields])

    @property
    def variance(self) -> Array:
        """Exact variance (node,) of the field, computed once."""
        if self._variance is None:
            self._variance = _single(self._shared([field.variance for field in self._fields]))
        return self._variance
