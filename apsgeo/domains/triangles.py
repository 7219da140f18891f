"""The cotangent Laplacian of triangles."""

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

__all__ = ["cotangent_conductance", "delaunay_split", "triangle_areas"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def _cotangents(points: Array, apex: Index, first: Index, second: Index) -> Array:
    """Return the cotangents of the angles at `apex` between the directions to two other points.

    Args:
        points: Coordinates `(N, d)`.
        apex: Indices `(...)` of the points at which the angles are.
        first: Indices `(...)` of the points at the end of one side.
        second: Indices `(...)` of the points at the end of the other side.
    """
    u, v = points[first] - points[apex], points[second] - points[apex]
    dot = (u * v).sum(-1)
    square = (u * u).sum(-1) * (v * v).sum(-1) - dot * dot
    with np.errstate(divide="ignore", invalid="ignore"):
        return dot / np.sqrt(square.clip(min=0))


def triangle_areas(points: Array, triangles: Index) -> Array:
    """Return the areas `(T,)` of triangles `(T, 3)` between points `(N, d)`.

    By Heron's formula in the stable form of Kahan 2014 (*Miscalculating area and angles of a
    needle-like triangle*), which takes lengths alone, so that the points may have any dimension.
    """
    corners = points[triangles]
    sides = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1)
    c, b, a = np.sort(sides, axis=1).T
    square = (a + (b + c)) * (c - (a - b)) * (c + (a - b)) * (a + (b - c))
    return np.sqrt(square.clip(min=0)) / 4


def delaunay_split(points: Array, quads: Index) -> Index:
    """Split quadrangles `(Q, 4)`, corners in turn, into triangles `(2 Q, 3)`.

    The diagonal is that which makes the cotangents opposite it sum to no less than zero, as in a
    Delaunay triangulation. Where four corners lie on a circle the sum is zero for either diagonal,
    so that the choice does not matter.
    """
    a, b, c, d = quads.T
    weight = _cotangents(points, b, a, c) + _cotangents(points, d, a, c)
    turned = np.where(weight[:, None] >= 0, quads, np.roll(quads, -1, axis=1))
    return np.concatenate([turned[:, [0, 1, 2]], turned[:, [0, 2, 3]]])


def cotangent_conductance(points: Array, triangles: Index) -> tuple[Index, Index, Array]:
    r"""Return the edges of triangles, each once, with half the cotangents opposite them.

    These conductances are those of linear finite elements, :math:`w_{ij} = (\cot \alpha_{ij} +
    \cot \beta_{ij}) / 2` (Pinkall & Polthier 1993, *Computing discrete minimal surfaces and their
    conjugates*); on surfaces they converge with the square of the spacing (Dziuk 1988, *Finite
    elements for the Beltrami operator on arbitrary surfaces*).

    Args:
        points: Coordinates `(N, d)`.
        triangles: Indices `(T, 3)`.

    Returns:
        The lower and the higher node `(E,)` of each edge, in order, and its conductance `(E,)`.
    """
    apex = triangles.T.ravel()
    first, second = (np.roll(triangles, -shift, axis=1).T.ravel() for shift in (1, 2))
    half = _cotangents(points, apex, first, second) / 2
    low, high = np.minimum(first, second), np.maximum(first, second)
    upper = scipy.sparse.coo_array((half, (low, high)), shape=(len(points), len(points))).tocsr()
    upper.sum_duplicates()
    coo = upper.tocoo()
    return coo.row.astype(np.int64), coo.col.astype(np.int64), coo.data
