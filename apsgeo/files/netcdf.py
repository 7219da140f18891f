"""NetCDF files: their groups, and what they say of how they were made."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import xarray as xr

from apsgeo.errors import InputError

__all__ = ["groups_of", "open_group", "read_provenance"]


def open_group(path: Path, group: str | None) -> xr.Dataset:
    """Open a file or a group of it, with the coordinates of the file that the group lacks.

    Raises:
        InputError: If the file is missing or not netCDF, or has no such group.
    """
    if not path.is_file():
        raise InputError(f"{path} is not a file; give the path of a netCDF file")
    try:
        if group is None:
            return xr.open_dataset(path, engine="netcdf4")
        if group.strip("/") not in (groups := groups_of(path)):
            raise InputError(
                f"{path} has no group {group!r}; its groups: {', '.join(groups) or 'none'}"
            )
        dataset = xr.open_dataset(path, group=group, engine="netcdf4")
        whole = xr.open_dataset(path, engine="netcdf4")
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


def groups_of(path: Path) -> list[str]:
    """Return the paths of all groups of a netCDF file."""
    import netCDF4

    def below(parent: Any) -> list[str]:
        own = [group.path.strip("/") for group in parent.groups.values()]
        return own + [path for group in parent.groups.values() for path in below(group)]

    with netCDF4.Dataset(path) as file:
        return below(file)


def read_provenance(path: str | os.PathLike[str], command: str) -> tuple[dict[str, Any], set[str]]:
    """Return the attributes of a netCDF file for a file made of it, and its unlimited dims.

    The command is put before its ``history``, with the day, so that the same command gives the same
    bytes for a day; the variable ``SOURCE_DATE_EPOCH`` sets another (reproducible-builds.org).

    Args:
        path: The netCDF file.
        command: Command that makes the other file of it.
    """
    with xr.open_dataset(path, engine="netcdf4", decode_cf=False) as dataset:
        attrs, unlimited = dict(dataset.attrs), set(dataset.encoding.get("unlimited_dims", ()))
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    attrs["history"] = f"{stamp}: {command}\n{attrs.get('history', '')}".rstrip()
    return attrs, unlimited
