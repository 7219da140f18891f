"""Members of the fields behind tables of observations, drawn lazily, some records at a time."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.labels.dates import Dates
from apsgeo.labels.labels import labels_of
from apsgeo.labels.layout import Layout
from apsgeo.labels.lazy import record_table
from apsgeo.labels.quality import Control, compared
from apsgeo.labels.shared import SharedError, widest
from apsgeo.measurement import Draws, Measurement, Normals
from apsgeo.measurement.distribution import FieldDistribution
from apsgeo.operators.linear import SparseMap
from apsgeo.posterior import Posterior
from apsgeo.table.bins import binned, usual_freq
from apsgeo.table.columns import Table
from apsgeo.table.rows import Rows, rows_of
from apsgeo.table.shared import shared_of

if TYPE_CHECKING:
    import dask.array

__all__ = ["PointSampler", "Tables"]

_BLOCK_BYTES = 2**24  # bytes of members in a block
_MOST_RECORDS = 12  # in a block: each record's rows are columns of all others

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Block:
    """Some records, with those on either side that they are drawn given.

    Attributes:
        rows: Rows of all these records.
        noise: Standard deviation (row,) of their noise.
        record: Place (row,) of each row's record in the block.
        records: The records; `inner` where they are drawn.
    """

    rows: Rows
    noise: Array
    record: NDArray[np.int64]
    records: NDArray[np.void]

    @property
    def columns(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """A row of each observation (observation,), and the observation (row,) of each row.

        The first rows of records at a place are one observation, the second ones another.
        """
        table = self.rows.table
        around = None if table.lon is None else table.lon % 360.0
        known = [each[:, None] for each in (table.lat, around) if each is not None]
        _, place = np.unique(np.concatenate([*known, table.places], 1), axis=0, return_inverse=True)
        group = np.stack([self.record, table.channel, place.ravel()])
        order = np.lexsort(group)
        starts = np.append(True, (np.diff(group[:, order]) != 0).any(0))
        again = np.empty(len(order), np.int64)
        ends = np.append(np.flatnonzero(starts), len(order))
        again[order] = np.arange(len(order)) - np.repeat(ends[:-1], np.diff(ends))
        key = np.stack([place.ravel(), again], 1)
        _, first, column = np.unique(key, axis=0, return_index=True, return_inverse=True)
        return first, column.ravel()


@dataclass(frozen=True)
class PointSampler:
    """Draw the members of the records of a block of rows.

    Attributes:
        posterior: Model, whose `Posterior.linear_method` draws.
        members: Size of the ensemble.
        seed: Seed of the members.
        fields: Layout of the members.
        window: Number of records on either side that each is drawn given, too.
        errors: Errors that rows share.
    """

    posterior: Posterior
    members: int
    seed: int
    fields: Layout
    window: int = 0
    errors: tuple[SharedError, ...] = ()
    dtype: ClassVar[np.dtype[Any]] = np.dtype(np.float32)

    @property
    def channels(self) -> int:
        """Number of channels in a record."""
        return self.posterior.normals.channels

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one member of one record."""
        channel = () if self.fields.channel is None else (self.channels,)
        return (*channel, *self.fields.shape)

    @property
    def field_bytes(self) -> int:
        """Bytes of one member of one record."""
        return math.prod(self.shape) * self.dtype.itemsize

    def draws(self, block: Block, records: Any = None, noise: Any = None) -> FieldDistribution:
        """Return the draws of the inner records of a block, which knows its records and noise."""
        measured = self.measure(block)
        inner = torch.from_numpy(np.flatnonzero(block.records["inner"]))
        measured = measured.among(inner) if self.window else measured[inner]
        return self.posterior.linear_posterior(measured)

    def batches(self, draws: Draws, count: int, first: int = 0) -> Iterator[Tensor]:
        """Yield members (member, record, channel, node), so many at once as a block holds."""
        size = max(1, _BLOCK_BYTES // (len(draws.measurement) * self.field_bytes))
        for part in draws.batches(count, self.seed, size, first):
            yield part.cpu()

    def __call__(self, block: Block, records: Any = None) -> NDArray[np.float32]:
        """Return members (member, inner record, *shape)."""
        parts = self.batches(self.draws(block), self.members)
        placed = [self.fields.channel_places(part.numpy()) for part in parts]
        return np.concatenate(placed).astype(self.dtype)

    def measure(self, block: Block) -> Measurement:
        """Return the measurement (record, channel, observation) of a block's rows.

        Rows at one place are one observation of each record, so that stations share a factor.
        """
        table, records = block.rows.table, block.records
        first, column = block.columns
        shape = (len(records), self.posterior.normals.channels, len(first))
        values, noise = np.full(shape, np.nan, np.float32), np.ones(shape, np.float32)
        place = block.record, table.channel, column
        values[place], noise[place] = table.values, block.noise
        y = torch.from_numpy(values)
        shared = None
        if self.errors:
            number = np.ravel_multi_index((table.channel, column), shape[1:])
            shared = shared_of(self.errors, table, number, block.record, shape)
        return Measurement(
            y,
            ~torch.isnan(y),
            torch.from_numpy(noise),
            operator=SparseMap(block.rows.matrix[first]),
            season=torch.from_numpy(records["season"].copy()),
            instant=torch.from_numpy(records["instant"].copy()),
            key=torch.from_numpy(records["key"].copy()),
            time=torch.from_numpy(records["time"].copy()),
            shared=shared,
        )


@dataclass(frozen=True, eq=False)
class Tables:
    """Tables of observations, read and checked, in the order of their records.

    Attributes:
        rows: Rows in the order of their records.
        noise: Standard deviation (row,) of their noise.
        record: Record (row,) of each.
        records: Entries of the table of records; see `apsgeo.labels.lazy.record_table`.
        like: Array ([record,] *cells) with the labels of the fields; its values mean nothing.
        layout: Its layout.
    """

    rows: Rows
    noise: Array
    record: NDArray[np.int64]
    records: NDArray[np.void]
    like: xr.DataArray
    layout: Layout

    @classmethod
    def of(
        cls,
        frames: Sequence[Any],
        posterior: Posterior,
        noise_std: Any = None,
        control: Control = "flag",
        freq: str | None = None,
        errors: Sequence[SharedError] = (),
    ) -> Tables:
        """Read tables of observations of what a model knows.

        Args:
            frames: Tables of pandas, or what becomes one.
            posterior: Model.
            noise_std: Standard deviation of the noise where a table tells none: a number, or one
                for each instrument by name; by default the model's.
            control: What becomes of outliers; see `apsgeo.labels.quality.Innovations`.
            freq: Step of the records; see `apsgeo.table.bins.binned`. By default the history's.
            errors: Errors that rows share, as far as values may be off.

        Raises:
            InputError: If a table cannot be read, no row is on the domain, or nothing says the
                noise.
        """
        normals, names = posterior.normals, variable_names(posterior)
        given = ["obs" if len(frames) == 1 else f"table {k}" for k in range(1, len(frames) + 1)]
        parts = [
            rows_of(Table.of(frame, names, posterior.units, name), posterior.domain, valid)
            for frame, name in zip(frames, given, strict=True)
            for valid in [normals.valid.numpy()]
        ]
        noise = np.concatenate([_noise(part.table, noise_std, posterior) for part in parts])
        rows = Rows.joined(parts)
        freq = usual_freq(posterior) if freq is None else freq
        dates, record = _records(rows.table, freq, normals)
        values = compared(
            rows.table.values,
            *_expected(rows, normals, dates, record),
            np.hypot(noise, widest(errors)),
            rows.table.where,
            control,
            "" if posterior.units is None else f" {posterior.units}",
        )
        kept = np.flatnonzero(~np.isnan(values))
        if not len(kept):
            raise InputError("no observation is left; see the warnings")
        order = kept[np.argsort(record[kept], kind="stable")]
        like, layout = _labels(posterior, dates, names)
        step = None if posterior.memory is None else posterior.memory.step_days
        records = record_table(dates, normals.seasons, step)
        return cls(rows[order], noise[order], record[order], records, like, layout)

    @property
    def dataset(self) -> xr.Dataset | None:
        """Data set with the names and units of the variables; None if there is one variable."""
        if self.layout.channel is None:
            return None
        units = [each.strip() for each in str(self.like.attrs.get("units", "")).split(",")]
        names = self.like["variable"].values
        attrs = [{"units": units[k % len(units)]} if units[0] else {} for k in range(len(names))]
        return xr.Dataset({n: ((), 0.0, a) for n, a in zip(names, attrs, strict=True)})

    def draw(self, sampler: PointSampler) -> dask.array.Array:
        """Return members (member, [record,] *cells), lazily."""
        whole = self._computed(sampler, sampler, (sampler.members,), sampler.shape, np.float32)
        return whole if "time" in self.like.dims else whole[:, 0]

    def reduce(self, reduction: Any, window: int = 0) -> dask.array.Array:
        """Return what a reduction makes of the members, (record, size), lazily."""
        sampler = replace(reduction.sampler, window=window)
        return self._computed(reduction, sampler, (), (reduction.size,), np.float64)

    def _computed(
        self,
        func: Callable[..., Any],
        sampler: PointSampler,
        lead: tuple[int, ...],
        rest: tuple[int, ...],
        dtype: Any,
    ) -> dask.array.Array:
        """Call a function on blocks of records: an array (*lead, record, *rest)."""
        import dask
        import dask.array as da

        most = _BLOCK_BYTES // (sampler.members * sampler.field_bytes)
        most = int(np.clip(most, 1, _MOST_RECORDS))
        calling = dask.delayed(func, name=f"model-{uuid.uuid4().hex}", traverse=False)
        made = []
        for first in range(0, len(self.records), most):
            block = self._block(first, min(first + most, len(self.records)), sampler.window)
            name = f"impute-{uuid.uuid4().hex}"
            rows = dask.delayed(block, name=f"rows-{name}", traverse=False)
            records = dask.delayed(block.records, name=f"records-{name}", traverse=False)
            drawn = calling(rows, records, dask_key_name=name)
            size = (*lead, int(block.records["inner"].sum()), *rest)
            made.append(da.from_delayed(drawn, size, dtype=dtype))
        return da.concatenate(made, axis=len(lead))

    def _block(self, first: int, last: int, window: int) -> Block:
        """Return the records from first to last, and those around them."""
        low, high = max(0, first - window), min(len(self.records), last + window)
        ends = np.searchsorted(self.record, [low, high])
        part = np.arange(*ends)
        records = self.records[low:high].copy()
        records["inner"] = (np.arange(low, high) >= first) & (np.arange(low, high) < last)
        return Block(self.rows[part], self.noise[part], self.record[part] - low, records)


def variable_names(posterior: Posterior) -> list[str]:
    """Return the name of each channel of a model's variables."""
    names = [each.strip() for each in (posterior.variable or "value").split(",")]
    count = posterior.normals.channels
    return names if len(names) == count else [f"{names[0]} {c}" for c in range(count)]


def _noise(table: Table, noise_std: Any, posterior: Posterior) -> Array:
    """Return the noise (row,): of the table, or as given, or the model's."""
    default: Any = noise_std
    if default is None:
        known = posterior.noise_std.double()
        channel = known if known.shape == (posterior.normals.channels, 1) else known.mean()
        default = np.broadcast_to(channel.numpy().ravel(), (posterior.normals.channels,))
        default = default[table.channel]
    elif isinstance(default, Mapping):
        default = _noise_by_label(table, default)
    noise = np.where(np.isnan(table.error), default, table.error)
    if noise.shape != (len(table),) or not (np.isfinite(noise) & (noise > 0)).all():
        raise InputError(
            f"noise_std={noise_std!r} given for the rows of {table.given}; expected a number above "
            "zero, or one for each instrument by its name; or give a column 'error'"
        )
    return noise


def _noise_by_label(table: Table, by_label: Mapping[Any, float]) -> Array:
    """Return the noise (row,) by the column that holds the names of a mapping."""
    for labels in table.labels.values():
        own = {str(each) for each in labels}
        if own & {str(name) for name in by_label}:
            known = {str(name): float(each) for name, each in by_label.items()}
            if missing := sorted(own - set(known)):
                raise InputError(
                    f"noise_std has nothing for {', '.join(missing[:3])}; give the noise of each "
                    f"of {', '.join(sorted(own)[:6])}"
                )
            return np.array([known[str(each)] for each in labels])
    raise InputError(
        f"noise_std is given for {', '.join(map(str, by_label))}, and no column of {table.given} "
        f"holds these names; it has {', '.join(table.labels) or 'no other columns'}"
    )


def _records(table: Table, freq: str | None, normals: Normals) -> tuple[Dates, NDArray[np.int64]]:
    """Return the dates of the records, and the record (row,) of each row."""
    if table.time is None:
        if normals.seasons > 1 or normals.trend is not None:
            raise InputError(
                f"{table.given} has no column 'time', and the model has {normals.described}; give "
                "the date of each row"
            )
        return Dates.counted(1, table.given), np.zeros(len(table), np.int64)
    starts, record = binned(table.time, freq, table.given)
    return Dates(starts, "time", table.given), record


def _expected(
    rows: Rows, normals: Normals, dates: Dates, record: NDArray[np.int64]
) -> tuple[Array, Array]:
    """Return the mean (row,) of what is measured, and the most that it can vary."""
    season, trend = dates.season(normals.seasons)[record], normals.trend
    index = np.zeros(len(rows))
    if trend is not None:
        index = trend.index.at(torch.from_numpy(dates.ticks.astype(np.float64))).numpy()[record]
    mean, spread = np.empty(len(rows)), np.empty(len(rows))
    for each in np.unique(season):
        for channel in range(normals.channels):
            here = (season == each) & (rows.table.channel == channel)
            matrix = rows.matrix[here]
            mean[here] = matrix @ normals.mean[each, channel].double().numpy()
            std = normals.std[each, channel].double().numpy()
            spread[here] = abs(matrix) @ std
            if trend is not None:
                mean[here] += index[here] * (matrix @ (std * trend.pattern[channel].numpy()))
    return mean, spread


def _labels(posterior: Posterior, dates: Dates, names: list[str]) -> tuple[xr.DataArray, Layout]:
    """Return an array with the labels of the fields, whose values mean nothing, and its layout."""
    labels = labels_of(posterior.domain)
    layout, coords = labels.layout, dict[str, Any](labels.coords)
    dims, shape = layout.dims, layout.shape
    if posterior.normals.channels > 1:
        layout = replace(layout, channel="variable")
        dims, shape = ("variable", *dims), (len(names), *shape)
        coords["variable"] = names
    if dates.coordinate is not None:
        dims, shape = ("time", *dims), (len(dates), *shape)
        attrs = {"standard_name": "time", "long_name": "start of the time that is observed"}
        coords["time"] = xr.Variable("time", dates.values, attrs)
    nothing = np.broadcast_to(np.float32(np.nan), shape)
    attrs = {} if posterior.units is None else {"units": posterior.units}
    like = xr.DataArray(nothing, coords, dims, posterior.variable, attrs)
    if labels.grid_mapping is not None:
        like.encoding["grid_mapping"] = labels.grid_mapping
    return like, layout
