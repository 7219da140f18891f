"""Fields that are filled without a model: a random field is fitted to each variable's gaps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import xarray as xr

from apsgeo.errors import InputError
from apsgeo.labels.checks import check_floating
from apsgeo.labels.mapping import joined_along, noise_at
from apsgeo.labels.records import Records
from apsgeo.random_field.fit import fit_random_field, random_field_posterior

__all__ = ["impute_alone"]

Fill = Callable[[xr.DataArray, Any, Any], Any]


def impute_alone(
    fill: Fill, obs: xr.DataArray | xr.Dataset, noise_std: Any, seed: int
) -> xr.DataArray | xr.Dataset:
    """Fit a random field to each variable and channel of some fields, and fill these with it.

    Args:
        fill: Function that fills an array, given its noise and a posterior.
        obs: Fields with gaps.
        noise_std: Noise of their values, which may be given by variable.
        seed: Seed of the fit.

    Raises:
        InputError: If there is no gap, or no noise of a variable.
    """
    if not isinstance(obs, xr.Dataset):
        return _array_alone(fill, obs, noise_std, seed)
    each = {
        name: _array_alone(fill, obs[name], _noise_of(noise_std, name), seed)
        for name in obs.data_vars
    }
    if all(isinstance(one, xr.Dataset) for one in each.values()):
        return xr.merge(each.values(), combine_attrs="drop_conflicts")
    return xr.Dataset(each, attrs=obs.attrs)


def _array_alone(fill: Fill, obs: xr.DataArray, noise_std: Any, seed: int) -> Any:
    records = Records.of(obs, given="obs")
    check_floating(records.array)
    if (dim := records.layout.channel) is not None:
        each = [
            _array_alone(fill, obs.isel({dim: place}), noise_at(noise_std, dim, place), seed)
            for place in range(obs.sizes[dim])
        ]
        return joined_along(each, obs, dim)
    _check_gaps(records)
    prior = fit_random_field(records, noise_std=noise_std, seed=seed)
    filled = fill(obs, noise_std, random_field_posterior(prior))
    return filled.assign_attrs(model=f"fitted to these observations alone: {prior.anchor.annual!r}")


def _noise_of(noise_std: Any, name: Hashable) -> Any:
    """Return the noise of a variable, which may be given by name."""
    named = isinstance(noise_std, Mapping | xr.Dataset)
    if named and name not in noise_std:
        raise InputError(f"noise_std has nothing for {name}; give the noise of each variable")
    return noise_std[name] if named else noise_std


def _check_gaps(records: Records) -> None:
    """Refuse complete fields before the fit, not after it."""
    if not bool(records.array.isnull().any()):
        raise InputError(
            "obs has no NaN, so there is no gap to fill; mark what was not observed as NaN: "
            "obs.where(observed)"
        )
