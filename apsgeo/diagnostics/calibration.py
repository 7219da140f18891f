"""Calibration of posterior samples against simulated truth: ranks that must be uniform.

A simulation is a truth drawn from the prior and a measurement of it. If the members are draws of
the exact posterior, truth and members are exchangeable, and so the rank of the truth in any scalar
quantity is uniform on 0, ..., K. What is not uniform shows by its form: a U is overconfidence, an
arch underconfidence, a slope a bias.

Members come first, then the simulations; what is averaged comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from apsgeo.errors import InputError
from apsgeo.metrics.scores import coverage, weighted_mean

__all__ = ["rank_histogram", "ranks", "reliability", "tarp_ranks", "uniformity"]

Array = NDArray[np.float64]
Ranks = NDArray[np.int64]

_LEVELS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
_EXPECTED = 10  # least number of ranks that a bin of the test should hold
_MOST_BINS = 20


class _Uniformity(NamedTuple):
    """A test of ranks: how many fell into each bin, how many should, and the p-value.

    Attributes:
        counts: Number (bin,) of ranks.
        expected: Number (bin,) expected of uniform ranks.
        p_value: Probability of counts at least as uneven, if ranks are uniform.
    """

    counts: Array
    expected: Array
    p_value: float


def ranks(members: ArrayLike, truth: ArrayLike) -> Ranks:
    """Return the number of members below the truth, for simulation-based calibration.

    For a p-value, give one scalar quantity of independent simulations, such as an amplitude on a
    pattern, or log q(x|y) itself, which sees more than most (Talts et al. 2018, arXiv 1804.06788;
    Modrak et al. 2023, arXiv 2211.02383). The ranks of neighbouring nodes are not independent.

    Args:
        members: Members (K, ...) of a continuous quantity.
        truth: Truth (...).

    Returns:
        Ranks (...), from 0 to K.

    Raises:
        InputError: If the shapes do not match.
    """
    x, y = _ensemble(members, truth)
    return (x < y).sum(0)


def tarp_ranks(members: ArrayLike, truth: ArrayLike, references: ArrayLike | None = None) -> Ranks:
    """Return the number of members that are closer to a reference point than the truth.

    TARP (Lemos et al. 2023, arXiv 2302.03026, algorithm 2) tests accuracy with random points. The
    share of closer members is the credibility of the least ball about the reference that holds the
    truth. It sees all dimensions at once. The reference must not depend on the simulation's truth.

    Args:
        members: Members (K, simulation, dimension).
        truth: Truth (simulation, dimension).
        references: Points (simulation, dimension); by default the truth of the simulation before,
            whose distribution is the prior's.

    Returns:
        Ranks (simulation,), from 0 to K.

    Raises:
        InputError: If the shapes do not match.
    """
    x, y = _ensemble(members, truth)
    if y.ndim != 2:
        raise InputError(f"truth has shape {y.shape}; (simulation, dimension) was expected.")
    points = np.roll(y, 1, axis=0) if references is None else np.asarray(references, np.float64)
    if points.shape != y.shape:
        raise InputError(
            f"references have shape {points.shape} and the truth {y.shape}; give a reference for "
            "each simulation."
        )
    return ranks(np.linalg.norm(x - points, axis=-1), np.linalg.norm(y - points, axis=-1))


def uniformity(found: ArrayLike, members: int, bins: int | None = None) -> _Uniformity:
    """Test by Pearson's chi-squared whether ranks of independent simulations are uniform.

    Args:
        found: Ranks (simulation,), from 0 to `members`.
        members: Number K of members of each ensemble.
        bins: Number of bins that the K + 1 ranks are put into; by default as many as hold ten ranks
            each, at most 20.

    Raises:
        InputError: If ranks are outside the range, or too few for two bins.
    """
    from scipy.stats import chisquare

    values = np.asarray(found).ravel()
    if values.size and not (values.min() >= 0 and values.max() <= members):
        raise InputError(
            f"ranks from {values.min()} to {values.max()} were given; ranks among {members} "
            f"members are from 0 to {members}."
        )
    count = min(members + 1, _MOST_BINS, values.size // _EXPECTED) if bins is None else bins
    if not 2 <= count <= members + 1:
        raise InputError(
            f"{values.size} ranks among {members} members cannot be tested in {count} bins; give "
            f"at least {2 * _EXPECTED} simulations, and from 2 to {members + 1} bins."
        )
    of_rank = np.arange(members + 1) * count // (members + 1)
    counts = np.bincount(of_rank[values], minlength=count).astype(np.float64)
    share = values.size / (members + 1)
    expected = share * np.bincount(of_rank, minlength=count).astype(np.float64)
    return _Uniformity(counts, expected, float(chisquare(counts, expected).pvalue))


def rank_histogram(members: ArrayLike, truth: ArrayLike, weights: ArrayLike | None = None) -> Array:
    """Return the weighted share of values at which the truth has each rank, (..., K + 1).

    It is flat, at 1 / (K + 1), for a calibrated ensemble (Hamill 2001,
    doi:10.1175/1520-0493(2001)129<0550:IORHFV>2.0.CO;2). NaN does not count.

    Args:
        members: Members (K, ..., node).
        truth: Truth (..., node).
        weights: Weights of the nodes, such as areas; equal by default.
    """
    x, y = _ensemble(members, truth)
    found = np.where(np.isnan(y) | np.isnan(x).any(0), np.nan, ranks(x, y))
    each = np.where(np.isnan(found), np.nan, found == _leading(len(x) + 1, found.ndim))
    return np.moveaxis(weighted_mean(each, weights), 0, -1)


def reliability(
    members: ArrayLike,
    truth: ArrayLike,
    weights: ArrayLike | None = None,
    levels: Sequence[float] = _LEVELS,
) -> Array:
    """Return the share of values that central intervals of each level cover, (level, ...).

    They equal the levels for a calibrated ensemble of any size; see
    `apsgeo.metrics.scores.coverage`.

    Args:
        members: Members (K, ..., node).
        truth: Truth (..., node).
        weights: Weights of the nodes, such as areas; equal by default.
        levels: Levels in (0, 1).
    """
    return np.stack([coverage(members, truth, weights, level=level) for level in levels])


def _leading(count: int, ndim: int) -> Array:
    return np.arange(count, dtype=np.float64).reshape(count, *(1,) * ndim)


def _ensemble(members: ArrayLike, truth: ArrayLike) -> tuple[Array, Array]:
    x, y = np.asarray(members, dtype=np.float64), np.asarray(truth, dtype=np.float64)
    if x.shape[1:] != y.shape or len(x) == 0:
        raise InputError(
            f"members of shape {x.shape} do not match a truth of shape {y.shape}: "
            "give the members first, then the axes of the truth."
        )
    return x, y
