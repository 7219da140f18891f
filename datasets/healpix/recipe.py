"""Build z500-healpix and oisst-healpix; the card beside this file says what they are."""

from collections.abc import Callable
from pathlib import Path

import xarray as xr

from apsgeo.datasets.cf import finish
from apsgeo.datasets.derived import derived
from apsgeo.datasets.oisst.recipe import OISST
from apsgeo.datasets.pressure_levels.recipe import Z500
from apsgeo.datasets.recipe import Recipe

__all__ = ["OISST_HEALPIX", "Z500_HEALPIX"]

_LEVEL = 5  # nside 32: 12288 pixels of 1.8 degrees


def builder(name: str, level: int = _LEVEL) -> Callable[[list[Path]], xr.Dataset]:
    """Say how to average a field on a global grid over the pixels of a HEALPix level."""

    def build(raw: list[Path]) -> xr.Dataset:
        from apsgeo.datasets.era5.regrid import to_healpix

        with xr.open_dataset(raw[0], engine="netcdf4") as grid:
            attrs = {key: str(value) for key, value in grid.attrs.items()}
            pixels = to_healpix(grid[[name]].load(), level)
        del attrs["Conventions"], attrs["history"]
        attrs["title"] += f"; averaged onto HEALPix, nside {2**level}, nested"
        return finish(pixels, {"time": 120}, **attrs)

    return build


def _recipe(recipe: Recipe) -> Recipe:
    source, members = derived(recipe)
    return Recipe(
        name=f"{recipe.name}-healpix",
        variable=recipe.variable,
        source=source,
        members=members,
        build=builder(recipe.variable),
        folder="healpix",
    )


Z500_HEALPIX = _recipe(Z500)
OISST_HEALPIX = _recipe(OISST)
