"""Where a random field sees the nodes: coordinates in km, and the bumps its parameters follow."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from apsgeo.domains.base import Domain

__all__ = ["bumps_of", "coordinates_of", "middles_of"]

Array = NDArray[np.float64]

_FLAT = 0.5  # radians from the middle within which a part of the sphere is mapped to a plane


def coordinates_of(domain: Domain) -> Array:
    """Return coordinates (node, d) of the nodes in km, with their mean at the origin.

    A part of the sphere within 29 degrees of its middle is mapped to a plane, north first, by the
    azimuthal equidistant projection. Elsewhere they are the positions, so that distances on the
    sphere are chords.
    """
    positions = domain.positions.numpy()
    away = positions.mean(0)
    length = float(np.linalg.norm(away))
    if positions.shape[1] == 3 and np.allclose(np.linalg.norm(positions, axis=1), 1.0):
        middle = away / max(length, 1e-9)
        angle = np.arccos(np.clip(positions @ middle, -1.0, 1.0))
        if length > 0.5 and angle.max() < _FLAT:
            positions = _projected(positions, middle, angle)
    centred: Array = (positions - positions.mean(0)) * domain.radius_km
    return centred


def _projected(positions: Array, middle: Array, angle: Array) -> Array:
    pole = np.array([0.0, 0.0, 1.0]) if abs(middle[2]) < 0.999 else np.array([1.0, 0.0, 0.0])
    east = np.cross(pole, middle)
    east /= np.linalg.norm(east)
    plane = positions @ np.stack([np.cross(middle, east), east], 1)
    return plane * (angle / np.maximum(np.sin(angle), 1e-12))[:, None]


def bumps_of(coordinates: Array, seen: Array, count: int) -> Tensor:
    """Return weights (node, count) of smooth bumps, which sum to one at each node.

    Their middles are those of as many parts of the observations, halved again and again.

    Args:
        coordinates: Coordinates (node, d).
        seen: Coordinates (observation, d) of the observations.
        count: Number of bumps, a power of two.
    """
    middles = middles_of(seen, count)
    if count == 1:
        return torch.ones(len(coordinates), 1)
    width = np.sqrt((cKDTree(middles).query(middles, k=2)[0][:, 1] ** 2).mean())
    square = np.zeros((len(coordinates), count))
    for axis in range(coordinates.shape[1]):
        square += (coordinates[:, axis, None] - middles[:, axis]) ** 2
    return torch.softmax(torch.from_numpy(-0.5 * square / width**2), 1).float()


def middles_of(points: Array, count: int) -> Array:
    """Return the middles (count, d) of parts of some points, halved again and again.

    Args:
        points: Points (n, d), at least as many as parts.
        count: Number of parts, a power of two.
    """
    parts = [points]
    while len(parts) < count:
        parts = [half for part in parts for half in _halves(part)]
    return np.stack([part.mean(0) for part in parts])


def _halves(points: Array) -> tuple[Array, Array]:
    along = int(np.ptp(points, axis=0).argmax())
    order = np.argsort(points[:, along], kind="stable")
    return points[order[: len(points) // 2]], points[order[len(points) // 2 :]]
