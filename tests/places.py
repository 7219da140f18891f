"""A small domain of every kind."""

from dataclasses import dataclass

import numpy as np

from apsgeo.domains import (
    Domain,
    GraphDomain,
    HEALPixDomain,
    ImageDomain,
    LatLonDomain,
    MeshDomain,
)
from tests.cases import numpy_seeded


def sphere_mesh() -> MeshDomain:
    """An octahedron, its sides halved twice and brought to the sphere."""
    vertices = np.concatenate([np.eye(3), -np.eye(3)])
    faces = np.array([[x, y, z] for x in (0, 3) for y in (1, 4) for z in (2, 5)])
    for _ in range(2):
        sides = np.sort(np.stack([faces, np.roll(faces, -1, 1)], -1), -1).reshape(-1, 2)
        unique, which = np.unique(sides, axis=0, return_inverse=True)
        (a, b, c), (ab, bc, ca) = faces.T, (len(vertices) + which.reshape(-1, 3)).T
        parts = [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]
        faces = np.concatenate([np.stack(part, 1) for part in parts])
        vertices = np.concatenate([vertices, vertices[unique].mean(1)])
        vertices /= np.linalg.norm(vertices, axis=1, keepdims=True)
    return MeshDomain(vertices, faces, radius_km=6371.0)


def stations() -> GraphDomain:
    rng = numpy_seeded(4)
    lat = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 70)))
    return GraphDomain.from_latlon(
        lat, rng.uniform(-180, 180, 70), areas=np.full(70, 4 * np.pi / 70)
    )


@dataclass
class Place:
    """A small domain, a length on it in its kilometres, and points on it."""

    domain: Domain
    km: float
    points: list[list[float]]


GLOBE = [[51.5, -0.1], [-33.9, 151.2], [89.9, 10.0], [0.0, 179.9]]
PLACES = {
    "latlon": Place(LatLonDomain(np.linspace(90, -90, 9), np.arange(0, 360, 30.0)), 2000.0, GLOBE),
    "regional": Place(
        LatLonDomain(np.arange(60.0, 32.0, -3.0), np.arange(-10.0, 16.0, 3.0)),
        600.0,
        [[50.0, 0.0], [34.1, 12.3], [60.5, -11.0]],
    ),
    "image": Place(ImageDomain(9, 8), 1.5, [[0.2, 7.9], [4.5, 4.5], [3.3, 6.1], [9.0, 0.0]]),
    "healpix": Place(HEALPixDomain(4), 2000.0, GLOBE),
    "healpix-part": Place(
        HEALPixDomain(8, True, np.arange(64)), 1000.0, [[40.0, 45.0], [22.0, 50.0]]
    ),
    "mesh": Place(
        sphere_mesh(),
        2000.0,
        [[0.0, 0.0, 1.0], [0.6, 0.0, 0.8], [-0.1, 0.7, -0.7], [0.5, 0.5, 0.7]],
    ),
    "stations": Place(stations(), 2000.0, GLOBE),
}
