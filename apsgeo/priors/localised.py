"""The localised prior: a tapered EOF covariance, dense, for up to some twenty thousand values."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky, solve_triangular
from scipy.special import k1
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.priors.gaussian import GaussianPrior, System

__all__ = ["MOST_VALUES", "LocalisedPrior", "gaspari_cohn", "matern_correlation"]

MOST_VALUES = 20_000
"""Largest number of values (channels times nodes) of a `LocalisedPrior`; it needs their square."""

_LOG_2PI = float(np.log(2.0 * np.pi))
_ROWS = 1024  # of the covariance, computed at once
_TABLE = 8192  # entries of a tabulated correlation function

Array = NDArray[np.float64]


def gaspari_cohn(ratio: Array) -> Array:
    """Return the taper of Gaspari & Cohn (1999, equation 4.10) at distance / half-support.

    A correlation function in three dimensions, one at zero and zero from two on
    (https://doi.org/10.1002/qj.49712555417).
    """
    z = np.minimum(np.abs(ratio), 2.0)
    near = 1 - 5 / 3 * z**2 + 5 / 8 * z**3 + z**4 / 2 - z**5 / 4
    outer = np.maximum(z, 1.0)
    far = 4 - 5 * outer + 5 / 3 * outer**2 + 5 / 8 * outer**3 - outer**4 / 2 + outer**5 / 12
    return np.where(z <= 1.0, near, np.maximum(far - 2 / (3 * outer), 0.0))


def matern_correlation(ratio: Array) -> Array:
    """Return the Matern correlation for nu = 1 at distance / range: h K_1(h), h = sqrt(8) ratio."""
    h = np.maximum(np.sqrt(8.0) * ratio, 1e-9)
    return h * k1(h)


class _DenseSystem(System):
    """Cholesky factorization in the space of the observations."""

    def __init__(self, prior: LocalisedPrior, observed: np.ndarray, noise_var: np.ndarray) -> None:
        self._prior = prior
        self._index = np.flatnonzero(observed)
        noise = noise_var[self._index]
        if len(noise) == prior.size and not noise.any():
            self._factor = prior.root
        else:
            gram = prior.covariance(self._index, self._index)
            gram[np.diag_indices_from(gram)] += noise
            self._factor = cholesky(gram, lower=True, overwrite_a=True, check_finite=False)

    def _weights(self, data: np.ndarray) -> np.ndarray:
        half = solve_triangular(self._factor, data[self._index], lower=True, check_finite=False)
        return solve_triangular(self._factor, half, lower=True, trans="T", check_finite=False)

    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} A data, (nodes, m); zero where nothing is observed."""
        out = np.zeros((self._prior.size, data.shape[1]))
        out[self._index] = self._weights(data)
        return out

    def update(self, data: np.ndarray) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} A data, (nodes, m)."""
        return self._prior.full @ self.solve(data)

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(A data; 0, A C A^T + R), (m,)."""
        half = solve_triangular(self._factor, data[self._index], lower=True, check_finite=False)
        determinant = 2.0 * float(np.log(np.diag(self._factor)).sum())
        return -0.5 * ((half**2).sum(0) + determinant + len(self._index) * _LOG_2PI)


class LocalisedPrior(GaussianPrior):
    r"""A zero-mean Gaussian prior whose EOF covariance is mostly local.

    C = (a + b T) o (L L^T) + S M S + diag(d^2), o elementwise: a share a of the EOF covariance
    L L^T acts at all distances (teleconnections), a share b only within the taper T, which cuts
    the chance correlations of a short history and so can be larger (Houtekamer & Mitchell 2001,
    https://doi.org/10.1175/1520-0493(2001)129<0123:ASEKFF>2.0.CO;2); the variance that is left is
    a Matern field M scaled by S, and a nugget d. Distances are chords. Every posterior is solved
    in the space of its observations; the full covariance is factorized once, for draws.

    Args:
        domain: Where the signal lives.
        loadings: EOFs (channel, node, rank), in the units of the signal, not shrunk.
        local_scale: (channel, node).
        nugget_std: (channel, node), positive.
        global_weight: a.
        tapered_weight: b.
        taper_km: Half the distance at which the taper reaches zero.
        range_km: Range of the Matern field, at which its correlation is about 0.14.

    Raises:
        InputError: If there are more than `MOST_VALUES` values.
    """

    kind = "localised"

    def __init__(
        self,
        domain: Domain,
        loadings: Tensor,
        local_scale: Tensor,
        nugget_std: Tensor,
        *,
        global_weight: float,
        tapered_weight: float,
        taper_km: float,
        range_km: float,
    ) -> None:
        super().__init__()
        self.domain, self.channels = domain, int(loadings.shape[0])
        if self.size > MOST_VALUES:
            raise InputError(
                f"a localised prior of {self.size} values needs their square in memory; the most "
                f"is {MOST_VALUES}. Use the hybrid covariance."
            )
        self.draw_dim = self.size
        self.loadings, self.local_scale, self.nugget_std = loadings, local_scale, nugget_std
        self.global_weight, self.tapered_weight = float(global_weight), float(tapered_weight)
        self.taper_km, self.range_km = float(taper_km), float(range_km)
        self._loadings = loadings.double().flatten(0, 1).numpy()
        self._scale = local_scale.double().flatten().numpy()
        self._nugget_var = nugget_std.double().flatten().numpy() ** 2
        self._positions = domain.positions.numpy()

    def __repr__(self) -> str:
        return (
            f"LocalisedPrior({self.domain!r}, channels={self.channels}, rank={self.rank}, "
            f"taper_km={self.taper_km:.0f}, range_km={self.range_km:.0f})"
        )

    @property
    def rank(self) -> int:
        """Number of EOFs."""
        return self._loadings.shape[1]

    @property
    def variance(self) -> Tensor:
        """Marginal variance (channel, node)."""
        weight = self.global_weight + self.tapered_weight
        total = weight * (self._loadings**2).sum(1) + self._scale**2 + self._nugget_var
        return torch.from_numpy(total).reshape(self.channels, -1)

    @cached_property
    def _tables(self) -> tuple[Array, Array, Array]:
        """Squared chords, and the EOFs' weight and the Matern correlation there."""
        spread = self._positions.max(0) - self._positions.min(0)
        chord = np.linspace(0.0, np.linalg.norm(spread), _TABLE)
        km = chord * self.domain.radius_km
        weight = self.global_weight + self.tapered_weight * gaspari_cohn(km / self.taper_km)
        return chord, weight, matern_correlation(km / self.range_km)

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the block C[rows, columns], float64."""
        if "full" in self.__dict__:
            return self.full[rows[:, None], columns]
        out = np.empty((len(rows), len(columns)))
        for start in range(0, len(rows), _ROWS):
            out[start : start + _ROWS] = self._block(rows[start : start + _ROWS], columns)
        return out

    def _block(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        nodes = self.domain.num_nodes
        first, second = self._positions[rows % nodes], self._positions[columns % nodes]
        square = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2.0 * first @ second.T
        table, weight, matern = self._tables
        place = np.sqrt(np.maximum(square, 0.0)) * ((_TABLE - 1) / table[-1])
        lower = np.minimum(place.astype(np.int32), _TABLE - 2)
        fraction = place - lower
        block = self._loadings[rows] @ self._loadings[columns].T
        block *= weight[lower] + fraction * (weight[lower + 1] - weight[lower])
        local = matern[lower] + fraction * (matern[lower + 1] - matern[lower])
        local *= self._scale[rows][:, None] * self._scale[columns]
        if self.channels > 1:
            local *= (rows // nodes)[:, None] == columns // nodes
        same = rows[:, None] == columns
        return block + local + np.where(same, self._nugget_var[rows][:, None], 0.0)

    @cached_property
    def full(self) -> np.ndarray:
        """The covariance (nodes, nodes), float64."""
        every = np.arange(self.size)
        return self.covariance(every, every)

    @cached_property
    def root(self) -> np.ndarray:
        """Lower Cholesky factor of the covariance."""
        return cholesky(self.full, lower=True, check_finite=False)

    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (nodes, m) to prior draws (nodes, m)."""
        return self.root @ noise

    def make_system(self, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the dense system of an observed set."""
        return _DenseSystem(self, observed, noise_var)

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return a JSON-able configuration and the tensors (loadings as float16)."""
        names = ("global_weight", "tapered_weight", "taper_km", "range_km")
        config = {"kind": self.kind, **{name: getattr(self, name) for name in names}}
        return config, {
            "loadings": self.loadings.half(),
            "local_scale": self.local_scale.float(),
            "nugget_std": self.nugget_std.float(),
        }

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], domain: Domain
    ) -> LocalisedPrior:
        """Rebuild a prior from `to_state`."""
        parts = [tensors[name].float() for name in ("loadings", "local_scale", "nugget_std")]
        return cls(
            domain,
            *parts,
            global_weight=float(config["global_weight"]),
            tapered_weight=float(config["tapered_weight"]),
            taper_km=float(config["taper_km"]),
            range_km=float(config["range_km"]),
        )
