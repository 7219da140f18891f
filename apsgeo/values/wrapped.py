"""Gaussians of a tangent space, wrapped onto the manifold by exp."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apsgeo.values.manifold import Manifold

__all__ = ["beyond_cut", "wrapped_log_prob"]


def wrapped_log_prob(
    manifold: Manifold,
    base: Tensor,
    frame: Tensor,
    covariance: Tensor,
    point: Tensor,
    turns: int = 4,
) -> Tensor:
    """Return the log-density (...) of exp(frame v) at points, v normal with mean zero.

    With respect to the Riemannian volume. It is the sum over all tangent vectors that end at the
    point, each by the volume of exp: exact on the circle, spheres and rotations up to so many turns
    (the rest is below exp(-(turns circumferences)^2 / 2 variance)), and on manifolds without a cut
    locus. See Mathieu and Nickel 2020, arXiv 2006.10605, for wrapped normals.

    Args:
        manifold: Manifold.
        base: Base point (..., ambient).
        frame: Orthonormal basis (..., ambient, dim) of its tangent space.
        covariance: Covariance (..., dim, dim) of the coordinates.
        point: Points (..., ambient).
        turns: Number of times around on either side.
    """
    vectors = manifold.preimages(base, point, turns)
    coordinates = torch.einsum("...ad,...a->...d", frame.expand(*vectors.shape, -1), vectors)
    factor = torch.linalg.cholesky(covariance)
    whitened = torch.linalg.solve_triangular(factor, coordinates[..., None], upper=False)[..., 0]
    log_det = factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    flat = -0.5 * (whitened.square().sum(-1) + manifold.dim * math.log(2 * math.pi)) - log_det
    return torch.logsumexp(flat - manifold.log_volume(base, vectors), 0)


def beyond_cut(manifold: Manifold, std: Tensor) -> Tensor:
    """Return a bound of the probability (...) that a tangent vector is longer than `cut`.

    It is what a density that counts the shortest vector alone leaves out at a node.

    Args:
        manifold: Manifold.
        std: Standard deviations (..., dim) of the coordinates.
    """
    if math.isinf(manifold.cut):
        return torch.zeros_like(std[..., 0])
    # |v| > cut only if one coordinate exceeds cut / sqrt(dim).
    each = torch.special.erfc(manifold.cut / math.sqrt(2.0 * manifold.dim) / std)
    return each.sum(-1).clamp(max=1.0)
