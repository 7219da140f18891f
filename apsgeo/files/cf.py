"""What the attributes of a data set say of its variables, by the CF conventions."""

from __future__ import annotations

import re
import warnings
from collections.abc import Container, Iterable, Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import InputError, OutlierWarning

__all__ = [
    "DESCRIBING",
    "KEPT_ENCODING",
    "MIDDLE",
    "auxiliary_names",
    "float_encoding",
    "lasting_attrs",
    "with_auxiliary",
    "without_invalid",
    "writable",
    "writable_attr",
]

DESCRIBING = ("bounds", "climatology", "grid_mapping", "cell_measures", "ancillary_variables")
"""Attributes that name variables which describe another."""

MIDDLE = "_middle"
"""What is added to the name of a coordinate to name the middle of its bounds."""


_OF_VALUES = (
    *("valid_range", "valid_min", "valid_max", "actual_range", "unpacked_valid_range"),
    *("missing_value", "_FillValue", "scale_factor", "add_offset", "_Unsigned"),
    *("flag_values", "flag_masks", "flag_meanings"),
)
_COMPRESSIONS = ("zlib", "zstd", "szip", "bzip2", "blosc", "compression")
KEPT_ENCODING = (
    *(*_COMPRESSIONS, "complevel", "shuffle", "fletcher32", "quantize_mode", "significant_digits"),
    *("least_significant_digit", "blosc_shuffle", "szip_coding", "szip_pixels_per_block"),
    *("dtype", "_FillValue", "missing_value", "units", "calendar", "grid_mapping", "coordinates"),
)
_PACKING = ("scale_factor", "add_offset", "_FillValue", "missing_value", "_Unsigned", "dtype")


def lasting_attrs(attrs: Mapping[str, Any], names: Container[Any]) -> dict[str, Any]:
    """Return the attributes of a variable that hold for other values of it, too.

    Ranges, fill values and flags were those of its own values: readers would mask others by them.

    Args:
        attrs: Attributes of the variable.
        names: Names of the variables beside it; what describes it by others is left out.
    """
    return {
        name: value
        for name, value in attrs.items()
        if name not in _OF_VALUES and not (name in DESCRIBING and _dangles(value, names))
    }


def _dangles(value: Any, names: Container[Any]) -> bool:
    """Tell whether an attribute such as "area: areacella" names a variable that is not there."""
    return any(word not in names for word in str(value).split() if not word.endswith(":"))


def writable(dataset: xr.Dataset) -> xr.Dataset:
    """Leave out attributes that name variables which a data set lacks, and write times in days.

    Times in months or years, which are no fixed length, are read, but not written.
    """
    dataset = dataset.copy()
    dataset.attrs = {key: writable_attr(value) for key, value in dataset.attrs.items()}
    for name, variable in dataset.variables.items():
        each = dataset[name]
        each.attrs = {
            key: writable_attr(value)
            for key, value in variable.attrs.items()
            if key not in DESCRIBING or not _dangles(value, dataset.variables)
        }
        each.encoding = {
            key: value
            for key, value in variable.encoding.items()
            if key not in DESCRIBING or not _dangles(value, dataset.variables)
        }
        _check_stored(each)
        units = str(variable.encoding.get("units", ""))
        if re.match("(month|year)s? since ", units):
            each.encoding["units"] = re.sub("^(month|year)s?", "days", units)
    for name in dataset.coords:
        _check_encoded(str(name), dataset.variables[name])
    return dataset


def _check_encoded(name: str, coordinate: xr.Variable) -> None:
    """Check that a coordinate can be written, before anything is drawn.

    Raises:
        InputError: If it cannot.
    """
    try:
        encoded = xr.conventions.encode_cf_variable(coordinate, name=name)
        if encoded.dtype.kind == "O":
            kinds = {type(each).__name__ for each in encoded.values.flat if each is not None}
            if len(kinds) > 1:
                raise ValueError(f"it holds {' and '.join(sorted(kinds))}")
    except (ValueError, TypeError, NotImplementedError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"the coordinate {name!r} cannot be written: {reason}; convert it, or leave it out: "
            f".drop_vars({name!r}), .drop_encoding()"
        ) from error


def _check_stored(variable: xr.DataArray) -> None:
    """Leave the type of numbers in a file to xarray, where the one it had cannot hold the values.

    Days since 1990 fit in eight bits, and later ones do not; degrees that were packed are cut off
    without their factor.
    """
    stored = np.dtype(variable.encoding.get("dtype") or "f8")
    dates = variable.dtype.kind in "mMO" and stored.kind in "iuf" and stored.itemsize < 8
    cut = variable.dtype.kind == "f" and stored.kind in "iu"
    if dates or (cut and "scale_factor" not in variable.encoding):
        for name in _PACKING:
            variable.encoding.pop(name, None)


def writable_attr(value: Any) -> Any:
    """Return the value of an attribute as files can hold it: text, a number, or several of a kind.

    Truth becomes 0 or 1; dates, mappings, None and mixed lists become text.
    """
    if isinstance(value, str | bytes):
        return value
    try:
        numbers = np.asarray(value)
    except ValueError:  # of a ragged list
        return str(value)
    if numbers.dtype.kind == "b":
        return np.int8(numbers) if numbers.ndim == 0 else numbers.astype(np.int8)
    if numbers.dtype.kind in "iuf" and numbers.ndim < 2:
        return numbers if isinstance(value, xr.DataArray | xr.Variable) else value
    if isinstance(value, list | tuple) and all(isinstance(each, str) for each in value):
        return list(value)
    return str(value)


def float_encoding(encoding: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Return the encoding of a variable that members of it, of floating point, can have.

    The layout in a file goes, since the array is larger; so does packing to integers, whose range
    members may leave, and what only one of netCDF and the versions of Zarr knows. Of two fill
    values one stays.
    """
    kept = {name: value for name, value in encoding.items() if name in KEPT_ENCODING}
    if np.dtype(encoding.get("dtype", dtype)).kind != "f":
        return {name: value for name, value in kept.items() if name not in _PACKING}
    if (other := kept.pop("missing_value", None)) is not None:
        fill = kept.setdefault("_FillValue", other)
        if np.array_equal(fill, other, equal_nan=True) and np.ndim(other) == 0:
            kept["missing_value"] = other
    return kept


def without_invalid(array: xr.DataArray, given: str, fills: Iterable[float] = ()) -> xr.DataArray:
    """Make NaN of values that the attributes of an array say are missing, lazily with dask.

    That is what lies outside `valid_range`, or `valid_min` and `valid_max`, which are in the units
    of packed values if they are of their type, and what is a fill value that was not decoded.

    Args:
        array: Values, floating point, or else they are returned as they are.
        given: Name of the array in messages.
        fills: Further values that are none.

    Raises:
        InputError: If values are packed, by attributes that were not decoded.

    Warns:
        OutlierWarning: If there are values outside the range.
    """
    packing = [float(array.attrs.get(k, d)) for k, d in (("scale_factor", 1), ("add_offset", 0))]
    if packing != [1.0, 0.0]:
        raise InputError(
            f"{given} has the attributes scale_factor and add_offset, {packing}: its values are "
            "packed; open the file with mask_and_scale=True, or use xarray.decode_cf(dataset)"
        )
    low, high = _valid_range(array)
    named = [array.attrs[name] for name in ("missing_value", "_FillValue") if name in array.attrs]
    fills = [*fills, *(float(fill) for each in named for fill in np.ravel(each))]
    if array.dtype.kind != "f" or ((low, high) == (None, None) and not fills):
        return array

    def known(values: NDArray[Any]) -> NDArray[Any]:
        for fill in fills:
            values = np.where(np.isclose(values, fill, rtol=1e-6, atol=0.0), np.nan, values)
        low_, high_ = (np.nan if each is None else each for each in (low, high))
        outside = (values < low_) | (values > high_)
        if outside.any():
            warnings.warn(
                f"{given} has {outside.sum()} values outside its own valid range, {low_:.6g} to "
                f"{high_:.6g}, "
                f"such as {values[outside][0]:g}: they count as missing",
                OutlierWarning,
                stacklevel=3,
            )
        return np.where(outside, np.nan, values).astype(array.dtype)

    masked = xr.apply_ufunc(
        known, array, dask="parallelized", output_dtypes=[array.dtype], keep_attrs=True
    )
    masked.encoding = array.encoding
    return masked


def _valid_range(array: xr.DataArray) -> tuple[float | None, float | None]:
    low, high = array.attrs.get("valid_range", (None, None))
    ends = [array.attrs.get("valid_min", low), array.attrs.get("valid_max", high)]
    stored, scale = array.encoding.get("dtype"), array.encoding.get("scale_factor", 1.0)
    packed = stored is not None and np.dtype(stored).kind in "iu"
    slack = 1e-6 * max((abs(float(end)) for end in ends if end is not None), default=0.0)
    for place, end in enumerate(ends):
        if end is not None:
            value = float(end)
            if packed and np.asarray(end).dtype.kind in "iu":
                value, slack = value * scale + array.encoding.get("add_offset", 0.0), abs(scale) / 2
            ends[place] = value
    if scale < 0 and None not in ends:
        ends = sorted(ends)
    return tuple(  # type: ignore[return-value]
        None if end is None else end + sign * slack for end, sign in zip(ends, (-1, 1), strict=True)
    )


def auxiliary_names(dataset: xr.Dataset) -> list[str]:
    """Return the names of variables of a data set that only describe others.

    These are bounds, climatological bounds, grid mappings, cell measures and ancillary variables.
    """
    named = {
        word.rstrip(":")
        for variable in dataset.variables.values()
        for attribute in DESCRIBING
        for word in str({**variable.encoding, **variable.attrs}.get(attribute, "")).split()
    }
    return [str(name) for name in dataset.data_vars if name in named]


def with_auxiliary(dataset: xr.Dataset) -> xr.Dataset:
    """Make what only describes other variables coordinates, which come along with a variable.

    The bounds of dates, which have a dim that no variable has, become the coordinate of their
    middles: a month that is stamped at its end lies before its date.
    """
    middles = {}
    for name, coordinate in dataset.coords.items():
        bounds = {**coordinate.encoding, **coordinate.attrs}.get("bounds")
        if bounds in dataset.variables and coordinate.dtype.kind in "MO":
            ends = dataset[bounds]
            if ends.dims[:-1] == coordinate.dims and ends.shape[-1] == 2 and _dates(ends):
                first, last = np.moveaxis(ends.values, -1, 0)
                middles[f"{name}{MIDDLE}"] = coordinate.dims, first + (last - first) / 2
    return dataset.set_coords(auxiliary_names(dataset)).assign_coords(middles)


def _dates(array: xr.DataArray) -> bool:
    if array.dtype.kind != "O":
        return array.dtype.kind == "M"
    return all(hasattr(value, "calendar") for value in array.values.flat)
