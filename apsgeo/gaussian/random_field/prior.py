"""The Gaussian prior of a random field that one gappy field or a few have told of."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from scipy.linalg import cholesky
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.gaussian.localised import DenseSystem
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.random_field.coordinates import coordinates_of
from apsgeo.gaussian.random_field.terms import Terms
from apsgeo.gaussian.systems import System

__all__ = ["RandomFieldPrior"]

_JITTER = 1e-6  # share of the variance, by which the covariance of all nodes is factorized
_ROWS = 256


class RandomFieldPrior(GaussianPrior):
    """A zero-mean Gaussian prior of one channel: a trend, Matern terms and a nugget.

    `VecchiaPrior` samples its posterior at any size. Its exact posterior is solved in the space of
    the observations.

    Args:
        domain: Domain of the signal.
        terms: The Matern terms and the nugget.
        bumps: Weights (node, bump) by which variance and range follow the place.
        trend: Patterns (node, q) of the mean, each times the standard deviation of its amplitude.
    """

    kind = "random field"

    def __init__(self, domain: Domain, terms: Terms, bumps: Tensor, trend: Tensor) -> None:
        super().__init__()
        self.domain, self.channels, self.draw_dim = domain, 1, domain.num_nodes
        self.terms, self.bumps, self.trend = terms, bumps, trend
        self.loadings = trend[None]
        self._place = torch.from_numpy(coordinates_of(domain)).float()
        with torch.no_grad():
            self._log_std, self._log_range = terms.sizes(bumps)

    def __repr__(self) -> str:
        each = zip(
            self.terms.log_std.exp().tolist(),
            self.terms.log_range.exp().tolist(),
            self.terms.smoothness.tolist(),
            strict=True,
        )
        parts = [f"{std:.2g} Matern(range_km={km:.3g}, nu={nu:.2g})" for std, km, nu in each]
        nugget = float(self.terms.log_nugget.exp())
        return f"RandomFieldPrior({self.domain!r}, {' + '.join(parts)} + {nugget:.2g} white)"

    @property
    def variance(self) -> Tensor:
        """Marginal variance (channel, node)."""
        own = (2.0 * self._log_std.double()).exp().sum(1) + self.trend.double().square().sum(1)
        return (own + torch.exp(2.0 * self.terms.log_nugget.double()))[None]

    def covariance_blocks(self, values: Tensor, leading: int | None = None) -> Tensor:
        """Return the blocks C[v, v[:leading]] (block, i, leading) of values v (block, i), float32.

        They are computed on the device of the values.
        """
        count = values.shape[1] if leading is None else leading
        tensors = self._place, self._log_std, self._log_range, self.trend
        place, log_std, log_range, trend = (each.to(values.device)[values] for each in tensors)
        with torch.no_grad():
            block = self.terms.blocks(place, log_std, log_range, count)
        block.baddbmm_(trend, trend[:, :count].mT)
        same = values[:, :, None] == values[:, None, :count]
        return block.add_(same, alpha=float(torch.exp(2.0 * self.terms.log_nugget)))

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the block C[rows, columns], of the precision of `covariance_blocks`."""
        out = np.empty((len(rows), len(columns)))
        for start in range(0, len(rows), _ROWS):
            part = rows[start : start + _ROWS]
            both = torch.from_numpy(np.concatenate([columns, part]))[None]
            out[start : start + _ROWS] = self.covariance_blocks(both, len(columns))[
                0, len(columns) :
            ]
        return out

    @cached_property
    def _root(self) -> np.ndarray:
        every = np.arange(self.size)
        matrix = self.covariance(every, every)
        matrix[np.diag_indices_from(matrix)] *= 1.0 + _JITTER
        return cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)

    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (draw_dim, m) to prior draws (size, m)."""
        return self._root @ noise

    def make_system(self, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the dense system of an observed set."""
        return DenseSystem(self, observed, noise_var)
