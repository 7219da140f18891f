"""The labels of what is drawn: those of the observations, and how members were made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

import apsgeo
from apsgeo.files.cf import KEPT_ENCODING, MIDDLE, float_encoding, lasting_attrs
from apsgeo.files.netcdf import unlimited_dims_of

if TYPE_CHECKING:
    import dask.array
    from torch import Tensor

    from apsgeo.posterior import Posterior

__all__ = ["how_made", "labelled", "without_middles"]


def _range(noise: Tensor) -> float | str:
    least, most = float(noise.min()), float(noise.max())
    return least if least == most else f"{least:g} to {most:g}"


def without_middles(like: xr.DataArray) -> xr.DataArray:
    """Return an array without the middles of bounds, which reading added to its coordinates."""
    return like.drop_vars([f"{name}{MIDDLE}" for name in like.coords], errors="ignore")


def how_made(posterior: Posterior, noise: Tensor | None, seed: int) -> dict[str, Any]:
    """Return attributes that say how members were made.

    Noise is None where each observation has its own.
    """
    made = {
        "apsgeo_version": apsgeo.__version__,
        "noise_std": "of each observation" if noise is None else _range(noise),
        "seed": seed,
    }
    return made if posterior.digest is None else made | {"model_sha256": posterior.digest}


def labelled(
    members: dask.array.Array, like: xr.DataArray, made: Mapping[str, Any]
) -> xr.DataArray:
    """Give members (member, ...) the labels of `like`, and say how they were made."""
    member = xr.Variable(
        "member",
        np.arange(len(members)),
        {"standard_name": "realization", "long_name": "ensemble member"},
    )
    ensemble = xr.DataArray(
        members,
        dims=("member", *like.dims),
        coords={**without_middles(like).coords, "member": member},
        name=like.name,
        attrs={**lasting_attrs(like.attrs, like.coords), **made},
    )
    ensemble.name = like.name  # where there is none, not the name of a task of dask
    for coordinate in ensemble.coords.values():
        coordinate.encoding = {k: v for k, v in coordinate.encoding.items() if k in KEPT_ENCODING}
    ensemble.encoding = float_encoding(like.encoding, like.dtype)
    if unlimited := unlimited_dims_of(like):
        ensemble.encoding["unlimited_dims"] = unlimited
    return ensemble
