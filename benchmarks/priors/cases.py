"""Analytic priors of random fields, from 2 to 10 512 dimensions, whose log-density is known."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apsgeo.domains import Domain, HEALPixDomain, ImageDomain, LatLonDomain
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.mixture import GaussianMixturePrior

DOMAINS: dict[int, Callable[[], Domain]] = {
    2: lambda: ImageDomain(1, 2),
    64: lambda: ImageDomain(8, 8),
    768: lambda: HEALPixDomain(8),
    10512: lambda: LatLonDomain(np.linspace(90, -90, 73), np.arange(0.0, 360.0, 2.5)),
}
"""A domain for each number of dimensions."""

SHAPES = ((1, 0.0), (2, 0.7), (5, 0.7), (2, 3.0), (5, 3.0))
"""Numbers of components, and the root mean square of their means."""

_RANK = 60
_WHITE_VAR = 0.02
# Of each component: the wave number at which its spectrum falls, the power, and the variance.
_SPECTRA = ((2.0, 3.0, 1.0), (5.0, 4.0, 0.5), (1.0, 3.0, 0.8), (3.0, 2.5, 1.2), (4.0, 6.0, 0.3))
_WEIGHTS = (0.35, 0.25, 0.2, 0.12, 0.08)


@dataclass(frozen=True)
class Case:
    """A prior whose log-density is known, and the Gaussian of its mean and covariance."""

    dims: int
    components: int
    mean_rms: float
    prior: GaussianMixturePrior
    anchor: LowRankPrior


def make_case(dims: int, components: int, mean_rms: float, generator: torch.Generator) -> Case:
    """Return a mixture of random fields on the domain of so many dimensions, of mean zero.

    Component k is sum_j a_j e_j + white noise of variance 0.02 around its mean, with the smoothest
    eigenfunctions e_j of the Laplacian and the variances 1 / (1 + (w_j / w_k)^p_k) of a_j, scaled
    to a mean variance over the nodes. The means are random combinations of the smoothest few.
    """
    domain = DOMAINS[dims]()
    rank = min(_RANK, domain.num_nodes)
    eigenvalues, functions = domain.eigenbasis(rank)
    size = float(domain.areas.sum()) ** 0.5
    wave_number = eigenvalues.clamp_min(0.0).sqrt() * size / (2.0 * np.pi)
    loadings = [
        _scaled(functions / (1.0 + (wave_number / falls) ** power).sqrt(), variance)
        for falls, power, variance in _SPECTRA[:components]
    ]
    weights = torch.tensor(_WEIGHTS[:components], dtype=torch.float64)
    weights /= weights.sum()
    smooth = min(9, rank)
    amplitudes = torch.randn(components, smooth, generator=generator, dtype=torch.float64)
    means = amplitudes @ functions[:, :smooth].T
    means = mean_rms * means / means.square().mean(1, keepdim=True).sqrt()
    means -= weights @ means
    each = [LowRankPrior(domain, patterns[None], _WHITE_VAR**0.5) for patterns in loadings]
    prior = GaussianMixturePrior(each, weights, means[:, None])
    return Case(dims, components, mean_rms, prior, moment_matched(prior))


def moment_matched(prior: GaussianMixturePrior) -> LowRankPrior:
    """Return the Gaussian with the covariance of a mixture of mean zero and like white noise."""
    roots = prior.weights.sqrt()
    patterns = [
        *(root * each.loadings for root, each in zip(roots, prior.components, strict=True)),
        (roots[:, None, None] * prior.means).permute(1, 2, 0),
    ]
    return LowRankPrior(prior.domain, torch.cat(patterns, dim=-1), _WHITE_VAR**0.5)


def _scaled(patterns: Tensor, variance: float) -> Tensor:
    """Scale patterns (node, rank) to a mean variance over the nodes."""
    return patterns * (variance / patterns.square().sum(1).mean()).sqrt()
