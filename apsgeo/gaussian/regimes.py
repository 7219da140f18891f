"""Mixtures of low-rank Gaussian priors, and their fit to fields that come in several regimes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.mixture import GaussianMixturePrior

__all__ = ["LowRankMixturePrior", "fit_regimes"]

Array = NDArray[np.float64]

_STEPS = 200
_LEAST_WEIGHT = 1e-3
_LEAST_VARIANCE = 1e-6  # least white variance, as a share of the mean variance
_LEAST_SIZE = 1e-10  # least variance of a pattern, as a share of the first's


class LowRankMixturePrior(GaussianMixturePrior):
    r"""The prior p(x) = sum_k w_k N(x; m_k, L_k L_k^T + s_k^2 I), which can be saved.

    It is a mixture of probabilistic principal component analysers (Tipping & Bishop 1999,
    https://doi.org/10.1162/089976699300016728). In memory it takes rank times values, where dense
    covariances take the square of the values.

    Args:
        domain: Domain of the signals.
        weights: Weights (component,), positive; they are divided by their sum.
        means: Means m_k (component, channel, node).
        loadings: Patterns L_k (component, channel, node, rank).
        white_std: Standard deviations s_k (component,), positive.

    Raises:
        InputError: If their shapes do not fit, or weights or ``white_std`` are not positive.
    """

    def __init__(
        self, domain: Domain, weights: Tensor, means: Tensor, loadings: Tensor, white_std: Tensor
    ) -> None:
        if loadings.ndim != 4 or white_std.shape != loadings.shape[:1]:
            raise InputError(
                f"loadings have shape {tuple(loadings.shape)} and white_std "
                f"{tuple(white_std.shape)}; (component, channel, node, rank) and (component,) were "
                "expected."
            )
        pairs = zip(loadings, white_std.tolist(), strict=True)
        components = [LowRankPrior(domain, each, std) for each, std in pairs]
        super().__init__(components, weights, means)
        self._given = {
            "weights": weights,
            "means": means,
            "loadings": loadings,
            "white_std": white_std,
        }

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the tensors that the prior was made of, and can be made of again to the bit."""
        return dict(self._given)

    @classmethod
    def from_tensors(cls, domain: Domain, tensors: dict[str, Tensor]) -> LowRankMixturePrior:
        """Rebuild a prior from `to_tensors`."""
        return cls(domain, **tensors)


def fit_regimes(
    domain: Domain, fields: Tensor, *, patterns: int, count: int = 2
) -> LowRankMixturePrior:
    """Fit a mixture whose components are told apart by the leading coefficient of the fields.

    A mixture of normals is fitted to that coefficient (EM; Dempster et al. 1977). It gives each
    field a probability of each component. With these as weights a component gets its mean, its
    covariance on the leading patterns, and one variance of all that they do not describe. A pattern
    that varies less within a regime is taken to vary as much. Values that never vary (land) do not
    count.

    Args:
        domain: Domain of the fields.
        fields: Anomalies (time, channel, node), many more of them than patterns.
        patterns: Number of leading eigenvectors of the fields' covariance, at most.
        count: Number of regimes.

    Returns:
        The mixture, with means and loadings in single precision, as they are saved.

    Raises:
        InputError: If there are too few fields, or a regime is left with hardly any.
    """
    flat = fields.double().flatten(1).numpy()
    varying = int((flat != flat[:1]).any(0).sum())
    patterns = min(patterns, varying)
    if len(flat) < 2 * count * max(1, patterns):
        raise InputError(
            f"{len(flat)} fields are too few for {count} regimes of {patterns} patterns; give a "
            f"history of at least {2 * count * patterns} fields, or ask for at most "
            f"{len(flat) // (2 * count)} patterns, or for fewer regimes."
        )
    mean = flat.mean(0)
    basis = _leading(flat - mean, patterns)
    coefficients = (flat - mean) @ basis
    shares = _normal_mixture(coefficients[:, 0], count)
    weights = shares.mean(0)
    if weights.min() < _LEAST_WEIGHT:
        raise InputError(
            f"the {count} regimes have shares {weights.round(4).tolist()}; ask for fewer."
        )
    left = max(1, varying - basis.shape[1])
    remainder = ((flat - mean) ** 2).sum(1) - (coefficients**2).sum(1)
    least = _LEAST_VARIANCE * float((flat - mean).var(0).sum()) / varying
    means, loadings, variances = [], [], []
    for share in (shares / shares.sum(0)).T:
        centre = share @ coefficients
        deviation = coefficients - centre
        values, vectors = np.linalg.eigh((deviation * share[:, None]).T @ deviation)
        variance = max(least, float(share @ remainder) / left)
        means.append(mean + basis @ centre)
        loadings.append(basis @ (vectors * np.sqrt(np.maximum(values - variance, 0.0))))
        variances.append(variance)
    shape = tuple(fields.shape[1:])
    return LowRankMixturePrior(
        domain,
        torch.from_numpy(weights),
        torch.from_numpy(np.stack(means)).float().unflatten(1, shape),
        torch.from_numpy(np.stack(loadings)).float().unflatten(1, shape),
        torch.tensor(variances, dtype=torch.float64).sqrt(),
    )


def _leading(fields: Array, count: int) -> Array:
    """Return the leading eigenvectors (value, pattern) of the covariance of centred fields.

    The time-by-time Gram matrix and the value-by-value covariance have the same eigenvalues; the
    smaller matrix is diagonalized.
    """
    few = len(fields) <= fields.shape[1]
    values, vectors = np.linalg.eigh(fields @ fields.T if few else fields.T @ fields)
    kept = min(count, int((values > _LEAST_SIZE * values[-1]).sum()))
    values, vectors = values[::-1][:kept], vectors[:, ::-1][:, :kept]
    return fields.T @ (vectors / np.sqrt(values)) if few else vectors


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
