"""Quality control: values that cannot be what they are said to be, found before they do harm."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.errors import InputError, OutlierWarning
from apsgeo.labels.records import Records
from apsgeo.measurement import Normals
from apsgeo.measurement.trend import Index
from apsgeo.operators import LinearMap

__all__ = ["Control", "Innovations", "check_control", "checked_history", "compared", "is_fill"]

Control = Literal["flag", "reject", "off"]
Array = NDArray[Any]

THRESHOLD = 10.0  # standard deviations of the prior beyond which a value is an outlier
_NO_VALUE = 100.0  # and beyond which it cannot be one
_FAR = 1000.0  # ranges of a history's values beyond which one cannot be a value
_HISTORY_THRESHOLD = 20.0  # a history is longer, and its spread less well known
_LEAST_SPREAD = 0.5  # of all nodes' spread: where a field hardly varies, rare is not wrong
_LEAST_RECORDS = 12  # of fewer nothing is said
_NORMAL_98 = 2.3263  # standard deviations within which 98 in 100 of a normal distribution lie
_BLOCK = 2**24  # values of a history in memory at once
_SAMPLE = 1_000_000  # values of a history that tell its range
_SHOWN = 3  # values that a message shows

_NINES = (99.0, 99.9, 99.99, 999.0, 999.9, 999.99, 9999.0, 9999.9, 99999.0, 999999.0)
_INTEGERS = (-127.0, -128.0, 32767.0, -32767.0, 32768.0, -32768.0, -2147483647.0, -2147483648.0)
# netCDF's, healpy's, CMIP's, GrADS's, Ferret's, GEOS's and GRIB's for floating point
_FLOATS = (
    9.969209968386869e36,
    1.6375e30,
    1.6e30,
    1e20,
    9.999e20,
    1e34,
    1e15,
    1e30,
    1e35,
    1e36,
    9.99e33,
)
_LARGEST = float(np.finfo(np.float32).max)
_FILLS = np.array([*_INTEGERS, *(s * v for v in (*_NINES, *_FLOATS, _LARGEST) for s in (1, -1))])


def check_control(control: Any) -> Control:
    """Return the argument ``quality_control``.

    Raises:
        InputError: If it is none of those known.
    """
    if control not in get_args(Control):
        raise InputError(
            f"quality_control={control!r} given; expected one of {', '.join(get_args(Control))}"
        )
    found: Control = control
    return found


def is_fill(values: Array) -> NDArray[np.bool_]:
    """Tell which values are ones that files are known to hold where there is none."""
    close: NDArray[np.bool_] = np.isclose(values[..., None], _FILLS, rtol=1e-6, atol=0.0)
    return np.asarray(close.any(-1))


@dataclass(frozen=True)
class Places:
    """The names of the elements of one record, for messages.

    Attributes:
        shape: Shape of a record.
        coords: Values of each coordinate along one of its axes, by name, and the axis.
    """

    shape: tuple[int, ...]
    coords: Mapping[str, tuple[int, Array]]

    @classmethod
    def of(cls, records: Records) -> Places:
        """Read the coordinates of records along the dims of channels and nodes."""
        cells = records.layout.cells
        coords = {
            str(name): (cells.index(str(each.dims[0])), each.values)
            for name, each in records.array.coords.items()
            if each.ndim == 1 and each.dims[0] in cells and each.dtype.kind in "iufU"
        }
        shape = tuple(records.array.sizes[dim] for dim in cells)
        return cls(shape, coords)

    def name(self, flat: int) -> str:
        """Return the name of an element, by its place in the flattened record."""
        index = np.unravel_index(flat, self.shape)
        if not self.coords:
            return f"element {tuple(map(int, index))}"
        known = (
            f"{name}={_short(all_[index[axis]])}" for name, (axis, all_) in self.coords.items()
        )
        return ", ".join(known)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float | np.floating) else str(value)


@dataclass(frozen=True)
class Innovations:
    """Compare observed values with what a prior knows, in units of its spread and their noise.

    Values beyond ten standard deviations are outliers. They are taken for missing, with a warning,
    where that is no physical value: a well-known fill value, or a hundred standard deviations
    away. Others are used with a warning ("flag"), or taken for missing as well ("reject").

    Attributes:
        mean: Mean (season, *cells) of what is observed.
        spread: Standard deviation (season, *cells).
        valid: Mask (*cells), false where the prior has no values.
        noise: Standard deviation of the noise, a number or (*cells).
        control: "flag" or "reject"; "off" does nothing.
        places: Names of the cells.
        units: Units of the values, for messages.
        drift: What is observed (season, *cells) of a trend, for one unit of its index, or None.
        index: Index of the trend.
    """

    mean: Array
    spread: Array
    valid: NDArray[np.bool_]
    noise: Array
    control: Control
    places: Places
    units: str
    drift: Array | None = None
    index: Index | None = None

    @classmethod
    def of(
        cls, records: Records, normals: Normals, linear: LinearMap, noise: Tensor, control: Control
    ) -> Innovations:
        """Make the comparison with normals through a linear map.

        Args:
            records: Observed records.
            normals: Mean and spread of the variable.
            linear: What was measured of it.
            noise: Standard deviation of the noise, which broadcasts to (channel, observation).
            control: What becomes of outliers.
        """
        observable = normals.observable(linear)
        mean, spread = normals.usual
        spread = spread if linear.is_identity else _spread_of(normals, linear)
        wide = spread[:, observable].square().mean().sqrt() if bool(observable.any()) else 1.0
        spread = spread.clamp(min=_LEAST_SPREAD * float(wide))
        noise = torch.where(observable, noise.broadcast_to(observable.shape), 1.0)
        place = records.layout.channel_places

        def seen(fields: Tensor) -> Array:
            return place((fields if linear.is_identity else linear.apply(fields)).numpy())

        units, trend = "" if records.units is None else f" {records.units}", normals.trend
        return cls(
            mean=seen(mean),
            spread=place(spread.numpy()),
            valid=place(observable.numpy()),
            noise=place(noise.numpy()),
            control=control,
            places=Places.of(records),
            units=units,
            drift=None if trend is None else seen(normals.std * trend.pattern),
            index=None if trend is None else trend.index,
        )

    def __call__(
        self,
        values: Array,
        season: Array,
        names: NDArray[np.str_],
        noise: Array | None = None,
        instant: Array | None = None,
    ) -> Array:
        """Return values (record, *cells) without those that are none, or that are rejected.

        Args:
            values: Values, NaN where nothing was observed.
            season: Season (record,).
            names: Names (record,) of the records.
            noise: Standard deviation (record, *cells) of the noise, if it differs by record.
            instant: Time (record,) in microseconds since 1970, for a trend.

        Warns:
            OutlierWarning: If there are outliers.
        """
        if self.control == "off":
            return values
        noise = self.noise if noise is None else np.where(noise > 0, noise, self.noise)
        cells = int(np.prod(values.shape[1:]))

        def name(flat: int) -> str:
            return f"{self.places.name(flat % cells)}, {names[flat // cells]}"

        mean, spread = self.mean[season], self.spread[season]
        if self.drift is not None and self.index is not None and instant is not None:
            amplitude = self.index.at(torch.from_numpy(np.array(instant, np.float64))).numpy()
            drift = self.drift[season]
            mean = mean + amplitude.reshape(-1, *[1] * (drift.ndim - 1)) * drift
        gone = _gone(values, mean, spread, noise, self.valid, name, self.control, self.units)
        return np.where(gone, np.nan, values).astype(values.dtype) if gone.any() else values


def compared(
    values: Array,
    mean: Array,
    spread: Array,
    noise: Array,
    name: Callable[[int], str],
    control: Control,
    units: str,
) -> Array:
    """Return values (row,) without those that are none, or rejected; see `Innovations`.

    Args:
        values: Values (row,) of observations anywhere.
        mean: Mean (row,) of what is observed.
        spread: Standard deviation (row,).
        noise: Standard deviation (row,) of the noise.
        name: Function that returns the name of a row.
        control: What becomes of outliers.
        units: Units of the values, for messages, after a space.

    Warns:
        OutlierWarning: If there are outliers.
    """
    if control == "off":
        return values
    spread = np.maximum(spread, _LEAST_SPREAD * np.sqrt(np.mean(np.square(spread))))
    valid = np.ones(values.shape, dtype=bool)
    gone = _gone(values, mean, spread, noise, valid, name, control, units)
    return np.where(gone, np.nan, values)


def _gone(
    values: Array,
    mean: Array,
    spread: Array,
    noise: Array,
    valid: NDArray[np.bool_],
    name: Callable[[int], str],
    control: Control,
    units: str,
) -> NDArray[np.bool_]:
    """Tell which values are no observations, and warn of all outliers."""
    with np.errstate(invalid="ignore", over="ignore"):
        away = np.abs(values - mean)
        away /= np.hypot(spread, noise)
    outlier = (away > THRESHOLD) & np.isfinite(values)
    none = np.zeros_like(outlier)
    if not outlier.any():
        return none
    none[outlier] = (away[outlier] > _NO_VALUE) | is_fill(values[outlier])
    fate = {
        "flag": "they are used all the same; leave them out by quality_control='reject'",
        "reject": "they are left out",
    }
    # on land nothing is compared, but a fill value is no observation there either
    no_value = (
        "no such value exists: they count as missing; mend the data, or take them by "
        "quality_control='off'"
    )
    for which, what in ((none, no_value), (outlier & ~none, fate[control])):
        _warn_of_outliers(values, away, which & valid, name, units, what)
    return none if control == "flag" else none | (outlier & valid)


def _warn_of_outliers(
    values: Array,
    away: Array,
    which: NDArray[np.bool_],
    name: Callable[[int], str],
    units: str,
    fate: str,
) -> None:
    worst = np.flatnonzero(which)
    if not len(worst):
        return
    worst = worst[np.argsort(-away.ravel()[worst], kind="stable")]
    shown = "; ".join(
        f"{values.ravel()[flat]:g}{units} at {name(int(flat))} "
        f"({away.ravel()[flat]:.3g} standard deviations)"
        for flat in worst[:_SHOWN]
    )
    more = "" if len(worst) <= _SHOWN else f"; and {len(worst) - _SHOWN} more"
    if len(worst) > max(_SHOWN, np.isfinite(values).sum() / 2):
        fate += f". They are most of all: are they in other units than the model,{units or ' ?'}?"
    warnings.warn(
        f"{len(worst)} observed values are far from all that the model knows: "
        f"{shown}{more}. {fate[0].upper()}{fate[1:]}",
        OutlierWarning,
        stacklevel=5,
    )


def _spread_of(normals: Normals, linear: LinearMap) -> Tensor:
    """Return the most that what is measured (season, channel, observation) can vary: |A| std."""
    matrix = linear.to_matrix(normals.channels)
    if matrix is None:
        return linear.apply(normals.std).abs()
    spread = abs(matrix) @ normals.std.flatten(1).double().numpy().T
    return torch.from_numpy(spread.T.copy()).float().unflatten(1, (normals.channels, -1))


def checked_history(records: Records, control: Control) -> Records:
    """Return a history without values that are none, or that are rejected.

    A well-known fill value far outside the range of all others is none, also where it fills a node
    (land), and so is what lies a thousand such ranges away. Outliers are twenty standard deviations
    from the median of their month at their node, where the spread is that of 98 in 100 records, and
    at least half of the typical node's.

    Args:
        records: History; it is read.
        control: As for `Innovations`.

    Warns:
        OutlierWarning: If there are such values.
    """
    if control == "off":
        return records
    given = _in_memory(records.data)
    _warn_of_zeros(records, given)
    values, fills = _without_fills(given)
    record, flat, away = _outliers(values, records.dates.season(12 if records.dates.known else 1))
    names, places = records.dates.names, Places.of(records)
    units = "" if records.units is None else f" {records.units}"
    if fills is not None:
        _warn_of_history(
            records,
            f"{fills.count} fill values, such as {fills.value:g}{units} at "
            f"{places.name(fills.place)}, {names[fills.record]}: they count as missing",
        )
    if len(record):
        worst = int(np.argmax(away))
        value = values.reshape(len(values), -1)[record[worst], flat[worst]]
        fate = {
            "flag": "they are learned from; leave them out by quality_control='reject'",
            "reject": "they are left out",
        }[control]
        _warn_of_history(
            records,
            f"{len(record)} values far from all others of their node, such as {value:g}{units} at "
            f"{places.name(int(flat[worst]))}, {names[record[worst]]} ({away[worst]:.3g} standard "
            f"deviations): {fate}",
        )
        if control == "reject":
            values = values.copy() if values is given else values
            values.reshape(len(values), -1)[record, flat] = np.nan
    return replace(records, array=records.array.copy(data=values if records.dim else values[0]))


def _warn_of_history(records: Records, what: str) -> None:
    warnings.warn(f"{records.given} has {what}", OutlierWarning, stacklevel=4)


def _in_memory(data: Any) -> Array:
    """Return the values of an array of numpy, or of dask, which is computed into place."""
    if isinstance(data, np.ndarray):
        return data
    import dask.array as da

    out = np.empty(data.shape, data.dtype)
    da.store(data, out, lock=False)
    return out


def _warn_of_zeros(records: Records, values: Array) -> None:
    """Warn of nodes that are zero at all times, where zero is neither least nor greatest: land."""
    columns = values.reshape(len(values), -1)
    zero, seen = (np.ones(columns.shape[1], dtype=bool) for _ in range(2))
    low, high = np.inf, -np.inf
    step = max(1, _BLOCK // max(1, columns.shape[1]))
    blocks = [columns[start : start + step] for start in range(0, len(columns), step)]
    for block in blocks:
        missing = np.isnan(block)
        zero &= ((block == 0) | missing).all(0)
        seen &= missing.all(0)
    zero &= ~seen
    if not zero.any() or zero.all() or len(columns) < _LEAST_RECORDS:
        return
    for block in blocks:
        others = block[:, ~zero]
        low, high = np.nanmin(others, initial=low), np.nanmax(others, initial=high)
    if low == 0.0 or high == 0.0:  # a bound, such as that of rain where it never falls
        return
    _warn_of_history(
        records,
        f"{int(zero.sum())} cells that are exactly 0 at all times, such as "
        f"{Places.of(records).name(int(np.flatnonzero(zero)[0]))}, and other values from {low:g} "
        f"to {high:g}: if that is land, make it NaN: history.where((history != 0).any('time'))",
    )


@dataclass(frozen=True)
class _Fills:
    """Fill values of a history: how many, and the first one with its record and its place."""

    count: int
    value: float
    record: int
    place: int


def _without_fills(values: Array) -> tuple[Array, _Fills | None]:
    """Return values without well-known fill values far outside the range of all others.

    They are the same array if there are none.
    """
    some = values.reshape(-1)[:: max(1, values.size // _SAMPLE)]
    some = some[np.isfinite(some)]
    some = some[~_is_fill_of_few(some)]
    if not some.size:
        return values, None
    low, high = np.quantile(some.astype(np.float64), [0.01, 0.99])
    del some
    out, found = values, None
    step = max(1, _BLOCK // max(1, values[0].size))
    for start in range(0, len(values), step):
        block = slice(start, start + step)
        none = _fills_in(values[block], low, high)
        if not (count := int(none.sum())):
            continue
        if found is None:
            record, place = np.argwhere(none.reshape(len(none), -1))[0]
            found = _Fills(0, float(values[block][none][0]), start + int(record), int(place))
            out = values.copy()
        found = replace(found, count=found.count + count)
        out[block][none] = np.nan
    return out, found


def _fills_in(values: Array, low: float, high: float) -> NDArray[np.bool_]:
    """Tell which values are fill values, or no values, by the range of all others."""
    away = np.maximum(low - values, values - high)
    none = (away > _FAR * (high - low)) & (high > low) & np.isfinite(values)
    beyond = away > 3.0 * (high - low)
    none[beyond] |= _is_fill_of_few(values[beyond])
    return none


def _is_fill_of_few(values: Array) -> NDArray[np.bool_]:
    """Return `is_fill` of values among which there are few different ones that it may be."""
    values = values.astype(np.float64) if values.dtype.itemsize < 4 else values
    size = np.abs(values)
    rounded = np.round(np.where(size < 1e6, values, 0.0).astype(np.float64), 2)
    whole = (size >= 1e6) | ((size >= 99.0) & np.isclose(values, rounded, rtol=1e-6, atol=0.0))
    unique, place = np.unique(values[whole], return_inverse=True)
    found = np.zeros(values.shape, dtype=bool)
    found[whole] = is_fill(unique)[place]
    return found


def _outliers(
    values: Array, season: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Array]:
    """Return record, flattened place and number of deviations of the outliers of a history."""
    columns = values.reshape(len(values), -1)
    if len(columns) < _LEAST_RECORDS:
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0)
    scales, found = [], []
    step = max(1, _BLOCK // len(columns))
    for start in range(0, columns.shape[1], step):
        away = torch.from_numpy(np.array(columns[:, start : start + step], np.float64))
        away[away.isinf()] = torch.nan
        for each in np.unique(season):
            rows = torch.from_numpy(season == each)
            away[rows] = (away[rows] - away[rows].nanmedian(0).values).abs()
        ordered, count = away.sort(0).values, (~away.isnan()).sum(0)
        rank = torch.minimum((0.98 * count).long(), count - 2).clamp(min=0)
        scale = ordered.gather(0, rank[None])[0] / _NORMAL_98
        far = away > _HISTORY_THRESHOLD * scale
        record, place = far.nonzero(as_tuple=True)
        found.append(torch.stack([record.double(), (place + start).double(), away[far]]))
        scales.append(scale)
    scale = torch.cat(scales)
    typical = scale[scale > 0].nanmedian() if bool((scale > 0).any()) else scale.new_tensor(0.0)
    record, place, size = torch.cat(found, 1)
    size /= scale[place.long()].clamp(min=_LEAST_SPREAD * float(typical) or 1e-300)
    kept = size > _HISTORY_THRESHOLD
    return record[kept].long().numpy(), place[kept].long().numpy(), size[kept].numpy()
