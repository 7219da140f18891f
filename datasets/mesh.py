"""Triangle meshes as UGRID data sets."""

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import DatasetError

__all__ = ["check_faces", "node_areas", "restrict", "ugrid"]


def check_faces(faces: NDArray[np.integer], num_nodes: int, what: str) -> NDArray[np.int32]:
    """Check that each face has three different nodes of the mesh.

    Args:
        faces: Node numbers from 0, of shape (face, 3).
        num_nodes: The number of nodes.
        what: Name of the mesh, for the message.

    Raises:
        DatasetError: If a face has another number of nodes, one twice, or one that is not there.
    """
    if faces.ndim != 2 or faces.shape[1] != 3:
        raise DatasetError(f"the faces of {what} have the shape {faces.shape}, expected (face, 3)")
    ordered = np.sort(faces, axis=1)
    if len(faces) and (ordered.min() < 0 or ordered.max() >= num_nodes):
        raise DatasetError(f"a face of {what} has a node outside of 0 to {num_nodes - 1}")
    if (ordered[:, 1:] == ordered[:, :-1]).any():
        raise DatasetError(f"a face of {what} has the same node twice")
    return faces.astype(np.int32)


def node_areas(positions: NDArray[np.floating], faces: NDArray[np.int32]) -> NDArray[np.float64]:
    """Give each node a third of its faces' areas; of shape (node,), in squared units of length.

    Args:
        positions: Positions of the nodes, of shape (node, 3).
        faces: Node numbers of the faces from 0, of shape (face, 3).
    """
    first, second, third = (positions[faces[:, corner]] for corner in range(3))
    areas = np.linalg.norm(np.cross(second - first, third - first), axis=1) / 2
    totals = np.zeros(len(positions))
    np.add.at(totals, faces, areas[:, None] / 3)
    return totals


def restrict(
    faces: NDArray[np.integer], kept: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Restrict a mesh to the faces all of whose nodes are kept.

    Args:
        faces: Node numbers from 0, of shape (face, 3).
        kept: Whether a node is kept, of shape (node,).

    Returns:
        The old numbers of the nodes that are left, ascending, without those in no face; and the
        faces that are left, by new numbers.
    """
    whole = faces[kept[faces].all(1)]
    nodes, numbers = np.unique(whole, return_inverse=True)
    return nodes.astype(np.int64), numbers.reshape(whole.shape).astype(np.int32)


def ugrid(fields: xr.Dataset, faces: NDArray[np.int32]) -> xr.Dataset:
    """Add a mesh to fields on its nodes and faces.

    Args:
        fields: Fields over the dimensions ``node`` and ``face``; its coordinates over ``node`` are
            the nodes' positions.
        faces: Node numbers from 0, of shape (face, 3).

    Returns:
        The fields with ``face_nodes(face, corner)`` and the topology variable ``mesh``, as in the
        UGRID conventions 1.0.
    """
    on_nodes = [str(name) for name, value in fields.coords.items() if value.dims == ("node",)]
    topology = {
        "cf_role": "mesh_topology",
        "long_name": "topology of the triangle mesh",
        "topology_dimension": np.int32(2),
        "node_coordinates": " ".join(on_nodes),
        "node_dimension": "node",
        "face_node_connectivity": "face_nodes",
        "face_dimension": "face",
    }
    connectivity = {
        "cf_role": "face_node_connectivity",
        "long_name": "the three nodes of each face",
        "start_index": np.int32(0),
    }
    fields = fields.copy()
    for field in fields.data_vars.values():
        location = next((dim for dim in ("node", "face") if dim in field.dims), None)
        if location is not None:
            field.attrs |= {"mesh": "mesh", "location": location}
    return fields.assign(
        mesh=((), np.int32(0), topology),
        face_nodes=(("face", "corner"), faces, connectivity),
    )
