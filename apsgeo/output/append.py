"""Records that are added to an ensemble on disk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import xarray as xr

from apsgeo.errors import InputError
from apsgeo.labels.dates import Dates
from apsgeo.labels.times import record_dims

__all__ = ["Before", "appended"]

_MADE = ("model_sha256", "seed", "noise_std", "units")


@dataclass(frozen=True)
class Before:
    """What is on disk already.

    Attributes:
        dataset: Its variables.
        dim: Dim of its records.
    """

    dataset: xr.Dataset
    dim: str

    def added(self, new: xr.Dataset) -> xr.Dataset:
        """Return the records on disk and the new ones, in the order of their dates."""
        whole = xr.concat(
            [self.dataset, new],
            self.dim,
            data_vars="minimal",
            coords="minimal",
            compat="override",
            join="override",
            combine_attrs="override",
        )
        whole.attrs = new.attrs
        for name in whole.variables:
            whole[name].encoding = dict(new[name].encoding)
        if whole.indexes.get(self.dim) is not None:
            whole = whole.sortby(self.dim)
        return whole


def appended(path: Path, dataset: xr.Dataset) -> tuple[Before, xr.Dataset]:
    """Return what is at a path, and the records of a data set that it lacks.

    Raises:
        InputError: If what is there is something else: other variables, coordinates, model, seed.
    """
    before = _opened(path)
    dims = {dim for each in dataset.data_vars.values() for dim in record_dims(each)}
    if len(dims) != 1:
        raise InputError(f"the records are to be added to {path}, but they have no dim of dates")
    dim = dims.pop()
    if set(before.data_vars) != set(dataset.data_vars):
        raise InputError(
            f"{path} has the variables {', '.join(map(str, before.data_vars))}, and the records to "
            f"add {', '.join(map(str, dataset.data_vars))}; ask for the same ones"
        )
    for name, each in dataset.data_vars.items():
        there = before[name]
        if there.dims != each.dims:
            raise InputError(f"{name} has dims {there.dims} in {path}, and here {each.dims}")
        for made in _MADE:
            old, new = there.attrs.get(made), each.attrs.get(made)
            if old != new:
                raise _differs(path, made, old, new)
    for made in _MADE:
        if before.attrs.get(made) != dataset.attrs.get(made):
            raise _differs(path, made, before.attrs.get(made), dataset.attrs.get(made))
    for name, coordinate in dataset.coords.items():
        if dim in coordinate.dims or name not in before.coords:
            continue
        if not coordinate.equals(before[name]) and not _close(coordinate, before[name]):
            raise InputError(f"{path} has another {name!r} than the records to add; give the same")
    old, new = (Dates.of(each[dim], (dim,), "the file") for each in (before, dataset))
    return Before(before, dim), dataset.isel({dim: np.flatnonzero(old.places_of(new) < 0)})


def _opened(path: Path) -> xr.Dataset:
    try:
        if path.suffix == ".zarr":
            return xr.open_zarr(path, consolidated=False)
        return xr.open_dataset(path, engine="netcdf4", chunks={})
    except (OSError, KeyError, ValueError, TypeError, RuntimeError) as error:
        raise InputError(
            f"{path} holds no ensemble that records can be added to: {error}; give another output"
        ) from error


def _differs(path: Path, what: str, old: object, new: object) -> InputError:
    return InputError(
        f"{path} was made with {what} {old}, and the records to add with {new}; give the same, or "
        "another output"
    )


def _close(first: xr.DataArray, second: xr.DataArray) -> bool:
    numbers = first.dtype.kind in "fiu" and second.dtype.kind in "fiu"
    return numbers and first.shape == second.shape and np.allclose(first, second, atol=1e-4)
