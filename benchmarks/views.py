"""Views of domains: the node that stands at each pixel of a picture.

A view returns node numbers (row, column), and -1 where there is nothing. All views but that of
images need only positions and edges, so that the same few lines draw meshes, grids and pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from apsgeo.domains import Domain

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = NDArray[np.float64]
Index = NDArray[np.int64]
View = Callable[[Domain], Index]

_ROWS = 180
_DEPTHS = 128
_REACH = 0.72  # longest edges of a node: half the diagonal of a square cell, and a little more


def picture(domain: Domain) -> Index:
    """Show an image's pixels as they lie."""
    rows = len(np.unique(domain.positions[:, 0].numpy()))
    return np.arange(domain.num_nodes).reshape(rows, -1)


def globe(domain: Domain, rows: int = _ROWS) -> Index:
    """Show the whole sphere in the Mollweide projection, which keeps areas, Greenwich central."""
    y, x = np.meshgrid(_middles(1, -1, rows), _middles(-2, 2, 2 * rows), indexing="ij")
    theta = np.arcsin(y)
    lat = np.arcsin((2 * theta + np.sin(2 * theta)) / np.pi)
    lon = np.pi / 2 * x / np.cos(theta)
    inside = x**2 / 4 + y**2 <= 1
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], -1)
    node, near = _nearest(domain, points)
    return np.where(inside & near, node, -1)


def along_z(domain: Domain, rows: int = _ROWS) -> Index:
    """Show the surface that is seen along the z axis, from above it: x to the right, y upwards."""
    low, high = domain.positions.numpy().min(0), domain.positions.numpy().max(0)
    step = (high[1] - low[1]) / rows
    y, x = _middles(high[1], low[1], rows), np.arange(low[0], high[0], step)
    grid = np.meshgrid(y, x, _middles(high[2], low[2], _DEPTHS), indexing="ij")
    node, near = _nearest(domain, np.stack([grid[1], grid[0], grid[2]], -1))
    first = near.argmax(-1)[..., None]
    seen = np.where(near.any(-1, keepdims=True), np.take_along_axis(node, first, -1), -1)
    return seen[..., 0]


def seen(view: Index, values: NDArray[Any]) -> NDArray[Any]:
    """Return the picture of values (node,) in a view, NaN where no node is."""
    return np.where(view >= 0, values[view], np.nan)


def nearest(domain: Domain, others: Domain) -> Index:
    """Return for each node of a domain the nearest node of another."""
    node: Index = cKDTree(others.positions.numpy()).query(domain.positions)[1]
    return node


def bare(axes: Axes) -> None:
    """Take ticks and frame away from a picture."""
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def _middles(start: float, stop: float, count: int) -> Array:
    return start + (stop - start) * (np.arange(count) + 0.5) / count


def _nearest(domain: Domain, points: Array) -> tuple[Index, NDArray[np.bool_]]:
    """Return the node nearest to points (..., 3), and whether it is as near as its own cell."""
    distance, node = cKDTree(domain.positions.numpy()).query(points)
    longest = np.zeros(domain.num_nodes)
    np.maximum.at(longest, domain.edge_index[0].numpy(), domain.edge_length.numpy())
    return node, distance <= _REACH * longest[node]
