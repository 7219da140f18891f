"""What `apsgeo.impute` demands of its arguments, each with an error that says what to do."""

from __future__ import annotations

import math
import operator
import warnings
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import ArrayLike, NDArray

from apsgeo.errors import GridError, InputError, NothingObservedWarning, UnitsError

if TYPE_CHECKING:
    from torch import Tensor

    from apsgeo.labels.layout import Layout

__all__ = [
    "check_floating",
    "check_units",
    "check_values",
    "integer",
    "node_noise",
    "record_table",
]

_SPELLINGS = {
    "K": ("k", "kelvin", "kelvins", "degk", "deg_k", "degree_kelvin"),
    "degC": ("c", "degc", "deg_c", "deg c", "°c", "celsius", "degree_celsius", "degrees_celsius"),
    "Pa": ("pa", "pascal", "pascals"),
    "hPa": ("hpa", "mbar", "mb", "millibar", "millibars", "hectopascal"),
}
_CONVERSIONS = {
    ("K", "degC"): "obs - 273.15",
    ("degC", "K"): "obs + 273.15",
    ("Pa", "hPa"): "obs / 100",
    ("hPa", "Pa"): "obs * 100",
}
_SAME = 1e-4  # between coordinates, in degrees
_SHOWN = 3  # of a long list, in a message


def integer(value: Any, name: str, *, least: int) -> int:
    """Return an argument as an int.

    Raises:
        InputError: If it is not a whole number, or below ``least``.
    """
    try:
        number = operator.index(value)
    except TypeError:
        number = None
    if number is None or isinstance(value, bool) or number < least:
        raise InputError(f"{name}={value!r} given; expected a whole number of at least {least}")
    return number


def check_floating(obs: xr.DataArray) -> None:
    """Check that the dtype can hold NaN.

    Raises:
        InputError: If it cannot.
    """
    if obs.dtype.kind != "f":
        raise InputError(
            f"obs has dtype {obs.dtype}, in which no value can be missing; expected floating point "
            "with NaN where nothing was observed: use obs.astype('float32').where(observed)"
        )


def check_units(
    obs: xr.DataArray, units: str | None, *, given: str = "obs", wanted: str = "the model"
) -> None:
    """Check the attribute ``units`` against those wanted, where both are known.

    Args:
        obs: The data.
        units: What is wanted, or None.
        given: What messages call the data.
        wanted: What messages call that which they are checked against.

    Raises:
        UnitsError: If they differ; it tells the conversion, if it is a common one.
    """
    own = obs.attrs.get("units")
    if own is None or units is None or _unit(own) == _unit(units):
        return
    conversion = _CONVERSIONS.get((_unit(own), _unit(units)), "converted")
    raise UnitsError(
        f"{given} has units {own!r}, and {wanted} has {units!r}; "
        f"use ({conversion}).assign_attrs(obs.attrs, units={units!r})"
    )


def _unit(units: Any) -> str:
    text = " ".join(str(units).split())
    for name, spellings in _SPELLINGS.items():
        if text.lower() in spellings:
            return name
    return text


def node_noise(
    noise_std: float | ArrayLike | xr.DataArray | None,
    obs: xr.DataArray,
    valid: NDArray[np.bool_],
    layout: Layout,
) -> Tensor | None:
    """Return the noise as a tensor, a number () or one a node ([channel,] node), in their order.

    Args:
        noise_std: None (returned as it is), a number, or one a cell of obs, by its dims or flat, or
            one a channel, by its dim.
        obs: (..., *layout.cells).
        valid: (*layout.cells); elsewhere noise does not matter.
        layout: Of obs on the model's domain.

    Raises:
        InputError: If the shape is another, or a number is not finite and above zero.
        GridError: If it is labelled with other coordinates than obs.
    """
    import torch

    if noise_std is None:
        return None
    if isinstance(noise_std, xr.DataArray):
        noise_std = _like(noise_std, obs, layout)
    try:
        noise = np.asarray(noise_std, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"noise_std={noise_std!r} given; expected numbers") from error
    if noise.shape == (math.prod(layout.shape),):
        noise = noise.reshape(layout.shape)
    if noise.shape not in ((), layout.shape, valid.shape):
        raise InputError(
            f"noise_std has shape {noise.shape}; expected a number, or one a cell: "
            f"({', '.join(layout.dims)}) = {layout.shape} or flat ({math.prod(layout.shape)},)"
        )
    used = np.broadcast_to(noise, valid.shape)[valid]
    if bad := int((~(np.isfinite(used) & (used > 0))).sum()):
        which = f"={noise:g}" if noise.ndim == 0 else f" has {bad} such values"
        raise InputError(
            "noise_std must be finite and above zero, in the units of obs, and noise_std"
            f"{which}; for nearly perfect observations give a small number"
        )
    if noise.ndim:
        noise = layout.nodes(np.where(valid, noise, 1.0))
    return torch.tensor(noise, dtype=torch.float32)


def _like(noise: xr.DataArray, obs: xr.DataArray, layout: Layout) -> NDArray[Any]:
    """Return labelled noise in the order of obs's dims."""
    if noise.ndim == 0:
        return noise.values
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


def record_table(obs: xr.DataArray, dims: tuple[str, ...], seasons: int) -> NDArray[np.void]:
    """Describe the records of obs (time, *dims) or (*dims), one if it has no time.

    Returns:
        (record,) with the fields ``key``, an int64 that names the record for its random draws: its
        time in ns since 1970, or its index if it has no time; ``season``, its month from 0 to 11,
        or 0 where the model has no ``seasons``; and ``name`` for messages.

    Raises:
        GridError: If times are missing, repeated or not in order.
        InputError: If the model knows months and obs has no dates.
    """
    records = obs.dims[: -len(dims)]
    count = obs.shape[0] if records else 1
    if count == 0:
        raise InputError("obs has no record; select at least one time")
    table = np.zeros(count, dtype=[("key", "i8"), ("season", "i8"), ("name", "U40")])
    labels = _labels(obs, records)
    if labels is None:
        table["key"] = np.arange(count)
        table["name"] = [f"record {index}" for index in range(count)]
    else:
        values = np.atleast_1d(labels.values)
        table["key"] = _keys(values, str(labels.name))
        table["name"] = [str(value).removesuffix("T00:00:00.000000000") for value in values]
    if seasons > 1:
        table["season"] = _months(labels, seasons)
    return table


def _labels(obs: xr.DataArray, records: tuple[Hashable, ...]) -> xr.DataArray | None:
    """Return the coordinate of numbers or dates that tells the records apart, if there is one."""
    for name in ("time", *records):
        if name in obs.coords and obs[name].dims == records:
            return obs[name] if obs[name].dtype.kind in "Mmiuf" or _is_cftime(obs[name]) else None
    return None


def _is_cftime(labels: xr.DataArray) -> bool:
    return labels.dtype.kind == "O" and all(hasattr(x, "calendar") for x in labels.values.flat)


def _keys(values: NDArray[Any], name: str) -> NDArray[np.int64]:
    missing = np.zeros(len(values), dtype=bool)
    kind = values.dtype.kind
    if kind in "Mm":
        missing = np.isnat(values)
        ticks = values.astype(f"{kind}8[us]").astype(np.int64)
        keys = 1000 * ticks  # wraps around far from 1970, which an identifier may
    elif kind == "O":
        import cftime

        ticks = cftime.date2num(values, "microseconds since 1970-01-01", values[0].calendar)
        keys = 1000 * ticks.astype(np.int64)
    elif kind == "f":
        missing = ~np.isfinite(values)
        ticks, keys = values, values.astype(np.float64).view(np.int64)
    else:
        ticks = keys = values.astype(np.int64)
    if missing.any():
        raise GridError(f"{name!r} is missing or infinite in {missing.sum()} records; drop them")
    _check_order(ticks, values, name)
    return keys


def _check_order(ticks: NDArray[Any], values: NDArray[Any], name: str) -> None:
    if (ticks[1:] > ticks[:-1]).all() or (ticks[1:] < ticks[:-1]).all():
        return
    _, first, counts = np.unique(ticks, return_index=True, return_counts=True)
    if counts.max() > 1:
        again = values[first[counts.argmax()]]
        raise GridError(
            f"{name!r} holds {again} {counts.max()} times; keep one: obs.drop_duplicates({name!r})"
        )
    raise GridError(f"{name!r} neither ascends nor descends; use obs.sortby({name!r})")


def _months(labels: xr.DataArray | None, seasons: int) -> NDArray[np.int64]:
    try:
        if labels is None:
            raise TypeError
        months = labels.dt.month.values
    except (AttributeError, TypeError) as error:
        raise InputError(
            f"the model knows {seasons} seasons, and obs has no dates; give it a coordinate 'time' "
            "of dates: obs.assign_coords(time=...)"
        ) from error
    return np.atleast_1d(months).astype(np.int64) - 1


def check_values(
    values: NDArray[Any], valid: NDArray[np.bool_], names: NDArray[np.str_], *, whole: bool
) -> None:
    """Check the values of some records.

    Args:
        values: (record, ...), NaN where not observed.
        valid: (...), false where the model has no values.
        names: (record,), for messages.
        whole: whether these are all records of a mask, so that there must be a gap among them.

    Raises:
        InputError: If a value is infinite, or all is observed although ``whole``.

    Warns:
        NothingObservedWarning: If a record has no observation.
    """
    cells = tuple(range(1, values.ndim))
    infinite = np.isinf(values)
    if infinite.any():
        where = infinite.any(axis=cells)
        raise InputError(
            f"obs has {infinite.sum()} infinite values, in {_some(names[where])}; set them to NaN: "
            "obs.where(np.isfinite(obs))"
        )
    observed = ~np.isnan(values) & valid
    if whole and observed[:, valid].all():
        raise InputError(
            "obs has no NaN, so there is no gap to fill; mark what was not observed as NaN: "
            "obs.where(observed)"
        )
    empty = ~observed.any(axis=cells)
    if empty.any():
        warnings.warn(
            f"nothing was observed in {_some(names[empty])}: the members there are draws of the "
            "prior",
            NothingObservedWarning,
            stacklevel=3,
        )


def _some(names: NDArray[np.str_]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN].tolist()) + more
