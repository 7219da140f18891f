"""The edges of a graph, made of what users give, and checked."""

import numpy as np
import scipy.spatial
from numpy.typing import ArrayLike, NDArray

from apsgeo.domains.edges import Edges
from apsgeo.errors import GridError

__all__ = ["checked_areas", "coordinates", "pairs", "per_edge"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def coordinates(values: ArrayLike, name: str) -> Array:
    """Check coordinates `(N, d)` of at least two points in at least one dimension.

    Raises:
        GridError: If the shape is another, or values are not finite.
    """
    array = np.array(values, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2 or not array.shape[1]:
        raise GridError(
            f"{name} have shape {array.shape}; (N, d) with at least two points is needed, such as "
            "(N, 3)."
        )
    if not np.isfinite(array).all():
        count = (~np.isfinite(array)).any(1).sum()
        raise GridError(f"{name} of {count} points are not finite; drop these points.")
    return array


def pairs(points: Array, edge_index: ArrayLike | None, k: int) -> tuple[Index, Index, Index]:
    """Return both nodes of each edge, each edge once, and which of these each given edge is.

    Raises:
        GridError: If edges are no pairs of different nodes, or nodes are too few for `k`
            neighbours.
    """
    count = len(points)
    if edge_index is None:
        if not 1 <= k < count:
            raise GridError(f"k={k} neighbours of {count} nodes: choose k from 1 to {count - 1}.")
        _, near = scipy.spatial.cKDTree(points).query(points, k + 1)
        start = np.repeat(np.arange(count), k + 1)
        given = np.stack([start, near.ravel()])
        given = given[:, given[0] != given[1]]
    else:
        given = np.array(edge_index)
        if given.ndim != 2 or len(given) != 2 or given.dtype.kind not in "iu":
            raise GridError(
                f"edge_index has shape {given.shape} and dtype {given.dtype}; node numbers (2, E) "
                "are needed."
            )
        if given.size and (given.min() < 0 or given.max() >= count):
            raise GridError(
                f"edge_index names nodes {given.min()} to {given.max()}, but there are the nodes 0 "
                f"to {count - 1}."
            )
        if (given[0] == given[1]).any():
            raise GridError("edge_index joins a node to itself; drop such edges.")
    ends, which = np.unique(np.sort(given, axis=0), axis=1, return_inverse=True)
    return ends[0].astype(np.int64), ends[1].astype(np.int64), which.ravel()


def per_edge(values: ArrayLike, which: Index, count: int, name: str) -> Array:
    """Return one value for each edge: of an edge given both ways, the mean.

    Raises:
        GridError: If the number of values is not that of given edges, or a value is negative.
    """
    array = np.array(values, dtype=np.float64)
    if array.shape != which.shape or not (array >= 0).all():
        raise GridError(
            f"{name} has shape {array.shape}; {len(which)} numbers that are not negative are "
            "needed, one for each given edge."
        )
    return np.bincount(which, weights=array, minlength=count) / np.bincount(which, minlength=count)


def checked_areas(areas: ArrayLike | None, edges: Edges, count: int) -> Array:
    """Return the areas `(N,)` that were given, or estimates (see `GraphDomain`).

    Raises:
        GridError: If the number of areas is not that of nodes, or an area is not finite or not
            above zero.
    """
    if areas is None:
        quarter = edges.conductance * edges.length**2 / 4
        ends = np.concatenate([edges.low, edges.high])
        array = np.zeros(count)
        np.add.at(array, ends, np.tile(quarter, 2))
    else:
        array = np.array(areas, dtype=np.float64)
    if array.shape != (count,) or not (array > 0).all() or not np.isfinite(array).all():
        raise GridError(
            f"areas of shape {array.shape} with a least value of {array.min(initial=np.inf):g}; "
            f"{count} finite numbers above zero are needed. A node without an edge has none unless "
            "it is given."
        )
    return array
