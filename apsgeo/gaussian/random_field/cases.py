"""What a random field is fitted to: observations, each predicted from some of the others."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from apsgeo.gaussian.random_field.coordinates import middles_of

__all__ = ["Cases", "gap_cases", "ordered_cases"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]
Bools = NDArray[np.bool_]

_DENSE = 1500  # observations of a record whose neighbours are found among all earlier ones
_FIRST = 512  # earliest observations, which tell of long distances: all of them are cases
_TRIED = 24  # moves of the gaps that are tried for one that is taken
_ASKED = 1000  # hidden observations whose distances are compared
_THIN = 40  # one in so many observations is a far one
_LEAST_HIDDEN = 30
_REGIONS = 32  # parts of the gaps around each of which observations are hidden


@dataclass(frozen=True, eq=False)
class Cases:
    """Observations to predict, and those that each is predicted from.

    Attributes:
        node: Node of the observation and of its neighbours, (case, 1 + k).
        value: Their values (case, 1 + k).
        noise_var: Variance (case, 1 + k) of their noise.
        known: Which of them (case, 1 + k) are there; the others are padding.
        weight: Weight (case,) in the loss; their sum is the number of observations.
    """

    node: Tensor
    value: Tensor
    noise_var: Tensor
    known: Tensor
    weight: Tensor

    def __len__(self) -> int:
        return len(self.node)

    def __getitem__(self, index: Tensor | slice) -> Cases:
        return Cases(*(tensor[index] for tensor in vars(self).values()))

    @classmethod
    def of(
        cls,
        node: Index,
        known: Bools,
        record: Index,
        values: Array,
        noise_var: Array,
        weight: Array,
    ) -> Cases:
        """Make cases of nodes (case, 1 + k) of some records (case,), with values (record, node)."""
        where = record[:, None], node
        return cls(
            torch.from_numpy(node),
            torch.from_numpy(np.where(known, values[where], 0.0)).float(),
            torch.from_numpy(np.where(known, noise_var[where], 1.0)).float(),
            torch.from_numpy(known),
            torch.from_numpy(weight).float(),
        )


def ordered_cases(
    place: Array,
    values: Array,
    noise_var: Array,
    most: int,
    neighbours: int,
    rng: np.random.Generator,
) -> Cases:
    """Return the factors of the likelihood in a random order, each given near earlier values.

    The product of the conditional densities is Vecchia's likelihood (Guinness 2018, arXiv
    1609.05372), and the exact one where every earlier value of a record is a neighbour. Of many
    observations, all early ones, which are far apart, and a random part of the others are taken,
    with weights that make the sum unbiased.

    Args:
        place: Coordinates (node, d).
        values: Values (record, node), NaN where not observed.
        noise_var: Variance (record, node) of their noise.
        most: Most cases.
        neighbours: Most neighbours of a case.
        rng: Generator of the order and the part.
    """
    parts, records, weights = [], [], []
    seen = [np.flatnonzero(row) for row in np.isfinite(values)]
    each = max(1, most // sum(len(nodes) > 0 for nodes in seen))
    for record, nodes in enumerate(seen):
        if not len(nodes):
            continue
        order = rng.permutation(nodes)
        first = min(_FIRST, len(order), each)
        later = first + rng.permutation(len(order) - first)[: each - first]
        rank = np.concatenate([np.arange(first), np.sort(later)])
        parts.append(_earlier(place, order, rank, neighbours))
        records.append(np.full(len(rank), record))
        share = (len(order) - first) / max(1, len(later))
        weights.append(np.where(rank < first, 1.0, share))
    node, known = _padded(parts)
    record = np.concatenate(records)
    return Cases.of(node, known, record, values, noise_var, np.concatenate(weights))


def _padded(parts: list[Index]) -> tuple[Index, Bools]:
    """Join nodes (case, k) with -1 for none; return them with node 0 there, and which are real."""
    width = max(part.shape[1] for part in parts)
    wide = [np.pad(p, ((0, 0), (0, width - p.shape[1])), constant_values=-1) for p in parts]
    node = np.concatenate(wide)
    return np.maximum(node, 0), node >= 0


def _earlier(place: Array, order: Index, rank: Index, count: int) -> Index:
    """Return nodes (case, 1 + k): that of each rank, and the nearest that are earlier, else -1."""
    count = min(count, len(order) - 1)
    out = np.full((len(rank), 1 + count), -1)
    out[:, 0] = order[rank]
    if len(order) <= _DENSE:
        away = np.linalg.norm(place[order[rank]][:, None] - place[order], axis=2)
        away[np.arange(len(order)) >= rank[:, None]] = np.inf
        near = np.argsort(away, axis=1, kind="stable")[:, :count]
        out[:, 1:] = np.where(np.arange(count) < rank[:, None], order[near], -1)
        return out
    start = 1
    while start < len(order):
        here = np.flatnonzero((rank >= start) & (rank < 2 * start))
        near = _nearest(place[order[:start]], place[order[rank[here]]], count)
        out[here, 1 : 1 + near.shape[1]] = order[near]
        start *= 2
    return out


def _nearest(points: Array, asked: Array, count: int) -> Index:
    """Return the numbers (query, k) of the nearest points."""
    if not len(asked):
        return np.zeros((0, min(count, len(points))), dtype=np.int64)
    wanted = np.arange(1, min(count, len(points)) + 1)
    return cKDTree(points).query(asked, k=wanted, workers=torch.get_num_threads())[1]


def gap_cases(
    place: Array,
    values: Array,
    noise_var: Array,
    valid: Bools,
    most: int,
    neighbours: int,
    moves: int,
    rng: np.random.Generator,
) -> Cases | None:
    """Hide observations as the gaps hide values, and predict them from what is left.

    The gaps of a record are moved over its observations, by a translation of the coordinates. Of
    many moves those are taken whose hidden observations are about as far from others as the gaps'
    values are, and of these observations as many from around each part of the gaps. So parameters
    are chosen by predictions like those that are asked for, in their distances and their places.

    Args:
        place: Coordinates (node, d).
        values: Values (record, node), NaN where not observed.
        noise_var: Variance (record, node) of their noise.
        valid: Mask (node,), false where there is nothing to fill.
        most: Number of cases.
        neighbours: Number of nearest neighbours; a quarter more are far ones.
        moves: Number of moves.
        rng: Generator of the moves and the cases.

    Returns:
        The cases; None where no move hides enough observations.
    """
    found = [
        move
        for record in rng.permutation(len(values))
        for move in _moves(place, np.isfinite(values[record]), valid, record, rng)
    ]
    found = sorted(found, key=lambda move: move.unlike)[:moves]
    if not found:
        return None
    gaps = np.concatenate([np.flatnonzero(valid & ~np.isfinite(row)) for row in values])
    middles = cKDTree(middles_of(place[gaps], min(_REGIONS, 2 ** int(np.log2(len(gaps))))))
    pool = [(k, node) for k, move in enumerate(found) for node in np.flatnonzero(move.hidden)]
    which, candidates = np.array(pool).T
    taken = _evenly(middles.query(place[candidates])[1], most, rng)
    parts, records = [], []
    for k, move in enumerate(found):
        left = np.flatnonzero(move.left)
        chosen = candidates[taken[which[taken] == k]]
        near = left[_nearest(place[left], place[chosen], neighbours)]
        thin = rng.permutation(left)[: max(1, len(left) // _THIN)]
        far = thin[_nearest(place[thin], place[chosen], neighbours // 4)]
        again = (far[:, :, None] == near[:, None]).any(2)
        parts.append(np.concatenate([chosen[:, None], near, np.where(again, -1, far)], 1))
        records.append(np.full(len(chosen), move.record))
    node, known = _padded(parts)
    record = np.concatenate(records)
    seen = np.isfinite(values).sum()
    weight = np.full(len(node), seen / len(node))
    return Cases.of(node, known, record, values, noise_var, weight)


def _evenly(group: Index, count: int, rng: np.random.Generator) -> Index:
    """Choose elements of groups (element,), as many of each group as there are."""
    order = rng.permutation(len(group))
    order = order[np.argsort(group[order], kind="stable")]
    sizes = np.bincount(group)
    rank = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    chosen: Index = order[np.argsort(rank, kind="stable")[:count]]
    return chosen


@dataclass(frozen=True, eq=False)
class _Move:
    record: int
    hidden: Bools
    left: Bools
    unlike: float


def _moves(
    place: Array, seen: Bools, valid: Bools, record: int, rng: np.random.Generator
) -> list[_Move]:
    """Try moves of a record's gaps; `unlike` compares log distances to the nearest observation."""
    gaps, nodes = np.flatnonzero(valid & ~seen), np.flatnonzero(seen)
    if not len(gaps) or len(nodes) < 2 * _LEAST_HIDDEN:
        return []
    every = np.flatnonzero(valid)
    tree, observed = cKDTree(place[every]), cKDTree(place[nodes])
    spacing = np.median(tree.query(place[rng.choice(every, min(len(every), 500))], k=2)[0][:, 1])
    wanted = _log_distances(place, gaps, nodes, rng)
    out = []
    for _ in range(_TRIED):
        gap = place[rng.choice(gaps)]
        reach = int(np.exp(rng.uniform(np.log(_LEAST_HIDDEN), np.log(len(nodes)))))
        start = rng.choice(observed.query(gap, k=reach)[1])
        moved = place[nodes] + gap - place[nodes[start]]
        away, nearest = tree.query(moved, workers=torch.get_num_threads())
        covered = ~seen[every[nearest]] & (away <= spacing)
        if not _LEAST_HIDDEN <= covered.sum() <= 0.6 * len(nodes):
            continue
        hidden, left = np.zeros_like(seen), np.zeros_like(seen)
        hidden[nodes[covered]], left[nodes[~covered]] = True, True
        distances = _log_distances(place, nodes[covered], nodes[~covered], rng)
        levels = np.linspace(0.05, 0.95, 19)
        unlike = np.abs(np.quantile(distances, levels) - np.quantile(wanted, levels)).mean()
        out.append(_Move(record, hidden, left, float(unlike)))
    return out


def _log_distances(place: Array, asked: Index, nodes: Index, rng: np.random.Generator) -> Array:
    chosen = rng.choice(asked, min(len(asked), _ASKED), replace=False)
    distance = cKDTree(place[nodes]).query(place[chosen])[0]
    return np.log(np.maximum(distance, 1e-9))
