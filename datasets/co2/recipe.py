"""Build co2; the card beside this file says what it is."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from apsgeo.datasets.cf import finish
from apsgeo.datasets.debian import DebianPackage
from apsgeo.datasets.recipe import Recipe
from apsgeo.errors import DatasetError

__all__ = ["CO2"]

_MEMBER = "usr/lib/R/site-library/fields/data/CO2.rda"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    try:
        import rdata
    except ImportError as error:
        raise DatasetError(
            "co2 is a file of R, which the package rdata reads; pip install apsgeo[bench]"
        ) from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of names whose encoding R did not note
        found: dict[str, dict[str, Any]] = rdata.read_rda(path)
    return found


def build(raw: list[Path]) -> xr.Dataset:
    """Put the truth and the observations on their common grid.

    Raises:
        DatasetError: If an observation is at no cell of the grid, or a cell has two.
    """
    found = _read(raw[0])
    true, seen = found["CO2.true"], found["CO2"]
    lon, lat = (np.asarray(true[name], dtype=np.float64) for name in ("x", "y"))
    place = np.asarray(seen["lon.lat"], dtype=np.float64)
    column, row = (
        np.abs(place[:, which, None] - axis).argmin(1) for which, axis in enumerate((lon, lat))
    )
    cell = row * len(lon) + column
    if (lon[column] != place[:, 0]).any() or (lat[row] != place[:, 1]).any():
        raise DatasetError(f"{raw[0].name} has observations that are at no cell of its grid")
    if len(np.unique(cell)) != len(cell):
        raise DatasetError(f"{raw[0].name} has several observations of one cell")
    observed = np.full(len(lat) * len(lon), np.nan, dtype=np.float32)
    observed[cell] = np.asarray(seen["y"])
    attrs = {"units": "ppm", "long_name": "carbon dioxide, dry air mole fraction"}
    dims = ("lat", "lon")
    return finish(
        xr.Dataset(
            {
                "observed": (dims, observed.reshape(len(lat), len(lon)), attrs),
                "truth": (dims, np.asarray(true["z"], dtype=np.float32).T, attrs),
            },
            {"lat": ("lat", lat), "lon": ("lon", lon)},
        ),
        title="Simulated carbon dioxide, and observations of it along a satellite's orbits",
        source="the R package fields (CO2), after the simulated AIRS retrievals of H. Nguyen",
        references="Nychka et al., fields: Tools for Spatial Data, doi 10.5065/D6W957CT",
        license="GPL-2.0 or later (of the package fields)",
    )


CO2 = Recipe(
    name="co2",
    variable="observed",
    source=DebianPackage(
        package="r-cran-fields",
        version="14.1-1",
        sha256={_MEMBER: "4361586e34a6878ddcdb7462b9739c02d8ea98bcfe0c7b6b1da4a7bc52ec362b"},
    ),
    members=(_MEMBER,),
    build=build,
)
