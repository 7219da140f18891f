"""Orientations of crystals in grains: smooth within each, with a jump at its boundary."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.manifold import Manifold, length

__all__ = ["Grains"]

Array = NDArray[np.float64]

_AROUND = 8  # neighbours that grains are joined by
_NEAREST = 24  # observed neighbours that a point may have its grain of
_OF_GRAIN = 12  # of these, most that its orientation is interpolated from
_HELD = 0.1  # share of the observations that the spread is learned from
_SHIFTS = (0.25, 0.5, 0.75, 1.0)  # in distances of neighbours; how far boundaries may move
_SMOOTH = 3  # rounds of averaging of the shifts
_FARTHEST = 4.0  # lags of the variogram, in distances of neighbours


@dataclass(frozen=True)
class _Near:
    """What some points are interpolated from, with the grain of each given.

    Attributes:
        estimate: Orientation (point, ambient).
        scale: Standard deviation (point,) of a coordinate.
    """

    estimate: Tensor
    scale: Tensor


class Grains:
    """A map of orientations as grains: which grain a point is of, and the orientation in it.

    Neighbours that differ by less than an angle are of one grain. Within a grain the logarithms at
    a near orientation are kriged with the variogram (nugget and linear) of all grains, by ordinary
    kriging from the nearest observations of this grain alone. Members move boundaries: each point
    takes its grain from the observation that is nearest to it after a smooth random shift. The size
    of the shifts, and the law of the errors in units of the kriging deviation, are those of
    observations that were held out.

    Args:
        manifold: Manifold of the orientations, such as ``Rotations("cubic")``.
        positions: Positions (node, k) of all nodes.
        points: Orientations (node, ambient), NaN where none was observed.
        angle: Difference of neighbours, in the unit of the manifold, that parts grains.
        seed: Seed of what is held out.

    Raises:
        InputError: If fewer than a hundred orientations were observed.
    """

    def __init__(
        self, manifold: Manifold, positions: Array, points: Tensor, angle: float, seed: int = 0
    ) -> None:
        known = (~points.isnan().any(-1)).numpy()
        if known.sum() < 100:
            raise InputError(f"{known.sum()} orientations were observed; grains need 100")
        self.manifold, self.angle, self.positions = manifold, angle, positions
        self.step = float(np.median(cKDTree(positions).query(positions[:2000], 2)[0][:, 1]))
        rng = np.random.default_rng(seed)
        held = known & (rng.random(len(known)) < _HELD)
        self._observe(points, known & ~held)
        self.nugget, self.slope = self._variogram()
        truth = points[torch.from_numpy(held)].double()
        self.shift = 0.0
        self.errors = torch.ones(1, dtype=torch.float64)
        at = positions[held]
        near = self._interpolate(at, self._grain_of(at))
        errors = manifold.distance(near.estimate, truth)
        self.errors = (errors / near.scale)[errors < 2.0 * angle]
        self.shift = self._choose_shift(at, truth, seed)
        self._observe(points, known)

    def _observe(self, points: Tensor, known: NDArray[np.bool_]) -> None:
        """Take observations, and find their grains."""
        self.points = points[torch.from_numpy(known)].double()
        self.at = self.positions[known]
        self.tree = cKDTree(self.at)
        distance, other = self.tree.query(self.at, _AROUND + 1)
        first = np.repeat(np.arange(len(self.at)), _AROUND)
        second = other[:, 1:].ravel()
        apart = self.manifold.distance(self.points[first], self.points[second]).numpy()
        joined = (apart < self.angle) & (distance[:, 1:].ravel() < 2.0 * self.step)
        edges = (np.ones(joined.sum()), (first[joined], second[joined]))
        graph = coo_array(edges, shape=(len(self.at),) * 2).tocsr()
        self.labels = connected_components(graph, directed=False)[1]

    def _variogram(self) -> tuple[float, float]:
        """Fit nugget and slope of half the mean square difference of a coordinate, by distance."""
        distance, other = self.tree.query(self.at[::3], _NEAREST)
        first = np.repeat(np.arange(len(self.at))[::3], _NEAREST - 1)
        second, lag = other[:, 1:].ravel(), distance[:, 1:].ravel()
        same = (self.labels[first] == self.labels[second]) & (lag < _FARTHEST * self.step)
        apart = self.manifold.distance(self.points[first[same]], self.points[second[same]])
        half = 0.5 * apart.numpy() ** 2 / self.manifold.dim
        design = np.stack([np.ones(same.sum()), lag[same]], 1)
        nugget, slope = np.linalg.lstsq(design, half, rcond=None)[0]
        least = 0.02 * float(half.mean())
        return max(float(nugget), least), max(float(slope), least / self.step)

    def _grain_of(self, at: Array) -> NDArray[np.int64]:
        """Return the grain of the observation that is nearest to each position."""
        return self.labels[self.tree.query(at)[1]]

    def _interpolate(self, at: Array, grain: NDArray[np.int64]) -> _Near:
        """Krige the orientation at positions from the nearest observations of the grain given."""
        distance, other = self.tree.query(at, _NEAREST)
        own = self.labels[other] == grain[:, None]
        own[:, 0] |= ~own.any(1)  # a shift may have found a grain that is farther away
        order = np.argsort(np.where(own, distance, np.inf), 1)[:, :_OF_GRAIN]
        rows = np.arange(len(at))[:, None]
        other, distance, own = other[rows, order], distance[rows, order], own[rows, order]
        some = self.points[other]
        base = some[:, 0]
        logs = self.manifold.log(base[:, None], some)
        places = self.at[other]
        among = np.linalg.norm(places[:, :, None] - places[:, None], axis=-1)
        count = order.shape[1]
        system = np.zeros((len(at), count + 1, count + 1))
        system[:, :count, :count] = self.nugget + self.slope * among
        system[:, range(count), range(count)] = np.where(own, 0.0, 1e9)
        system[:, count, :count] = system[:, :count, count] = own
        right = np.concatenate(
            [np.where(own, self.nugget + self.slope * distance, 0.0), np.ones((len(at), 1))], 1
        )
        weights = np.linalg.solve(system, right[..., None])[..., 0]
        variance = (weights * right).sum(1).clip(min=self.nugget)
        given = torch.from_numpy(np.where(own, weights[:, :count], 0.0))
        vector = (given[..., None] * logs).sum(1)
        return _Near(self.manifold.exp(base, vector), torch.from_numpy(variance).sqrt())

    def _shifted(self, at: Array, shift: float, rng: np.random.Generator) -> Array:
        """Return positions moved by smooth random vectors of a size, in distances of neighbours."""
        count = min(_AROUND, len(at))
        other = cKDTree(at).query(at, count)[1]
        rows = np.repeat(np.arange(len(at)), count)
        mean: csr_array = coo_array(
            (np.full(rows.size, 1.0 / count), (rows, other.ravel())), shape=(len(at),) * 2
        ).tocsr()
        field = rng.standard_normal(at.shape)
        for _ in range(_SMOOTH):
            field = mean @ field
        field /= field.std(0) + 1e-12
        moved: Array = at + shift * self.step * field
        return moved

    def members(self, at: Array, count: int, seed: int) -> Tensor:
        """Return members (member, point, ambient) of the orientation at positions (point, k)."""
        rng = np.random.default_rng(seed)
        drawn = []
        for _ in range(count):  # one at a time: each has grains of its own
            near = self._interpolate(at, self._grain_of(self._shifted(at, self.shift, rng)))
            normal = torch.from_numpy(rng.standard_normal((len(at), self.manifold.dim)))
            size = self.errors[torch.from_numpy(rng.integers(0, len(self.errors), len(at)))]
            ahead = normal / length(normal)
            frame = self.manifold.frame(near.estimate)
            vector = torch.einsum("...ad,...d->...a", frame, ahead) * (size * near.scale)[:, None]
            drawn.append(self.manifold.exp(near.estimate, vector))
        return torch.stack(drawn)

    def estimate(self, at: Array) -> Tensor:
        """Return the kriged orientation (point, ambient) in the grain that is nearest."""
        return self._interpolate(at, self._grain_of(at)).estimate

    def _choose_shift(self, at: Array, truth: Tensor, seed: int) -> float:
        """Return the size of shifts by which members are of the wrong grain as often as needed."""
        best, least = 0.0, math.inf
        for shift in _SHIFTS:
            rng = np.random.default_rng(seed)
            pair = []
            for _ in range(2):
                near = self._interpolate(at, self._grain_of(self._shifted(at, shift, rng)))
                pair.append(near.estimate)
            error = sum(self.manifold.distance(each, truth).mean() for each in pair) / 2
            score = float(error - 0.5 * self.manifold.distance(*pair).mean())
            if score < least:
                best, least = shift, score
        return best
