"""From UGRID data sets and mesh files to a `MeshDomain`."""

from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from apsgeo.domains.base import EARTH_RADIUS_KM
from apsgeo.domains.graph.domain import GraphDomain
from apsgeo.domains.mesh import MeshDomain
from apsgeo.domains.triangles import triangle_areas
from apsgeo.errors import GridError, InputError

__all__ = ["TidyMesh", "from_ugrid", "from_ugrid_faces", "read_mesh", "tidy_mesh"]

Index = NDArray[np.int64]


class TidyMesh(NamedTuple):
    """A mesh, and the vertices of a file that its nodes were."""

    domain: MeshDomain
    """The mesh."""
    vertex: Index
    """Vertex `(N,)` that each node was; `values[..., vertex]` brings values to the nodes."""
    dim: str | None = None
    """The dimension of a data set that runs over the vertices."""


def tidy_mesh(vertices: ArrayLike, faces: ArrayLike, radius_km: float = 1.0) -> TidyMesh:
    """Make a mesh of the vertices and faces of a file, with doubles and empty faces removed.

    Of vertices at the same place, up to rounding, the first stays. Faces with two equal corners or
    without area are dropped, and so are vertices in no face. The order is kept.

    Args:
        vertices: Coordinates `(V, d)`.
        faces: Vertices `(F, 3)` of the triangles.
        radius_km: Kilometres per unit of the coordinates.

    Raises:
        GridError: If nothing is left, or `MeshDomain` refuses the rest.
    """
    points, corners = np.asarray(vertices, dtype=np.float64), np.asarray(faces)
    if points.ndim != 2 or corners.ndim != 2 or corners.shape[1] != 3 or not corners.size:
        raise GridError(
            f"vertices have shape {points.shape} and faces {corners.shape}; (V, d) and (F, 3) with "
            "at least one face are needed."
        )
    if corners.min() < 0 or corners.max() >= len(points):
        raise GridError(
            f"faces name vertices {corners.min()} to {corners.max()}, but there are the vertices "
            f"0 to {len(points) - 1}: count from 0."
        )
    corners = _merged(points)[corners]
    area = triangle_areas(points, corners)
    longest = np.ptp(points[corners], axis=1).max(1)
    corners = corners[area > 1e-14 * longest**2]
    if not len(corners):
        raise GridError("no face has an area: vertices are all at the same place or on a line.")
    vertex, numbers = np.unique(corners, return_inverse=True)
    domain = MeshDomain(points[vertex], numbers.reshape(-1, 3), radius_km)
    return TidyMesh(domain, vertex)


def _merged(points: NDArray[np.float64]) -> Index:
    """Return for each point the number `(V,)` of the first point at the same place."""
    # longitudes 0 and 360 are the same place but for rounding
    rounded = np.round(points / max(np.ptp(points), 1e-300), 12)
    _, first, which = np.unique(rounded, axis=0, return_index=True, return_inverse=True)
    return first[which.ravel()]


def read_mesh(path: str | PathLike[str]) -> TidyMesh:
    """Read a triangle mesh from UGRID netCDF, or from a PLY, OBJ, STL or OFF file by trimesh.

    Raises:
        InputError: If trimesh is not installed, or the file is missing or holds no triangles.
        GridError: If the netCDF file does not follow UGRID; see `from_ugrid`.
    """
    if Path(path).suffix.lower() in (".nc", ".nc4"):
        return _read_ugrid(Path(path))
    try:
        import trimesh
    except ImportError as error:
        raise InputError(
            "reading mesh files needs trimesh, which is not installed: pip install 'apsgeo[mesh]'."
        ) from error
    try:
        mesh: Any = trimesh.load(Path(path), force="mesh", process=False)
    except Exception as error:  # trimesh raises whatever its parsers do
        raise InputError(
            f"{path} cannot be read as a mesh ({error}); a PLY, OBJ, STL or OFF file is needed."
        ) from error
    if not len(getattr(mesh, "faces", ())):
        raise InputError(f"{path} has no faces; of points alone, make a GraphDomain.")
    return tidy_mesh(mesh.vertices, mesh.faces)


def _read_ugrid(path: Path) -> TidyMesh:
    try:
        with xr.open_dataset(path) as dataset:
            return from_ugrid(dataset)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as netCDF: {error}") from error


def from_ugrid(dataset: xr.Dataset) -> TidyMesh:
    """Return the mesh of a data set that follows the UGRID conventions 1.0.

    Longitudes and latitudes in degrees become points of the unit sphere; other coordinates stay in
    the plane (or in space), in their units. Faces of more than three corners are split from their
    first corner on, which is right where they are convex.

    Returns:
        The mesh; variables at its nodes are ``variable.isel({mesh.dim: mesh.vertex})``.

    Raises:
        GridError: If there is not one mesh of faces, or it lacks coordinates or connectivity.
    """
    axes, faces = _read_topology(dataset)
    points, radius = _points(axes)
    triangles, _ = _triangles(faces)
    return tidy_mesh(points, triangles, radius)._replace(dim=str(axes[0].dims[0]))


def from_ugrid_faces(dataset: xr.Dataset) -> GraphDomain:
    r"""Return the faces of a UGRID mesh as nodes, for values that are on faces.

    All faces are nodes, in their order, at their centres and with their areas. Two faces that share
    a side are joined. Their conductance is that of two-point fluxes, the length of the side over
    the distance of the centres (Eymard, Gallouët & Herbin 2000, *Finite volume methods*, section
    9), which is consistent where the side and the line between the centres are at a right angle.

    Raises:
        GridError: If `from_ugrid` refuses the mesh, or a face has no area.
    """
    axes, faces = _read_topology(dataset)
    points, radius = _points(axes)
    spherical = radius == EARTH_RADIUS_KM
    triangles, face = _triangles(faces)
    area = triangle_areas(points, triangles)
    areas = np.bincount(face, area, len(faces))
    if not (areas > 0).all():
        raise GridError(f"{(areas <= 0).sum()} faces have no area; drop them and their values.")
    middle = area[:, None] * points[triangles].mean(1)
    centres = np.stack([np.bincount(face, x, len(faces)) / areas for x in middle.T], 1)
    if spherical:
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
    low, high, start, end = _shared_sides(np.where(faces < 0, -1, _merged(points)[faces]))
    length, distance = (
        2 * np.arcsin(chord / 2) if spherical else chord
        for chord in (
            np.linalg.norm(points[start] - points[end], axis=1),
            np.linalg.norm(centres[low] - centres[high], axis=1),
        )
    )
    return GraphDomain(
        centres,
        np.stack([low, high]),
        areas=areas,
        conductance=length / distance,
        radius_km=radius,
        spherical=spherical,
    )


def _shared_sides(faces: Index) -> tuple[Index, Index, Index, Index]:
    """Return both faces and both ends of each side between two faces (-1 pads corners)."""
    following = np.roll(faces, -1, axis=1)
    following = np.where(following < 0, faces[:, :1], following)
    face = np.broadcast_to(np.arange(len(faces))[:, None], faces.shape)
    real = (faces >= 0) & (faces != following)
    sides = np.sort(np.stack([faces[real], following[real]], 1), axis=1)
    order = np.lexsort((sides[:, 1], sides[:, 0]))
    sides, face = sides[order], face[real][order]
    same = np.flatnonzero((sides[1:] == sides[:-1]).all(1))
    return face[same], face[same + 1], sides[same, 0], sides[same, 1]


def _read_topology(dataset: xr.Dataset) -> tuple[list[xr.DataArray], Index]:
    """Return the coordinates of the nodes, and the corners `(F, most)` of faces, -1 for none."""
    names = [
        str(name)
        for name, variable in dataset.variables.items()
        if variable.attrs.get("cf_role") == "mesh_topology"
        and int(variable.attrs.get("topology_dimension", 0)) == 2
    ]
    if len(names) != 1:
        raise GridError(
            f"the data set has {len(names)} meshes of faces {names}; one variable with cf_role="
            "'mesh_topology' and topology_dimension=2 is needed: keep one mesh."
        )
    topology = dataset[names[0]].attrs
    for name in ("node_coordinates", "face_node_connectivity"):
        missing = [v for v in str(topology.get(name, "?")).split() if v not in dataset.variables]
        if missing:
            raise GridError(
                f"the mesh {names[0]!r} has {name}={topology.get(name)!r}, of which {missing} "
                "are not in the data set."
            )
    axes = [dataset[name] for name in str(topology["node_coordinates"]).split()]
    return axes, _corners(dataset, topology)


def _points(axes: list[xr.DataArray]) -> tuple[NDArray[np.float64], float]:
    """Return the nodes' coordinates, and how many kilometres a unit of them is."""
    roles = {}
    for axis in axes:
        standard, units = axis.attrs.get("standard_name"), str(axis.attrs.get("units", ""))
        for role, letter in (("longitude", "degrees_e"), ("latitude", "degrees_n")):
            if standard == role or units.lower().startswith(letter):
                roles[role] = np.deg2rad(np.asarray(axis.values, dtype=np.float64))
    if len(roles) == 2:
        lam, phi = roles["longitude"], roles["latitude"]
        xyz = np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)
        return np.stack(xyz, 1), EARTH_RADIUS_KM
    points = np.stack([np.asarray(axis.values, dtype=np.float64) for axis in axes], 1)
    named = {str(axis.attrs.get("units", "")).lower() for axis in axes}
    return points, 1e-3 if named <= {"m", "meter", "meters", "metre", "metres"} else 1.0


def _corners(dataset: xr.Dataset, topology: dict[str, Any]) -> Index:
    """Return the corners `(F, most)` of the faces, counted from 0, and -1 where there is none."""
    table = dataset[topology["face_node_connectivity"]]
    if topology.get("face_dimension", table.dims[0]) != table.dims[0]:
        table = table.transpose()
    values = np.asarray(table.values)
    fill = table.attrs.get("_FillValue", table.encoding.get("_FillValue"))
    there = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, dtype=bool)
    if fill is not None:
        there &= values != fill
    start = int(table.attrs.get("start_index", 0))
    return np.where(there, np.where(there, values, start).astype(np.int64) - start, -1)


def _triangles(faces: Index) -> tuple[Index, Index]:
    """Split faces `(F, most)` from their first corner on; return triangles and their faces."""
    parts, whose = [np.zeros((0, 3), dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    for last in range(2, faces.shape[1]):
        there = np.flatnonzero(faces[:, last] >= 0)
        parts.append(faces[there][:, [0, last - 1, last]])
        whose.append(there)
    return np.concatenate(parts), np.concatenate(whose)
