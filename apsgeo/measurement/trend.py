"""The trend of a variable: a shrunk pattern times an index, such as time, that outlives history."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apsgeo.errors import InputError

__all__ = ["Index", "Trend"]

_YEAR = 365.25 * 86400e6  # microseconds
_GROWTH = 0.05  # error of the index for each year beyond the history, in its rise over ten years
_MOST = 1.5  # most that a pattern is stretched to agree with the held-out records


@dataclass(frozen=True)
class Index:
    """A number that is known at each time: linear between knots, and before and after them.

    Attributes:
        times: Times (knot,) of the knots, ascending, in microseconds since 1970.
        values: Values (knot,) of the index.
        extend: Whether the index goes on in a straight line beyond the knots; else it stays.
    """

    times: Tensor
    values: Tensor
    extend: bool

    @classmethod
    def linear(cls, times: Tensor) -> Index:
        """Return time itself, in decades since the middle of the times (record,)."""
        ends = torch.stack([times[0], times[-1]]).double()
        return cls(ends, (ends - ends.mean()) / (10.0 * _YEAR), True)

    def at(self, times: Tensor) -> Tensor:
        """Return the index (record,) at times (record,), float64."""
        knots, values, wanted = self.times.numpy(), self.values.numpy(), times.double().numpy()
        found = np.interp(wanted, knots, values)
        if self.extend and len(knots) > 1:
            slope = (values[-1] - values[0]) / (knots[-1] - knots[0])
            found += slope * (np.minimum(wanted - knots[0], 0) + np.maximum(wanted - knots[-1], 0))
        return torch.from_numpy(found)


@dataclass(frozen=True)
class Trend:
    r"""A trend of standardized anomalies: a pattern times an index of time.

    Beyond the history the amplitude of the pattern is not sure. Its standard deviation, `wander`,
    grows with the years beyond: the prior keeps the pattern, so that observations correct it.

    Attributes:
        pattern: Pattern (channel, node), of standardized anomalies, for one unit of the index.
        index: The index.
        last: Last time of the history, in microseconds since 1970.
        growth: Standard deviation of the amplitude for each year after it, in units of the index.
    """

    pattern: Tensor
    index: Index
    last: float
    growth: float

    @classmethod
    def fit(
        cls,
        index: Index,
        anomalies: Tensor,
        times: Tensor,
        areas: Tensor,
        held: tuple[Tensor, Tensor] | None = None,
        baseline: Tensor | None = None,
    ) -> Trend:
        """Fit a trend to standardized anomalies.

        The slopes of the values on the index are least squares. They are split into their mean over
        the area and the departures from it. The mean is multiplied by what agrees best, by least
        squares, with the held-out records that follow, from 0 to 1.5. Departures are, for the most
        part, what a decade happened to be like: they are multiplied by the share of their variance
        in which both halves of the history agree, or what the held-out records ask for, if less.

        Args:
            index: Index of the trend. It is centred on the records of the baseline.
            anomalies: Standardized anomalies (record, channel, node).
            times: Times (record,) of the records, in microseconds since 1970, ascending.
            areas: Area (node,) of each node, zero where it has no values.
            held: Anomalies and times of records after them.
            baseline: Mask (record,) of those that define the normals; all by default.

        Raises:
            InputError: If the index is the same at all records.
        """
        rise = index.at(times)
        centre = float(rise.mean() if baseline is None else rise[baseline].mean())
        index = Index(index.times, index.values - centre, index.extend)
        rise = rise - centre
        if not float(rise.std()) > 0.0:
            raise InputError("the index of the trend is the same at all records; give another.")
        slope = _slope(anomalies, rise)
        share = areas.double() / areas.sum()
        mean = (slope @ share)[:, None].expand_as(slope) * (areas > 0)
        apart = slope - mean
        kept = _persistence(anomalies, rise, share)
        stretched = 1.0
        if held is not None:
            found, when = held
            amplitude = index.at(when)
            # sums over the held-out records of the squares and products of a part times the index
            along = torch.einsum("t,tcn->cn", amplitude, found.double()) / (amplitude**2).sum()
            stretched = min(_agreement(mean, along, share), _MOST)
            kept = min(_agreement(apart, along, share), kept)
        pattern = stretched * mean + kept * apart
        years = float(times[-1] - times[0]) / _YEAR
        rate = float(rise[-1] - rise[0]) / years
        return cls(pattern.float(), index, float(times[-1]), 10.0 * _GROWTH * abs(rate))

    def shift(self, times: Tensor) -> Tensor:
        """Return the trend (record, channel, node) at times (record,), float32."""
        return self.index.at(times).float()[:, None, None] * self.pattern

    def wander(self, times: Tensor) -> Tensor:
        """Return the standard deviation (record,) of the amplitude at times, float64."""
        years = (times.double() - self.last).clamp(min=0.0) / _YEAR
        return self.growth * years

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the attributes by name, for saving."""
        numbers = [self.last, self.growth, float(self.index.extend)]
        return {
            "trend.pattern": self.pattern,
            "trend.times": self.index.times,
            "trend.values": self.index.values,
            "trend.numbers": torch.tensor(numbers, dtype=torch.float64),
        }

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Trend:
        """Rebuild from `to_tensors`."""
        pattern, times, values, numbers = (
            tensors[f"trend.{name}"] for name in ("pattern", "times", "values", "numbers")
        )
        last, growth, extend = numbers.tolist()
        return cls(pattern, Index(times, values, bool(extend)), last, growth)


def _slope(anomalies: Tensor, rise: Tensor) -> Tensor:
    """Return the least-squares slopes (channel, node) on an index (record,)."""
    centred = rise - rise.mean()
    power = (centred**2).sum()
    return torch.einsum("t,tcn->cn", centred, anomalies.double()) / power.clamp(min=1e-30)


def _agreement(part: Tensor, along: Tensor, share: Tensor) -> float:
    """Return the factor of a part of the slopes, not below 0, that agrees best with others."""
    power = float((part**2 @ share).sum())
    return max(float((part * along @ share).sum()) / power, 0.0) if power > 0.0 else 0.0


def _persistence(anomalies: Tensor, rise: Tensor, share: Tensor) -> float:
    """Return the share of the departures' variance in which both halves of the history agree."""
    half = len(rise) // 2
    apart = []
    for part in (slice(None), slice(half), slice(half, None)):
        slope = _slope(anomalies[part], rise[part])
        apart.append(slope - (slope @ share)[:, None])
    whole, first, second = apart
    power = float((whole**2 @ share).sum())
    both = float((first * second @ share).sum())
    return min(max(both / power, 0.0), 1.0) if power > 0.0 else 0.0
