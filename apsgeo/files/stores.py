"""Data sets in files of any kind: netCDF, Zarr, and many files as one."""

from __future__ import annotations

import glob
import json
import os
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import xarray as xr

from apsgeo.errors import InputError
from apsgeo.files.netcdf import groups_of, open_group

__all__ = ["groups_in", "is_zarr", "matching", "open_store", "read_provenance"]

_ZARR = ("zarr.json", ".zgroup", ".zmetadata", ".zarray")
_PATTERN = "*?["


def is_zarr(path: str | os.PathLike[str]) -> bool:
    """Tell whether a path is that of a Zarr store: by what is in the folder, or by its suffix."""
    path = Path(path)
    if path.is_dir():
        return any((path / name).is_file() for name in _ZARR)
    return path.suffix == ".zarr"


def matching(path: str | os.PathLike[str]) -> list[Path]:
    """Return the files and stores of a pattern such as ``obs_*.nc``, sorted; else the path alone.

    Raises:
        InputError: If nothing matches the pattern.
    """
    text = os.fspath(path)
    if not any(sign in text for sign in _PATTERN) or Path(text).exists():
        return [Path(text)]
    found = sorted(Path(each) for each in glob.glob(text, recursive=True))  # noqa: PTH207  # absolute, too
    if not found:
        raise InputError(f"no file matches {text!r}; check the folder and the pattern")
    return found


def open_store(path: str | os.PathLike[str], group: str | None = None) -> xr.Dataset:
    """Open a netCDF file, a Zarr store (version 2 or 3), or all files of a pattern as one data set.

    Of a pattern, records are put one after another, by their coordinates. Zarr and several files
    are lazy with dask.

    Args:
        path: Path, or pattern such as ``obs_*.nc``.
        group: Group of the file or store.

    Raises:
        InputError: If nothing is there, it is neither netCDF nor Zarr, has no such group, or files
            do not fit together.
    """
    paths = matching(path)
    each = [_open_zarr(one, group) if is_zarr(one) else open_group(one, group) for one in paths]
    return each[0] if len(each) == 1 else _combined(each, paths)


def _open_zarr(path: Path, group: str | None) -> xr.Dataset:
    if not path.is_dir():
        raise InputError(f"{path} is not a folder; give the path of a Zarr store")
    _check_files(path)
    try:
        return xr.open_zarr(path, group=group, consolidated=group is None and _consolidated(path))
    except ImportError as error:
        raise InputError(
            f"{path} is a Zarr store, which needs zarr: pip install 'apsgeo[zarr]'"
        ) from error
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, AttributeError) as error:
        where = f"group {group!r} of {path}" if group else str(path)
        raise InputError(f"{where} cannot be read as Zarr: {_said(error)}") from error


def _check_files(store: Path) -> None:
    """Check that a store holds files and folders alone: a link to a device has no end.

    Raises:
        InputError: If there is something else, or a link to it.
    """
    seen, folders = set[tuple[int, int]](), [store]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_file():  # or a link to one, such as those of git-annex
                    continue
                if not entry.is_dir():
                    raise InputError(
                        f"{entry.path} is no file, but a link to nowhere, a device or a pipe; give "
                        "a store of files"
                    )
                status = entry.stat()
                if (known := (status.st_dev, status.st_ino)) not in seen:
                    seen.add(known)
                    folders.append(Path(entry.path))


def _consolidated(path: Path) -> bool:
    if (path / ".zmetadata").is_file():
        return True
    metadata = path / "zarr.json"
    return metadata.is_file() and "consolidated_metadata" in json.loads(metadata.read_bytes())


def _said(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def _combined(datasets: Sequence[xr.Dataset], paths: Sequence[Path]) -> xr.Dataset:
    _check_units(datasets, paths)
    lazy = [each.chunk() for each in datasets]
    try:
        whole = xr.combine_by_coords(
            lazy,
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="exact",
            combine_attrs="override",
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(
            f"{paths[0]} and {len(paths) - 1} others do not fit together: "
            f"{_said(error)}; give files of one grid, with other times each"
        ) from error
    assert isinstance(whole, xr.Dataset)
    whole.encoding = datasets[0].encoding
    for name in whole.variables:
        whole[name].encoding = datasets[0][name].encoding
    return whole


def _check_units(datasets: Sequence[xr.Dataset], paths: Sequence[Path]) -> None:
    """Check that no variable changes its units from file to file.

    Raises:
        InputError: If one does.
    """
    for name, first in datasets[0].data_vars.items():
        for each, path in zip(datasets, paths, strict=True):
            own, other = first.attrs.get("units"), each.get(name, first).attrs.get("units")
            if own != other:
                raise InputError(
                    f"{name} has units {own!r} in {paths[0]} and {other!r} in {path}; convert the "
                    "values of one, and give them the same units",
                    shell="cdo setunit,UNITS -addc,OFFSET in.nc out.nc",
                )


def groups_in(path: str | os.PathLike[str]) -> list[str]:
    """Return the paths of all groups of a netCDF file or Zarr store, or of the first of many."""
    first = matching(path)[0]
    if not is_zarr(first):
        return groups_of(first)
    _check_files(first)
    return sorted(
        str(each.parent.relative_to(first))
        for name in ("zarr.json", ".zgroup")
        for each in first.rglob(name)
        if each.parent != first and not _is_array(each)
    )


def _is_array(metadata: Path) -> bool:
    return (metadata.parent / ".zarray").is_file() or '"array"' in metadata.read_text(
        encoding="utf-8", errors="replace"
    )


def read_provenance(
    path: str | os.PathLike[str] | None, command: str
) -> tuple[dict[str, Any], set[str]]:
    """Return the attributes of a file for a file made of it, and its unlimited dims.

    The command is put before its ``history``, with the day, so that the same command gives the same
    bytes for a day; the variable ``SOURCE_DATE_EPOCH`` sets another (reproducible-builds.org).

    Args:
        path: netCDF file, Zarr store or pattern; None for a file without attributes.
        command: Command that makes the other file of it.
    """
    attrs: dict[str, Any] = {}
    unlimited: set[str] = set()
    if path is not None:
        first = matching(path)[0]
        kind: dict[str, Any] = {"engine": "netcdf4"}
        if is_zarr(first):
            kind = {"engine": "zarr", "consolidated": _consolidated(first)}
        with xr.open_dataset(first, decode_cf=False, **kind) as dataset:
            attrs = dict(dataset.attrs)
            unlimited = set(dataset.encoding.get("unlimited_dims", ()))
    seconds = int(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    stamp = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")
    attrs["history"] = f"{stamp}: {command}\n{attrs.get('history', '')}".rstrip()
    return attrs, unlimited
