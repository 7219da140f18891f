"""The localised prior: a tapered EOF covariance, exact up to some twenty thousand values."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky
from scipy.special import k1
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.systems import Gram, System

__all__ = [
    "MOST_VALUES",
    "DenseSystem",
    "LocalisedField",
    "LocalisedPrior",
    "gaspari_cohn",
    "matern_correlation",
]

MOST_VALUES = 20_000
"""Most values (channels times nodes) of which a `LocalisedPrior` has an exact posterior.

It needs their square in memory. `VecchiaPrior` does not, and takes any number.
"""

_ROWS = 1024  # rows of the covariance at once
_TABLE = 8192  # entries of a tabulated correlation function
_FINE_TABLE = 2**18  # entries of one that is not interpolated, for many blocks
_TAPER_ERROR = 1e-2  # mean variance that the taper's factor may leave out, before it is rescaled
_JITTER = 2e-5  # white share of the Matern correlation: poles coincide, and it is kept in float32
_DRAWS = 8  # draws at once

Array = NDArray[np.float64]


def _check_size(values: int) -> None:
    if values > MOST_VALUES:
        raise InputError(
            f"exact draws and posteriors of a localised prior of {values} values need their square "
            f"in memory; the most is {MOST_VALUES}. Use VecchiaPrior(prior), whose cost is linear, "
            "or the hybrid covariance."
        )


def gaspari_cohn(ratio: Array) -> Array:
    """Return the taper of Gaspari & Cohn (1999, equation 4.10) at distance / half-support.

    It is a correlation function in three dimensions, one at zero and zero from two on
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


class LocalisedField:
    """The taper and the Matern field, which localised priors of the same scales share.

    Distances are chords.

    Args:
        domain: Domain of the signal.
        taper_km: Half the distance at which the taper reaches zero.
        range_km: Range of the Matern field, at which its correlation is about 0.14.
        draft: Do not keep the Matern correlation of all nodes; for a few blocks only.
    """

    def __init__(
        self, domain: Domain, taper_km: float, range_km: float, *, draft: bool = False
    ) -> None:
        self.domain, self.draft = domain, draft
        self.taper_km, self.range_km = float(taper_km), float(range_km)
        self._positions = domain.positions.numpy()

    @cached_property
    def taper(self) -> Array:
        """Factor F (node, rank) of the taper F F^T, whose diagonal is one.

        A pivoted Cholesky factorization of the Gaspari-Cohn taper is stopped early (Harbrecht,
        Peters & Schneider 2012, https://doi.org/10.1016/j.apnum.2011.10.001). Rows are rescaled.
        """
        share = (self.domain.areas / self.domain.areas.sum()).numpy()
        left = np.ones(len(share))
        factor = np.zeros((len(share), 0))
        while float(share @ left) > _TAPER_ERROR:
            pivot = int(np.argmax(left))
            away = self._positions - self._positions[pivot]
            km = self.domain.radius_km * np.linalg.norm(away, axis=1)
            column = gaspari_cohn(km / self.taper_km) - factor @ factor[pivot]
            column /= np.sqrt(left[pivot])
            factor = np.column_stack([factor, column])
            left = np.maximum(left - column**2, 0.0)
        return factor / np.linalg.norm(factor, axis=1, keepdims=True)

    @cached_property
    def _table(self) -> tuple[float, Array]:
        """Number of entries per unit of chord length, and the Matern correlation at each."""
        extent = self._positions.max(0) - self._positions.min(0)
        chord = np.linspace(0.0, np.linalg.norm(extent), _TABLE)
        return (_TABLE - 1) / chord[-1], matern_correlation(
            chord * self.domain.radius_km / self.range_km
        )

    def matern(self, rows: np.ndarray, columns: np.ndarray) -> Array:
        """Return the Matern correlation of nodes, (row, column)."""
        if self.draft or len(self._positions) > MOST_VALUES:
            return self._matern(rows, columns)
        return self.matern_full[rows[:, None], columns].astype(np.float64)

    def _matern(self, rows: np.ndarray, columns: np.ndarray) -> Array:
        first, second = self._positions[rows], self._positions[columns]
        square = (first**2).sum(1)[:, None] + (second**2).sum(1) - 2.0 * first @ second.T
        density, table = self._table
        place = np.sqrt(np.maximum(square, 0.0)) * density
        lower = np.minimum(place.astype(np.int32), _TABLE - 2)
        fraction = place - lower
        correlation = table[lower] + fraction * (table[lower + 1] - table[lower])
        same = rows[:, None] == columns
        return np.where(same, 1.0, (1.0 - _JITTER) * correlation)

    @cached_property
    def correlations(self) -> tuple[float, Tensor, Tensor]:
        """Entries per unit of chord length of two fine tables, the taper's and the Matern one."""
        extent = float(np.linalg.norm(self._positions.max(0) - self._positions.min(0)))
        km = np.linspace(0.0, extent, _FINE_TABLE) * self.domain.radius_km
        both = gaspari_cohn(km / self.taper_km), matern_correlation(km / self.range_km)
        taper, matern = (torch.from_numpy(table).float() for table in both)
        return (_FINE_TABLE - 1) / extent, taper, (1.0 - _JITTER) * matern

    @cached_property
    def matern_full(self) -> NDArray[np.float32]:
        """The Matern correlation of all nodes, (node, node).

        Raises:
            InputError: If there are more than `MOST_VALUES` nodes.
        """
        _check_size(len(self._positions))
        every = np.arange(len(self._positions))
        full = np.empty((len(every), len(every)), dtype=np.float32)
        for start in range(0, len(every), _ROWS):
            full[start : start + _ROWS] = self._matern(every[start : start + _ROWS], every)
        return full

    @cached_property
    def matern_root(self) -> NDArray[np.float32]:
        """Lower Cholesky factor of the Matern correlation, (node, node)."""
        full = self.matern_full.astype(np.float64).T
        root = cholesky(full, lower=True, overwrite_a=True, check_finite=False)
        return root.astype(np.float32)


class DenseSystem(System):
    """Cholesky factorization in the space of the observations."""

    def __init__(self, prior: GaussianPrior, observed: np.ndarray, noise_var: np.ndarray) -> None:
        self._prior = prior
        self._index = np.flatnonzero(observed)
        gram = prior.covariance(self._index, self._index)
        gram[np.diag_indices_from(gram)] += noise_var[self._index]
        self._gram = Gram(gram)

    @cached_property
    def _cross(self) -> np.ndarray:
        """Covariance (size, observed) of all values with the observed ones."""
        return self._prior.covariance(np.arange(self._prior.size), self._index)

    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} A data, (size, m); zero where nothing is observed."""
        out = np.zeros((self._prior.size, data.shape[1]))
        out[self._index] = self._gram.solve(data[self._index])
        return out

    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} A data at all or some values."""
        cross = self._cross if nodes is None else self._prior.covariance(nodes, self._index)
        return cross @ self._gram.solve(data[self._index])

    def posterior_variance(self, variance: np.ndarray) -> np.ndarray:
        """Return the posterior variance (size,), block by block."""
        nodes = np.arange(len(variance))
        blocks = np.split(nodes, range(_ROWS, len(nodes), _ROWS))
        cross = (self._prior.covariance(self._index, block) for block in blocks)
        return variance - np.concatenate([self._gram.explained(each) for each in cross])

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(A data; 0, A C A^T + R), (m,)."""
        return self._gram.log_density(data[self._index])


class LocalisedPrior(GaussianPrior):
    r"""A zero-mean Gaussian prior whose EOF covariance is mostly local.

    C = (a + b T) o (L L^T) + S M S + diag(d^2), with o elementwise. A share a of the EOF covariance
    L L^T acts at all distances (teleconnections). A share b acts only within the taper T, which
    cuts the chance correlations of a short history, so that b can be larger (Houtekamer & Mitchell
    2001, https://doi.org/10.1175/1520-0493(2001)129<0123:ASEKFF>2.0.CO;2). A Matern field M scaled
    by S, and a nugget d, make up the rest of the variance. Every posterior is solved in the space
    of its observations. A draw of the EOF part is the sum over EOFs of their loadings times
    independent fields of covariance a + b T.

    Args:
        field: The taper and the Matern field, on the domain of the signal.
        loadings: EOFs (channel, node, rank), in the units of the signal, not shrunk.
        local_scale: Factor S (channel, node) of the Matern field.
        nugget_std: Standard deviation d (channel, node) of the nugget, positive.
        global_weight: Share a of the EOF covariance that acts at all distances.
        tapered_weight: Share b of it that acts within the taper only.

    Exact draws and posteriors raise an InputError if there are more than `MOST_VALUES` values; then
    `VecchiaPrior` samples its posterior.
    """

    kind = "localised"
    direct_entries = MOST_VALUES**2  # its covariance is dense anyway

    def __init__(
        self,
        field: LocalisedField,
        loadings: Tensor,
        local_scale: Tensor,
        nugget_std: Tensor,
        *,
        global_weight: float,
        tapered_weight: float,
    ) -> None:
        super().__init__()
        self.field = field
        self.domain, self.channels = field.domain, int(loadings.shape[0])
        self.loadings, self.local_scale, self.nugget_std = loadings, local_scale, nugget_std
        self.global_weight, self.tapered_weight = float(global_weight), float(tapered_weight)
        self._loadings = loadings.double().flatten(0, 1).numpy()
        self._scale = local_scale.double().flatten().numpy()
        self._nugget_var = nugget_std.double().flatten().numpy() ** 2

    @cached_property
    def _weights(self) -> Array:
        """Factor W (size, feature) of a + b T: the taper's, and a column for all distances."""
        everywhere = np.full((self.domain.num_nodes, 1), np.sqrt(self.global_weight))
        weights = np.hstack([np.sqrt(self.tapered_weight) * self.field.taper, everywhere])
        return np.tile(weights, (self.channels, 1))

    @property
    def draw_dim(self) -> int:  # type: ignore[override]
        """Length of the standard normal vector behind one prior draw."""
        return self.rank * self._weights.shape[1] + 2 * self.size

    def __repr__(self) -> str:
        return (
            f"LocalisedPrior({self.domain!r}, channels={self.channels}, rank={self.rank}, "
            f"taper_km={self.field.taper_km:.0f}, range_km={self.field.range_km:.0f})"
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
        return self._as_signal(total)

    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the block C[rows, columns], float64."""
        out = np.empty((len(rows), len(columns)))
        for start in range(0, len(rows), _ROWS):
            out[start : start + _ROWS] = self._block(rows[start : start + _ROWS], columns)
        return out

    def _block(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        nodes = self.domain.num_nodes
        block = self._weights[rows] @ self._weights[columns].T
        block *= self._loadings[rows] @ self._loadings[columns].T
        local = self.field.matern(rows % nodes, columns % nodes)
        local *= self._scale[rows][:, None]
        local *= self._scale[columns]
        if self.channels > 1:
            local *= (rows // nodes)[:, None] == columns // nodes
        block += local
        row, column = np.nonzero(rows[:, None] == columns)
        block[row, column] += self._nugget_var[rows[row]]
        return block

    @cached_property
    def _tensors(self) -> dict[torch.device, tuple[Tensor, ...]]:
        """Positions, loadings, scale, nugget, and the tables of correlations, by device."""
        return {}

    def _on(self, device: torch.device) -> tuple[Tensor, ...]:
        if device not in self._tensors:
            arrays = self.domain.positions.numpy(), self._loadings, self._scale, self._nugget_var
            tensors = [torch.from_numpy(array).float() for array in arrays]
            tensors += self.field.correlations[1:]
            self._tensors[device] = tuple(tensor.to(device) for tensor in tensors)
        return self._tensors[device]

    def covariance_blocks(self, values: Tensor, leading: int | None = None) -> Tensor:
        """Return the blocks C[v, v[:leading]] (block, i, leading) of values v (block, i), float32.

        They are computed on the device of the values, with the taper itself.
        """
        position, loadings, scale, nugget, taper, matern = self._on(values.device)
        nodes = self.domain.num_nodes
        here = position[values % nodes]
        here = here - here.mean(1, keepdim=True)  # small numbers have small rounding errors
        squares = here.square().sum(2)
        there = here[:, :leading]
        chord = torch.baddbmm(
            squares[:, :, None] + squares[:, None, :leading], here, there.mT, alpha=-2.0
        )
        place = chord.clamp_(min=0.0).sqrt_().mul_(self.field.correlations[0]).to(torch.int32)
        place = place.flatten().clamp_(max=len(taper) - 1)
        weight = taper.index_select(0, place).mul_(self.tapered_weight).add_(self.global_weight)
        each = loadings.index_select(0, values.flatten()).view(*values.shape, -1)
        block = torch.bmm(each, each[:, :leading].mT).mul_(weight.view_as(chord))
        local = matern.index_select(0, place).view_as(chord)
        size = scale[values]
        local.mul_(size[:, :, None]).mul_(size[:, None, :leading])
        if self.channels > 1:
            channel = values // nodes
            local.mul_(channel[:, :, None] == channel[:, None, :leading])
        block.add_(local)
        white = nugget[values] + _JITTER * size.square()
        same = values[:, :, None] == values[:, None, :leading]
        return block.add_(same * white[:, None, :leading])

    def covariance_apply(self, columns: np.ndarray) -> np.ndarray:
        """Return C times columns (size, m), block by block."""
        _check_size(self.size)
        return super().covariance_apply(columns)

    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (draw_dim, m) to prior draws (size, m), in single precision."""
        _check_size(self.size)
        features = self._weights.shape[1]
        ends = np.cumsum([self.rank * features, self.size])
        amplitudes, local, nugget = np.split(noise.astype(np.float32), ends)
        loadings, weights = self._loadings.astype(np.float32), self._weights.astype(np.float32)
        out = np.empty((self.size, noise.shape[1]), dtype=np.float32)
        for start in range(0, noise.shape[1], _DRAWS):
            part = amplitudes[:, start : start + _DRAWS].reshape(self.rank, -1)
            each = (loadings @ part).reshape(self.size, features, -1)
            out[:, start : start + _DRAWS] = (weights[:, None] @ each)[:, 0]
        by_channel = local.reshape(self.channels, -1, noise.shape[1])
        field = np.concatenate([self.field.matern_root @ white for white in by_channel])
        out += self._scale.astype(np.float32)[:, None] * field
        out += np.sqrt(self._nugget_var).astype(np.float32)[:, None] * nugget
        return out.astype(np.float64)

    def make_system(self, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the dense system of an observed set."""
        _check_size(self.size)
        return DenseSystem(self, observed, noise_var)
