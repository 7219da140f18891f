"""What `apsgeo.impute` demands of its arguments, each with an error that says what to do."""

from __future__ import annotations

import operator
from typing import Any

import xarray as xr

from apsgeo.errors import InputError, UnitsError

__all__ = ["check_floating", "check_units", "integer"]

_SPELLINGS = {
    "K": ("k", "kelvin", "kelvins", "degk", "deg_k", "degree_kelvin"),
    "degC": ("c", "degc", "deg_c", "deg c", "°c", "celsius", "degree_celsius", "degrees_celsius"),
    "Pa": ("pa", "pascal", "pascals"),
    "hPa": ("hpa", "mbar", "mb", "millibar", "millibars", "hectopascal"),
}
_CONVERSIONS = {
    ("K", "degC"): "obs - 273.15",
    ("degC", "K"): "obs + 273.15",
    ("Pa", "hPa"): "obs / 100",
    ("hPa", "Pa"): "obs * 100",
}


def integer(value: Any, name: str, *, least: int) -> int:
    """Return an argument as an int.

    Raises:
        InputError: If it is not a whole number, or below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise InputError(f"{name}={value!r} given; expected a whole number of at least {least}")
    return number


def check_floating(obs: xr.DataArray) -> None:
    """Check that the dtype can hold NaN.

    Raises:
        InputError: If it cannot.
    """
    if obs.dtype.kind != "f":
        raise InputError(
            f"obs has dtype {obs.dtype}, in which no value can be missing; expected floating point "
            "with NaN where nothing was observed: use obs.astype('float32').where(observed)"
        )


def check_units(
    obs: xr.DataArray, units: str | None, *, given: str = "obs", wanted: str = "the model"
) -> None:
    """Check the attribute ``units`` against those wanted, where both are known.

    Args:
        obs: The data.
        units: What is wanted, or None.
        given: What messages call the data.
        wanted: What messages call that which they are checked against.

    Raises:
        UnitsError: If they differ; it tells the conversion, if it is a common one.
    """
    own = obs.attrs.get("units")
    if own is None or units is None or _unit(own) == _unit(units):
        return
    conversion = _CONVERSIONS.get((_unit(own), _unit(units)), "converted")
    raise UnitsError(
        f"{given} has units {own!r}, and {wanted} has {units!r}; "
        f"use ({conversion}).assign_attrs(obs.attrs, units={units!r})"
    )


def _unit(units: Any) -> str:
    text = " ".join(str(units).split())
    for name, spellings in _SPELLINGS.items():
        if text.lower() in spellings:
            return name
    return text
