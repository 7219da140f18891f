"""A Gaussian prior with more patterns, whose amplitudes the observations decide."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.systems import System
from apsgeo.operators.linear import LinearMap

__all__ = ["AddedPatterns"]


class _AddedSystem(System):
    r"""(A (C + G G^T) A^T + R)^{-1}, by that of C and a matrix of the number of patterns.

    Given data y, the amplitudes have the mean c = (I + G^T A^T K^{-1} A G)^{-1} G^T A^T K^{-1} y,
    with K = A C A^T + R, and what is left, y - A G c, is what the prior without them explains.
    """

    def __init__(self, base: System, patterns: np.ndarray, seen: np.ndarray) -> None:
        self._base, self._patterns, self._seen = base, patterns, seen
        inner = patterns.T @ base.solve(seen)
        self._capacitance = np.eye(patterns.shape[1]) + (inner + inner.T) / 2

    def _split(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the amplitudes' means (pattern, m), and the data that they leave."""
        projected = self._patterns.T @ self._base.solve(data)
        amplitudes = np.linalg.solve(self._capacitance, projected)
        return amplitudes, data - self._seen @ amplitudes

    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A (C + G G^T) A^T + R)^{-1} data, (size, m)."""
        return self._base.solve(self._split(data)[1])

    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean at all or some values."""
        amplitudes, left = self._split(data)
        each = slice(None) if nodes is None else nodes
        return self._base.update(left, nodes) + self._patterns[each] @ amplitudes

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(data; 0, A (C + G G^T) A^T + R) of what is observed, (m,)."""
        projected = self._patterns.T @ self._base.solve(data)
        explained = (projected * np.linalg.solve(self._capacitance, projected)).sum(0)
        determinant = np.linalg.slogdet(self._capacitance)[1]
        return self._base.log_evidence(data) + 0.5 * (explained - determinant)


class AddedPatterns(GaussianPrior):
    r"""The Gaussian prior with the covariance C + G G^T of a prior C and a few patterns G.

    The patterns act at all distances, whatever the prior does to its own: a trend's pattern, say,
    which far observations tell of.

    Args:
        prior: The prior C.
        patterns: Patterns G (channel, node, k), in the units of the signal.
    """

    kind = "added"

    def __init__(self, prior: GaussianPrior, patterns: Tensor) -> None:
        super().__init__()
        self.prior, self.patterns = prior, patterns
        self.domain, self.channels, self.name = prior.domain, prior.channels, prior.name
        self._patterns = patterns.double().flatten(0, 1).numpy()

    def __repr__(self) -> str:
        return f"AddedPatterns({self.prior!r}, {self._patterns.shape[1]})"

    @property
    def loadings(self) -> Tensor:  # type: ignore[override]
        """Leading patterns (channel, node, rank), the added ones last."""
        return torch.cat([self.prior.loadings, self.patterns.to(self.prior.loadings)], -1)

    @property
    def draw_dim(self) -> int:  # type: ignore[override]
        """Length of the standard normal vector behind one prior draw."""
        return self.prior.draw_dim + self._patterns.shape[1]

    @property
    def variance(self) -> Tensor:
        """Marginal variance (channel, node)."""
        return self.prior.variance + self._as_signal((self._patterns**2).sum(1))

    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (draw_dim, m) to prior draws (size, m)."""
        first, amplitudes = np.split(noise, [self.prior.draw_dim])
        return self.prior.draw(first) + self._patterns @ amplitudes

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the block C[rows, columns], float64."""
        return (
            self.prior.covariance(rows, columns) + self._patterns[rows] @ self._patterns[columns].T
        )

    def covariance_blocks(self, values: Tensor, leading: int | None = None) -> Tensor:
        """Return the blocks C[v, v[:leading]] of values v (block, i), float32."""
        each = torch.from_numpy(self._patterns).float().to(values.device)[values]
        return self.prior.covariance_blocks(values, leading) + each @ each[:, :leading].mT

    def covariance_apply(self, columns: np.ndarray) -> np.ndarray:
        """Return C times columns (size, m)."""
        added = self._patterns @ (self._patterns.T @ columns)
        return self.prior.covariance_apply(columns) + added

    def spectrum(self, eigenvalues: np.ndarray) -> np.ndarray:
        """Return about the variance that the loadings leave, by eigenvalue of the Laplacian."""
        return self.prior.spectrum(eigenvalues)

    def make_system(self, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the system of an observed set."""
        return _AddedSystem(
            self.prior.make_system(observed, noise_var), self._patterns, self._patterns
        )

    def make_linear_system(
        self, operator: LinearMap, observed: np.ndarray, noise_var: np.ndarray
    ) -> System:
        """Return the system of an operator that is not the identity."""
        base = self.prior.make_linear_system(operator, observed, noise_var)
        return _AddedSystem(base, self._patterns, operator.forward(self._patterns))
