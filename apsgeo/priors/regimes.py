"""Fit a mixture of Gaussian priors to fields that come in several regimes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.priors.dense import DensePrior
from apsgeo.priors.mixture import GaussianMixturePrior

__all__ = ["fit_regimes"]

Array = NDArray[np.float64]

_STEPS = 200
_LEAST_WEIGHT = 1e-3


def fit_regimes(
    domain: Domain, fields: Tensor, *, patterns: int, count: int = 2
) -> GaussianMixturePrior:
    """Fit a mixture whose components are told apart by the leading coefficient of the fields.

    That coefficient's distribution is fitted by a mixture of normals (EM; Dempster et al. 1977);
    with the probabilities of its components each gets its mean, its covariance on the leading
    patterns, and one variance of all that they do not describe.

    Args:
        domain: Where the fields live.
        fields: (time, channel, node) anomalies; many more of them than patterns.
        patterns: Leading eigenvectors of the fields' covariance.
        count: Regimes.

    Raises:
        InputError: If there are too few fields, or a regime is left with hardly any.
    """
    flat = fields.double().flatten(1).numpy()
    if len(flat) < 2 * count * patterns:
        raise InputError(
            f"{len(flat)} fields for {count} regimes of {patterns} patterns; give at least "
            f"{2 * count * patterns} fields, or fewer patterns."
        )
    mean = flat.mean(0)
    _, vectors = np.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
    basis = vectors[:, ::-1][:, :patterns]
    coefficients = (flat - mean) @ basis
    shares = _normal_mixture(coefficients[:, 0], count)
    weights = shares.mean(0)
    if weights.min() < _LEAST_WEIGHT:
        raise InputError(
            f"the {count} regimes have shares {weights.round(4).tolist()}; ask for fewer."
        )
    left = flat.shape[1] - patterns
    remainder = ((flat - mean) ** 2).sum(1) - (coefficients**2).sum(1)
    means, priors = [], []
    for share in (shares / shares.sum(0)).T:
        centre = share @ coefficients
        deviation = coefficients - centre
        covariance = (deviation * share[:, None]).T @ deviation
        variance = float(share @ remainder) / max(1, left)
        matrix = basis @ (covariance - variance * np.eye(patterns)) @ basis.T
        matrix[np.diag_indices_from(matrix)] += variance
        priors.append(DensePrior(domain, torch.from_numpy((matrix + matrix.T) / 2), rank=patterns))
        means.append(mean + basis @ centre)
    stacked = torch.from_numpy(np.stack(means)).unflatten(1, tuple(fields.shape[1:]))
    return GaussianMixturePrior(priors, torch.from_numpy(weights), stacked)


def _normal_mixture(values: Array, count: int) -> Array:
    """Return the probabilities (n, count) of the components of a mixture fitted to values (n,)."""
    means = np.quantile(values, (np.arange(count) + 0.5) / count)
    variances = np.full(count, values.var() / count**2)
    weights = np.full(count, 1.0 / count)
    shares = np.empty((len(values), count))
    for _ in range(_STEPS):
        square = (values[:, None] - means) ** 2 / variances
        joint = np.log(weights) - 0.5 * (square + np.log(variances))
        shares = np.exp(joint - joint.max(1, keepdims=True))
        shares /= shares.sum(1, keepdims=True)
        total = np.maximum(shares.sum(0), 1e-300)
        means = (shares * values[:, None]).sum(0) / total
        variances = (shares * (values[:, None] - means) ** 2).sum(0) / total + 1e-12
        weights = np.maximum(total / len(values), 1e-300)
    return shares
