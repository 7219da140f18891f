"""The dates of records: their seasons, their order, and which come before which."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import GridError, InputError, LostBoundsWarning, OneSeasonWarning
from apsgeo.files.cf import MIDDLE
from apsgeo.labels.times import (
    are_dates,
    bounds_middle,
    date_codes,
    date_coordinate,
    first_of,
    part_of_year,
    read_date,
    regular_places,
)
from apsgeo.measurement.seasons import SEASONS, seasons_of

__all__ = ["Dates"]

_MONTHS = 12
_DAY = 86_400_000_000  # microseconds
_SETTAXIS = "cdo settaxis,1981-01-01,12:00:00,1mon in.nc out.nc"


@dataclass(frozen=True, eq=False)
class Dates:
    """The dates or numbers that tell records apart, or else their places.

    Attributes:
        values: Values (record,): datetime64, cftime of any calendar, or numbers.
        coordinate: Name of the coordinate, or None where the values are places.
        given: Name of the records in messages.
        middle: Dates (record,) in the middle of the bounds that `values` have, if any.
        stacked: Whether another coordinate tells apart records of the same date, as of the members
            of an ensemble.
        lost_bounds: Name of the bounds that the coordinate names and the records lack, if any.
    """

    values: NDArray[Any]
    coordinate: str | None
    given: str
    middle: NDArray[Any] | None = None
    stacked: bool = False
    lost_bounds: str | None = None

    @classmethod
    def of(cls, array: xr.DataArray, dims: tuple[str, ...], given: str) -> Dates:
        """Read the coordinate along the records that holds dates, else their numbers.

        Args:
            array: The records.
            dims: The dim that records lie along, as a tuple, which is empty for a single record.
            given: Name of the records in messages.

        Raises:
            InputError: If several coordinates hold dates, and nothing says which are meant.
        """
        name = date_coordinate(array, dims, given)
        if name is not None:
            values = np.atleast_1d(array[name].values)
            if values.dtype.kind == "O" and not are_dates(values):
                raise InputError(
                    f"{given} has times with a time zone, {array[name].dtype}; write them without, "
                    f"in universal time: .assign_coords({name}={name}.tz_convert('UTC')."
                    "tz_localize(None)), where it is an index of pandas"
                )
            along = {str(k) for k, each in array.coords.items() if dims and each.dims == dims}
            stacked = name not in dims and len(along - {name, name + MIDDLE}) > 0
            middle, bounds = bounds_middle(array, name), array[name].attrs.get("bounds")
            lost = None if middle is not None or bounds in array.coords else bounds
            return cls(values, name, given, middle, stacked, lost)
        for name in ("time", *dims):
            if name in array.coords and array[name].dims == dims:
                values = np.atleast_1d(array[name].values)
                if values.dtype.kind in "miuf":
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
        middle = None if self.middle is None else self.middle[index]
        return replace(self, values=self.values[index], middle=middle)

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
            times = 1000 * self.ticks  # wraps around far from 1970, which an identifier may
            return times + self._repetition if self.stacked else times
        if kind == "f":
            return self.values.astype(np.float64).view(np.int64)
        return self.values.astype(np.int64)

    @property
    def _repetition(self) -> NDArray[np.int64]:
        """How many records (record,) before each have the same date."""
        order = self.ticks.argsort(kind="stable")
        ticks, count = self.ticks[order], np.arange(len(self))
        first = np.maximum.accumulate(np.where(np.diff(ticks, prepend=ticks[0] - 1) != 0, count, 0))
        repetition = np.empty(len(self), np.int64)
        repetition[order] = count - first
        return repetition

    @property
    def names(self) -> list[str]:
        """Name of each record in messages."""
        if self.coordinate is None:
            return [f"record {place}" for place in self.values]
        return [re.sub(r"[T ]00:00:00(\.0+)?$", "", str(value)) for value in self.values]

    def season(self, seasons: int) -> NDArray[np.int64]:
        """Return the index (record,) of each record's season.

        Of twelve it is the month - 1, of one 0, and of others the part of the year in its calendar
        and of the day; see `apsgeo.measurement.seasons`.

        Raises:
            InputError: If there are several seasons and no dates.
        """
        if seasons == 1:
            return np.zeros(len(self), dtype=np.int64)
        if not self.known:
            raise InputError(
                f"the model knows {seasons} seasons, and {self.given} has no dates, but "
                f"{self.names[0]}, ...; give it a coordinate 'time' of dates: "
                ".assign_coords(time=...), of numbers like 201601 by pandas.to_datetime(time, "
                "format='%Y%m'), and of those with units such as 'days since 1900-01-01' by "
                "xarray.decode_cf(dataset)",
                shell=_SETTAXIS,
            )
        dates = self.values if self.middle is None else self.middle
        if seasons == _MONTHS:
            return (date_codes(dates, 2) - 1) % 13
        kind = seasons_of(seasons)
        part = np.minimum((part_of_year(dates) * kind.parts).astype(np.int64), kind.parts - 1)
        _, seconds = np.divmod(date_codes(dates), 24 * 3600)
        return part * kind.hours + seconds * kind.hours // (24 * 3600)

    def count_seasons(self, wanted: int | None = None) -> int:
        """Return the number of seasons of which every one is there at least twice, as many as fit.

        That is 73, of five days, for steps up to these, or parts of the year and of the day for
        steps below a day; 36 for steps up to ten days; 12, the months; or 1.

        Args:
            wanted: Number that is asked for.

        Raises:
            InputError: If there are no such seasons, or not two records of each.

        Warns:
            OneSeasonWarning: If there are dates, and yet one season.
        """
        if wanted is not None:
            return self._with_seasons(wanted)
        if not self.known:
            return 1
        steps = np.diff(np.unique(self.ticks))
        days = float(np.median(steps)) / _DAY if len(steps) else np.inf
        for seasons in (each.number for each in SEASONS if days <= each.most):
            counts = np.bincount(self.season(seasons), minlength=seasons)
            if counts.min() >= 2 and seasons > 1:
                return seasons
            counts = np.bincount(self.season(_MONTHS), minlength=_MONTHS)
        warnings.warn(
            f"{self.given} has the month {int(counts.argmin()) + 1} in {counts.min()} records to "
            "learn from, where monthly normals need two of each: one normal holds for all times",
            OneSeasonWarning,
            stacklevel=3,
        )
        return 1

    def _with_seasons(self, wanted: int) -> int:
        known = [each.number for each in SEASONS]
        if wanted not in known:
            raise InputError(f"seasons={wanted} given; expected one of {sorted(known)}")
        counts = np.bincount(self.season(wanted), minlength=wanted)
        if counts.min() < 2:
            raise InputError(
                f"seasons={wanted} given, and {self.given} has {counts.min()} records of season "
                f"{counts.argmin()} to learn from, where two are needed; ask for fewer"
            )
        return wanted

    def check_order(self) -> None:
        """Check that no value is missing, and that values ascend or descend, unless stacked.

        Raises:
            GridError: If a value is missing or repeated, or they do neither.
        """
        name, ticks = self.coordinate, self.ticks
        self._check_finite()
        if self.stacked:
            return
        self.check_unique()
        if not ((ticks[1:] > ticks[:-1]).all() or (ticks[1:] < ticks[:-1]).all()):
            raise GridError(
                f"{name!r} neither ascends nor descends; use .sortby({name!r})",
                shell="cdo sorttimestamp in.nc out.nc",
            )

    def _check_finite(self) -> None:
        if self.values.dtype.kind in "Mmf" and (bad := ~np.isfinite(self.values)).any():
            raise GridError(
                f"{self.coordinate!r} is missing or infinite in {bad.sum()} records; drop them: "
                f".dropna({self.coordinate!r})"
            )

    def check_unique(self) -> None:
        """Check that no value is repeated.

        Raises:
            GridError: If a value is.
        """
        _, first, counts = np.unique(self.ticks, return_index=True, return_counts=True)
        if len(counts) < len(self):
            raise GridError(
                f"{self.coordinate!r} holds {self.values[first[counts.argmax()]]} {counts.max()} "
                f"times in {self.given}; keep one: .drop_duplicates({self.coordinate!r})",
                shell="cdo mergetime, which keeps one of equal times with SKIP_SAME_TIME=1",
            )

    def check_history(self) -> None:
        """Check that the values are dates, in ascending order but for stacked ensembles.

        Raises:
            InputError: If the values are not dates.
            GridError: If they do not ascend.
        """
        if not self.known:
            raise InputError(
                f"the times of {self.given} hold no dates, which tell the seasons and what is held "
                f"out, but {self.names[0]}, ...; assign them: .assign_coords(time=xr.date_range("
                "'1981-01', periods=len(history), freq='MS')), say, or name the dim 'sample' if "
                "these are samples without dates.",
                shell=_SETTAXIS,
            )
        self.check_order()
        if not self.stacked and (self.ticks[1:] < self.ticks[:-1]).any():
            name = self.coordinate
            raise GridError(
                f"the times of {self.given} must ascend; use .sortby({name!r}).",
                shell="cdo sorttimestamp in.nc out.nc",
            )

    def warn_of_lost_bounds(self) -> None:
        """Warn of dates that are the ends of months as well as their starts.

        Bounds tell which, and a variable that is taken out of a data set leaves them behind.

        Warns:
            LostBoundsWarning: If the bounds are gone, and all dates are where two months meet.
        """
        if self.lost_bounds is None or not self.known:
            return
        codes = date_codes(self.values)
        months = date_codes(self.values, 2)
        if len(np.unique(months)) < len(self) or (codes != first_of(months)).any():
            return
        warnings.warn(
            f"{self.given} has dates such as {self.names[0]}, where one month ends and the next "
            f"begins, and lacks their bounds, {self.lost_bounds!r}: each is taken for the month "
            "that begins; give the data set with its bounds, or dates within the months",
            LostBoundsWarning,
            stacklevel=4,
        )

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
        return str(self.values[self.ticks.argsort(kind="stable")[first]]) if self.known else first

    @property
    def span(self) -> list[str]:
        """Name of the earliest and of the latest record."""
        return [str(self.values[at]) for at in (self.ticks.argmin(), self.ticks.argmax())]

    def steps(self) -> NDArray[np.int64]:
        """Return the place (record,) of each record on an axis of equal steps, which may have gaps.

        Raises:
            GridError: If values do not ascend, or steps differ.
        """
        self.check_order()
        return regular_places(self.values, self.ticks, self.known)

    def places_of(self, others: Dates) -> NDArray[np.int64]:
        """Return the place (other,) of each other date among these, -1 where it is not there.

        Dates of two calendars are the same if their years, months, days and times of day are.
        """
        own, other = self.ticks, others.ticks
        if self.calendar != others.calendar:
            if not (self.known and others.known):
                return np.full(len(others), -1)
            own, other = date_codes(self.values), date_codes(others.values)
        order = np.argsort(own)
        after = np.searchsorted(own, other, sorter=order)
        place = order[after.clip(max=len(self) - 1)]
        return np.where(own[place] == other, place, -1)

    def _between(self, first: str, last: str | None, argument: str) -> NDArray[np.bool_]:
        if not self.known:
            raise InputError(
                f"{argument} names dates, and {self.given} has none; give its records dates, or "
                "fit without."
            )
        found = np.zeros(len(self), dtype=bool)
        first, last = _dashed(first), None if last is None else _dashed(last)
        try:
            if self.values.dtype.kind == "M":  # in its own unit: pandas fails far from 1970
                found = self.values >= np.datetime64(first)
                return found if last is None else found & (self.values < np.datetime64(last) + 1)
            code, fields = read_date(first, str(self.calendar))
            found = date_codes(self.values, fields) >= code
            if last is not None:
                code, fields = read_date(last, str(self.calendar))
                found &= date_codes(self.values, fields) <= code
        except (TypeError, ValueError) as error:
            raise InputError(
                f"{argument} cannot be read as dates of the calendar {self.calendar!r}; give them "
                "as '2001-12-31'."
            ) from error
        return found


def _dashed(date: str) -> str:
    """Write 20011231 as 2001-12-31: numpy takes the former for a year."""
    return re.sub(r"^(\d{4})(\d{2})(\d{2})$", r"\1-\2-\3", date)
