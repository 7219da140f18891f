"""What the attributes of a data set say of its variables, by the CF conventions."""

from __future__ import annotations

import numpy as np
import xarray as xr

__all__ = ["DESCRIBING", "MIDDLE", "auxiliary_names", "with_auxiliary"]

DESCRIBING = ("bounds", "climatology", "grid_mapping", "cell_measures", "ancillary_variables")
"""Attributes that name variables which describe another."""

MIDDLE = "_middle"
"""What is added to the name of a coordinate to name the middle of its bounds."""


def auxiliary_names(dataset: xr.Dataset) -> list[str]:
    """Return the names of variables of a data set that only describe others.

    These are bounds, climatological bounds, grid mappings, cell measures and ancillary variables.
    """
    named = {
        word.rstrip(":")
        for variable in dataset.variables.values()
        for attribute in DESCRIBING
        for word in str({**variable.encoding, **variable.attrs}.get(attribute, "")).split()
    }
    return [str(name) for name in dataset.data_vars if name in named]


def with_auxiliary(dataset: xr.Dataset) -> xr.Dataset:
    """Make what only describes other variables coordinates, which come along with a variable.

    The bounds of dates, which have a dim that no variable has, become the coordinate of their
    middles: a month that is stamped at its end lies before its date.
    """
    middles = {}
    for name, coordinate in dataset.coords.items():
        bounds = {**coordinate.encoding, **coordinate.attrs}.get("bounds")
        if bounds in dataset.variables and coordinate.dtype.kind in "MO":
            ends = dataset[bounds]
            if ends.dims[:-1] == coordinate.dims and ends.shape[-1] == 2 and _dates(ends):
                first, last = np.moveaxis(ends.values, -1, 0)
                middles[f"{name}{MIDDLE}"] = coordinate.dims, first + (last - first) / 2
    return dataset.set_coords(auxiliary_names(dataset)).assign_coords(middles)


def _dates(array: xr.DataArray) -> bool:
    if array.dtype.kind != "O":
        return array.dtype.kind == "M"
    return all(hasattr(value, "calendar") for value in array.values.flat)
