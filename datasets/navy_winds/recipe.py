"""Build navy-winds; the card beside this file says what it is."""

from pathlib import Path

import numpy as np
import xarray as xr

from apsgeo.datasets.cf import LICENSE_NOAA, finish, north_first
from apsgeo.datasets.ferret import NAVY_WINDS_FILE, ferret
from apsgeo.datasets.recipe import Recipe

__all__ = ["NAVY_WINDS"]

_VARIABLES = {"UWND": ("uwnd", "eastward"), "VWND": ("vwnd", "northward")}


def build(raw: list[Path]) -> xr.Dataset:
    """Make the CF file out of the original: same values, months stamped with their first day."""
    with xr.open_dataset(raw[0], engine="netcdf4") as original:
        dataset = original[list(_VARIABLES)].load()
    dataset = dataset.rename(TIME="time", FNOCY="lat", FNOCX="lon")
    dataset = dataset.rename({name: new for name, (new, _) in _VARIABLES.items()})
    for name, direction in _VARIABLES.values():
        dataset[name].attrs = {
            "standard_name": f"{direction}_wind",
            "long_name": f"monthly mean {direction} surface wind",
            "units": "m s-1",
            "cell_methods": "time: mean",
        }
    months = dataset["time"].values.astype("datetime64[M]").astype("datetime64[ns]")
    dataset = dataset.assign_coords(time=months)
    return finish(
        north_first(dataset).astype(np.float32),
        title="FNOC monthly mean surface winds, 1982-1992",
        institution="US Navy Fleet Numerical Oceanography Center",
        source="operational analyses, as distributed with Ferret (monthly_navy_winds)",
        license=LICENSE_NOAA,
    )


NAVY_WINDS = Recipe(
    name="navy-winds",
    variable="uwnd",
    source=ferret(
        NAVY_WINDS_FILE, "225a9e4fed7bb1a7b558afb662abbe2dc5e3d3db4100fa019cb994f10b115faa"
    ),
    members=(NAVY_WINDS_FILE,),
    build=build,
)
