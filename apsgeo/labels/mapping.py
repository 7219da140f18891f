"""Dims beside those of records and nodes, such as levels or runs, whose places are filled alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import xarray as xr

from apsgeo.domains.base import Domain
from apsgeo.errors import GridError
from apsgeo.labels.channels import as_array
from apsgeo.labels.healpix import onto_pixels
from apsgeo.labels.layout import layout_of
from apsgeo.labels.times import record_dims

__all__ = ["mapped", "noise_at", "other_dim", "seed_at"]

Labelled = TypeVar("Labelled", xr.DataArray, xr.Dataset)

_MENDED = ("expver",)  # dims to which there is something better to be said


def other_dim(obs: xr.DataArray | xr.Dataset, domain: Domain | None) -> str | None:
    """Return the first dim that runs over neither records, channels nor nodes; None if none does.

    If nothing says along which dim the records lie, there is none.

    Args:
        obs: Fields.
        domain: Domain of the fields, if labels do not say it.
    """
    array = as_array(obs)
    array = array if domain is None else onto_pixels(array, domain)
    dated = record_dims(array)
    try:
        layout = layout_of(array, domain)
    except GridError:  # which will be said where it is known what is wanted
        return None
    free = [str(dim) for dim in array.dims if dim not in layout.cells]
    others = [dim for dim in free if dim not in dated]
    if len(free) < 2 or len(free) - len(others) != 1 or any(dim in _MENDED for dim in others):
        return None
    return others[0]


def mapped(
    fill: Callable[[Any, Any, int], Any], obs: xr.DataArray | xr.Dataset, dim: str, noise_std: Any
) -> Any:
    """Fill the fields at each place of a dim alone, and put them together, lazily.

    Args:
        fill: Function that fills fields, given their noise and the place.
        obs: Fields.
        dim: The dim.
        noise_std: Noise, with the dim or without.

    Raises:
        GridError: If members or statistics have a dim of that name.
    """
    each = [
        fill(obs.isel({dim: place}), noise_at(noise_std, dim, place), place)
        for place in range(obs.sizes[dim])
    ]
    if dim in each[0].dims:
        raise GridError(
            f"obs has a dim {dim!r}, and what is made of it has one of that name, too; give it "
            f"another: obs.rename({dim}='run')"
        )
    return joined_along(each, obs, dim)


def joined_along(each: list[Labelled], obs: xr.DataArray | xr.Dataset, dim: str) -> Labelled:
    """Concatenate along a dim, in the order of the dims of some fields, which give its labels."""
    each = [one.drop_vars(dim, errors="ignore") for one in each]
    whole = xr.concat(
        each,
        dim,
        data_vars="all",
        coords="different",
        compat="equals",
        join="exact",
        combine_attrs="override",
    )
    if dim in obs.coords:
        whole = whole.assign_coords({dim: obs[dim]})
    order = [str(name) for name in obs.dims]
    return _ordered(whole, order)


def _ordered(whole: Any, order: list[str]) -> Any:
    if isinstance(whole, xr.Dataset):
        return whole.assign({name: _ordered(each, order) for name, each in whole.data_vars.items()})
    new = [dim for dim in whole.dims if dim not in order]
    return whole.transpose(*new, *(dim for dim in order if dim in whole.dims))


def noise_at(noise_std: Any, dim: str, place: int) -> Any:
    """Return the noise at a place of a dim, along which it may be given."""
    along = isinstance(noise_std, xr.DataArray | xr.Dataset) and dim in noise_std.dims
    return noise_std.isel({dim: place}) if along else noise_std


def seed_at(seed: int, place: int) -> int:
    """Return the seed of a place along a dim: the seed itself for the first."""
    return seed if place == 0 else int(np.random.SeedSequence([seed, place]).generate_state(1)[0])
