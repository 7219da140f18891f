"""Build coads; the card beside this file says what it is."""

from pathlib import Path

import numpy as np
import xarray as xr

from apsgeo.datasets.cf import LICENSE_NOAA, finish, north_first
from apsgeo.datasets.ferret import COADS_FILE, ferret
from apsgeo.datasets.recipe import Recipe

__all__ = ["COADS"]

# name in the original: name, standard name, long name, units
_VARIABLES = {
    "SST": ("sst", "sea_surface_temperature", "sea surface temperature", "degC"),
    "AIRT": ("air", "air_temperature", "air temperature", "degC"),
    "SPEH": ("shum", "specific_humidity", "specific humidity", "g kg-1"),
    "WSPD": ("wspd", "wind_speed", "wind speed", "m s-1"),
    "UWND": ("uwnd", "eastward_wind", "eastward wind", "m s-1"),
    "VWND": ("vwnd", "northward_wind", "northward wind", "m s-1"),
    "SLP": ("slp", "air_pressure_at_mean_sea_level", "sea level pressure", "hPa"),
}


def build(raw: list[Path]) -> xr.Dataset:
    """Make the CF file out of the original: same values and gaps, months numbered from 1."""
    # Its dates are in the year 0: only their order means something.
    with xr.open_dataset(raw[0], engine="netcdf4", decode_times=False) as original:
        dataset = original[list(_VARIABLES)].load()
    dataset = dataset.rename(TIME="month", COADSY="lat", COADSX="lon")
    months = np.arange(1, dataset.sizes["month"] + 1, dtype=np.int32)
    dataset = dataset.assign_coords(month=("month", months, {"long_name": "month of the year"}))
    dataset = dataset.rename({name: new for name, (new, *_) in _VARIABLES.items()})
    for name, standard_name, long_name, units in _VARIABLES.values():
        dataset[name].attrs = {
            "standard_name": standard_name,
            "long_name": f"{long_name}, climatological monthly mean",
            "units": units,
        }
    return finish(
        north_first(dataset),
        title="COADS: climatology of marine surface observations, 1946-1989",
        institution="NOAA",
        source="means of ship and buoy observations in boxes of 2 degrees, not interpolated",
        references="Woodruff et al. (1987), A Comprehensive Ocean-Atmosphere Data Set, "
        "Bull. Amer. Meteor. Soc. 68, 1239-1250",
        license=LICENSE_NOAA,
    )


COADS = Recipe(
    name="coads",
    variable="sst",
    source=ferret(COADS_FILE, "b94f55034d13d63f33e2153afddc0c5e00347076c35ab3e34937aec38ce9c4c1"),
    members=(COADS_FILE,),
    build=build,
)
