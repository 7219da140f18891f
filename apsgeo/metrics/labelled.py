"""The scores of `apsgeo.metrics` on labelled data: same names, dimensions instead of axes.

All take an ensemble with a member dimension and a truth without, broadcast by name, and average
over ``dim`` with ``weights``; missing cells do not count. Dask arrays stay lazy.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import InputError
from apsgeo.metrics import scores

__all__ = ["coverage", "crps", "energy_score", "latitude_weights", "rmse", "spread_skill"]

Dims = Hashable | Iterable[Hashable] | None


def latitude_weights(field: xr.DataArray, lat: str = "lat") -> xr.DataArray:
    """Return cos(latitude), the area weight of the rows of a regular grid, by ``lat`` in degrees.

    Raises:
        InputError: if ``field`` has no coordinate ``lat``.
    """
    if lat not in field.coords:
        raise InputError(
            f"no coordinate {lat!r} among {sorted(map(str, field.coords))}: "
            "name the latitude with lat=..."
        )
    return np.cos(np.deg2rad(field[lat])).clip(min=0.0).rename("weights")


def crps(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    member_dim: Hashable = "member",
    keep_attrs: bool = True,
) -> xr.DataArray:
    """Average the fair CRPS over ``dim`` (all of the truth's dimensions by default)."""

    def kernel(members: Any, truth: Any, weights: Any) -> NDArray[np.float64]:
        return scores.weighted_mean(scores.crps_ensemble(members, truth), weights)

    return _apply(kernel, ensemble, truth, dim, weights, member_dim, keep_attrs)


def rmse(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    member_dim: Hashable = "member",
    keep_attrs: bool = True,
) -> xr.DataArray:
    """Compute the root mean squared error of the ensemble mean over ``dim``."""

    def kernel(members: Any, truth: Any, weights: Any) -> NDArray[np.float64]:
        return scores.rmse(members.mean(0), truth, weights)

    return _apply(kernel, ensemble, truth, dim, weights, member_dim, keep_attrs)


def spread_skill(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    member_dim: Hashable = "member",
) -> xr.DataArray:
    """Compute `apsgeo.metrics.spread_skill` over ``dim``; without unit, 1 is calibrated."""
    return _apply(scores.spread_skill, ensemble, truth, dim, weights, member_dim, False)


def coverage(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    level: float = 0.9,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    member_dim: Hashable = "member",
) -> xr.DataArray:
    """Compute the share of ``dim`` whose truth lies in the central interval of ``level``."""
    kernel = partial(scores.coverage, level=level)
    return _apply(kernel, ensemble, truth, dim, weights, member_dim, False)


def energy_score(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    *,
    dim: Dims = None,
    weights: xr.DataArray | None = None,
    member_dim: Hashable = "member",
    keep_attrs: bool = True,
) -> xr.DataArray:
    """Compute the fair energy score with ``dim`` as the components of one vector."""
    return _apply(scores.energy_score, ensemble, truth, dim, weights, member_dim, keep_attrs)


def _apply(
    kernel: Callable[..., NDArray[np.float64]],
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    dim: Dims,
    weights: xr.DataArray | None,
    member_dim: Hashable,
    keep_attrs: bool,
) -> xr.DataArray:
    """Call ``kernel(members (K, ..., N), truth (..., N), weights (..., N))``; N stacks ``dim``."""
    if member_dim not in ensemble.dims or member_dim in truth.dims:
        raise InputError(
            f"ensemble has dimensions {ensemble.dims} and truth {truth.dims}: {member_dim!r} must "
            "be one of the ensemble's and none of the truth's; name it with member_dim=..."
        )
    if dim is None:
        core = list(truth.dims)
    else:
        core = [dim] if isinstance(dim, str) or not isinstance(dim, Iterable) else list(dim)
    absent = [d for d in core if d not in truth.dims or d not in ensemble.dims]
    if absent or not core:
        raise InputError(
            f"dim={dim!r} given, but ensemble has {ensemble.dims} and truth {truth.dims}: "
            "average over dimensions of both"
        )
    weights = xr.ones_like(truth, dtype=np.float64) if weights is None else weights
    weights = weights.broadcast_like(truth).transpose(*truth.dims)

    def flat(members: Any, truth: Any, weights: Any) -> NDArray[np.float64]:
        count = len(core)
        stacked = [a.reshape(*a.shape[: a.ndim - count], -1) for a in (truth, weights)]
        members = members.reshape(*members.shape[: members.ndim - count], -1)
        # apply_ufunc puts the member axis just before the averaged ones.
        members = np.moveaxis(members, -2, 0)
        loops = np.broadcast_shapes(*(a.shape[:-1] for a in (members[0], *stacked)))
        truth, weights = (np.broadcast_to(a, (*loops, a.shape[-1])) for a in stacked)
        members = np.broadcast_to(members, (len(members), *truth.shape))
        return kernel(members, truth, weights)

    score = xr.apply_ufunc(
        flat,
        ensemble,
        truth,
        weights,
        input_core_dims=[[member_dim, *core], core, core],
        join="exact",
        dask="parallelized",
        dask_gufunc_kwargs={"allow_rechunk": True},
        output_dtypes=[np.float64],
    )
    return score.assign_attrs(truth.attrs if keep_attrs else {})
