"""Build ncep-air; the card beside this file says what it is."""

from pathlib import Path

import xarray as xr

from apsgeo.datasets.pypi import Sdist
from apsgeo.datasets.recipe import Recipe

__all__ = ["NCEP_AIR"]


def build(raw: list[Path]) -> xr.Dataset:
    """Make the CF file out of the original: same values, clean metadata, chunks of ten years."""
    with xr.open_dataset(raw[0], engine="netcdf4") as original:
        dataset = original[["air"]].load()
    dataset.attrs = {
        "Conventions": "CF-1.10",
        "title": "NCEP/NCAR Reanalysis 1: monthly mean air temperature at 0.995 sigma",
        "institution": "NOAA National Centers for Environmental Prediction",
        "source": "NCEP/NCAR Reanalysis 1: a T62 spectral model that assimilates observations",
        "references": "Kalnay et al. (1996), The NCEP/NCAR 40-Year Reanalysis Project, "
        "Bull. Amer. Meteor. Soc. 77, 437-471",
        "license": "public domain (a work of the United States government)",
    }
    dataset["air"].attrs = {
        "standard_name": "air_temperature",
        "long_name": "monthly mean air temperature at 0.995 sigma",
        "units": "degC",
        "cell_methods": "time: mean",
    }
    dataset["time"].attrs = {
        "standard_name": "time",
        "long_name": "start of the month",
        "axis": "T",
    }
    for name in ("lat", "lon"):
        dataset[name].attrs.pop("actual_range", None)
        dataset[name].encoding = {"_FillValue": None}
    dataset["air"].encoding = {
        "dtype": "float32",
        "zlib": True,
        "complevel": 4,
        "chunksizes": (min(120, dataset.sizes["time"]), *dataset["air"].shape[1:]),
        "_FillValue": None,
    }
    dataset["time"].encoding = {"units": "days since 1800-01-01", "dtype": "float64"}
    dataset.encoding = {}
    return dataset


NCEP_AIR = Recipe(
    name="ncep-air",
    variable="air",
    source=Sdist(
        package="pyunicorn",
        version="1.0.0",
        sha256="4853ee7c48084a8795daeca1ae2d97ef1bd00da68cdb6262f7a5d4683d5b4d76",
    ),
    members=("pyunicorn-1.0.0/docs/source/examples/tutorials/data/air.mon.mean.nc",),
    build=build,
)
