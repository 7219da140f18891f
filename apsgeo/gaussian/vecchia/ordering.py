"""The order in which a Vecchia approximation draws nodes: blocks, from coarse to fine."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

__all__ = ["Blocks", "Ordering", "nearest_of"]

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]
Index = NDArray[np.int64]

_FIRST = 4  # log2 of the number of parts that have a node on the coarsest level
_SPARSE = 8  # least number of nodes for each node of the finest of the coarse levels
_WIDE = 2  # times the nodes of a block of the last level that a coarse block may span


@dataclass(frozen=True)
class Blocks:
    """Blocks of nodes of about one size; each is drawn together, given some nodes before it.

    Attributes:
        nodes: Nodes (block, t).
        real: Which of them (block, t) are nodes; the others are padding.
        before: Nodes (block, p) drawn before, the nearest to the block's centre.
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
    part; the last level holds all nodes that are left, in blocks of neighbours. A block is of one
    of four colours, and the blocks of a colour are drawn at a time: neighbours are drawn one given
    the other. So a node is drawn given near ones and far ones, as in the maximin ordering of
    Guinness (2018, arXiv 1609.05372), in a number of steps that grows as the log of their number.

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
    def of(cls, positions: Array, *, block: int = 24, before: int = 12) -> Ordering:
        """Order the nodes at some positions (node, d).

        Args:
            positions: Positions of the nodes.
            block: Largest number of nodes of a block.
            before: Number of earlier nodes that a block is drawn given.
        """
        count = len(positions)
        last = max(0, int(np.ceil(np.log2(count / block))))
        levels = range(_FIRST, int(np.log2(max(1, count // _SPARSE))) + 1, 2)
        deepest = max([last, *levels])
        wide = max(0, int(np.ceil(np.log2(count / (_WIDE * block)))))
        part = _bisected(positions, deepest)
        free = np.ones(count, dtype=bool)
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
    """Blocks that are drawn at a time, and for each the nodes before it."""

    blocks: list[Index]
    centre: Array
    before: Index
    known: Bools


def nearest_of(
    positions: Array, nodes: Index, centre: Array, count: int
) -> tuple[Index, Bools]:
    """Return the nodes (query, count) of some that are nearest to each centre, and which exist."""
    found = np.zeros((len(centre), count), dtype=np.int64)
    exists = np.zeros((len(centre), count), dtype=bool)
    most = min(count, len(nodes))
    if most:
        tree = cKDTree(positions[nodes])
        place = tree.query(centre, k=np.arange(1, most + 1), workers=-1)[1]
        found[:, :most], exists[:, :most] = nodes[place], True
    return found, exists


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
        rank = np.arange(len(order)) - np.repeat(starts, sizes)
        part[order] = 2 * part[order] + (2 * rank >= np.repeat(sizes, sizes))
    return part


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


def _steps(
    positions: Array, nodes: Index, part: Index, drawn: Index, before: int
) -> list[_Step]:
    """Group nodes by their part, and the parts into steps by one of four colours."""
    steps: list[_Step] = []
    for colour in range(4):
        chosen = nodes[part[nodes] % 4 == colour]
        if len(chosen):
            chosen = chosen[np.argsort(part[chosen], kind="stable")]
            starts = _starts(part[chosen])
            sizes = np.diff(starts, append=len(chosen))
            centre = np.add.reduceat(positions[chosen], starts) / sizes[:, None]
            found, known = nearest_of(positions, drawn, centre, before)
            steps.append(_Step(np.split(chosen, starts[1:]), centre, found, known))
            drawn = np.concatenate([drawn, chosen])
    return steps


def _joined(steps: list[_Step]) -> Blocks:
    blocks = [nodes for step in steps for nodes in step.blocks]
    sizes = np.array([len(nodes) for nodes in blocks])
    real = np.arange(sizes.max()) < sizes[:, None]
    nodes = np.zeros(real.shape, dtype=np.int64)
    nodes[real] = np.concatenate(blocks)
    ends = np.cumsum([len(step.blocks) for step in steps])
    return Blocks(
        torch.from_numpy(nodes),
        torch.from_numpy(real),
        torch.from_numpy(np.concatenate([step.before for step in steps])),
        torch.from_numpy(np.concatenate([step.known for step in steps])),
        np.concatenate([step.centre for step in steps]),
        tuple(slice(end - len(s.blocks), end) for end, s in zip(ends.tolist(), steps, strict=True)),
    )
