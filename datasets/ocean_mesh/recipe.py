"""Build ocean-mesh; the card beside this file says what it is."""

from pathlib import Path

import numpy as np
import xarray as xr

from apsgeo.datasets.cf import finish
from apsgeo.datasets.mesh import check_faces, ugrid
from apsgeo.datasets.pypi import Sdist
from apsgeo.datasets.recipe import Recipe

__all__ = ["OCEAN_MESH"]

# name in the original: name, where, standard name, long name, units
_VARIABLES = {
    "temp": ("temp", "node", "sea_water_potential_temperature", "potential temperature", "degC"),
    "salt": ("salt", "node", "sea_water_practical_salinity", "salinity", "1"),
    "u": ("uo", "face", "sea_water_x_velocity", "velocity along the model's x axis", "m s-1"),
    "v": ("vo", "face", "sea_water_y_velocity", "velocity along the model's y axis", "m s-1"),
}
_FOLDER = "uxarray-2024.3.0/test/meshfiles/ugrid/fesom"


def build(raw: list[Path]) -> xr.Dataset:
    """Put the mesh and the model's state into one UGRID file; NaN below the sea floor."""
    with xr.open_dataset(raw[0], engine="netcdf4") as mesh:
        mesh = mesh.load()
    levels = {"node": mesh["nlevels_nod2D"].values, "face": mesh["nlevels"].values}
    fields = {}
    for (name, entry), file in zip(_VARIABLES.items(), raw[1:], strict=True):
        new, where, standard_name, long_name, units = entry
        with xr.open_dataset(file, engine="netcdf4") as original:
            values = original[name].isel(time=0).values
        # Layer k lies between the levels k and k + 1; the original holds zeros under the last.
        wet = np.arange(len(values))[:, None] < levels[where] - 1
        attrs = {"standard_name": standard_name, "long_name": long_name, "units": units}
        masked = np.where(wet, values, np.nan).astype(np.float32)
        fields[new] = (("depth", where), masked, attrs)
    depth = {"standard_name": "depth", "units": "m", "positive": "down", "axis": "Z"}
    coords = {
        "depth": ("depth", abs(mesh["nz1"].values), depth),
        "lat": ("node", mesh["lat"].values),
        "lon": ("node", mesh["lon"].values % 360),
    }
    area = {"standard_name": "cell_area", "long_name": "area of the node's cell", "units": "m2"}
    floor = {"standard_name": "sea_floor_depth", "long_name": "depth of the floor", "units": "m"}
    dataset = xr.Dataset(fields, coords).assign(
        node_area=("node", mesh["nod_area"].values[0], area),
        floor_depth=("node", -mesh["zbar_n_bottom"].values, floor),
    )
    faces = check_faces(mesh["face_nodes"].values.T - 1, dataset.sizes["node"], "the ocean mesh")
    return finish(
        ugrid(dataset, faces),
        title="FESOM2: state of the ocean on the mesh 'pi'",
        institution="Alfred Wegener Institute",
        source="FESOM2, output of the first day of a test run (1948-01-01)",
        references="Danilov et al. (2017), The Finite-volumE Sea ice-Ocean Model (FESOM2), "
        "Geosci. Model Dev. 10, 765-789",
        license="Apache 2.0 (of the package uxarray)",
    )


OCEAN_MESH = Recipe(
    name="ocean-mesh",
    variable="temp",
    source=Sdist(
        package="uxarray",
        version="2024.3.0",
        sha256="72ffa45069fe86c6998cdd516cdf07860cfe6995f04b433b2f232e929ba43db7",
    ),
    members=(
        f"{_FOLDER}/fesom.mesh.diag.nc",
        *(f"{_FOLDER}/{name}.fesom.1948.nc" for name in _VARIABLES),
    ),
    build=build,
)
