"""The trend of a labelled history: along time, or an index that users give."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.labels.dates import Dates
from apsgeo.labels.records import Records
from apsgeo.measurement import Normals
from apsgeo.measurement.trend import Index, Trend

__all__ = ["fit_trend", "preferred_trend"]

_YEAR = 365.25 * 86400e6  # microseconds
_LEARNED, _HELD = 15, 3  # years of a history that can tell whether a trend goes on


def fit_trend(
    trend: str | xr.DataArray,
    normals: Normals,
    learned: Records,
    held: Records,
    baseline: Tensor | None,
) -> Trend:
    """Fit the trend of a history's standardized anomalies; see `Trend.fit`.

    Args:
        trend: "linear", or an index (time,) with dates.
        normals: Normals of the history, without trend.
        learned: Records to learn from.
        held: Records that are held out, maybe none, which decide how much the slopes are shrunk.
        baseline: Mask (record,) of the records that define the normals; None for all.

    Raises:
        InputError: If the history has no dates, or the index cannot be read or lacks its times.
    """
    if not learned.dates.known:
        raise InputError(
            "trend= with a history without dates; give it a coordinate 'time' of dates: "
            ".assign_coords(time=...)"
        )
    times = learned.instants
    index = Index.linear(times) if isinstance(trend, str) else _given(trend, learned)
    if isinstance(trend, str) and trend != "linear":
        raise InputError(
            f"trend={trend!r}; give 'auto', 'linear', or an index as a DataArray along 'time'"
        )

    def anomalies(records: Records) -> Tensor:
        return normals.encode(records.values, records.season(normals.seasons))

    later = (anomalies(held), held.instants) if len(held.dates) else None
    areas = learned.layout.domain.areas.double() * normals.valid
    return Trend.fit(index, anomalies(learned), times, areas, later, baseline)


def preferred_trend(
    normals: Normals, learned: Records, held: Records, baseline: Tensor | None
) -> Literal["linear"] | None:
    """Return "linear" if held-out years are nearer to a trend than to the normals, else None.

    The trend is fitted without the held-out years. The mean squares of their anomalies about it and
    about the normals are compared year by year: those about the trend have to be smaller by more
    than the standard error of the mean difference. A history of less than 15 years to learn from
    and three held out has no trend.

    Args:
        normals: Normals of the history, without trend.
        learned: Records to learn from.
        held: Records that are held out.
        baseline: Mask (record,) of the records that define the normals; None for all.
    """
    if not learned.dates.known or "lag" in learned.array.dims or len(held.dates) == 0:
        return None
    times, later = learned.instants, held.instants
    spans = [float(each.max() - each.min()) / _YEAR for each in (times, later)]
    if spans[0] < _LEARNED - 1 or spans[1] < _HELD - 1:
        return None

    def anomalies(records: Records) -> Tensor:
        return normals.encode(records.values, records.season(normals.seasons))

    areas = learned.layout.domain.areas.double() * normals.valid
    found = Trend.fit(Index.linear(times), anomalies(learned), times, areas, None, baseline)
    left = anomalies(held)
    gain = ((left - found.shift(later)).square() - left.square()).double() @ areas
    year = ((later - later.min()) / _YEAR).long()
    each = torch.stack([gain[year == k].mean() for k in year.unique()])
    if len(each) < _HELD:
        return None
    error = float(each.std()) / len(each) ** 0.5
    return "linear" if float(each.mean()) + error < 0.0 else None


def _given(trend: xr.DataArray, learned: Records) -> Index:
    """Read an index that users give."""
    if not isinstance(trend, xr.DataArray) or trend.ndim != 1:
        raise InputError(f"trend={trend!r}; give 'linear', or an index as a DataArray along 'time'")
    dates = Dates.of(trend, tuple(map(str, trend.dims)), "trend")
    values = torch.from_numpy(np.asarray(trend.values, dtype=np.float64))
    if not dates.known or dates.calendar != learned.dates.calendar:
        raise InputError(
            f"the index of the trend has the calendar {dates.calendar!r}, the history "
            f"{learned.dates.calendar!r}; give it dates of the same calendar."
        )
    if not bool(torch.isfinite(values).all()):
        raise InputError("the index of the trend has NaN or infinite values; fill or drop them.")
    times = torch.from_numpy(dates.ticks.astype(np.float64))
    own = learned.instants
    if len(times) < 2 or bool((times.diff() <= 0).any()):
        raise InputError("the dates of the trend's index must ascend; use .sortby('time').")
    if float(times[0]) > float(own[0]) or float(times[-1]) < float(own[-1]):
        raise InputError(
            f"the index of the trend has dates from {dates.names[0]} to {dates.names[-1]}, and the "
            f"history from {learned.dates.names[0]} to {learned.dates.names[-1]}; give an index "
            "that covers the history, and the times to come."
        )
    return Index(times, values, extend=False)
