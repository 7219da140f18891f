"""Statistics from one pass over the members are those of the members that are kept."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import dask
import numpy as np
import pytest
import torch
import xarray as xr

import apsgeo
from apsgeo.domains import LatLonDomain
from apsgeo.errors import GridError, InputError
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.labels import lazy
from apsgeo.measurement import Draws, Measurement, Normals
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from apsgeo.random_field import alone
from apsgeo.statistics import (
    AreaMean,
    Box,
    EffectiveSampleSize,
    Exceedance,
    Mean,
    Quantile,
    Std,
    statistics_of,
)
from apsgeo.xarray import impute
from tests.cases import alike, numpy_seeded, seeded

LAT, LON = np.array([60.0, 20.0, -20.0, -60.0]), np.arange(0.0, 360.0, 60.0)
SHAPE = len(LAT), len(LON)
NAMES = ["mean", "std", "q05", "q95", "median", "p>11", "p<9"]


class CountedPrior:
    """A low-rank Gaussian prior that counts how often, and in what batches, it is drawn from."""

    name = "counted"

    def __init__(self, prior: LowRankPrior) -> None:
        self.prior, self.conditioned, self.batches = prior, 0, list[int]()

    def posterior(self, measurement: Measurement) -> Draws:
        self.conditioned += 1
        draws = self.prior.posterior(measurement)
        made = draws.from_noise

        def counted(noise: torch.Tensor) -> torch.Tensor:
            self.batches.append(len(noise))
            return made(noise)

        draws.from_noise = counted  # type: ignore[method-assign]
        return draws


def model(land: tuple[int, ...] = (8,), channels: int = 1) -> Posterior:
    rng, nodes = numpy_seeded(1), len(LAT) * len(LON)
    valid = torch.ones(nodes, dtype=torch.bool)
    valid[list(land)] = False
    normals = Normals(
        torch.from_numpy(rng.normal(10, 2, (12, channels, nodes))).float(),
        torch.from_numpy(rng.uniform(1, 3, (12, channels, nodes))).float(),
        valid,
    )
    domain = LatLonDomain(LAT, LON)
    loadings = torch.randn(channels, nodes, 3, generator=seeded(2))
    method = CountedPrior(LowRankPrior(domain, loadings, white_std=0.5))
    return Posterior(domain, normals, Mask(), method, torch.tensor(0.25), "degC", "air")


@pytest.fixture
def posterior() -> Posterior:
    return model()


def fields(posterior: Posterior, records: int = 5) -> xr.DataArray:
    rng = numpy_seeded(3)
    values = rng.normal(10, 2, (records, *SHAPE)).astype(np.float32)
    values[rng.random(values.shape) < 0.7] = np.nan
    values.reshape(records, -1)[:, ~posterior.normals.valid.numpy()] = np.nan
    time = xr.date_range("2010-01-01", periods=records, freq="MS")
    coords = {"time": time, "lat": LAT, "lon": LON}
    attrs = {"units": "degC", "standard_name": "air_temperature", "valid_range": [-90.0, 60.0]}
    return xr.DataArray(values, coords, ("time", "lat", "lon"), "air", attrs)


@pytest.fixture
def obs(posterior: Posterior) -> xr.DataArray:
    return fields(posterior)


def kept(ensemble: xr.DataArray, quantiles: list[float]) -> dict[str, xr.DataArray]:
    """What xarray makes of members that are kept."""
    land = ensemble.isnull().any("member")
    shares = {
        "above": (ensemble > 11).mean("member").expand_dims(above=[11.0]),
        "below": (ensemble < 9).mean("member").expand_dims(below=[9.0]),
    }
    return {
        "air_mean": ensemble.astype(float).mean("member", skipna=False),
        "air_std": ensemble.astype(float).std("member", ddof=1, skipna=False),
        "air_quantile": ensemble.quantile(quantiles, "member", skipna=False),
        **{f"air_probability_{side}": each.where(~land) for side, each in shares.items()},
    }


# The same numbers


@pytest.mark.parametrize("members", [2, 9, 41])
@pytest.mark.parametrize("chunks", [None, 1, 3])
def test_statistics_are_those_of_the_members(
    obs: xr.DataArray, posterior: Posterior, members: int, chunks: int | None
) -> None:
    obs = obs if chunks is None else obs.chunk(time=chunks)
    found = impute(obs, posterior, members, 4, statistics=NAMES).compute()
    expected = kept(impute(obs, posterior, members, 4).compute(), [0.05, 0.5, 0.95])
    assert set(found) == set(expected)
    for name, each in expected.items():
        assert found[name].dims == each.transpose(*found[name].dims).dims
        alike(found[name].values, each.transpose(*found[name].dims).values.astype("f4"))
    assert found["air_mean"].isnull().sum() == len(obs)


@pytest.mark.parametrize("batch", [1, 4, 1000])
def test_batches_of_members_do_not_matter(
    obs: xr.DataArray, posterior: Posterior, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [*NAMES, "area"]
    expected = impute(obs[:1], posterior, 23, statistics=names).compute()
    monkeypatch.setattr(lazy, "_BLOCK_BYTES", batch * obs[0].size * 4)
    counted: Any = posterior.method
    counted.batches.clear()
    found = impute(obs[:1], posterior, 23, statistics=names).compute()
    assert max(counted.batches) == min(batch, 23)
    assert sum(counted.batches) == 23
    for name in expected:
        alike(found[name].values, expected[name].values)


def test_every_quantile_is_exact() -> None:
    """Whatever the probabilities and the number of members: those of numpy."""
    rng = numpy_seeded(5)
    for members, batch in [(1, 1), (2, 1), (7, 3), (50, 7), (64, 64)]:
        fields = rng.normal(size=(members, 2, 1, 5)).astype(np.float32)
        for probabilities in [(0.0,), (1.0,), (0.5,), (0.02, 0.9), (0.25, 0.5, 0.75)]:
            site: Any = type("Site", (), {"members": members})()
            state = Quantile(*probabilities).start(site)
            for start in range(0, members, batch):
                state.add(fields[start : start + batch], None)  # type: ignore[arg-type]
            (found,) = state.values()
            expected = np.quantile(fields, probabilities, axis=0).swapaxes(0, 1)
            np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_few_members_are_held_for_outer_quantiles() -> None:
    site: Any = type("Site", (), {"members": 512})()
    state = Quantile(0.05, 0.95).start(site)
    for _ in range(32):
        state.add(numpy_seeded(6).normal(size=(16, 1, 1, 3)), None)  # type: ignore[arg-type]
    assert len(state._smallest) == len(state._largest) == 27  # type: ignore[arg-type]


# One pass, lazily


def test_one_pass_serves_all_and_nothing_is_drawn_before(
    obs: xr.DataArray, posterior: Posterior
) -> None:
    runs = []

    def scheduler(graph: Any, keys: Any, **options: Any) -> Any:
        runs.append(keys)
        return dask.get(graph, keys, **options)

    counted: Any = posterior.method
    with dask.config.set(scheduler=scheduler):
        found = impute(obs.chunk(time=2), posterior, 8, statistics=[*NAMES, "area"])
        assert (runs, counted.conditioned) == ([], 0)
        found.compute()
    assert len(runs) == 1
    assert counted.conditioned == 3  # blocks of two, two and one
    assert sum(counted.batches) == 3 * 8


# Areas


def test_area_means_are_those_of_every_member(obs: xr.DataArray, posterior: Posterior) -> None:
    tropics = xr.DataArray(np.abs(LAT) < 30, {"lat": LAT}, ("lat",)).expand_dims(lon=LON)
    regions: dict[str, Any] = {
        "north": Box(0, 90),
        "east": Box(-90, 90, -60, 60),
        "tropics": tropics,
    }
    found = impute(obs, posterior, 20, statistics=[AreaMean(regions, level=0.8)]).compute()
    ensemble = impute(obs, posterior, 20).compute().astype(float)
    domain = posterior.domain
    area = xr.DataArray(domain.areas.numpy().reshape(SHAPE), {"lat": LAT, "lon": LON})
    inside = {
        "north": area.where(area.lat > 0, 0.0),
        "east": area.where((area.lon <= 60) | (area.lon >= 300), 0.0),
        "tropics": area * tropics,
    }
    means = found["air_area_mean"]
    assert means.dims == ("member", "region", "time")
    for name, weights in inside.items():
        expected = ensemble.weighted(weights).mean(("lat", "lon"))
        alike(means.sel(region=name, drop=True).values, expected.values.astype("f4"))
    interval = means.astype(float).quantile([0.1, 0.9], "member")
    alike(found["air_area_mean_interval"].values, interval.values.astype("f4"))
    assert found["air_area_mean_interval"].dims == ("bound", "region", "time")


def test_the_globe_leaves_out_land(obs: xr.DataArray, posterior: Posterior) -> None:
    found = impute(obs, posterior, 4, statistics="area")["air_area_mean"]
    assert found.region.values.tolist() == ["all"]
    assert bool(found.notnull().all())


@pytest.mark.parametrize(
    ("region", "error", "message"),
    [
        (lambda: Box(50, 20), InputError, "south < north"),
        (lambda: Box(-10, 10, 10, 20), InputError, "no node"),
        (lambda: xr.DataArray(np.ones(3), dims="node"), GridError, "latitude"),
        (lambda: (0, 90), InputError, "tuple"),
    ],
)
def test_bad_regions(
    obs: xr.DataArray,
    posterior: Posterior,
    region: Callable[[], Any],
    error: type[Exception],
    message: str,
) -> None:
    with pytest.raises(error, match=message):
        impute(obs, posterior, 4, statistics=[AreaMean({"small": region()})])


# Labels


def test_labels(obs: xr.DataArray, posterior: Posterior) -> None:
    obs = obs.assign_coords(height=2.0, area=(("lat", "lon"), np.ones(SHAPE)))
    found = impute(obs, posterior, 6, 3, statistics=["mean", "std", "q10", "p>0", "area"])
    assert found["air_mean"].attrs == {
        "units": "degC",
        "long_name": "ensemble mean of air",
        "cell_methods": "realization: mean",
    }
    assert found["air_quantile"].dims == ("quantile", "time", "lat", "lon")
    assert found["air_probability_above"].attrs["units"] == "1"
    assert found["air_mean"].dtype == found["air_std"].dtype == np.float32
    assert {"height", "area"} <= set(found["air_mean"].coords)
    assert "area" not in found["air_area_mean"].coords
    assert found.attrs["seed"] == 3
    assert found.attrs["members"] == 6
    one = impute(obs[2], posterior, 6, 3, statistics=["mean", "area"])
    assert one["air_mean"].dims == ("lat", "lon")
    alike(one["air_mean"].values, found["air_mean"][2].values)
    assert one["air_area_mean"].dims == ("member", "region")


def test_variables_of_a_data_set_have_their_own(obs: xr.DataArray) -> None:
    posterior = model(land=(), channels=2)
    posterior.variable, posterior.units = "u, v", None
    winds = xr.Dataset({"u": obs.drop_attrs(), "v": (obs + 1).drop_attrs()})
    found = impute(winds, posterior, 5, statistics=["mean", "q50", "area"]).compute()
    members = impute(winds, posterior, 5).compute()
    for name in ("u", "v"):
        alike(found[f"{name}_mean"].values, members[name].mean("member").values)
        assert found[f"{name}_quantile"].dims == ("quantile", "time", "lat", "lon")
        assert found[f"{name}_area_mean"].dims == ("member", "region", "time")


def test_without_a_model(
    obs: xr.DataArray, posterior: Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alone, "fit_random_field", lambda records, **options: MagicMock())
    monkeypatch.setattr(alone, "random_field_posterior", lambda prior: posterior)
    found = apsgeo.impute(obs, members=4, statistics=["mean"]).compute()
    alike(found["air_mean"].values, impute(obs, posterior, 4).mean("member").values)
    assert "fitted" in found.attrs["model"]


# Densities


def seasonal(land: tuple[int, ...]) -> tuple[Posterior, xr.DataArray]:
    rng, months = numpy_seeded(7), 48
    values = rng.normal(size=(months, 4, 1)).cumsum(1) + rng.normal(size=(months, *SHAPE))
    time = xr.date_range("2000-01-01", periods=months, freq="MS")
    coords = {"time": time, "lat": LAT, "lon": LON}
    history = xr.DataArray(values, coords, ("time", "lat", "lon"), "air")
    for node in land:
        history[:, node // len(LON), node % len(LON)] = np.nan
    scales = apsgeo.HybridScales()
    prior = apsgeo.fit_prior(
        history, scales=scales, anchor_scales=scales, rank=3, memory=False, steps=0, progress=False
    )
    posterior = Posterior.of(prior, prior.anchor, Mask(), 0.3)
    return posterior, history[:3].where(rng.random((3, *SHAPE)) < 0.4).astype("f4")


def test_all_members_of_an_exact_posterior_count() -> None:
    """Weights of q = p are one, to the rounding of densities in single precision."""
    posterior, obs = seasonal(land=())
    found = impute(obs, posterior, 16, statistics=["log_q", "ess", "mean"]).compute()
    np.testing.assert_allclose(found["effective_sample_size"], 16, rtol=1e-3)
    assert found["log_q"].dims == ("member", "time")
    members = impute(obs, posterior, 16).compute()
    season = torch.arange(3)
    y = torch.from_numpy(obs.values.reshape(3, 1, -1))
    x = torch.from_numpy(members.values.reshape(16, 3, 1, -1))
    expected = posterior(y, season=season).log_prob(x)
    np.testing.assert_allclose(found["log_q"], expected, rtol=1e-4)


def test_densities_need_nodes_that_are_all_valid() -> None:
    posterior, obs = seasonal(land=(8,))
    for name in ("log_q", "ess"):
        with pytest.raises(InputError, match="land"):
            impute(obs, posterior, 4, statistics=[name])


def test_a_density_of_the_prior_is_needed(obs: xr.DataArray) -> None:
    with pytest.raises(InputError, match="Gaussian prior"):
        impute(obs, model(land=()), 4, statistics=[EffectiveSampleSize()])


# Names


def test_names() -> None:
    names = statistics_of(" mean, std,q05,q95 ,q975,p>0,p>1,p<-2.5e1")
    assert names == [
        Mean(),
        Std(),
        Quantile(0.05, 0.95, 0.975),
        Exceedance(0.0, 1.0),
        Exceedance(-25.0, above=False),
    ]


@pytest.mark.parametrize("wrong", ["", "meen", "q5", "p>", "p>x", "p=1", "1", "q", "p>1e", []])
def test_names_that_are_none(wrong: Any) -> None:
    with pytest.raises(InputError, match="expected mean"):
        statistics_of(wrong)


def test_what_cannot_be_asked_for(obs: xr.DataArray, posterior: Posterior) -> None:
    with pytest.raises(InputError, match="between 0 and 1"):
        Quantile(5)
    with pytest.raises(InputError, match="thresholds"):
        Exceedance(np.inf)
    with pytest.raises(InputError, match="probability"):
        AreaMean(level=90)
    with pytest.raises(InputError, match="one member"):
        impute(obs, posterior, 1, statistics="std")


# The model


def test_the_model_is_named_by_its_checksum(obs: xr.DataArray) -> None:
    shipped = Posterior.load(Path(apsgeo.__file__).parent / "models" / "ncep-air")
    folder = Path(apsgeo.__file__).parent / "models" / "ncep-air"
    assert shipped.digest == json.loads((folder / "config.json").read_text())["sha256"]
    assert model().digest is None


def test_a_model_that_is_made_has_the_checksum_that_it_is_saved_with(tmp_path: Path) -> None:
    shipped = apsgeo.load("ncep-air")
    assert isinstance(shipped, Posterior)
    made = replace(shipped, provenance={"seed": 1})
    found = made.digest
    assert found != shipped.digest
    assert Posterior.load(made.save(tmp_path / "model")).digest == found
