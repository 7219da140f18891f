"""Several variables, colours or neighbouring times of a field, as the channels of one array."""

from __future__ import annotations

import numpy as np
import xarray as xr

from apsgeo.errors import InputError

__all__ = ["as_array", "as_variables", "windows"]

_VARIABLE, _LAG = "variable", "lag"


def as_array(dataset: xr.DataArray | xr.Dataset) -> xr.DataArray:
    """Return the variables of a data set as channels along ``variable``; an array as it is.

    The name is theirs, joined by commas, and so is the attribute ``units`` if these differ.

    Raises:
        InputError: If the variables do not all have the same dims.
    """
    if isinstance(dataset, xr.DataArray):
        return dataset
    dims = {name: variable.dims for name, variable in dataset.data_vars.items()}
    if not dims or len({frozenset(each) for each in dims.values()}) > 1:
        raise InputError(
            f"the data set has variables with the dims {dims}; expected several of the same dims: "
            "drop the others, dataset[['u', 'v']], or select one."
        )
    joined = dataset.to_dataarray(_VARIABLE)
    joined.attrs = {}
    units = [str(each.attrs.get("units")) for each in dataset.data_vars.values()]
    if "None" not in units:
        joined.attrs["units"] = units[0] if len(set(units)) == 1 else ", ".join(units)
    return joined.rename(", ".join(map(str, dataset.data_vars)))


def as_variables(array: xr.DataArray, like: xr.Dataset) -> xr.Dataset:
    """Undo `as_array`: names and attributes are those of ``like``, others are kept."""
    dataset = array.to_dataset(_VARIABLE)
    for name, variable in like.data_vars.items():
        added = {key: value for key, value in array.attrs.items() if key != "units"}
        dataset[name].attrs = {**variable.attrs, **added}
    dataset.attrs = like.attrs
    return dataset


def windows(array: xr.DataArray, size: int) -> xr.DataArray:
    """Return each time with its neighbours as channels along ``lag``, lazily with dask.

    Of the first and the last times, which lack a neighbour, there is no window. A prior that is
    fitted to windows knows how fields change: fill ``windows(obs, size)`` with a posterior of it,
    and take ``.sel(lag=0)``.

    Args:
        array: (time, ...), with times that are equally far apart.
        size: Number of times in a window, odd.

    Raises:
        InputError: If the size is even or not above 1, or there are fewer times than that.
    """
    if size < 3 or size % 2 == 0 or "time" not in array.dims or array.sizes["time"] < size:
        raise InputError(
            f"windows of {size} were asked for of dims {dict(array.sizes)}; give an odd number "
            "from 3 on, and an array with at least so many times"
        )
    reach = size // 2
    found = array.rolling(time=size, center=True).construct(_LAG)
    found = found.assign_coords({_LAG: np.arange(-reach, reach + 1)})
    return found.isel(time=slice(reach, array.sizes["time"] - reach)).assign_attrs(array.attrs)
