"""Regridding of labelled arrays: the same sparse matrices, with labels in and out."""

from __future__ import annotations

from collections.abc import Mapping
from functools import singledispatch
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from apsgeo.domains.base import Domain
from apsgeo.domains.healpix import HEALPixDomain
from apsgeo.domains.healpix_adapters import GRID_MAPPING, healpix_coords
from apsgeo.domains.latlon import LatLonDomain
from apsgeo.domains.layout import Layout, layout_of
from apsgeo.domains.regrid import bilinear, conservative
from apsgeo.errors import InputError

__all__ = ["regrid"]

_METHODS = {"bilinear": bilinear, "conservative": conservative}
_DEGREES = {
    "lat": {"standard_name": "latitude", "units": "degrees_north"},
    "lon": {"standard_name": "longitude", "units": "degrees_east"},
}


class _Labels(NamedTuple):
    """What an array on a domain is labelled with: its layout, coordinates, and grid mapping."""

    layout: Layout
    coords: Mapping[str, Any]
    grid_mapping: str | None = None


def regrid(
    array: xr.DataArray,
    target: Domain | xr.DataArray,
    method: Literal["bilinear", "conservative"] = "bilinear",
    *,
    min_weight: float = 0.5,
) -> xr.DataArray:
    """Bring fields on a latitude-longitude grid or HEALPix pixels to another domain.

    Missing values are left out, and the other weights scaled up. With dask it is lazy.

    Args:
        array: Fields whose labels say their domain; further dims are kept.
        target: A domain, or an array on it, whose labels are taken over: to HEALPix, to a grid, or
            (bilinear only) to anything else with points about the centre of the sphere, which gets
            the dim node with coordinates lat and lon.
        method: "bilinear" interpolates; "conservative" averages over areas, and keeps the
            integral, between a grid and HEALPix. See `apsgeo.domains.regrid`.
        min_weight: The least share of weights on values that are there; below it, and where the
            source does not reach, the result is NaN.

    Returns:
        The fields, name and attributes as before, the target's dims last, floating point.

    Raises:
        GridError: If labels do not say a domain.
        InputError: If the method is unknown, or not known between these domains.

    Examples:
        >>> apsgeo.regrid(air, apsgeo.HEALPixDomain(32), "conservative")  # doctest: +SKIP
    """
    if method not in _METHODS:
        raise InputError(f"method={method!r} given; expected one of {', '.join(_METHODS)}")
    source = layout_of(array)
    labels = _labels(target)
    regridder = _METHODS[method](source.domain, labels.layout.domain)

    def apply(values: NDArray[Any]) -> NDArray[Any]:
        nodes = torch.from_numpy(np.ascontiguousarray(source.nodes(values)))
        return labels.layout.places(regridder.apply(nodes, min_weight).numpy())

    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    dims, shape = labels.layout.dims, labels.layout.shape
    result = xr.apply_ufunc(
        apply,
        _without_grid_mapping(array),
        input_core_dims=[source.dims],
        output_core_dims=[dims],
        exclude_dims={*source.dims},
        dask="parallelized",
        dask_gufunc_kwargs={
            "allow_rechunk": True,
            "output_sizes": dict(zip(dims, shape, strict=True)),
        },
        output_dtypes=[array.dtype],
        keep_attrs=True,
    ).assign_coords(labels.coords)
    if labels.grid_mapping is not None:
        result.encoding["grid_mapping"] = labels.grid_mapping
    return result


def _without_grid_mapping(array: xr.DataArray) -> xr.DataArray:
    """Drop what says which grid the array was on, beside its dims."""
    mapping = array.encoding.get("grid_mapping", array.attrs.get("grid_mapping"))
    array = array.drop_vars([mapping], errors="ignore")
    return array.assign_attrs({k: v for k, v in array.attrs.items() if k != "grid_mapping"})


@singledispatch
def _labels(target: Any) -> _Labels:
    raise InputError(
        f"the target is a {type(target).__name__}; expected a Domain, or a DataArray on one"
    )


@_labels.register
def _(target: xr.DataArray) -> _Labels:
    layout = layout_of(target)
    mapping = target.encoding.get("grid_mapping", target.attrs.get("grid_mapping"))
    coords = {
        str(name): coordinate.variable
        for name, coordinate in target.coords.items()
        if name == mapping or (coordinate.ndim and set(coordinate.dims) <= set(layout.dims))
    }
    return _Labels(layout, coords, mapping if mapping in coords else None)


@_labels.register
def _(target: LatLonDomain) -> _Labels:
    coords = {name: (name, getattr(target, name), attrs) for name, attrs in _DEGREES.items()}
    return _Labels(Layout(target, ("lat", "lon"), target.shape), coords)


@_labels.register
def _(target: HEALPixDomain) -> _Labels:
    layout = Layout(target, ("cells",), (target.num_nodes,))
    return _Labels(layout, healpix_coords(target, "cells"), GRID_MAPPING)


@_labels.register
def _(target: Domain) -> _Labels:
    layout = Layout(target, ("node",), (target.num_nodes,))
    nodes = target.positions.numpy()
    if nodes.shape[1] != 3:
        return _Labels(layout, {})
    lat = np.arctan2(nodes[:, 2], np.hypot(nodes[:, 0], nodes[:, 1]))
    lon = np.arctan2(nodes[:, 1], nodes[:, 0]) % (2 * np.pi)
    coords = {
        "lat": ("node", np.rad2deg(lat), _DEGREES["lat"]),
        "lon": ("node", np.rad2deg(lon), _DEGREES["lon"]),
    }
    return _Labels(layout, coords)
