"""Build oisst; the card beside this file says what it is."""

from pathlib import Path

import xarray as xr

from apsgeo.datasets.cf import LICENSE_NOAA, finish
from apsgeo.datasets.easyclimate import EASYCLIMATE, member
from apsgeo.datasets.recipe import Recipe

__all__ = ["OISST"]


def build(raw: list[Path]) -> xr.Dataset:
    """Make the CF file out of the original: same values, clean metadata."""
    with xr.open_dataset(raw[0], engine="netcdf4") as original:
        dataset = original[["sst"]].load()
    dataset["sst"].attrs = {
        "standard_name": "sea_surface_temperature",
        "long_name": "monthly mean sea surface temperature",
        "units": "degC",
        "cell_methods": "time: mean",
    }
    return finish(
        dataset,
        {"time": 120},
        title="NOAA Optimum Interpolation SST V2: monthly mean, on a 2.5 degree grid",
        institution="NOAA Physical Sciences Laboratory",
        source="optimum interpolation of ship, buoy and satellite observations",
        references="Reynolds et al. (2002), An Improved In Situ and Satellite SST Analysis for "
        "Climate, J. Climate 15, 1609-1625",
        license=LICENSE_NOAA,
    )


OISST = Recipe(
    name="oisst",
    variable="sst",
    source=EASYCLIMATE,
    members=(member("oisst_data"),),
    build=build,
)
