"""Images: grids of rectangular pixels in the plane."""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import scipy.linalg
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from apsgeo.domains.base import check_kernel_size, with_sign
from apsgeo.domains.edges import EdgeDomain, Edges, laplacian_of
from apsgeo.domains.image.layers import ImageConv, ImagePool, ImageUnpool
from apsgeo.domains.symmetry import Symmetry
from apsgeo.errors import GridError, InputError

__all__ = ["ImageDomain", "same_coordinate"]

Array = NDArray[np.float64]


class ImageDomain(EdgeDomain):
    r"""Represent an image of square pixels with sides of length one.

    Nodes run over rows, then columns. No flux crosses the border (Neumann condition), so that the
    Laplacian's eigenfunctions are products of cosines (Strang 1999, *The discrete cosine
    transform*, DCT-2) with the eigenvalues :math:`4 \sin^2(\pi i / 2H) + 4 \sin^2(\pi j / 2W)`.

    Args:
        height: Number of rows.
        width: Number of columns.
        row_edges: Ascending edges `(height + 1,)` of the rows, in place of 0, 1, 2, ...
        column_edges: Ascending edges `(width + 1,)` of the columns, likewise.
        y: Coordinate `(height,)` of the rows, in any unit, by which pixels of the same region are
            known again; it changes no length.
        x: Coordinate `(width,)` of the columns, likewise.

    Raises:
        GridError: If a side has no pixel, or edges are not ascending, or not one more than pixels,
            or coordinates are not as many as pixels.

    Example:
        >>> domain = ImageDomain(28, 28)
        >>> domain
        ImageDomain(28 x 28)
        >>> domain.coarse()
        ImageDomain(14 x 14, rows 0..28, columns 0..28)
        >>> domain.areas.sum().item() == domain.coarse().areas.sum().item() == 784
        True
    """

    kind: ClassVar[str] = "image"
    radius_km = 1.0  # an image has no unit but its pixel, which stands for the kilometre

    def __init__(
        self,
        height: int,
        width: int,
        row_edges: ArrayLike | None = None,
        column_edges: ArrayLike | None = None,
        y: ArrayLike | None = None,
        x: ArrayLike | None = None,
    ) -> None:
        self.row_edges = _edges(height, row_edges, "row")
        self.column_edges = _edges(width, column_edges, "column")
        self.y, self.x = _coordinate(height, y, "y"), _coordinate(width, x, "x")

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows and columns."""
        return len(self.row_edges) - 1, len(self.column_edges) - 1

    @property
    def num_nodes(self) -> int:
        """The number of pixels."""
        return self.shape[0] * self.shape[1]

    @cached_property
    def _sizes(self) -> tuple[Array, Array]:
        return np.diff(self.row_edges), np.diff(self.column_edges)

    @cached_property
    def _centres(self) -> tuple[Array, Array]:
        rows, columns = self.row_edges, self.column_edges
        return (rows[1:] + rows[:-1]) / 2, (columns[1:] + columns[:-1]) / 2

    @cached_property
    def positions(self) -> Tensor:
        """The pixels' centres `(N, 2)` as (row, column), float64."""
        return torch.from_numpy(np.stack(np.meshgrid(*self._centres, indexing="ij"), -1)).flatten(
            0, 1
        )

    @cached_property
    def areas(self) -> Tensor:
        """The pixels' areas `(N,)`, float64."""
        return torch.from_numpy(np.outer(*self._sizes).ravel())

    @cached_property
    def _edges(self) -> Edges:
        """The five-point stencil: an edge between any two pixels that share a side."""
        index = np.arange(self.num_nodes).reshape(self.shape)
        ones = np.ones(self.shape)
        (row, column), (height, width) = self._centres, self._sizes
        down, right = np.diff(row)[:, None], np.diff(column)[None, :]
        start = np.concatenate([index[:, :-1].ravel(), index[:-1].ravel()])
        end = np.concatenate([index[:, 1:].ravel(), index[1:].ravel()])
        distance = np.concatenate([(ones[:, :-1] * right).ravel(), (ones[:-1] * down).ravel()])
        side = [(ones[:, :-1] * height[:, None]).ravel(), (ones[:-1] * width).ravel()]
        return Edges(start, end, distance, np.concatenate(side) / distance)

    @cached_property
    def colouring(self) -> Tensor:
        """The checkerboard `(N,)`."""
        rows, columns = self.shape
        return ((torch.arange(rows)[:, None] + torch.arange(columns)) % 2 == 0).flatten()

    @cached_property
    def features(self) -> Tensor:
        """The row and the column `(2, N)`, each from -1 at one border to 1 at the other."""
        low = torch.tensor([self.row_edges[0], self.column_edges[0]])
        high = torch.tensor([self.row_edges[-1], self.column_edges[-1]])
        return (2 * (self.positions - low) / (high - low) - 1).T.float()

    def _mirrors_and_turns(self) -> dict[str, Symmetry]:
        """Mirror images, and the transpose of a square."""
        index = torch.arange(self.num_nodes).reshape(self.shape)
        found = {"left-right": index.flip(1), "up-down": index.flip(0)}
        if self.shape[0] == self.shape[1]:
            found["transpose"] = index.T
        return {n: Symmetry(p.flatten(), 2) for n, p in found.items()}

    def _compute_eigenbasis(self, k: int) -> tuple[Tensor, Tensor]:
        """Take the smoothest products of the eigenfunctions of rows and of columns."""
        row_values, row_vectors = _eigenbasis_of_a_line(self._sizes[0])
        column_values, column_vectors = _eigenbasis_of_a_line(self._sizes[1])
        values = (row_values[:, None] + column_values).ravel()
        first = np.argsort(values, kind="stable")[:k]
        i, j = np.unravel_index(first, self.shape)
        vectors = row_vectors[:, None, i] * column_vectors[None, :, j]
        vectors = with_sign(vectors.reshape(self.num_nodes, k))
        return torch.from_numpy(values[first]), torch.from_numpy(vectors)

    def continuous_eigenbasis(self, k: int) -> tuple[Tensor, Tensor] | None:
        """Return the products of cosines of row and column at the pixels' centres.

        Equal eigenvalues come in ascending order of the row's wave number.
        """
        sides = np.array([edges[-1] - edges[0] for edges in (self.row_edges, self.column_edges)])
        waves = np.stack(np.unravel_index(np.arange(k * k), (k, k)))
        squares = ((np.pi * waves / sides[:, None]) ** 2).sum(0)
        # what is equal but for rounding keeps its order, whatever the unit of length
        first = np.argsort(np.round(squares * sides.prod(), 6), kind="stable")[:k]
        functions = np.ones((self.num_nodes, k))
        places = self.positions.numpy() - [self.row_edges[0], self.column_edges[0]]
        for wave, side, place in zip(waves[:, first], sides, places.T, strict=True):
            norm = np.sqrt(np.where(wave > 0, 2.0, 1.0) / side)
            functions *= norm * np.cos(np.pi * np.outer(place, wave) / side)
        return torch.from_numpy(squares[first]), torch.from_numpy(functions)

    def conv(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Module:
        """Make an ordinary convolution; the border's pixels are repeated beyond it.

        Raises:
            InputError: If `kernel_size` is even or not positive.
        """
        check_kernel_size(kernel_size)
        return ImageConv(in_channels, out_channels, kernel_size, self.shape)

    @property
    def can_coarsen(self) -> bool:
        """Whether both sides have at least four pixels."""
        return min(self.shape) >= 4

    @cached_property
    def _coarse(self) -> "ImageDomain":
        if not self.can_coarsen:
            raise InputError(f"{self!r} cannot be coarsened: it needs at least 4 x 4 pixels.")
        rows, columns = _every_second(self.row_edges), _every_second(self.column_edges)
        y = _block_means(self.y, self.row_edges, rows)
        x = _block_means(self.x, self.column_edges, columns)
        return ImageDomain(len(rows) - 1, len(columns) - 1, rows, columns, y, x)

    def coarse(self) -> "ImageDomain":
        """Return the image of 2 x 2 blocks; the last of an odd number of rows has three.

        Raises:
            InputError: If the image has fewer than 4 x 4 pixels.
        """
        return self._coarse

    def pool(self) -> nn.Module:
        """Make the area-weighted mean onto `coarse()`."""
        rows, columns = self._coarse.shape
        sizes = [torch.from_numpy(size).float() for size in self._sizes]
        return ImagePool(sizes[0], sizes[1], (rows, columns))

    def unpool(self) -> nn.Module:
        """Make the piecewise constant map from `coarse()`."""
        return ImageUnpool(self.shape, self._coarse.shape)

    def to_config(self) -> dict[str, Any]:
        """Return the shape, the edges where they are not 0, 1, 2, ..., and known coordinates."""
        edges = {"row_edges": self.row_edges, "column_edges": self.column_edges}
        given = {name: None if _is_unit(e) else e.tolist() for name, e in edges.items()}
        axes = {"y": self.y, "x": self.x}
        given |= {name: axis.tolist() for name, axis in axes.items() if axis is not None}
        return {"kind": self.kind, "height": self.shape[0], "width": self.shape[1], **given}

    def _same(self, other: Any) -> bool:
        """Whether the edges of rows and columns are the same, and the coordinates if both know."""
        edges = (self.row_edges, other.row_edges), (self.column_edges, other.column_edges)
        axes = (self.y, other.y), (self.x, other.x)
        return all(np.array_equal(own, others) for own, others in edges) and all(
            same_coordinate(own, others)
            for own, others in axes
            if own is not None and others is not None
        )

    def __repr__(self) -> str:
        """Show the shape, and the extent where the pixels are not of size one."""
        text = f"ImageDomain({self.shape[0]} x {self.shape[1]}"
        if _is_unit(self.row_edges) and _is_unit(self.column_edges):
            return text + ")"
        rows, columns = self.row_edges, self.column_edges
        return text + f", rows {rows[0]:g}..{rows[-1]:g}, columns {columns[0]:g}..{columns[-1]:g})"


def same_coordinate(first: Array, second: Array) -> bool:
    """Tell whether coordinates are the same, to a thousandth of their steps."""
    if first.shape != second.shape:
        return False
    step = np.abs(np.diff(first)).min() if len(first) > 1 else max(abs(first[0]), 1.0)
    return bool(np.abs(first - second).max() <= 1e-3 * step)


def _coordinate(count: int, values: ArrayLike | None, name: str) -> Array | None:
    if values is None:
        return None
    array = np.array(values, dtype=np.float64)
    if array.shape != (count,) or not np.isfinite(array).all():
        raise GridError(
            f"the coordinate {name} has shape {array.shape}; {count} finite numbers are needed."
        )
    return array


def _block_means(axis: Array | None, edges: Array, coarse: Array) -> Array | None:
    """Return the mean of a coordinate in each interval of coarser edges, weighted by size."""
    if axis is None:
        return None
    starts = np.searchsorted(edges, coarse[:-1])
    sizes = np.diff(edges)
    means: Array = np.add.reduceat(axis * sizes, starts) / np.add.reduceat(sizes, starts)
    return means


def _is_unit(edges: Array) -> bool:
    return np.array_equal(edges, np.arange(len(edges)))


def _edges(count: int, edges: ArrayLike | None, name: str) -> Array:
    if count != int(count) or count < 1:
        raise GridError(f"an image of {count} {name}s was asked for; at least one is needed.")
    if edges is None:
        return np.arange(int(count) + 1, dtype=np.float64)
    array = np.array(edges, dtype=np.float64)
    if array.shape != (count + 1,) or not (np.diff(array) > 0).all():
        raise GridError(
            f"{name}_edges has shape {array.shape}; {count + 1} finite, ascending numbers are "
            f"needed for {count} {name}s."
        )
    return array


def _every_second(edges: Array) -> Array:
    """Keep every second edge: of an odd number of pixels, the last three become one."""
    return np.append(edges[:-2:2], edges[-1]) if len(edges) % 2 == 0 else edges[::2]


def _eigenbasis_of_a_line(sizes: Array) -> tuple[Array, Array]:
    """Solve S v = λ diag(sizes) v on a row of cells: in closed form where they are equal."""
    count = len(sizes)
    if (sizes == sizes[0]).all():
        i = np.arange(count)
        values = (2 * np.sin(np.pi * i / (2 * count)) / sizes[0]) ** 2
        vectors = np.cos(np.pi * np.outer(i + 0.5, i) / count) * np.sqrt(2 / (count * sizes[0]))
        vectors[:, 0] /= np.sqrt(2)
        return values, vectors
    conductance = 2 / (sizes[1:] + sizes[:-1])
    start = np.arange(count - 1)
    stiffness = laplacian_of(conductance, start, start + 1, count).toarray()
    return scipy.linalg.eigh(stiffness, np.diag(sizes))
