"""EOF interpolation: the leading patterns of the history, fitted to what was observed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve_triangular
from torch import Tensor
from tqdm import tqdm

from apsgeo.baselines.base import Array, LinearBaseline, Observations
from apsgeo.domains import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.eofs import empirical_orthogonal_functions
from apsgeo.measurement import Normals
from apsgeo.metrics.scores import weighted_mean

__all__ = ["EofInterpolation", "select_rank"]

_LEAST_VARIANCE = 1e-3  # of a cell's, left to the part that the EOFs do not explain


class EofInterpolation(LinearBaseline):
    """Fit the amplitudes of EOFs to the observations by optimal interpolation.

    u = L a + e with loadings L, a ~ N(0, I), and e ~ N(0, diag(1 - |L|^2)) independent from cell
    to cell: reduced-space optimal interpolation (Kaplan et al. 1997, doi:10.1029/97JC01734), with
    the amplitudes' covariance from the history and the truncated variance kept as a diagonal.

    Args:
        normals: turn data into standardized anomalies and back.
        loadings: (N, rank), EOFs times the standard deviation of their amplitude.
    """

    name: ClassVar[str] = "EOF interpolation"

    def __init__(self, normals: Normals, loadings: Array) -> None:
        super().__init__(normals)
        self.loadings = loadings
        self.residual = np.maximum(1.0 - (loadings**2).sum(1), _LEAST_VARIANCE)

    @classmethod
    def fit(
        cls, domain: Domain, normals: Normals, fields: Tensor, season: Tensor, rank: int
    ) -> EofInterpolation:
        """Fit to a history (time, 1, node) in the unit of the data, with season (time,)."""
        anomalies = normals.standardize(fields.double(), season)
        eofs = empirical_orthogonal_functions(domain, anomalies, rank)
        return cls(normals, eofs.loadings[0].numpy())

    @property
    def rank(self) -> int:
        """Number of EOFs."""
        return self.loadings.shape[1]

    def truncated(self, rank: int) -> EofInterpolation:
        """Return the same with fewer EOFs."""
        return EofInterpolation(self.normals, self.loadings[:, :rank].copy())

    def posterior(
        self, values: Array, mask: NDArray[np.bool_], noise_std: Array
    ) -> tuple[Array, Array]:
        """Return mean and standard deviation (N,) given one record's (N,) in anomalies."""
        seen = self.loadings[mask]
        total = self.residual[mask] + noise_std[mask] ** 2
        weighted = seen / total[:, None]
        root = np.linalg.cholesky(np.eye(self.rank) + weighted.T @ seen)
        whitened = solve_triangular(root, self.loadings.T, lower=True, check_finite=False)
        amplitudes = solve_triangular(root, weighted.T @ values[mask], lower=True)
        mean, variance = amplitudes @ whitened, (whitened**2).sum(0)
        # Given the amplitudes, an observed cell's own residual has a posterior of its own.
        gain = np.where(mask, self.residual / (self.residual + noise_std**2), 0.0)
        local = np.where(mask, gain * noise_std**2, self.residual)
        return mean + gain * (values - mean), np.sqrt((1.0 - gain) ** 2 * variance + local)


def select_rank(
    method: EofInterpolation,
    cases: Sequence[tuple[Observations, Array, Array]],
    ranks: Sequence[int],
    progress: bool = True,
) -> int:
    """Choose the rank with the least CRPS on held-out records.

    The mean CRPS of each case is taken relative to that of the first rank, so that cases of few
    and of many observations weigh alike.

    Args:
        method: fitted with at least the largest rank.
        cases: observations, truth (T, N) in the unit of the data, and weights (T, N).
        ranks: candidates.
        progress: whether to show a bar.

    Raises:
        InputError: if a candidate exceeds the method's rank.
    """
    if max(ranks) > method.rank:
        raise InputError(
            f"rank {max(ranks)} is a candidate, but only {method.rank} EOFs are fitted"
        )

    def score(rank: int) -> Array:
        cut = method.truncated(rank)
        return np.array([weighted_mean(cut.predict(o).crps(t), w).mean() for o, t, w in cases])

    table = np.array([score(r) for r in tqdm(ranks, desc="EOF rank", disable=not progress)])
    return int(ranks[int((table / table[0]).mean(1).argmin())])
