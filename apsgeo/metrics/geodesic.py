"""Scores of members whose values lie on a manifold, by geodesic distances.

Points are tensors (..., ambient) as `apsgeo.values.manifold.Manifold` has them, members
(member, ..., ambient). A distance is a function of two points, such as `Manifold.distance`.
"""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from apsgeo.errors import InputError

__all__ = [
    "circular_variance",
    "depth_rank",
    "geodesic_coverage",
    "geodesic_crps",
    "geodesic_rmse",
]

Distance = Callable[[Tensor, Tensor], Tensor]


def geodesic_crps(members: Tensor, truth: Tensor, distance: Distance) -> Tensor:
    """Return the fair energy form of the CRPS (...), point by point.

    mean_k d(x_k, y) - sum_{j,k} d(x_j, x_k) / (2 K (K - 1)). On the real line it is the CRPS; it is
    proper where the distance is of negative type, as on the circle and the sphere (Gneiting and
    Raftery 2007, doi 10.1198/016214506000001437, section 5; Grimit et al. 2006 for the circle).

    Args:
        members: Points (member, ..., ambient), at least two members.
        truth: Points (..., ambient).
        distance: Geodesic distance.

    Raises:
        InputError: If there are fewer than two members.
    """
    count = len(members)
    if count < 2:
        raise InputError(f"{count} member given; the score takes at least two")
    among = distance(members[:, None], members[None]).sum((0, 1))
    return distance(members, truth).mean(0) - among / (2 * count * (count - 1))


def geodesic_rmse(point: Tensor, truth: Tensor, distance: Distance) -> Tensor:
    """Return the root mean square distance () of predicted points from the truth."""
    return distance(point, truth).square().mean().sqrt()


def depth_rank(members: Tensor, centre: Tensor, truth: Tensor, distance: Distance) -> Tensor:
    """Return the number (...) of members that are nearer to a centre than the truth is.

    Of calibrated members it is uniform from zero to their number, but for the centre being theirs.
    """
    return (distance(centre, members) < distance(centre, truth)).sum(0)


def geodesic_coverage(
    members: Tensor,
    centre: Tensor,
    truth: Tensor,
    distance: Distance,
    level: float = 0.9,
    weights: Tensor | None = None,
) -> Tensor:
    """Return the share () of truths in the ball about a centre that holds a share of the members.

    The last rank counts in part, so that calibrated members have exactly the level.

    Args:
        members: Points (member, ..., ambient).
        centre: Centres (..., ambient) of the balls.
        truth: Points (..., ambient).
        distance: Geodesic distance.
        level: Share of the members.
        weights: Weights (...) of the points, equal by default.
    """
    wanted = level * (len(members) + 1)
    rank = depth_rank(members, centre, truth, distance).double()
    inside = (wanted - rank).clamp(0.0, 1.0)
    if weights is None:
        return inside.mean()
    return (weights * inside).sum() / weights.sum()


def circular_variance(members: Tensor) -> Tensor:
    """Return one less the length of the mean of directions (member, ..., ambient)."""
    return 1.0 - members.mean(0).norm(dim=-1)
