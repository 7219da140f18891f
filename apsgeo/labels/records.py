"""The records of a history: their dates, their seasons, and which of them are held out."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import GridError, InputError
from apsgeo.labels.channels import as_array
from apsgeo.labels.layout import Layout, layout_of

__all__ = [
    "count_seasons",
    "fields_of",
    "last_tenth",
    "record_dim",
    "records_within",
    "season_index",
    "split_records",
    "static_fields",
]

_MONTHS = 12


def record_dim(history: xr.DataArray, layout: Layout) -> str:
    """Return the dim along which the fields of a history lie: 'time', or one of samples.

    Raises:
        InputError: If there is none, or it is 'time' and has no dates.
        GridError: If there are several, or times do not ascend.
    """
    ordered = layout.ordered(history)
    if ordered.ndim == len(layout.cells):
        raise InputError(
            f"the history has dims {history.dims}; a prior is fitted to many fields along 'time', "
            "or along a dim of samples that have no dates."
        )
    name = str(ordered.dims[0])
    if name == "time":
        _check_times(history)
    return name


def _check_times(history: xr.DataArray) -> None:
    if "time" not in history.coords or history["time"].dtype.kind != "M":
        raise InputError(
            "the history's 'time' holds no datetime64 dates, which tell the seasons and what is "
            "held out; assign them, or convert cftime dates: history.convert_calendar('standard'); "
            "of samples without dates, name the dim otherwise: history.rename(time='sample')."
        )
    if not (np.diff(history["time"].values) > np.timedelta64(0)).all():
        raise GridError("the history's times must ascend, each once; use history.sortby('time').")


def fields_of(history: xr.DataArray, layout: Layout) -> Tensor:
    """Return the fields (record, channel, node), float64."""
    fields = np.asarray(layout.ordered(history).values, dtype=np.float64)
    return torch.from_numpy(layout.channel_nodes(fields))


def count_seasons(history: xr.DataArray) -> int:
    """Return 12 if every month is there at least twice, else 1."""
    if "time" not in history.dims:
        return 1
    counts = np.bincount(history["time"].dt.month.values, minlength=_MONTHS + 1)[1:]
    return _MONTHS if counts.min() >= 2 else 1


def season_index(history: xr.DataArray, records: str, seasons: int) -> Tensor:
    """Return the index of the season of each record (record,): month - 1, or 0 if there is one."""
    if seasons == 1:
        return torch.zeros(history.sizes[records], dtype=torch.long)
    return torch.from_numpy(history["time"].dt.month.values - 1).long()


def records_within(history: xr.DataArray, span: tuple[str, str]) -> Tensor:
    """Tell which records (record,) are from one date to another.

    Raises:
        InputError: If they have no dates.
    """
    times = _times(history, f"baseline={span!r}")
    return torch.from_numpy(np.isin(times.values, times.sel(time=slice(*span)).values))


def last_tenth(history: xr.DataArray, records: str) -> str | int | None:
    """Return where the last tenth begins: its date, or its number; None of fewer than ten."""
    count = history.sizes[records]
    if count < 10:
        return None
    first = count - count // 10
    return str(history["time"].values[first]) if records == "time" else first


def split_records(
    history: xr.DataArray, records: str, held_out_from: str | int | None
) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the records before a date, or of lower numbers, and the others.

    Windows of times (`apsgeo.windows`) are left out of the former where they reach into the latter.

    Raises:
        InputError: If a date is given and records have none.
    """
    count = history.sizes[records]
    if isinstance(held_out_from, str):
        times = _times(history, f"held_out_from={held_out_from!r}")
        later = times.values >= np.datetime64(held_out_from)
    else:
        later = np.arange(count) >= (count if held_out_from is None else held_out_from)
    reach = int(history["lag"].max()) if "lag" in history.dims else 0
    earlier = ~later & ~np.append(later[reach:], np.full(reach, later.any()))
    return history.isel({records: earlier}), history.isel({records: later})


def static_fields(
    static: xr.DataArray | xr.Dataset | None, valid: Tensor, domain: Domain
) -> Tensor:
    """Return what is known of each node (field, node), of mean 0 and variance 1, float32.

    The first field is where data are valid, if that is not everywhere; the others are those of
    ``static``, zero where it is NaN.

    Raises:
        GridError: If ``static`` is not on the domain, or has records.
        InputError: If a field of it is the same everywhere.
    """
    fields = [] if bool(valid.all()) else [valid.double()[None]]
    if static is not None:
        array = as_array(static)
        layout = layout_of(array, domain, given="static", wanted="the history")
        values = layout.ordered(array)
        if values.ndim > len(layout.cells):
            raise GridError(f"static has dims {array.dims}; expected {layout.dims} alone.")
        fields.append(torch.from_numpy(layout.channel_nodes(values.values.astype(np.float64))))
    known = torch.cat(fields) if fields else torch.zeros(0, domain.num_nodes)
    centred = known - known.nanmean(1, keepdim=True)
    std = centred.square().nanmean(1, keepdim=True).sqrt()
    if not bool((std > 0).all()):
        raise InputError("a field of static is the same everywhere, or NaN; leave it out.")
    return torch.nan_to_num(centred / std).float()


def _times(history: xr.DataArray, argument: str) -> xr.DataArray:
    if "time" not in history.dims:
        raise InputError(
            f"{argument} names dates, and the history has dims {history.dims}, not 'time'; give "
            "its records dates, or fit without."
        )
    return history["time"]
