"""Maps between bounded values and normal numbers, by quantiles; what a noisy value tells."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SCORES", "WIDEST", "QuantileMap", "interpolate", "rising", "rooted"]

WIDEST = 2.2
"""Normal score of the outermost quantiles of the values between the bounds."""
SCORES = torch.linspace(-WIDEST, WIDEST, 23, dtype=torch.float64)
"""Normal scores of these quantiles."""

_MOST = 8.0  # normal score of the most extreme value, beyond all records
_LEAST = 1e-16  # chance of its being exceeded, and less
_GRID = 129  # scores, and as many normal numbers, at which a likelihood is integrated
_FARTHEST = 4.5  # of the scores; normal numbers reach that far in their standard deviations
_TOGETHER = 2**14  # values whose likelihood is integrated at once
_ACCURATE = 0.07  # noise of a normal number below which the map is as good as linear
_FAR = 6.0  # standard deviations of the noise from which on a value is not at a bound
_MOST_VARIANCE = 0.999  # share that an observation can leave: one tells nothing
_ROUNDS = 4  # of `refined_sites`; more change nothing
_STEP = 0.7  # of the way to its new site that an observation goes in a round, but the first


@dataclass(frozen=True)
class QuantileMap:
    """The maps of some places, each from values with bounds to normal numbers.

    A value is at a bound where its normal number z is beyond the score of the share of values that
    are there. Between the bounds, the root of a value (`rooted`) is linear between quantiles in the
    normal score s of its rank among the values between the bounds.

    Attributes:
        knots: Quantiles (..., level) of the roots of values between the bounds, at `SCORES`.
        low: Share (...) of the values at the lower bound.
        high: Share (...) of those at the upper bound.
        ends: Bounds (2, ...), infinite where there is none.
    """

    knots: Tensor
    low: Tensor
    high: Tensor
    ends: Tensor

    def standardize(self, x: Tensor) -> Tensor:
        """Return normal numbers of values (..., k); at a bound, their mean beyond the score."""
        ends, low, high = self.ends[..., None], self.low[..., None], self.high[..., None]
        s = interpolate(rooted(x, ends), rising(self.knots), SCORES.to(x.device))
        z = self._of_score(s.clamp(-_MOST, _MOST))
        z = torch.where((x <= ends[0]) & (low > 0), -_mean_beyond(low), z)
        return torch.where((x >= ends[1]) & (high > 0), _mean_beyond(high), z)

    def restore(self, z: Tensor) -> Tensor:
        """Return the values of normal numbers (..., k)."""
        ends, low, high = self.ends[..., None], self.low[..., None], self.high[..., None]
        inner = 1.0 - low - high
        below = ((torch.special.ndtr(z) - low) / inner).clamp(_LEAST, 1.0)
        above = ((torch.special.ndtr(-z) - high) / inner).clamp(_LEAST, 1.0)
        s = torch.where(below < 0.5, torch.special.ndtri(below), -torch.special.ndtri(above))
        x = _unrooted(_extrapolate(s, SCORES.to(z.device), rising(self.knots)), ends)
        x = torch.where((torch.special.ndtr(z) <= low) & (low > 0), ends[0], x)
        x = torch.where((torch.special.ndtr(-z) <= high) & (high > 0), ends[1], x)
        return torch.minimum(torch.maximum(x, ends[0]), ends[1])

    def sites(self, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return observations of normal numbers that tell as much as y does, and their noise.

        Mean m and variance v of z given y = x + noise make an observation m / (1 - v) of z with the
        variance v / (1 - v) (a site of expectation propagation; Minka 2001, arXiv 1301.2294). Where
        the noise is small, the map is linear across it.

        Each observation is taken on its own. Where several near each other are at a bound, that is
        counted more often than it should be; `refined_sites` mends it.

        Args:
            y: Observed values (value,).
            noise: Standard deviation (value,) of their noise.
        """
        value, noise_std = self._linear(y, noise)
        rest = self.curved(y, noise).nonzero()[:, 0]
        zero = torch.zeros_like(y[rest])
        value[rest], noise_std[rest] = self._at(rest)._sites(y[rest], noise[rest], zero, zero + 1.0)
        return value, noise_std

    def refined_sites(
        self,
        y: Tensor,
        noise: Tensor,
        sites: tuple[Tensor, Tensor],
        others: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]],
    ) -> tuple[Tensor, Tensor]:
        """Return observations of normal numbers that tell what y does beside the others.

        That is expectation propagation in parallel: instead of N(0, 1), the law of z is that given
        the other observations. A dry one amid dry ones then tells next to nothing, and one beside
        rain tells much.

        Args:
            y: Observed values (value,).
            noise: Standard deviation (value,) of their noise.
            sites: What `sites` makes of them.
            others: Function that returns mean and variance (value,) of each normal number, given
                observations and noise of the others.
        """
        value, precision = sites[0].clone(), sites[1].square().reciprocal()
        rest = self.curved(y, noise).nonzero()[:, 0]
        maps = self._at(rest)
        for number in range(_ROUNDS if len(rest) else 0):
            mean, var = (each[rest] for each in others(value, precision.rsqrt()))
            told, told_noise = maps._sites(y[rest], noise[rest], mean, var)
            step = 1.0 if number == 0 else _STEP
            old, new = precision[rest], told_noise.square().reciprocal()
            precision[rest] = old + step * (new - old)
            weighted = old * value[rest] + step * (new * told - old * value[rest])
            value[rest] = weighted / precision[rest]
        return value, precision.rsqrt()

    def curved(self, y: Tensor, noise: Tensor) -> Tensor:
        """Tell which observations (value,) the map is not as good as linear across."""
        inside = ((y - self.ends[0]) > _FAR * noise) & ((self.ends[1] - y) > _FAR * noise)
        return ~inside | (self._linear(y, noise)[1] >= _ACCURATE)

    def _linear(self, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return normal numbers (value,) of observations and their noise, by the slope there."""
        off = torch.tensor([0.0, -1.0, 1.0], dtype=y.dtype, device=y.device)
        near = y[:, None] + off * noise[:, None]
        near = torch.minimum(torch.maximum(near, self.ends[0, :, None]), self.ends[1, :, None])
        value, less, more = self.standardize(near).unbind(-1)
        return value, 0.5 * (more - less).abs().clamp(min=1e-3)

    def _sites(self, y: Tensor, noise: Tensor, mean: Tensor, var: Tensor) -> tuple[Tensor, Tensor]:
        """Return observations of z ~ N(mean, var) (value,) that tell as much as y, and noise."""
        found = [
            self._at(part)._moments(y[part], noise[part], mean[part], var[part])
            for part in torch.arange(len(y)).split(_TOGETHER)
        ]
        middle, left = (torch.cat(each) for each in zip(*found, strict=True))
        precision = 1.0 / left - 1.0 / var
        return (middle / left - mean / var) / precision, precision.rsqrt()

    def _moments(
        self, y: Tensor, noise: Tensor, mean: Tensor, var: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return mean and variance (value,) of z ~ N(mean, var) given noisy values.

        At each bound the normal number is a truncated one, whose moments are in closed form.
        Between them the likelihood is integrated over normal scores and what N(mean, var) covers.
        """
        grid = torch.linspace(-_FARTHEST, _FARTHEST, _GRID, dtype=y.dtype, device=y.device)
        std = var.sqrt()
        usual = mean[:, None] + std[:, None] * grid
        z = torch.cat([self._of_score(grid.expand(len(y), -1)), usual], 1).sort(1).values
        low, high = torch.special.ndtri(self.low), -torch.special.ndtri(self.high)
        z = torch.minimum(torch.maximum(z, low[:, None]), high[:, None])
        width = torch.zeros_like(z)
        width[:, 1:] += 0.5 * z.diff(dim=1)
        width[:, :-1] += 0.5 * z.diff(dim=1)
        off = (z - mean[:, None]) / std[:, None]
        log_share = width.log() - 0.5 * off.square() - 0.5 * math.log(2.0 * math.pi)
        logs = [log_share - std.log()[:, None] - self._misfit(y[:, None], self.restore(z), noise)]
        first, second = [z], [torch.zeros_like(z)]
        for end, (threshold, sign) in enumerate(((low, 1.0), (high, -1.0))):
            there = threshold.isfinite()
            far = torch.where(there, sign * (threshold - mean) / std, -1.0)
            chance = torch.special.log_ndtr(far)
            ratio = torch.exp(-0.5 * far.square() - 0.5 * math.log(2.0 * math.pi) - chance)
            bound = torch.where(there, self.ends[end], y)[:, None]
            log = chance[:, None] - self._misfit(y[:, None], bound, noise)
            logs.append(torch.where(there[:, None], log, -torch.inf))
            first.append((mean - sign * std * ratio)[:, None])
            second.append((var * (1.0 - far * ratio - ratio.square()))[:, None])
        weight, at = torch.softmax(torch.cat(logs, 1), 1), torch.cat(first, 1)
        middle = (weight * at).sum(1)
        spread = (at - middle[:, None]).square() + torch.cat(second, 1).clamp(min=0.0)
        step = 2.0 * _FARTHEST / (_GRID - 1) * std
        least = torch.minimum(step.square() / 12.0, 0.5 * var)
        left = (weight * spread).sum(1)
        return middle, torch.minimum(torch.maximum(left, least), _MOST_VARIANCE * var)

    @staticmethod
    def _misfit(y: Tensor, x: Tensor, noise: Tensor) -> Tensor:
        return 0.5 * ((y - x) / noise[:, None]).square()

    def _of_score(self, s: Tensor) -> Tensor:
        """Return normal numbers (..., k) of scores (..., k) among the values between the bounds."""
        low, high = self.low[..., None], self.high[..., None]
        inner = 1.0 - low - high
        head, tail = (part + inner * torch.special.ndtr(t) for part, t in ((low, s), (high, -s)))
        return torch.where(s > 0, -torch.special.ndtri(tail), torch.special.ndtri(head))

    def _at(self, index: Tensor) -> QuantileMap:
        """Return the maps of some places (value,)."""
        return QuantileMap(
            self.knots[index], self.low[index], self.high[index], self.ends[:, index]
        )


def rooted(x: Tensor, ends: Tensor) -> Tensor:
    """Return values less skewed: the root of the distance from a bound, the angle between two."""
    low, high = (end.expand(x.shape) for end in ends)
    above, below = (x - low).clamp(min=0.0), (high - x).clamp(min=0.0)
    between = torch.asin((above / (high - low)).clamp(max=1.0).sqrt())
    one = torch.where(low.isfinite(), above.sqrt(), torch.where(high.isfinite(), -below.sqrt(), x))
    return torch.where(low.isfinite() & high.isfinite(), between, one)


def _unrooted(r: Tensor, ends: Tensor) -> Tensor:
    """Undo `rooted`."""
    low, high = (end.expand(r.shape) for end in ends)
    above, below = r.clamp(min=0.0).square(), r.clamp(max=0.0).square()
    between = low + (high - low) * torch.sin(r.clamp(0.0, 0.5 * torch.pi)).square()
    one = torch.where(low.isfinite(), low + above, torch.where(high.isfinite(), high - below, r))
    return torch.where(low.isfinite() & high.isfinite(), between, one)


def rising(knots: Tensor) -> Tensor:
    """Return knots (..., level) that rise strictly, by a millionth of their range where tied."""
    span = (knots[..., -1:] - knots[..., :1]).clamp(min=1e-9)
    return knots.cummax(-1).values + 1e-6 * span * torch.arange(knots.shape[-1]).to(knots)


def interpolate(x: Tensor, knots: Tensor, scores: Tensor) -> Tensor:
    """Map values (..., k) by the lines through (knots (..., level), scores (level,))."""
    at = torch.searchsorted(knots.contiguous(), x.contiguous()).clamp(1, knots.shape[-1] - 1)
    left, right = knots.gather(-1, at - 1), knots.gather(-1, at)
    return scores[at - 1] + (x - left) / (right - left) * (scores[at] - scores[at - 1])


def _extrapolate(s: Tensor, scores: Tensor, knots: Tensor) -> Tensor:
    """Map scores (..., k) by the lines through (scores (level,), knots (..., level))."""
    at = torch.searchsorted(scores, s.contiguous()).clamp(1, len(scores) - 1)
    left, right = knots.gather(-1, at - 1), knots.gather(-1, at)
    return left + (s - scores[at - 1]) / (scores[at] - scores[at - 1]) * (right - left)


def _mean_beyond(share: Tensor) -> Tensor:
    """Return E[z | z > t] of a standard normal number that exceeds t with some probability."""
    t = torch.special.ndtri(share.clamp(min=1e-12))
    density = torch.exp(-0.5 * t**2) / (2.0 * torch.pi) ** 0.5
    return density / share.clamp(min=1e-12)
