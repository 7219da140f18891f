"""Write lazy ensembles and statistics as netCDF or Zarr, atomically."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import xarray as xr

import apsgeo
from apsgeo.atomic import atomic_file, atomic_folder
from apsgeo.errors import InputError
from apsgeo.files.cf import float_encoding, writable
from apsgeo.io import write_netcdf
from apsgeo.labels.times import record_dims
from apsgeo.output.append import appended
from apsgeo.output.blocks import drawn_in_blocks

__all__ = ["CONVENTIONS", "dataset_of", "write_ensemble"]

CONVENTIONS = "CF-1.10"

_COMPRESSIONS = ("zlib", "zstd", "szip", "bzip2", "blosc", "compression")
_ZARR_ENCODING = ("_FillValue", "dtype", "units", "calendar")


def write_ensemble(
    ensemble: xr.DataArray | xr.Dataset,
    path: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    append: bool = False,
    attrs: Mapping[str, Any] | None = None,
    unlimited_dims: Iterable[str] | None = None,
    resume: str | None = None,
) -> Path:
    """Write an ensemble, or statistics of one, atomically, drawing it block by block.

    A path that ends with ``.zarr`` makes a Zarr store, any other a CF netCDF file, compressed. The
    same ensemble gives the same bytes. There is a progress bar on a terminal.

    Args:
        ensemble: Members (member, ...), or variables, from `impute`.
        path: Path of the file or store to make.
        overwrite: Whether one that is already there is replaced.
        append: Whether records are added to one that is already there, in place of a new one. Those
            that it has already are not drawn. It must be of the same model, seed and labels. It is
            written anew, beside the old one, which it then replaces.
        attrs: Attributes of the file as a whole, such as ``title``.
        unlimited_dims: Dims to which records can be added later; by default those of the file that
            the observations were read from.
        resume: Text that tells this ensemble from all others, by which a killed call, made again,
            goes on where it was. Blocks are then kept in a hidden folder beside the path until all
            are drawn, which takes as much space again. By default nothing is kept.

    Raises:
        OutputExistsError: If something is at ``path``, and ``overwrite`` and ``append`` are false.
        InputError: If an array has no name, its values cannot be used (with dask), or records
            cannot be added to what is there.
    """
    path = Path(path)
    dataset = dataset_of(ensemble)
    dataset.attrs = {"Conventions": CONVENTIONS, "source": f"apsgeo {apsgeo.__version__}"}
    dataset.attrs |= {**ensemble.attrs} if isinstance(ensemble, xr.Dataset) else {}
    dataset.attrs |= attrs or {}
    if unlimited_dims is None:
        unlimited_dims = ensemble.encoding.get("unlimited_dims", ())
    unlimited = {str(dim) for dim in unlimited_dims if dim in dataset.dims}
    before = None
    if append and path.exists():
        before, dataset = appended(path, dataset)
        if not dataset.sizes[before.dim]:
            return path
        overwrite = True
    with drawn_in_blocks(dataset, path, resume) as drawn:
        whole = drawn if before is None else before.added(drawn)
        whole.encoding["unlimited_dims"] = unlimited
        return _write(whole, path, overwrite)


def dataset_of(ensemble: xr.DataArray | xr.Dataset) -> xr.Dataset:
    """Return the ensemble as a data set of its own, each variable with the encoding it will have.

    Raises:
        InputError: If it is no array, or has no name.
    """
    if not isinstance(ensemble, xr.DataArray | xr.Dataset):
        raise InputError(
            f"the ensemble is a {type(ensemble).__name__}; expected an xarray.DataArray or Dataset"
        )
    if isinstance(ensemble, xr.DataArray):
        if ensemble.name is None or ensemble.name in (*ensemble.dims, *ensemble.coords):
            raise InputError(
                "the ensemble has no name of its own for its variable, but "
                f"{ensemble.name!r}; use .rename('air') or the like"
            )
        dataset = ensemble.to_dataset(name=str(ensemble.name))
    else:
        dataset = ensemble.copy()
    for name, each in dataset.data_vars.items():
        encoding = float_encoding(each.encoding, each.dtype)
        encoding.pop("coordinates", None)  # xarray finds them anew, and refuses them here
        if (mapping := encoding.pop("grid_mapping", None)) in dataset.coords:
            dataset[name].attrs["grid_mapping"] = mapping
        dataset[name].encoding = encoding | {"preferred": _field_shape(each)}
    return dataset


def _field_shape(array: xr.DataArray) -> tuple[int, ...]:
    """Return the shape of one member of one record; blocks hold some of these."""
    chunks = array.chunks or ((),) * array.ndim
    alone = ("member", *record_dims(array))
    return tuple(
        1 if dim in alone or len(blocks) > 1 else array.sizes[dim]
        for dim, blocks in zip(array.dims, chunks, strict=True)
    )


def _write(dataset: xr.Dataset, path: Path, overwrite: bool) -> Path:
    if path.suffix == ".zarr":
        return _write_zarr(dataset, path, overwrite)
    encoding: dict[str, dict[str, Any]] = {}
    for name, each in dataset.data_vars.items():
        own = {k: v for k, v in each.encoding.items() if k not in ("preferred", "chunksizes")}
        if each.dtype.kind in "fiu" and each.ndim:
            own["chunksizes"] = each.encoding.get("preferred", _field_shape(each))
            if not any(own.get(key) for key in _COMPRESSIONS):
                own |= {"zlib": True, "complevel": 4, "shuffle": True}
        encoding[str(name)] = own
        each.encoding = {}
    if len(encoding) == 1:
        return write_netcdf(dataset, path, overwrite, encoding)
    dataset = writable(dataset)
    with atomic_file(path, overwrite) as temporary, dask.config.set(scheduler="synchronous"):
        # One by one: dask stores blocks of several variables in an order that is not always the
        # same, and so would not be the bytes.
        for place, (name, options) in enumerate(encoding.items()):
            dataset[[name]].to_netcdf(
                temporary,
                mode="a" if place else "w",
                format="NETCDF4",
                engine="netcdf4",
                encoding={name: options},
            )
    return path


def _write_zarr(dataset: xr.Dataset, path: Path, overwrite: bool) -> Path:
    """Write a Zarr store; a chunk holds one record, with as many members as a dask block does."""
    if find_spec("zarr") is None:
        raise InputError(f"{path} is a Zarr store, which needs zarr: pip install 'apsgeo[zarr]'")
    dataset = writable(dataset)
    dataset.encoding = {}
    for variable in dataset.variables.values():
        variable.encoding = {k: v for k, v in variable.encoding.items() if k in _ZARR_ENCODING}
    for name, each in dataset.data_vars.items():
        if each.chunks is not None:
            records = record_dims(each)
            shape = [
                1 if dim in records else blocks[0]
                for dim, blocks in zip(each.dims, each.chunks, strict=True)
            ]
            dataset[name].encoding["chunks"] = tuple(shape)
    with (
        atomic_folder(path, _is_store if overwrite else None) as temporary,
        dask.config.set(scheduler="synchronous"),
    ):
        dataset.to_zarr(temporary, mode="w", consolidated=False)
    return path


def _is_store(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("zarr.json", ".zgroup"))
