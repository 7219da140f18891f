"""Checks of the arguments of `apsgeo.impute`, each with an error that says what to do."""

from __future__ import annotations

import operator
from typing import Any

import xarray as xr

from apsgeo.errors import InputError

__all__ = ["check_floating", "integer"]


def integer(value: Any, name: str, *, least: int) -> int:
    """Return an argument as an int.

    Raises:
        InputError: If the argument is not a whole number, or is below ``least``.
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
        InputError: If the dtype cannot.
    """
    if obs.dtype.kind != "f":
        raise InputError(
            f"obs has dtype {obs.dtype}, in which no value can be missing; expected floating point "
            "with NaN where nothing was observed: use obs.astype('float32').where(observed)",
            shell="cdo -b F32 ifthen observed.nc in.nc out.nc",
        )
