"""Which coordinate holds the dates of records, whatever its name, and how dates are compared."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import cftime
import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import GridError, InputError
from apsgeo.files.cf import MIDDLE
from apsgeo.labels.latlon import coordinate_of

__all__ = [
    "are_dates",
    "bounds_middle",
    "date_codes",
    "date_coordinate",
    "first_of",
    "is_time",
    "part_of_year",
    "read_date",
    "record_dims",
    "regular_places",
]

_NAMES = ("time", "valid_time", "time_counter")
_SPANS = (13, 32, 24, 60, 60)  # more than there are months, days, hours, minutes, seconds
_PATTERN = re.compile(
    r"(\d{1,5})(?:-(\d\d?)(?:-(\d\d?)(?:[T ](\d\d?)(?::(\d\d)(?::(\d\d)(?:\.\d*)?)?)?)?)?)?"
)


def is_time(dim: object) -> bool:
    """Tell whether the name of a dim says that records lie along it in time."""
    return str(dim).lower() in _NAMES


def are_dates(values: NDArray[Any]) -> bool:
    """Tell whether values are dates, datetime64 or cftime."""
    if values.dtype.kind != "O":
        return values.dtype.kind == "M"
    return all(hasattr(value, "calendar") for value in values.flat)


def record_dims(array: xr.DataArray) -> tuple[str, ...]:
    """Return the dims along which records lie in time: named so, or along which there are dates.

    Dates along a dim of latitudes and longitudes are those of places.
    """
    placed = {
        dim
        for standard in ("latitude", "longitude")
        if (found := coordinate_of(array, standard)) is not None
        for dim in found.dims
    }
    dated = {each.dims[0] for each in array.coords.values() if each.ndim == 1 and _dated(each)}
    return tuple(str(dim) for dim in array.dims if is_time(dim) or dim in dated - placed)


def date_coordinate(array: xr.DataArray, dims: tuple[str, ...], given: str) -> str | None:
    """Return the name of the coordinate along dims that holds the dates; None if none does.

    Of several it is the one with the ``standard_name`` "time" (CF), or that of the dim itself, or
    the one named "time".

    Raises:
        InputError: If several hold dates, and nothing says which are those of the records.
    """
    found = {str(k): v for k, v in array.coords.items() if v.dims == dims and _dated(v)}
    found = {name: each for name, each in found.items() if not _is_middle(name, found)}
    standard = [name for name, each in found.items() if each.attrs.get("standard_name") == "time"]
    own = [name for name in (*dims, "time") if name in found]
    for chosen in (standard, own[:1], list(found)):
        if len(chosen) == 1:
            return chosen[0]
    if not found:
        return None
    raise InputError(
        f"{given} has several coordinates of dates, {', '.join(found)}; keep the one that tells "
        f"when each record is: .drop_vars({list(found)[1]!r})"
    )


def _is_middle(name: str, others: Mapping[str, Any]) -> bool:
    return name.endswith(MIDDLE) and name.removesuffix(MIDDLE) in others


def _dated(coordinate: xr.DataArray) -> bool:
    kind = coordinate.dtype.kind  # other values are not read
    return kind == "M" or (kind == "O" and coordinate.size > 0 and are_dates(coordinate.values))


def bounds_middle(array: xr.DataArray, name: str) -> NDArray[Any] | None:
    """Return the middle (record,) of each record's time, if its dates have bounds.

    `apsgeo.files.cf.with_auxiliary` made it of them.
    """
    middle = array.coords.get(f"{name}{MIDDLE}")
    return None if middle is None else np.atleast_1d(middle.values)


def date_codes(values: NDArray[Any], fields: int = 6) -> NDArray[np.int64]:
    """Return numbers that order dates as their calendar does, and are equal for equal names.

    Args:
        values: Dates (record,), datetime64 or cftime.
        fields: How many of year, month, day, hour, minute and second count.
    """
    if values.dtype.kind == "M":
        months = values.astype("datetime64[M]")
        days = values.astype("datetime64[D]")
        seconds = (values - days).astype("timedelta64[s]").astype(np.int64)
        year, month = np.divmod(months.astype(np.int64) + 12 * 1970, 12)
        day = (days - months.astype("datetime64[D]")).astype(np.int64) + 1
        parts = [year, month + 1, day, seconds // 3600, seconds // 60 % 60, seconds % 60]
    else:
        table = [(d.year, d.month, d.day, d.hour, d.minute, d.second) for d in values]
        parts = list(np.array(table, dtype=np.int64).reshape(-1, 6).T)
    return _code(parts[:fields])


def first_of(months: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the codes of the first instants of months, of which the codes have two fields."""
    return np.asarray(_code([months, 1, 0, 0, 0], _SPANS[1:]))


def part_of_year(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return what part (record,) of its year has gone by at each date, in its own calendar."""
    if values.dtype.kind == "M":
        years = values.astype("datetime64[Y]")
        start = years.astype("datetime64[us]")
        length = (years + 1).astype("datetime64[us]") - start
        return np.asarray((values.astype("datetime64[us]") - start) / length, dtype=np.float64)
    starts = [date.replace(month=1, day=1, hour=0, minute=0, second=0) for date in values]
    lengths = [start.replace(year=start.year + 1) - start for start in starts]
    parts = [(d - s) / n for d, s, n in zip(values, starts, lengths, strict=True)]
    return np.array(parts, dtype=np.float64)


def read_date(date: str, calendar: str) -> tuple[np.int64, int]:
    """Return the code of a date such as "2001-12", and how many fields it gives.

    Raises:
        ValueError: If it is no date of the calendar.
    """
    match = _PATTERN.fullmatch(date.strip())
    if match is None:
        raise ValueError(f"{date!r} is no date")
    fields = [int(each) for each in match.groups() if each is not None]
    cftime.datetime(*[*fields, 1, 1][: max(3, len(fields))], calendar=calendar)
    return np.int64(_code(fields)), len(fields)


def _code(parts: Any, spans: Sequence[int] = _SPANS) -> Any:
    code = parts[0]
    for part, span in zip(parts[1:], spans, strict=False):
        code = code * span + part
    return code


def regular_places(values: NDArray[Any], ticks: NDArray[Any], known: bool) -> NDArray[np.int64]:
    """Return the place (record,) of each record on an axis of equal steps; gaps skip places.

    Dates four weeks or more apart go by months, others by the least step.

    Args:
        values: Dates, or numbers (record,), in ascending order.
        ticks: Numbers in their order.
        known: Whether they are dates.

    Raises:
        GridError: If steps differ.
    """
    steps = np.diff(ticks)
    if known and len(steps) and steps.min() >= 27 * 86_400_000_000:
        year, month = np.divmod(date_codes(values, 2), _SPANS[0])
        ticks = 12 * year + month
        steps = np.diff(ticks)
        least = np.gcd.reduce(steps)
    else:
        least = steps.min() if len(steps) else 1
    place = (ticks - ticks[0]) / max(least, 1e-300)
    if not (steps > 0).all() or np.abs(place - np.round(place)).max() > 0.01:
        raise GridError(
            "the times are not equally far apart, so neighbours mean something else at each; give "
            "records a month, a day or another fixed time apart (some may be missing)"
        )
    return np.round(place).astype(np.int64)
