"""The low-rank prior: a few patterns and independent noise, in closed form at every level."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from scipy.linalg import cho_solve, solve_triangular
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.systems import System
from apsgeo.linalg.constants import LOG_2PI

__all__ = ["LowRankPrior"]


class _UniformSystem(System):
    """(C + v I)^{-1} by the leading eigenvectors of C; all other eigenvalues are equal."""

    def __init__(self, vectors: np.ndarray, eigenvalues: np.ndarray, rest: float, var: float):
        self._vectors, self._rest, self._noise_var = vectors, rest + var, var
        self._total, self._kept = eigenvalues + var, rest / (rest + var)
        self._gain = eigenvalues / self._total

    def _apply(self, data: np.ndarray, factors: np.ndarray, others: float) -> np.ndarray:
        return others * data + self._vectors @ (
            (factors - others)[:, None] * (self._vectors.T @ data)
        )

    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return (C + v I)^{-1} data, (size, m)."""
        return self._apply(data, 1.0 / self._total, 1.0 / self._rest)

    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C (C + v I)^{-1} data at all or some values."""
        mean = self._apply(data, self._gain, self._kept)
        return mean if nodes is None else mean[nodes]

    def posterior_variance(self, variance: np.ndarray) -> np.ndarray:
        """Return the posterior variance (size,), v times the diagonal of C (C + v I)^{-1}."""
        gain = self._kept + (self._vectors**2) @ (self._gain - self._kept)
        return self._noise_var * gain

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(data; 0, C + v I), (m,)."""
        others = len(data) - len(self._total)
        determinant = np.log(self._total).sum() + others * np.log(self._rest)
        square = (data * self.solve(data)).sum(0)
        return -0.5 * (square + determinant + len(data) * LOG_2PI)


class _MaskedSystem(System):
    """(A C A^T + R)^{-1} where A picks values, by a Cholesky factor of the size of the rank."""

    def __init__(
        self, loadings: np.ndarray, white: np.ndarray, observed: np.ndarray, var: np.ndarray
    ) -> None:
        self._loadings = loadings
        self._index = np.flatnonzero(observed)
        self._white = white[self._index]
        self._noise_var = var[self._index]
        self._var = self._white + self._noise_var
        self._seen = loadings[self._index]
        self._back = self._seen.T / self._var
        self._factor = np.linalg.cholesky(np.eye(loadings.shape[1]) + self._back @ self._seen)

    def _fit(self, data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the means of the amplitudes, and (A C A^T + R)^{-1} times what is observed."""
        seen = data[self._index]
        loads = cho_solve((self._factor, True), self._back @ seen)
        return loads, (seen - self._seen @ loads) / self._var[:, None]

    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} data, (size, m)."""
        out = np.zeros((len(self._loadings), data.shape[1]))
        out[self._index] = self._fit(data)[1]
        return out

    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} data at all or some values."""
        loads, weights = self._fit(data)
        mean = self._loadings @ loads
        mean[self._index] += self._white[:, None] * weights
        return mean if nodes is None else mean[nodes]

    def posterior_variance(self, variance: np.ndarray) -> np.ndarray:
        """Return the posterior variance (size,).

        Given the amplitudes of the patterns, the values are independent. The variance of their
        conditional mean, 1 - gain times the patterns, is added to their conditional variance.
        """
        root = solve_triangular(self._factor, self._loadings.T, lower=True, check_finite=False)
        amplitudes = (root**2).sum(0)
        left = variance - (self._loadings**2).sum(1)
        gain, residual = np.zeros_like(left), left.copy()
        gain[self._index] = self._white / self._var
        residual[self._index] = gain[self._index] * self._noise_var
        return (1.0 - gain) ** 2 * amplitudes + residual

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(data; 0, A C A^T + R) of what is observed, (m,)."""
        determinant = np.log(self._var).sum() + 2.0 * np.log(np.diag(self._factor)).sum()
        square = (data[self._index] * self._fit(data)[1]).sum(0)
        return -0.5 * (square + determinant + len(self._index) * LOG_2PI)


class LowRankPrior(GaussianPrior):
    r"""A zero-mean Gaussian prior with the covariance C = L L^T + diag(s^2).

    With one s for all values this is probabilistic principal components (Tipping & Bishop 1999,
    https://doi.org/10.1111/1467-9868.00196). Its eigenvectors are found once; the denoiser and the
    density at any noise level then take two products with them. With an s for each value it is
    factor analysis. Without patterns, and with s of one, it is climatology.

    Args:
        domain: Domain of the signal.
        loadings: Patterns L (channel, node, rank), in the units of the signal.
        white_std: Standard deviation s of the noise, positive: one number, or (channel, node).

    Raises:
        InputError: If the loadings do not fit the domain, or ``white_std`` is not positive.
    """

    kind = "low-rank"
    exact_marginals = True

    def __init__(self, domain: Domain, loadings: Tensor, white_std: float | Tensor) -> None:
        super().__init__()
        rank = loadings.shape[-1]
        white = torch.as_tensor(white_std, dtype=torch.float64)
        fits = loadings.ndim == 3 and loadings.shape[1] == domain.num_nodes
        if not (fits and white.shape in ((), loadings.shape[:2]) and bool((white > 0.0).all())):
            raise InputError(
                f"loadings have shape {tuple(loadings.shape)} and white_std is {white_std}; "
                f"(channel, {domain.num_nodes}, rank) and positive numbers, one or "
                "(channel, node), were expected."
            )
        self.domain, self.channels = domain, int(loadings.shape[0])
        self.loadings, self.white_std = loadings, white_std
        self._uniform = white.ndim == 0
        self._loadings = loadings.double().reshape(self.size, rank).cpu().numpy()
        self._white = (white**2).expand(loadings.shape[:2]).reshape(-1).cpu().numpy()
        self.draw_dim = rank + self.size

    def __repr__(self) -> str:
        return (
            f"LowRankPrior({self.domain!r}, channels={self.channels}, rank={self.rank}, "
            f"white_std={np.sqrt(self._white.mean()):g})"
        )

    @cached_property
    def _spectrum(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvectors (size, rank) of C, and their eigenvalues."""
        vectors, scale, _ = np.linalg.svd(self._loadings, full_matrices=False)
        return vectors, scale**2 + self._white[0]

    @property
    def rank(self) -> int:
        """Number of patterns."""
        return self._loadings.shape[1]

    @property
    def variance(self) -> Tensor:
        """Marginal variance (channel, node)."""
        return self._as_signal((self._loadings**2).sum(1) + self._white)

    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (draw_dim, m) to prior draws (size, m)."""
        amplitudes, white = np.split(noise, [self.rank])
        return self._loadings @ amplitudes + np.sqrt(self._white)[:, None] * white

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the block C[rows, columns], float64."""
        same = rows[:, None] == columns
        return self._loadings[rows] @ self._loadings[columns].T + self._white[columns] * same

    def covariance_apply(self, columns: np.ndarray) -> np.ndarray:
        """Return C times columns (size, m)."""
        return self._loadings @ (self._loadings.T @ columns) + self._white[:, None] * columns

    def spectrum(self, eigenvalues: np.ndarray) -> np.ndarray:
        """Return the spectrum of the white noise."""
        return np.full_like(eigenvalues, float(self.domain.areas.mean()) * self._white.mean())

    def make_system(self, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the system of an observed set, by eigenvectors if all values have one noise."""
        if self._uniform and observed.all() and bool((noise_var == noise_var[0]).all()):
            vectors, eigenvalues = self._spectrum
            return _UniformSystem(vectors, eigenvalues, self._white[0], float(noise_var[0]))
        return _MaskedSystem(self._loadings, self._white, observed, noise_var)

    def denoise_std(self, noise_std: float) -> float:
        """Return the root mean square posterior standard deviation after white noise, exactly."""
        if not self._uniform:
            return super().denoise_std(noise_std)
        var, eigenvalues, white = noise_std**2, self._spectrum[1], self._white[0]
        each = eigenvalues * var / (eigenvalues + var)
        rest = white * var / (white + var)
        total = each.sum() + (self.size - len(each)) * rest
        return float(np.sqrt(total / self.size))
