"""Regridding of labelled arrays, by the matrices of `apsgeo.domains.regrid`."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from apsgeo.domains.base import Domain
from apsgeo.domains.regrid import bilinear, conservative
from apsgeo.errors import InputError
from apsgeo.labels.labels import labels_of, without_grid_mapping
from apsgeo.labels.layout import layout_of

__all__ = ["regrid"]

_METHODS = {"bilinear": bilinear, "conservative": conservative}


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
            the dim node, with coordinates lat and lon if distances from the centre agree to 1 %.
        method: "bilinear" interpolates; "conservative" averages over areas, and keeps the
            integral, between grids, and between a grid and HEALPix. See `apsgeo.domains.regrid`.
        min_weight: The least share of weights on values that are there; below it, and where the
            source does not reach, the result is NaN.

    Returns:
        The fields, name and attributes as before, the target's dims last, floating point.

    Raises:
        GridError: If labels do not say a domain.
        InputError: If it is no array, or the method is unknown, or not known between these domains.

    Examples:
        >>> apsgeo.regrid(air, apsgeo.HEALPixDomain(32), "conservative")  # doctest: +SKIP
    """
    if method not in _METHODS:
        raise InputError(f"method={method!r} given; expected one of {', '.join(_METHODS)}")
    if not isinstance(array, xr.DataArray):
        raise InputError(f"array is a {type(array).__name__}; expected an xarray.DataArray")
    source = layout_of(array)
    labels = labels_of(target)
    regridder = _METHODS[method](source.domain, labels.layout.domain)

    def apply(values: NDArray[Any]) -> NDArray[Any]:
        nodes = torch.from_numpy(np.ascontiguousarray(source.nodes(values)))
        return labels.layout.places(regridder.apply(nodes, min_weight).numpy())

    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    dims, shape = labels.layout.dims, labels.layout.shape
    result = xr.apply_ufunc(
        apply,
        without_grid_mapping(array),
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
