"""Heat kernels: densities of Brownian motion on the circle, the sphere and the rotations."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.manifold import Manifold
from apsgeo.values.quotient import Rotations
from apsgeo.values.sphere import Sphere

__all__ = ["heat_pull", "log_heat_kernel"]

_TURNS = 6
_SHORT = 0.1  # variance, in radii squared, below which the series on S² would need many terms
_FAR = 25.0  # half squared distance over variance, beyond which the series on S² is rounding
_NEAR = 1e-3  # radians, below which the pull is that at this distance, which differs by 1e-6
_NARROW = 0.1  # radians, below which a difference of near numbers is taken from its series


def log_heat_kernel(manifold: Manifold, distance: Tensor, variance: Tensor) -> Tensor:
    """Return the log-density of Brownian motion at a distance from its start.

    With respect to the Riemannian volume; in a flat space it would be N(0, variance) in each
    direction. On the circle it is the wrapped normal; on the sphere the Legendre series; on the
    rotations IGSO(3) (Nikolayev and Savyolova 1997), by its images (Poisson's sum), which converge
    at all times that matter. On the sphere at variances below 0.1 radii squared, and far away, it
    is the expansion for small times (Minakshisundaram and Pleijel 1949), to a relative 1e-4 where
    the density is not next to nothing.

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


def heat_pull(manifold: Manifold, distance: Tensor, variance: Tensor) -> Tensor:
    """Return what the logarithm at a point is multiplied by to give the score of the heat kernel.

    The gradient of log K(x, y) in x is heat_pull(|v|) v with v = log_x(y): a pull towards the start
    y of the Brownian motion. For small times it is 1 / variance (Varadhan 1967), as it is in a flat
    space at all times.

    Args:
        manifold: Circle, sphere of dim 2, or rotations without a symmetry.
        distance: Geodesic distance from the start.
        variance: Variance of a coordinate in a flat space; see `log_heat_kernel`.

    Raises:
        InputError: If the manifold is another one.
    """
    away, time = torch.broadcast_tensors(distance.double(), variance.double())
    if isinstance(manifold, Rotations) and len(manifold.group) == 2:
        return _pull_of_rotations(away.clamp(min=_NEAR), time).to(distance)
    if isinstance(manifold, Sphere) and manifold.dim in (1, 2):
        radius = manifold.radius
        pull = _pull_of_circle if manifold.dim == 1 else _pull_of_sphere
        near = (away / radius).clamp(min=_NEAR)
        return (pull(near, time / radius**2) / radius**2).to(distance)
    raise InputError(f"{manifold!r} has no heat kernel here; give a circle, S² or rotations")


def _series(angle: Tensor, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return 4 pi K on S², and its derivative in the cosine of the angle, by Legendre's series."""
    cosine = torch.cos(angle)
    before, now = torch.zeros_like(cosine), torch.ones_like(cosine)
    slope_before, slope = torch.zeros_like(cosine), torch.zeros_like(cosine)
    total, total_slope = torch.zeros_like(cosine), torch.zeros_like(cosine)
    used = variance[~_is_short(angle, variance)]
    terms = 10.0 / math.sqrt(float(used.min())) if used.numel() else 0.0  # exp(-50) is left out
    for degree in range(math.ceil(terms)):
        weight = (2 * degree + 1) * torch.exp(-0.5 * degree * (degree + 1) * variance)
        total, total_slope = total + weight * now, total_slope + weight * slope
        following = ((2 * degree + 1) * cosine * now - degree * before) / (degree + 1)
        slope_before, slope = slope, slope_before + (2 * degree + 1) * now
        before, now = now, following
    return total, total_slope


def _bend(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Return (1 - t cot t) / t^2 of an angle t, and its derivative over t."""
    some = angle.clamp(min=_NARROW)
    sine = torch.sin(some).clamp(min=_NEAR)
    cotangent = torch.cos(some) / sine
    value = (1.0 - some * cotangent) / some.square()
    slope = -2.0 / some.pow(4) + cotangent / some.pow(3) + (some * sine).square().reciprocal()
    square, narrow = angle.square(), angle < _NARROW
    series = 1 / 3 + square / 45 + 2 * square.square() / 945 + square.pow(3) / 4725
    series_slope = 2 / 45 + 8 * square / 945 + 6 * square.square() / 4725
    return torch.where(narrow, series, value), torch.where(narrow, series_slope, slope)


def _is_short(angle: Tensor, variance: Tensor) -> Tensor:
    return (variance < _SHORT) | (angle.square() > 2.0 * _FAR * variance)


def _sphere(angle: Tensor, variance: Tensor) -> Tensor:
    series = (_series(angle, variance)[0] / (4.0 * math.pi)).clamp(min=1e-30).log()
    ratio = torch.where(angle < 1e-6, 1.0, angle / torch.sin(angle).clamp(min=1e-30))
    leading = 0.5 * ratio.log() - 0.5 * angle.square() / variance
    leading = leading - torch.log(2.0 * math.pi * variance)
    leading = leading + torch.log1p(variance * (1.0 + _bend(angle)[0]) / 8.0)
    leading = leading + variance.square() / 60.0  # the second order at small angles
    return torch.where(_is_short(angle, variance), leading, series)


def _pull_of_sphere(angle: Tensor, variance: Tensor) -> Tensor:
    total, slope = _series(angle, variance)
    series = torch.sin(angle) / angle * slope / total.clamp(min=1e-30)
    bend, bend_slope = _bend(angle)
    leading = 1.0 / variance - 0.5 * bend
    leading = leading - variance * bend_slope / (8.0 + variance * (1.0 + bend))
    # At the antipode, where geodesics meet, the pull is none; the expansion knows nothing of it.
    return torch.where(_is_short(angle, variance), leading.clamp(min=0.0), series)


def _pull_of_circle(angle: Tensor, variance: Tensor) -> Tensor:
    turns = torch.arange(-_TURNS, _TURNS + 1).to(angle)
    away = angle[..., None] + 2.0 * math.pi * turns
    share = torch.softmax(-0.5 * away.square() / variance[..., None], -1)
    return (share * away).sum(-1) / (variance * angle)


def _pull_of_rotations(angle: Tensor, variance: Tensor) -> Tensor:
    turns = torch.arange(-_TURNS, _TURNS + 1).to(angle)
    away = angle[..., None] + 2.0 * math.pi * turns
    sign = torch.where(turns.remainder(2) == 0, 1.0, -1.0).to(angle)
    time = variance[..., None]
    images = sign * torch.exp(-0.5 * (away.square() - angle[..., None].square()) / time)
    total = (images * away).sum(-1)
    slope = (images * (1.0 - away * (away - angle[..., None]) / time)).sum(-1)
    bend = slope / total - 0.5 * torch.cos(0.5 * angle) / torch.sin(0.5 * angle)
    return 1.0 / variance - bend / angle


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
