"""Heat kernels: densities of Brownian motion on the circle, the sphere and the rotations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.manifold import Manifold
from apsgeo.values.quotient import Rotations
from apsgeo.values.sphere import Sphere

__all__ = ["log_heat_kernel"]

_TURNS = 6
_DEGREES = 200  # greatest degree of the series
_SHORT = 2e-3  # variance, in radii squared, below which the series on S² would need more


def log_heat_kernel(manifold: Manifold, distance: Tensor, variance: Tensor) -> Tensor:
    """Return the log-density of Brownian motion at a distance from its start.

    With respect to the Riemannian volume; in a flat space it would be N(0, variance) in each
    direction. On the circle it is the wrapped normal; on the sphere the Legendre series; on the
    rotations IGSO(3) (Nikolayev and Savyolova 1997), by its images (Poisson's sum), which converge
    at all times that matter. On the sphere at variances below 0.002 radii squared it is the leading
    term for small times, with a relative error of about variance / 12.

    Args:
        manifold: Circle, sphere of dim 2, or rotations without a symmetry.
        distance: Geodesic distance from the start.
        variance: Variance of a coordinate in a flat space: the time of Brownian motion.

    Raises:
        InputError: If the manifold is another one.
    """
    if isinstance(manifold, Rotations) and len(manifold.group) == 2:
        return _rotations(distance, variance)
    if isinstance(manifold, Sphere) and manifold.dim == 1:
        turn = 2.0 * manifold.cut * torch.arange(-_TURNS, _TURNS + 1).to(distance)
        away = distance[..., None] + turn
        images = -0.5 * away.square() / variance[..., None]
        return torch.logsumexp(images, -1) - 0.5 * torch.log(2.0 * math.pi * variance)
    if isinstance(manifold, Sphere) and manifold.dim == 2:
        return _sphere(distance / manifold.radius, variance / manifold.radius**2) - 2.0 * math.log(
            manifold.radius
        )
    raise InputError(f"{manifold!r} has no heat kernel here; give a circle, S² or rotations")


def _sphere(angle: Tensor, variance: Tensor) -> Tensor:
    cosine = torch.cos(angle)
    before, now, total = torch.ones_like(cosine), cosine, torch.ones_like(cosine)
    for degree in range(1, _DEGREES):
        decay = torch.exp(-0.5 * degree * (degree + 1) * variance)
        total = total + (2 * degree + 1) * decay * now
        before, now = now, ((2 * degree + 1) * cosine * now - degree * before) / (degree + 1)
    series = (total / (4.0 * math.pi)).clamp(min=1e-18).log()
    ratio = torch.where(angle < 1e-6, 1.0, angle / torch.sin(angle).clamp(min=1e-30))
    leading = 0.5 * ratio.log() - 0.5 * angle.square() / variance
    leading = leading - torch.log(2.0 * math.pi * variance)
    return torch.where(variance < _SHORT, leading, series)


def _rotations(angle: Tensor, variance: Tensor) -> Tensor:
    angle = angle.clamp(min=1e-6)  # the limit is even, and smooth
    turns = torch.arange(-_TURNS, _TURNS + 1).to(angle)
    away = angle[..., None] + 2.0 * math.pi * turns
    sign = torch.where(turns.remainder(2) == 0, 1.0, -1.0).to(angle)
    images = torch.exp(-0.5 * (away.square() - angle[..., None].square()) / variance[..., None])
    total = (sign * away * images).sum(-1).clamp(min=1e-30)
    # The flat normal density, times (ω/2) / sin(ω/2) and exp(variance / 8), summed over images.
    flat = -0.5 * angle.square() / variance - 1.5 * torch.log(2.0 * math.pi * variance)
    return flat + variance / 8.0 + torch.log(0.5 * total / torch.sin(0.5 * angle))
