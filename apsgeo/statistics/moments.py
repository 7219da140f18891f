"""Mean and standard deviation of the members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apsgeo.errors import InputError
from apsgeo.measurement import Draws
from apsgeo.statistics.statistic import Array, Output, Site, Statistic

__all__ = ["Mean", "Std"]


@dataclass(frozen=True)
class Mean(Statistic):
    """The mean of the members."""

    def outputs(self, site: Site) -> Sequence[Output]:
        """Return the variable ``NAME_mean``."""
        attrs = {"long_name": "ensemble mean of {}", "cell_methods": "realization: mean"}
        return (Output("mean", attrs=attrs),)

    def start(self, site: Site) -> _Moments:
        """Return the state before the first member."""
        return _Moments(spread=False)


@dataclass(frozen=True)
class Std(Statistic):
    """The standard deviation of the members, with one less than their number as divisor."""

    def check(self, site: Site) -> None:
        """Check that there are two members.

        Raises:
            InputError: If there is one.
        """
        if site.members < 2:
            raise InputError("a standard deviation was asked for of one member; draw more members")

    def outputs(self, site: Site) -> Sequence[Output]:
        """Return the variable ``NAME_std``."""
        attrs = {
            "long_name": "ensemble standard deviation of {}",
            "cell_methods": "realization: standard_deviation",
        }
        return (Output("std", attrs=attrs),)

    def start(self, site: Site) -> _Moments:
        """Return the state before the first member."""
        return _Moments(spread=True)


class _Moments:
    """Mean and sum of squared deviations, updated batch by batch.

    See Chan, Golub & LeVeque 1983, *Algorithms for computing the sample variance*, eq. 2.1.
    """

    def __init__(self, spread: bool) -> None:
        self._spread, self._count = spread, 0
        self._mean: Array = np.zeros(())
        self._squares: Array = np.zeros(())

    def add(self, fields: Array, draws: Draws) -> None:
        """Take in members; see `Accumulator`."""
        count, total = len(fields), self._count + len(fields)
        mean = fields.mean(0, dtype=np.float64)
        shift = mean - self._mean
        if self._spread:
            within = np.square(fields - mean).sum(0)
            self._squares = self._squares + within + shift**2 * (self._count * count / total)
        self._mean, self._count = self._mean + shift * (count / total), total

    def values(self) -> Sequence[Array]:
        """Return the mean, or the standard deviation."""
        if self._spread:
            return (np.sqrt(self._squares / (self._count - 1)),)
        return (self._mean,)
