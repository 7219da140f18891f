"""Records of a table: its times, binned to the steps of a model's history."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apsgeo.errors import InputError
from apsgeo.labels.times import date_codes
from apsgeo.posterior import Posterior

__all__ = ["binned", "usual_freq"]

_DAY = 86_400.0  # seconds
_YEAR = 12  # seasons
_MONTH, _LONG = 27.0, 92.0  # days from which on steps are months, and years
_MONTHS = {"MS": 1, "M": 1, "ME": 1, "QS": 3, "YS": 12, "YE": 12}
_FIXED = re.compile(r"(?P<count>\d*)(?P<unit>D|W|h|H|min)")
_SECONDS = {"D": _DAY, "W": 7 * _DAY, "h": 3600.0, "H": 3600.0, "min": 60.0}


def usual_freq(posterior: Posterior) -> str | None:
    """Return the step of the records that a model was fitted to, as pandas names it.

    None if it is not known.
    """
    days = posterior.step_days
    if days is None:
        return "MS" if posterior.normals.seasons == _YEAR else None
    if days >= _MONTH:
        return "MS" if days < _LONG else "YS"
    hours = max(1, round(days * 24))
    return f"{hours}h" if hours % 24 else f"{hours // 24}D"


def binned(
    time: NDArray[Any], freq: str | None, given: str
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the start of each record, in ascending order, and the record (row,) of each row.

    Args:
        time: Times (row,), datetime64 or cftime.
        freq: Step: "MS" for months, "YS", or a number of "D", "h" or "min" since 1970. None for
            one record for each different time.
        given: Name of the table in messages.

    Raises:
        InputError: If the step is none of these, or cannot be had in the calendar of the dates.
    """
    if freq is None:
        starts = time
    elif freq in _MONTHS:
        starts = _months(time, _MONTHS[freq])
    elif match := _FIXED.fullmatch(freq):
        seconds = int(match["count"] or 1) * _SECONDS[match["unit"]]
        starts = _steps(time, seconds, freq, given)
    else:
        raise InputError(
            f"freq={freq!r} given; expected 'MS' for months, 'YS' for years, or such as 'D', '5D', "
            "'6h'"
        )
    if starts.dtype.kind == "M":
        return np.unique(starts, return_inverse=True)
    _, first, record = np.unique(date_codes(starts), return_index=True, return_inverse=True)
    return starts[first], record


def _months(time: NDArray[Any], count: int) -> NDArray[Any]:
    if time.dtype.kind == "M":
        months = time.astype("datetime64[M]").astype(np.int64)
        return np.asarray(
            (months // count * count).astype("datetime64[M]").astype("datetime64[ns]")
        )
    return np.array(
        [
            each.replace(
                month=(each.month - 1) // count * count + 1,
                day=1, hour=0, minute=0, second=0, microsecond=0,
            )
            for each in time
        ],
        dtype=object,
    )  # fmt: skip


def _steps(time: NDArray[Any], seconds: float, freq: str, given: str) -> NDArray[Any]:
    if time.dtype.kind == "M":
        step = np.timedelta64(round(seconds), "s")
        ticks = time.astype("datetime64[s]") - np.datetime64(0, "s")
        return np.asarray((np.datetime64(0, "s") + ticks // step * step).astype("datetime64[ns]"))
    if seconds > _DAY or _DAY % seconds:
        raise InputError(
            f"freq={freq!r}, and the times of {given} are of the calendar {time[0].calendar!r}; "
            "there, give months ('MS'), days ('D'), or hours that divide a day"
        )
    starts = []
    for each in time:
        day = each.replace(hour=0, minute=0, second=0, microsecond=0)
        starts.append(day + (each - day) // _delta(seconds) * _delta(seconds))
    return np.array(starts, dtype=object)


def _delta(seconds: float) -> Any:
    from datetime import timedelta

    return timedelta(seconds=seconds)
