"""Errors that observations share, by their labels: a bias of an instrument, a swath, a track."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import GridError, InputError
from apsgeo.labels.records import Records

__all__ = ["GridErrors", "SharedError", "check_errors", "codes_of", "widest"]

Array = NDArray[np.float64]

_EARTH_KM = 6371.0
_KNOTS = 4  # of a correlation length
_MOST_KNOTS = 512  # of a track


@dataclass(frozen=True)
class SharedError:
    """An error that observations with one label have in common, in each record anew.

    It is normal, with mean zero, and adds to the noise of each observation, `noise_std`. Errors of
    different labels, variables and records are independent. An error that stays for years is no
    such error: take it off beforehand.

    Attributes:
        std: Standard deviation in the units of the data: a number, or one for each label; a label
            without has no such error.
        by: What tells who shares the error: a column of a table, such as "instrument"; or a
            coordinate of fields (a number or name for each cell, time or both), or such an array.
            None for one error that all observations of a record share.
        length_km: Length over which the error is correlated along a track, the rows of a label in
            the order of their times, by exp(-distance / length); None where it is the same
            everywhere. For tables.

    Examples:
        >>> SharedError(0.3, by="instrument")
        SharedError(std=0.3, by='instrument', length_km=None)
    """

    std: float | Mapping[str, float]
    by: str | xr.DataArray | None = None
    length_km: float | None = None

    def __post_init__(self) -> None:
        every = self.std.values() if isinstance(self.std, Mapping) else [self.std]
        good = [isinstance(s, int | float) and math.isfinite(s) and s >= 0 for s in every]
        if not all(good) or isinstance(self.std, bool):
            raise InputError(
                f"SharedError(std={self.std!r}): give a standard deviation of at least 0, or one "
                "for each label"
            )
        if self.length_km is not None and not 0.0 < self.length_km < math.inf:
            raise InputError(f"SharedError(length_km={self.length_km}): give a length above 0")

    def std_of(self, names: Sequence[str]) -> Array:
        """Return the standard deviation (label,) of labels.

        Raises:
            InputError: If standard deviations are given for none of them.
        """
        if not isinstance(self.std, Mapping):
            return np.full(len(names), float(self.std))
        known = {str(name): float(std) for name, std in self.std.items()}
        if not known.keys() & set(names):
            raise InputError(
                f"SharedError has standard deviations for {', '.join(known)}, and the labels of "
                f"{self.by!r} are {', '.join(names[:4])}"
            )
        return np.array([known.get(name, 0.0) for name in names])

    def along_tracks(self, label: NDArray[np.int64], std: Array, place: Array) -> sp.csr_array:
        """Return the loadings (row, k) of rows, in the order of their times.

        Args:
            label: Label (row,), -1 for none.
            std: Standard deviation (label,).
            place: Points (row, 3) on the unit sphere.
        """
        parts, start = [], 0
        rows, columns, entries = [], [], []
        for each in np.unique(label[label >= 0]):
            own = np.flatnonzero(label == each)
            if self.length_km is None:
                block = np.full((len(own), 1), std[each])
            else:
                block = std[each] * _track(place[own], self.length_km)
            parts.append(block)
            rows.append(np.repeat(own, block.shape[1]))
            columns.append(np.tile(start + np.arange(block.shape[1]), len(own)))
            entries.append(block.ravel())
            start += block.shape[1]
        if not parts:
            return sp.csr_array((len(label), 0))
        index = np.concatenate(rows), np.concatenate(columns)
        return sp.coo_array((np.concatenate(entries), index), shape=(len(label), start)).tocsr()


def _track(place: Array, length_km: float) -> Array:
    """Return a root (row, k) of the correlation exp(-distance / length) along a track.

    Up to so many rows it is exact; else it is interpolated between knots, with unit variance.
    """
    steps = np.linalg.norm(np.diff(place, axis=0), axis=1)
    along = np.append(0.0, np.cumsum(2.0 * _EARTH_KM * np.arcsin(np.clip(steps / 2.0, 0.0, 1.0))))
    knots, weights = along, None
    if len(along) > _MOST_KNOTS:
        count = min(_MOST_KNOTS, 2 + math.ceil(_KNOTS * along[-1] / length_km))
        knots = np.linspace(0.0, max(along[-1], 1e-9), count)
        after = np.clip(np.searchsorted(knots, along), 1, count - 1)
        share = (along - knots[after - 1]) / (knots[after] - knots[after - 1])
        weights = np.zeros((len(along), count))
        weights[np.arange(len(along)), after - 1] = 1.0 - share
        weights[np.arange(len(along)), after] += share
    correlation = np.exp(-np.abs(knots[:, None] - knots) / length_km)
    root = np.linalg.cholesky(correlation + 1e-10 * np.eye(len(knots)))
    if weights is None:
        return root
    root = weights @ root
    return np.asarray(root / np.linalg.norm(root, axis=1, keepdims=True))


def widest(errors: Sequence[SharedError]) -> float:
    """Return the standard deviation of all errors together, at most."""
    each = [e.std.values() if isinstance(e.std, Mapping) else [e.std] for e in errors]
    return math.hypot(*(max(stds, default=0.0) for stds in each))


def check_errors(errors: Any) -> tuple[SharedError, ...]:
    """Return the argument ``shared_error`` as a tuple.

    Raises:
        InputError: If it is none, or several, of `SharedError`.
    """
    every = () if errors is None else errors if isinstance(errors, list | tuple) else (errors,)
    if not all(isinstance(each, SharedError) for each in every):
        raise InputError(
            f"shared_error={errors!r} given; expected apsgeo.SharedError(std, by='instrument'), or "
            "a list of such"
        )
    return tuple(every)


@dataclass(frozen=True, eq=False)
class GridErrors:
    """Shared errors of observed fields.

    Attributes:
        labels: For each error, labels (record or 1, channel, observation), -1 for none.
        std: For each error, the standard deviation (label,).
    """

    labels: tuple[NDArray[np.int32], ...]
    std: tuple[Array, ...]

    @classmethod
    def of(cls, errors: Sequence[SharedError], records: Records) -> GridErrors:
        """Read the labels of observed fields.

        Raises:
            InputError: If a coordinate is not there, has dims that the fields lack, or an error is
                along a track.
        """
        found = [_labels(error, records) for error in errors]
        return cls(tuple(labels for labels, _ in found), tuple(std for _, std in found))

    def __call__(self, places: NDArray[np.int64]) -> tuple[sp.csr_array, ...]:
        """Return the loadings (channel * observation, k) of some records, by their places."""
        return tuple(self._loadings(int(place)) for place in places)

    def _loadings(self, place: int) -> sp.csr_array:
        blocks = []
        for labels, std in zip(self.labels, self.std, strict=True):
            own = labels[place if len(labels) > 1 else 0]
            channels = len(own)
            column = np.where(own >= 0, own + len(std) * np.arange(channels)[:, None], -1).ravel()
            row = np.flatnonzero(column >= 0)
            entries = std[own.ravel()[row]], (row, column[row])
            shape = own.size, channels * len(std)
            block = sp.coo_array(entries, shape=shape).tocsr()
            blocks.append(sp.csr_array(block[:, np.unique(block.indices)]))
        return sp.hstack(blocks, format="csr")


def _labels(error: SharedError, records: Records) -> tuple[NDArray[np.int32], Array]:
    """Return the labels (record or 1, channel, observation), and the deviation of each."""
    if error.length_km is not None:
        raise InputError(
            f"{error!r} is along a track, which fields have none of; give a table, or length_km="
            "None"
        )
    obs, layout = records.array, records.layout
    shape = tuple(obs.sizes[dim] for dim in layout.cells)
    if error.by is None:
        label, names = np.zeros((1, *shape), np.int32), ["all"]
    else:
        by = error.by
        if isinstance(by, str):
            if by not in obs.coords:
                raise InputError(
                    f"{records.given} has no coordinate {by!r}; it has "
                    f"{', '.join(map(str, obs.coords))}. Give one that tells who shares an error: "
                    ".assign_coords"
                )
            by = obs.coords[by]
        if not set(by.dims) <= set(obs.dims):
            raise InputError(
                f"the labels of shared errors have the dims {by.dims}, and {records.given} has "
                f"{obs.dims}; give one for each cell, time or both"
            )
        try:
            xr.align(obs, by, join="exact", copy=False)
        except ValueError as reason:
            raise GridError(
                f"the labels of shared errors have other coordinates than {records.given}: "
                f"{str(reason).splitlines()[0]}; select the same ones"
            ) from reason
        dims = layout.cells if records.dim not in by.dims else obs.dims
        like = obs.isel({records.dim: 0}) if records.dim and records.dim not in by.dims else obs
        _, whole = xr.broadcast(like.drop_vars(like.coords), by.drop_vars(by.coords))
        values = whole.transpose(*dims).values
        label, names = codes_of(values)
        label = label.reshape(-1, *shape)
    return layout.channel_nodes(label).astype(np.int32), error.std_of(names)


def codes_of(values: NDArray[Any]) -> tuple[NDArray[np.int32], list[str]]:
    """Return labels as numbers, -1 where there is none, and their names."""
    none = values != values if values.dtype.kind in "fc" else np.zeros(values.shape, dtype=bool)
    if values.dtype.kind == "O":
        none = np.array([v is None or v != v or v == "" for v in values.ravel()]).reshape(
            none.shape
        )
        values = np.where(none, "", values).astype(str)
    unique, code = np.unique(values[~none], return_inverse=True)
    found = np.full(values.shape, -1, dtype=np.int32)
    found[~none] = code.ravel()
    names = [f"{v:g}" if values.dtype.kind == "f" else str(v) for v in unique]
    return found, names
