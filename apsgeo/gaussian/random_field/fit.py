"""Fit a random field to one gappy field or a few: by likelihood, then by moved gaps."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.gaussian.random_field.cases import Cases, gap_cases, ordered_cases
from apsgeo.gaussian.random_field.coordinates import bumps_of
from apsgeo.gaussian.random_field.terms import Terms
from apsgeo.progress import Bar

__all__ = ["FieldSpec", "conditional", "fit_terms", "log_likelihood"]

Array = NDArray[np.float64]
Bools = NDArray[np.bool_]

_JITTER = 3e-5  # share of the variance that is white, for single precision
_MORE = 3e-3  # where that does not do
_CHUNK = 500
_MANY = 1000  # observations that tell two terms apart, and what is far from others
_NORMAL_95 = 1.959964
_SPREADS = (0.7, 1.6)  # by which the spread may change at the end
_SCATTER = {  # standard deviations of the free numbers about their start, before data speak
    "log_std": 2.0,
    "log_range": 2.0,
    "log_smoothness": 0.7,
    "stretch": 0.7,
    "log_nugget": 3.0,
    "local_std": 0.7,
    "local_range": 0.5,
}


@dataclass(frozen=True)
class FieldSpec:
    """How a random field is fitted.

    Attributes:
        terms: Number of Matern terms; by default two where there are 1000 observations, else one.
        bumps: Number of bumps by which variance and range follow the place, a power of two; by
            default one for 2000 observations, at most 32.
        neighbours: Nearest observations that each is predicted from while fitting; by default 60
            where there are 1000 observations, else 30.
        cases: Most observations that are predicted.
        steps: Steps of the optimization by likelihood, and again by moved gaps.
        batch: Observations of a step.
        moves: Moves of the gaps over the observations; none leaves the likelihood alone.
    """

    terms: int | None = None
    bumps: int | None = None
    neighbours: int | None = None
    cases: int = 6000
    steps: int = 80
    batch: int = 400
    moves: int = 10

    def filled(self, observations: int) -> tuple[int, int, int]:
        """Return the numbers of terms, bumps and neighbours for so many observations."""
        many = observations >= _MANY
        terms = (2 if many else 1) if self.terms is None else self.terms
        bumps = 2 ** int(np.log2(max(1, min(32, observations // 2000))))
        neighbours = (60 if many else 30) if self.neighbours is None else self.neighbours
        return terms, bumps if self.bumps is None else self.bumps, neighbours


def conditional(
    terms: Terms, cases: Cases, place: Tensor, bumps: Tensor, trend: Tensor
) -> tuple[Tensor, Tensor]:
    """Return mean and variance (case,) of each case's value given its neighbours.

    Args:
        terms: The covariance.
        cases: The cases.
        place: Coordinates (node, d).
        bumps: Weights (node, bump).
        trend: Patterns (node, q) of the mean, each times the standard deviation of its amplitude.
    """
    log_std, log_range = terms.sizes(bumps)
    node = cases.node
    matrix = terms.blocks(place[node], log_std[node], log_range[node], node.shape[1])
    each = trend[node]
    matrix = matrix + each @ each.mT
    matrix = torch.where(cases.known[:, :, None] & cases.known[:, None], matrix, 0.0)
    variance = matrix.diagonal(dim1=1, dim2=2)
    white = torch.exp(2.0 * terms.log_nugget) + cases.noise_var + _JITTER * variance.detach()
    matrix = matrix + torch.diag_embed(torch.where(cases.known, white, 1.0))
    root = _root(matrix[:, 1:, 1:])
    both = torch.stack([matrix[:, 1:, 0], cases.value[:, 1:]], 2)
    solved = torch.linalg.solve_triangular(root, both, upper=False)
    mean = (solved[..., 0] * solved[..., 1]).sum(1)
    return mean, (matrix[:, 0, 0] - solved[..., 0].square().sum(1)).clamp(min=1e-9)


def _root(matrix: Tensor) -> Tensor:
    """Return lower factors, with more white variance where a matrix is not positive definite."""
    failed = torch.linalg.cholesky_ex(matrix.detach())[1] != 0
    if bool(failed.any()):
        more = _MORE * matrix.diagonal(dim1=1, dim2=2) * failed[:, None]
        matrix = matrix + torch.diag_embed(more)
    return torch.linalg.cholesky(matrix)


def log_likelihood(
    terms: Terms, cases: Cases, place: Tensor, bumps: Tensor, trend: Tensor
) -> float:
    """Return the sum of the cases' conditional log densities."""
    total = 0.0
    with torch.no_grad():
        for start in range(0, len(cases), _CHUNK):
            part = cases[slice(start, start + _CHUNK)]
            mean, var = conditional(terms, part, place, bumps, trend)
            total -= float((part.weight * _surprise(mean, var, part.value[:, 0])).double().sum())
    return total


def _surprise(mean: Tensor, var: Tensor, value: Tensor) -> Tensor:
    """Return minus the log density."""
    return 0.5 * (torch.log(2.0 * torch.pi * var) + (value - mean).square() / var)


def _crps(mean: Tensor, var: Tensor, value: Tensor) -> Tensor:
    """Return the continuous ranked probability score of normal predictions."""
    std = var.sqrt()
    z = (value - mean) / std
    density = torch.exp(-0.5 * z.square()) / (2.0 * torch.pi) ** 0.5
    return std * (z * torch.erf(z / 2.0**0.5) + 2.0 * density - torch.pi**-0.5)


def fit_terms(
    place: Array,
    values: Array,
    noise_var: Array,
    valid: Bools,
    trend: Tensor,
    spec: FieldSpec,
    *,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Terms, Tensor]:
    """Fit the terms to values of unit variance, and return them with their bumps (node, bump).

    First the likelihood of all observations is maximized, penalized by wide normal priors of the
    free numbers. Then, where there are gaps as large as to be moved, the score (CRPS) of hidden
    observations is minimized from there: far from observations it counts what the likelihood,
    most of which comes from the shortest distances, hardly sees. At last the covariance is scaled
    so that the intervals that should cover 95 % of observations that other moves hide do so.

    Args:
        place: Coordinates (node, d) in km.
        values: Values (record, node) of about unit variance, NaN where not observed.
        noise_var: Variance (record, node) of their noise.
        valid: Mask (node,), false where there is nothing to fill.
        trend: Patterns (node, q) of the mean, each times the standard deviation of its amplitude.
        spec: How to fit.
        seed: Seed of all random choices.
        progress: Whether to show a bar.
    """
    rng = np.random.default_rng(seed)
    seen = np.isfinite(values)
    anywhere = seen.any(0)
    count, bump_count, neighbours = spec.filled(int(seen.sum()))
    bumps = bumps_of(place, place[anywhere], bump_count)
    extent = float(np.ptp(place[valid], axis=0).max())
    spacing = extent / max(2.0, seen.sum(1).max() ** (1.0 / place.shape[1]))
    start = Terms.start(count, place.shape[1], bump_count, max(extent, 1e-9), spacing)
    where = torch.from_numpy(place).float()
    cases = ordered_cases(place, values, noise_var, spec.cases, neighbours, rng)
    moved = None
    if spec.moves and seen.sum() >= _MANY:
        moved = gap_cases(place, values, noise_var, valid, spec.cases, neighbours, spec.moves, rng)
    with Bar(total=spec.steps * (1 if moved is None else 2), enabled=progress) as bar:
        bar.set_description("fitting the random field")
        found = _descend(start, start, cases, where, bumps, trend, _surprise, spec, 0.1, bar)
        if moved is not None:
            bar.set_description("predicting moved gaps")
            found = _descend(start, found, moved, where, bumps, trend, _crps, spec, 0.06, bar)
            most = spec.cases // 2
            other = gap_cases(place, values, noise_var, valid, most, neighbours, spec.moves, rng)
            found = found if other is None else _calibrated(found, other, where, bumps, trend)
    return found, bumps


def _descend(
    centre: Terms,
    start: Terms,
    cases: Cases,
    place: Tensor,
    bumps: Tensor,
    trend: Tensor,
    loss: Callable[[Tensor, Tensor, Tensor], Tensor],
    spec: FieldSpec,
    rate: float,
    bar: Bar,
) -> Terms:
    """Minimize a mean loss of cases by Adam in random batches."""
    free = {name: each.clone().requires_grad_() for name, each in start.tensors().items()}
    optimizer = torch.optim.Adam(free.values(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, spec.steps, 0.02 * rate)
    generator = torch.Generator().manual_seed(0)
    weight = cases.weight / cases.weight.mean()
    for _ in range(spec.steps):
        chosen = torch.randperm(len(cases), generator=generator)[: spec.batch]
        batch, terms = cases[chosen], Terms(**free)
        mean, var = conditional(terms, batch, place, bumps, trend)
        total = (weight[chosen] * loss(mean, var, batch.value[:, 0])).mean()
        total = total + _penalty(terms, centre) / len(cases)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        schedule.step()
        bar.update()
    return Terms(**{name: each.detach() for name, each in free.items()})


def _calibrated(terms: Terms, cases: Cases, place: Tensor, bumps: Tensor, trend: Tensor) -> Terms:
    """Scale the covariance so that intervals of 95 % cover as many of the cases' values."""
    ratios = []
    with torch.no_grad():
        for start in range(0, len(cases), _CHUNK):
            part = cases[slice(start, start + _CHUNK)]
            mean, var = conditional(terms, part, place, bumps, trend)
            ratios.append((part.value[:, 0] - mean).abs() / var.sqrt())
    factor = (torch.cat(ratios).quantile(0.95) / _NORMAL_95).clamp(*_SPREADS)
    free = terms.tensors()
    shifted = {name: free[name] + factor.log() for name in ("log_std", "log_nugget")}
    return Terms(**(free | shifted))


def _penalty(terms: Terms, centre: Terms) -> Tensor:
    """Return minus the log density of the free numbers, up to a constant."""
    about = centre.tensors()
    away = [
        ((each - about[name]) / _SCATTER[name]).square().sum()
        for name, each in terms.tensors().items()
    ]
    return 0.5 * torch.stack(away).sum()
