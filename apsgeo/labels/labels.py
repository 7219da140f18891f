"""The labels of arrays on a domain, and arrays that move from one domain to another."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import singledispatch
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.domains.base import Domain
from apsgeo.domains.healpix.domain import HEALPixDomain
from apsgeo.domains.image.domain import ImageDomain
from apsgeo.domains.latlon.domain import LatLonDomain
from apsgeo.errors import InputError
from apsgeo.labels.healpix import GRID_MAPPING, grid_mapping_of, healpix_coords
from apsgeo.labels.layout import Layout, layout_of

__all__ = ["Labels", "degrees_of", "labels_of", "moved", "without_grid_mapping"]

_DEGREES = {
    "lat": {"standard_name": "latitude", "units": "degrees_north"},
    "lon": {"standard_name": "longitude", "units": "degrees_east"},
}
_ROUND = 0.01  # by so much may distances from a sphere's centre differ: mountains, flattening


@dataclass(frozen=True, eq=False)
class Labels:
    """The labels of an array on a domain.

    Attributes:
        layout: Layout of the dims.
        coords: Coordinates along these dims, and the grid mapping.
        grid_mapping: Name of the coordinate that describes the grid, if one does.
    """

    layout: Layout
    coords: Mapping[str, xr.Variable]
    grid_mapping: str | None = None

    def along(self, dims: tuple[str, ...]) -> Labels:
        """Return the labels with other names of the dims, if there are as many names as dims."""
        if len(dims) != len(self.layout.dims):
            return self
        names = dict(zip(self.layout.dims, dims, strict=True))
        coords = {
            names.get(name, name): xr.Variable(
                [names.get(str(dim), dim) for dim in variable.dims], variable.data, variable.attrs
            )
            for name, variable in self.coords.items()
        }
        return replace(self, layout=replace(self.layout, dims=dims), coords=coords)


@singledispatch
def labels_of(target: Any) -> Labels:
    """Return the labels of an array on a domain, or the default labels of a domain.

    Raises:
        InputError: If the target is neither an array nor a domain.
        GridError: If the array's labels do not say a domain.
    """
    raise InputError(
        f"the target is a {type(target).__name__}; expected a Domain, or a DataArray on one"
    )


@labels_of.register
def _(target: xr.DataArray) -> Labels:
    layout = layout_of(target)
    mapping = grid_mapping_of(target)
    coords = {
        str(name): coordinate.variable
        for name, coordinate in target.coords.items()
        if name == mapping or (coordinate.ndim and set(coordinate.dims) <= set(layout.dims))
    }
    return Labels(layout, coords, mapping if mapping in coords else None)


@labels_of.register
def _(target: LatLonDomain) -> Labels:
    coords = {
        name: xr.Variable(name, getattr(target, name), attrs) for name, attrs in _DEGREES.items()
    }
    return Labels(Layout(target, ("lat", "lon"), target.shape), coords)


@labels_of.register
def _(target: HEALPixDomain) -> Labels:
    layout = Layout(target, ("cells",), (target.num_nodes,))
    return Labels(layout, healpix_coords(target, "cells"), GRID_MAPPING)


@labels_of.register
def _(target: ImageDomain) -> Labels:
    axes = {"y": target.y, "x": target.x}
    coords = {name: xr.Variable(name, axis) for name, axis in axes.items() if axis is not None}
    return Labels(Layout(target, ("y", "x"), target.shape), coords)


@labels_of.register
def _(target: Domain) -> Labels:
    layout = Layout(target, ("node",), (target.num_nodes,))
    found = degrees_of(target)
    if found is None:
        return Labels(layout, {})
    named = zip(("lat", "lon"), found, strict=True)
    return Labels(layout, {name: xr.Variable("node", x, _DEGREES[name]) for name, x in named})


def degrees_of(domain: Domain) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Return latitude and longitude (node,) in degrees; None if the nodes are on no sphere."""
    if isinstance(domain, ImageDomain):
        return None
    nodes = domain.positions.numpy()
    distance = np.linalg.norm(nodes, axis=1)
    if nodes.shape[1] != 3 or np.ptp(distance) > _ROUND * distance.max():
        return None  # such as the mesh of a body
    lat = np.arctan2(nodes[:, 2], np.hypot(nodes[:, 0], nodes[:, 1]))
    lon = np.arctan2(nodes[:, 1], nodes[:, 0]) % (2 * np.pi)
    return np.rad2deg(lat), np.rad2deg(lon)


def without_grid_mapping(array: xr.DataArray) -> xr.DataArray:
    """Drop the labels, beside the dims, that say which grid the array was on."""
    mapping = grid_mapping_of(array)
    gone = [
        name
        for name, each in array.coords.items()
        if name == mapping or "grid_mapping_name" in each.attrs
    ]
    array = array.drop_vars(gone)
    return array.assign_attrs({k: v for k, v in array.attrs.items() if k != "grid_mapping"})


def moved(array: xr.DataArray, source: Layout, domain: Domain) -> tuple[xr.DataArray, Layout]:
    """Return an array with the labels of another, but on another domain, and its layout.

    Its values mean nothing. Dims keep their names where there are as many. Nothing changes if it is
    the same domain.

    Args:
        array: Array (..., *source.cells) whose labels are taken.
        source: Layout of the array.
        domain: Domain of the array to make.
    """
    if source.domain == domain:
        return array, source
    labels = labels_of(domain).along(source.dims)
    layout = replace(labels.layout, channel=source.channel)
    gone = [name for name, each in array.coords.items() if {*each.dims} & {*source.dims}]
    one = without_grid_mapping(array).drop_vars(gone).isel(dict.fromkeys(source.dims, 0))
    sizes = dict(zip(layout.dims, layout.shape, strict=True))
    like = one.expand_dims(sizes, list(range(one.ndim, one.ndim + len(sizes))))
    like = like.assign_coords(labels.coords)
    kept = {k: v for k, v in array.encoding.items() if k not in ("grid_mapping", "coordinates")}
    like.encoding = kept | ({"grid_mapping": labels.grid_mapping} if labels.grid_mapping else {})
    return like, layout
