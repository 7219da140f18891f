"""Build nrcan; the card beside this file says what it is."""

from pathlib import Path

import numpy as np
import xarray as xr

from apsgeo.datasets.cf import finish
from apsgeo.datasets.pypi import Sdist
from apsgeo.datasets.recipe import Recipe

__all__ = ["NRCAN"]

_VARIABLES = ("pr", "tasmax", "tasmin")
_ATTRS = {
    "pr": {
        "standard_name": "lwe_precipitation_rate",
        "long_name": "daily precipitation",
        "units": "mm d-1",
        "cell_methods": "time: mean",
    },
    "tasmax": {
        "standard_name": "air_temperature",
        "long_name": "daily maximum of the air temperature",
        "units": "K",
        "cell_methods": "time: maximum within days",
    },
    "tasmin": {
        "standard_name": "air_temperature",
        "long_name": "daily minimum of the air temperature",
        "units": "K",
        "cell_methods": "time: minimum within days",
    },
}


def build(raw: list[Path]) -> xr.Dataset:
    """Put the three variables into one CF file; precipitation from mm/s to mm/day."""
    fields = {}
    for name, file in zip(_VARIABLES, raw, strict=True):
        with xr.open_dataset(file, engine="netcdf4") as original:
            fields[name] = original[name].load()
    fields["pr"] = (fields["pr"].astype(np.float64) * 86400).astype(np.float32)
    dataset = xr.Dataset(fields).transpose("time", "lat", "lon")
    for name, attrs in _ATTRS.items():
        dataset[name].attrs = dict(attrs)
    return finish(
        dataset,
        {"time": 73},
        title="NRCAN gridded daily precipitation and temperature, eastern Canada, 1990",
        institution="Natural Resources Canada",
        source="ANUSPLIN: thin-plate splines through station observations",
        references="Hutchinson et al. (2009), Development and Testing of Canada-Wide Interpolated "
        "Spatial Models of Daily Minimum-Maximum Temperature and Precipitation for 1961-2003, "
        "J. Appl. Meteor. Climatol. 48, 725-741",
        license="redistribution policy unknown, for internal use only (says the original file)",
    )


NRCAN = Recipe(
    name="nrcan",
    variable="pr",
    source=Sdist(
        package="xclim",
        version="0.19.0",
        sha256="13f8df26c8af4802b0d7bcee265a8fadf671da092e3b5732adb36a2a4e42eab4",
    ),
    members=tuple(
        f"xclim-0.19.0/tests/testdata/NRCANdaily/nrcan_canada_daily_{name}_1990.nc"
        for name in _VARIABLES
    ),
    build=build,
)
