"""The order in which a Vecchia approximation draws nodes: blocks, from coarse to fine."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

__all__ = ["Blocks", "Ordering", "nearest_of", "nearest_others", "rank_within"]

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Index = NDArray[np.int64]

_FIRST = 4  # log2 of the number of parts that have a node on the coarsest level
_SPARSE = 16  # least number of nodes for each node of the finest of the coarse levels
_NEIGHBOURS = 8  # nearest blocks that are drawn at other times
_WIDE = 2  # log2 of the blocks of the last level that a coarse block may span


@dataclass(frozen=True)
class Blocks:
    """Blocks of nodes of about one size; each is drawn together, given some nodes before it.

    Attributes:
        nodes: Nodes (block, t).
        real: Which of them (block, t) are nodes; the others are padding.
        before: Nodes (block, p) drawn before, the nearest to the block.
        known: Which of them (block, p) are nodes; the others are padding.
        centre: Centres (block, d) of the blocks.
        steps: Blocks that are drawn at a time, as ranges, in the order of drawing.
    """

    nodes: Tensor
    real: Tensor
    before: Tensor
    known: Tensor
    centre: Array
    steps: tuple[slice, ...]

    def __len__(self) -> int:
        return len(self.centre)

    @classmethod
    def single(cls, positions: Array, nodes: Tensor) -> Blocks:
        """Return a block of each of some nodes (n,), which is given no node before it."""
        one, none = torch.ones(len(nodes), 1, dtype=torch.bool), nodes.new_zeros(len(nodes), 0)
        steps = (slice(0, len(nodes)),)
        return cls(nodes[:, None], one, none, none.bool(), positions[nodes.numpy()], steps)

    def of_values(self, channels: int, nodes: int) -> Blocks:
        """Return the blocks of values (channel * node), with all channels of their nodes."""
        shift = nodes * torch.arange(channels)[:, None]
        return Blocks(
            (self.nodes[:, None] + shift).flatten(1),
            self.real.repeat(1, channels),
            (self.before[:, None] + shift).flatten(1),
            self.known.repeat(1, channels),
            self.centre,
            self.steps,
        )


@dataclass(frozen=True)
class Ordering:
    """The nodes in the order of drawing: few and far apart at first, the gaps between them last.

    The nodes are bisected along their widest axis again and again (a k-d tree). The coarsest level
    holds the central node of each of 16 parts, and every further one that of each quarter of a
    part; the last level holds all nodes that are left, in blocks of neighbours. The blocks of a
    level are coloured so that neighbours differ, and those of a colour are drawn at a time. So a
    node is drawn given near ones and far ones, as in the maximin ordering of Guinness (2018, arXiv
    1609.05372), in a number of steps that grows as the log of the number of nodes.

    Attributes:
        coarse: Small blocks, of all levels but the last.
        fine: The blocks of the last level.
    """

    coarse: Blocks | None
    fine: Blocks

    @property
    def parts(self) -> tuple[Blocks, ...]:
        """The blocks in the order of drawing."""
        return (self.fine,) if self.coarse is None else (self.coarse, self.fine)

    def of_values(self, channels: int, nodes: int) -> Ordering:
        """Return the ordering of values (channel * node)."""
        return Ordering(*(part and part.of_values(channels, nodes) for part in vars(self).values()))

    @classmethod
    def of(cls, positions: Array, *, block: int = 24, before: int = 24) -> Ordering:
        """Order the nodes at some positions (node, d).

        Args:
            positions: Positions of the nodes.
            block: Number of nodes of a block, up to a factor of the root of two.
            before: Number of earlier nodes that a block is drawn given.
        """
        nodes = len(positions)
        last = max(0, round(np.log2(nodes / block)))
        levels = range(_FIRST, int(np.log2(max(1, nodes // _SPARSE))) + 1, 2)
        deepest = max([last, *levels])
        wide = max(0, last - _WIDE)
        part = _bisected(positions, deepest)
        free = np.ones(nodes, dtype=bool)
        drawn = np.zeros(0, dtype=np.int64)
        coarse: list[_Step] = []
        for depth in levels:
            chosen = _representatives(positions, part >> (deepest - depth), free)
            together = min(depth, max(wide, depth - 2))
            coarse += _steps(positions, chosen, part >> (deepest - together), drawn, before)
            drawn = np.concatenate([drawn, chosen])
            free[chosen] = False
        fine = _steps(positions, np.flatnonzero(free), part >> (deepest - last), drawn, before)
        return cls(_joined(coarse) if coarse else None, _joined(fine))


@dataclass(frozen=True)
class _Step:
    """Blocks that are drawn at a time: their nodes in a row, and for each the nodes before it."""

    nodes: Index
    sizes: Index
    centre: Array
    before: Index
    known: Bools


def nearest_of(positions: Array, centre: Array, count: int) -> tuple[Index, Array]:
    """Return the `count` positions (query, count) that are nearest to each, and their distances."""
    rank = np.arange(1, min(count, len(positions)) + 1)
    if len(rank) == 0:
        return np.zeros((len(centre), 0), dtype=np.int64), np.zeros((len(centre), 0))
    away, place = cKDTree(positions).query(centre, k=rank, workers=torch.get_num_threads())
    return place, away


def nearest_others(positions: Array, own: Index, count: int) -> Index:
    """Return the `count` positions (n, count) nearest to each of some (n,), but for itself."""
    near = nearest_of(positions, positions[own], 1 + count)[0]
    last = np.argsort(near == own[:, None], axis=1, kind="stable")[:, :-1]
    return np.take_along_axis(near, last, 1)


def _bisected(positions: Array, depth: int) -> Index:
    """Return the part (node,) of each node after `depth` bisections of every part."""
    part = np.zeros(len(positions), dtype=np.int64)
    order = np.arange(len(positions))
    for _ in range(depth):
        starts = _starts(part[order])
        sizes = np.diff(starts, append=len(order))
        least = np.minimum.reduceat(positions[order], starts)
        most = np.maximum.reduceat(positions[order], starts)
        along = np.repeat((most - least).argmax(1), sizes)
        order = order[np.lexsort((positions[order, along], part[order]))]
        rank = rank_within(sizes)
        part[order] = 2 * part[order] + (2 * rank >= np.repeat(sizes, sizes))
    return part


def rank_within(sizes: Index) -> Index:
    """Return the place of each element in its group, for groups of some sizes in a row."""
    return np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)


def _starts(sorted_parts: Index) -> Index:
    return np.flatnonzero(np.diff(sorted_parts, prepend=-1))


def _representatives(positions: Array, part: Index, free: Bools) -> Index:
    """Return the most central node of each part in which all nodes are free."""
    sizes = np.bincount(part)
    centre = np.stack([np.bincount(part, axis) / sizes for axis in positions.T], 1)
    away = ((positions - centre[part]) ** 2).sum(1)
    order = np.lexsort((away, part))
    first = order[_starts(part[order])]
    return first[np.bincount(part, ~free) == 0]


def _steps(positions: Array, nodes: Index, part: Index, drawn: Index, before: int) -> list[_Step]:
    """Group nodes by their part, and the parts into steps in which no two are neighbours."""
    nodes = nodes[np.argsort(part[nodes], kind="stable")]
    starts = _starts(part[nodes])
    sizes = np.diff(starts, append=len(nodes))
    centre = np.add.reduceat(positions[nodes], starts) / sizes[:, None]
    colour = _coloured(centre)
    steps: list[_Step] = []
    for each in range(colour.max() + 1):
        here = colour == each
        chosen = nodes[np.repeat(here, sizes)]
        found, known = _before(positions, drawn, chosen, sizes[here], before)
        steps.append(_Step(chosen, sizes[here], centre[here], found, known))
        drawn = np.concatenate([drawn, chosen])
    return steps


def _coloured(centre: Array) -> Index:
    """Give blocks numbers, each the smallest that no neighbour before it has."""
    near = nearest_of(centre, centre, _NEIGHBOURS + 1)[0]
    pairs = np.stack([np.repeat(np.arange(len(centre)), near.shape[1]), near.ravel()])
    pairs = np.concatenate([pairs, pairs[::-1]], 1)
    pairs = pairs[:, pairs[0] > pairs[1]]
    earlier = pairs[1, np.argsort(pairs[0], kind="stable")].tolist()
    ends = np.cumsum(np.bincount(pairs[0], minlength=len(centre))).tolist()
    colour: list[int] = []
    for start, end in pairwise([0, *ends]):
        taken = {colour[other] for other in earlier[start:end]}
        colour.append(next(c for c in count() if c not in taken))
    return np.array(colour)


def _before(
    positions: Array, drawn: Index, nodes: Index, sizes: Index, most: int
) -> tuple[Index, Bools]:
    """Return the drawn nodes (block, most) nearest to any node of a block, and which exist."""
    place, away = nearest_of(positions[drawn], positions[nodes], most)
    block = np.repeat(np.arange(len(sizes)), sizes * place.shape[1])
    order = np.lexsort((away.ravel(), place.ravel(), block))
    block, other, least = block[order], place.ravel()[order], away.ravel()[order]
    first = (np.diff(block, prepend=-1) != 0) | (np.diff(other, prepend=-1) != 0)
    block, other, least = block[first], other[first], least[first]
    order = np.lexsort((least, block))
    block, other = block[order], other[order]
    rank = rank_within(np.bincount(block, minlength=len(sizes)))
    near = rank < most
    found = np.zeros((len(sizes), most), dtype=np.int64)
    known = np.zeros((len(sizes), most), dtype=bool)
    found[block[near], rank[near]], known[block[near], rank[near]] = drawn[other[near]], True
    return found, known


def _joined(steps: list[_Step]) -> Blocks:
    sizes = np.concatenate([step.sizes for step in steps])
    real = np.arange(sizes.max()) < sizes[:, None]
    nodes = np.zeros(real.shape, dtype=np.int64)
    nodes[real] = np.concatenate([step.nodes for step in steps])
    ends = np.cumsum([len(step.sizes) for step in steps]).tolist()
    return Blocks(
        torch.from_numpy(nodes),
        torch.from_numpy(real),
        torch.from_numpy(np.concatenate([step.before for step in steps])),
        torch.from_numpy(np.concatenate([step.known for step in steps])),
        np.concatenate([step.centre for step in steps]),
        tuple(slice(end - len(s.sizes), end) for end, s in zip(ends, steps, strict=True)),
    )
