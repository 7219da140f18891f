"""The hybrid prior: EOF loadings plus a sparse Matern residual, at any number of nodes."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.linalg import cho_solve
from torch import Tensor

from apsgeo.operators.linear import LinearMap
from apsgeo.priors.gaussian import GaussianPrior, System
from apsgeo.priors.matern import MaternField, factorize, log_determinant

__all__ = ["HybridPrior"]

_FEW = 200  # observations of a sparse operator, below which their own matrix is factorized
_LOG_2PI = float(np.log(2.0 * np.pi))


class _SparseSystem(System):
    r"""(A C A^T + R)^{-1} for one observed set and one noise, without forming C.

    With x = U a + v + d e (a, e white; v of sparse precision Q), what is observed has
    E = U a + v + noise of variance R = d^2 + r^2, so that the latent (a, v) has a sparse plus
    low-rank posterior precision: one sparse factorization and a capacitance matrix of the
    number of EOFs serve every right-hand side (Woodbury).
    """

    def __init__(self, prior: HybridPrior, observed: np.ndarray, noise_var: np.ndarray) -> None:
        self._loadings = prior._loadings
        total = prior._nugget_var + noise_var
        self.weights = np.where(observed, 1.0 / total, 0.0)
        self._factor = factorize(prior._precision + sp.diags(self.weights))
        weighted = self.weights[:, None] * self._loadings
        inner = weighted.T @ (self._loadings - self._factor.solve(weighted))
        self._capacitance = np.linalg.cholesky(np.eye(inner.shape[0]) + (inner + inner.T) / 2)
        self._prior = prior
        self._log_total = float(np.log(total[observed]).sum())
        self._count = int(observed.sum())

    def _latent(self, data: np.ndarray) -> np.ndarray:
        """Return the posterior mean of L a + v given data = A (L a + v) + noise, (nodes, m)."""
        rhs = self.weights[:, None] * data
        local = self._factor.solve(rhs)
        projected = self._loadings.T @ (rhs - self.weights[:, None] * local)
        loads = self._loadings @ cho_solve((self._capacitance, True), projected)
        return loads + local - self._factor.solve(self.weights[:, None] * loads)

    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} A data, (nodes, m); zero where nothing is observed."""
        return self.weights[:, None] * (data - self._latent(data))

    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} A data at all or some nodes."""
        latent = self._latent(data)
        nugget = (self._prior._nugget_var * self.weights)[:, None]
        mean = latent + nugget * (data - latent)
        return mean if nodes is None else mean[nodes]

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(A data; 0, A C A^T + R), (m,)."""
        determinant = (
            self._log_total
            + log_determinant(self._factor)
            - self._prior._log_det_precision
            + 2.0 * float(np.log(np.diag(self._capacitance)).sum())
        )
        return -0.5 * ((data * self.solve(data)).sum(0) + determinant + self._count * _LOG_2PI)


class _LatentSystem(System):
    r"""(A C A^T + R)^{-1} for a sparse A, without forming C, for any number of observations.

    With x = U a + v + d e as in `_SparseSystem`, A (v + d e) + n has the covariance
    N = A (Q^{-1} + d^2) A^T + R. Its inverse follows from one sparse factorization of the
    posterior precision of (v, e), twice the nodes, and the EOFs from a capacitance matrix (Woodbury
    twice).
    """

    def __init__(
        self,
        prior: HybridPrior,
        matrix: sp.csr_array,
        observed: np.ndarray,
        noise_var: np.ndarray,
    ) -> None:
        self._prior, self._index = prior, np.flatnonzero(observed)
        self._matrix = sp.csr_array(matrix)[self._index]
        self._inverse_noise = 1.0 / noise_var[self._index]
        nugget = sp.diags_array(np.sqrt(prior._nugget_var))
        self._latent = sp.hstack([self._matrix, self._matrix @ nugget], format="csr")
        weighted = sp.diags_array(self._inverse_noise) @ self._latent
        before = sp.block_diag([prior._precision, sp.eye_array(prior.size)])
        self._factor = factorize(before + self._latent.T @ weighted)
        self._loadings = self._matrix @ prior._loadings
        self._solved = self._local(self._loadings)
        inner = self._loadings.T @ self._solved
        self._capacitance = np.linalg.cholesky(np.eye(inner.shape[0]) + (inner + inner.T) / 2)

    def _local(self, values: np.ndarray) -> np.ndarray:
        """Return N^{-1} times observed values."""
        weighted = self._inverse_noise[:, None] * values
        fitted = self._latent @ self._factor.solve(self._latent.T @ weighted)
        return weighted - self._inverse_noise[:, None] * fitted

    def _weights(self, data: np.ndarray) -> np.ndarray:
        local = self._local(data[self._index])
        projected = cho_solve((self._capacitance, True), self._loadings.T @ local)
        return local - self._solved @ projected

    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} data, (nodes, m)."""
        return self._matrix.T @ self._weights(data)

    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} data at all or some nodes."""
        mean = self._prior.covariance_apply(self.solve(data))
        return mean if nodes is None else mean[nodes]

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(data; 0, A C A^T + R) of what is observed, (m,)."""
        determinant = (
            log_determinant(self._factor)
            - self._prior._log_det_precision
            - float(np.log(self._inverse_noise).sum())
            + 2.0 * float(np.log(np.diag(self._capacitance)).sum())
        )
        square = (data[self._index] * self._weights(data)).sum(0)
        return -0.5 * (square + determinant + len(self._index) * _LOG_2PI)


class HybridPrior(GaussianPrior):
    r"""A zero-mean Gaussian prior with the hybrid covariance of EOFs and a Matern residual.

    C = L L^T + S C_local S + diag(d^2): loadings L (`rank` leading EOFs, shrunk), a Matern
    field scaled at each node by S so that the variance that the EOFs leave is local rather
    than white, and a small nugget d. A hybrid covariance in the sense of Hamill & Snyder (2000,
    https://doi.org/10.1175/1520-0493(2000)128<2905:AHEKFV>2.0.CO;2).

    Args:
        matern: The Matern field of the residual, on the domain of the signal.
        loadings: (channel, node, rank), in the units of the signal.
        local_scale: (channel, node), multiplies the Matern field.
        nugget_std: (channel, node), positive.
    """

    kind = "hybrid"

    def __init__(
        self,
        matern: MaternField,
        loadings: Tensor,
        local_scale: Tensor,
        nugget_std: Tensor,
    ) -> None:
        super().__init__()
        self.domain = matern.domain
        self.channels = int(loadings.shape[0])
        self.draw_dim = loadings.shape[-1] + 2 * loadings.shape[0] * loadings.shape[1]
        self.loadings, self.local_scale, self.nugget_std = loadings, local_scale, nugget_std
        self.range_km = matern.range_km
        self._loadings = loadings.double().reshape(-1, loadings.shape[-1]).numpy()
        self._scale = local_scale.double().reshape(-1).numpy()
        self._nugget_var = nugget_std.double().reshape(-1).numpy() ** 2
        self.matern = matern
        inverse = sp.diags(1.0 / self._scale)
        blocks = sp.block_diag([self.matern.precision] * self.channels)
        self._precision = (inverse @ blocks @ inverse).tocsc()

    def __repr__(self) -> str:
        return (
            f"HybridPrior({self.domain!r}, channels={self.channels}, rank={self.rank}, "
            f"range_km={self.range_km:.0f})"
        )

    @cached_property
    def _log_det_precision(self) -> float:
        return log_determinant(factorize(self._precision))

    @property
    def rank(self) -> int:
        """Number of EOFs."""
        return self._loadings.shape[1]

    @property
    def variance(self) -> Tensor:
        """Marginal variance (channel, node)."""
        unit = np.tile(self.matern.variance, self.channels)
        total = (self._loadings**2).sum(1) + unit * self._scale**2 + self._nugget_var
        return self._as_signal(total)

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the block C[rows, columns], float64; one solve a column."""
        nodes = self.domain.num_nodes
        row, column = np.nonzero(rows[:, None] == columns)
        local = self.matern.covariance(columns % nodes)[rows % nodes]
        local *= self._scale[rows][:, None] * self._scale[columns]
        if self.channels > 1:
            local *= (rows // nodes)[:, None] == columns // nodes
        block = self._loadings[rows] @ self._loadings[columns].T + local
        block[row, column] += self._nugget_var[rows[row]]
        return block

    def covariance_apply(self, columns: np.ndarray) -> np.ndarray:
        """Return C x for columns (size, m): two sparse solves a column."""
        scaled = (self._scale[:, None] * columns).reshape(self.channels, -1, columns.shape[1])
        local = np.concatenate([self.matern.covariance_apply(part) for part in scaled])
        return (
            self._loadings @ (self._loadings.T @ columns)
            + self._scale[:, None] * local
            + self._nugget_var[:, None] * columns
        )

    def spectrum(self, eigenvalues: np.ndarray) -> np.ndarray:
        """Return that of the Matern field and the nugget with their mean variances."""
        area = float(self.domain.areas.mean())
        local = float((self._scale**2).mean()) * self.matern.spectrum(eigenvalues)
        return local + area * float(self._nugget_var.mean())

    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (rank + 2 nodes.., m) to prior draws (nodes, m)."""
        nodes = len(self._scale)
        first, white, nugget = np.split(noise, [self.rank, self.rank + nodes])
        per_channel = white.reshape(self.channels, -1, noise.shape[1])
        local = np.concatenate([self.matern.sample(block) for block in per_channel])
        return (
            self._loadings @ first
            + self._scale[:, None] * local
            + np.sqrt(self._nugget_var)[:, None] * nugget
        )

    def make_system(self, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the sparse system of an observed set."""
        return _SparseSystem(self, observed, noise_var)

    def make_linear_system(
        self, operator: LinearMap, observed: np.ndarray, noise_var: np.ndarray
    ) -> System:
        """Return a sparse direct system where the operator is sparse and more than a few."""
        matrix = operator.to_matrix(self.channels)
        if matrix is None or observed.sum() <= _FEW:
            return super().make_linear_system(operator, observed, noise_var)
        return _LatentSystem(self, matrix, observed, noise_var)
