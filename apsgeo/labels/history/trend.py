"""The trend of a labelled history: along time, or an index that users give."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.labels.dates import Dates
from apsgeo.labels.records import Records
from apsgeo.measurement import Normals
from apsgeo.measurement.trend import Index, Trend

__all__ = ["fit_trend"]


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
        raise InputError(f"trend={trend!r}; give 'linear', or an index as a DataArray along 'time'")

    def anomalies(records: Records) -> Tensor:
        return normals.encode(records.values, records.season(normals.seasons))

    later = (anomalies(held), held.instants) if len(held.dates) else None
    areas = learned.layout.domain.areas.double() * normals.valid
    return Trend.fit(index, anomalies(learned), times, areas, later, baseline)


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
