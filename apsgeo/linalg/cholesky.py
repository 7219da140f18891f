"""The Cholesky factor of a sparse matrix."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from apsgeo.errors import InputError
from apsgeo.linalg.dissection import Dissection

__all__ = ["Cholesky"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class Cholesky:
    r"""The factorization :math:`L L^T` of a sparse symmetric positive definite matrix.

    The method is multifrontal (Duff & Reid 1983, https://doi.org/10.1145/356044.356047): the
    columns of each block of the dissection are eliminated as one dense matrix, and the changes to
    later columns are handed on as another, so that the arithmetic is dense. The factor is exact to
    rounding for any dissection of the nodes, which decides the cost alone. Only numpy's BLAS is
    called: the threads of scipy's, called in turn, would wait for numpy's, at ten times the cost.

    Args:
        matrix: Matrix (N, N), of which the lower triangle is read in the order of elimination.
        dissection: Order in which the matrix's nodes are eliminated.

    Raises:
        InputError: If the matrix is not positive definite within rounding.
    """

    def __init__(self, matrix: sp.spmatrix | sp.sparray, dissection: Dissection) -> None:
        self._order, self._ends = dissection.order, dissection.ends
        permuted = sp.csc_array(matrix)[:, self._order][self._order]
        self._blocks: list[_Block] = []
        waiting: dict[int, list[tuple[Index, Array]]] = defaultdict(list)
        start = 0
        for number, end in enumerate(self._ends.tolist()):
            block, left = _eliminate(permuted, start, end, waiting.pop(number, []))
            self._blocks.append(block)
            if len(block.border):
                waiting[self._next(block)].append((block.border, left))
            start = end

    def _next(self, block: _Block) -> int:
        """Return the number of the block to which the first row of a border belongs."""
        return int(np.searchsorted(self._ends, block.border[0], side="right"))

    @property
    def entries(self) -> int:
        """Number of values that are kept of L."""
        return sum(block.panel.size for block in self._blocks)

    @property
    def log_determinant(self) -> float:
        """Log of the determinant of the matrix."""
        diagonals = [np.diag(block.panel) for block in self._blocks]
        return -2.0 * float(np.log(np.concatenate(diagonals)).sum())

    def solve(self, columns: Array) -> Array:
        """Return the inverse of the matrix times columns (N, m), all at once."""
        out = np.ascontiguousarray(columns[self._order], dtype=np.float64)
        for block in self._blocks:
            own = out[block.start : block.end]
            own[:] = block.inverse_root @ own
            out[block.border] -= block.below @ own
        return self._back(out)

    def sample(self, white: Array) -> Array:
        """Map standard normal noise (N, m) to draws whose precision is the matrix: L^{-T} times."""
        return self._back(np.array(white, dtype=np.float64, order="C"))

    def _back(self, out: Array) -> Array:
        """Return L^{-T} times columns in the order of elimination, which are overwritten."""
        for block in reversed(self._blocks):
            own = out[block.start : block.end]
            own[:] = block.inverse_root.T @ (own - block.below.T @ out[block.border])
        result = np.empty_like(out)
        result[self._order] = out
        return result

    def inverse_diagonal(self) -> Array:
        """Return the diagonal (N,) of the inverse, at about the cost of the factorization.

        The recursion of Takahashi, Fagan & Chen (1973; see Erisman & Tinney 1975,
        https://doi.org/10.1145/360680.360704) computes those entries of the inverse alone that
        stand in the factor's pattern.
        """
        children: dict[int, list[_Block]] = defaultdict(list)
        for block in self._blocks:
            if len(block.border):
                children[self._next(block)].append(block)
        beyond = {block.start: np.zeros((0, 0)) for block in self._blocks if not len(block.border)}
        out = np.empty(len(self._order))
        for number in reversed(range(len(self._blocks))):
            block = self._blocks[number]
            inverse = block.inverse(beyond.pop(block.start))
            size = block.end - block.start
            out[self._order[block.start : block.end]] = np.diag(inverse)[:size]
            for child in children[number]:
                place = block.places(child.border)
                beyond[child.start] = inverse[place[:, None], place]
        return out


@dataclass(frozen=True)
class _Block:
    """Columns `start` to `end` of the factor."""

    start: int
    end: int
    border: Index  # numbers of the rows below the triangle that are not zero, ascending
    panel: Array  # (columns + border, columns): the triangle's inverse, and the rows below

    @property
    def inverse_root(self) -> Array:
        return self.panel[: self.end - self.start]

    @property
    def below(self) -> Array:
        return self.panel[self.end - self.start :]

    def places(self, numbers: Index) -> Index:
        """Return where rows, of which this block must have each, stand in the panel."""
        size = self.end - self.start
        inside = numbers - self.start
        return np.where(inside < size, inside, size + np.searchsorted(self.border, numbers))

    def inverse(self, beyond: Array) -> Array:
        """Return the inverse's rows and columns of the panel, given those of the border."""
        ratio = self.below @ self.inverse_root
        cross = -beyond @ ratio
        own = self.inverse_root.T @ self.inverse_root - ratio.T @ cross
        return np.block([[own, cross.T], [cross, beyond]])


def _eliminate(
    matrix: sp.csc_array, start: int, end: int, updates: list[tuple[Index, Array]]
) -> tuple[_Block, Array]:
    """Return a block of columns, and the lower triangle of what is to be added to later ones.

    Args:
        matrix: Matrix whose rows and columns are in the order of elimination.
        start: Number of the block's first column.
        end: Number of the column after its last.
        updates: Sums that earlier blocks left to be added: numbers of rows, and values (rows,
            rows).

    Raises:
        InputError: If the matrix is not positive definite within rounding.
    """
    size = end - start
    entries = slice(matrix.indptr[start], matrix.indptr[end])
    rows, values = matrix.indices[entries], matrix.data[entries]
    columns = np.repeat(np.arange(size), np.diff(matrix.indptr[start : end + 1]))
    lower = rows >= start
    rows, values, columns = rows[lower], values[lower], columns[lower]
    border = np.unique(np.concatenate([rows, *(numbers for numbers, _ in updates)]))
    border = border[np.searchsorted(border, end) :]
    block = _Block(start, end, border, np.zeros((size + len(border), size)))
    left = np.zeros((len(border), len(border)))
    block.panel[block.places(rows), columns] = values
    for numbers, update in updates:
        place = block.places(numbers)
        inside = np.searchsorted(numbers, end)
        later = place[inside:] - size
        block.panel[place[:, None], place[:inside]] += update[:, :inside]
        left[later[:, None], later] += update[inside:, inside:]
    try:
        block.panel[:size] = np.linalg.inv(np.linalg.cholesky(block.inverse_root))
    except np.linalg.LinAlgError as error:
        raise InputError(
            f"a sparse matrix of {matrix.shape[0]} rows is not positive definite within rounding; "
            "if it is that of a prior, its range is too long for so fine a grid: choose a shorter "
            "range or a coarser grid."
        ) from error
    block.below[:] = block.below @ block.inverse_root.T
    left -= block.below @ block.below.T
    return block, left
