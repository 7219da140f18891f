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
    """A field B z on a domain, with a latent z of sparse precision and a sparse basis B.

    Attributes:
        domain: Domain of the field.
        precision: Precision (latent, latent) of z.
        basis: B (node, latent).
        positions: Positions (latent, d) of z.
        reach: Factors (face,) that conductances were multiplied by, or None.
    """

    domain: Domain
    reach: Array | None
    precision: sp.csc_array
    basis: sp.csr_array
    positions: Array

    @cached_property
    def pattern(self) -> sp.csc_array:
        """Entries of the precision of z that may not be zero, with nodes measured one by one."""
        return sp.csc_array(self.precision.astype(bool) + (self.basis.T @ self.basis).astype(bool))

    @cached_property
    def dissection(self) -> Dissection:
        """Order of elimination for a matrix of that pattern."""
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
    the cells of `Domain.reduced`. With their areas W and stiffness G, and K = kappa^2 W + G, its
    precision K (W^{-1} K)^nu is sparse (Lindgren, Rue & Lindstrom 2011,
    https://doi.org/10.1111/j.1467-9868.2011.00777.x).

    Args:
        domain: Domain of the field.
        range_km: Range sqrt(8 nu) / kappa, where the correlation is about 0.14.
        smoothness: Smoothness nu, a positive integer.
        reach: Factors (face,) of the faces' conductances, by which the range follows place and
            direction; see `apsgeo.gaussian.anisotropy.face_reach`.
        variance: Variance (node,), where it is known, which spares its computation.
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
        self.positions, self.basis = cells.positions, cells.membership
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
        return self._amplitude * (self.basis @ self._again(half, self.smoothness // 2))

    def spectrum(self, eigenvalues: Array) -> Array:
        """Return the variance of coefficients of eigenfunctions, as if the range were one."""
        return self._amplitude**2 / (self.kappa**2 + eigenvalues) ** (self.smoothness + 1)

    def covariance_apply(self, columns: Array) -> Array:
        """Return the covariance times columns (node, m): nu + 1 solves a column."""
        solved = self._again(self._factor.solve(self.basis.T @ columns), self.smoothness)
        return self._amplitude**2 * (self.basis @ solved)

    @property
    def variance(self) -> Array:
        """Exact variance (node,) of the field, computed once, to single precision."""
        if self._variance is None:
            of_cells = Cholesky(self.precision, self.dissection).inverse_diagonal()
            self._variance = _single(self.basis @ of_cells)
        return self._variance


class MaternSum(LocalField):
    """The sum of independent Matern fields, each with a share of the variance.

    Args:
        fields: Fields on one domain.
        shares: Share of each field in the variance; they sum to one.
        variance: Variance (node,), where it is known, which spares its computation.
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
        scaled = [np.sqrt(a) * f.basis for f, a in zip(fields, shares, strict=True)]
        self.basis = sp.csr_array(sp.hstack(scaled))
        self.positions = np.concatenate([field.positions for field in fields])

    def __repr__(self) -> str:
        return " + ".join(
            f"{share:.2f} {field!r}"
            for field, share in zip(self._fields, self._shares, strict=True)
        )

    def sample(self, white: Array) -> Array:
        """Map standard normal noise (latent, m) to fields (node, m)."""
        ends = np.cumsum([field.basis.shape[1] for field in self._fields])
        parts = zip(self._fields, self._shares, np.split(white, ends[:-1]), strict=True)
        return np.sum([np.sqrt(share) * field.sample(part) for field, share, part in parts], axis=0)

    def _shared(self, parts: list[Array]) -> Array:
        """Return the sum of the fields' parts, each times its share."""
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
