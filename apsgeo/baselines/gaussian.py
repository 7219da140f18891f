"""Baselines that are Gaussian priors: climatology, EOF interpolation, kriging, the hybrid."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.eofs import empirical_orthogonal_functions
from apsgeo.gaussian.kernel import KernelPrior
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Measurement
from apsgeo.metrics.scores import weighted_mean
from apsgeo.progress import Bar

__all__ = [
    "choose_rank",
    "climatology",
    "eof_interpolation",
    "eof_prior",
    "hybrid",
    "kriging",
    "local",
    "localised",
]

_LEAST_VARIANCE = 1e-3  # least share of a value's variance that the EOFs leave

Array = NDArray[np.float64]


def climatology(prior: FieldPrior) -> LowRankPrior:
    """Return the prior of independent values: hidden ones stay at their climatology.

    Its covariance is I in standardized anomalies, a low-rank one of rank 0.
    """
    shape = (prior.normals.channels, prior.domain.num_nodes)
    found = LowRankPrior(prior.domain, torch.zeros(*shape, 0), 1.0)
    found.name = "climatology"
    return found


def eof_interpolation(prior: FieldPrior) -> LowRankPrior:
    """Return the prior of the EOFs that the hybrid was fitted with; see `eof_prior`."""
    return eof_prior(prior.domain, prior.gaussian.eofs.loadings)


def eof_prior(domain: Domain, loadings: Tensor) -> LowRankPrior:
    """Return the prior of EOFs, whose posterior is reduced-space optimal interpolation.

    C = L L^T + diag(1 - |L|^2) in standardized anomalies: the amplitudes' covariance is that of
    the history, and the truncated variance is kept as a diagonal (Kaplan et al. 1997,
    doi:10.1029/97JC01734).

    Args:
        domain: Domain of the fields.
        loadings: EOFs (channel, node, rank), each times the standard deviation of its amplitude.
    """
    left = (1.0 - loadings.double().square().sum(-1)).clamp(min=_LEAST_VARIANCE)
    found = LowRankPrior(domain, loadings, left.sqrt())
    found.name = "EOF interpolation"
    return found


def choose_rank(
    domain: Domain,
    anomalies: Tensor,
    cases: Sequence[tuple[Measurement, Array, Array, Array]],
    ranks: Sequence[int],
    progress: bool = True,
) -> LowRankPrior:
    """Fit EOFs, and choose their number by the least CRPS on held-out records.

    The mean CRPS of each case is taken relative to that of the first rank, so that cases of few
    and of many observations weigh alike.

    Args:
        domain: Domain of the fields.
        anomalies: Standardized anomalies (time, channel, node) to fit to.
        cases: Measurements of standardized anomalies; and, (time, channel * node) each, the true
            anomalies, the standard deviations that restore the data's units, and the weights.
        ranks: Candidate numbers of EOFs.
        progress: Whether to show a bar.

    Raises:
        InputError: If a candidate is above the number of EOFs that the history has.
    """
    fitted = empirical_orthogonal_functions(domain, anomalies, max(ranks)).loadings
    if max(ranks) > fitted.shape[-1]:
        raise InputError(
            f"rank {max(ranks)} is a candidate, but only {fitted.shape[-1]} EOFs are fitted"
        )

    def score(rank: int) -> Array:
        cut = eof_prior(domain, fitted[..., :rank])
        each = []
        for measurement, truth, std, weights in cases:
            found = cut.posterior(measurement).prediction(0, 0)
            each.append(weighted_mean(std * found.crps(truth), weights).mean())
        return np.array(each)

    table = np.array([score(r) for r in Bar(ranks, name="choosing the EOF rank", enabled=progress)])
    best = int(ranks[int((table / table[0]).mean(1).argmin())])
    return eof_prior(domain, fitted[..., :best].clone())


def kriging(prior: FieldPrior) -> KernelPrior:
    """Fit a covariance of distance alone to the history that the prior was fitted to.

    Raises:
        InputError: If the history is not at hand, as in a prior that was loaded.
    """
    if prior.history is None:
        raise InputError("kriging is fitted to the history, which a saved prior does not hold.")
    return KernelPrior.fit(prior.domain, prior.encode(prior.split(prior.history)[0]))


def hybrid(prior: FieldPrior) -> SeasonalPrior:
    """Return the hybrid Gaussian prior: EOFs and a local field."""
    return prior.gaussian


def localised(prior: FieldPrior) -> SeasonalPrior:
    """Return the Gaussian prior that flows start from, localised where the size allows."""
    return prior.anchor


def local(prior: FieldPrior) -> VecchiaPrior:
    """Return the approximation of `localised` by near observations, of the same cost for any mask.

    Its bias, as `VecchiaPrior.bias` states it, is for the most part the error of 40 draws.
    """
    return VecchiaPrior(prior.anchor)
