"""Isometries that take the mean of each node to one origin, by which nodes are compared."""

from __future__ import annotations

import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.manifold import Manifold
from apsgeo.values.product import Product
from apsgeo.values.quotient import Axes, Rotations, quaternion_product
from apsgeo.values.sphere import Circle, Sphere

__all__ = ["to_origin"]

_BALANCED = 1e-6  # length of a mean vector, below which no direction is more usual than others


def to_origin(manifold: Manifold, means: Tensor, points: Tensor, season: Tensor) -> Tensor:
    """Return orthogonal matrices (season, node, ambient, ambient) that take means to the origin.

    The origin's first number is one, of each part of a product. A matrix is an isometry of the
    manifold, so that it keeps distances, volumes and Brownian motion. Rotations are multiplied
    from the left, which keeps the symmetries of crystals. Spheres are turned in frames that are
    parallel to one frame at the mean of all, along the principal axes of all points: an isometry
    of the values does not change where values come to lie.

    Args:
        manifold: Circle, sphere, axes, rotations, or a product of such.
        means: Points (season, node, ambient).
        points: Points (record, node, ambient), of which the principal axes are taken.
        season: Index (record,) of each record's season.

    Raises:
        InputError: If the manifold is another one.
    """
    if isinstance(manifold, Product):
        sizes = [part.ambient for part in manifold.parts]
        split = zip(manifold.parts, means.split(sizes, -1), points.split(sizes, -1), strict=True)
        blocks = [to_origin(*own, season) for own in split]
        whole = means.new_zeros(*means.shape, manifold.ambient)
        start = 0
        for block in blocks:
            end = start + block.shape[-1]
            whole[..., start:end, start:end] = block
            start = end
        return whole
    if isinstance(manifold, Circle):
        return torch.stack([means, manifold.frame(means)[..., 0]], -2)
    if isinstance(manifold, Rotations):
        back = means * torch.tensor([1.0, -1.0, -1.0, -1.0]).to(means)
        columns = torch.eye(4).to(means).expand(*means.shape, 4)
        return quaternion_product(back[..., None, :], columns).mT
    if isinstance(manifold, Axes | Sphere):
        return _turned(manifold, means, points, season)
    raise InputError(f"{manifold!r} has no origin here; give a circle, sphere, axes or rotations")


def _turned(manifold: Axes | Sphere, means: Tensor, points: Tensor, season: Tensor) -> Tensor:
    cover = manifold.cover if isinstance(manifold, Axes) else manifold
    assert isinstance(cover, Sphere)
    means = manifold.align(means[0, 0], means)
    centre = means.flatten(0, -2).mean(0)
    centre = cover.project(centre if float(centre.norm()) > _BALANCED else means[0, 0])
    to = means[..., None, :]
    frame = cover.frame(centre).mT.expand(*means.shape[:-1], cover.dim, cover.ambient)
    frames = cover.transport(centre.expand_as(to), to, frame)
    parts = []
    for index, own in enumerate(frames):
        aligned = manifold.align(means[index], points[season == index])
        parts.append(torch.einsum("nda,rna->rnd", own, aligned).flatten(0, 1))
    coordinates = torch.cat(parts)
    axes = torch.linalg.eigh(coordinates.mT @ coordinates).eigenvectors.flip(-1)
    skew = (coordinates @ axes).pow(3).sum(0)
    axes = axes * torch.where(skew < 0.0, -1.0, 1.0)
    return torch.cat([to, axes.mT @ frames], -2)
