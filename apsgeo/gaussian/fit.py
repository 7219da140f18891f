"""Fit Gaussian priors: EOFs from history, scales by the score of held-out predictions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize
from torch import Tensor

from apsgeo.device import workers
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.eofs import EOFs, empirical_orthogonal_functions
from apsgeo.gaussian.scales import Scales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.measurement import Measurement
from apsgeo.metrics.scores import crps_normal
from apsgeo.operators import Mask
from apsgeo.operators.base import HELD_OUT_DENSITIES
from apsgeo.progress import Bar

__all__ = ["add_drift", "contiguous_folds", "fit_gaussian", "select_scales"]

S = TypeVar("S", bound=Scales)
Array = NDArray[np.float64]

_DRAWS = 2  # seasons and masks at each density, where one set of records is held out
_GAPPY = 4  # records of a season that are held out where each has gaps of its own
_PAIRED = 1000  # values whose covariances tell the variance of a trend's pattern
_NOISE = 0.1  # noise of the simulated measurements, in standard deviations of a node


def _variance(fields: Tensor) -> Tensor:
    """Return the mean square (channel, node) over time, kept away from zero."""
    square = (fields.double() ** 2).mean(0)
    return torch.maximum(square, 1e-6 * square.mean()).float().double()


def fit_gaussian(
    field: Any,
    fields: Tensor,
    scales: Scales,
    *,
    rank: int = 400,
    season: Tensor | None = None,
    seasons: int = 1,
) -> SeasonalPrior:
    """Fit a Gaussian prior with given scales to anomalies (time, channel, node).

    Args:
        field: Local field `scales.field(domain, fields)`, which folds may share.
        fields: The anomalies.
        scales: `HybridScales` or `LocalisedScales`.
        rank: Number of EOFs.
        season: Index (time,) of each record's season.
        seasons: Number of seasons.

    Raises:
        InputError: If there are fewer than three fields or any value is not finite.
    """
    if fields.ndim != 3 or len(fields) < 3 or not bool(torch.isfinite(fields).all()):
        raise InputError(
            f"a Gaussian prior needs at least three complete fields (time, channel, node), "
            f"got shape {tuple(fields.shape)} with "
            f"{int((~torch.isfinite(fields)).sum())} non-finite values."
        )
    eofs = empirical_orthogonal_functions(field.domain, fields, rank, season, seasons)
    return SeasonalPrior(scales, field, eofs.rounded(), _variance(fields))


def add_drift(prior: SeasonalPrior, fields: Tensor, pattern: Tensor, seed: int = 0) -> None:
    """Let the amplitude of a trend's pattern vary as it does in the fields of a prior.

    The taper of a localised covariance, say, takes from the variance of the widest patterns. What
    the prior lacks is added, for the one pattern that far observations tell of.

    Args:
        prior: The prior, to which the pattern is added in place.
        fields: Anomalies (time, channel, node) about the trend.
        pattern: Pattern (channel, node) of the trend.
        seed: Seed of the nodes by whose covariances the prior's variance is estimated.
    """
    flat = pattern.double().flatten()
    weight = prior.domain.areas.double().repeat(len(pattern)) * flat
    power = float(weight @ flat)
    prior.drift = pattern
    if power == 0.0:
        return
    weight = weight / power  # the weighted sum of the pattern is one: an amplitude
    own = float((fields.double().flatten(1) @ weight).square().mean())
    # The quadratic form of the covariance, over pairs of values drawn by the size of their weight.
    generator = torch.Generator().manual_seed(seed)
    picked = torch.multinomial(weight.abs(), _PAIRED, replacement=True, generator=generator)
    sign = weight[picked].sign().numpy()
    block = prior.annual.covariance(picked.numpy(), picked.numpy()) * sign[:, None] * sign
    pairs = (block.sum() - np.trace(block)) / (_PAIRED * (_PAIRED - 1))
    known = pairs * float(weight.abs().sum()) ** 2
    prior.spread = max(own - known, 0.0) ** 0.5


@dataclass(frozen=True)
class _Trial:
    """Held-out fields of one season, measured at one density, and the EOFs of all other fields."""

    eofs: EOFs
    variance: Tensor
    split: int
    season: int
    measurement: Measurement
    nodes: np.ndarray
    truth: Array
    known: Array

    def score(self, scales: Scales, field: Any) -> float:
        """Return the mean CRPS of the predictions."""
        prior = SeasonalPrior(scales, field, self.eofs, self.variance).at(self.season)
        mean, var = prior.posterior(self.measurement).marginals_at(self.nodes)
        std = np.sqrt(np.maximum(var, 1e-12))
        return float(np.average(crps_normal(mean, std, self.truth), weights=self.known))


def _trials(
    domain: Domain,
    fields: Tensor,
    season: Tensor,
    seasons: int,
    splits: list[Tensor],
    draws: int,
    rank: int,
    targets: int,
    generator: torch.Generator,
    observed: Tensor | None,
) -> list[_Trial]:
    """Hold records (time,) out for each split in turn; score `draws` seasons at each density."""
    densities = HELD_OUT_DENSITIES * draws
    share = (domain.areas / domain.areas.sum()).repeat(fields.shape[1])
    trials: list[_Trial] = []
    place = 0
    for split, held in enumerate(splits):
        train, when = fields[~held], season[~held]
        eofs = empirical_orthogonal_functions(domain, train, rank, when, seasons).rounded()
        variance = _variance(train)
        for density in densities:
            chosen = place * seasons // (len(splits) * len(densities))
            place += 1
            which = (held & (season == chosen)).nonzero()[:, 0]
            if observed is not None:  # each record has a mask, hence a factorization, of its own
                which = which[:_GAPPY]
            truth = fields[which].double()
            seen = torch.ones_like(truth, dtype=torch.bool) if observed is None else observed[which]
            mask = Mask.at_density(domain, density, generator).expand_as(truth)
            noise = torch.randn(truth.shape, generator=generator, dtype=torch.float64)
            values, noise_std = truth + _NOISE * noise, torch.full_like(truth, _NOISE)
            measurement = Measurement(values, mask & seen, noise_std)
            hidden = share * ~mask[0].flatten()
            count = min(targets, int((hidden > 0).sum()))
            nodes = torch.multinomial(hidden, count, generator=generator).numpy()
            at_nodes = truth.flatten(1).numpy()[:, nodes]
            known = seen.flatten(1).double().numpy()[:, nodes]
            if known.any():
                trials.append(
                    _Trial(eofs, variance, split, chosen, measurement, nodes, at_nodes, known)
                )
    return trials


def select_scales(
    domain: Domain,
    fields: Tensor,
    start: S,
    *,
    season: Tensor | None = None,
    seasons: int = 1,
    folds: int = 4,
    held_out: Tensor | None = None,
    rank: int = 400,
    observed: Tensor | None = None,
    max_evaluations: int = 30,
    targets: int = 200,
    seed: int = 0,
    progress: bool = True,
) -> S:
    """Choose the scales whose posteriors predict held-out fields best.

    The records (time,) that are true in `held_out` are held out; by default every second of
    `folds` contiguous blocks of the history is, in turn. The score is the CRPS at `targets`
    unobserved nodes, relative to that of `start`, averaged over densities of 1, 5 and 30 % and
    two seasons at each. Nelder-Mead minimizes it over the scales' unbounded coordinates.
    (Held-out likelihood prefers overconfident covariances: the shortest waves give most of it.)

    Where gaps of the fields were filled, `observed` (time, channel, node) says which values were
    observed: only these are measured and scored.
    """
    generator = torch.Generator().manual_seed(seed)
    season = torch.zeros(len(fields), dtype=torch.long) if season is None else season
    fold = contiguous_folds(len(fields), folds)
    splits = [fold == f for f in range(0, folds, 2)] if held_out is None else [held_out]
    draws = 1 if held_out is None else _DRAWS
    trials = _trials(
        domain, fields, season, seasons, splits, draws, rank, targets, generator, observed
    )
    reference: list[float] = []
    with (
        Bar(total=max_evaluations, name=f"{start.kind} scales", enabled=progress) as bar,
        workers() as pool,
    ):

        def loss(point: Array) -> float:
            scales = start.decode(point)
            local = [scales.field(domain, fields[~held], draft=True) for held in splits]
            scores = list(pool.map(lambda trial: trial.score(scales, local[trial.split]), trials))
            bar.update()
            if not reference:
                reference.extend(scores)
            return float(np.mean(np.divide(scores, reference)))

        return start.decode(least_point(loss, start, max_evaluations=max_evaluations))


def least_point(
    loss: Callable[[Array], float], start: Scales, *, max_evaluations: int, tolerance: float = 0.05
) -> Array:
    """Minimize a loss of the scales' unbounded coordinates by Nelder-Mead, from `start` on.

    Args:
        loss: Function of a point; see `Scales.encode`.
        start: Scales to start from; their `steps` are the sides of the first simplex.
        max_evaluations: Most evaluations of the loss.
        tolerance: Tolerance of the coordinates.
    """
    first = start.encode()
    options = {
        "initial_simplex": first + np.vstack([np.zeros_like(first), np.diag(start.steps)]),
        "maxfev": max_evaluations,
        "xatol": tolerance,
        "fatol": 1e-4,
    }
    return minimize(loss, first, method="Nelder-Mead", options=options).x


def contiguous_folds(times: int, folds: int) -> Tensor:
    """Return the fold (time,) of each record, in `folds` contiguous blocks of equal length."""
    return torch.arange(times) * folds // times
