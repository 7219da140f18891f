"""Noise is a number, or differs by cell, variable and observation."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import xarray as xr

from apsgeo.errors import GridError, InputError
from apsgeo.gaussian.scales import HybridScales
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import fit_prior
from apsgeo.xarray import impute
from tests.cases import alike, history, numpy_seeded

SCALES = HybridScales(range_km=3000.0, eof_weight=0.9)


def fit(fields: xr.DataArray | xr.Dataset) -> Posterior:
    settings = Training(steps=0, progress=False)
    prior = fit_prior(fields, scales=SCALES, anchor_scales=SCALES, rank=8, training=settings)
    return Posterior.of(prior, prior.anchor, Mask(), noise_std=0.3)


@functools.cache
def model() -> Posterior:
    return fit(history(5))


def gappy() -> xr.DataArray:
    fields = history(6)[-5:]
    return fields.where(numpy_seeded(3).random(fields.shape) < 0.3)


def errors() -> xr.DataArray:
    """The error of each observation, NaN where there is none, in other units of memory."""
    size = numpy_seeded(4).uniform(0.1, 2.0, gappy().shape)
    return gappy().copy(data=size).where(gappy().notnull()).drop_attrs()


def one_by_one() -> xr.DataArray:
    """Fill each month with its errors alone, which are one number a cell."""
    filled = errors().fillna(1.0)
    months = [impute(gappy()[[k]], model(), 3, noise_std=filled[k, :, :].values) for k in range(5)]
    return xr.concat(months, "time").transpose("member", ...)


@pytest.mark.parametrize("lazy", ["neither", "noise", "obs", "both"])
def test_each_observation_has_its_own_noise(lazy: str) -> None:
    obs = gappy().chunk(time=2, lat=3) if lazy in ("obs", "both") else gappy()
    given = errors().chunk(time=3) if lazy in ("noise", "both") else errors()
    found = impute(obs, model(), 3, noise_std=given)
    assert found.attrs["noise_std"] == "of each observation"
    alike(found.values, one_by_one().values)
    alike(impute(obs, model(), 3, noise_std=given.transpose(..., "time"))[:, 1:3], found[:, 1:3])


def test_noise_is_found_by_its_labels() -> None:
    expected = impute(gappy(), model(), 3, noise_std=errors())
    more = xr.concat(
        [errors(), errors()[:1].assign_coords(time=[np.datetime64("2030-01-01")])], "time"
    )
    for given in (errors()[:, ::-1], more, more.isel(time=[5, 3, 1, 0, 2, 4]), errors().values):
        alike(impute(gappy(), model(), 3, noise_std=given), expected)
    with pytest.raises(GridError, match="not those of obs; give one for each of its times"):
        impute(gappy(), model(), 3, noise_std=errors()[1:])
    with pytest.raises(GridError, match="other coordinates 'lon'"):
        impute(gappy(), model(), noise_std=errors().assign_coords(lon=errors().lon + 1))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_what_was_observed_needs_a_noise(bad: float, lazy: bool) -> None:
    wrong = errors()
    at = tuple(np.argwhere(gappy().notnull().values)[7])
    wrong[at] = bad
    wrong = wrong.chunk(time=2) if lazy else wrong
    with pytest.raises(InputError, match="finite and above zero.*has 1 such values"):
        impute(gappy().chunk(time=2) if lazy else gappy(), model(), 2, noise_std=wrong).compute()


def test_a_single_month_may_have_no_noise_where_nothing_was_observed() -> None:
    month, error = gappy().isel(time=0), errors().isel(time=0, drop=True)
    found = impute(month, model(), 3, noise_std=error)
    alike(found.values, one_by_one()[:, 0].values)


def test_noise_is_given_by_variable() -> None:
    def two(fields: xr.DataArray) -> xr.Dataset:
        return xr.Dataset({"u": fields, "v": fields**2 / 20})

    posterior, obs = fit(two(history(5))), two(gappy())
    by_channel = xr.DataArray([0.1, 2.0], dims="variable")
    expected = impute(obs, posterior, 3, noise_std=by_channel)
    cells = xr.full_like(gappy()[0], 2.0).drop_vars("time")
    given: list[Any] = [{"v": 2.0, "u": 0.1}, {"u": 0.1, "v": cells}]
    given += [xr.Dataset({"u": 0.1, "v": cells}), {"u": xr.full_like(gappy(), 0.1), "v": cells}]
    for noise in given:
        found = impute(obs, posterior, 3, noise_std=noise)
        for name in ("u", "v"):
            alike(found[name].values, expected[name].values)
    with pytest.raises(InputError, match="given for u, w, and obs has u, v"):
        impute(obs, posterior, noise_std={"u": 0.1, "w": 2.0})
    alike(impute(gappy(), model(), 2, noise_std={"air": 0.3}), impute(gappy(), model(), 2))
