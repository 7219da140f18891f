"""What networks see of points, and how their outputs become tangent vectors."""

from __future__ import annotations

import torch
from torch import Tensor

from apsgeo.values.brownian import BrownianPart
from apsgeo.values.quotient import Rotations, quaternion_product

__all__ = ["coefficients_of", "features_of", "numbers_seen", "tangent_of"]


def numbers_seen(part: BrownianPart) -> int:
    """Return the number of features of a point."""
    size = part.cover.ambient
    return size * (size + 1) // 2 if _is_even(part) else size


def coefficients_of(part: BrownianPart) -> int:
    """Return the number of coefficients of a tangent vector."""
    if isinstance(part.cover, Rotations):
        return 3
    return 1 if part.cover.dim == 1 and not _is_even(part) else numbers_seen(part)


def features_of(part: BrownianPart, point: Tensor) -> Tensor:
    """Return numbers (..., feature) of points, the same for points that are the same.

    They are the numbers of a direction, and the products of those of an axis or a quaternion. Of
    the orientations that the symmetry of a crystal makes one, that nearest to the origin is seen.
    """
    if isinstance(part.cover, Rotations) and len(part.images) > 1:
        images = torch.einsum("gij,...j->...gi", part.images.to(point), point)
        nearest = images[..., 0].abs().argmax(-1)[..., None, None]
        point = images.take_along_dim(nearest, -2)[..., 0, :]
    if not _is_even(part):
        return point
    i, j = torch.triu_indices(point.shape[-1], point.shape[-1])
    return point[..., i] * point[..., j]


def tangent_of(part: BrownianPart, point: Tensor, coefficients: Tensor) -> Tensor:
    """Return tangent vectors (..., ambient) of coefficients (..., coefficient).

    Vector fields with these coefficients span each tangent space, and go over into each other where
    points are the same: on the circle the one that turns, on spheres the gradients of coordinates
    (of axes those of their products), on the rotations those of turning the specimen.
    """
    if isinstance(part.cover, Rotations):
        unit = torch.eye(4).to(point)[1:]
        turning = quaternion_product(unit, point[..., None, :])
        return (coefficients[..., None] * turning).sum(-2)
    if coefficients.shape[-1] == 1:
        return coefficients * part.cover.frame(point)[..., 0]
    vector = coefficients
    if _is_even(part):
        size = point.shape[-1]
        i, j = torch.triu_indices(size, size)
        matrix = point.new_zeros(*point.shape, size)
        matrix[..., i, j] = coefficients
        matrix[..., j, i] = coefficients
        vector = (matrix @ point[..., None])[..., 0]
    return vector - (vector * point).sum(-1, keepdim=True) * point


def _is_even(part: BrownianPart) -> bool:
    return isinstance(part.cover, Rotations) or len(part.images) > 1
