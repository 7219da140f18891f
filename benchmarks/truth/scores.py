"""Distances of a sampler from a known posterior: in nats, scores, weights of modes, ranks."""

from __future__ import annotations

import torch
from torch import Tensor

from apsgeo.diagnostics.calibration import ranks, tarp_ranks, uniformity
from apsgeo.diagnostics.importance import ImportanceWeights
from apsgeo.metrics.table import Column, Table


def _short(value: float) -> str:
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.4g}"


_NUMBERS = {
    # KL(q || p) in nats, averaged over measurements, and its greatest; of linear-Gaussian problems
    # the greatest |log q - log p| of a member
    "kl": "KL, nats",
    "kl_greatest": "greatest",
    "kl_value": "KL, nats a value",
    "mean_error": "mean error, std",  # the greatest, in posterior standard deviations
    # expected scores of the members, relative to those of the exact posterior
    "crps": "CRPS",
    "energy": "energy score",
    "crps_at_truth": "CRPS at the truth",  # at the true fields, relative to the same
    "mode_error": "mode error",  # mean absolute error of the weight of a mode
    "collapsed": "collapsed",  # measurements in which a mode of weight above 0.1 has no member
    "impossible": "impossible values",  # share of values that no field can have
    "ess": "ESS",  # mean effective sample size, as a share of the members
    "pareto_k": "Pareto k",  # median over measurements
    "sbc": "SBC p",  # p-values of the ranks
    "tarp": "TARP p",
    "train_seconds": "training, CPU s",
    "sample_ms": "64 members, ms",  # of one field, all included
}
TABLE = Table(
    Column("problem", "problem"),
    Column("method", "method"),
    *(Column(heading, key, _short) for key, heading in _NUMBERS.items()),
)
"""The scores of one method on one problem; a row has those that apply."""


def mean_difference(members: Tensor) -> Tensor:
    """Estimate E|X - X'| of members (member, ...) without bias, elementwise."""
    count = len(members)
    rank = torch.arange(1.0 - count, count, 2.0, dtype=members.dtype)
    ordered = members.sort(0).values
    return 2.0 * torch.tensordot(rank, ordered, dims=1) / (count * (count - 1))


def _cross_difference(first: Tensor, second: Tensor) -> Tensor:
    """Return E|X - Y| of two ensembles of one size, elementwise: all pairs less those within."""
    count = len(first)
    every = mean_difference(torch.cat([first, second])) * count * (2 * count - 1)
    within = (mean_difference(first) + mean_difference(second)) * count * (count - 1) / 2
    return (every - within) / count**2


def excess_scores(members: Tensor, exact: Tensor) -> tuple[float, float]:
    """Return the expected CRPS and energy score of members relative to the exact posterior's.

    Both ensembles are (member, batch, node), of one size. Over truths drawn from the posterior p,
    the score of q is E|X - Y| - E|X - X'| / 2 and that of p is E|Y - Y'| / 2, so that the ratio is
    one if q = p.
    """
    own, other = mean_difference(members).mean(), mean_difference(exact).mean()
    crps = (_cross_difference(members, exact).mean() - own / 2) / (other / 2)
    x, y = members.transpose(0, 1), exact.transpose(0, 1)
    pairs = members.shape[0] * (members.shape[0] - 1)
    apart = torch.cdist(x, y).mean()
    spread_x = torch.cdist(x, x).sum((1, 2)).mean() / pairs
    spread_y = torch.cdist(y, y).sum((1, 2)).mean() / pairs
    energy = (apart - spread_x / 2) / (spread_y / 2)
    return float(crps), float(energy)


def crps_at_truth(members: Tensor, truth: Tensor, exact: Tensor) -> float:
    """Return the CRPS of members at truths (batch, node), relative to that expected of the exact.

    It is one on average over truths that are draws of the posterior, if the members are too.
    """
    score = (members - truth).abs().mean() - mean_difference(members).mean() / 2
    return float(score / (mean_difference(exact).mean() / 2))


def mode_errors(weights: Tensor, exact: Tensor) -> tuple[float, float]:
    """Return the mean absolute error of modes' weights, and how often a mode has no member.

    Args:
        weights: Shares (batch, mode) of the members in the modes.
        exact: Exact weights (batch, mode); modes above 0.1 count.
    """
    error = (weights - exact).abs().mean()
    collapsed = ((exact > 0.1) & (weights < 1e-3)).any(1).sum()
    return float(error), float(collapsed)


def calibration(values: Tensor, true: Tensor, members: Tensor, truth: Tensor) -> dict[str, float]:
    """Return p-values of the ranks of true numbers, and of truths as points.

    Args:
        values: Numbers (member, case) of the members.
        true: Numbers (case,) of the truths.
        members: Members (member, case, dimension).
        truth: Truths (case, dimension).
    """
    count = len(members)
    return {
        "sbc": uniformity(ranks(values, true), count).p_value,
        "tarp": uniformity(tarp_ranks(members, truth), count).p_value,
    }


def weight_scores(log_q: Tensor, log_p: Tensor) -> dict[str, float]:
    """Return KL, ESS and Pareto-k of members with log densities (member, batch)."""
    gap = (log_q - log_p).double().mean(0)
    weights = ImportanceWeights((log_p - log_q).double().numpy())
    share = weights.effective_sample_size / len(log_q)
    return {
        "kl": float(gap.mean()),
        "kl_greatest": float(gap.max()),
        "ess": float(share.mean()),
        "pareto_k": float(torch.from_numpy(weights.pareto_k).median()),
    }
