"""Normals of values with bounds: quantiles that map rain, ice and the like to normal numbers."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.measurement.measurement import Measurement
from apsgeo.measurement.normals import Normals
from apsgeo.measurement.seasons import seasons_of

__all__ = ["Bounds", "QuantileNormals", "bounds_in"]

Bounds = tuple[float | None, float | None]

_MONTHS = 12
_LEVELS = 23  # quantiles of the values between the bounds
_WIDEST = 2.2  # normal score of the outermost of them
_MOST = 5.0  # normal score of the most extreme value
_FEW = 200.0  # values of a node that count as much as the common shape
_LEAST = 5.0  # values of which mean and size are known at all
_TIED = 0.05  # share of the values at their least or greatest that makes it a bound
_GRID = 257  # normal numbers on which the likelihood of an observation is integrated
_FARTHEST = 4.5
_ACCURATE = 0.07  # noise of a normal number below which the map is as good as linear
_FAR = 6.0  # standard deviations of the noise from which on a value is not at a bound
_MOST_VARIANCE = 0.999  # that an observation can leave: one tells nothing


def bounds_in(values: Tensor) -> Bounds:
    """Return the least and the greatest value where many are exactly there; None where not.

    Args:
        values: Values of one variable, NaN where there is none.
    """
    known = values[~values.isnan()]
    if len(known) == 0:
        return None, None
    ends = known.min(), known.max()
    if ends[0] == ends[1]:
        return None, None
    low, high = (float(end) if (known == end).double().mean() >= _TIED else None for end in ends)
    return low, high


@dataclass(frozen=True)
class QuantileNormals(Normals):
    """Normals that map each node's values, by their quantiles in each season, to normal numbers.

    Beyond the bounds there is nothing: a member is at a bound where its normal number is below the
    score of the share of values that are there (a latent threshold). Between the bounds values are
    mapped by linear interpolation between quantiles, shrunk towards those of all nodes where there
    are few. The mean and standard deviation of the data remain, for weights and features.

    An observation y of x with noise becomes one of the normal number z: the mean and variance of z
    given y and its climatology, less that climatology (the site of expectation propagation, Minka
    2001, arXiv 1301.2294), so that "no rain here" is an observation as well.

    Attributes:
        knots: Quantiles (season, channel, node, level) of the roots of values between the bounds;
            see `_rooted`.
        shares: Shares (2, season, channel, node) of the values at the lower and the upper bound.
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
        """Fit the quantiles of a complete history.

        Args:
            normals: Mean and standard deviation of the same history.
            fields: Fields (time, channel, node).
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
            ],
            dtype=torch.float64,
        )
        x = fields.double()
        low, high = ends[:, None, :, None]
        if bool(((x < low) | (x > high)).any()):
            raise InputError(
                f"bounds={bounds}, and the history has values from {float(x.nan_to_num().min()):g} "
                f"to {float(x.nan_to_num().max()):g}; give bounds that all values keep to."
            )
        scores = torch.linspace(-_WIDEST, _WIDEST, _LEVELS, dtype=torch.float64)
        knots, shares = [], []
        for s in range(normals.seasons):
            near = _near(season, s, normals.seasons)
            some = x[near]
            at = torch.stack([some <= low[0], some >= high[0]], 1).double().sum(0)
            shares.append((at + 0.5) / (len(some) + 1.0) * ends.isfinite()[:, :, None])
            inner = torch.where((some > low[0]) & (some < high[0]), some, torch.nan)
            knots.append(_quantiles(_rooted(inner, ends[:, None, :, None]), scores))
        made = cls(
            normals.mean,
            normals.std,
            normals.valid,
            knots=torch.stack(knots).float(),
            shares=torch.stack(shares, 1).float(),
            bounds=ends.float(),
            around=torch.zeros(2, fields.shape[1], _LEVELS),
        )
        return replace(made, around=made._surroundings(x, season, domain, scores))

    def _surroundings(
        self, fields: Tensor, season: Tensor, domain: Domain, scores: Tensor
    ) -> Tensor:
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
                    levels = torch.special.ndtr(scores)
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
        away = torch.where(self.valid, away, 0.0).clamp(min=0.0).float()
        total, coarse = torch.zeros_like(away), away
        pools: list[tuple[nn.Module, nn.Module]] = []
        while domain.can_coarsen and len(pools) < 6:
            pools.append((domain.pool(), domain.unpool()))
            coarse = pools[-1][0](coarse)
            back = coarse
            for _, unpool in reversed(pools):
                back = unpool(back)
            total = total + 0.5 ** len(pools) * back
            domain = domain.coarse()
        share = domain.areas.float() / domain.areas.float().sum()
        whole = (coarse * share).sum(-1, keepdim=True)
        return total + 0.5 ** (len(pools) + 1) * whole

    def _threshold(self, end: int) -> Tensor:
        """Return the normal number (season, channel, node) beyond which values are at a bound."""
        score = torch.special.ndtri(self.shares[end].double())
        return score if end == 0 else -score

    def latent(self, fields: Tensor, season: Tensor, domain: Domain) -> Tensor:
        """Return normal numbers of complete fields for a prior to learn from.

        Values at a bound have one below the threshold: the lower, the farther their surroundings
        are from leaving the bound, by their rank among all such values. So dry days near rain are
        nearly wet, and the normal numbers are as smooth as the fields are.
        """
        z = self.standardize(fields.double(), season)
        levels = torch.linspace(-_WIDEST, _WIDEST, _LEVELS, dtype=torch.float64)
        for end in (0, 1):
            at = self._at_bound(fields.double(), end)
            if not bool(at.any()):
                continue  # as where there is no such bound
            away = self._distance(z, season, end, at, domain).double()
            knots = self.around[end].double()[:, None, :].expand(*fields.shape[1:], -1)
            knots = _rising(knots).expand(len(fields), -1, -1, -1)
            step = 2e-6 * _LEVELS * (knots[..., -1] - knots[..., 0])  # past those that are tied
            either = torch.stack([away - step, away + step], -1)
            score = _interpolate(either, knots, levels).clamp(-3.0, 3.0)
            share = self.shares[end].double()[season] * torch.special.ndtr(score).mean(-1)
            tied = torch.special.ndtri(share) * (1.0 if end == 0 else -1.0)
            z = torch.where(at, tied, z)
        return torch.where(self.valid, z, 0.0).float()

    def beyond(self, fields: Tensor, season: Tensor, drawn: Tensor) -> Tensor:
        """Return normal numbers of complete fields; at a bound, those of the rank of drawn ones.

        Draws are reflected at the bound's score. Among all that are at the bound they are then
        ranked, so that each node's numbers have the law of a standard normal number beyond it.

        Args:
            fields: Fields (time, channel, node) in the units of the data.
            season: Index (time,) of each record's season.
            drawn: Normal numbers (time, channel, node).
        """
        x, z = fields.double(), self.standardize(fields.double(), season)
        for end, sign in ((0, 1.0), (1, -1.0)):
            over = sign * (drawn.double() - self._threshold(end)[season])
            tied = sign * drawn.double() - 2.0 * over.clamp(min=0.0)
            at, share = self._at_bound(x, end) & self.valid, self.shares[end].double()[season]
            level = (torch.special.ndtr(tied) / share.clamp(min=1e-12))[at]
            rank = level.argsort().argsort().double()
            u = (rank + 0.5) / max(1, len(rank))
            z[at] = sign * torch.special.ndtri(share[at] * u)
        return torch.where(self.valid, z, 0.0).float()

    def standardize(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return normal numbers (batch, channel, node); at a bound, their mean beyond the score."""
        x = fields.double()
        low, high = self.shares[:, season].double()
        rooted = _rooted(x, self.bounds.double()[:, None, :, None])
        knots = _rising(self.knots[season].double())
        scores = torch.linspace(-_WIDEST, _WIDEST, _LEVELS, dtype=torch.float64)
        s = _interpolate(rooted[..., None], knots, scores)[..., 0].clamp(-_MOST, _MOST)
        inner = 1.0 - low - high
        head, tail = (part + inner * torch.special.ndtr(t) for part, t in ((low, s), (high, -s)))
        z = torch.where(s > 0, -torch.special.ndtri(tail), torch.special.ndtri(head))
        z = torch.where(self._at_bound(x, 0), -_beyond(low), z)
        z = torch.where(self._at_bound(x, 1), _beyond(high), z)
        return z.to(fields)

    def encode(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return normal numbers as networks take them, float32, zero where not valid."""
        return torch.where(self.valid, self.standardize(fields, season), 0.0).float()

    def restore(self, fields: Tensor, season: Tensor, instant: Tensor | None = None) -> Tensor:
        """Return the values of normal numbers (..., batch, channel, node), NaN where not valid."""
        z = fields.double()
        low, high = self.shares[:, season].double().to(z.device)
        inner = 1.0 - low - high
        below = ((torch.special.ndtr(z) - low) / inner).clamp(1e-12, 1.0)
        above = ((torch.special.ndtr(-z) - high) / inner).clamp(1e-12, 1.0)
        s = torch.where(below < 0.5, torch.special.ndtri(below), -torch.special.ndtri(above))
        knots = _rising(self.knots[season].double()).to(z.device)
        scores = torch.linspace(-_WIDEST, _WIDEST, _LEVELS, dtype=torch.float64, device=z.device)
        x = _extrapolate(s.movedim(0, -1) if z.ndim == 4 else s[..., None], scores, knots)
        x = x.movedim(-1, 0) if z.ndim == 4 else x[..., 0]
        ends = self.bounds.to(z)[:, :, None]
        x = _unrooted(x, ends)
        x = torch.where((torch.special.ndtr(z) <= low) & (low > 0), ends[0], x)
        x = torch.where((torch.special.ndtr(-z) <= high) & (high > 0), ends[1], x)
        x = torch.minimum(torch.maximum(x, ends[0]), ends[1])
        return torch.where(self.valid.to(z.device), x, torch.nan).to(fields)

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
        y, noise = measurement.values.double(), measurement.noise_std.double()
        values, noise_std = self._sites(y, noise, season)
        like = measurement.values
        return replace(
            measurement,
            values=torch.where(mask, values, 0.0).to(like),
            mask=mask,
            noise_std=torch.where(mask, noise_std, 1.0).to(like),
            season=season,
        )

    def _sites(self, y: Tensor, noise: Tensor, season: Tensor) -> tuple[Tensor, Tensor]:
        """Return observations of normal numbers that tell as much as y does, and their noise."""
        grid = torch.linspace(-_FARTHEST, _FARTHEST, _GRID, dtype=torch.float64)
        shape = (_GRID, *y.shape)
        x = self.restore(grid[:, None, None, None].expand(shape), season).nan_to_num()
        log = -0.5 * ((y - x) / noise).square() - 0.5 * grid[:, None, None, None] ** 2
        weight = torch.softmax(log, 0)
        mean = torch.einsum("g,g...->...", grid, weight)
        square = torch.einsum("g,g...->...", grid**2, weight)
        variance = (square - mean**2).clamp(max=_MOST_VARIANCE)
        # Where the grid is too coarse for the noise, the map is linear across it.
        step = float(grid[1] - grid[0])
        ends = self.bounds.double()[:, :, None]
        z = self.standardize(torch.minimum(torch.maximum(y, ends[0]), ends[1]), season)
        either = [
            self.standardize(torch.minimum(torch.maximum(y + d * noise, ends[0]), ends[1]), season)
            for d in (-1.0, 1.0)
        ]
        direct = 0.5 * (either[1] - either[0]).abs().clamp(min=1e-3)
        inside = ((y - ends[0]) > _FAR * noise) & ((ends[1] - y) > _FAR * noise)
        fine = (direct < max(_ACCURATE, step)) & inside
        variance = variance.clamp(min=step**2 / 12.0)
        site = variance / (1.0 - variance)
        return (
            torch.where(fine, z, mean / (1.0 - variance)),
            torch.where(fine, direct, site.sqrt()),
        )

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


def _near(season: Tensor, s: int, seasons: int) -> Tensor:
    """Tell which records are of a season or, of parts of the year, within a month of it."""
    kind = seasons_of(seasons)
    same_hours = season % kind.hours == s % kind.hours
    if kind.parts < 3:
        return season == s
    reach = max(1, round(kind.parts / _MONTHS))
    apart = season // kind.hours - s // kind.hours
    return same_hours & ((apart + reach) % kind.parts <= 2 * reach)


def _quantiles(inner: Tensor, scores: Tensor) -> Tensor:
    """Return quantiles (channel, node, level) of values (time, channel, node), NaN for none.

    Those of few values are drawn towards those of all nodes, of the node's own mean and size.
    """
    levels = torch.special.ndtr(scores)
    counts = (~inner.isnan()).double().sum(0)
    own = torch.nanquantile(inner, levels, dim=0).movedim(0, -1).nan_to_num()
    middle = inner.nanmean(0).nan_to_num()
    size = ((inner - middle).square().nanmean(0).nan_to_num()).sqrt()
    shape = ((inner - middle) / size.clamp(min=1e-30)).where(counts >= _LEAST, torch.nan)
    pooled = torch.stack([_of_all(shape[:, channel], levels) for channel in range(inner.shape[1])])
    typical = torch.stack([_of_all(inner[:, channel], levels) for channel in range(inner.shape[1])])
    alike = torch.maximum(middle[..., None] + size[..., None] * pooled[:, None], own[..., :1])
    alike = torch.where((counts >= _LEAST)[..., None], alike, typical[:, None])
    share = (counts / (counts + _FEW))[..., None]
    return share * own + (1.0 - share) * alike


def _of_all(values: Tensor, levels: Tensor) -> Tensor:
    """Return quantiles (level,) of the values that are there; zero where there are none."""
    known = values[~values.isnan()]
    known = known[:: max(1, len(known) // 100_000)]
    return torch.quantile(known, levels) if len(known) else torch.zeros_like(levels)


def _rooted(x: Tensor, ends: Tensor) -> Tensor:
    """Return values less skewed: the root of the distance from a bound, the angle between two."""
    low, high = (end.expand(x.shape) for end in ends)
    above, below = (x - low).clamp(min=0.0), (high - x).clamp(min=0.0)
    between = torch.asin((above / (high - low)).clamp(max=1.0).sqrt())
    one = torch.where(low.isfinite(), above.sqrt(), torch.where(high.isfinite(), -below.sqrt(), x))
    return torch.where(low.isfinite() & high.isfinite(), between, one)


def _unrooted(r: Tensor, ends: Tensor) -> Tensor:
    """Undo `_rooted`."""
    low, high = (end.expand(r.shape) for end in ends)
    above, below = r.clamp(min=0.0).square(), r.clamp(max=0.0).square()
    between = low + (high - low) * torch.sin(r.clamp(0.0, 0.5 * torch.pi)).square()
    one = torch.where(low.isfinite(), low + above, torch.where(high.isfinite(), high - below, r))
    return torch.where(low.isfinite() & high.isfinite(), between, one)


def _rising(knots: Tensor) -> Tensor:
    """Return knots (..., level) that rise strictly, by a millionth of their range where tied."""
    span = (knots[..., -1:] - knots[..., :1]).clamp(min=1e-9)
    return knots.cummax(-1).values + 1e-6 * span * torch.arange(knots.shape[-1]).to(knots)


def _interpolate(x: Tensor, knots: Tensor, scores: Tensor) -> Tensor:
    """Map values (..., k) by the lines through (knots (..., level), scores (level,))."""
    at = torch.searchsorted(knots.contiguous(), x.contiguous()).clamp(1, knots.shape[-1] - 1)
    left, right = knots.gather(-1, at - 1), knots.gather(-1, at)
    return scores[at - 1] + (x - left) / (right - left) * (scores[at] - scores[at - 1])


def _extrapolate(s: Tensor, scores: Tensor, knots: Tensor) -> Tensor:
    """Map scores (..., k) by the lines through (scores (level,), knots (..., level))."""
    at = torch.searchsorted(scores, s.contiguous()).clamp(1, len(scores) - 1)
    left, right = knots.gather(-1, at - 1), knots.gather(-1, at)
    return left + (s - scores[at - 1]) / (scores[at] - scores[at - 1]) * (right - left)


def _beyond(share: Tensor) -> Tensor:
    """Return E[z | z > t] of a standard normal number that exceeds t with some probability."""
    t = torch.special.ndtri(share.clamp(min=1e-12))
    density = torch.exp(-0.5 * t**2) / (2.0 * torch.pi) ** 0.5
    return density / share.clamp(min=1e-12)
