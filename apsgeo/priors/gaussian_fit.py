"""Fit the hybrid covariance: EOFs from history, scales by held-out likelihood."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor
from tqdm import tqdm

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators import Mask, Measurement
from apsgeo.priors.gaussian import GaussianPrior
from apsgeo.priors.matern import MaternField

__all__ = [
    "HybridScales",
    "contiguous_folds",
    "empirical_orthogonal_functions",
    "fit_gaussian",
    "select_scales",
]

_LEAST_LOCAL = 1e-3  # the least fraction of a node's variance left to the local field
_DENSITIES = (0.01, 0.05, 0.3)
_FIELDS = 12  # held-out fields a block
_NOISE = 0.1  # of a standard deviation, for the held-out likelihood


@dataclass(frozen=True)
class HybridScales:
    """The free numbers of the hybrid covariance.

    Attributes:
        eof_weight: Share beta of the EOF covariance that is kept, in (0, 1).
        range_km: Range of the Matern residual.
        nugget: Fraction of each node's variance that is white.
    """

    eof_weight: float = 0.5
    range_km: float = 2250.0
    nugget: float = 1e-3


def empirical_orthogonal_functions(domain: Domain, fields: Tensor, rank: int) -> Tensor:
    """Return area-weighted EOFs scaled by their standard deviation, (channel, node, rank).

    `fields` (time, channel, node) are anomalies; the mean is not removed. The time-by-time
    Gram matrix is diagonalized, since there are fewer times than nodes.
    """
    times, channels, _ = fields.shape
    root = (domain.areas / domain.areas.sum()).sqrt().repeat(channels)
    weighted = fields.double().reshape(times, -1) * root
    values, vectors = torch.linalg.eigh(weighted @ weighted.T / times)
    kept = min(rank, times - 1)
    values, vectors = values.flip(0)[:kept], vectors.flip(1)[:, :kept]
    loadings = (weighted.T @ vectors) / np.sqrt(times) / root[:, None]
    loadings = loadings[:, values > values[0] * 1e-10]
    return loadings.reshape(channels, domain.num_nodes, -1)


def _assemble(
    matern: MaternField, loadings: Tensor, variance: Tensor, scales: HybridScales, unit: Tensor
) -> GaussianPrior:
    """Build the prior whose marginal variance is `variance` (channel, node).

    `unit` is the variance of the Matern field, which the local scale divides out.
    """
    # Rounded as they are saved, so that a saved prior is the same prior.
    kept = (loadings * np.sqrt(scales.eof_weight)).half().double()
    left = variance - (kept**2).sum(-1) - scales.nugget * variance
    local = torch.maximum(left, _LEAST_LOCAL * variance).sqrt() / unit.sqrt()
    nugget = (scales.nugget * variance).sqrt()
    return GaussianPrior(matern, kept, local.float(), nugget.float())


def _variance(fields: Tensor) -> Tensor:
    """Return the mean square (channel, node) over time, kept away from zero."""
    square = (fields.double() ** 2).mean(0)
    return torch.maximum(square, 1e-6 * square.mean())


def fit_gaussian(
    matern: MaternField, fields: Tensor, scales: HybridScales, *, rank: int = 200
) -> GaussianPrior:
    """Fit a `GaussianPrior` with given scales to anomalies (time, channel, node).

    `matern` is passed, not made, since it is the same for every fold of the history.

    Raises:
        InputError: If there are fewer than three fields or any value is not finite.
    """
    if fields.ndim != 3 or len(fields) < 3 or not bool(torch.isfinite(fields).all()):
        raise InputError(
            f"a Gaussian prior needs at least three complete fields (time, channel, node), "
            f"got shape {tuple(fields.shape)} with "
            f"{int((~torch.isfinite(fields)).sum())} non-finite values."
        )
    loadings = empirical_orthogonal_functions(matern.domain, fields, rank)
    unit = torch.from_numpy(matern.variance)
    return _assemble(matern, loadings, _variance(fields), scales, unit)


@dataclass(frozen=True)
class _Split:
    """EOFs of most of the history, and measurements of the rest."""

    loadings: Tensor
    variance: Tensor
    measurements: list[Measurement]


def _split(
    domain: Domain, fields: Tensor, held: Tensor, rank: int, generator: torch.Generator
) -> _Split:
    """Split off the `held` (time,) records, of which a few are measured at each density."""
    train, rest = fields[~held], fields[held]
    rest = rest[torch.linspace(0, len(rest) - 1, min(_FIELDS, len(rest))).long()]
    measurements = []
    for density in _DENSITIES:
        mask = Mask.at_density(domain, density, generator).expand_as(rest)
        noise = torch.randn(rest.shape, generator=generator, dtype=torch.float64)
        values = rest.double() + _NOISE * noise
        measurements.append(Measurement(values, mask, torch.full_like(values, _NOISE)))
    loadings = empirical_orthogonal_functions(domain, train, rank)
    return _Split(loadings, _variance(train), measurements)


def select_scales(
    domain: Domain,
    fields: Tensor,
    *,
    folds: int = 4,
    rank: int = 200,
    max_evaluations: int = 30,
    seed: int = 0,
    progress: bool = True,
) -> HybridScales:
    """Choose the scales under which held-out fields' sparse measurements are most likely.

    Each of `folds` contiguous blocks of the history is held out in turn. The score is
    log p(y) a measurement, averaged over densities of 1, 5 and 30 % and over the blocks, and is
    maximized by Nelder-Mead over (logit eof_weight, log range_km, log nugget).
    """
    generator = torch.Generator().manual_seed(seed)
    fold = contiguous_folds(len(fields), folds)
    splits = [_split(domain, fields, fold == f, rank, generator) for f in range(folds)]
    unit = torch.ones(domain.num_nodes, dtype=torch.float64)

    def decode(point: np.ndarray) -> HybridScales:
        weight = 1.0 / (1.0 + np.exp(-point[0]))
        return HybridScales(float(weight), float(np.exp(point[1])), float(np.exp(point[2])))

    def score(split: _Split, matern: MaternField, scales: HybridScales) -> float:
        prior = _assemble(matern, split.loadings, split.variance, scales, unit)
        return float(
            np.mean(
                [
                    float(prior.posterior(m).log_evidence().mean()) / max(int(m.mask[0].sum()), 1)
                    for m in split.measurements
                ]
            )
        )

    start = HybridScales()
    first = np.array(
        [
            np.log(start.eof_weight / (1 - start.eof_weight)),
            np.log(start.range_km),
            np.log(start.nugget),
        ]
    )
    with (
        tqdm(total=max_evaluations, desc="prior scales", disable=not progress) as bar,
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
    ):

        def loss(point: np.ndarray) -> float:
            scales = decode(point)
            matern = MaternField(domain, scales.range_km)
            bar.update()
            return -float(np.mean(list(pool.map(lambda s: score(s, matern, scales), splits))))

        options = {
            "initial_simplex": first + np.vstack([np.zeros(3), np.diag([0.8, 0.3, 1.5])]),
            "maxfev": max_evaluations,
            "xatol": 0.05,
            "fatol": 1e-4,
        }
        return decode(minimize(loss, first, method="Nelder-Mead", options=options).x)


def contiguous_folds(times: int, folds: int) -> Tensor:
    """Return the fold (time,) of each record, in `folds` contiguous blocks of equal length."""
    return torch.arange(times) * folds // times
