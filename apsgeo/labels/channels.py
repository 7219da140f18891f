"""Several variables, colours or neighbouring times of a field, as the channels of one array."""

from __future__ import annotations

import numpy as np
import xarray as xr

from apsgeo.errors import InputError
from apsgeo.files.cf import (
    auxiliary_names,
    float_encoding,
    lasting_attrs,
    with_auxiliary,
    without_invalid,
)
from apsgeo.labels.dates import Dates
from apsgeo.labels.times import record_dims

__all__ = ["as_array", "as_variables", "windows"]

_VARIABLE, _LAG = "variable", "lag"


def as_array(dataset: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """Return the variables of a data set as channels along ``variable``; an array as it is.

    Variables that only describe others (bounds, a grid mapping, cell measures) become coordinates.
    Name and, if they differ, the attribute ``units`` are those of the variables, joined by commas.

    Raises:
        InputError: If the variables do not all have the same dims.
    """
    if isinstance(dataset, xr.DataArray):
        return dataset
    dataset = with_auxiliary(dataset)
    dataset = dataset.assign(
        {name: without_invalid(each, str(name)) for name, each in dataset.data_vars.items()}
    )
    dims = {name: variable.dims for name, variable in dataset.data_vars.items()}
    if not dims or len({frozenset(each) for each in dims.values()}) > 1:
        raise InputError(
            f"the data set has variables with the dims {dims}; expected several of the same dims: "
            "drop the others, dataset[['u', 'v']], or select one."
        )
    along = {dim for each in dims.values() for dim in each}
    beyond = [name for name, each in dataset.coords.items() if not along.issuperset(each.dims)]
    joined = dataset.drop_vars(beyond).to_dataarray(_VARIABLE)
    joined.attrs = {}
    units = [str(each.attrs.get("units")) for each in dataset.data_vars.values()]
    if "None" not in units:
        joined.attrs["units"] = units[0] if len(set(units)) == 1 else ", ".join(units)
    return joined.rename(", ".join(map(str, dataset.data_vars)))


def as_variables(array: xr.DataArray, like: xr.Dataset) -> xr.Dataset:
    """Undo `as_array`, with the names of ``like`` and its attributes beside those of the array."""
    dataset = array.to_dataset(_VARIABLE)
    for name in dataset.data_vars:
        variable = like[name]
        added = {key: value for key, value in array.attrs.items() if key != "units"}
        dataset[name].attrs = {**lasting_attrs(variable.attrs, like.variables), **added}
        dataset[name].encoding = float_encoding(variable.encoding, array.dtype)
    sizes = dataset.sizes
    for name in auxiliary_names(like):  # bounds of times, areas of cells
        if all(like.sizes[dim] == sizes.get(dim, like.sizes[dim]) for dim in like[name].dims):
            dataset[name] = like[name]
    dataset.attrs = like.attrs
    dataset.encoding = {k: v for k, v in like.encoding.items() if k == "unlimited_dims"}
    return dataset


def windows(array: xr.DataArray, size: int) -> xr.DataArray:
    """Return each time with its neighbours as channels along ``lag``, lazily with dask.

    The first and the last times lack a neighbour and have no window, and neither have those beside
    a missing record. A prior that is fitted to windows knows how fields change: fill ``windows(obs,
    size)`` with a posterior of it, and take ``.sel(lag=0)``.

    Args:
        array: Array (time, ...), with times that are equally far apart; months are.
        size: Number of times in a window, odd.

    Raises:
        InputError: If the size is even or not above 1, or there are fewer times than that.
        GridError: If times are repeated, do not ascend, or are not equally far apart.
    """
    dim = next(iter(record_dims(array)), "time")
    if size < 3 or size % 2 == 0 or dim not in array.dims or array.sizes[dim] < size:
        raise InputError(
            f"windows of {size} were asked for of dims {dict(array.sizes)}; give an odd number "
            "from 3 on, and an array with at least so many times"
        )
    reach, place = size // 2, Dates.of(array, (dim,), "the array").steps()
    whole = reach + np.flatnonzero(place[2 * reach :] - place[: -2 * reach] == 2 * reach)
    if not len(whole):
        raise InputError(f"no {size} records follow on one another without one that is missing")
    found = array.rolling({dim: size}, center=True).construct(_LAG)
    found = found.assign_coords({_LAG: np.arange(-reach, reach + 1)})
    chosen = (
        slice(reach, array.sizes[dim] - reach) if len(whole) == len(place) - 2 * reach else whole
    )
    return found.isel({dim: chosen}).assign_attrs(array.attrs)
