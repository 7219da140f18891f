"""Normals of a history with gaps: what is seldom seen borrows from the year and from neighbours."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.measurement.normals import Normals
from apsgeo.measurement.seasons import seasons_of

__all__ = ["LEAST_SEEN", "shrunk_normals"]

LEAST_SEEN = 2
"""Least records in which a node is seen; nodes seen in fewer count as land."""

_HARMONICS = 3  # harmonics of the annual cycle that each value has
_SWEEPS = 8  # times that values borrow from their neighbours
_COUNT = 4.0  # observations that the variance of a value's neighbours counts for


@dataclass(frozen=True)
class _Seen:
    """Observed values as a matrix (record, value), and the neighbours of the values.

    Attributes:
        values: Values, zero where not observed.
        mask: One where observed, else zero.
        onehot: Indicator (record, season) of each record's season.
        edges: Pairs (2, edge) of neighbouring values.
    """

    values: Tensor
    mask: Tensor
    onehot: Tensor
    edges: Tensor

    def by_season(self, values: Tensor) -> Tensor:
        """Return the sums (season, value) of (record, value) over the records of each season."""
        return self.onehot.T @ values

    def of_neighbours(self, numbers: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted mean over a value and its neighbours, (value, k)."""
        total, heavy = weights[:, None] * numbers, weights.clone()
        here, there = self.edges
        total.index_add_(0, here, weights[there, None] * numbers[there])
        heavy.index_add_(0, here, weights[there])
        known = (heavy > 0)[:, None]
        return torch.where(known, total / heavy.clamp(min=1e-12)[:, None], numbers)


def shrunk_normals(
    domain: Domain,
    fields: Tensor,
    season: Tensor,
    seasons: int,
    baseline: Tensor | None = None,
    *,
    least_std: float = 1e-3,
) -> Normals:
    """Fit normals to fields that have gaps, by shrinkage.

    Each value has three harmonics of the annual cycle, drawn to those of neighbours by as much as
    neighbours are alike where they are seen often, and departures of each season from them, drawn
    to zero by as much as they are small where they are seen often. Standard deviations are drawn to
    those of all seasons, and these to those of the neighbours.

    Args:
        domain: Domain of the fields.
        fields: Fields (time, channel, node), NaN where not observed.
        season: Index (time,) of each record's season.
        seasons: Number of seasons.
        baseline: Mask (time,), true for the records that define the mean; all by default.
        least_std: Least standard deviation of a node, in root mean squares of all.

    Raises:
        InputError: If no node is seen twice, the history does not vary, or a season has fewer than
            two records in the baseline.
    """
    shape = fields.shape[1:]
    counts = torch.bincount(season if baseline is None else season[baseline], minlength=seasons)
    if int(counts.min()) < LEAST_SEEN:
        raise InputError(
            f"season {int(counts.argmin())} has {int(counts.min())} records in the baseline, at "
            f"least {LEAST_SEEN} are needed; give a longer history or another baseline."
        )
    observed = torch.isfinite(fields)
    valid = (observed.sum(0) >= LEAST_SEEN).all(0)
    if not bool(valid.any()):
        raise InputError(
            f"no cell of the history is seen in {LEAST_SEEN} records or more; give more records."
        )
    observed = observed & valid
    nodes = torch.arange(shape[0])[:, None] * shape[1]
    edges = (domain.edge_index[:, None] + nodes).flatten(1)
    onehot = torch.nn.functional.one_hot(season, seasons).double()
    flat = torch.where(observed, fields.double(), 0.0).flatten(1)
    data = _Seen(flat, observed.flatten(1).double(), onehot, edges)
    chosen = data
    if baseline is not None:
        mask = data.mask * baseline.double()[:, None]
        chosen = _Seen(flat * mask, mask, onehot, edges)
    mean, lost = _means(chosen, seasons)
    var = _variances(data, mean, lost)
    floor = least_std * var.reshape(seasons, *shape)[..., valid].mean().sqrt()
    if not bool(floor > 0):
        raise InputError("the history does not vary; there is nothing to learn from it.")
    std = torch.where(valid, var.reshape(seasons, *shape).sqrt().clamp(min=float(floor)), 1.0)
    mean = torch.where(valid, mean.reshape(seasons, *shape), 0.0)
    return Normals(mean.float(), std.float(), valid)


def _harmonics(seasons: int) -> Tensor:
    """Return the harmonics (season, k) of the annual cycle, the constant first."""
    kind = seasons_of(seasons)
    angle = 2.0 * math.pi * torch.arange(kind.parts, dtype=torch.float64) / kind.parts
    waves = [torch.ones(kind.parts, dtype=torch.float64)]
    for k in range(1, min(_HARMONICS, (kind.parts - 1) // 2) + 1):
        waves += [(k * angle).cos(), (k * angle).sin()]
    return torch.stack(waves, 1).repeat_interleave(kind.hours, 0)


def _means(data: _Seen, seasons: int) -> tuple[Tensor, Tensor]:
    """Return the means (season, value), and the degrees of freedom that they cost."""
    waves = _harmonics(seasons)
    counts, sums = data.by_season(data.mask), data.by_season(data.values)
    number = counts.sum(0)
    normal = torch.einsum("si,sj,sv->vij", waves, waves, counts)
    target = torch.einsum("si,sv->vi", waves, sums)
    # First guess: almost least squares, and the mean of all where there is little.
    overall = _solve(normal.sum(0), target.sum(0), torch.full((waves.shape[1],), 1e-9), 0.0)
    ridge = torch.full((waves.shape[1],), 1e-2, dtype=torch.float64)
    ridge[0] = 1e-6
    found = _solve(normal, target, ridge, overall)
    often = number >= number[number > 0].median()
    left = torch.where(data.mask > 0, data.values - data.onehot @ (waves @ found.T), 0.0)
    noise = _drawn(data, (left**2).sum(0), number)
    near = data.of_neighbours(found, number)
    apart = ((found - near)[often] ** 2).mean(0).clamp(min=1e-30)
    for _ in range(_SWEEPS):
        ridge = noise[:, None] / apart
        found = _solve(normal, target, ridge, data.of_neighbours(found, number))
    smooth = waves @ found.T
    rest = sums - counts * smooth
    # A season's mean departs from the harmonics by its own variance and that of a mean of so few.
    excess = torch.where(counts > 0, rest**2 / counts.clamp(min=1.0) - noise, 0.0).sum(0)
    own = _drawn(data, excess, number).clamp(min=0.0)
    pull = noise / own.clamp(min=1e-30)
    return smooth + rest / (counts + pull), counts / (counts + pull)


def _drawn(data: _Seen, total: Tensor, number: Tensor) -> Tensor:
    """Return total / number (value,), drawn to that of the neighbours."""
    typical = float(total.sum() / number.sum())
    found = (total + _COUNT * typical) / (number + _COUNT)
    for _ in range(_SWEEPS):
        near = data.of_neighbours(found[:, None], number)[:, 0]
        found = (total + _COUNT * near) / (number + _COUNT)
    return found


def _solve(normal: Tensor, target: Tensor, ridge: Tensor, around: Tensor | float) -> Tensor:
    """Return the ridge regression's coefficients, drawn to those `around`."""
    matrix = normal + torch.diag_embed(ridge.double())
    right = target + ridge * (around if isinstance(around, Tensor) else torch.tensor(around))
    return torch.linalg.solve(matrix, right[..., None])[..., 0]


def _variances(data: _Seen, mean: Tensor, lost: Tensor) -> Tensor:
    """Return the variances (season, value) about means that cost some degrees of freedom."""
    left = torch.where(data.mask > 0, data.values - data.onehot @ mean, 0.0)
    squares = data.by_season(left**2)
    counts = (data.by_season(data.mask) - lost).clamp(min=0.0)
    total, number = squares.sum(0), counts.sum(0)
    every = _drawn(data, total, number)
    if len(mean) > 2:
        squares, counts = (
            (each.roll(1, 0) + 2.0 * each + each.roll(-1, 0)) / 4.0 for each in (squares, counts)
        )
    return (squares + _COUNT * every) / (counts + _COUNT)
