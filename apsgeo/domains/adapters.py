"""From xarray's labels to a domain, and to the order in which the domain counts its nodes."""

from __future__ import annotations

import numpy as np
import xarray as xr

from apsgeo.domains.latlon import LatLonDomain
from apsgeo.errors import GridError

__all__ = ["domain_of", "horizontal_dims", "ordered"]

_LATITUDE = ("lat", "latitude", "nav_lat")
_LONGITUDE = ("lon", "longitude", "nav_lon")


def _is(array: xr.DataArray, name: str, names: tuple[str, ...], standard: str) -> bool:
    if str(name).lower() in names:
        return True
    return name in array.coords and array[name].attrs.get("standard_name") == standard


def horizontal_dims(array: xr.DataArray) -> tuple[str, str]:
    """Return the names of the latitude and longitude dimensions.

    They are known by name or by the CF attribute `standard_name`.

    Raises:
        GridError: If there is not exactly one of each, with coordinates.
    """
    found = []
    for names, standard in ((_LATITUDE, "latitude"), (_LONGITUDE, "longitude")):
        matching = [str(d) for d in array.dims if _is(array, str(d), names, standard)]
        if len(matching) != 1 or matching[0] not in array.coords:
            raise GridError(
                f"no single {standard} dimension with coordinates among {array.dims}; name it "
                f"{names[0]!r} or give it the attribute standard_name={standard!r}."
            )
        found.append(matching[0])
    return found[0], found[1]


def ordered(array: xr.DataArray) -> xr.DataArray:
    """Return the array with dims (time, lat, lon), time first if there is one.

    Raises:
        GridError: If there are other dimensions.
    """
    lat, lon = horizontal_dims(array)
    others = [str(d) for d in array.dims if d not in (lat, lon)]
    if len(others) > 1:
        raise GridError(
            f"the array has dims {array.dims}; expected a time dimension, {lat!r} and {lon!r}. "
            "Select one level or member first."
        )
    return array.transpose(*others, lat, lon)


def domain_of(array: xr.DataArray) -> LatLonDomain:
    """Return the domain of an array's latitudes and longitudes.

    Raises:
        GridError: If the coordinates are no grid.
    """
    lat, lon = horizontal_dims(array)
    return LatLonDomain(np.asarray(array[lat].values), np.asarray(array[lon].values))
