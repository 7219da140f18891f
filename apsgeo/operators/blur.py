"""The heat kernel of a domain's Laplacian: a Gaussian blur that means the same everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.polynomial import chebyshev
from numpy.typing import NDArray
from scipy.sparse.linalg import splu

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.base import Operator
from apsgeo.operators.linear import LinearMap

__all__ = ["HEAT_TOLERANCE", "GaussianBlur", "HeatMap"]

Array = NDArray[np.float64]

HEAT_TOLERANCE = 1e-8
"""Largest error of the approximation of exp(-z), at any z >= 0, hence of any eigenvalue."""

_FINE = 400  # degree at which the coefficients are sampled


@dataclass(frozen=True)
class GaussianBlur(Operator):
    r"""Observe :math:`e^{t \Delta} x` at every node, with the domain's own Laplacian.

    Heat that spreads for the time t = length² / 2 draws out a point, in the plane, to a Gaussian
    of the standard deviation `length`; on a sphere or a mesh it is what replaces it. Means by area
    are kept.

    Attributes:
        length_km: The standard deviation in km, or in the unit of a domain whose `radius_km` is
            one: pixels of an image.
    """

    length_km: float
    kind: ClassVar[str] = "gaussian-blur"

    def __post_init__(self) -> None:
        if not 0.0 < self.length_km < np.inf:
            raise InputError(f"GaussianBlur(length_km={self.length_km}): give a positive length.")

    def on(self, domain: Domain) -> LinearMap:
        """Return the heat kernel; one sparse factorization."""
        return HeatMap(domain, 0.5 * (self.length_km / domain.radius_km) ** 2)


@lru_cache(maxsize=1)
def _coefficients() -> tuple[float, Array]:
    r"""Return a pole and Chebyshev coefficients of exp(-z) in w = (z - pole) / (z + pole).

    The least degree n whose error is below `HEAT_TOLERANCE` for all z >= 0, with the pole n / √2,
    for which it falls by about 1 + √2 a degree (Andersson 1981, *Approximation of e^{-x} by
    rational functions with concentrated negative poles*).
    """
    for degree in range(4, _FINE // 2):
        pole = degree / np.sqrt(2.0)

        def heat(w: Any, pole: float = pole) -> Any:
            return np.exp(-pole * (1 + w) / np.maximum(1 - w, 1e-300))

        all_of_them = chebyshev.chebinterpolate(heat, _FINE)
        kept = all_of_them[: degree + 1]
        if np.abs(all_of_them[degree + 1 :]).sum() < HEAT_TOLERANCE / 4:
            return pole, kept / chebyshev.chebval(-1.0, kept)  # constants are kept exactly
    raise AssertionError("exp(-z) is not approximated")  # not reached: a fact about exp


class HeatMap(LinearMap):
    r"""exp(-t M^{-1} S) with the areas M and the stiffness S, self-adjoint under the areas.

    A Chebyshev series in the Cayley transform of t M^{-1} S: stable, uniform over the spectrum
    however fine the grid (that of a latitude-longitude grid at the poles is), with one sparse
    factorization of t S + pole M and a solve a degree. Eigenvalues are exact to `HEAT_TOLERANCE`.
    """

    def __init__(self, domain: Domain, time: float) -> None:
        super().__init__(domain.num_nodes, domain.num_nodes, domain)
        self._areas = domain.areas.numpy()[:, None]
        self._pole, self._series = _coefficients()
        shifted = time * domain.stiffness + self._pole * sp.diags_array(self._areas[:, 0])
        self._factor = splu(
            sp.csc_matrix(shifted),
            permc_spec="MMD_AT_PLUS_A",
            options={"SymmetricMode": True, "DiagPivotThresh": 0.0},
        )

    def _cayley(self, columns: Array) -> Array:
        return columns - 2.0 * self._pole * self._factor.solve(self._areas * columns)

    def _forward(self, signal: Array) -> Array:
        """Sum the series by Clenshaw's recurrence, for all columns at once."""
        columns = np.ascontiguousarray(signal.transpose(1, 0, 2)).reshape(self.num_nodes, -1)
        last, before = np.zeros_like(columns), np.zeros_like(columns)
        for c in self._series[:0:-1]:
            last, before = c * columns + 2.0 * self._cayley(last) - before, last
        out = self._series[0] * columns + self._cayley(last) - before
        return out.reshape(self.num_nodes, signal.shape[0], -1).transpose(1, 0, 2)

    def _backward(self, values: Array) -> Array:
        return self._areas * self._forward(values / self._areas)
