"""Units by their attribute: which are the same, and how one is converted to another."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import xarray as xr

from apsgeo.errors import UnitsError

__all__ = ["check_units", "conversion", "converted"]

_TEMPERATURES = {
    "K": ("k", "kelvin", "kelvins", "degk", "deg_k", "degree_kelvin", "degrees_kelvin"),
    "degC": (
        *("c", "degc", "deg_c", "deg c", "°c", "degree_c", "degrees_c"),
        *("celsius", "degree_celsius", "degrees_celsius"),
    ),
    "degF": ("f", "degf", "deg_f", "°f", "fahrenheit", "degree_fahrenheit", "degrees_fahrenheit"),
}
_TO_KELVIN = {"K": (1.0, 0.0), "degC": (1.0, 273.15), "degF": (5 / 9, 459.67 * 5 / 9)}
_PREFIXES = {
    **{"n": 1e-9, "u": 1e-6, "µ": 1e-6, "μ": 1e-6, "m": 1e-3, "c": 1e-2, "d": 1e-1},
    **{"h": 1e2, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15},
}
_BASE = ("m", "g", "s", "Pa", "K", "J", "W", "N", "mol", "V", "Hz")
# name: factor, and the base units it is of
_DERIVED: dict[str, tuple[float, dict[str, int]]] = {
    **dict.fromkeys(("meter", "meters", "metre", "metres"), (1.0, {"m": 1})),
    **dict.fromkeys(("gram", "grams"), (1.0, {"g": 1})),
    **dict.fromkeys(("sec", "second", "seconds"), (1.0, {"s": 1})),
    **dict.fromkeys(("min", "minute", "minutes"), (60.0, {"s": 1})),
    **dict.fromkeys(("h", "hr", "hour", "hours"), (3600.0, {"s": 1})),
    **dict.fromkeys(("d", "day", "days"), (86_400.0, {"s": 1})),
    **dict.fromkeys(("pascal", "pascals"), (1.0, {"Pa": 1})),
    **dict.fromkeys(("hectopascal", "millibar", "millibars", "mb"), (100.0, {"Pa": 1})),
    "bar": (1e5, {"Pa": 1}),
    "mbar": (100.0, {"Pa": 1}),
    "millimeter": (1e-3, {"m": 1}),
    "millimeters": (1e-3, {"m": 1}),
    "kilometer": (1e3, {"m": 1}),
    "kilometers": (1e3, {"m": 1}),
    "tonne": (1e6, {"g": 1}),
    **dict.fromkeys(("kelvin", "kelvins"), (1.0, {"K": 1})),
    **dict.fromkeys(("knot", "knots", "kt", "kts"), (1852.0 / 3600.0, {"m": 1, "s": -1})),
    **dict.fromkeys(("%", "percent"), (0.01, {})),
    **dict.fromkeys(("fraction", "dimensionless", "unitless"), (1.0, {})),
    "ppm": (1e-6, {}),
    "ppb": (1e-9, {}),
}
_TERM = re.compile(r"(?P<name>[^\W\d_]+|%)(?:\^?(?P<power>[-+]?\d+))?|1")


def conversion(own: Any, wanted: Any) -> tuple[float, float] | None:
    """Return factor and offset by which numbers in one unit become numbers in another.

    Known are kelvin and degrees Celsius and Fahrenheit, and products of powers of common units with
    the prefixes of SI: "mm/day", "kg m-2 s-1", "hPa", "%".

    Examples:
        >>> conversion("degC", "K"), conversion("mm/day", "m s-1") is None, conversion("K", "m")
        ((1.0, 273.15), False, None)
    """
    first, second = _temperature(own), _temperature(wanted)
    if first is not None and second is not None:
        (scale, offset), (other, others) = _TO_KELVIN[first], _TO_KELVIN[second]
        return scale / other, (offset - others) / other
    one, two = _parsed(_plain(own)), _parsed(_plain(wanted))
    if one is None or two is None or one[1] != two[1]:
        return (1.0, 0.0) if _plain(own) == _plain(wanted) else None
    ratio = one[0] / two[0]
    return (1.0 if np.isclose(ratio, 1.0, rtol=1e-12, atol=0.0) else ratio), 0.0


def check_units(
    obs: xr.DataArray, units: str | None, *, given: str = "obs", wanted: str = "the model"
) -> None:
    """Check the attribute ``units`` against those wanted, where both are known.

    Args:
        obs: The data.
        units: Units that are wanted, or None if unknown.
        given: Name of the data in messages.
        wanted: Name in messages of what the data are for.

    Raises:
        UnitsError: If the units differ; the message tells the conversion, if it is known.
    """
    own = obs.attrs.get("units")
    if own is None or units is None or (found := conversion(own, units)) == (1.0, 0.0):
        return
    if found is None:
        raise UnitsError(
            f"{given} has units {own!r}, and {wanted} has {units!r}; convert the values, and say "
            f"so: .assign_attrs(units={units!r})"
        )
    how, shell = _written(*found)
    raise UnitsError(
        f"{given} has units {own!r}, and {wanted} has {units!r}; "
        f"use ({how}).assign_attrs(obs.attrs, units={units!r})",
        shell=f"cdo setunit,{units!r} {shell} in.nc out.nc",
    )


def converted(array: xr.DataArray, units: str | None, *, given: str, wanted: str) -> xr.DataArray:
    """Return an array in the units wanted; as it is, if either are unknown.

    Raises:
        UnitsError: If it is not known how the units are converted.
    """
    own = array.attrs.get("units")
    if own is None or units is None:
        return array
    found = conversion(own, units)
    if found is None:
        check_units(array, units, given=given, wanted=wanted)
    if found is None or found == (1.0, 0.0):
        return array
    scale, offset = (np.asarray(each, array.dtype)[()] for each in found)
    return (array * scale + offset).assign_attrs(array.attrs, units=units)


def _written(scale: float, offset: float) -> tuple[str, str]:
    """Return what makes one unit of the other, in Python and for cdo."""
    if scale == 1.0:
        sign, verb = ("+", "-addc") if offset > 0 else ("-", "-subc")
        return f"obs {sign} {abs(offset):g}", f"{verb},{abs(offset):g}"
    if offset == 0.0:
        if scale >= 1.0:
            return f"obs * {scale:g}", f"-mulc,{scale:g}"
        return f"obs / {1 / scale:g}", f"-divc,{1 / scale:g}"
    return f"obs * {scale!r} + {offset!r}", f"-addc,{offset!r} -mulc,{scale!r}"


def _plain(units: Any) -> str:
    units = units.decode(errors="replace") if isinstance(units, bytes) else units
    return " ".join(str(units).split())


def _temperature(units: Any) -> str | None:
    text = _plain(units).lower()
    return next((name for name, known in _TEMPERATURES.items() if text in known), None)


def _parsed(units: str) -> tuple[float, dict[str, int]] | None:
    """Return the factor to base units, and their powers; None if the units are not understood."""
    text = _plain(units).replace("**", "^").replace("·", " ").replace("*", " ")
    factor, powers = 1.0, Counter[str]()
    for part, sign in _parts(text):
        match = _TERM.fullmatch(part)
        if match is None:
            return None
        if match["name"] is None:
            continue
        found = _term(match["name"])
        if found is None:
            return None
        power = sign * int(match["power"] or 1)
        factor *= found[0] ** power
        for name, each in found[1].items():
            powers[name] += each * power
    return factor, {name: power for name, power in powers.items() if power}


def _parts(text: str) -> list[tuple[str, int]]:
    """Return the factors of a product of units, and -1 for each that follows a slash."""
    found, sign = [], 1
    for part in re.findall(r"/|[^\s/]+", text):
        if part == "/":
            sign = -1
        else:
            found.append((part, sign))
            sign = 1
    return found


def _term(name: str) -> tuple[float, dict[str, int]] | None:
    if name in _DERIVED:
        return _DERIVED[name]
    if name in _BASE:
        return 1.0, {name: 1}
    if name[1:] in _BASE and name[0] in _PREFIXES:
        return _PREFIXES[name[0]], {name[1:]: 1}
    return None
