"""From ERA5 as users have it to the analysis-ready data set; the card beside says how."""

import os
import zipfile
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from apsgeo.datasets.cf import finish
from apsgeo.datasets.era5.layout import SHORT_NAMES, standardize
from apsgeo.datasets.era5.regrid import coarsen as coarsen_grid
from apsgeo.datasets.era5.regrid import to_healpix
from apsgeo.errors import InputError

__all__ = ["open_era5"]

LICENSE = (
    "Licence to use Copernicus Products. Contains modified Copernicus Climate Change Service "
    "information; neither the European Commission nor ECMWF is responsible for any use of it."
)

Location = str | os.PathLike[str]


def open_era5(
    source: Location | Sequence[Location],
    variables: Sequence[str] | None = None,
    years: tuple[int, int] | None = None,
    coarsen: int = 1,
    healpix_level: int | None = None,
    storage_options: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """Make the analysis-ready data set of ERA5 files or of a Zarr store; nothing is read yet.

    Both layouts of the Copernicus Climate Data Store are understood, with `time` and with
    `valid_time`; see `apsgeo.datasets.era5.layout.standardize`. Values keep their units, and are
    float32.

    Args:
        source: A Zarr store (a folder or an address), a netCDF file, a folder of netCDF files, or
            several of these; variables and years may be spread over them in any way.
        variables: Which, by their short names (``t2m``) or long ones (``2m_temperature``); all by
            default.
        years: The first and the last.
        coarsen: Number of cells to average along each side; see
            `apsgeo.datasets.era5.regrid.coarsen`.
        healpix_level: Average onto HEALPix pixels of this order; see
            `apsgeo.datasets.era5.regrid.to_healpix`.
        storage_options: Options of fsspec for an address, such as ``{"token": "anon"}``.

    Returns:
        Fields ``(time, ..., lat, lon)``, or ``(time, ..., cells)``, backed by dask.

    Raises:
        InputError: If a source cannot be read or is no ERA5, a variable or the years are not in
            it, the sources contradict each other, or the grid cannot be divided as asked.
    """
    single = isinstance(source, str | os.PathLike)
    sources = [str(source)] if single else [str(entry) for entry in source]  # type: ignore[union-attr]
    parts = [
        standardize(_open(location, storage_options), location)
        for entry in sources
        for location in _expand(entry)
    ]
    wanted = None if variables is None else [SHORT_NAMES.get(name, name) for name in variables]
    dataset = _combine(parts, wanted)
    if years is not None:
        first, last = years
        dataset = dataset.sel(time=slice(str(first), str(last)))
        if not dataset.sizes["time"]:
            raise InputError(f"there is no record from {first} to {last} in {', '.join(sources)}")
    dataset = coarsen_grid(dataset, coarsen)
    if healpix_level is not None:
        dataset = to_healpix(dataset, healpix_level)
    cells = int(np.prod([size for dim, size in dataset.sizes.items() if dim != "time"]))
    return finish(
        dataset,
        {"time": max(1, 2**20 // cells)},
        title="ERA5 reanalysis",
        institution="European Centre for Medium-Range Weather Forecasts",
        source="ERA5, Copernicus Climate Change Service",
        references="Hersbach et al. (2020), The ERA5 global reanalysis, "
        "Q. J. R. Meteorol. Soc. 146, 1999-2049",
        license=LICENSE,
    )


def _expand(location: str) -> list[str]:
    """List what a source stands for: itself, or a folder's netCDF files."""
    folder = Path(location)
    if "://" in location or not folder.is_dir() or _is_zarr(location):
        return [location]
    files = sorted(str(file) for file in folder.glob("*.nc"))
    if not files:
        raise InputError(f"{location} is neither a Zarr store nor a folder with netCDF files")
    return files


def _is_zarr(location: str) -> bool:
    if "://" in location:
        return not location.endswith(".nc")
    return any((Path(location) / name).exists() for name in ("zarr.json", ".zgroup", ".zmetadata"))


def _open(location: str, storage_options: Mapping[str, Any] | None) -> xr.Dataset:
    if _is_zarr(location):
        if find_spec("zarr") is None:
            raise InputError(f"{location} is a Zarr store: install the package zarr to read it")
        options = dict(storage_options) if storage_options else None
        engine: dict[str, Any] = {"engine": "zarr", "storage_options": options}
    else:
        _check_file(location)
        engine = {"engine": "netcdf4"}
    try:
        dataset = xr.open_dataset(location, **engine)
    except (OSError, RuntimeError, ValueError, KeyError, ImportError) as error:
        raise InputError(f"{location} cannot be read: {type(error).__name__}: {error}") from error
    whole = {"lat", "lon", "latitude", "longitude"}
    return dataset.chunk({dim: -1 if dim in whole else "auto" for dim in dataset.dims})


def _check_file(location: str) -> None:
    if "://" in location:
        return
    if not Path(location).is_file():
        raise InputError(f"{location} is not there; give netCDF files or a Zarr store of ERA5")
    if zipfile.is_zipfile(location):
        raise InputError(f"{location} is a zip archive, as the CDS may send; unpack it first")
    with Path(location).open("rb") as file:
        if file.read(4) == b"GRIB":
            raise InputError(f"{location} is GRIB; ask the CDS for netCDF, or convert it")


def _combine(parts: Sequence[xr.Dataset], wanted: Sequence[str] | None) -> xr.Dataset:
    """Put files together by variable and time; they must have one grid, and no gaps."""
    there = list(dict.fromkeys(str(name) for part in parts for name in part))
    names = there if wanted is None else list(wanted)
    if missing := [name for name in names if name not in there]:
        raise InputError(
            f"there is no variable {', '.join(missing)}; there are: {', '.join(there) or 'none'}"
        )
    if not names:
        raise InputError("there is no field over time, latitude and longitude in the source")
    fields = {}
    for name in names:
        pieces = [part[name] for part in parts if name in part]
        pieces.sort(key=lambda piece: piece["time"].values[0])
        try:
            field = xr.concat(pieces, "time", join="exact", combine_attrs="drop_conflicts")
        except ValueError as error:
            raise InputError(f"the files of {name} do not have one grid: {error}") from error
        if (
            not field.indexes["time"].is_monotonic_increasing
            or field.indexes["time"].has_duplicates
        ):
            raise InputError(f"the files of {name} overlap in time, or are in no order")
        fields[name] = field.astype(np.float32)  # ERA5 itself has 16 to 24 bits
    try:
        return xr.Dataset(dict(zip(fields, xr.align(*fields.values(), join="exact"), strict=True)))
    except ValueError as error:
        raise InputError(
            f"{', '.join(names)} do not have the same times and grid: {error}; "
            "take them one by one, or give the same years of each"
        ) from error
