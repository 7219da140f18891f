"""Fréchet means: the points from which squared distances are least."""

from __future__ import annotations

import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.manifold import Manifold, length

__all__ = ["dispersion", "frechet_mean"]

_STEPS = 100
_CLOSE = 1e-10  # step, in units of the spread, at which the mean is found
_BALANCED = 1e-6


def frechet_mean(manifold: Manifold, points: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the point with the least sum of squared geodesic distances.

    By steps of the mean of the logarithms (Karcher), from a mean of the numbers of the points.

    Args:
        manifold: Manifold of the points.
        points: Points (sample, ..., ambient); what has weight zero does not matter, if finite.
        weights: Weights (sample, ...), not negative; equal by default.

    Raises:
        InputError: If points are balanced, as opposite ones are, so that there is no one mean.

    Examples:
        >>> from apsgeo.values.sphere import Circle
        >>> angles = torch.tensor([350.0, 20.0]).deg2rad()
        >>> mean = frechet_mean(Circle(360), torch.stack([angles.cos(), angles.sin()], -1))
        >>> round(float(torch.atan2(mean[1], mean[0]).rad2deg()), 3)
        5.0
    """
    given = torch.ones_like(points[..., 0]) if weights is None else weights.to(points)
    share = given / given.sum(0).clamp(min=1e-30)
    balance = manifold.balance(points, share)
    empty = given.sum(0) <= 0
    if bool(((balance < _BALANCED) & ~empty).any()):
        raise InputError(
            f"the values have no mean at {int(((balance < _BALANCED) & ~empty).sum())} places: "
            "they are balanced, as opposite directions are, so that several points are equally far "
            "from all; give more records, one season, or Values(manifold, chart='embedded')"
        )
    mean = manifold.first_mean(points, share)
    for _ in range(_STEPS):
        logs = manifold.log(mean, points)
        step = (share[..., None] * logs).sum(0)
        spread = (share * logs.square().sum(-1)).sum(0).sqrt()
        mean = manifold.project(manifold.exp(mean, step))
        if bool((length(step)[..., 0] <= _CLOSE * spread + 1e-15).all()):
            break
    return mean


def dispersion(manifold: Manifold, points: Tensor, mean: Tensor) -> Tensor:
    """Return the root mean square geodesic distance (...) of points (sample, ...) from a mean."""
    return manifold.distance(mean, points).square().mean(0).sqrt()
