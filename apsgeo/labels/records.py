"""Records: the fields that users hand in, their labels read once, at the door."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.domains.healpix.domain import HEALPixDomain
from apsgeo.errors import GridError, InputError
from apsgeo.files.cf import without_invalid
from apsgeo.labels.channels import as_array
from apsgeo.labels.dates import Dates
from apsgeo.labels.healpix import UNSEEN
from apsgeo.labels.layout import Layout, layout_of
from apsgeo.labels.times import is_time
from apsgeo.labels.units import check_units

__all__ = ["Records", "static_fields"]


@dataclass(frozen=True, eq=False)
class Records:
    """Labelled fields on a domain, with each dim known: records, channels or nodes.

    Attributes:
        array: Array ([record,] *layout.cells), in memory or lazy with dask.
        layout: Layout of the dims that run over nodes and channels.
        dates: Dates, numbers or places that tell the records apart.
        dataset: Data set whose variables are the channels, or None if the fields are an array.
        given: Name of the fields in messages.
    """

    array: xr.DataArray
    layout: Layout
    dates: Dates
    dataset: xr.Dataset | None
    given: str

    @classmethod
    def of(
        cls,
        fields: xr.DataArray | xr.Dataset,
        domain: Domain | None = None,
        *,
        given: str = "the array",
        wanted: str = "the request",
    ) -> Records:
        """Read the labels of fields.

        Args:
            fields: Array with the dims of a domain, in any order, with or without one of
                records and one of channels; or data set whose variables are the channels.
            domain: Domain of the fields, if labels do not say it; see `layout_of`.
            given: Name of the fields in messages.
            wanted: Name in messages of what the fields are for.

        Raises:
            GridError: If labels do not say the domain, or say another, or there are other dims.
            InputError: If variables differ in their dims, or there is no record.
        """
        array = as_array(fields)
        layout = layout_of(array, domain, given=given, wanted=wanted)
        fills = (UNSEEN,) if isinstance(layout.domain, HEALPixDomain) else ()
        array = without_invalid(array, given, fills)
        array = layout.ordered(array)
        dates = Dates.of(array, tuple(map(str, array.dims[: -len(layout.cells)])), given)
        if len(dates) == 0:
            raise InputError(f"{given} has no record; select at least one time")
        return cls(array, layout, dates, fields if isinstance(fields, xr.Dataset) else None, given)

    def __len__(self) -> int:
        return len(self.dates)

    def __getitem__(self, index: slice | NDArray[Any]) -> Records:
        """Return some of the records."""
        array = self._with_records.isel({self._with_records.dims[0]: index})
        chosen = replace(self, array=array, dates=self.dates[index])
        if "_nodes" in vars(self):
            vars(chosen)["_nodes"] = self._nodes[index]
        return chosen

    @property
    def dim(self) -> str | None:
        """Name of the dim of records, None if there is none."""
        single = self.array.ndim == len(self.layout.cells)
        return None if single else str(self.array.dims[0])

    @property
    def channels(self) -> int:
        """Number of channels; one if there is no dim of channels."""
        return 1 if self.layout.channel is None else self.array.sizes[self.layout.channel]

    @property
    def units(self) -> str | None:
        """Units of the values, None if unknown."""
        return self.array.attrs.get("units")

    @property
    def name(self) -> str | None:
        """Name of the variable, or names of several, joined by commas."""
        return None if self.array.name is None else str(self.array.name)

    @property
    def data(self) -> Any:
        """Values (record, *layout.cells), an array of numpy or dask."""
        return self.array.data if self.dim else self.array.data[None]

    @property
    def values(self) -> Tensor:
        """Values (record, channel, node) in the units of the data, float64."""
        return torch.from_numpy(np.asarray(self._nodes, dtype=np.float64))

    @cached_property
    def _nodes(self) -> NDArray[Any]:
        return self.layout.channel_nodes(self._with_records.values)

    @property
    def _with_records(self) -> xr.DataArray:
        return self.array if self.dim else self.array.expand_dims("time")

    def season(self, seasons: int) -> Tensor:
        """Return the index (record,) of each record's season; see `Dates.season`."""
        return torch.from_numpy(self.dates.season(seasons))

    @property
    def instants(self) -> Tensor:
        """Time (record,) of each record, float64: microseconds since 1970, its number or place."""
        return torch.from_numpy(self.dates.ticks.astype(np.float64))

    def check(self, wanted: str, name: str | None, units: str | None, channels: int) -> None:
        """Check that variables, channels and units are those of a model.

        Args:
            wanted: Name of the model in messages.
            name: Name of the model's variables, which a data set must have too.
            units: Units of the model, None if unknown.
            channels: Number of channels of the model.

        Raises:
            InputError: If the variables of a data set are others, or in another order.
            GridError: If there are more channels or fewer.
            UnitsError: If both units are known and differ.
        """
        if self.dataset is not None and self.name != name:
            advice = "select them in this order"
            if self.channels == channels == 1:
                advice = f"if they are the same quantity, .rename({{{self.name!r}: {name!r}}})"
            raise InputError(
                f"{self.given} has the variables {self.name}, and {wanted} is of {name}; {advice}"
            )
        if self.channels != channels:
            raise GridError(
                f"{self.given} has {self.channels} channels, and {wanted} {channels}; give the "
                "variables or colours of its history"
            )
        check_units(self.array, units, given=self.given, wanted=wanted)

    def as_history(self) -> Records:
        """Return the records of a history: with dates, or counted along a dim of samples.

        Raises:
            InputError: If there is no dim of records, or a dim of times has no dates.
            GridError: If times do not ascend.
        """
        if self.dim is None:
            raise InputError(
                f"{self.given} has dims {self.array.dims}; a prior is fitted to many fields along "
                "'time', or along a dim of samples that have no dates."
            )
        if not (self.dates.known or is_time(self.dim)):
            return replace(self, dates=Dates.counted(len(self), self.given))
        self.dates.check_history()
        self.dates.warn_of_lost_bounds()
        return self

    def filled(self, values: Tensor) -> Records:
        """Return records with the same labels and other values (record, channel, node)."""
        placed = self.layout.channel_places(values.numpy()).astype(self.array.dtype)
        array = self.array.copy(data=placed if self.dim else placed[0])
        return replace(self, array=array)

    def split(self, held_out_from: str | int | None) -> tuple[Records, Records]:
        """Return the records before a date or number, and the others.

        Windows of times (`apsgeo.windows`) before the date that reach beyond it are left out. The
        values are laid out once, for both parts.

        Raises:
            InputError: If a date is given and records have none.
        """
        earlier, later = self.parts(held_out_from)
        _ = self._nodes  # laid out now, for both
        return self[earlier], self[later]

    def parts(self, held_out_from: str | int | None) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Tell which records (record,) are in either part of `split`."""
        later = self.dates.since(held_out_from)
        reach = int(self.array["lag"].max()) if "lag" in self.array.dims else 0
        return ~later & ~np.append(later[reach:], np.full(reach, later.any())), later


def static_fields(
    static: xr.DataArray | xr.Dataset | None, valid: Tensor, domain: Domain
) -> Tensor:
    """Return the static fields (field, node), each of mean 0 and variance 1, float32.

    The first field tells where data are valid, if that is not everywhere. The others are those of
    ``static``, zero where it is NaN.

    Raises:
        GridError: If ``static`` is not on the domain, or has records.
        InputError: If one of its fields is the same everywhere.
    """
    fields = [] if bool(valid.all()) else [valid.double()[None]]
    if static is not None:
        records = Records.of(static, domain, given="static", wanted="the history")
        if records.dim is not None:
            raise GridError(
                f"static has dims {records.array.dims}; expected {records.layout.dims} alone."
            )
        fields.append(records.values[0])
    known = torch.cat(fields) if fields else torch.zeros(0, domain.num_nodes)
    centred = known - known.nanmean(1, keepdim=True)
    std = centred.square().nanmean(1, keepdim=True).sqrt()
    if not bool((std > 0).all()):
        raise InputError("a field of static is the same everywhere, or NaN; leave it out.")
    return torch.nan_to_num(centred / std).float()
