"""Normals of values with bounds: quantiles that map rain, ice and the like to normal numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.measurement.measurement import Measurement
from apsgeo.measurement.normals import LeftOut, Normals
from apsgeo.measurement.quantile_map import (
    SCORES,
    QuantileMap,
    interpolate,
    rising,
    rooted,
)
from apsgeo.measurement.seasons import seasons_of

__all__ = ["Bounds", "QuantileNormals", "bounds_in"]

Bounds = tuple[float | None, float | None]

_MONTHS = 12
_FEW = 2000.0  # values of a node that count as much as the common shape
_KEPT = 0.1  # of the distance of a node's outermost quantile from the bound
_LEAST = 5.0  # values of which mean and size are known at all
_LEAST_KNOWN = 1e-3  # share of a group of nodes where something is known
_LEAST_VARIANCE = 1e-4  # of a normal number given the others
_TIED = 0.05  # share of the values at their least or greatest that makes it a bound
_NATURAL = 0.0, 1.0, 100.0  # bounds of amounts, fractions and per cents
_MOST = 0.5  # share of the nodes that vary, and have values there
_RAREST = 1e-3  # share at a bound by which a node's distance from it is told where none is there


def bounds_in(values: Tensor) -> Bounds:
    """Return the least and the greatest value where many are exactly there; None where not.

    Many are one in twenty values and, unless it is 0, 1 or 100, values of most nodes that vary. So
    rain and fractions have bounds, and the sea's temperature, which is that of freezing under the
    ice alone, has none.

    Args:
        values: Values (record, node) of one variable, NaN where there is none.
    """
    known = ~values.isnan()
    if not bool(known.any()):
        return None, None
    ends = values[known].min(), values[known].max()
    if ends[0] == ends[1]:
        return None, None
    least, most = (values.where(known, end) for end in ends)
    varies = least.amin(0) < most.amax(0)
    found: list[float | None] = []
    for end in ends:
        at = values == end
        usual = float(end) in _NATURAL or at.any(0)[varies].double().mean() > _MOST
        many = bool(usual) and bool(at[known].double().mean() >= _TIED)
        found.append(float(end) if many else None)
    return found[0], found[1]


@dataclass(frozen=True)
class QuantileNormals(Normals):
    """Normals that map each node's values, by their quantiles in each season, to normal numbers.

    Beyond the bounds there is nothing: a member is at a bound where its normal number is below the
    score of the share of values that are there (a latent threshold). Between the bounds values are
    mapped by linear interpolation between quantiles, shrunk towards those of all nodes where there
    are few. The mean and standard deviation of the data remain, for weights and features.

    An observation y of x with noise becomes one of the normal number z, which tells as much
    (`QuantileMap.sites`), so that "no rain here" is an observation as well. How much it tells
    beside the other observations, their covariance says (`refined`).

    Attributes:
        knots: Quantiles (season, channel, node, level) of the roots of values between the bounds;
            see `rooted`.
        shares: Shares (2, season, channel, node) of the values at the lower and the upper bound.
            A node of which none is there gets there only where its quantiles, continued, do.
        bounds: Bounds (2, channel) in the units of the data; infinite where there is none.
        around: Quantiles (2, channel, level) of how far the surroundings of values at a bound are
            from it; see `latent`.
    """

    knots: Tensor = field(kw_only=True)
    shares: Tensor = field(kw_only=True)
    bounds: Tensor = field(kw_only=True)
    around: Tensor = field(kw_only=True)
    linear: ClassVar[bool] = False
    shared_noise: ClassVar[bool] = False

    @classmethod
    def of(
        cls, normals: Normals, fields: Tensor, season: Tensor, bounds: list[Bounds], domain: Domain
    ) -> Self:
        """Fit the quantiles of a history.

        Args:
            normals: Mean and standard deviation of the same history.
            fields: Fields (time, channel, node), NaN where there is nothing.
            season: Index (time,) of each record's season.
            bounds: Bounds of each channel, None for none.
            domain: Domain of the fields.

        Raises:
            InputError: If values are outside the bounds.
        """
        ends = torch.tensor(
            [
                [-torch.inf if low is None else low for low, _ in bounds],
                [torch.inf if high is None else high for _, high in bounds],
            ]
        ).double()  # of single precision, as values at a bound are
        x = fields.double()
        low, high = ends[:, None, :, None]
        if bool(((x < low) | (x > high)).any()):
            raise InputError(
                f"bounds={bounds}, and the history has values from {float(x.nan_to_num().min()):g} "
                f"to {float(x.nan_to_num().max()):g}; give bounds that all values keep to."
            )
        knots, shares = [], []
        for s in range(normals.seasons):
            near = _near(season, s, normals.seasons)
            some = x[near]
            at = torch.stack([some <= low[0], some >= high[0]], 1).double().sum(0)
            count = (~some.isnan()).double().sum(0)
            shares.append(torch.where(at > 0, (at + 0.5) / (count + 1.0), 0.0))
            inner = torch.where((some > low[0]) & (some < high[0]), some, torch.nan)
            knots.append(
                _quantiles(rooted(inner, ends[:, None, :, None]), rooted(ends, ends[:, None]))
            )
        made = cls(
            normals.mean,
            normals.std,
            normals.valid,
            knots=torch.stack(knots).float(),
            shares=torch.stack(shares, 1).float(),
            bounds=ends.float(),
            around=torch.zeros(2, fields.shape[1], len(SCORES)),
        )
        return replace(made, around=made._surroundings(x, season, domain))

    def _surroundings(self, fields: Tensor, season: Tensor, domain: Domain) -> Tensor:
        """Return quantiles (2, channel, level) of `_distance` where values are at a bound."""
        z = self.standardize(fields, season)
        found = torch.zeros_like(self.around)
        for end in (0, 1):
            at = self._at_bound(fields, end) & self.valid
            if not bool(at.any()):
                continue
            away = self._distance(z, season, end, at, domain)
            for channel in range(fields.shape[1]):
                values = away[:, channel][at[:, channel]]
                if len(values):
                    some = values[:: max(1, len(values) // 100_000)]
                    levels = torch.special.ndtr(SCORES)
                    found[end, channel] = torch.quantile(some.double(), levels).float()
        return found

    def _at_bound(self, fields: Tensor, end: int) -> Tensor:
        """Tell which values (time, channel, node) are at the lower (0) or the upper bound (1)."""
        bound = self.bounds[end].double()[:, None]
        return (fields <= bound) if end == 0 else (fields >= bound)

    def _distance(self, z: Tensor, season: Tensor, end: int, at: Tensor, domain: Domain) -> Tensor:
        """Return how far from a bound the surroundings (time, channel, node) are, coarse to fine.

        The mean of what exceeds the threshold's score over ever larger groups of nodes, the larger
        the less weight.
        """
        sign = 1.0 if end == 0 else -1.0
        away = torch.where(at, 0.0, sign * (z - self._threshold(end)[season]))
        known = (~(away.isnan() & self.valid)).float()
        away = torch.where(self.valid, away, 0.0).nan_to_num().clamp(min=0.0).float()
        total, coarse = torch.zeros_like(away), away
        pools: list[tuple[nn.Module, nn.Module]] = []
        while domain.can_coarsen and len(pools) < 6:
            pools.append((domain.pool(), domain.unpool()))
            coarse, known = (pools[-1][0](each) for each in (coarse, known))
            back = coarse / known.clamp(min=_LEAST_KNOWN)
            for _, unpool in reversed(pools):
                back = unpool(back)
            total = total + 0.5 ** len(pools) * back
            domain = domain.coarse()
        share = domain.areas.float() / domain.areas.float().sum()
        whole = (coarse * share).sum(-1, keepdim=True)
        whole = whole / (known * share).sum(-1, keepdim=True).clamp(min=_LEAST_KNOWN)
        return total + 0.5 ** (len(pools) + 1) * whole

    def _threshold(self, end: int) -> Tensor:
        """Return the normal number (season, channel, node) beyond which values are at a bound."""
        score = torch.special.ndtri(self.shares[end].double().clamp(min=_RAREST))
        return score if end == 0 else -score

    def latent(
        self, fields: Tensor, season: Tensor, domain: Domain, instant: Tensor | None = None
    ) -> Tensor:
        """Return normal numbers of fields for a prior to learn from, NaN where nothing is known.

        Values at a bound have one below the threshold: the lower, the farther their surroundings
        are from leaving the bound, by their rank among all such values. So dry days near rain are
        nearly wet, and the normal numbers are as smooth as the fields are: a covariance that is
        learned from numbers drawn beyond the threshold is rough, and predicts rain worse.
        """
        z = self.standardize(fields.double(), season)
        for end in (0, 1):
            at = self._at_bound(fields.double(), end)
            if not bool(at.any()):
                continue  # as where there is no such bound
            away = self._distance(z, season, end, at, domain).double()
            knots = self.around[end].double()[:, None, :].expand(*fields.shape[1:], -1)
            knots = rising(knots).expand(len(fields), -1, -1, -1)
            step = 2e-6 * len(SCORES) * (knots[..., -1] - knots[..., 0])  # past those that are tied
            either = torch.stack([away - step, away + step], -1)
            score = interpolate(either, knots, SCORES).clamp(-3.0, 3.0)
            share = self.shares[end].double()[season] * torch.special.ndtr(score).mean(-1)
            tied = torch.special.ndtri(share) * (1.0 if end == 0 else -1.0)
            z = torch.where(at, tied, z)
        return torch.where(self.valid, z, 0.0).float()

    def _maps(self, season: Tensor, device: torch.device) -> QuantileMap:
        """Return the maps (batch, channel, node) of records by their seasons."""
        low, high = self.shares[:, season.cpu()].double().to(device)
        knots, ends = self.knots[season.cpu()].double(), self.bounds[:, None, :, None]
        return QuantileMap(
            knots.to(device), low, high, ends.double().to(device).expand(2, *low.shape)
        )

    def standardize(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return normal numbers (batch, channel, node); at a bound, their mean beyond the score."""
        maps = self._maps(season, fields.device)
        return maps.standardize(fields.double()[..., None])[..., 0].to(fields)

    def encode(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return normal numbers as networks take them, float32, zero where not valid."""
        return torch.where(self.valid, self.standardize(fields, season), 0.0).float()

    def restore(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return the values of normal numbers (..., batch, channel, node), NaN where not valid."""
        z, maps = fields.double(), self._maps(season, fields.device)
        members = z.movedim(0, -1) if z.ndim == 4 else z[..., None]
        x = maps.restore(members)
        x = x.movedim(-1, 0) if z.ndim == 4 else x[..., 0]
        return torch.where(self.valid.to(z.device), x, torch.nan).to(fields)

    def scaled(self, fields: Tensor, season: Tensor) -> Tensor:
        """Return the values of normal numbers (..., batch, channel, node), zero where not valid."""
        return self.restore(fields, season).nan_to_num()

    def measure(self, measurement: Measurement) -> Measurement:
        """Return a measurement in the units of the data as one of normal numbers.

        Raises:
            InputError: If it is not of the nodes themselves.
        """
        if not measurement.operator.is_identity:
            raise InputError(
                f"{measurement.operator!r} measures a variable with bounds, which is only possible "
                "at nodes, by Mask() and the like; fit the prior with bounds=None for others."
            )
        season = measurement.season_of(self.seasons)
        mask = measurement.mask & self.observable(measurement.operator)
        y, noise = (a[mask].double() for a in (measurement.values, measurement.noise_std))
        sites = self._maps_where(mask, season).sites(y, noise)
        around = measurement.around
        around = None if around is None else self.measure(around)
        return _with_sites(replace(measurement, mask=mask, season=season, around=around), *sites)

    def refined(
        self, measurement: Measurement, measured: Measurement, left_out: LeftOut
    ) -> Measurement:
        """Return a measurement of normal numbers, of which each tells what it does beside others.

        See `QuantileMap.refined_sites`.

        Args:
            measurement: Measurement in the units of the data.
            measured: What `measure` made of it.
            left_out: Function that predicts observed nodes from the others.
        """
        mask = measured.mask

        def others(values: Tensor, noise_std: Tensor) -> tuple[Tensor, Tensor]:
            mean, cov = left_out(_with_sites(measured, values, noise_std), apart=True)
            var = cov.diagonal(dim1=2, dim2=3).mT
            return mean[mask], var[mask].clamp(min=_LEAST_VARIANCE)

        y, noise = (a[mask].double() for a in (measurement.values, measurement.noise_std))
        sites = measured.values[mask].double(), measured.noise_std[mask].double()
        maps = self._maps_where(mask, measured.season_of(self.seasons))
        return _with_sites(measured, *maps.refined_sites(y, noise, sites, others))

    def _maps_where(self, mask: Tensor, season: Tensor) -> QuantileMap:
        """Return the maps (value,) of the values under a mask (batch, channel, node)."""
        batch, channel, node = mask.nonzero(as_tuple=True)
        at = season[batch], channel, node
        low, high = self.shares[:, *at].double()
        return QuantileMap(self.knots[at].double(), low, high, self.bounds[:, channel].double())

    def check_density(self) -> None:
        """Refuse: values that are at a bound again and again have no density.

        Raises:
            InputError: Always.
        """
        raise InputError(
            "values that are at a bound again and again have no density; fit the prior with "
            "bounds=None for one."
        )

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the attributes by name, for saving."""
        own = {f"quantiles.{n}": getattr(self, n) for n in ("knots", "shares", "bounds", "around")}
        return super().to_tensors() | own

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Self:
        """Rebuild from `to_tensors`."""
        plain: Any = {n: tensors[f"normals.{n}"] for n in ("mean", "std", "valid")}
        own: Any = {n: tensors[f"quantiles.{n}"] for n in ("knots", "shares", "bounds", "around")}
        return cls(**plain, **own)


def _with_sites(measured: Measurement, values: Tensor, noise_std: Tensor) -> Measurement:
    """Return a measurement with other values and noise (value,) under its mask."""
    own = torch.zeros_like(measured.values), torch.ones_like(measured.values)
    for out, found in zip(own, (values, noise_std), strict=True):
        out[measured.mask] = found.to(out)
    return replace(measured, values=own[0], noise_std=own[1])


def _near(season: Tensor, s: int, seasons: int) -> Tensor:
    """Tell which records are of a season or, of parts of the year, within a month of it."""
    kind = seasons_of(seasons)
    same_hours = season % kind.hours == s % kind.hours
    if kind.parts < 3:
        return season == s
    reach = max(1, round(kind.parts / _MONTHS))
    apart = season // kind.hours - s // kind.hours
    return same_hours & ((apart + reach) % kind.parts <= 2 * reach)


def _quantiles(inner: Tensor, ends: Tensor) -> Tensor:
    """Return quantiles (channel, node, level) of values (time, channel, node), NaN for none.

    Those of few values are drawn towards those of all nodes, of the node's own mean and size, but
    not beyond the ends (2, channel).
    """
    levels = torch.special.ndtr(SCORES)
    counts = (~inner.isnan()).double().sum(0)
    own = torch.nanquantile(inner, levels, dim=0).movedim(0, -1).nan_to_num()
    middle = inner.nanmean(0).nan_to_num()
    size = ((inner - middle).square().nanmean(0).nan_to_num()).sqrt()
    shape = ((inner - middle) / size.clamp(min=1e-30)).where(counts >= _LEAST, torch.nan)
    pooled = torch.stack([_of_all(shape[:, channel], levels) for channel in range(inner.shape[1])])
    typical = torch.stack([_of_all(inner[:, channel], levels) for channel in range(inner.shape[1])])
    alike = middle[..., None] + size[..., None] * pooled[:, None]
    least, most = (
        _towards(own[..., k, None], end[:, None, None])
        for k, end in zip((0, -1), ends, strict=True)
    )
    alike = torch.minimum(torch.maximum(alike, least), most)
    alike = torch.where((counts >= _LEAST)[..., None], alike, typical[:, None])
    share = (counts / (counts + _FEW))[..., None]
    return share * own + (1.0 - share) * alike


def _towards(values: Tensor, end: Tensor) -> Tensor:
    """Return values most of the way to an end, or the end if it is infinite."""
    return torch.where(end.isfinite(), end + _KEPT * (values - end), end)


def _of_all(values: Tensor, levels: Tensor) -> Tensor:
    """Return quantiles (level,) of the values that are there; zero where there are none."""
    known = values[~values.isnan()]
    known = known[:: max(1, len(known) // 100_000)]
    return torch.quantile(known, levels) if len(known) else torch.zeros_like(levels)
