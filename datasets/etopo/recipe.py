"""Build etopo and etopo-patches; the card beside this file says what they are."""

from pathlib import Path

import numpy as np
import xarray as xr

from apsgeo.datasets.cf import LICENSE_NOAA, finish, north_first
from apsgeo.datasets.ferret import ETOPO_FILE, ferret
from apsgeo.datasets.recipe import Recipe
from apsgeo.errors import DatasetError

__all__ = ["ETOPO", "ETOPO_PATCHES"]

PATCH_SIZE = 64
MOST_NORTHERN = 60.0
_SOURCE = ferret(ETOPO_FILE, "1455d5e5feebd183d0bef5538a750ca8a44801e1503f964df900831c224459ce")
_ATTRS = {
    "standard_name": "surface_altitude",
    "long_name": "height of the solid surface above sea level",
    "units": "m",
}


def build(raw: list[Path]) -> xr.Dataset:
    """Make the CF file out of the original: same heights, exact coordinates, north first."""
    elevation = _read(raw)
    return _finish(elevation.to_dataset(), "ETOPO5: the relief of the Earth, 5 arc minutes")


def build_patches(raw: list[Path]) -> xr.Dataset:
    """Cut the relief between 60° north and south into squares that do not overlap."""
    patches = cut_patches(_read(raw), PATCH_SIZE, MOST_NORTHERN)
    title = f"ETOPO5: patches of {PATCH_SIZE} x {PATCH_SIZE} cells of the relief of the Earth"
    return _finish(patches, title)


def cut_patches(elevation: xr.DataArray, size: int, most_northern: float) -> xr.Dataset:
    """Cut a field (lat, lon) into squares of ``size`` cells that do not overlap.

    Rows beyond ``most_northern`` degrees north or south, and what is left over in the south and
    the east, are not used.

    Returns:
        ``elevation(patch, row, col)`` with the coordinates ``lat(patch, row)``,
        ``lon(patch, col)`` and ``land_fraction(patch)``: the share of cells above sea level.
    """
    used = elevation.isel(lat=np.flatnonzero(abs(elevation["lat"].values) <= most_northern))
    down, across = used.sizes["lat"] // size, used.sizes["lon"] // size
    used = used.isel(lat=slice(down * size), lon=slice(across * size))
    values = used.values.reshape(down, size, across, size).swapaxes(1, 2)
    values = values.reshape(down * across, size, size)
    lat = np.repeat(used["lat"].values.reshape(down, size), across, axis=0)
    lon = np.tile(used["lon"].values.reshape(across, size), (down, 1))
    land = (values > 0).mean((1, 2)).astype(np.float32)
    land_attrs = {"long_name": "share of the cells above sea level", "units": "1"}
    return xr.Dataset(
        {"elevation": (("patch", "row", "col"), values, elevation.attrs)},
        {
            "lat": (("patch", "row"), lat),
            "lon": (("patch", "col"), lon),
            "land_fraction": ("patch", land, land_attrs),
        },
    )


def _read(raw: list[Path]) -> xr.DataArray:
    with xr.open_dataset(raw[0], engine="netcdf4") as original:
        elevation = original["ROSE"].load()
    rows, columns = elevation.shape
    # The file rounds them to 359.92° for 359 + 11/12°.
    lat, lon = np.linspace(-90, 90, rows), np.arange(columns) * (360 / columns)
    for name, exact in (("ETOPO05_Y", lat), ("ETOPO05_X", lon)):
        if abs(elevation[name].values - exact).max() > 0.1 * 360 / columns:
            raise DatasetError(f"the coordinate {name} of {raw[0].name} is not the one expected")
    elevation = elevation.rename(ETOPO05_Y="lat", ETOPO05_X="lon").rename("elevation")
    elevation = elevation.assign_coords(lat=lat, lon=lon)
    elevation.attrs = dict(_ATTRS)
    return north_first(elevation.to_dataset())["elevation"]


def _finish(dataset: xr.Dataset, title: str) -> xr.Dataset:
    return finish(
        dataset,
        {"lat": 241, "lon": 480, "patch": 64},
        title=title,
        institution="NOAA National Geophysical Data Center",
        source="ETOPO5, as distributed with Ferret",
        references="National Geophysical Data Center (1993), 5-minute Gridded Global Relief Data "
        "(ETOPO5), doi:10.7289/V5D798BF",
        license=LICENSE_NOAA,
    )


ETOPO = Recipe("etopo", "elevation", _SOURCE, (ETOPO_FILE,), build)
ETOPO_PATCHES = Recipe(
    "etopo-patches", "elevation", _SOURCE, (ETOPO_FILE,), build_patches, folder="etopo"
)
