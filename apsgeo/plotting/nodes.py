"""Canvases of every domain: values (node,) on a globe, an image, or a body in space."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from scipy.spatial import cKDTree

from apsgeo.domains import ImageDomain, LatLonDomain
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.labels.labels import degrees_of
from apsgeo.plotting.canvas import Array, Globe, Style, area_style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Canvas", "canvas_of"]

_ROWS = 180  # of the picture of a domain that is no grid
_REACH = 1.6  # mean distances of neighbours up to which a node fills the picture
_ALL_ROUND = 300.0  # degrees of longitude from which on it is the globe
_BARE = "0.92"


class Canvas(Protocol):
    """Draws values of the nodes of a domain."""

    @property
    def aspect(self) -> float:
        """Width over height."""
        ...

    def style(self, values: Array, *, spread: bool = False) -> Style:
        """Return a scale of colours for values (..., node), or for standard deviations."""
        ...

    def draw_cells(self, axes: Axes, values: Array, style: Style) -> None:
        """Draw values (node,); NaN stays grey."""
        ...

    def draw_points(self, axes: Axes, values: Array, style: Style) -> None:
        """Draw values (node,) that are not NaN as dots, since few cells would not show."""
        ...


def canvas_of(domain: Domain, projection: Any = None) -> Canvas:
    """Return the canvas of a domain.

    Nodes on a sphere colour the part of its picture that is nearest to them. Those of any other
    body are dots, seen along its shortest axis.

    Args:
        domain: The domain.
        projection: Projection of what lies on the sphere, one of ``cartopy.crs``.

    Raises:
        InputError: If there is a projection, and the domain does not lie on the sphere.
    """
    if isinstance(domain, LatLonDomain):
        return _Grid(domain, projection)
    if not isinstance(domain, ImageDomain) and degrees_of(domain) is not None:
        return _Sphere(domain, projection)
    if projection is not None:
        raise InputError(
            f"projection={projection!r} of {domain!r}, which has no latitudes and longitudes; "
            "leave it out"
        )
    return _Image(domain) if isinstance(domain, ImageDomain) else _Body(domain)


class _Base:
    def __init__(self, domain: Any) -> None:
        self._areas = domain.areas.numpy()

    def style(self, values: Array, *, spread: bool = False) -> Style:
        return area_style(values, self._areas, spread=spread)


class _Grid(_Base):
    def __init__(self, domain: LatLonDomain, projection: Any) -> None:
        super().__init__(domain)
        self._globe, self._shape = Globe(domain, projection), domain.shape

    @property
    def aspect(self) -> float:
        return self._globe.aspect

    def draw_cells(self, axes: Axes, values: Array, style: Style) -> None:
        self._globe.draw_cells(axes, values.reshape(self._shape), style)

    def draw_points(self, axes: Axes, values: Array, style: Style) -> None:
        self._globe.draw_points(axes, values.reshape(self._shape), style)


class _Image(_Base):
    def __init__(self, domain: ImageDomain) -> None:
        super().__init__(domain)
        self._shape = domain.shape

    @property
    def aspect(self) -> float:
        return self._shape[1] / self._shape[0]

    def draw_cells(self, axes: Axes, values: Array, style: Style) -> None:
        from matplotlib import colormaps

        cmap = colormaps[style.cmap].with_extremes(bad=_BARE)
        axes.imshow(values.reshape(self._shape), cmap=cmap, norm=style.norm)
        axes.set_xticks([])
        axes.set_yticks([])

    draw_points = draw_cells  # pixels that were seen are large enough


class _Sphere(_Base):
    def __init__(self, domain: Domain, projection: Any) -> None:
        super().__init__(domain)
        found = degrees_of(domain)
        assert found is not None
        self._lat, self._lon = found
        self._picture = self._grid()
        self._globe = Globe(self._picture, projection)

    def _grid(self) -> LatLonDomain:
        """Return a grid of equal steps in degrees that holds the nodes."""
        west = self._west
        lon, step = (self._lon - west) % 360.0, 180.0 / _ROWS
        if np.ptp(lon) > _ALL_ROUND:
            lat = 90.0 - step * (np.arange(_ROWS) + 0.5)
            return LatLonDomain(lat, step * np.arange(2 * _ROWS))
        pad = 0.05 * max(np.ptp(self._lat), np.ptp(lon), 1e-3)
        north, south = min(self._lat.max() + pad, 89.9), max(self._lat.min() - pad, -89.9)
        count = int(np.clip(_ROWS * (np.ptp(lon) + 2 * pad) / (north - south), 16, 4 * _ROWS))
        return LatLonDomain(
            np.linspace(north, south, _ROWS),
            west - pad + np.linspace(0.0, np.ptp(lon) + 2 * pad, count),
        )

    @cached_property
    def _west(self) -> float:
        """Longitude at which the largest gap between nodes ends."""
        lon = np.sort(self._lon % 360.0)
        gaps = np.diff(np.append(lon, lon[0] + 360.0))
        return float(lon[(int(gaps.argmax()) + 1) % len(lon)])

    @cached_property
    def _nearest(self) -> Array:
        """Node (lat, lon) nearest to each place of the picture, -1 where all are far."""
        nodes = _on_sphere(self._lat, self._lon)
        lat, lon = np.meshgrid(self._picture.lat, self._picture.lon, indexing="ij")
        tree = cKDTree(nodes)
        spacing = np.median(tree.query(nodes, min(5, len(nodes)))[0][:, -1])
        distance, place = tree.query(_on_sphere(lat.ravel(), lon.ravel()))
        return np.where(distance < _REACH * spacing, place, -1).reshape(lat.shape)

    @property
    def aspect(self) -> float:
        return self._globe.aspect

    def draw_cells(self, axes: Axes, values: Array, style: Style) -> None:
        shown = np.append(values, np.nan)[self._nearest]
        self._globe.draw_cells(axes, shown, style)

    def draw_points(self, axes: Axes, values: Array, style: Style) -> None:
        seen = np.isfinite(values)
        self._globe.draw_places(axes, self._lat[seen], self._lon[seen], values[seen], style)


class _Body(_Base):
    def __init__(self, domain: Domain) -> None:
        super().__init__(domain)
        centred = domain.positions.numpy() - domain.positions.numpy().mean(0)
        _, _, axes = np.linalg.svd(centred, full_matrices=False)
        turned = centred @ axes.T
        depth = turned[:, 2] if turned.shape[1] > 2 else np.zeros(len(turned))
        self._x, self._y, self._order = turned[:, 0], turned[:, 1], np.argsort(depth)

    @property
    def aspect(self) -> float:
        return float(np.ptp(self._x) / np.ptp(self._y))

    def draw_cells(self, axes: Axes, values: Array, style: Style) -> None:
        from matplotlib import colormaps

        cmap = colormaps[style.cmap].with_extremes(bad=_BARE)
        size = np.clip(20_000.0 / len(values), 0.5, 60.0)
        axes.scatter(
            self._x[self._order],
            self._y[self._order],
            c=np.ma.masked_invalid(values[self._order]),
            s=size,
            cmap=cmap,
            norm=style.norm,
            plotnonfinite=True,
            linewidths=0,
            rasterized=True,
        )
        axes.set_aspect("equal")
        axes.set_axis_off()

    draw_points = draw_cells


def _on_sphere(lat: Array, lon: Array) -> Array:
    phi, lam = np.deg2rad(lat), np.deg2rad(lon)
    return np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], -1)
