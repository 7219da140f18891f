"""Functions of a domain's Laplacian, applied without its eigenvalues."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from apsgeo.domains.base import Domain
from apsgeo.linalg.cholesky import Cholesky
from apsgeo.linalg.dissection import Dissection

__all__ = ["LaplacianFunction", "series_of"]

Array = NDArray[np.float64]

_FINE = 400  # degree at which coefficients are sampled


def series_of(function: Callable[[Array], Array], shift: float, error: float) -> Array | None:
    """Expand a function of eigenvalues λ in Chebyshev polynomials of (λ - shift) / (λ + shift).

    Returns:
        The coefficients of the least degree whose error is below `error` at every λ >= 0 and zero
        at λ = 0; None if no degree up to 200 is enough.
    """

    def on_interval(w: Any) -> Any:
        return function(shift * (1 + w) / np.maximum(1 - w, 1e-300))

    series = chebyshev.chebinterpolate(on_interval, _FINE)
    left = np.abs(series[::-1]).cumsum()[::-1]  # from each degree on
    enough = np.flatnonzero(left < error / 2)  # what is left out, and so moved at zero
    if not len(enough) or enough[0] > _FINE // 2:
        return None
    kept = series[: max(1, enough[0])]
    kept[0] += float(function(np.zeros(1))[0]) - chebyshev.chebval(-1.0, kept)
    return kept


class LaplacianFunction:
    r"""Apply f(M^{-1} S), with the areas M and the stiffness S; self-adjoint under the areas.

    f is given as a Chebyshev series in the Cayley transform of M^{-1} S. That is stable, and as
    exact at one end of the spectrum as at the other, however fine the grid is (as that of
    latitudes and longitudes is at the poles). It costs one sparse factorization of S + shift M,
    and one solve for each degree.

    Args:
        domain: Domain whose Laplacian it is.
        series: Chebyshev coefficients, from `series_of`.
        shift: Pole of the Cayley transform, the one that was given to `series_of`.
    """

    def __init__(self, domain: Domain, series: Array, shift: float) -> None:
        self._domain = domain
        self.areas = domain.areas.numpy()[:, None]
        self._series, self._shift = series, shift
        shifted = domain.stiffness + shift * sp.diags_array(self.areas[:, 0])
        self._factor = Cholesky(shifted, Dissection(shifted, domain.positions.numpy()))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and send without the factorization, which is larger than what it is made of."""
        return type(self), (self._domain, self._series, self._shift)

    def _cayley(self, columns: Array) -> Array:
        return columns - 2.0 * self._shift * self._factor.solve(self.areas * columns)

    def __call__(self, columns: Array) -> Array:
        """Map columns (node, m), by Clenshaw's recurrence for all at once."""
        columns = np.ascontiguousarray(columns)
        last, before = np.zeros_like(columns), np.zeros_like(columns)
        for c in self._series[:0:-1]:
            last, before = c * columns + 2.0 * self._cayley(last) - before, last
        return self._series[0] * columns + self._cayley(last) - before
