"""Triangle meshes: open and closed, of one component or several."""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from apsgeo.domains.edges import Edges
from apsgeo.domains.graph.domain import NodeDomain
from apsgeo.domains.graph.edges import coordinates
from apsgeo.domains.triangles import cotangent_conductance, triangle_areas
from apsgeo.errors import GridError

__all__ = ["MeshDomain"]


class MeshDomain(NodeDomain):
    """Represent the vertices of a triangle mesh.

    The stiffness is the cotangent Laplacian (see `cotangent_conductance`), and a vertex has a
    third of the area of each of its triangles. No flux crosses a border (Neumann condition).
    Conductances may be negative where triangles are obtuse; the stiffness is semi-definite still.

    Args:
        vertices: Coordinates `(N, d)`; d is 2 or more.
        faces: Vertices of the triangles `(F, 3)`.
        radius_km: Kilometres per unit of the coordinates.

    Raises:
        GridError: If faces are no triangles between the vertices, or without area; a vertex is in
            no face; coordinates are not finite.

    Example:
        >>> MeshDomain([[0, 0], [1, 0], [0, 1], [1, 1]], [[0, 1, 2], [1, 3, 2]])
        MeshDomain(4 vertices in 2 dimensions, 2 faces, open)
    """

    kind: ClassVar[str] = "mesh"

    def __init__(self, vertices: ArrayLike, faces: ArrayLike, radius_km: float = 1.0) -> None:
        self.vertices = coordinates(vertices, "vertices")
        self.faces = _faces(faces, len(self.vertices))
        self.radius_km = float(radius_km)
        self._face_areas = triangle_areas(self.vertices, self.faces)
        # what rounding leaves of the area of three points on a line
        longest = np.ptp(self.vertices[self.faces], axis=1).max(1)
        flat = self._face_areas <= 1e-14 * longest**2
        if flat.any():
            raise GridError(
                f"{flat.sum()} faces have no area, the first being {np.flatnonzero(flat)[0]}; "
                "merge vertices at the same place and drop such faces."
            )

    @cached_property
    def positions(self) -> Tensor:
        """The vertices `(N, d)`, float64."""
        return torch.from_numpy(self.vertices)

    @cached_property
    def areas(self) -> Tensor:
        """A third of the area of each triangle at a vertex `(N,)`, float64."""
        third = np.repeat(self._face_areas / 3, 3)
        total = np.bincount(self.faces.ravel(), weights=third, minlength=len(self.vertices))
        return torch.from_numpy(total)

    @cached_property
    def _edges(self) -> Edges:
        low, high, conductance = cotangent_conductance(self.vertices, self.faces)
        length = np.linalg.norm(self.vertices[high] - self.vertices[low], axis=1)
        return Edges(low, high, length, conductance)

    @cached_property
    def is_closed(self) -> bool:
        """Whether every edge is between two faces, so that there is no border."""
        sides = np.sort(np.stack([self.faces, np.roll(self.faces, -1, axis=1)], -1), axis=-1)
        _, count = np.unique(sides.reshape(-1, 2), axis=0, return_counts=True)
        return bool((count == 2).all())

    def to_config(self) -> dict[str, Any]:
        """Return vertices and faces, exactly."""
        return {
            "kind": self.kind,
            "vertices": self.vertices.tolist(),
            "faces": self.faces.tolist(),
            "radius_km": self.radius_km,
        }

    def _same(self, other: Any) -> bool:
        """Whether vertices and faces are the same, in the same order."""
        return (
            self.radius_km == other.radius_km
            and np.array_equal(self.vertices, other.vertices)
            and np.array_equal(self.faces, other.faces)
        )

    def __repr__(self) -> str:
        """Show the numbers of vertices and faces, and whether there is a border."""
        count, axes = self.vertices.shape
        border = "closed" if self.is_closed else "open"
        return (
            f"MeshDomain({count} vertices in {axes} dimensions, {len(self.faces)} faces, {border})"
        )


def _faces(values: ArrayLike, count: int) -> NDArray[np.int64]:
    array = np.array(values)
    if array.ndim != 2 or array.shape[1] != 3 or not len(array) or array.dtype.kind not in "iu":
        raise GridError(
            f"faces have shape {array.shape} and dtype {array.dtype}; vertex numbers (F, 3) are "
            "needed: split faces of more corners into triangles."
        )
    if array.min() < 0 or array.max() >= count:
        raise GridError(
            f"faces name vertices {array.min()} to {array.max()}, but there are the vertices 0 to "
            f"{count - 1}: count from 0."
        )
    unused = np.setdiff1d(np.arange(count), array)
    if len(unused):
        raise GridError(
            f"{len(unused)} vertices are in no face, the first being {unused[0]}; drop them."
        )
    return array.astype(np.int64)
