"""Fit the hybrid covariance: EOFs from history, scales by held-out likelihood."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit, logit
from torch import Tensor
from tqdm import tqdm

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators import Mask, Measurement
from apsgeo.priors.gaussian import GaussianPrior
from apsgeo.priors.hybrid import HybridPrior
from apsgeo.priors.localised import LocalisedPrior
from apsgeo.priors.matern import MaternField

__all__ = [
    "HybridScales",
    "LocalisedScales",
    "Scales",
    "contiguous_folds",
    "empirical_orthogonal_functions",
    "fit_gaussian",
    "select_scales",
]

S = TypeVar("S", bound="Scales")
Array = NDArray[np.float64]

_LEAST_LOCAL = 1e-3  # the least fraction of a node's variance left to the local field
_DENSITIES = (0.01, 0.05, 0.3)
_FIELDS = 12  # held-out fields a block
_NOISE = 0.1  # of a standard deviation, for the held-out likelihood


class Scales(Protocol):
    """The free numbers of a covariance, as a point in an unbounded space.

    `build` makes the prior of anomalies whose marginal variance is `variance` (channel, node),
    from EOFs (channel, node, rank); `field` is what it needs besides, the same for every fold.
    """

    steps: ClassVar[tuple[float, ...]]

    def encode(self) -> Array:
        """Return the point."""
        ...

    @classmethod
    def decode(cls, point: Array) -> Self:
        """Undo `encode`."""
        ...

    def field(self, domain: Domain, *, draft: bool = False) -> Any:
        """Return the local field; a draft takes its variance for one, which is quicker."""
        ...

    def build(self, field: Any, loadings: Tensor, variance: Tensor) -> GaussianPrior:
        """Return the prior."""
        ...


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
    nugget: float = 5e-4
    steps: ClassVar[tuple[float, ...]] = (0.8, 0.3, 1.5)

    def encode(self) -> Array:
        """Return (logit eof_weight, log range_km, log nugget)."""
        return np.array([logit(self.eof_weight), np.log(self.range_km), np.log(self.nugget)])

    @classmethod
    def decode(cls, point: Array) -> HybridScales:
        """Undo `encode`."""
        return cls(float(expit(point[0])), *np.exp(point[1:]).tolist())

    def field(self, domain: Domain, *, draft: bool = False) -> MaternField:
        """Return the Matern field of the residual."""
        return MaternField(domain, self.range_km, np.ones(domain.num_nodes) if draft else None)

    def build(self, field: MaternField, loadings: Tensor, variance: Tensor) -> HybridPrior:
        """Return the prior; its loadings are rounded as they are saved."""
        kept = (loadings * np.sqrt(self.eof_weight)).half().double()
        local = _left(variance, kept, 1.0, self.nugget) / torch.from_numpy(field.variance).sqrt()
        nugget = (self.nugget * variance).sqrt()
        return HybridPrior(field, kept, local.float(), nugget.float())


@dataclass(frozen=True)
class LocalisedScales:
    """The free numbers of the localised covariance.

    Attributes:
        eof_weight: Share of the EOF covariance that is kept, in (0, 1).
        tapered_share: Share of that which acts within the taper only, in (0, 1).
        taper_km: Half the distance at which the taper reaches zero.
        range_km: Range of the Matern residual.
        nugget: Fraction of each node's variance that is white.
    """

    eof_weight: float = 0.9
    tapered_share: float = 0.6
    taper_km: float = 4000.0
    range_km: float = 1700.0
    nugget: float = 5e-4
    steps: ClassVar[tuple[float, ...]] = (-0.6, 0.8, 0.3, 0.3, 1.0)

    def encode(self) -> Array:
        """Return the logits of the shares and the logs of the others."""
        shares = [logit(self.eof_weight), logit(self.tapered_share)]
        return np.array([*shares, *np.log([self.taper_km, self.range_km, self.nugget])])

    @classmethod
    def decode(cls, point: Array) -> LocalisedScales:
        """Undo `encode`."""
        return cls(*expit(point[:2]).tolist(), *np.exp(point[2:]).tolist())

    def field(self, domain: Domain, *, draft: bool = False) -> Domain:
        """Return the domain: the covariance is computed from its positions."""
        return domain

    def build(self, field: Domain, loadings: Tensor, variance: Tensor) -> LocalisedPrior:
        """Return the prior; its loadings are rounded as they are saved."""
        kept = loadings.half().double()
        nugget = (self.nugget * variance).sqrt()
        return LocalisedPrior(
            field,
            kept,
            _left(variance, kept, self.eof_weight, self.nugget).float(),
            nugget.float(),
            global_weight=self.eof_weight * (1.0 - self.tapered_share),
            tapered_weight=self.eof_weight * self.tapered_share,
            taper_km=self.taper_km,
            range_km=self.range_km,
        )


def _left(variance: Tensor, loadings: Tensor, weight: float, nugget: float) -> Tensor:
    """Return the standard deviation (channel, node) that EOFs and nugget leave to a local field."""
    left = (1.0 - nugget) * variance - weight * (loadings**2).sum(-1)
    return torch.maximum(left, _LEAST_LOCAL * variance).sqrt()


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


def _variance(fields: Tensor) -> Tensor:
    """Return the mean square (channel, node) over time, kept away from zero."""
    square = (fields.double() ** 2).mean(0)
    return torch.maximum(square, 1e-6 * square.mean())


def fit_gaussian(field: Any, fields: Tensor, scales: Scales, *, rank: int = 200) -> Any:
    """Fit a Gaussian prior with given scales to anomalies (time, channel, node).

    Args:
        field: `scales.field(domain)`; passed, not made, since it is the same for every fold.
        fields: The anomalies.
        scales: `HybridScales` or `LocalisedScales`.
        rank: Number of EOFs.

    Raises:
        InputError: If there are fewer than three fields or any value is not finite.
    """
    if fields.ndim != 3 or len(fields) < 3 or not bool(torch.isfinite(fields).all()):
        raise InputError(
            f"a Gaussian prior needs at least three complete fields (time, channel, node), "
            f"got shape {tuple(fields.shape)} with "
            f"{int((~torch.isfinite(fields)).sum())} non-finite values."
        )
    domain = field if isinstance(field, Domain) else field.domain
    loadings = empirical_orthogonal_functions(domain, fields, rank)
    return scales.build(field, loadings, _variance(fields))


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
    start: S,
    *,
    folds: int = 4,
    rank: int = 200,
    max_evaluations: int = 20,
    seed: int = 0,
    progress: bool = True,
) -> S:
    """Choose the scales under which held-out fields' sparse measurements are most likely.

    Every second of `folds` contiguous blocks of the history is held out in turn. The score is
    log p(y) a measurement, averaged over densities of 1, 5 and 30 % and over the blocks, and is
    maximized by Nelder-Mead over the scales' unbounded coordinates, from `start`.
    """
    generator = torch.Generator().manual_seed(seed)
    fold = contiguous_folds(len(fields), folds)
    splits = [_split(domain, fields, fold == f, rank, generator) for f in range(0, folds, 2)]

    def score(split: _Split, field: Any, scales: Scales) -> float:
        prior = scales.build(field, split.loadings, split.variance)
        each = [
            float(prior.posterior(m).log_evidence().mean()) / max(int(m.mask[0].sum()), 1)
            for m in split.measurements
        ]
        return float(np.mean(each))

    with (
        tqdm(total=max_evaluations, desc=f"{type(start).__name__}", disable=not progress) as bar,
        ThreadPoolExecutor(torch.get_num_threads()) as pool,
    ):

        def loss(point: Array) -> float:
            scales = start.decode(point)
            field = scales.field(domain, draft=True)
            bar.update()
            scores = pool.map(lambda split: score(split, field, scales), splits)
            return -float(np.mean(list(scores)))

        first = start.encode()
        options = {
            "initial_simplex": first + np.vstack([np.zeros_like(first), np.diag(start.steps)]),
            "maxfev": max_evaluations,
            "xatol": 0.05,
            "fatol": 1e-4,
        }
        return start.decode(minimize(loss, first, method="Nelder-Mead", options=options).x)


def contiguous_folds(times: int, folds: int) -> Tensor:
    """Return the fold (time,) of each record, in `folds` contiguous blocks of equal length."""
    return torch.arange(times) * folds // times
