"""Build oisst-ocean-mesh; the card beside this file says what it is."""

from pathlib import Path

import numpy as np
import xarray as xr

from apsgeo.datasets.cf import LICENSE_NOAA, finish
from apsgeo.datasets.derived import derived
from apsgeo.datasets.mesh import node_areas, restrict, ugrid
from apsgeo.datasets.ocean_mesh.recipe import OCEAN_MESH
from apsgeo.datasets.oisst.recipe import OISST
from apsgeo.datasets.recipe import Recipe

__all__ = ["OISST_OCEAN_MESH"]


def build(raw: list[Path]) -> xr.Dataset:
    """Interpolate the temperature to the mesh, and leave out nodes that are land on its grid."""
    import torch

    from apsgeo.domains.regrid import bilinear
    from apsgeo.labels.layout import domain_of

    with xr.open_dataset(raw[0], engine="netcdf4") as file:
        sst = file["sst"].load()
    with xr.open_dataset(raw[1], engine="netcdf4") as file:
        mesh = file[["mesh", "face_nodes", "lat", "lon"]].load()
    lat, lon = np.deg2rad(mesh["lat"].values), np.deg2rad(mesh["lon"].values)
    points = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)
    grid = torch.from_numpy(sst.values.reshape(len(sst), -1))
    values = bilinear(domain_of(sst), torch.from_numpy(points)).apply(grid).numpy()
    nodes, faces = restrict(mesh["face_nodes"].values, np.isfinite(values).all(0))
    area = {"long_name": "a third of the area of the node's faces, on the unit sphere"}
    fields = xr.Dataset(
        {
            "sst": (("time", "node"), values[:, nodes], sst.attrs),
            "node_area": ("node", node_areas(points[nodes], faces), area),
        },
        {
            "time": sst["time"],
            "lat": ("node", mesh["lat"].values[nodes]),
            "lon": ("node", mesh["lon"].values[nodes]),
        },
    )
    return finish(
        ugrid(fields, faces),
        {"time": 120},
        title="NOAA Optimum Interpolation SST V2: monthly mean, on the FESOM2 mesh 'pi'",
        institution="NOAA Physical Sciences Laboratory; Alfred Wegener Institute (mesh)",
        source="oisst on its 2.5 degree grid, interpolated linearly to the nodes of ocean-mesh",
        references="Reynolds et al. (2002), J. Climate 15, 1609-1625; "
        "Danilov et al. (2017), Geosci. Model Dev. 10, 765-789",
        license=f"temperature: {LICENSE_NOAA}; mesh: Apache 2.0 (of the package uxarray)",
    )


_SOURCE, _MEMBERS = derived(OISST, OCEAN_MESH)

OISST_OCEAN_MESH = Recipe(
    name="oisst-ocean-mesh", variable="sst", source=_SOURCE, members=_MEMBERS, build=build
)
