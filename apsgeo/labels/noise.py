"""Labelled noise of observations, on the way to the tensor that a model takes."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from apsgeo.errors import GridError, InputError
from apsgeo.labels.records import Records
from apsgeo.measurement.noise import check_noise

__all__ = ["node_noise"]

_SAME = 1e-4  # between coordinates, in degrees


def node_noise(
    noise_std: float | ArrayLike | xr.DataArray | None, records: Records, observable: Tensor
) -> Tensor | None:
    """Return the noise as a tensor, a number () or (channel, observation), float32.

    Args:
        noise_std: None (returned as it is), a number, or one a cell of the records, by their dims
            or flat, or one a channel, by its dim.
        records: What was observed.
        observable: (channel, observation); elsewhere noise does not matter.

    Raises:
        InputError: If the shape is another, or a number is not finite and above zero.
        GridError: If it is labelled with other coordinates than the records.
    """
    if noise_std is None:
        return None
    layout = records.layout
    if isinstance(noise_std, xr.DataArray):
        noise_std = _like(noise_std, records)
    try:
        noise = np.asarray(noise_std, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"noise_std={noise_std!r} given; expected numbers") from error
    size, shape = math.prod(layout.shape), records.data.shape[1:]
    if noise.shape == (size,):
        noise = noise.reshape(layout.shape)
    if noise.shape not in ((), layout.shape, shape):
        raise InputError(
            f"noise_std has shape {noise.shape}; expected a number, or one a cell: "
            f"({', '.join(layout.dims)}) = {layout.shape} or flat ({size},)"
        )
    if noise.ndim:
        noise = layout.nodes(noise)
    each = torch.tensor(noise, dtype=torch.float32)
    check_noise(each, tuple(observable.shape), observable)
    return torch.where(observable, each, 1.0) if each.ndim else each


def _like(noise: xr.DataArray, records: Records) -> NDArray[Any]:
    """Return labelled noise in the order of the records' dims."""
    if noise.ndim == 0:
        return noise.values
    obs, layout = records.array, records.layout
    dims = layout.dims
    if noise.dims == (layout.channel,):
        noise = noise.expand_dims({dim: obs.sizes[dim] for dim in dims})
    if layout.channel in noise.dims:
        dims = layout.cells
    if set(noise.dims) != set(dims):
        raise InputError(
            f"noise_std has dims {noise.dims}; expected {dims}: a number a cell that holds for all "
            "times"
        )
    noise = noise.transpose(*dims)
    for dim in dims:
        backwards = slice(None, None, -1)
        if dim in noise.coords and len(noise[dim]) > 1 and _same(noise[dim][backwards], obs[dim]):
            noise = noise.isel({dim: backwards})
    for name, own in obs.coords.items():
        of_cells = own.ndim and set(own.dims) <= set(dims)
        if of_cells and name in noise.coords and not _same(noise[name], own):
            raise GridError(
                f"noise_std has other coordinates {name!r} than obs; select it on the grid of obs"
            )
    return noise.values


def _same(first: xr.DataArray, second: xr.DataArray) -> bool:
    """Tell whether coordinates are the same, as single precision holds degrees."""
    numbers = first.dtype.kind in "fiu" and second.dtype.kind in "fiu"
    if numbers and first.shape == second.shape:
        return np.allclose(first.values, second.values, rtol=0, atol=_SAME)
    return np.array_equal(first.values, second.values)
