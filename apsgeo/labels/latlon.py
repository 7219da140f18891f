"""From xarray's labels to latitude-longitude grids."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.domains.latlon.domain import SAME_DEGREES, LatLonDomain
from apsgeo.errors import GridError

__all__ = [
    "coordinate_of",
    "degrees",
    "eastward",
    "has_horizontal_dims",
    "horizontal_dims",
    "is_horizontal",
    "latlon_domain_of",
    "rows_and_columns",
]

_NAMES = {
    "latitude": ("lat", "latitude", "nav_lat"),
    "longitude": ("lon", "longitude", "nav_lon"),
}


def _is(array: xr.DataArray, name: str, standard: str) -> bool:
    if name.lower() in _NAMES[standard]:
        return True
    return name in array.coords and array[name].attrs.get("standard_name") == standard


def is_horizontal(array: xr.DataArray, name: str) -> bool:
    """Tell whether a coordinate is one of latitude or longitude."""
    return any(_is(array, name, standard) for standard in _NAMES)


def has_horizontal_dims(array: xr.DataArray) -> bool:
    """Tell whether a dimension is one of latitude or longitude."""
    return any(_is(array, str(dim), standard) for dim in array.dims for standard in _NAMES)


def horizontal_dims(array: xr.DataArray) -> tuple[str, str]:
    """Return the names of the latitude and longitude dimensions.

    Their names, or the CF attribute `standard_name`, tell them.

    Raises:
        GridError: If there is not exactly one of each, with coordinates.
    """
    found = []
    for standard, names in _NAMES.items():
        matching = [str(dim) for dim in array.dims if _is(array, str(dim), standard)]
        if len(matching) != 1 or matching[0] not in array.coords:
            raise GridError(
                f"no single {standard} dimension with coordinates among {array.dims}; "
                f"{_how_to_find(array, standard, names[0])}"
            )
        found.append(matching[0])
    return found[0], found[1]


def _how_to_find(array: xr.DataArray, standard: str, name: str) -> str:
    """Return what to do about an array that has no dim of latitude or longitude."""
    for each, coordinate in array.coords.items():
        if _is(array, str(each), standard) and coordinate.ndim == 2:
            return f"{each!r} varies along two (a curvilinear or rotated grid): regrid it first."
        if _is(array, str(each), standard) and coordinate.dims != (each,) and coordinate.ndim:
            dim = coordinate.dims[0]
            return f"{each!r} lies along {dim!r}: .unstack({dim!r}), if these are cells of a grid."
    return f"name it {name!r} or give it the attribute standard_name={standard!r}."


def coordinate_of(array: xr.DataArray, standard: str) -> xr.DataArray | None:
    """Return the only coordinate of "latitude" or "longitude" along some dim, in degrees.

    None if there is none, or several.
    """
    found = [
        coordinate
        for name, coordinate in array.coords.items()
        if coordinate.ndim and _is(array, str(name), standard)
    ]
    if len(found) != 1:
        return None
    return found[0].copy(data=degrees(found[0]))


def latlon_domain_of(array: xr.DataArray) -> LatLonDomain:
    """Return the domain of an array's latitudes and longitudes.

    Longitudes that go on after a jump are counted on, [350, 355, 0, 5] as [350, 355, 360, 365].
    Columns that run westwards, or begin amid their region ([0, 5, 350, 355]), are put in order: the
    domain's column i is that of `column_order` in the array.

    Raises:
        GridError: If the coordinates are no grid.
    """
    lat, lon = horizontal_dims(array)
    lon_degrees = degrees(array[lon])
    _check_degrees(array, lat, lon)
    return LatLonDomain(degrees(array[lat]), eastward(lon_degrees)[0])


def degrees(coordinate: xr.DataArray) -> NDArray[np.float64]:
    """Return the values of a coordinate in degrees, which may be in radians."""
    values = np.asarray(coordinate.values, dtype=np.float64)
    in_radians = str(coordinate.attrs.get("units", "")).lower().startswith("rad")
    return np.rad2deg(values) if in_radians else values


def _check_degrees(array: xr.DataArray, lat: str, lon: str) -> None:
    """Check that coordinates do not go once round the globe in radians.

    Raises:
        GridError: If they do.
    """
    rows, columns = (degrees(array[name]) for name in (lat, lon))
    if len(columns) < 2 or not np.isfinite(columns).all() or np.abs(rows).max() > np.pi / 2 + 1e-6:
        return
    round_about = np.ptp(columns) * len(columns) / (len(columns) - 1)
    if abs(round_about - 2 * np.pi) < 1e-3 and np.ptp(rows) > 1.0:
        raise GridError(
            f"{lon!r} runs from {columns.min():g} to {columns.max():g} and {lat!r} from "
            f"{rows.min():g} to {rows.max():g}, which is the globe in radians; give degrees, "
            f"numpy.rad2deg, or the attribute units='radians'"
        )


def eastward(lon: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return longitudes so that they ascend, and the column that each was.

    What cannot be put in order is returned as it is.
    """
    order = np.arange(len(lon))
    if len(lon) < 2 or not np.isfinite(lon).all():
        return lon, order
    for turned in (order, order[::-1]):
        along = (lon[turned] - lon[turned[0]]) % 360
        if (np.diff(along) > 0).all():
            values = lon if (np.diff(lon) > 0).all() else lon[turned[0]] + along
            if _begins_amid(values):
                turned = np.roll(turned, -1 - int(np.diff(values).argmax()))
                values = lon[turned[0]] + (lon[turned] - lon[turned[0]]) % 360
            return values, turned
    return lon, order


def _begins_amid(lon: NDArray[np.float64]) -> bool:
    """Tell whether ascending longitudes begin amid their region: a gap is wider than round them."""
    gaps = np.diff(lon)
    return bool(gaps.max() > 1.5 * np.median(gaps) and gaps.max() > lon[0] + 360 - lon[-1] + 1e-6)


def rows_and_columns(
    array: xr.DataArray, domain: LatLonDomain, *, given: str, wanted: str
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the row and the column of an array in which each row and column of a grid is.

    Rows may run either way, and longitudes be counted from anywhere. Coordinates that were rounded
    when they were written, by less than a hundredth of a cell, are the same.

    Args:
        array: Array with dims of latitude and longitude.
        domain: The grid that is wanted.
        given: Name of the array in messages.
        wanted: Name in messages of what the array is for.

    Raises:
        GridError: If the points differ.
    """
    lat, lon = horizontal_dims(array)
    own_lat, own_lon = degrees(array[lat]), degrees(array[lon])
    rows = columns = None
    near = _near(domain)
    for turned in (np.arange(len(own_lat)), np.arange(len(own_lat))[::-1]):
        if rows is None and _same(own_lat[turned], domain.lat, near):
            rows = turned
    if len(own_lon) == len(domain.lon) and np.isfinite(own_lon).all():
        away = (own_lon[None] - domain.lon[:, None] + 180) % 360 - 180
        nearest = np.abs(away).argmin(1)
        if np.abs(np.take_along_axis(away, nearest[:, None], 1)).max() <= near:
            columns = nearest
    if rows is None or columns is None or len(np.unique(columns)) < len(columns):
        raise GridError(
            f"{given} is on {latlon_domain_of(array)!r}, and {wanted} on {domain!r}; "
            f"{_advice(own_lat, own_lon, domain)}",
            shell="cdo remapbil,GRID in.nc out.nc; or apsgeo impute --cell-means, for means over "
            "their own cells",
        )
    return rows, columns


def _advice(lat: NDArray[np.float64], lon: NDArray[np.float64], domain: LatLonDomain) -> str:
    larger = (len(lat), len(lon)) != domain.shape
    inside = (
        larger
        and np.isin(np.round(domain.lat, 3), np.round(lat, 3)).all()
        and (np.isin(np.round(domain.lon % 360, 3), np.round(lon % 360, 3)).all())
    )
    if inside:
        return "it is a part of the data: select it, obs.sel(lat=..., lon=...)"
    part = np.isin(np.round(lat, 3), np.round(domain.lat, 3)).all() and (
        np.isin(np.round(lon % 360, 3), np.round(domain.lon % 360, 3)).all()
    )
    if part:
        return (
            "the data are a part of it: put NaN elsewhere, obs.reindex(lat=..., lon=...) with its "
            "latitudes and longitudes"
        )
    return (
        "interpolate one to the other's grid, or fit a model on this grid; or, if values are means "
        "over their own cells, say so by operator=apsgeo.CellMeans()"
    )


def _near(domain: LatLonDomain) -> float:
    """Return by how many degrees coordinates of a cell may differ: a hundredth of a cell."""
    steps = np.abs(np.concatenate([np.diff(domain.lat), np.diff(domain.lon)]))
    return max(SAME_DEGREES, 0.01 * float(steps.min()))


def _same(first: NDArray[np.float64], second: NDArray[np.float64], near: float) -> bool:
    return first.shape == second.shape and np.allclose(first, second, rtol=0, atol=near)
