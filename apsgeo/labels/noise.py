"""Labelled noise of observations, as the tensor that a model takes."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from apsgeo.errors import GridError, InputError
from apsgeo.labels.dates import Dates
from apsgeo.labels.records import Records
from apsgeo.measurement.noise import check_noise

__all__ = ["NoiseStd", "history_noise", "joined", "node_noise", "record_noise"]

NoiseStd = float | ArrayLike | xr.DataArray | xr.Dataset | Mapping[str, Any]

_SAME = 1e-4  # degrees by which equal coordinates may differ


def node_noise(
    noise_std: float | ArrayLike | xr.DataArray | None, records: Records, observable: Tensor
) -> Tensor | None:
    """Return the noise as a tensor, a number () or (channel, observation), float32.

    Args:
        noise_std: None (returned as it is), a number, one for each cell of the records, by their
            dims or flat, or one for each channel, by its dim.
        records: Observed records.
        observable: Mask (channel, observation); elsewhere noise does not matter.

    Raises:
        InputError: If the shape does not fit, or a number is not finite and above zero.
        GridError: If its labels have other coordinates than the records.
    """
    if noise_std is None:
        return None
    layout = records.layout
    if isinstance(noise_std, xr.DataArray):
        noise_std = _like(noise_std, records).values
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


def history_noise(
    noise_std: float | ArrayLike | xr.DataArray | None, records: Records
) -> Tensor | None:
    """Return the error of a history's observations, which broadcasts to its values, float64.

    Args:
        noise_std: None (returned as it is), zero or what `node_noise` takes, or an array like the
            history, with a number for each observation (NaN elsewhere).
        records: The history.

    Raises:
        InputError: If the shape does not fit, or a number where something was observed is not
            finite or below zero.
        GridError: If its labels have other coordinates than the records.
    """
    if isinstance(noise_std, xr.DataArray) and records.dim in noise_std.dims:
        own = Records.of(noise_std, records.layout.domain, given="noise_std", wanted="the history")
        if len(own) != len(records) or own.channels not in (1, records.channels):
            raise InputError(
                f"noise_std has dims {dict(noise_std.sizes)}; expected those of the history, "
                f"{dict(records.array.sizes)}"
            )
        each = own.values
        wrong = ~records.values.isnan() & ~(torch.isfinite(each) & (each >= 0.0))
        if bool(wrong.any()):
            raise InputError(
                f"noise_std is NaN, infinite or below zero at {int(wrong.sum())} observations; "
                "give each a standard deviation in the units of the data."
            )
        return torch.nan_to_num(each)
    if isinstance(noise_std, int | float) and noise_std == 0:
        return torch.zeros((), dtype=torch.float64)
    observable = (~records.values.isnan()).any(0)
    found = node_noise(noise_std, records, observable)
    return None if found is None else found.double()


def joined(noise_std: Any, records: Records) -> Any:
    """Return noise that is given for each variable as one array along the dim of channels.

    Args:
        noise_std: Data set or mapping of the noise by the names of variables or channels; whatever
            else comes back as it is.
        records: Observed records.

    Raises:
        InputError: If names differ from those of the records.
    """
    if not isinstance(noise_std, Mapping | xr.Dataset):
        return noise_std
    channel = records.layout.channel
    if records.dataset is not None:
        names = [str(name) for name in records.dataset.data_vars]
    elif channel is not None and channel in records.array.coords:
        names = [str(name) for name in records.array[channel].values]
    else:
        names = [] if records.name is None else [records.name]
    given = noise_std.data_vars if isinstance(noise_std, xr.Dataset) else noise_std
    by_name = {str(name): each for name, each in given.items()}
    if set(by_name) != set(names) or not names:
        raise InputError(
            f"noise_std is given for {', '.join(by_name) or 'nothing'}, and {records.given} has "
            f"{', '.join(names) or 'one variable without a name'}; give the noise of each"
        )
    if channel is None:
        return by_name[names[0]]
    each = {name: xr.DataArray(by_name[name]) for name in names}
    return xr.Dataset(each).to_dataarray(channel).drop_vars(channel)


def record_noise(noise_std: Any, records: Records, valid: NDArray[np.bool_]) -> Any:
    """Return noise that differs by record as (record, *records.layout.cells), numpy or dask.

    None if it does not, as of a number.

    Args:
        noise_std: Noise with the dim of the records, or an array of the shape of all records; NaN
            where nothing was observed. So is noise of cells where one that may be observed is NaN.
        records: Observed records.
        valid: Mask (*records.layout.cells), false where no observation has an influence.

    Raises:
        InputError: If the dims do not fit.
        GridError: If its labels have other coordinates than the records, or lack their times.
    """
    shape = tuple(records.data.shape)
    dim = records.dim
    if not isinstance(noise_std, xr.DataArray):
        found = np.asarray(noise_std) if noise_std is not None else np.zeros(())
        if dim and found.ndim and found.shape == shape:
            return found
        return (
            _of_all_records(found, records, valid) if found.size == math.prod(shape[1:]) else None
        )
    if dim is None or dim not in noise_std.dims:
        each = _like(noise_std, records)
        return _of_all_records(each.values, records, valid) if each.ndim else None
    own = Dates.of(noise_std, (dim,), "noise_std")
    if own.coordinate is None or records.dates.coordinate is None:
        place = np.arange(len(own)) if len(own) == len(records) else np.full(1, -1)
    else:
        place = own.places_of(records.dates)
    if (place < 0).any():
        raise GridError(
            f"noise_std has {len(own)} records along {dim!r}, and not those of {records.given}; "
            "give one for each of its times"
        )
    noise = noise_std.isel({dim: place}).drop_vars(
        [name for name, each in noise_std.coords.items() if dim in each.dims]
    )
    rest = _like(noise, records, (dim,))
    if rest.ndim < len(shape):  # of all channels alike
        rest = rest.expand_dims({records.layout.channel: records.channels}, 1)
    return rest.data


def _of_all_records(
    noise: NDArray[Any], records: Records, valid: NDArray[np.bool_]
) -> NDArray[Any] | None:
    """Return noise of cells for all records, if it is NaN at some that may be observed."""
    if noise.shape != valid.shape:  # flat, or of all channels alike
        noise = noise.reshape(records.layout.shape)
    if noise.dtype.kind != "f" or not (np.isnan(noise) & valid).any():
        return None
    return np.broadcast_to(noise, (len(records), *valid.shape))


def _like(noise: xr.DataArray, records: Records, first: tuple[str, ...] = ()) -> xr.DataArray:
    """Return labelled noise in the order of the records' dims, those in ``first`` first."""
    if noise.ndim == 0:
        return noise
    obs, layout = records.array, records.layout
    dims = layout.dims
    if noise.dims == (layout.channel,):
        noise = noise.expand_dims({dim: obs.sizes[dim] for dim in dims})
    if layout.channel in noise.dims:
        dims = layout.cells
    if set(noise.dims) != {*first, *dims}:
        raise InputError(
            f"noise_std has dims {noise.dims}; expected {dims}: a number a cell, which holds for "
            f"all times, or {(records.dim, *dims)}: one for each observation"
        )
    noise = noise.transpose(*first, *dims)
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
    return noise


def _same(first: xr.DataArray, second: xr.DataArray) -> bool:
    """Tell whether coordinates are the same, as single precision holds degrees."""
    numbers = first.dtype.kind in "fiu" and second.dtype.kind in "fiu"
    if numbers and first.shape == second.shape:
        return np.allclose(first.values, second.values, rtol=0, atol=_SAME)
    return np.array_equal(first.values, second.values)
