"""Build z500, z200 and v200; the card beside this file says what they are."""

from collections.abc import Callable
from pathlib import Path

import xarray as xr

from apsgeo.datasets.cf import LICENSE_NOAA, finish
from apsgeo.datasets.easyclimate import EASYCLIMATE, member
from apsgeo.datasets.recipe import Recipe

__all__ = ["V200", "Z200", "Z500"]

_HEIGHT = {
    "standard_name": "geopotential_height",
    "long_name": "monthly mean geopotential height",
    "units": "m",
    "cell_methods": "time: mean",
}
_WIND = {
    "standard_name": "northward_wind",
    "long_name": "monthly mean northward wind",
    "units": "m s-1",
    "cell_methods": "time: mean",
}
_LEVEL = {"standard_name": "air_pressure", "units": "hPa", "positive": "down"}


def builder(
    original: str, name: str, level: int, attrs: dict[str, str]
) -> Callable[[list[Path]], xr.Dataset]:
    """Say how to make the CF file out of the original: same values, clean metadata."""

    def build(raw: list[Path]) -> xr.Dataset:
        with xr.open_dataset(raw[0], engine="netcdf4") as source:
            dataset = source[[original]].rename({original: name}).load()
        dataset[name].attrs = dict(attrs)
        return finish(
            dataset.assign_coords(level=((), float(level), _LEVEL)),
            {"time": 120},
            title=f"NCEP reanalysis: {attrs['long_name']} at {level} hPa",
            institution="NOAA National Centers for Environmental Prediction",
            source="NCEP reanalysis: a T62 spectral model that assimilates observations",
            references="Kalnay et al. (1996), The NCEP/NCAR 40-Year Reanalysis Project, "
            "Bull. Amer. Meteor. Soc. 77, 437-471",
            license=LICENSE_NOAA,
        )

    return build


def _recipe(name: str, original: str, level: int, attrs: dict[str, str]) -> Recipe:
    return Recipe(
        name=name,
        variable=name,
        source=EASYCLIMATE,
        members=(member(f"{name}_mon"),),
        build=builder(original, name, level, attrs),
        folder="pressure_levels",
    )


Z500 = _recipe("z500", "hgt", 500, _HEIGHT)
Z200 = _recipe("z200", "hgt", 200, _HEIGHT)
V200 = _recipe("v200", "vwnd", 200, _WIND)
