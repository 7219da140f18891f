"""The dates of records: their seasons, their order, and which come before which."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import GridError, InputError

__all__ = ["Dates"]

_MONTHS = 12


@dataclass(frozen=True, eq=False)
class Dates:
    """The dates or numbers that tell records apart, or else their places.

    Attributes:
        values: Values (record,): datetime64, cftime of any calendar, or numbers.
        coordinate: Name of the coordinate, or None where the values are places.
        given: Name of the records in messages.
    """

    values: NDArray[Any]
    coordinate: str | None
    given: str

    @classmethod
    def of(cls, array: xr.DataArray, dims: tuple[str, ...], given: str) -> Dates:
        """Read the coordinate "time", or else that of the records' dim.

        Args:
            array: The records.
            dims: The dim that records lie along, as a tuple, which is empty for a single record.
            given: Name of the records in messages.
        """
        for name in ("time", *dims):
            if name in array.coords and array[name].dims == dims:
                values = np.atleast_1d(array[name].values)
                if values.dtype.kind in "Mmiuf" or _are_cftime(values):
                    return cls(values, name, given)
                break
        return cls.counted(array.sizes[dims[0]] if dims else 1, given)

    @classmethod
    def counted(cls, count: int, given: str) -> Dates:
        """Return dates for records that have none: their places."""
        return cls(np.arange(count), None, given)

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: slice | NDArray[Any]) -> Dates:
        return replace(self, values=self.values[index])

    @property
    def known(self) -> bool:
        """Whether the values are dates."""
        return self.values.dtype.kind in "MO"

    @property
    def calendar(self) -> str | None:
        """The calendar of the dates, "standard" for datetime64; None for values without dates."""
        if self.values.dtype.kind != "O":
            return "standard" if self.known else None
        name = str(self.values[0].calendar)
        return "standard" if name in ("gregorian", "proleptic_gregorian") else name

    @cached_property
    def ticks(self) -> NDArray[Any]:
        """Numbers (record,) in the order of the values; for dates, microseconds since 1970."""
        kind = self.values.dtype.kind
        if kind in "Mm":
            return self.values.astype(f"{kind}8[us]").astype(np.int64)
        if kind == "O":
            import cftime

            since = "microseconds since 1970-01-01"
            return cftime.date2num(self.values, since, self.values[0].calendar).astype(np.int64)
        return self.values

    @cached_property
    def key(self) -> NDArray[np.int64]:
        """The int64 (record,) that names each record for its random draws.

        That is its time in ns since 1970, its number, or its place.
        """
        kind = self.values.dtype.kind
        if kind in "MmO":
            return 1000 * self.ticks  # wraps around far from 1970, which an identifier may
        if kind == "f":
            return self.values.astype(np.float64).view(np.int64)
        return self.values.astype(np.int64)

    @property
    def names(self) -> list[str]:
        """Name of each record in messages."""
        if self.coordinate is None:
            return [f"record {place}" for place in self.values]
        return [str(value).removesuffix("T00:00:00.000000000") for value in self.values]

    def season(self, seasons: int) -> NDArray[np.int64]:
        """Return the index (record,) of each record's season: month - 1, or 0 if there is only one.

        Raises:
            InputError: If there are several seasons and no dates.
        """
        if seasons == 1:
            return np.zeros(len(self), dtype=np.int64)
        if not self.known:
            raise InputError(
                f"the model knows {seasons} seasons, and {self.given} has no dates; give it a "
                "coordinate 'time' of dates: .assign_coords(time=...)"
            )
        if self.values.dtype.kind == "M":
            return self.values.astype("datetime64[M]").astype(np.int64) % _MONTHS
        return np.array([date.month - 1 for date in self.values], dtype=np.int64)

    def count_seasons(self) -> int:
        """Return 12 if every month is there at least twice, else 1."""
        if not self.known:
            return 1
        counts = np.bincount(self.season(_MONTHS), minlength=_MONTHS)
        return _MONTHS if counts.min() >= 2 else 1

    def check_order(self) -> None:
        """Check that no value is missing, and that values ascend or descend.

        Raises:
            GridError: If a value is missing or repeated, or they do neither.
        """
        name, ticks = self.coordinate, self.ticks
        if self.values.dtype.kind in "Mmf" and (bad := ~np.isfinite(self.values)).any():
            raise GridError(f"{name!r} is missing or infinite in {bad.sum()} records; drop them")
        self.check_unique()
        if not ((ticks[1:] > ticks[:-1]).all() or (ticks[1:] < ticks[:-1]).all()):
            raise GridError(f"{name!r} neither ascends nor descends; use .sortby({name!r})")

    def check_unique(self) -> None:
        """Check that no value is repeated.

        Raises:
            GridError: If a value is.
        """
        _, first, counts = np.unique(self.ticks, return_index=True, return_counts=True)
        if len(counts) < len(self):
            raise GridError(
                f"{self.coordinate!r} holds {self.values[first[counts.argmax()]]} {counts.max()} "
                f"times in {self.given}; keep one: .drop_duplicates({self.coordinate!r})"
            )

    def check_history(self) -> None:
        """Check that the values are dates, in ascending order.

        Raises:
            InputError: If the values are not dates.
            GridError: If they do not ascend.
        """
        if not self.known:
            raise InputError(
                f"the 'time' of {self.given} holds no dates, which tell the seasons and what is "
                "held out; assign them, or name the dim otherwise if these are samples without "
                "dates: .rename(time='sample')."
            )
        self.check_order()
        if (self.ticks[1:] < self.ticks[:-1]).any():
            raise GridError(f"the times of {self.given} must ascend; use .sortby('time').")

    def within(self, first: str, last: str) -> NDArray[np.bool_]:
        """Tell which records (record,) lie between two dates, each of which may be a year or month.

        Raises:
            InputError: If records have no dates, or an end cannot be read.
        """
        return self._between(first, last, f"baseline={(first, last)!r}")

    def since(self, start: str | int | None) -> NDArray[np.bool_]:
        """Tell which records (record,) are not before a date or a number; none are if it is None.

        Raises:
            InputError: If a date is given and records have none, or it cannot be read.
        """
        if isinstance(start, str):
            return self._between(start, None, f"held_out_from={start!r}")
        return np.arange(len(self)) >= (len(self) if start is None else start)

    def last_tenth(self) -> str | int | None:
        """Return the first date, or number, of the last tenth; None for fewer than ten records."""
        first = len(self) - len(self) // 10
        if first == len(self):
            return None
        return str(self.values[first]) if self.known else first

    def places_of(self, others: Dates) -> NDArray[np.int64]:
        """Return the place (other,) of each other date among these, -1 where it is not there."""
        if self.calendar != others.calendar:
            return np.full(len(others), -1)
        order = np.argsort(self.ticks)
        after = np.searchsorted(self.ticks, others.ticks, sorter=order)
        place = order[after.clip(max=len(self) - 1)]
        return np.where(self.ticks[place] == others.ticks, place, -1)

    def _between(self, first: str, last: str | None, argument: str) -> NDArray[np.bool_]:
        if not self.known:
            raise InputError(
                f"{argument} names dates, and {self.given} has none along 'time'; give its records "
                "dates, or fit without."
            )
        found = np.zeros(len(self), dtype=bool)
        first, last = _dashed(first), None if last is None else _dashed(last)
        try:
            if self.values.dtype.kind == "M":  # in its own unit: pandas fails far from 1970
                found = self.values >= np.datetime64(first)
                return found if last is None else found & (self.values < np.datetime64(last) + 1)
            index = xr.DataArray(self.values, dims="time").to_index()
            # numpy writes nanoseconds, which cftime does not read
            found[index.slice_indexer(first.removesuffix(".000000000"), last)] = True
        except (TypeError, ValueError, KeyError) as error:
            raise InputError(
                f"{argument} cannot be read as dates of the calendar {self.calendar!r}; give them "
                "as '2001-12-31'."
            ) from error
        return found


def _dashed(date: str) -> str:
    """Write 20011231 as 2001-12-31: numpy takes the former for a year."""
    return re.sub(r"^(\d{4})(\d{2})(\d{2})$", r"\1-\2-\3", date)


def _are_cftime(values: NDArray[Any]) -> bool:
    return values.dtype.kind == "O" and all(hasattr(value, "calendar") for value in values)
