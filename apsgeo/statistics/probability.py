"""The share of the members beyond a threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from apsgeo.errors import InputError
from apsgeo.measurement import Draws
from apsgeo.statistics.statistic import Array, Output, Site, Statistic, number_axis

__all__ = ["Exceedance"]


@dataclass(frozen=True, init=False)
class Exceedance(Statistic):
    """The probability that a value is above thresholds, or below: the share of the members.

    Args:
        thresholds: Thresholds, in the units of the data.
        above: Whether values above count; else those below.

    Raises:
        InputError: If there is no threshold, or one is not finite.
    """

    thresholds: tuple[float, ...]
    above: bool

    def __init__(self, *thresholds: float, above: bool = True) -> None:
        if not thresholds or not np.isfinite(thresholds).all():
            raise InputError(
                f"Exceedance{thresholds} given; expected thresholds in the units of the data, such "
                "as Exceedance(0.0)"
            )
        object.__setattr__(self, "thresholds", tuple(sorted({float(t) for t in thresholds})))
        object.__setattr__(self, "above", bool(above))

    def outputs(self, site: Site) -> Sequence[Output]:
        """Return the variable ``NAME_probability_above``, with the dim ``above``, or below."""
        side = "above" if self.above else "below"
        axis = number_axis(side, self.thresholds, long_name="threshold, in the units of the data")
        attrs = {"long_name": f"probability that {{}} is {side} the threshold"}
        return (Output(f"probability_{side}", axis, units="1", attrs=attrs),)

    def start(self, site: Site) -> _Counts:
        """Return the state before the first member."""
        return _Counts(self)


class _Counts:
    def __init__(self, asked: Exceedance) -> None:
        self._asked, self._count = asked, 0
        self._beyond: Array | None = None
        self._missing: Array = np.zeros((), dtype=bool)

    def add(self, fields: Array, draws: Draws) -> None:
        """Take in members; see `Accumulator`."""
        above = self._asked.above
        each = [
            np.count_nonzero(fields > t if above else fields < t, axis=0)
            for t in self._asked.thresholds
        ]
        counts = np.stack(each, axis=1)
        self._beyond = counts if self._beyond is None else self._beyond + counts
        self._missing = self._missing | np.isnan(fields[0])
        self._count += len(fields)

    def values(self) -> Sequence[Array]:
        """Return the shares, NaN where there are no values."""
        assert self._beyond is not None
        return (np.where(self._missing[:, None], np.nan, self._beyond / self._count),)
