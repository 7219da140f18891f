"""Orders of elimination that keep the factors of sparse matrices sparse."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components

__all__ = ["Dissection"]

_LEAF = 96  # nodes that are not cut any more: a dense block is as quick

Index = NDArray[np.int64]


class Dissection:
    r"""An order of elimination by nested dissection (George 1973, https://doi.org/10.1137/0710032).

    The nodes are cut in halves across their longest direction, again and again. Those of one half
    that the matrix joins to the other half are the separator, and come after both. For nodes on a
    surface, each joined to a few near ones, the Cholesky factor in this order has of the order of
    N log N entries and costs :math:`N^{3/2}` operations, the least that any order allows (Lipton,
    Rose & Tarjan 1979, https://doi.org/10.1137/0716027).

    Args:
        matrix: Matrix (N, N) with a symmetric pattern. Only the pattern counts.
        positions: Positions (N, d) of the nodes. The cost depends on them, and nothing else does.

    Attributes:
        order: Nodes (N,) in the order of elimination.
        ends: Places (blocks,) where the blocks of `order` end: separators, and parts left whole.
    """

    def __init__(self, matrix: sp.spmatrix | sp.sparray, positions: NDArray[np.float64]) -> None:
        columns = sp.csc_array(matrix)
        # Components, channels for instance, are put apart, so that cuts pass between them.
        component = connected_components(columns, directed=False)[1]
        where = np.column_stack([positions, 4.0 * np.ptp(positions) * component])
        blocks = _Cuts(columns, where).blocks(np.arange(len(where)))
        self.order: Index = np.concatenate(blocks)
        self.ends: Index = np.cumsum([len(block) for block in blocks])

    def repeated(self, times: int) -> Dissection:
        """Return the dissection of a block-diagonal matrix of `times` such blocks."""
        out = object.__new__(Dissection)
        shifts = len(self.order) * np.arange(times)[:, None]
        out.order, out.ends = (self.order + shifts).ravel(), (self.ends + shifts).ravel()
        return out


class _Cuts:
    """Cut sets of nodes at `where` (N, d) that the columns of a matrix join."""

    def __init__(self, columns: sp.csc_array, where: NDArray[np.float64]) -> None:
        self._starts, self._rows = columns.indptr.astype(np.int64), columns.indices
        self._where = where
        self._beyond = np.zeros(len(where), dtype=np.int64)  # 1 on the other side of a cut

    def blocks(self, nodes: Index) -> list[Index]:
        """Return the blocks of a set of nodes, each in ascending order: neighbours stay close."""
        if len(nodes) <= _LEAF:
            return [np.sort(nodes)] if len(nodes) else []
        where = self._where[nodes] - self._where[nodes].mean(0)
        longest = np.linalg.eigh(where.T @ where)[1][:, -1]
        half = len(nodes) // 2
        near, far = np.split(nodes[np.argpartition(where @ longest, half)], [half])
        joined = self._joined(near, far)
        parts = self.blocks(near[~joined]) + self.blocks(far)
        return [*parts, np.sort(near[joined])] if joined.any() else parts

    def _joined(self, near: Index, far: Index) -> NDArray[np.bool_]:
        """Return which of the near nodes are joined to any of the far ones."""
        count = self._starts[near + 1] - self._starts[near]
        first = np.cumsum(count) - count
        entries = np.arange(count.sum()) + np.repeat(self._starts[near] - first, count)
        self._beyond[far] = 1
        found = np.concatenate([[0], self._beyond[self._rows[entries]].cumsum()])
        self._beyond[far] = 0
        return found[first + count] > found[first]
