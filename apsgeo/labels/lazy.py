"""Members of labelled records, drawn lazily, block by block in time."""

from __future__ import annotations

import math
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import dask
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.errors import InputError, NothingObservedWarning, OnLandWarning
from apsgeo.gaussian.time.memory import Memory
from apsgeo.labels.dates import Dates
from apsgeo.labels.layout import Layout
from apsgeo.labels.quality import Innovations
from apsgeo.labels.records import Records
from apsgeo.labels.shared import GridErrors
from apsgeo.labels.steps import time_in_steps
from apsgeo.measurement import Draws, Measurement
from apsgeo.measurement.noise import check_noise
from apsgeo.operators import Operator

if TYPE_CHECKING:
    import dask.array

__all__ = ["Reduction", "Sampler", "draw", "record_table", "reduce"]

_BLOCK_BYTES = 2**24  # bytes of members in a block; drawing them takes some ten times as much
_RECORD_BYTES = 2**28  # bytes of one record's members in a block: more make several blocks
_MEMBER = -1  # number of the members' axis, beside those of the data
_SHOWN = 3  # entries of a long list that a message shows
_RECORD = np.dtype(
    [
        ("key", "i8"),
        ("season", "i8"),
        ("time", "f8"),
        ("instant", "f8"),
        ("inner", "?"),
        ("place", "i8"),
        ("name", "U40"),
    ]
)


class Model(Protocol):
    """What members are drawn by: a method in the units of the data, such as a `Posterior`."""

    @property
    def memory(self) -> Memory | None:
        """How records follow each other, if it knows."""
        ...

    def measure(
        self,
        y: Tensor,
        season: Tensor | None = None,
        noise_std: float | Tensor | None = None,
        operator: Operator | None = None,
        key: Tensor | None = None,
        time: Tensor | None = None,
        instant: Tensor | None = None,
    ) -> Measurement:
        """Return the measurement of values (batch, channel, observation)."""
        ...

    def posterior(self, measurement: Measurement) -> Draws:
        """Return the posterior of a measurement."""
        ...


@dataclass(frozen=True)
class Sampler:
    """Draw the members of a block of records.

    Attributes:
        posterior: Model, which measures observations and returns their posterior.
        members: Size of the ensemble.
        seed: Seed of the members.
        noise_std: Standard deviation of the noise: a number or ([channel,] observation) in the
            order of the operator; None for the posterior's own.
        operator: Operator of the posterior's family that measured.
        measured: Layout of the records, over the observations.
        fields: Layout of the members, over the model's nodes.
        channels: Number of channels in a record.
        dtype: Dtype of the members.
        window: Number of records on either side that each is drawn given, too.
        shared: Errors that observations share, if any.
    """

    posterior: Model
    members: int
    seed: int
    noise_std: Tensor | None
    operator: Operator
    measured: Layout
    fields: Layout
    channels: int
    dtype: np.dtype[Any]
    window: int = 0
    shared: GridErrors | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one member of one record."""
        channel = () if self.fields.channel is None else (self.channels,)
        return (*channel, *self.fields.shape)

    @property
    def field_bytes(self) -> int:
        """Bytes of one member of one record."""
        return math.prod(self.shape) * self.dtype.itemsize

    def draws(
        self,
        values: NDArray[Any],
        records: NDArray[np.void],
        noise: NDArray[Any] | None = None,
    ) -> Draws:
        """Return the draws of the inner ones of some records.

        Args:
            values: Observed values (record, ...).
            records: Their entries of the table of records.
            noise: Noise (record, ...), which goes before `noise_std`.
        """
        # In one order of memory, in which kernels add up: members are the same bits in any layout.
        observations = np.array(self.measured.channel_nodes(values), np.float32, order="C")
        measured = self.posterior.measure(
            torch.from_numpy(observations),
            season=torch.from_numpy(records["season"].copy()),
            noise_std=self.noise_std if noise is None else self._noise(noise, values),
            operator=self.operator,
            key=torch.from_numpy(records["key"].copy()),
            time=torch.from_numpy(records["time"].copy()),
            instant=torch.from_numpy(records["instant"].copy()),
        )
        if self.shared is not None:
            measured = replace(measured, shared=self.shared(records["place"]))
        if self.window:
            measured = measured.among(torch.from_numpy(np.flatnonzero(records["inner"])))
        return self.posterior.posterior(measured)

    def batches(self, draws: Draws, count: int, first: int = 0) -> Iterator[Tensor]:
        """Yield members (member, record, channel, node), so many at once as a block holds.

        Args:
            draws: Draws of some records.
            count: Number of members.
            first: Number of the first of them.
        """
        size = max(1, _BLOCK_BYTES // (len(draws.measurement) * self.field_bytes))
        for part in draws.batches(count, self.seed, size, first):
            yield part.cpu()

    def __call__(
        self,
        values: NDArray[Any],
        records: NDArray[np.void],
        numbers: NDArray[np.int64],
        noise: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return the members (member, inner record, *shape) of these numbers, one after another."""
        draws = self.draws(values, records, noise)
        drawn = np.empty((len(numbers), len(draws.measurement), *self.shape), self.dtype)
        start = 0
        for part in self.batches(draws, len(numbers), int(numbers[0])):
            drawn[start : start + len(part)] = self.fields.channel_places(part.numpy())
            start += len(part)
        return drawn

    def _noise(self, noise: NDArray[Any], values: NDArray[Any]) -> Tensor:
        """Return noise (record, channel, observation), one where nothing was observed."""
        each = np.where(np.isnan(values), 1.0, noise)
        return torch.from_numpy(np.array(self.measured.channel_nodes(each), np.float32, order="C"))


@dataclass(frozen=True)
class Check:
    """Check the values of a block of records, and return those that are observations.

    Attributes:
        quality: Comparison of the values with the prior.
        whole: Whether the block is all records, and a mask measured, so that there must be a gap.
    """

    quality: Innovations
    whole: bool

    def __call__(
        self,
        values: NDArray[Any],
        records: NDArray[np.void],
        noise: NDArray[Any] | None = None,
    ) -> NDArray[Any]:
        """Return values (record, ...), NaN where they are no observations."""
        names = records["name"]
        kept = self.quality(values, records["season"], names, noise, records["instant"])
        _check_values(kept, self.quality.valid, names, whole=self.whole)
        if noise is not None:
            check_noise(
                torch.from_numpy(np.array(noise, np.float64)),
                values.shape,
                torch.from_numpy(~np.isnan(kept) & self.quality.valid),
            )
        return kept


class Reduction(Protocol):
    """What becomes of the members of a block of records, where they are not kept."""

    @property
    def sampler(self) -> Sampler:
        """Sampler of the members."""
        ...

    @property
    def size(self) -> int:
        """Number of values of each record."""
        ...

    def __call__(
        self, values: NDArray[Any], records: NDArray[np.void], noise: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return values (inner record, size), float64, of some records; see `Sampler.draws`."""
        ...


@dataclass(frozen=True)
class Observed:
    """Observed records, and how their values are compared with what is known.

    Attributes:
        records: The records.
        quality: Comparison of their values with the prior.
        seasons: Number of seasons that the model knows.
        noise: Standard deviation (record, *records.layout.cells) of the noise, an array of numpy or
            dask; None where it is the sampler's for all records.
        gaps: Whether the records must have a gap.
    """

    records: Records
    quality: Innovations
    seasons: int
    noise: Any
    gaps: bool


def draw(sampler: Sampler, observed: Observed) -> dask.array.Array:
    """Return the members (member, [record,] *sampler.shape) of some records.

    Values are checked now, or with dask when they are computed. Blocks hold some records with all
    of their members, or one record with some of them.
    """
    import dask.array as da

    blocks = _blocks(sampler, observed)
    most = max(1, _RECORD_BYTES // sampler.field_bytes)
    numbers = da.from_array(np.arange(sampler.members), chunks=most, name=False)
    drawn = _over_records(sampler, blocks, sampler.shape, numbers)
    return drawn if observed.records.dim else drawn[:, 0]


def reduce(reduction: Reduction, observed: Observed) -> dask.array.Array:
    """Return what a reduction makes of the members, (record, size), block by block.

    See `draw`. No block of members is ever whole.
    """
    blocks = _blocks(reduction.sampler, observed)
    return _over_records(reduction, blocks, (reduction.size,), dtype=np.float64)


@dataclass(frozen=True)
class _Blocks:
    """Checked values (record, ...), their table and noise, in blocks that may overlap.

    Attributes:
        data: Values.
        table: Entry of each record.
        noise: Noise, if it differs by record.
        inner: Number of the records in each block that are its own.
    """

    data: dask.array.Array
    table: NDArray[np.void]
    noise: dask.array.Array | None
    inner: tuple[int, ...] | None = None


def _blocks(sampler: Sampler, observed: Observed) -> _Blocks:
    """Return the values of some records, checked, in blocks from which members are drawn."""
    memory, noise = sampler.posterior.memory, observed.noise
    step = None if memory is None else memory.step_days
    table = record_table(observed.records.dates, observed.seasons, step)
    most = max(1, _BLOCK_BYTES // (sampler.members * sampler.field_bytes))
    checked = _checked_blocks(observed, table, most)
    inner = checked.chunks[0]
    if noise is not None:
        noise = _as_dask(noise).rechunk(checked.chunks)
    if sampler.window:
        around = _around(inner, sampler.window)
        table = _overlapping(table, around, inner)
        checked = _with_more(checked, around)
        noise = None if noise is None else _with_more(noise, around)
    return _Blocks(checked, table, noise, inner)


def _around(sizes: tuple[int, ...], window: int) -> list[slice]:
    """Return each block of records with as many more on either side."""
    ends = np.cumsum(sizes).tolist()
    starts = [end - size for end, size in zip(ends, sizes, strict=True)]
    pairs = zip(starts, ends, strict=True)
    return [slice(max(0, s - window), min(ends[-1], e + window)) for s, e in pairs]


def _with_more(data: dask.array.Array, around: Sequence[slice]) -> dask.array.Array:
    """Return an array (record, ...) whose blocks are these, which overlap."""
    import dask.array as da

    return da.concatenate([data[part].rechunk({0: -1}) for part in around])


def _overlapping(
    table: NDArray[np.void], around: Sequence[slice], sizes: tuple[int, ...]
) -> NDArray[np.void]:
    """Return the records of overlapping blocks, `inner` where they are of a block itself."""
    block = np.repeat(np.arange(len(sizes)), sizes)
    rows = [table[part].copy() for part in around]
    for number, (row, part) in enumerate(zip(rows, around, strict=True)):
        row["inner"] = block[part] == number
    return np.concatenate(rows)


def record_table(dates: Dates, seasons: int, step: float | None) -> NDArray[np.void]:
    """Return key, season, time in steps of so many days, instant and name of each record."""
    table = np.zeros(len(dates), dtype=_RECORD)
    table["time"], table["inner"] = time_in_steps(dates, step), True
    table["instant"], table["place"] = dates.ticks, np.arange(len(dates))
    table["key"], table["season"], table["name"] = dates.key, dates.season(seasons), dates.names
    return table


def _checked_blocks(observed: Observed, table: NDArray[np.void], most: int) -> dask.array.Array:
    """Return (record, ...) in blocks of at most so many records, checked now or when computed."""
    import dask.array as da

    data, noise, quality = observed.records.data, observed.noise, observed.quality
    whole_cells = (-1,) * (data.ndim - 1)
    if not isinstance(data, da.Array):
        errors = None if noise is None else np.asarray(noise)
        values = Check(quality, whole=observed.gaps)(np.asarray(data), table, noise=errors)
        return da.from_array(values, chunks=(most, *whole_cells), name=False)
    check = Check(quality, whole=observed.gaps and data.numblocks[0] == 1)
    data = data.rechunk((data.chunks[0], *whole_cells))
    if noise is not None:
        noise = _as_dask(noise).rechunk(data.chunks)
    checked = _over_records(check, _Blocks(data, table, noise))
    pieces = [min(most, size - start) for size in data.chunks[0] for start in range(0, size, most)]
    return checked.rechunk((tuple(pieces), *whole_cells))


def _as_dask(values: Any) -> dask.array.Array:
    import dask.array as da

    return values if isinstance(values, da.Array) else da.from_array(values, name=False)


def _over_records(
    func: Callable[..., NDArray[Any]],
    blocks: _Blocks,
    new: tuple[int, ...] | None = None,
    members: dask.array.Array | None = None,
    dtype: Any = None,
) -> dask.array.Array:
    """Call ``func`` on blocks of records, their entries of the table, and their noise.

    It returns an array like the data, or with ``new`` one (record, *new), or with the numbers of
    ``members``, which it is given too, (member, record, *new). It is a task of its own, which is
    sent once to each process that works.
    """
    import dask.array as da

    axes = tuple(range(blocks.data.ndim))
    out, sizes = axes, {}
    if new is not None:
        cells = range(len(axes), len(axes) + len(new))
        out, sizes = (axes[0], *cells), dict(zip(cells, new, strict=True))
    arguments: list[Any] = [dask.delayed(func, name=f"model-{uuid.uuid4().hex}", traverse=False)]
    arguments += [None, blocks.data, axes]
    arguments += [da.from_array(blocks.table, chunks=blocks.data.chunks[:1], name=False), axes[:1]]
    if members is not None:
        out = (_MEMBER, *out)
        arguments += [members, (_MEMBER,)]
    named = {} if blocks.noise is None else {"noise": True}
    if blocks.noise is not None:
        arguments += [blocks.noise, axes]
    return da.blockwise(
        _called,
        out,
        *arguments,
        **named,
        new_axes=sizes,
        adjust_chunks=None if blocks.inner is None else {axes[0]: blocks.inner},
        concatenate=True,
        # A name of its own spares dask from hashing the model.
        name=f"impute-{uuid.uuid4().hex}",
        meta=np.empty((0,) * len(out), dtype=dtype or blocks.data.dtype),
    )


def _called(func: Callable[..., NDArray[Any]], *arguments: Any, noise: bool = False) -> Any:
    """Call a function that is an argument of its own, its last argument by name if it is noise."""
    if noise:
        return func(*arguments[:-1], noise=arguments[-1])
    return func(*arguments)


def _check_values(
    values: NDArray[Any], valid: NDArray[np.bool_], names: NDArray[np.str_], *, whole: bool
) -> None:
    """Check the values of some records.

    Args:
        values: Values (record, ...), NaN where not observed.
        valid: Mask (...), false where the model has no values.
        names: Names (record,) of the records, for messages.
        whole: Whether these are all records, and a mask measured, so that there must be a gap.

    Raises:
        InputError: If a value is infinite, or all is observed although ``whole``.

    Warns:
        NothingObservedWarning: If a record has no observation.
        OnLandWarning: If there are observations where the model has no values.
    """
    cells = tuple(range(1, values.ndim))
    infinite = np.isinf(values)
    if infinite.any():
        where = infinite.any(axis=cells)
        raise InputError(
            f"obs has {infinite.sum()} infinite values, in {_some(names[where])}; set them to NaN: "
            "obs.where(np.isfinite(obs))",
            shell="cdo setctomiss,inf in.nc out.nc",
        )
    observed = ~np.isnan(values) & valid
    if whole and observed[:, valid].all():
        raise InputError(
            "obs has no NaN, so there is no gap to fill; mark what was not observed as NaN: "
            "obs.where(observed)",
            shell="cdo ifthen observed.nc in.nc out.nc",
        )
    if (on_land := int((~np.isnan(values) & ~valid).sum())) > 0:
        warnings.warn(
            f"{on_land} observed values lie where the model has none (land, or cells with a part "
            "of it) and have no influence",
            OnLandWarning,
            stacklevel=3,
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
