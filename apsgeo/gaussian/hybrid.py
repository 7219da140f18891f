"""The hybrid prior: EOF loadings plus a sparse Matern residual, at any number of nodes."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import scipy.sparse as sp
from scipy.linalg import cho_solve
from torch import Tensor

from apsgeo.gaussian.matern import LocalField
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.systems import System
from apsgeo.linalg.cholesky import Cholesky
from apsgeo.linalg.constants import LOG_2PI
from apsgeo.linalg.dissection import Dissection
from apsgeo.operators.linear import LinearMap

__all__ = ["HybridPrior"]

_FEW = 200  # up to so many observations of a sparse operator, their matrix is factorized


class _SparseSystem(System):
    r"""(A C A^T + R)^{-1} for a sparse A, without forming C, for any number of observations.

    The signal is x = U a + S v + d e, with a and e white and v of sparse precision. The values are
    A U a + B z + noise, with a latent z of sparse precision P and a noise of variance M. One
    factorization of the latent's posterior precision P + B^T M^{-1} B, and a capacitance matrix of
    the size of the rank, serve every right-hand side (Woodbury). Where no two observations share a
    node, the nugget d e joins the noise: z = v, B = A S, M = A d^2 A^T + R. Elsewhere it joins the
    latent: z = (v, e), B = (A S, A d), M = R.
    """

    def __init__(
        self,
        prior: HybridPrior,
        matrix: sp.csr_array,
        observed: np.ndarray,
        noise_var: np.ndarray,
    ) -> None:
        self._prior, self._index = prior, np.flatnonzero(observed)
        self._matrix = sp.csr_array(matrix[self._index])
        self._noise_var = noise_var[self._index]
        before, self._latent = prior._precision, self._matrix @ prior._basis
        if np.bincount(self._matrix.indices, minlength=1).max() <= 1:
            self._noise_var = self._noise_var + self._matrix.power(2) @ prior._nugget_var
        else:
            nugget = self._matrix @ sp.diags_array(np.sqrt(prior._nugget_var))
            self._latent = sp.hstack([self._latent, nugget], format="csr")
            before = sp.block_diag([before, sp.eye_array(prior.size)], format="csc")
        self._back = sp.csr_array(self._latent.T @ sp.diags_array(1.0 / self._noise_var))
        self._factor = prior.factorize(before + self._back @ self._latent)
        loadings = self._matrix @ prior._loadings
        self._solved = self._factor.solve(self._back @ loadings)
        left = loadings - self._latent @ self._solved
        inner = loadings.T @ (left / self._noise_var[:, None])
        self._capacitance = np.linalg.cholesky(np.eye(inner.shape[0]) + (inner + inner.T) / 2)

    def _fit(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the means of a and z, and (A C A^T + R)^{-1} times what is observed of data."""
        seen = data[self._index]
        latent = self._factor.solve(self._back @ seen)
        left = (seen - self._latent @ latent) / self._noise_var[:, None]
        projected = self._prior._loadings.T @ (self._matrix.T @ left)
        loads = cho_solve((self._capacitance, True), projected)
        latent -= self._solved @ loads
        fitted = self._matrix @ (self._prior._loadings @ loads) + self._latent @ latent
        return loads, latent, (seen - fitted) / self._noise_var[:, None]

    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} data, (size, m)."""
        return self._matrix.T @ self._fit(data)[2]

    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} data at all or some values."""
        loads, latent, weights = self._fit(data)
        each = slice(None) if nodes is None else nodes
        nugget = self._prior._nugget_var[each, None] * (self._matrix.T @ weights)[each]
        local = self._prior._basis @ latent[: self._prior._basis.shape[1]]
        return self._prior._loadings[each] @ loads + local[each] + nugget

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(data; 0, A C A^T + R) of what is observed, (m,)."""
        determinant = (
            float(np.log(self._noise_var).sum())
            + self._factor.log_determinant
            - self._prior._log_det_precision
            + 2.0 * float(np.log(np.diag(self._capacitance)).sum())
        )
        square = (data[self._index] * self._fit(data)[2]).sum(0)
        return -0.5 * (square + determinant + len(self._index) * LOG_2PI)


class HybridPrior(GaussianPrior):
    r"""A zero-mean Gaussian prior with the hybrid covariance of EOFs and a Matern residual.

    C = L L^T + S C_local S + diag(d^2). The loadings L are the `rank` leading EOFs, shrunk. A
    Matern field, or a sum of some, is scaled at each node by S, so that the variance that the EOFs
    leave is local rather than white. The nugget d is small. Hamill & Snyder (2000,
    https://doi.org/10.1175/1520-0493(2000)128<2905:AHEKFV>2.0.CO;2) call such covariances hybrid.

    Args:
        matern: The Matern field of the residual, on the domain of the signal.
        loadings: Patterns (channel, node, rank), in the units of the signal.
        local_scale: Factor (channel, node) of the Matern field.
        nugget_std: Standard deviation (channel, node) of the nugget, positive.
    """

    kind = "hybrid"

    def __init__(
        self,
        matern: LocalField,
        loadings: Tensor,
        local_scale: Tensor,
        nugget_std: Tensor,
    ) -> None:
        super().__init__()
        self.domain = matern.domain
        self.channels = int(loadings.shape[0])
        self.loadings, self.local_scale, self.nugget_std = loadings, local_scale, nugget_std
        self._loadings = loadings.double().reshape(-1, loadings.shape[-1]).numpy()
        self._scale = local_scale.double().reshape(-1).numpy()
        self._nugget_var = nugget_std.double().reshape(-1).numpy() ** 2
        self.matern = matern
        self._precision = sp.block_diag([matern.precision] * self.channels, format="csc")
        basis = sp.block_diag([matern.basis] * self.channels)
        self._basis = sp.csr_array(sp.diags_array(self._scale) @ basis)
        self.draw_dim = self.rank + self._basis.shape[1] + self.size

    def __repr__(self) -> str:
        return (
            f"HybridPrior({self.domain!r}, channels={self.channels}, rank={self.rank}, "
            f"local={self.matern!r})"
        )

    @cached_property
    def _log_det_precision(self) -> float:
        return self.factorize(self._precision).log_determinant

    @cached_property
    def _pattern(self) -> sp.csc_array:
        """Entries of a posterior precision that may not be zero, with nodes measured one by one."""
        return sp.block_diag([self.matern.pattern] * self.channels, format="csc")

    @cached_property
    def _dissection(self) -> Dissection:
        return self.matern.dissection.repeated(self.channels)

    def factorize(self, precision: sp.csc_array) -> Cholesky:
        """Factorize a posterior precision of the Matern field, alone or with more latents."""
        known = precision.shape == self._pattern.shape
        if known and (self._pattern + precision.astype(bool)).nnz == self._pattern.nnz:
            return Cholesky(precision, self._dissection)
        positions = np.tile(self.matern.positions, (self.channels, 1))
        if len(positions) < precision.shape[0]:
            every = np.tile(self.domain.positions.numpy(), (self.channels, 1))
            positions = np.concatenate([positions, every])
        return Cholesky(precision, Dissection(precision, positions))

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
        """Return the block C[rows, columns], float64; a few sparse solves a column."""
        nodes = self.domain.num_nodes
        row, column = np.nonzero(rows[:, None] == columns)
        unit = np.zeros((nodes, len(columns)))
        unit[columns % nodes, np.arange(len(columns))] = 1.0
        local = self.matern.covariance_apply(unit)[rows % nodes]
        local *= self._scale[rows][:, None] * self._scale[columns]
        if self.channels > 1:
            local *= (rows // nodes)[:, None] == columns // nodes
        block = self._loadings[rows] @ self._loadings[columns].T + local
        block[row, column] += self._nugget_var[rows[row]]
        return block

    def covariance_apply(self, columns: np.ndarray) -> np.ndarray:
        """Return C times columns (size, m): a few sparse solves a column."""
        scaled = (self._scale[:, None] * columns).reshape(self.channels, -1, columns.shape[1])
        local = np.concatenate([self.matern.covariance_apply(part) for part in scaled])
        return (
            self._loadings @ (self._loadings.T @ columns)
            + self._scale[:, None] * local
            + self._nugget_var[:, None] * columns
        )

    def spectrum(self, eigenvalues: np.ndarray) -> np.ndarray:
        """Return the spectrum of the Matern field and the nugget, each of its mean variance."""
        area = float(self.domain.areas.mean())
        local = float((self._scale**2).mean()) * self.matern.spectrum(eigenvalues)
        return local + area * float(self._nugget_var.mean())

    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (draw_dim, m) to prior draws (size, m)."""
        first, white, nugget = np.split(noise, [self.rank, self.draw_dim - self.size])
        per_channel = white.reshape(self.channels, -1, noise.shape[1])
        local = np.concatenate([self.matern.sample(block) for block in per_channel])
        return (
            self._loadings @ first
            + self._scale[:, None] * local
            + np.sqrt(self._nugget_var)[:, None] * nugget
        )

    def make_system(self, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the sparse system of an observed set."""
        identity = sp.eye_array(self.size, format="csr")
        return _SparseSystem(self, identity, observed, noise_var)

    def make_linear_system(
        self, operator: LinearMap, observed: np.ndarray, noise_var: np.ndarray
    ) -> System:
        """Return a sparse direct system where the operator is sparse and has many observations."""
        matrix = operator.to_matrix(self.channels)
        if matrix is None or observed.sum() <= _FEW:
            return super().make_linear_system(operator, observed, noise_var)
        return _SparseSystem(self, matrix, observed, noise_var)
