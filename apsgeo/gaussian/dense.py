"""A Gaussian prior whose covariance is any matrix, for small signals and for tests."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from scipy.linalg import cholesky, eigh
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.localised import DenseSystem
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.systems import System

__all__ = ["DensePrior"]


class DensePrior(GaussianPrior):
    """A zero-mean Gaussian prior of a given covariance.

    It needs the square of the number of values in memory, and their cube in time once; a posterior
    is solved in the space of its observations.

    Args:
        domain: Domain of the signal.
        covariance: C (channel * node, channel * node), symmetric and positive definite.
        rank: Number of leading eigenvectors kept as `loadings`; all by default.

    Raises:
        InputError: If the matrix does not fit the domain, or is not symmetric positive definite.
    """

    kind = "dense"

    def __init__(self, domain: Domain, covariance: Tensor, rank: int | None = None) -> None:
        super().__init__()
        matrix = covariance.double().numpy()
        size, nodes = len(matrix), domain.num_nodes
        if matrix.shape != (size, size) or size == 0 or size % nodes:
            raise InputError(
                f"the covariance has shape {matrix.shape}; (channel * node, channel * node) with "
                f"{nodes} nodes was expected."
            )
        if not np.allclose(matrix, matrix.T, rtol=1e-8, atol=1e-12 * abs(matrix).max()):
            raise InputError("the covariance is not symmetric; average it with its transpose.")
        try:
            self._root = cholesky(matrix, lower=True)
        except np.linalg.LinAlgError as error:
            raise InputError(
                "the covariance is not positive definite; add a small variance to its diagonal."
            ) from error
        self.domain, self.channels, self.draw_dim = domain, size // nodes, size
        self._matrix = matrix
        self._rank = size if rank is None else rank

    @cached_property
    def loadings(self) -> Tensor:  # type: ignore[override]
        """Leading eigenvectors (channel, node, rank), each times its standard deviation."""
        values, vectors = eigh(self._matrix)
        leading = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, ::-1][:, : self._rank].copy()
        return torch.from_numpy(leading).unflatten(0, (self.channels, -1))

    def __repr__(self) -> str:
        return f"DensePrior({self.domain!r}, channels={self.channels})"

    @property
    def variance(self) -> Tensor:
        """Marginal variance (channel, node)."""
        return self._as_signal(np.diag(self._matrix).copy())

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the block C[rows, columns], float64."""
        return self._matrix[np.ix_(rows, columns)]

    def covariance_apply(self, columns: np.ndarray) -> np.ndarray:
        """Return C times columns (size, m)."""
        return self._matrix @ columns

    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (draw_dim, m) to prior draws (size, m)."""
        return self._root @ noise

    def make_system(self, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the dense system of an observed set."""
        return DenseSystem(self, observed, noise_var)
