"""Complete a history with gaps: members of the posterior of each record, given what it has."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.eofs import EOFs
from apsgeo.gaussian.fit import contiguous_folds, fit_gaussian
from apsgeo.gaussian.gappy.patterns import GappyFields, Patterns, fit_patterns
from apsgeo.gaussian.left_out.refined import refined
from apsgeo.gaussian.scales import LocalisedScales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Measurement, Normals
from apsgeo.measurement.shrunk import shrunk_normals
from apsgeo.progress import Bar

__all__ = ["Completion", "Gappy", "complete_history", "complete_records"]

_RANKS = (8, 16, 32)  # patterns, of which the held-out cells choose
_ITERATIONS = 12
_HIDDEN = 0.1  # share of what was observed that chooses the number of patterns
_SAMPLED = 2000  # values, of which that is chosen
_TRIED = 8  # records that choose the local field to begin with
_SHORTER = (1.0, 0.5, 0.25)  # factors of its range
_NUGGET = 0.02  # share of the variance that is white in it, where it is rough
_FILLED = 0.25  # weight of what was filled in, when that of an observation is one
_MONTHS = 12
_OFF = 0.3  # standard deviation by which the first normals may be off, in that of a value
# Noise of observations without any, in standard deviations of a value: covariances are computed in
# single precision, and the more exactly the rougher the local field is.
_EXACT, _EXACT_IF_ROUGH = 0.02, 0.05
_AT_ONCE = 4  # records


@dataclass(frozen=True)
class Gappy:
    """A history in the units of the data, of which some is observed.

    Attributes:
        values: Fields (time, channel, node), float64, NaN where not observed.
        noise_std: Standard deviation of the observations' error, which broadcasts to the values;
            zero for none.
        season: Index (time,) of each record's season.
        seasons: Number of seasons.
        baseline: Mask (time,), true for the records that define the mean; None for all.
        least_std: Least standard deviation of a node, in root mean squares of all.
        instant: Time (time,) of each record, which normals with a trend want.
    """

    values: Tensor
    noise_std: Tensor
    season: Tensor
    seasons: int
    baseline: Tensor | None = None
    least_std: float = 1e-3
    instant: Tensor | None = None

    def __len__(self) -> int:
        return len(self.values)

    def measured(
        self, normals: Normals, exact: float = _EXACT, prior: VecchiaPrior | None = None
    ) -> Measurement:
        """Return the history as measurements of standardized anomalies, with the noise `exact`.

        With a prior, they are `refined` by its covariance.
        """
        mask = ~self.values.isnan() & normals.valid
        least = exact * normals.std.double()[self.season]
        noise = torch.maximum(self.noise_std.expand_as(self.values), least)
        given = Measurement(self.values, mask, noise, season=self.season, instant=self.instant)
        return refined(normals, given, normals.measure(given), prior).float()

    def filled(self, fields: Tensor, normals: Normals) -> Tensor:
        """Return fields of standardized anomalies in the units of the data.

        Observations without error stay as they are, and land stays NaN.
        """
        restored = normals.restore(fields.double(), self.season, self.instant)
        exact = ~self.values.isnan() & (self.noise_std == 0.0).expand_as(self.values)
        return torch.where(exact & normals.valid, self.values, restored)


@dataclass(frozen=True)
class Completion:
    """A history whose gaps are filled.

    Attributes:
        fields: One member of the posterior of each record (time, channel, node), in the units of
            the data, NaN on land.
        normals: The normals of the history.
        patterns: The leading patterns that it began with.
    """

    fields: Tensor
    normals: Normals
    patterns: Patterns


def complete_history(
    domain: Domain,
    history: Gappy,
    scales: LocalisedScales,
    *,
    rank: int = 400,
    folds: int = 8,
    rounds: int = 3,
    seed: int = 0,
    progress: bool = True,
) -> Completion:
    """Fill the gaps of a history with members of the posterior given what it has.

    First, patterns with a variance of their own for each value are fitted by expectation and
    maximization (`fit_patterns`); their number is chosen by held-out cells. A localised prior of
    these patterns, whose local field has the variance that they leave and the range that predicts
    held-out cells best, draws each record given its observations, by its local posterior
    (`VecchiaPrior`). Then normals and a localised prior are fitted to the filled history, and each
    record is drawn anew by a prior that was fitted to the other folds: data augmentation (Tanner &
    Wong 1987, https://doi.org/10.1080/01621459.1987.10478458). What was filled in counts for a
    quarter of what was observed, so that covariances of near cells, which are mostly seen together,
    do not wait for the slow approach of plain augmentation.

    The normals' mean is that of the posterior means. What is filled in has the spread that it
    should have, so that covariances learned from it are not too small, as those of means would be.

    Args:
        domain: Domain of the fields.
        history: The history.
        scales: Scales of the localised prior.
        rank: Number of EOFs.
        folds: Contiguous blocks of the history, at most so many that each has three records.
        rounds: Number of times that each record is drawn.
        seed: Seed of the draws.
        progress: Whether to show a bar.

    Raises:
        InputError: If no cell is seen twice, or there are fewer than six records.
    """
    folds = min(folds, len(history) // 3)
    if folds < 2:
        raise InputError(
            f"the history has {len(history)} records with gaps to learn from; give at least six."
        )
    generator = torch.Generator().manual_seed(seed)
    normals = shrunk_normals(
        domain,
        history.values,
        history.season,
        history.seasons,
        history.baseline,
        least_std=history.least_std,
    )
    data = _standardized(history, normals)
    patterns = _chosen(data, history, normals, generator)
    normals = replace(normals, mean=normals.mean + normals.std * _OFF * _fixed(patterns, normals))
    eofs = _eofs(patterns, data, history, generator)
    variance = patterns.total.reshape(normals.mean.shape[1:]).float().double()
    measured = history.measured(normals, _EXACT_IF_ROUGH)
    local = _start(domain, scales, eofs, variance, measured, generator)
    field = scales.field(domain)
    weight = torch.where(history.values.isnan(), _FILLED**0.5, 1.0).float()
    fold = contiguous_folds(len(history), folds)
    with Bar(total=rounds * len(history), name="filling the history", enabled=progress) as bar:
        mean, drawn = _members(local, measured, seed, bar)
        for number in range(1, rounds + 1):
            fields = history.filled(drawn, normals)
            normals = _recentred(history, fields, history.filled(mean, normals), normals.valid)
            if number == rounds:
                break
            anomalies, measured = normals.encode(fields, history.season), history.measured(normals)
            anomalies = anomalies * (weight / weight.square().mean(0).sqrt())
            for f in range(folds):
                learned = fold != f
                prior = fit_gaussian(
                    field,
                    anomalies[learned],
                    scales,
                    rank=rank,
                    season=history.season[learned],
                    seasons=history.seasons,
                )
                at = (fold == f).nonzero()[:, 0]
                mean[at], drawn[at] = _members(local.of(prior), measured[at], seed + number, bar)
    return Completion(fields, normals, patterns)


def complete_records(
    prior: VecchiaPrior, history: Gappy, normals: Normals, *, seed: int = 0, progress: bool = True
) -> Tensor:
    """Fill the gaps of records by a prior that they were not fitted to, (time, channel, node)."""
    with Bar(total=len(history), name="filling records", enabled=progress) as bar:
        _, drawn = _members(prior, history.measured(normals, prior=prior), seed, bar)
    return history.filled(drawn, normals)


def _start(
    domain: Domain,
    scales: LocalisedScales,
    eofs: EOFs,
    variance: Tensor,
    measured: Measurement,
    generator: torch.Generator,
) -> VecchiaPrior:
    """Return the local posterior of a few patterns and a local field.

    The field has to stand for what many more patterns would, and is rougher than what these leave.
    Its range and nugget are those that predict best, by likelihood, what is observed in some
    records and lacking in others.
    """
    order = torch.randperm(len(measured), generator=generator)
    tried, others = order[:_TRIED], order[-_TRIED:]
    whole = measured[tried]
    held = whole.mask & ~measured.mask[others]
    part = replace(whole, mask=whole.mask & ~held)
    best, least, local = None, math.inf, None
    rough = max(scales.nugget, _NUGGET)
    for shorter, nugget in ((1.0, scales.nugget), *((factor, rough) for factor in _SHORTER)):
        trial = replace(scales, range_km=shorter * scales.range_km, nugget=nugget)
        prior = SeasonalPrior(trial, trial.field(domain, draft=True), eofs, variance)
        local = VecchiaPrior(prior) if local is None else local.of(prior)
        draws = local.posterior(part)
        var = draws.std() ** 2 + whole.noise_std**2
        loss = (whole.values - draws.mean) ** 2 / var + var.log()
        score = float(torch.where(held, loss, 0.0).sum())
        if best is None or score < least:
            best, least = local, score
    assert best is not None
    return best


def _fixed(patterns: Patterns, normals: Normals) -> Tensor:
    """Return the coefficients of the seasons (season, channel, node)."""
    return patterns.loadings[:, : patterns.count].T.reshape(normals.mean.shape).float()


def _eofs(
    patterns: Patterns, data: GappyFields, history: Gappy, generator: torch.Generator
) -> EOFs:
    """Return the patterns as EOFs, whose components are draws of the amplitudes."""
    return EOFs(
        patterns.loadings[:, patterns.count :].reshape(*history.values.shape[1:], -1),
        patterns.draw_amplitudes(data, generator),
        history.season,
        history.seasons,
    ).rounded()


def _members(
    prior: VecchiaPrior, measured: Measurement, seed: int, bar: Bar
) -> tuple[Tensor, Tensor]:
    """Return the posterior mean of each record, and one member (record, channel, node)."""
    mean, drawn = torch.empty(measured.shape), torch.empty(measured.shape)
    assert measured.season is not None
    for season in measured.season.unique():  # the prior of a season is at hand for its records
        for part in (measured.season == season).nonzero()[:, 0].split(_AT_ONCE):
            draws = prior.posterior(measured[part])
            mean[part], drawn[part] = draws.mean, draws.members(1, seed)[0]
            bar.update(len(part))
    return mean, drawn


def _recentred(history: Gappy, drawn: Tensor, mean: Tensor, valid: Tensor) -> Normals:
    """Return normals whose mean is that of posterior means, and whose spread is that of draws.

    In the spread, what was filled in weighs less than what was observed, but where seasons are
    shorter than a month, and are smoothed otherwise.
    """
    if history.seasons not in (1, _MONTHS):
        of_draws, of_means = (
            Normals.fit(
                torch.where(valid, each, torch.nan),
                history.season,
                history.seasons,
                history.baseline,
                least_std=history.least_std,
            )
            for each in (drawn, mean)
        )
        return replace(of_draws, mean=of_means.mean)
    onehot = torch.nn.functional.one_hot(history.season, history.seasons).double()

    def average(values: Tensor, weight: Tensor) -> Tensor:
        """Return the weighted means (season, channel, node)."""
        total = onehot.T @ (weight * torch.where(valid, values, 0.0)).flatten(1)
        return (total / (onehot.T @ weight.flatten(1))).reshape(-1, *values.shape[1:])

    within = torch.ones_like(mean)
    if history.baseline is not None:
        within = within * history.baseline.double()[:, None, None]
    centre = average(mean, within)
    weight = torch.where(history.values.isnan(), _FILLED, 1.0).double()
    var = average((drawn - centre[history.season]) ** 2, weight)
    if history.seasons > 2:
        var = (var.roll(1, 0) + 2 * var + var.roll(-1, 0)) / 4
    floor = history.least_std * float(var[..., valid].mean().sqrt())
    std = torch.where(valid, var.sqrt().clamp(min=floor), 1.0)
    return Normals(torch.where(valid, centre, 0.0).float(), std.float(), valid)


def _standardized(history: Gappy, normals: Normals) -> GappyFields:
    """Return the anomalies as data of the patterns; each season's mean may be off a little."""
    anomalies = normals.standardize(history.values, history.season)
    anomalies = torch.where(normals.valid, anomalies, torch.nan)
    noise = history.noise_std / normals.std.double()[history.season]
    onehot = torch.nn.functional.one_hot(history.season, history.seasons)
    return GappyFields.of(anomalies, noise, _OFF * onehot)


def _chosen(
    data: GappyFields, history: Gappy, normals: Normals, generator: torch.Generator
) -> Patterns:
    """Fit patterns of the number that predicts held-out cells best."""
    some = torch.randperm(data.mask.shape[1], generator=generator)[:_SAMPLED]
    noise = data.noise_var.expand_as(data.values)[:, some]
    whole = GappyFields(data.values[:, some], data.mask[:, some], noise, data.regressors)
    held = whole.mask & (torch.rand(whole.mask.shape, generator=generator) < _HIDDEN)
    learned = replace(whole, mask=whole.mask & ~held)
    ranks = sorted({min(rank, len(history) - 1) for rank in _RANKS})
    best, least = ranks[0], float("inf")
    for rank in ranks:
        found = fit_patterns(learned, rank, iterations=_ITERATIONS)
        mean, variance = found.predict(learned)
        variance = variance + whole.noise_var
        loss = torch.where(held, (whole.values - mean) ** 2 / variance + variance.log(), 0.0).sum()
        if float(loss) < least:
            best, least = rank, float(loss)
    return fit_patterns(data, best, iterations=_ITERATIONS)
