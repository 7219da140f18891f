"""Dims beside those of records and nodes: each of their places is filled alone."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from apsgeo.errors import GridError
from apsgeo.xarray import impute
from tests.cases import alike, numpy_seeded
from tests.statistics.test_statistics import fields, model


def leveled(obs: xr.DataArray) -> xr.DataArray:
    other = obs.copy(data=np.where(numpy_seeded(9).random(obs.shape) < 0.5, obs + 1, np.nan))
    return xr.concat([obs, other.astype("f4")], xr.Variable("level", [850.0, 500.0]))


@pytest.mark.parametrize("lazy", [False, True])
def test_levels_are_filled_one_by_one(lazy: bool) -> None:
    posterior = model()
    obs = leveled(fields(posterior)).transpose("time", "level", "lat", "lon")
    whole = impute(obs.chunk() if lazy else obs, posterior, 3, 5)
    assert whole.dims == ("member", "time", "level", "lat", "lon")
    assert whole.chunks is not None
    assert whole.level.values.tolist() == [850.0, 500.0]
    first = impute(obs.isel(level=0, drop=True), posterior, 3, 5)
    alike(whole.isel(level=0, drop=True).values, first.values)
    found = impute(obs, posterior, 3, 5, statistics=["mean", "q50", "area"]).compute()
    alike(found["air_mean"].values, whole.mean("member").values)
    assert found["air_quantile"].dims == ("quantile", "time", "level", "lat", "lon")
    assert found["air_area_mean"].dims == ("member", "region", "time", "level")


def test_members_of_places_are_independent() -> None:
    """Where nothing was observed, members of two runs would be the same with the same noise."""
    posterior = model()
    obs = fields(posterior).isel(time=[0])
    runs = xr.concat([obs, obs], "run").isel(time=[0])
    ensemble = impute(runs, posterior, 400)
    first, second = (ensemble.isel(run=run).values.reshape(400, -1) for run in (0, 1))
    kept = ~np.isnan(first[0])
    apart = [each[:, kept] - each[:, kept].mean(0) for each in (first, second)]
    each = (apart[0] * apart[1]).mean(0) / (apart[0].std(0) * apart[1].std(0))
    assert np.abs(each).max() < 5 / np.sqrt(400)


def test_two_levels_make_a_grid_of_runs() -> None:
    posterior = model()
    obs = leveled(fields(posterior))
    both = xr.concat([obs, obs + 1], "run")
    ensemble = impute(both, posterior, 2)
    assert ensemble.dims == ("member", "run", "level", "time", "lat", "lon")
    alike(ensemble.isel(run=0).values, impute(obs, posterior, 2).values)


def test_noise_goes_along() -> None:
    posterior = model()
    obs = leveled(fields(posterior))
    noise: Any = xr.DataArray([0.1, 2.0], dims="level")
    ensemble = impute(obs, posterior, 2, noise_std=noise)
    alone = impute(obs.isel(level=0), posterior, 2, noise_std=0.1)
    alike(ensemble.isel(level=0).values, alone.values)


def test_dims_of_which_nothing_says_that_they_are_records() -> None:
    posterior = model()
    obs = leveled(fields(posterior)).drop_vars("time").rename(time="sample")
    with pytest.raises(GridError, match="level"):
        impute(obs, posterior, 2)


@pytest.mark.parametrize(
    ("dim", "statistics"), [("member", None), ("member", "area"), ("quantile", "q05")]
)
def test_a_dim_is_not_called_as_what_is_made(dim: str, statistics: str | None) -> None:
    posterior = model()
    runs = leveled(fields(posterior)).drop_vars("level").rename(level=dim)
    with pytest.raises(GridError, match=rf"obs.rename\({dim}='run'\)"):
        impute(runs, posterior, 3, statistics=statistics)
    found = impute(runs.rename({dim: "run"}), posterior, 3, statistics=statistics)
    assert found.sizes["run"] == 2
