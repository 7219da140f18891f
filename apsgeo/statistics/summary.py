"""All statistics of an ensemble from one pass over its members, as a labelled data set."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.files.cf import lasting_attrs
from apsgeo.files.netcdf import unlimited_dims_of
from apsgeo.statistics.names import statistics_of
from apsgeo.statistics.statistic import Output, Site, Statistic

if TYPE_CHECKING:
    import dask.array

    from apsgeo.labels.lazy import Sampler
    from apsgeo.table.draw import PointSampler

__all__ = ["Summary", "summarize"]

_OF_VALUES = ("standard_name", "cell_methods", "long_name", "units")


@dataclass(frozen=True, eq=False)
class Summary:
    """A reduction of the members of a block of records to some statistics.

    Attributes:
        sampler: Sampler of the members.
        statistics: Statistics.
        site: What they know of the ensemble.
    """

    sampler: Sampler | PointSampler
    statistics: Sequence[Statistic]
    site: Site

    @property
    def outputs(self) -> list[Output]:
        """The variables that are made, in order."""
        return [one for each in self.statistics for one in each.outputs(self.site)]

    @property
    def size(self) -> int:
        """Number of values of each record."""
        return sum(math.prod(one.shape(self.site)) for one in self.outputs)

    def check(self) -> None:
        """Check that each statistic can be had.

        Raises:
            InputError: If one cannot.
        """
        for each in self.statistics:
            each.check(self.site)

    def __call__(
        self, values: Any, records: NDArray[np.void], noise: NDArray[Any] | None = None
    ) -> NDArray[np.float64]:
        """Return all values of some records, (record, size); see `Reduction`."""
        draws = self.sampler.draws(values, records, noise)
        states = [each.start(self.site) for each in self.statistics]
        for part in self.sampler.batches(draws, self.site.members):
            fields = part.numpy()
            for state in states:
                state.add(fields, draws)
        made = [value for state in states for value in state.values()]
        each = zip(self.outputs, made, strict=True)
        return np.concatenate([one.placed(value, self.site) for one, value in each], axis=1)

    def labelled(
        self, packed: dask.array.Array, like: xr.DataArray, dataset: xr.Dataset | None
    ) -> xr.Dataset:
        """Return the statistics as variables.

        Args:
            packed: Values (record, size), made by this reduction.
            like: Array ([record,] *cells) on the domain of the members.
            dataset: Data set whose variables are the channels, or None.
        """
        record = tuple(str(dim) for dim in like.dims if dim not in self.site.layout.cells)
        made = xr.Dataset()
        start = 0
        for one in self.outputs:
            shape = one.shape(self.site)
            stop = start + math.prod(shape)
            values = packed[:, start:stop].reshape((len(packed), *shape))
            values = values if one.suffix == "log_q" else values.astype(self.sampler.dtype)
            start = stop
            dims = one.dims(self.site)
            lead, cells = dims[: len(one.coords)], dims[len(one.coords) :]
            array = xr.DataArray(values if record else values[0], dims=(*record, *dims))
            array = array.transpose(*lead, *record, *cells)
            kept = {k: v for k, v in like.coords.items() if set(v.dims) <= {*array.dims}}
            array = array.assign_coords({**kept, **one.coords})
            made = made.assign(self._named(array, one, like, dataset))
        return made

    def _named(
        self, array: xr.DataArray, one: Output, like: xr.DataArray, dataset: xr.Dataset | None
    ) -> dict[Hashable, xr.DataArray]:
        """Return an output by its name, or by those of the variables that are its channels."""
        channel = self.site.layout.channel
        if not one.channels:
            return {one.suffix: array.assign_attrs(_attrs(one, like))}
        if dataset is None or channel is None:
            name = "value" if like.name is None else like.name
            return {f"{name}_{one.suffix}": array.assign_attrs(_attrs(one, like))}
        return {
            f"{name}_{one.suffix}": array.isel({channel: place}, drop=True).assign_attrs(
                _attrs(one, each)
            )
            for place, (name, each) in enumerate(dataset.data_vars.items())
        }


def _attrs(one: Output, like: xr.DataArray) -> dict[str, Any]:
    """Return the attributes of an output: those of the data that hold for it, and its own."""
    own = {name: text.format(_called(like)) for name, text in one.attrs.items()}
    units = like.attrs.get("units") if one.units is None else one.units
    if units is not None:
        own["units"] = units
    if not one.channels:
        return own
    attrs = lasting_attrs(like.attrs, like.coords)
    return {name: value for name, value in attrs.items() if name not in _OF_VALUES} | own


def _called(like: xr.DataArray) -> str:
    return str(like.attrs.get("long_name", "the value" if like.name is None else like.name))


def summarize(
    sampler: Sampler | PointSampler,
    statistics: Iterable[str | Statistic] | str,
    reduced: Callable[[Summary], dask.array.Array],
    like: xr.DataArray,
    dataset: xr.Dataset | None,
    made: Mapping[str, Any],
) -> xr.Dataset:
    """Return statistics of the members, lazily, all of them from one pass.

    Args:
        sampler: Sampler of the members.
        statistics: Statistics or their names; see `statistics_of`.
        reduced: Function that calls a reduction on all blocks of the observed records; see
            `apsgeo.labels.lazy.reduce`.
        like: Array ([record,] *cells) on the domain of the members.
        dataset: Data set whose variables are the channels, or None.
        made: Attributes that say how the members are made.

    Raises:
        InputError: If a statistic is not known, or cannot be had.
    """
    posterior: Any = sampler.posterior
    prior = posterior.gaussian_prior
    site = Site(
        layout=sampler.fields,
        channels=sampler.channels,
        members=sampler.members,
        normals=posterior.normals,
        log_prior=None if prior is None else prior.log_prob,
        name="the variable" if like.name is None else str(like.name),
    )
    summary = Summary(sampler, statistics_of(statistics), site)
    summary.check()
    found = summary.labelled(reduced(summary), like, dataset)
    for each in found.data_vars.values():
        each.encoding = (
            {"grid_mapping": mapping}
            if (mapping := like.encoding.get("grid_mapping")) in found.coords
            else {}
        )
    unlimited = unlimited_dims_of(like)
    found.encoding = {"unlimited_dims": set(unlimited)} if unlimited else {}
    return found.assign_attrs(made)
