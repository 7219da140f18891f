"""Quantiles of the members, exact, from the few smallest and largest of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apsgeo.errors import InputError
from apsgeo.measurement import Draws
from apsgeo.statistics.statistic import Array, Output, Site, Statistic, number_axis

__all__ = ["Quantile"]


@dataclass(frozen=True, init=False)
class Quantile(Statistic):
    """Quantiles of the members, those of `numpy.quantile` and `xarray.DataArray.quantile`.

    What is held are the order statistics that are needed: of 512 members 27 for the probability
    0.05, half of them for the median.

    Args:
        probabilities: Probabilities, from 0 to 1.

    Raises:
        InputError: If there is none, or one is not between 0 and 1.
    """

    probabilities: tuple[float, ...]

    def __init__(self, *probabilities: float) -> None:
        if not probabilities or not all(0.0 <= p <= 1.0 for p in probabilities):
            raise InputError(
                f"Quantile{probabilities} given; expected probabilities between 0 and 1, such as "
                "Quantile(0.05, 0.95)"
            )
        object.__setattr__(self, "probabilities", tuple(sorted({float(p) for p in probabilities})))

    def outputs(self, site: Site) -> Sequence[Output]:
        """Return the variable ``NAME_quantile`` with the dim ``quantile``."""
        axis = number_axis("quantile", self.probabilities, long_name="probability")
        return (Output("quantile", axis, attrs={"long_name": "ensemble quantiles of {}"}),)

    def start(self, site: Site) -> _OrderStatistics:
        """Return the state before the first member."""
        return _OrderStatistics(self.probabilities, site.members)


class _OrderStatistics:
    """The smallest and the largest members of each value, as many as some quantiles need."""

    def __init__(self, probabilities: Sequence[float], members: int) -> None:
        places = np.asarray(probabilities) * (members - 1)
        below = np.floor(places).astype(int)
        above = np.minimum(below + 1, members - 1)
        self._below, self._above, self._share = below, above, places - below
        self._members = members
        near = above + 1 <= members - below  # nearer to the smallest member than to the largest
        low, high = (above[near] + 1).max(initial=0), (members - below[~near]).max(initial=0)
        self._low, self._high = (members, 0) if low + high >= members else (int(low), int(high))
        self._smallest: Array | None = None
        self._largest: Array | None = None

    def add(self, fields: Array, draws: Draws) -> None:
        """Take in members; see `Accumulator`."""
        self._smallest = _kept(self._smallest, fields, slice(self._low), self._low - 1)
        if self._high:
            part = slice(-self._high, None)
            self._largest = _kept(self._largest, fields, part, -self._high)

    def values(self) -> Sequence[Array]:
        """Return the quantiles."""
        assert self._smallest is not None
        low, high = np.sort(self._smallest, axis=0), None
        if self._largest is not None:
            high = np.sort(self._largest, axis=0)
        each = []
        for below, above, share in zip(self._below, self._above, self._share, strict=True):
            if above < len(low):
                first, last = low[below], low[above]
            else:
                assert high is not None
                first, last = high[below - self._members], high[above - self._members]
            each.append(_between(first, last, share))
        return (np.stack(each, axis=1),)


def _kept(held: Array | None, fields: Array, part: slice, place: int) -> Array | None:
    """Return those in a part of the order of what is held and new members; none for place -1."""
    every = fields if held is None else np.concatenate([held, fields])
    if part.stop == 0:
        return fields[:0]
    count = abs(part.stop or part.start or 0)
    if len(every) <= count:
        return every.copy()
    return np.partition(every, place, axis=0)[part].copy()


def _between(first: Array, last: Array, share: float) -> Array:
    """Interpolate linearly, from the nearer end, so that both ends are exact."""
    step = last - first
    return first + step * share if share < 0.5 else last - step * (1.0 - share)
