"""Members of labelled records, drawn lazily, block by block in time."""

from __future__ import annotations

import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.labels.checks import check_values

if TYPE_CHECKING:
    import dask.array
    from torch import Tensor

    from apsgeo.labels.layout import Layout
    from apsgeo.operators import Operator
    from apsgeo.posterior import Posterior

__all__ = ["Sampler", "draw"]

_BLOCK_BYTES = 2**24  # of members in one block; drawing them takes some ten times as much
_MEMBER = -1  # the number of the members' axis, beside those of the data


@dataclass(frozen=True)
class Sampler:
    """Draws the members of a block of records.

    Attributes:
        noise_std: A number or ([channel,] observation) in the order of the operator; None for the
            posterior's own.
        operator: Which of the posterior's family measured.
        measured: Which dims of the records are the observations.
        fields: Which dims of the members are the model's nodes.
        channels: Of a record.
    """

    posterior: Posterior
    members: int
    seed: int
    noise_std: Tensor | None
    operator: Operator
    measured: Layout
    fields: Layout
    channels: int
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one member of one record."""
        channel = () if self.fields.channel is None else (self.channels,)
        return (*channel, *self.fields.shape)

    def __call__(self, values: NDArray[Any], records: NDArray[np.void]) -> NDArray[Any]:
        """Return members (member, record, *shape) of values (record, ...)."""
        import torch

        observations = np.array(self.measured.channel_nodes(values), dtype=np.float32)
        drawn = self.posterior(
            torch.from_numpy(observations),
            season=torch.from_numpy(records["season"].copy()),
            noise_std=self.noise_std,
            operator=self.operator,
            key=torch.from_numpy(records["key"].copy()),
        ).members(self.members, self.seed)
        return self.fields.channel_places(drawn.cpu().numpy()).astype(self.dtype)


def draw(
    sampler: Sampler,
    obs: xr.DataArray,
    valid: NDArray[np.bool_],
    table: NDArray[np.void],
    *,
    gaps: bool,
) -> dask.array.Array:
    """Return the members (member, ..., *sampler.shape) of obs (..., *valid.shape).

    Args:
        sampler: What draws.
        obs: The records, or a single one without an axis for it.
        valid: Where the model has values that are observed.
        table: Of the records; see `apsgeo.labels.checks.record_table`.
        gaps: Whether there must be a gap among the records. Values are checked now, or with dask
            when they are computed.
    """
    data = obs.data if obs.ndim > valid.ndim else obs.data[None]
    field_bytes = sampler.members * math.prod(sampler.shape) * sampler.dtype.itemsize
    most = max(1, _BLOCK_BYTES // field_bytes)
    drawn = _over_records(
        sampler,
        _checked_blocks(data, valid, table, most, gaps),
        table,
        (sampler.members, *sampler.shape),
    )
    return drawn if obs.ndim > valid.ndim else drawn[:, 0]


def _checked_blocks(
    data: Any, valid: NDArray[np.bool_], table: NDArray[np.void], most: int, gaps: bool
) -> dask.array.Array:
    """Return (record, ...) in blocks of at most so many records, checked now or when computed."""
    import dask.array as da

    whole_cells = (-1,) * valid.ndim
    if not isinstance(data, da.Array):
        data = np.asarray(data)
        check_values(data, valid, table["name"], whole=gaps)
        return da.from_array(data, chunks=(most, *whole_cells), name=False)
    whole = gaps and data.numblocks[0] == 1

    def check(values: NDArray[Any], records: NDArray[np.void]) -> NDArray[Any]:
        check_values(values, valid, records["name"], whole=whole)
        return values

    data = data.rechunk((data.chunks[0], *whole_cells))
    checked = _over_records(check, data, table)
    pieces = [min(most, size - start) for size in data.chunks[0] for start in range(0, size, most)]
    return checked.rechunk((tuple(pieces), *whole_cells))


def _over_records(
    func: Callable[[NDArray[Any], NDArray[np.void]], NDArray[Any]],
    data: dask.array.Array,
    table: NDArray[np.void],
    new: tuple[int, ...] | None = None,
) -> dask.array.Array:
    """Call ``func`` on the blocks of data (record, ...) and the same records of the table.

    It returns an array alike, or with ``new`` = (member, ...) sizes one (member, record, ...).
    """
    import dask.array as da

    axes = tuple(range(data.ndim))
    out, sizes = axes, {}
    if new is not None:
        cells = range(data.ndim, data.ndim + len(new) - 1)
        out = (_MEMBER, axes[0], *cells)
        sizes = dict(zip((_MEMBER, *cells), new, strict=True))
    return da.blockwise(
        func,
        out,
        data,
        axes,
        da.from_array(table, chunks=data.chunks[:1], name=False),
        axes[:1],
        new_axes=sizes,
        concatenate=True,
        # A name of its own spares dask from hashing the model.
        name=f"impute-{uuid.uuid4().hex}",
        meta=np.empty((0,) * len(out), dtype=data.dtype),
    )
