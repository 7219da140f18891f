"""Errors that the rows of a table share, by its columns."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from apsgeo.errors import InputError
from apsgeo.labels.shared import SharedError, codes_of
from apsgeo.labels.times import date_codes
from apsgeo.table.columns import Table

__all__ = ["shared_of"]

Index = NDArray[np.int64]


def shared_of(
    errors: Sequence[SharedError],
    table: Table,
    number: Index,
    record: Index,
    shape: tuple[int, int, int],
) -> tuple[sp.csr_array, ...]:
    """Return the loadings (channel * observation, k) of each record's shared errors.

    Args:
        errors: The errors.
        table: Rows.
        number: Which (row,) of the observations of all channels each row is.
        record: Record (row,) of each.
        shape: Numbers of records, channels and observations.

    Raises:
        InputError: If the table lacks a column.
    """
    found = []
    for place in range(shape[0]):
        own = np.flatnonzero(record == place)
        blocks = [_loadings(error, table[own]) for error in errors]
        rows = sp.hstack(blocks, format="coo")
        index = number[own][rows.row], rows.col
        size = shape[1] * shape[2], rows.shape[1]
        found.append(sp.coo_array((rows.data, index), shape=size).tocsr())
    return tuple(found)


def _loadings(error: SharedError, table: Table) -> sp.csr_array:
    label, names = np.zeros(len(table), np.int64), ["all"]
    if error.by is not None:
        if not isinstance(error.by, str) or error.by not in table.labels:
            raise InputError(
                f"{table.given} has no column {error.by!r} that tells who shares an error; it has "
                f"{', '.join(table.labels) or 'no others'}"
            )
        codes, names = codes_of(table.labels[error.by])
        label = codes.astype(np.int64)
    std = error.std_of(names) if names else np.zeros(0)
    if error.length_km is None:
        place, order = np.zeros((len(table), 3)), np.arange(len(table))
    else:
        if table.lat is None or table.lon is None:
            raise InputError(
                f"{error!r} is along a track, and {table.given} has no columns 'lat' and 'lon'"
            )
        lat, lon = np.deg2rad(table.lat), np.deg2rad(table.lon)
        place = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)
        order = np.arange(len(table))
        if table.time is not None:
            kind = table.time.dtype.kind
            ticks = table.time.astype(np.int64) if kind == "M" else date_codes(table.time)
            order = np.argsort(ticks, kind="stable")
    # errors of several variables are independent
    label = np.where(label >= 0, label + len(std) * table.channel, -1)
    found = error.along_tracks(
        label[order], np.tile(std, int(table.channel.max()) + 1), place[order]
    )
    return found[np.argsort(order)]
