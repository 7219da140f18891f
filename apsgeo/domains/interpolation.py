"""Values between nodes: sparse matrices from a domain to points given by their coordinates."""

from functools import singledispatch

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from apsgeo.domains.base import Domain
from apsgeo.domains.graph.domain import GraphDomain
from apsgeo.domains.healpix.domain import HEALPixDomain
from apsgeo.domains.image.domain import ImageDomain
from apsgeo.domains.latlon.domain import LatLonDomain
from apsgeo.domains.mesh import MeshDomain
from apsgeo.domains.regrid import bilinear
from apsgeo.errors import InputError

__all__ = ["interpolation", "weights_where_known"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_ROUNDING = 1e-9  # weights below it are rounding
_NEAR = 24  # triangles, by their centres, among which the nearest is sought


def interpolation(domain: Domain, coordinates: ArrayLike) -> scipy.sparse.csr_array:
    """Return weights `(M, N)`, float64, that interpolate at M points; each row sums to one.

    On latitude-longitude grids and images it is linear between rows and between columns; in the
    outer half of a border's cell it takes the cell's value. On HEALPix it is healpy's bilinear
    interpolation. On a mesh it is barycentric in the nearest triangle. On a graph it takes the
    value of the nearest node, no farther than the longest edge.

    Args:
        domain: The domain that signals live on.
        coordinates: Points `(M, d)`: latitude and longitude in degrees on grids, HEALPix and
            stations on the sphere; row and column of images, in the units of their edges;
            positions on meshes and graphs.

    Raises:
        InputError: If coordinates are not `(M, 2)` or `(M, d)`, not finite, or off the domain.

    Example:
        >>> from apsgeo import ImageDomain
        >>> interpolation(ImageDomain(1, 3), [[0.5, 1.0], [0.5, 2.5]]).toarray()
        array([[0.5, 0.5, 0. ],
               [0. , 0. , 1. ]])
    """
    points = np.asarray(coordinates, dtype=np.float64)
    matrix = weights_where_known(domain, points)
    off = np.flatnonzero(matrix.sum(axis=1) < 0.5)
    if len(off):
        raise InputError(
            f"{len(off)} points are off {domain!r}, the first being number {off[0]} at "
            f"{points[off[0]].tolist()}; drop them, or check units and the order of coordinates."
        )
    return matrix


def weights_where_known(domain: Domain, coordinates: ArrayLike) -> scipy.sparse.csr_array:
    """Return the weights of `interpolation`, with empty rows for points off the domain.

    Raises:
        InputError: If coordinates are not `(M, 2)` or `(M, d)`, or not finite.
    """
    points = np.asarray(coordinates, dtype=np.float64)
    if points.ndim != 2 or not len(points) or not np.isfinite(points).all():
        raise InputError(
            f"coordinates have shape {points.shape}; finite numbers (point, axis) are needed, one "
            "row or more."
        )
    return _weights(domain, points)


@singledispatch
def _weights(domain: Domain, points: Array) -> scipy.sparse.csr_array:
    raise InputError(f"interpolation on {domain!r} is not known.")


def _axes(points: Array, count: int, names: str) -> Array:
    if points.shape[1] != count:
        raise InputError(f"a point has {points.shape[1]} coordinates; {count} are needed: {names}.")
    return points


def _unit_vectors(points: Array) -> Array:
    lat, lon = np.deg2rad(_axes(points, 2, "latitude and longitude in degrees")).T
    if np.abs(points[:, 0]).max() > 90:
        raise InputError("a latitude is not from -90 to 90 degrees; latitude comes first.")
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)


@_weights.register(LatLonDomain)
@_weights.register(HEALPixDomain)
def _(domain: Domain, points: Array) -> scipy.sparse.csr_array:
    matrix = bilinear(domain, torch.from_numpy(_unit_vectors(points))).matrix.copy()
    # a point on a node is that node alone, whatever the rounding of its direction leaves over
    matrix.data[np.abs(matrix.data) < _ROUNDING] = 0.0
    matrix.eliminate_zeros()
    return scipy.sparse.diags_array(1.0 / matrix.sum(axis=1)) @ matrix


@_weights.register
def _(domain: ImageDomain, points: Array) -> scipy.sparse.csr_array:
    row, column = _axes(points, 2, "row and column").T
    top, bottom, share = _between(domain.row_edges, row)
    left, right, part = _between(domain.column_edges, column)
    width = domain.shape[1]
    nodes = [top * width + left, top * width + right, bottom * width + left, bottom * width + right]
    weights = [(1 - share) * (1 - part), (1 - share) * part, share * (1 - part), share * part]
    return _table(np.stack(nodes, 1), np.stack(weights, 1), domain.num_nodes)


def _between(edges: Array, place: Array) -> tuple[Index, Index, Array]:
    """Return the cells on either side, and the share of the second; NaN off the edges."""
    centres = (edges[1:] + edges[:-1]) / 2
    upper = np.searchsorted(centres, place).clip(0, len(centres) - 1)
    lower = np.where(place < centres[upper], (upper - 1).clip(0), upper)
    gap = centres[upper] - centres[lower]
    share = np.where(gap > 0, (place - centres[lower]) / np.where(gap > 0, gap, 1.0), 0.0)
    return lower, upper, np.where((place < edges[0]) | (place > edges[-1]), np.nan, share)


@_weights.register
def _(domain: GraphDomain, points: Array) -> scipy.sparse.csr_array:
    axes = domain.positions.shape[1]
    there = _unit_vectors(points) if domain.is_spherical else _axes(points, axes, "a position")
    nodes = domain.positions.numpy()
    away, node = cKDTree(nodes).query(there)
    source, target = domain.edge_index.numpy()
    longest = np.linalg.norm(nodes[source] - nodes[target], axis=1).max(initial=0.0)
    weight = np.where(away <= longest, 1.0, np.nan)
    return _table(node[:, None], weight[:, None], domain.num_nodes)


@_weights.register
def _(domain: MeshDomain, points: Array) -> scipy.sparse.csr_array:
    """Take the nearest point of the nearest triangle; it may be an edge's length away."""
    _axes(points, domain.vertices.shape[1], "a position")
    corners = domain.vertices[domain.faces]
    count = min(_NEAR, len(corners))
    _, near = cKDTree(corners.mean(1)).query(points, k=[*range(1, count + 1)])
    shares = _closest(points[:, None], corners[near])
    foot = (shares[..., None] * corners[near]).sum(-2)
    away = np.linalg.norm(points[:, None] - foot, axis=-1)
    best = away.argmin(1)
    each = np.arange(len(points))
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=-1).max()
    weights = np.where(away[each, best, None] <= longest, shares[each, best], np.nan)
    return _table(domain.faces[near[each, best]], weights, domain.num_nodes)


def _closest(points: Array, corners: Array) -> Array:
    """Return the barycentric coordinates `(..., 3)` of the points of triangles nearest to points.

    The foot of the perpendicular where it is inside, otherwise the nearest point of a side.
    """
    a, b, c = np.moveaxis(corners, -2, 0)
    u, v, w = b - a, c - a, points - a
    uu, uv, vv = (u * u).sum(-1), (u * v).sum(-1), (v * v).sum(-1)
    wu, wv = (w * u).sum(-1), (w * v).sum(-1)
    square = uu * vv - uv**2
    second, third = (vv * wu - uv * wv) / square, (uu * wv - uv * wu) / square
    found = np.stack([1 - second - third, second, third], -1)
    inside = (found >= 0).all(-1)
    distance = np.where(inside, 0.0, np.inf)
    for first, last in ((0, 1), (1, 2), (2, 0)):
        start, side = corners[..., first, :], corners[..., last, :] - corners[..., first, :]
        along = ((points - start) * side).sum(-1) / (side * side).sum(-1)
        along = along.clip(0, 1)
        away = np.linalg.norm(points - start - along[..., None] * side, axis=-1)
        shares = np.zeros_like(found)
        shares[..., first], shares[..., last] = 1 - along, along
        nearer = ~inside & (away < distance)
        found = np.where(nearer[..., None], shares, found)
        distance = np.where(nearer, away, distance)
    return found


def _table(nodes: Index, weights: Array, count: int) -> scipy.sparse.csr_array:
    """Make a matrix of nodes and weights `(M, k)`; a row with NaN is left empty."""
    kept = np.nan_to_num(weights)
    row = np.broadcast_to(np.arange(len(nodes))[:, None], nodes.shape)
    entries = (kept.ravel(), (row.ravel(), nodes.ravel()))
    matrix = scipy.sparse.coo_array(entries, shape=(len(nodes), count)).tocsr()
    matrix.eliminate_zeros()
    return matrix
