"""Tables of observations: one value a row, with its time, place, error and units."""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from apsgeo.errors import InputError, LeftOutWarning, UnitsError
from apsgeo.labels.units import conversion
from apsgeo.table.cells import numbers_in, times_in
from apsgeo.table.names import known_columns, values_of
from apsgeo.table.read import is_frame

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Table"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Table:
    """The columns of a table of observations, one value a row.

    Attributes:
        time: Times (row,), datetime64 or cftime; None if the table has none.
        lat, lon: Degrees (row,); None if the table has none.
        places: Coordinates (row, axis) by x, y, z, as far as the table has them.
        axes: Names of these coordinates.
        values: Values (row,), finite, in the units wanted.
        error: Standard deviation (row,) of their noise, NaN where the table tells none.
        channel: Channel (row,).
        labels: Other columns (row,), such as instrument.
        given: Name of the table in messages.
    """

    time: NDArray[Any] | None
    lat: Array | None
    lon: Array | None
    places: Array
    axes: tuple[str, ...]
    values: Array
    error: Array
    channel: NDArray[np.int64]
    labels: Mapping[str, NDArray[Any]]
    given: str

    @classmethod
    def of(
        cls, frame: Any, names: Sequence[str], units: str | None = None, given: str = "obs"
    ) -> Table:
        """Read the columns of a table.

        Values are in a column for each variable, or in one (``value``) with the name of the
        variable in another, if there are several. Rows without a value are left out.

        Args:
            frame: Table, of pandas or what becomes one.
            names: Names of the model's variables.
            units: Units of the model, joined by commas if they differ by variable.
            given: Name of the table in messages.

        Raises:
            InputError: If a column is missing, is there twice, or holds no numbers or dates; or a
                row has no time or place.
            UnitsError: If the units are known, and it is not known how they are converted.

        Warns:
            LeftOutWarning: If rows are there twice.
        """
        frame = frame if is_frame(frame) else frame.to_pandas()
        frame = _reset(frame)
        if len(frame) == 0:
            raise InputError(f"{given} has no row; give a table with one observation or more")
        found = known_columns(frame, given)
        values, channel, row = values_of(frame, found, names, given)
        kept = np.isfinite(values)
        if (infinite := int(np.isinf(values).sum())) > 0:
            raise InputError(f"{given} has {infinite} infinite values; leave these rows out")
        if not kept.any():
            raise InputError(f"{given} has no value in any row; give one observation or more")
        values, channel, row = values[kept], channel[kept], row[kept]
        part = frame.iloc[row]
        numbers: dict[str, Array] = {
            name: numbers_in(part[found[name]], given)
            for name in ("lat", "lon", "x", "y", "z", "error")
            if name in found
        }
        axes: tuple[str, ...] = tuple(name for name in ("y", "x") if name in numbers)
        axes = ("x", "y", "z") if "z" in numbers and len(axes) == 2 else axes
        time = times_in(part[found["time"]], given) if "time" in found else None
        _check_complete(time, numbers, row, given)
        error = numbers.get("error", np.full(len(row), np.nan))
        scale, offset = _conversion(frame, part, found, names, channel, units, given)
        used = {found[name] for name in found}
        labels = {str(name): part[name].to_numpy() for name in frame.columns if name not in used}
        table = cls(
            time=time,
            lat=numbers.get("lat"),
            lon=numbers.get("lon"),
            places=np.stack([numbers[name] for name in axes], 1)
            if axes
            else np.empty((len(row), 0)),
            axes=axes,
            values=scale * values + offset,
            error=np.where(error > 0, scale * error, np.where(np.isnan(error), np.nan, error)),
            channel=channel,
            labels=labels,
            given=given,
        )
        return table._without_repeated(part, np.array([str(names[c]) for c in channel]))

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, index: NDArray[Any]) -> Table:
        """Return some of the rows."""
        some = {name: getattr(self, name) for name in ("time", "lat", "lon")}
        return Table(
            **{name: None if each is None else each[index] for name, each in some.items()},
            places=self.places[index],
            axes=self.axes,
            values=self.values[index],
            error=self.error[index],
            channel=self.channel[index],
            labels={name: each[index] for name, each in self.labels.items()},
            given=self.given,
        )

    @classmethod
    def joined(cls, tables: Sequence[Table]) -> Table:
        """Return the rows of several tables as one; where one lacks a column of others it is None.

        Raises:
            InputError: If some have times or the same kind of dates and others not.
        """
        first = tables[0]
        kinds = {None if each.time is None else each.time.dtype.kind for each in tables}
        if len(kinds) > 1:
            raise InputError(
                "some observations have dates, and others have none or those of another calendar; "
                "give all of them the same kind"
            )
        names = dict.fromkeys(name for each in tables for name in each.labels)
        nothing = [np.full(len(each), None, dtype=object) for each in tables]
        labels = {
            name: np.concatenate(
                [each.labels.get(name, none) for each, none in zip(tables, nothing, strict=True)]
            )
            for name in names
        }
        lat, lon = (_joined([getattr(each, name) for each in tables]) for name in ("lat", "lon"))
        width = min(each.places.shape[1] for each in tables)
        return cls(
            time=None if first.time is None else np.concatenate([t.time for t in tables]),
            lat=lat,
            lon=lon,
            places=np.concatenate([each.places[:, :width] for each in tables]),
            axes=first.axes[:width],
            values=np.concatenate([each.values for each in tables]),
            error=np.concatenate([each.error for each in tables]),
            channel=np.concatenate([each.channel for each in tables]),
            labels=labels,
            given="obs",
        )

    def _without_repeated(self, part: pd.DataFrame, variable: NDArray[np.str_]) -> Table:
        """Leave out rows that are the same as one before, in every column."""
        same = part.assign(**{"the variable": variable, "the value": self.values}).astype(str)
        again = same.duplicated().to_numpy()
        if not again.any():
            return self
        first = int(np.flatnonzero(again)[0])
        warnings.warn(
            f"{self.given} has {int(again.sum())} rows that are there before, in every column, "
            f"such as {self.where(first)}: each counts once",
            LeftOutWarning,
            stacklevel=4,
        )
        return self[~again]

    def where(self, row: int) -> str:
        """Return the value, time and place of a row, for messages."""
        place = (
            f"lat={self.lat[row]:g}, lon={self.lon[row]:g}"
            if self.lat is not None and self.lon is not None
            else ", ".join(f"{n}={v:g}" for n, v in zip(self.axes, self.places[row], strict=True))
        )
        when = "" if self.time is None else f", {str(self.time[row]).split('.')[0]}"
        return f"{place}{when}"


def _joined(parts: Sequence[Array | None]) -> Array | None:
    there = [part for part in parts if part is not None]
    return np.concatenate(there) if len(there) == len(parts) else None


def _reset(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table whose named index levels are columns."""
    named = [name for name in frame.index.names if name is not None and name not in frame.columns]
    return frame.reset_index() if named else frame.reset_index(drop=True)


def _check_complete(
    time: NDArray[Any] | None, numbers: Mapping[str, Array], row: NDArray[np.int64], given: str
) -> None:
    """Check that every row has a time and a place, and no error below zero."""
    bad = {
        name: ~np.isfinite(numbers[name])
        for name in ("lat", "lon", "x", "y", "z")
        if name in numbers
    }
    if time is not None and time.dtype.kind == "M":
        bad["time"] = np.isnat(time)
    for name, where in bad.items():
        if where.any():
            raise InputError(
                f"{given} has no {name} in {int(where.sum())} rows with a value, such as row "
                f"{int(row[where][0])}; fill it in, or leave these rows out"
            )
    if "error" in numbers:
        wrong = (numbers["error"] <= 0) | np.isinf(numbers["error"])
        if wrong.any():
            raise InputError(
                f"{given} has an error of {numbers['error'][wrong][0]:g} in {int(wrong.sum())} "
                f"rows, such as row {int(row[wrong][0])}; give a standard deviation above zero, or "
                "none"
            )
    for name, most in (("lat", 90.0), ("lon", 360.0)):
        if name in numbers and (far := np.abs(numbers[name]) > most).any():
            raise InputError(
                f"{given} has the {name} {numbers[name][far][0]:g} in row {int(row[far][0])} and "
                f"{int(far.sum()) - 1} others; expected degrees, at most {most:g}"
            )


def _conversion(
    frame: pd.DataFrame,
    part: pd.DataFrame,
    found: Mapping[str, Any],
    names: Sequence[str],
    channel: NDArray[np.int64],
    units: str | None,
    given: str,
) -> tuple[Array, Array]:
    """Return factor and offset (row,) by which values come to the model's units."""
    scale, offset = np.ones(len(part)), np.zeros(len(part))
    if units is None:
        return scale, offset
    each = [unit.strip() for unit in units.split(",")]
    wanted = each if len(each) == len(names) else each[:1] * len(names)
    if "units" in found:
        own = part[found["units"]].astype(str).to_numpy()
    else:
        told = frame.attrs.get("units")
        by_channel = [told if isinstance(told, str) else None] * len(names)
        for c in range(len(names)):
            name = found.get(f"value {c}", found.get("value"))
            if isinstance(told, Mapping) and name in told:
                by_channel[c] = str(told[name])
            if match := re.search(r"[\(\[](.+?)[\)\]]", str(name)):
                by_channel[c] = match[1]
        own = np.array([by_channel[c] for c in channel], dtype=object)
    for c, unit in sorted({(int(c), u) for c, u in zip(channel, own, strict=True) if u}):
        factors = conversion(unit, wanted[c])
        if factors is None:
            raise UnitsError(
                f"{given} has units {unit!r}, and the model has {wanted[c]!r}; convert the values, "
                "and say so in the column 'units'"
            )
        rows = (channel == c) & (own == unit)
        scale[rows], offset[rows] = factors
    return scale, offset
