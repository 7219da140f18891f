"""What each row of a table measures: weights of the nodes about its place."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from apsgeo.domains.base import Domain
from apsgeo.domains.graph.domain import GraphDomain
from apsgeo.domains.healpix.domain import HEALPixDomain
from apsgeo.domains.image.domain import ImageDomain
from apsgeo.domains.interpolation import weights_where_known
from apsgeo.domains.latlon.domain import LatLonDomain
from apsgeo.errors import InputError, LeftOutWarning, OnLandWarning
from apsgeo.table.columns import Table

__all__ = ["Rows", "rows_of"]

Array = NDArray[np.float64]

_LEAST_WEIGHT = 0.5  # of nodes that are valid, as beside a coast


@dataclass(frozen=True, eq=False)
class Rows:
    """Observations, one a row: sums over nodes of one record, with noise.

    Attributes:
        table: Columns of the rows.
        matrix: Weights (row, node), which sum to one.
    """

    table: Table
    matrix: sp.csr_array

    def __len__(self) -> int:
        return len(self.table)

    def __getitem__(self, index: NDArray[Any]) -> Rows:
        """Return some of the rows."""
        return Rows(self.table[index], self.matrix[index])

    @classmethod
    def joined(cls, parts: Sequence[Rows]) -> Rows:
        """Return the rows of several tables as those of one."""
        if len(parts) == 1:
            return parts[0]
        table = Table.joined([part.table for part in parts])
        return cls(table, sp.vstack([part.matrix for part in parts], format="csr"))


def rows_of(table: Table, domain: Domain, valid: NDArray[np.bool_]) -> Rows:
    """Return what the rows of a table measure: the field between the nodes about each place.

    Beside a coast that is the mean of the nodes that have values, by their weights, where these are
    half of all or more. Rows that are elsewhere are left out.

    Args:
        table: The rows.
        domain: Domain of the fields.
        valid: Mask (node,), false where the model has no values (land).

    Raises:
        InputError: If the table has not the coordinates that the domain needs, or no row is on it.

    Warns:
        LeftOutWarning: If rows are off the domain.
        OnLandWarning: If rows are where the model has no values.
    """
    matrix = weights_where_known(domain, _places(domain, table))
    on = np.asarray(matrix.sum(axis=1)) > 0.5
    if not on.any():
        raise InputError(
            f"none of the {len(table)} rows of {table.given} is on {domain!r}, such as "
            f"{table.where(0)}; check latitudes and longitudes, or give a model of that region"
        )
    if not on.all():
        first = int(np.flatnonzero(~on)[0])
        warnings.warn(
            f"{int((~on).sum())} of the {len(table)} rows of {table.given} are off {domain!r}, "
            f"such as {table.where(first)}: they are left out",
            LeftOutWarning,
            stacklevel=3,
        )
    matrix = (matrix @ sp.diags_array(valid.astype(np.float64))).tocsr()
    weight = np.asarray(matrix.sum(axis=1))
    there = on & (weight >= _LEAST_WEIGHT)
    if (on_land := int((on & ~there).sum())) > 0:
        warnings.warn(
            f"{on_land} observed values lie where the model has none (land, or cells with a part "
            "of it) and have no influence",
            OnLandWarning,
            stacklevel=3,
        )
    if not there.any():
        raise InputError(f"all rows of {table.given} lie where the model has no values (land)")
    matrix = (sp.diags_array(1.0 / np.maximum(weight, _LEAST_WEIGHT)) @ matrix).tocsr()
    matrix.eliminate_zeros()
    return Rows(table[there], matrix[there])


@singledispatch
def _places(domain: Domain, table: Table) -> Array:
    """Return the coordinates (row, axis) that a domain's interpolation takes."""
    nodes = domain.positions.numpy()
    if nodes.shape[1] == 3 and np.allclose(np.linalg.norm(nodes, axis=1), 1.0):
        lat, lon = np.deg2rad(_latlon(domain, table)).T
        return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)
    if table.places.shape[1] != nodes.shape[1]:
        wanted = ", ".join("xyz"[: nodes.shape[1]])
        raise InputError(
            f"{table.given} has no columns {wanted}, and the model is on {domain!r}; give the "
            "position of each row"
        )
    order = [table.axes.index(axis) for axis in "xyz"[: nodes.shape[1]]]
    return table.places[:, order]


@_places.register(LatLonDomain)
@_places.register(HEALPixDomain)
def _latlon(domain: Domain, table: Table) -> Array:
    if table.lat is None or table.lon is None:
        raise InputError(
            f"{table.given} has no columns 'lat' and 'lon', and the model is on {domain!r}; give "
            "the latitude and longitude of each row, in degrees"
        )
    return np.stack([table.lat, table.lon], 1)


@_places.register
def _(domain: GraphDomain, table: Table) -> Array:
    if domain.is_spherical:
        return _latlon(domain, table)
    return _places.dispatch(Domain)(domain, table)


@_places.register
def _(domain: ImageDomain, table: Table) -> Array:
    """Take y and x as the image's own coordinates, or as rows and columns where it has none."""
    if table.axes != ("y", "x"):
        raise InputError(
            f"{table.given} has no columns 'y' and 'x', and the model is on {domain!r}; give the "
            "place of each row on the image, by its coordinates, or row and column (0 to 1 is the "
            "first pixel)"
        )
    axes = zip(
        table.places.T,
        (domain.y, domain.x),
        (domain.row_edges, domain.column_edges),
        strict=True,
    )
    return np.stack([_along(place, axis, edges) for place, axis, edges in axes], 1)


def _along(place: Array, axis: Array | None, edges: Array) -> Array:
    """Return coordinates as places between edges, beyond them if off the image."""
    if axis is None or len(axis) < 2:
        return place
    order = np.argsort(axis)
    middle = (axis[order][1:] + axis[order][:-1]) / 2
    known = np.concatenate(
        [[axis[order[0]] - (middle[0] - axis[order[0]])], middle,
         [axis[order[-1]] + (axis[order[-1]] - middle[-1])]]
    )  # fmt: skip
    ascending = axis[0] < axis[-1]
    ends = edges if ascending else edges[::-1]
    far = 1e9
    return np.interp(place, known, ends, left=-far, right=far)
