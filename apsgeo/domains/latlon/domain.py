"""Latitude-longitude grids: regular and Gaussian, global and regional."""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import scipy.sparse
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from apsgeo.domains.base import EARTH_RADIUS_KM, Reduced
from apsgeo.domains.edges import EdgeDomain, Edges, arcs, laplacian_of
from apsgeo.domains.harmonics import harmonic_eigenbasis
from apsgeo.domains.latlon.layers import Border, LatLonConv, LatLonPool, LatLonUnpool
from apsgeo.domains.symmetry import Symmetry
from apsgeo.errors import GridError, InputError

__all__ = ["LatLonDomain"]

Array = NDArray[np.float64]

SAME_DEGREES = 1e-4  # coordinates stored as float32 differ by less, and grid spacings are larger


class LatLonDomain(EdgeDomain):
    """Represent a latitude-longitude grid on the sphere.

    Nodes run over latitude, then longitude, in the order given. A cell reaches to the midpoints
    between its node and the neighbours, and to the pole where no further row would fit before it.
    The grid is periodic if its longitudes go round the globe.

    Args:
        lat: Latitudes of the rows in degrees, ascending or descending, from -90 to 90.
        lon: Longitudes of the columns in degrees, ascending.
        lat_bounds: Edges `(rows + 1,)` of the rows in degrees, in place of the midpoints.
        lon_bounds: Edges `(columns + 1,)` of the columns in degrees, in place of the midpoints.

    Raises:
        GridError: If coordinates are non-finite, out of range, repeated or not monotonic, fewer
            than two, or not inside their bounds.

    Example:
        >>> domain = LatLonDomain([45.0, -45.0], [0.0, 90.0, 180.0, 270.0])
        >>> domain
        LatLonDomain(2 x 4, latitude 45..-45, longitude 0..270, global)
        >>> round(domain.areas.sum().item() / torch.pi, 6)
        4.0
    """

    kind: ClassVar[str] = "latlon"
    radius_km = EARTH_RADIUS_KM

    def __init__(
        self,
        lat: ArrayLike,
        lon: ArrayLike,
        lat_bounds: ArrayLike | None = None,
        lon_bounds: ArrayLike | None = None,
    ) -> None:
        self.lat = _coordinate(lat, "latitude", -90.0, 90.0)
        self.lon = _coordinate(lon, "longitude", -360.0, 720.0)
        if self.lon[0] > self.lon[-1]:
            raise GridError(
                f"longitude descends from {self.lon[0]:g} to {self.lon[-1]:g}; it must ascend: "
                "sort the data by longitude."
            )
        self.lat_bounds = (
            _lat_edges(self.lat)
            if lat_bounds is None
            else _bounds(lat_bounds, self.lat, "latitude", -90.0, 90.0)
        )
        self.lon_bounds = (
            _lon_edges(self.lon)
            if lon_bounds is None
            else _bounds(lon_bounds, self.lon, "longitude", -540.0, 900.0)
        )
        span = self.lon_bounds[-1] - self.lon_bounds[0]
        if span > 360 + SAME_DEGREES:
            raise GridError(
                f"the columns span {span:g} degrees of longitude, more than the globe's 360: "
                "drop the columns that are given twice."
            )
        self.is_global = bool(span > 360 - SAME_DEGREES)

    @property
    def shape(self) -> tuple[int, int]:
        """The numbers of rows (latitudes) and columns (longitudes)."""
        return len(self.lat), len(self.lon)

    @property
    def num_nodes(self) -> int:
        """The number of nodes: rows times columns."""
        return len(self.lat) * len(self.lon)

    @cached_property
    def positions(self) -> Tensor:
        """Points `(N, 3)` on the unit sphere, float64."""
        lat, lon = np.deg2rad(self.lat)[:, None], np.deg2rad(self.lon)[None, :]
        xyz = np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat) + 0 * lon
        return torch.from_numpy(np.stack(xyz, -1).reshape(-1, 3))

    @cached_property
    def _row_area(self) -> Array:
        """Areas of the rows' bands in steradians per radian of longitude."""
        return np.abs(np.diff(np.sin(np.deg2rad(self.lat_bounds))))

    @cached_property
    def _column_width(self) -> Array:
        """Widths of the columns in radians."""
        return np.diff(np.deg2rad(self.lon_bounds))

    @cached_property
    def areas(self) -> Tensor:
        """Areas `(N,)` of the cells in steradians, float64."""
        return torch.from_numpy(np.outer(self._row_area, self._column_width).ravel())

    @cached_property
    def _edges(self) -> Edges:
        """An edge through each face between cells; of no length between the nodes of a pole."""
        rows, columns = self.shape
        index = np.arange(self.num_nodes).reshape(rows, columns)
        height = np.abs(np.diff(np.deg2rad(self.lat_bounds)))
        next_lon = (
            self.lon[1:] if not self.is_global else np.append(self.lon[1:], self.lon[0] + 360)
        )
        distance = np.deg2rad(next_lon - self.lon[: len(next_lon)])
        # a parallel's length varies within a row: take the mean of cos(latitude) over it
        zonal = np.outer(height**2 / self._row_area, 1 / distance)
        face = np.cos(np.deg2rad(self.lat_bounds[1:-1])) / np.abs(np.diff(np.deg2rad(self.lat)))
        meridional = np.outer(face, self._column_width)
        west, east = index[:, : len(next_lon)], np.roll(index, -1, 1)[:, : len(next_lon)]
        start = np.concatenate([west.ravel(), index[:-1].ravel()])
        end = np.concatenate([east.ravel(), index[1:].ravel()])
        length = arcs(self.positions, torch.from_numpy(np.stack([start, end]))).numpy()
        return Edges(start, end, length, np.concatenate([zonal.ravel(), meridional.ravel()]))

    @cached_property
    def reduced(self) -> Reduced:
        """The grid with narrow cells of a row merged, as in a reduced Gaussian grid.

        Cells are at least half as wide as the typical spacing; the nodes of a pole are one.
        """
        rows, columns = self.shape
        height = np.abs(np.diff(np.deg2rad(self.lat_bounds)))
        width = self._row_area / height * self._column_width.mean()
        typical = min(float(np.median(height)), float(np.median(self._column_width)))
        merged = np.ceil(0.5 * typical / width - SAME_DEGREES).clip(1, columns).astype(np.int64)
        merged[np.abs(self.lat) > 90 - SAME_DEGREES] = columns
        count = columns // merged
        first = np.cumsum(count) - count
        label = (first[:, None] + np.arange(columns) * count[:, None] // columns).ravel()
        cells = int(count.sum())
        members = np.bincount(label)
        spread = scipy.sparse.csr_array((np.ones(len(label)), (np.arange(len(label)), label)))
        mean_lon = np.bincount(label, np.tile(self.lon, rows)) / members
        start, end, _, conductance = self._edges
        zonal = np.diff(self.lon, append=self.lon[0] + 360.0)[start % columns]
        apart = (mean_lon[label[end]] - mean_lon[label[start]]) % 360.0
        along = start // columns == end // columns
        ratio = np.divide(zonal, apart, out=np.ones_like(zonal), where=along & (apart > 0))
        joined = label[start] != label[end]
        return Reduced(
            spread,
            (spread.T @ self.positions.numpy()) / members[:, None],
            spread.T @ self.areas.numpy(),
            laplacian_of(
                (conductance * ratio)[joined], label[start[joined]], label[end[joined]], cells
            ),
        )

    @cached_property
    def colouring(self) -> Tensor:
        """The checkerboard `(N,)`; an odd global grid has like neighbours along its seam."""
        rows, columns = self.shape
        return ((torch.arange(rows)[:, None] + torch.arange(columns)) % 2 == 0).flatten()

    @cached_property
    def features(self) -> Tensor:
        """The features `(4, N)`: the position's x, y, z = sin(latitude), and cos(latitude)."""
        x, y, z = self.positions.T
        cos_lat = torch.from_numpy(np.repeat(np.cos(np.deg2rad(self.lat)), self.shape[1]))
        return torch.stack([x, y, z, cos_lat]).float()

    def _mirrors_and_turns(self) -> dict[str, Symmetry]:
        """A turn by one column, and the mirror images of east and west, north and south."""
        index = torch.arange(self.num_nodes).reshape(self.shape)
        found = {"east-west": Symmetry(index.flip(1).flatten(), 2)}
        found["north-south"] = Symmetry(index.flip(0).flatten(), 2)
        if self.is_global:
            found["turn"] = Symmetry(index.roll(1, 1).flatten(), self.shape[1])
        return found

    def continuous_eigenbasis(self, k: int) -> tuple[Tensor, Tensor] | None:
        """Return the real spherical harmonics, if the grid is global."""
        if not self.is_global or float(self.areas.sum()) < 4 * np.pi * (1 - 1e-6):
            return None
        return harmonic_eigenbasis(self.positions, k)

    def conv(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Module:
        """Make a convolution, periodic in longitude and across the poles where the grid is.

        Raises:
            InputError: If `kernel_size` is even, or too wide for the grid.
        """
        if kernel_size % 2 == 0 or not 0 < kernel_size <= min(self.shape):
            raise InputError(
                f"conv: kernel_size {kernel_size} must be odd and at most {min(self.shape)}, the "
                "smaller side of the grid."
            )
        return LatLonConv(in_channels, out_channels, kernel_size, self.shape, self._border)

    def _across(self, lat: float, edge: float) -> int | None:
        if not self.is_global or abs(edge) < 90 - SAME_DEGREES:
            return None
        return int(abs(lat) > 90 - SAME_DEGREES)

    @cached_property
    def _border(self) -> Border:
        extended = np.append(self.lon, self.lon[0] + 360)
        target = self.lon[0] + (self.lon + 180 - self.lon[0]) % 360
        # a column that stands just there is taken as it is, whatever the rounding of degrees
        west = np.searchsorted(extended[:-1], target + SAME_DEGREES, side="right") - 1
        weight = (target - extended[west]) / np.diff(extended)[west]
        weight[np.abs(target - extended[west]) < SAME_DEGREES] = 0.0
        across = (
            self._across(self.lat[0], self.lat_bounds[0]),
            self._across(self.lat[-1], self.lat_bounds[-1]),
        )
        return Border(self.is_global, across, torch.from_numpy(west), torch.from_numpy(weight))

    @property
    def can_coarsen(self) -> bool:
        """Whether both sides have five cells, so that three are left for convolutions."""
        return min(self.shape) >= 5

    @cached_property
    def _groups(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The coarse row of each row, and the coarse column of each column."""
        if not self.can_coarsen:
            raise InputError(f"{self!r} cannot be coarsened: it needs at least 5 x 5 cells.")
        return _symmetric_pairs(len(self.lat)), _symmetric_pairs(len(self.lon))

    @cached_property
    def _coarse(self) -> "LatLonDomain":
        lat_bounds = _keep_edges(self.lat_bounds, self._groups[0])
        lon_bounds = _keep_edges(self.lon_bounds, self._groups[1])
        return LatLonDomain(
            (lat_bounds[1:] + lat_bounds[:-1]) / 2,
            (lon_bounds[1:] + lon_bounds[:-1]) / 2,
            lat_bounds,
            lon_bounds,
        )

    def coarse(self) -> "LatLonDomain":
        """Return the grid of pairs of rows and columns, whose cells are unions of this grid's.

        Raises:
            InputError: If the grid has fewer than 5 x 5 cells.
        """
        return self._coarse

    def pool(self) -> nn.Module:
        """Make the area-weighted mean onto `coarse()`."""
        rows, columns = self._groups
        return LatLonPool(
            torch.from_numpy(_averages(self._row_area, rows)).float(),
            torch.from_numpy(_averages(self._column_width, columns).T.copy()).float(),
        )

    def unpool(self) -> nn.Module:
        """Make the piecewise constant map from `coarse()`."""
        rows, columns = self._groups
        return LatLonUnpool(torch.from_numpy(rows), torch.from_numpy(columns), self._coarse.shape)

    def to_config(self) -> dict[str, Any]:
        """Return the coordinates and bounds in degrees."""
        return {
            "kind": self.kind,
            "lat": self.lat.tolist(),
            "lon": self.lon.tolist(),
            "lat_bounds": self.lat_bounds.tolist(),
            "lon_bounds": self.lon_bounds.tolist(),
        }

    def _same(self, other: Any) -> bool:
        """Whether coordinates and bounds agree within 1e-4 degrees, in the same order."""
        return self.shape == other.shape and all(
            np.allclose(getattr(self, name), getattr(other, name), rtol=0, atol=SAME_DEGREES)
            for name in ("lat", "lon", "lat_bounds", "lon_bounds")
        )

    def __repr__(self) -> str:
        """Show size and extent."""
        rows, columns = self.shape
        extent = "global" if self.is_global else "regional"
        return (
            f"LatLonDomain({rows} x {columns}, latitude {self.lat[0]:g}..{self.lat[-1]:g}, "
            f"longitude {self.lon[0]:g}..{self.lon[-1]:g}, {extent})"
        )


def _coordinate(values: ArrayLike, name: str, low: float, high: float) -> Array:
    array = np.array(values, dtype=np.float64)
    if array.ndim != 1 or len(array) < 2:
        raise GridError(
            f"{name} has shape {array.shape}; a list of at least two numbers of degrees is needed."
        )
    _check_monotonic(array, name)
    if array.min() < low or array.max() > high:
        raise GridError(
            f"{name} runs from {array.min():g} to {array.max():g}; degrees from {low:g} to "
            f"{high:g} are expected: check the units and the order of the coordinates."
        )
    return array


def _check_monotonic(array: Array, name: str) -> None:
    if not np.isfinite(array).all():
        raise GridError(f"{name} has {(~np.isfinite(array)).sum()} non-finite values; drop them.")
    steps = np.diff(array)
    if (steps == 0).any():
        again = array[1:][steps == 0][0]
        raise GridError(f"{name} {again:g} is given twice; drop the repeated one.")
    if not ((steps > 0).all() or (steps < 0).all()):
        raise GridError(
            f"{name} neither ascends nor descends (from {array[0]:g} to {array[-1]:g}); sort the "
            f"data by {name}."
        )


def _bounds(values: ArrayLike, centres: Array, name: str, low: float, high: float) -> Array:
    edges = _coordinate(values, f"{name} bounds", low, high)
    if len(edges) != len(centres) + 1:
        raise GridError(
            f"{name} bounds: {len(edges)} edges were given, {len(centres) + 1} are needed, one "
            "more than cells."
        )
    lower, upper = np.minimum(edges[:-1], edges[1:]), np.maximum(edges[:-1], edges[1:])
    if ((centres < lower - SAME_DEGREES) | (centres > upper + SAME_DEGREES)).any():
        raise GridError(
            f"{name} bounds do not enclose their cells; give edges in the cells' order."
        )
    return edges


def _lat_edges(lat: Array) -> Array:
    """Edges at the midpoints; the outer ones at the pole where no further row would fit."""
    outer = []
    for first, second in ((lat[0], lat[1]), (lat[-1], lat[-2])):
        step = first - second
        pole = np.copysign(90.0, step)
        outer.append(pole if abs(pole - first) < 0.9 * abs(step) else first + step / 2)
    return np.concatenate([[outer[0]], (lat[1:] + lat[:-1]) / 2, [outer[1]]])


def _lon_edges(lon: Array) -> Array:
    """Edges at the midpoints; the outer ones meet if the gap between them is a grid step."""
    steps = np.diff(lon)
    gap = 360 - (lon[-1] - lon[0])
    if gap < 0.5 * steps.min():
        raise GridError(
            f"longitude runs from {lon[0]:g} to {lon[-1]:g}, once round the globe and on: drop the "
            "columns that are given twice."
        )
    is_global = gap < 1.01 * steps.max()
    first, last = (gap, gap) if is_global else (steps[0], steps[-1])
    return np.concatenate([[lon[0] - first / 2], (lon[1:] + lon[:-1]) / 2, [lon[-1] + last / 2]])


def _symmetric_pairs(count: int) -> NDArray[np.int64]:
    """Group cells in pairs, alike from both ends: an odd count has one or three in the middle."""
    if count % 2 == 0:
        return np.arange(count) // 2
    half = count // 4 * 2
    ends = np.arange(half) // 2
    middle = np.full(count - 2 * half, half // 2)
    return np.concatenate([ends, middle, half // 2 + 1 + ends])


def _keep_edges(edges: Array, group: NDArray[np.int64]) -> Array:
    return np.append(edges[:-1][np.diff(group, prepend=-1) > 0], edges[-1])


def _averages(sizes: Array, group: NDArray[np.int64]) -> Array:
    """Weights `(groups, cells)` of the mean over each group, in proportion to `sizes`."""
    weights = (np.arange(group.max() + 1)[:, None] == group) * sizes
    return weights / weights.sum(axis=1, keepdims=True)
