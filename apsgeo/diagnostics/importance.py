"""Importance weights of a flow's members, which judge it without any truth.

With log q(x|y) tractable, w = p(x) p(y|x) / q(x|y) tells how far q is from the posterior: all
equal if it is exact, dominated by a few where q misses mass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.measurement.distribution import FieldDistribution

__all__ = ["ImportanceWeights", "generalized_pareto", "importance_weights"]

Array = NDArray[np.float64]

_LEAST_TAIL = 5  # least number of weights that a tail is fitted to
_PRIOR_SHAPE, _PRIOR_COUNT = 0.5, 10.0  # weakly informative prior of k: its mean and weight


@dataclass(frozen=True)
class ImportanceWeights:
    """Log importance weights, members first.

    Attributes:
        log_weights: Logs (member, field) of p(x) p(y|x) / q(x|y), up to a constant for each field.

    Raises:
        InputError: If there are fewer than two members, or weights are NaN or all zero.
    """

    log_weights: Array

    def __post_init__(self) -> None:
        values = np.asarray(self.log_weights, dtype=np.float64)
        object.__setattr__(self, "log_weights", values)
        if values.ndim != 2 or len(values) < 2:
            raise InputError(
                f"log_weights have shape {values.shape}; (member, field) with two members or more "
                "was expected."
            )
        if np.isnan(values).any() or not np.isfinite(values.max(0)).all():
            raise InputError("log_weights have NaN, or a field with no finite greatest weight.")

    @cached_property
    def normalized(self) -> Array:
        """Weights (member, field) that sum to one over the members."""
        raw = np.exp(self.log_weights - self.log_weights.max(0))
        return raw / raw.sum(0)

    @property
    def effective_sample_size(self) -> Array:
        """1 / sum of w^2 (field,), from 1 to the number of members (Kong 1992)."""
        return 1.0 / (self.normalized**2).sum(0)

    @property
    def log_evidence(self) -> Array:
        """Log of the mean weight (field,), an estimate of log p(y) with no constant left out."""
        top = self.log_weights.max(0)
        return np.log(np.exp(self.log_weights - top).mean(0)) + top

    @cached_property
    def pareto_k(self) -> Array:
        """Shape (field,) of the tail of the weights; NaN with fewer than 25 members.

        Estimates from weights are reliable below 0.7; below 0.5 their variance is finite (Vehtari
        et al. 2024, *Pareto smoothed importance sampling*, JMLR 25(72)). The greatest min(S/5,
        3 sqrt(S)) of S weights are fitted, minus infinity if they are all equal.
        """
        return np.array([_tail_shape(column) for column in self.log_weights.T])

    def resample(self, fields: Tensor, count: int, seed: int = 0) -> Tensor:
        """Draw members with the probabilities of their weights, with replacement.

        Systematic resampling draws each member floor(n w) or ceil(n w) times, in random order (Douc
        et al. 2005).

        Args:
            fields: The weighted fields (member, field, ...).
            count: Number of members to draw.
            seed: Seed of the draw.

        Returns:
            The members (count, field, ...).

        Raises:
            InputError: If the fields are not those of the weights.
        """
        if tuple(fields.shape[:2]) != self.log_weights.shape:
            raise InputError(
                f"fields have (member, field) = {tuple(fields.shape[:2])}, the weights "
                f"{self.log_weights.shape}; give the fields that were weighted."
            )
        rng = np.random.default_rng(seed)
        batch = fields.shape[1]
        places = (np.arange(count)[:, None] + rng.random(batch)) / count
        # The cumulative weights of all fields end to end, so that one search serves them all.
        cumulative = np.minimum(self.normalized.cumsum(0), 1.0)
        cumulative[-1] = 1.0
        ends = (cumulative + np.arange(batch)).T.ravel()
        found = np.searchsorted(ends, (places + np.arange(batch)).T.ravel(), side="right")
        picked = (found.reshape(batch, count) - len(fields) * np.arange(batch)[:, None]).clip(
            0, len(fields) - 1
        )
        shuffled = rng.permuted(picked, axis=1).T
        return fields[torch.from_numpy(shuffled), torch.arange(batch)]


def importance_weights(
    distribution: FieldDistribution,
    log_prior: Callable[[Tensor], Tensor],
    members: int,
    *,
    seed: int = 0,
) -> tuple[Tensor, ImportanceWeights]:
    """Draw members of q(x|y) and weigh them by the posterior that it stands for.

    Args:
        distribution: Distribution that a `Posterior` returns for measurements.
        log_prior: Function that returns log p (batch,) of standardized anomalies (batch, channel,
            node), such as a Gaussian prior's `log_prob`, or
            ``lambda x: diffusion.estimate_log_prob(x).value``, whose error widens the weights.
        members: Number of members drawn for each field.
        seed: Seed of the draw.

    Returns:
        The members (member, batch, channel, node) in the units of the data, and their weights.

    Raises:
        InputError: If some nodes are not valid (land), where there is no density.
    """
    with torch.no_grad():
        fields = distribution.members(members, seed)
        log_weights = distribution.log_joint(fields, log_prior) - distribution.log_prob(fields)
    return fields, ImportanceWeights(log_weights.double().cpu().numpy())


def generalized_pareto(excess: ArrayLike) -> tuple[float, float]:
    """Fit a generalized Pareto distribution to excesses over a threshold; return (k, sigma).

    The density is (1 + k x / sigma)^(-1/k - 1) / sigma. The estimate is the nearly Bayesian one of
    Zhang & Stephens (2009, doi:10.1198/tech.2009.08017).

    Args:
        excess: Excesses (n,), positive.
    """
    x = np.sort(np.asarray(excess, dtype=np.float64))
    size = 30 + int(np.sqrt(len(x)))
    grid = 1.0 - np.sqrt(size / (np.arange(1, size + 1) - 0.5))
    quartile = x[int(len(x) / 4 + 0.5) - 1]
    theta = 1.0 / x[-1] + grid / (3.0 * quartile)
    shape = np.log1p(-theta[:, None] * x).mean(1)
    likelihood = len(x) * (np.log(-theta / shape) - shape - 1.0)
    weights = np.exp(likelihood - likelihood.max())
    best = float((theta * weights).sum() / weights.sum())
    k = float(np.log1p(-best * x).mean())
    return k, -k / best


def _tail_shape(log_weights: Array) -> float:
    """Return the shape k of the tail of one field's weights, drawn to 0.5 by the prior."""
    size = len(log_weights)
    tail = int(np.ceil(min(0.2 * size, 3.0 * np.sqrt(size))))
    if tail < _LEAST_TAIL:
        return float("nan")
    ordered = np.sort(log_weights - log_weights.max())
    if ordered[-1] - ordered[-tail - 1] < 1e-12:
        return float("-inf")
    excess = np.exp(ordered[-tail:]) - np.exp(ordered[-tail - 1])
    k, _ = generalized_pareto(np.maximum(excess, np.finfo(np.float64).tiny))
    return (tail * k + _PRIOR_COUNT * _PRIOR_SHAPE) / (tail + _PRIOR_COUNT)
