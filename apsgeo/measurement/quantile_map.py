"""Maps between bounded values and normal numbers, by quantiles; what a noisy value tells."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["SCORES", "WIDEST", "QuantileMap", "interpolate", "rising", "rooted"]

WIDEST = 2.2
"""Normal score of the outermost quantiles of the values between the bounds."""
SCORES = torch.linspace(-WIDEST, WIDEST, 23, dtype=torch.float64)
"""Normal scores of these quantiles."""

_MOST = 5.0  # normal score of the most extreme value
_GRID = 129  # scores at which the likelihood of an observation is integrated
_FARTHEST = 4.5
_TOGETHER = 2**14  # values whose likelihood is integrated at once
_ACCURATE = 0.07  # noise of a normal number below which the map is as good as linear
_FAR = 6.0  # standard deviations of the noise from which on a value is not at a bound
_MOST_VARIANCE = 0.999  # that an observation can leave: one tells nothing


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
        below = ((torch.special.ndtr(z) - low) / inner).clamp(1e-12, 1.0)
        above = ((torch.special.ndtr(-z) - high) / inner).clamp(1e-12, 1.0)
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
        counted more often than it should be, and draws are at the bound by some 2 to 5 % too often.
        (Such observations with more noise are less so, but predict worse.)

        Args:
            y: Observed values (value,).
            noise: Standard deviation (value,) of their noise.
        """
        off = torch.tensor([0.0, -1.0, 1.0], dtype=y.dtype, device=y.device)
        near = y[:, None] + off * noise[:, None]
        near = torch.minimum(torch.maximum(near, self.ends[0, :, None]), self.ends[1, :, None])
        value, less, more = self.standardize(near).unbind(-1)
        noise_std = 0.5 * (more - less).abs().clamp(min=1e-3)
        inside = ((y - self.ends[0]) > _FAR * noise) & ((self.ends[1] - y) > _FAR * noise)
        rest = (~inside | (noise_std >= _ACCURATE)).nonzero()[:, 0]
        for each in rest.split(_TOGETHER):
            mean, variance = self._at(each)._moments(y[each], noise[each])
            value[each] = mean / (1.0 - variance)
            noise_std[each] = (variance / (1.0 - variance)).sqrt()
        return value, noise_std

    def _moments(self, y: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance (value,) of z given noisy values.

        At each bound the normal number is a truncated one, whose moments are in closed form.
        Between them the likelihood is integrated over the normal score.
        """
        step = 2.0 * _FARTHEST / (_GRID - 1)
        s = torch.linspace(-_FARTHEST, _FARTHEST, _GRID, dtype=y.dtype, device=y.device)
        scores = SCORES.to(s)
        lines = _extrapolate(s.expand(len(scores), -1), scores, torch.eye(len(scores)).to(s))
        x = _unrooted(rising(self.knots) @ lines, self.ends[..., None])
        z = self._of_score(s)
        density = step * torch.exp(-0.5 * s.square()) / (2.0 * torch.pi) ** 0.5
        share = [(1.0 - self.low - self.high)[:, None] * density]
        first, second, off = [z], [z.square()], [y[:, None] - x]
        for end, (at, sign) in enumerate(((self.low, -1.0), (self.high, 1.0))):
            there = at > 0
            beyond = torch.where(there, _mean_beyond(at), 0.0)
            threshold = torch.where(there, torch.special.ndtri(1.0 - at), 0.0)
            share.append(at[:, None])
            first.append(sign * beyond[:, None])
            second.append((1.0 + threshold * beyond)[:, None])
            off.append((y - torch.where(there, self.ends[end], y))[:, None])
        log = torch.cat(share, 1).log() - 0.5 * (torch.cat(off, 1) / noise[:, None]).square()
        weight = torch.softmax(log, 1)
        mean = (weight * torch.cat(first, 1)).sum(1)
        variance = (weight * torch.cat(second, 1)).sum(1) - mean.square()
        return mean, variance.clamp(step**2 / 12.0, _MOST_VARIANCE)

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
