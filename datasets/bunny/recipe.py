"""Build bunny; the card beside this file says what it is."""

import json
import re
from pathlib import Path

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.datasets.cf import finish
from apsgeo.datasets.mesh import check_faces, node_areas, ugrid
from apsgeo.datasets.npm import NpmPackage
from apsgeo.datasets.recipe import Recipe
from apsgeo.errors import DatasetError

__all__ = ["BUNNY"]


def read_mesh(path: Path) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Read the positions (node, 3) and faces (face, 3) that a JavaScript module exports.

    The module is read as text: ``exports.positions`` and ``exports.cells`` are JSON. It is not run.

    Raises:
        DatasetError: If it is damaged.
    """
    text = path.read_text(encoding="utf-8")
    found = {}
    for name in ("positions", "cells"):
        match = re.search(rf"exports\.{name}\s*=\s*(\[[-+.,eE\d\s\[\]]*\])", text)
        try:
            found[name] = np.array(json.loads(match[1] if match else ""))
        except ValueError as error:  # no JSON, or rows of different lengths
            raise DatasetError(f"{path.name} holds no list of {name}: {error}") from error
    positions, faces = found["positions"].astype(np.float64), found["cells"]
    if positions.ndim != 2 or positions.shape[1] != 3 or faces.dtype.kind != "i":
        raise DatasetError(
            f"{path.name} holds positions of shape {positions.shape} and faces of {faces.dtype}, "
            "expected (node, 3) and integers"
        )
    return positions, check_faces(faces, len(positions), path.name)


def build(raw: list[Path]) -> xr.Dataset:
    """Put the mesh into a UGRID file."""
    positions, faces = read_mesh(raw[0])
    coords = {
        f"node_{axis}": ("node", positions[:, number], {"long_name": f"{axis} of the node"})
        for number, axis in enumerate("xyz")
    }
    areas = {"long_name": "a third of the area of the node's faces"}
    fields = xr.Dataset(
        {
            "position": (("node", "axis"), positions, {"long_name": "position of the node"}),
            "node_area": ("node", node_areas(positions, faces), areas),
        },
        coords,
    )
    return finish(
        ugrid(fields, faces),
        title="The Stanford bunny, simplified: a closed triangle mesh",
        institution="Stanford Computer Graphics Laboratory",
        references="Turk and Levoy (1994), Zippered Polygon Meshes from Range Images, "
        "Proc. SIGGRAPH 94, 311-318",
        license="free to use for research, with credit to the Stanford 3D Scanning Repository; "
        "the package says: public domain",
    )


BUNNY = Recipe(
    name="bunny",
    variable="position",
    source=NpmPackage(
        package="bunny",
        version="1.0.1",
        sha256="381e02c74b98cf18814d7bec794726ef70b9c67e037273e82054d0043f6ae303",
    ),
    members=("package/index.js",),
    build=build,
)
