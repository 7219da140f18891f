"""Scores of point and ensemble predictions, on plain arrays.

Conventions: members come first, ``node`` comes last. A score that averages takes ``weights`` that
broadcast against the truth (area weights, zero where a cell shall not count) and averages over the
last axis. Cells in which any input is NaN do not count; where no cell is left the score is NaN.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.spatial.distance import pdist
from scipy.special import ndtr

from apsgeo.errors import InputError

Array = NDArray[np.float64]

__all__ = [
    "coverage",
    "covered",
    "crps_ensemble",
    "crps_normal",
    "energy_score",
    "ensemble_variance",
    "mse",
    "rmse",
    "spread_skill",
    "weighted_mean",
]


def weighted_mean(values: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """Average over the last axis, leaving out NaN.

    Args:
        values: Values (..., N), in any unit; NaN where one is missing.
        weights: Non-negative, broadcastable to ``values``; equal weights by default.

    Returns:
        (...), the unit of ``values``; NaN where no cell has positive weight.
    """
    x = np.asarray(values, dtype=np.float64)
    w = np.ones_like(x) if weights is None else np.broadcast_to(weights, x.shape)
    w = np.where(np.isnan(x), 0.0, w)
    total = w.sum(-1)
    return _ratio(np.multiply(w, x, out=np.zeros_like(x), where=w > 0).sum(-1), total)


def crps_ensemble(members: ArrayLike, truth: ArrayLike) -> Array:
    """Compute the fair continuous ranked probability score of an ensemble, cell by cell.

    The score is mean_k |x_k - y| - sum_{j,k} |x_j - x_k| / (2 K (K - 1)), an unbiased estimate of
    the score of the distribution that the members are drawn from (Ferro 2014,
    doi:10.1002/qj.2270, eq. 8). The double sum is computed from sorted members, in O(K log K).

    Args:
        members: Values (K, ...) of the K members, K >= 2.
        truth: True values (...), in the unit of the members.

    Returns:
        (...), the unit of ``truth``.

    Raises:
        InputError: If there are fewer than two members: the fair score does not exist.

    Example:
        >>> crps_ensemble([[1.0], [3.0]], [2.0])
        array([0.])
    """
    x, y = _ensemble(members, truth)
    size = x.shape[0]
    x = np.sort(x, axis=0)
    rank = np.arange(1 - size, size, 2, dtype=np.float64)
    mean_difference = np.tensordot(rank, x, axes=1) / (size * (size - 1))
    return np.abs(x - y).mean(0) - mean_difference


def crps_normal(mean: ArrayLike, std: ArrayLike, truth: ArrayLike) -> Array:
    """Compute the continuous ranked probability score of a normal prediction, cell by cell.

    std * (z (2 Phi(z) - 1) + 2 phi(z) - 1/sqrt(pi)), z = (y - mean) / std (Gneiting et al. 2005,
    doi:10.1175/MWR2904.1, eq. 5); |y - mean| where std = 0.

    Args:
        mean: Predicted means (...).
        std: Predicted standard deviations (...), not negative, in the same unit.
        truth: True values (...), in the same unit.

    Returns:
        (...), the same unit.
    """
    mu, sd, y = (np.asarray(a, dtype=np.float64) for a in (mean, std, truth))
    error = y - mu
    z = np.divide(error, sd, out=np.zeros(np.broadcast(error, sd).shape), where=sd > 0)
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
    score = sd * (z * (2 * ndtr(z) - 1) + 2 * density - 1 / np.sqrt(np.pi))
    return np.where(sd == 0, np.abs(error), score)


def mse(prediction: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """Compute the weighted mean squared error over the last axis: (..., N) -> (...)."""
    error = np.asarray(prediction, dtype=np.float64) - np.asarray(truth, dtype=np.float64)
    return weighted_mean(error**2, weights)


def rmse(prediction: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """Compute the weighted root mean squared error over the last axis: (..., N) -> (...)."""
    return np.sqrt(mse(prediction, truth, weights))


def ensemble_variance(members: ArrayLike) -> Array:
    """Compute the variance that the squared error of the ensemble mean should have, cell by cell.

    (K + 1) / K times the unbiased variance of the K members: for members exchangeable with the
    truth, E (y - mean)^2 is exactly this (Fortin et al. 2014, doi:10.1175/JHM-D-14-0008.1, eq. 15).

    Args:
        members: Values (K, ...) of the K members, K >= 2.

    Returns:
        (...), the square of the members' unit.

    Raises:
        InputError: If there are fewer than two members.
    """
    x = np.asarray(members, dtype=np.float64)
    _check_size(x.shape[0])
    return x.var(0, ddof=1) * (x.shape[0] + 1) / x.shape[0]


def spread_skill(
    members: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Compute the ratio of ensemble spread to error of the ensemble mean; 1 is calibrated.

    sqrt((K + 1) / K * mean variance) / rmse(ensemble mean), means weighted (Fortin et al. 2014).

    Args:
        members: Values (K, ..., N) of the K members, K >= 2.
        truth: True values (..., N), in the unit of the members.
        weights: Weights of the cells, broadcastable to ``truth``; equal by default.

    Returns:
        (...), without unit: below 1 overconfident, above 1 underconfident; NaN without error.

    Raises:
        InputError: If there are fewer than two members.
    """
    x, y = _ensemble(members, truth)
    variance = np.where(np.isnan(y), np.nan, ensemble_variance(x))
    return np.sqrt(_ratio(weighted_mean(variance, weights), mse(x.mean(0), y, weights)))


def covered(members: ArrayLike, truth: ArrayLike, level: float = 0.9) -> Array:
    """Say of each cell how far the truth is covered by the central interval of an ensemble.

    The interval between the j-th least and the j-th greatest of K members covers a truth
    exchangeable with them with probability 1 - 2 j / (K + 1). Where j = (1 - level) (K + 1) / 2 is
    not whole, the two neighbouring intervals count in proportion, so that the mean is ``level``
    for every calibrated ensemble, of any size and distribution. (Quantiles as numpy takes them by
    default cover 84 % with 32 members when 90 % are asked for.)

    Args:
        members: Values (K, ...) of the K members.
        truth: True values (...), in the unit of the members.
        level: Probability of the interval, in (0, 1).

    Returns:
        (...), 0 or 1, or between where the truth lies between the two intervals' ends.

    Raises:
        InputError: If ``level`` is not in (0, 1).
    """
    if not 0 < level < 1:
        raise InputError(f"level={level!r} given, but a share between 0 and 1 was expected")
    x, y = _ensemble(members, truth)
    depth = np.minimum((x <= y).sum(0), (x >= y).sum(0))
    tail = (1 - level) * (len(x) + 1) / 2
    missing = np.isnan(y) | np.isnan(x).any(0)
    return np.where(missing, np.nan, np.clip(depth - tail + 1, 0.0, 1.0))


def coverage(
    members: ArrayLike,
    truth: ArrayLike,
    weights: ArrayLike | None = None,
    *,
    level: float = 0.9,
) -> Array:
    """Compute the weighted share of cells whose truth the central interval covers: see `covered`.

    Args:
        members: Values (K, ..., N) of the K members.
        truth: True values (..., N), in the unit of the members.
        weights: Weights of the cells, broadcastable to ``truth``; equal by default.
        level: The share that a calibrated ensemble covers, in (0, 1).

    Returns:
        (...), in [0, 1].

    Raises:
        InputError: If ``level`` is not in (0, 1).
    """
    return weighted_mean(covered(members, truth, level), weights)


def energy_score(
    members: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Compute the fair energy score, the multivariate CRPS, over the last axis.

    mean_k |x_k - y| - sum_{j,k} |x_j - x_k| / (2 K (K - 1)) with |v|^2 the weighted mean of v^2
    (Gneiting & Raftery 2007, doi:10.1198/016214506000001437, eq. 22, in its fair form). With one
    node it is the fair CRPS.

    Args:
        members: Values (K, ..., N) of the K members, K >= 2.
        truth: True values (..., N), in the unit of the members.
        weights: Weights of the cells, broadcastable to ``truth``; equal by default.

    Returns:
        (...), the unit of ``truth``.

    Raises:
        InputError: If there are fewer than two members.
    """
    x, y = _ensemble(members, truth)
    w = np.broadcast_to(1.0 if weights is None else weights, y.shape)
    w = np.where(np.isnan(y) | np.isnan(x).any(0), 0.0, w)
    total = w.sum(-1, keepdims=True)
    w = np.divide(w, total, out=np.full_like(w, np.nan), where=total > 0)
    counts = w != 0
    scaled = np.sqrt(w) * np.where(counts, x, 0.0)
    error = np.linalg.norm(scaled - np.sqrt(w) * np.where(counts, y, 0.0), axis=-1).mean(0)
    pairs = scaled.reshape(x.shape[0], -1, y.shape[-1]).swapaxes(0, 1)
    spread = np.array([pdist(p).mean() for p in pairs]).reshape(error.shape)
    return error - 0.5 * spread


def _ensemble(members: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(members, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.shape[1:] != y.shape:
        raise InputError(
            f"members of shape {x.shape} do not match a truth of shape {y.shape}: "
            "give the members first, then the axes of the truth"
        )
    _check_size(x.shape[0])
    return x, y


def _ratio(above: Array, below: Array) -> Array:
    return np.divide(above, below, out=np.full_like(below, np.nan), where=below > 0)


def _check_size(size: int) -> None:
    if size < 2:
        raise InputError(f"{size} member given, but a spread needs at least 2: draw more members")
