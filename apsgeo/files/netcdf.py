"""NetCDF files, their groups, and their times."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import xarray as xr

from apsgeo.errors import InputError

__all__ = ["groups_of", "open_group", "unlimited_dims_of"]


def open_group(path: Path, group: str | None) -> xr.Dataset:
    """Open a file or a group of it, with the coordinates of the file that the group lacks.

    Raises:
        InputError: If the file is missing or not netCDF, or has no such group.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of a netCDF file")
    try:
        if group is None:
            return _decoded(path)
        if group.strip("/") not in (groups := groups_of(path)):
            raise InputError(
                f"{path} has no group {group!r}; its groups: {', '.join(groups) or 'none'}"
            )
        dataset, whole = _decoded(path, group), _decoded(path)
    except (OSError, RuntimeError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} cannot be read as netCDF: {error}") from error
    inherited = [
        name
        for name, each in whole.coords.items()
        if name not in dataset.variables
        and each.ndim
        and all(dataset.sizes.get(dim) == each.sizes[dim] for dim in each.dims)
    ]
    return dataset.assign_coords({name: whole[name] for name in inherited})


def _decoded(path: Path, group: str | None = None) -> xr.Dataset:
    with warnings.catch_warnings():  # of several fill values, each of which becomes NaN
        warnings.filterwarnings("ignore", "variable .* has multiple fill values")
        try:
            return xr.open_dataset(path, group=group, engine="netcdf4")
        except ValueError as error:
            if "decode time" not in str(error):
                raise
        coded = xr.open_dataset(path, group=group, engine="netcdf4", decode_times=False)
        times = {
            name: _from_months(each)
            for name, each in coded.variables.items()
            if re.match("(month|year)s? since ", str(each.attrs.get("units", "")))
        }
        others = xr.decode_cf(coded.drop_vars(times))
        return others.assign(times).set_coords([name for name in times if name in coded.coords])


def _from_months(coded: xr.Variable) -> xr.Variable:
    """Decode times in months or years of the calendar, which have no fixed length.

    A part of a month is that part of its days.

    Raises:
        ValueError: If the reference is no date.
    """
    unit, _, reference = str(coded.attrs["units"]).partition(" since ")
    calendar = str(coded.attrs.get("calendar", "standard")).lower()
    start = cftime.num2date(0, f"days since {reference}", calendar)
    months = coded.values * (12 if unit.startswith("year") else 1)
    whole = np.floor(months + 1e-6)
    dates = []
    for count, part in zip(whole.ravel(), (months - whole).ravel(), strict=True):
        first, after = (
            start.replace(year=start.year + year, month=month + 1)
            for year, month in (divmod(start.month - 1 + int(count) + k, 12) for k in (0, 1))
        )
        dates.append(first + max(part, 0.0) * (after - first))
    values = np.array(dates, dtype=object).reshape(coded.shape)
    attrs = {k: v for k, v in coded.attrs.items() if k not in ("units", "calendar")}
    if calendar in ("standard", "gregorian", "proleptic_gregorian"):
        stamps = [date.isoformat(timespec="seconds") for date in dates]
        values = np.array(stamps, dtype="datetime64[ns]").reshape(coded.shape)
    encoding = {"units": f"days since {reference}", "calendar": calendar}
    return xr.Variable(coded.dims, values, attrs, encoding)


def unlimited_dims_of(array: xr.DataArray) -> list[str]:
    """Return the dims of an array that are unlimited in the netCDF file it was read from."""
    source = array.encoding.get("source")
    if not isinstance(source, str) or not Path(source).is_file():
        return []
    try:
        with xr.open_dataset(source, engine="netcdf4", decode_cf=False) as dataset:
            found = dataset.encoding.get("unlimited_dims", ())
    except (OSError, RuntimeError, ValueError):  # of another format
        return []
    return [str(dim) for dim in array.dims if dim in found]


def groups_of(path: Path) -> list[str]:
    """Return the paths of all groups of a netCDF file."""
    import netCDF4

    def below(parent: Any) -> list[str]:
        own = [group.path.strip("/") for group in parent.groups.values()]
        return own + [path for group in parent.groups.values() for path in below(group)]

    with netCDF4.Dataset(path) as file:
        return below(file)
