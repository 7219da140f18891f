"""From xarray's labels to latitude-longitude grids."""

from __future__ import annotations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.domains.latlon.domain import SAME_DEGREES, LatLonDomain
from apsgeo.errors import GridError

__all__ = [
    "coordinate_of",
    "flip_against",
    "has_horizontal_dims",
    "horizontal_dims",
    "latlon_domain_of",
]

_NAMES = {
    "latitude": ("lat", "latitude", "nav_lat"),
    "longitude": ("lon", "longitude", "nav_lon"),
}


def _is(array: xr.DataArray, name: str, standard: str) -> bool:
    if name.lower() in _NAMES[standard]:
        return True
    return name in array.coords and array[name].attrs.get("standard_name") == standard


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
                f"no single {standard} dimension with coordinates among {array.dims}; name it "
                f"{names[0]!r} or give it the attribute standard_name={standard!r}."
            )
        found.append(matching[0])
    return found[0], found[1]


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
    in_radians = str(found[0].attrs.get("units", "")).lower().startswith("rad")
    return np.rad2deg(found[0]) if in_radians else found[0]


def latlon_domain_of(array: xr.DataArray) -> LatLonDomain:
    """Return the domain of an array's latitudes and longitudes.

    Raises:
        GridError: If the coordinates are no grid.
    """
    lat, lon = horizontal_dims(array)
    return LatLonDomain(np.asarray(array[lat].values), np.asarray(array[lon].values))


def flip_against(
    own: LatLonDomain, domain: LatLonDomain, lon: str, *, given: str, wanted: str
) -> bool:
    """Tell whether the rows of a grid run against those of another that has the same points.

    Args:
        own: The grid of some data.
        domain: The grid that is wanted.
        lon: Name of the data's dimension of longitude, for messages.
        given: Name of the data in messages.
        wanted: Name in messages of what the data are for.

    Raises:
        GridError: If the points differ.
    """
    same_lon = _same(own.lon, domain.lon)
    if same_lon and _same(own.lat, domain.lat):
        return False
    if same_lon and _same(own.lat[::-1], domain.lat):
        return True
    raise GridError(
        f"{given} is on {own!r}, and {wanted} on {domain!r}; {_advice(own, domain, lon)}"
    )


def _advice(own: LatLonDomain, domain: LatLonDomain, lon: str) -> str:
    same_lon = _same(own.lon, domain.lon)
    if same_lon or not _same(np.sort(own.lon % 360), np.sort(domain.lon % 360)):
        return "interpolate one to the other's grid, or fit a model on this grid"
    low = np.floor(domain.lon[0])
    return (
        "the longitudes are the same, counted from elsewhere: use "
        f"obs.assign_coords({lon}=(obs[{lon!r}] - ({low:g})) % 360 + ({low:g})).sortby({lon!r})"
    )


def _same(first: NDArray[np.float64], second: NDArray[np.float64]) -> bool:
    return first.shape == second.shape and np.allclose(first, second, rtol=0, atol=SAME_DEGREES)
