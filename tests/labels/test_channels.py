"""Colours, variables and neighbouring times as channels: from labels to labels."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import torch
import xarray as xr

import apsgeo
from apsgeo.diffusion.schedule import EDMSchedule
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.distillation.distill import distill
from apsgeo.domains import ImageDomain, LatLonDomain
from apsgeo.errors import GridError, InputError
from apsgeo.evaluation import score_ensemble
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.labels.channels import as_array, as_variables, windows
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import fit_prior
from apsgeo.xarray import impute
from tests.cases import alike, numpy_seeded

SPEC = CouplingSpec(width=8, depth=1, context=4, local=2, patterns=4, coupling_width=4)
SCALES = HybridScales(range_km=2.0, eof_weight=0.9)
TIME = xr.date_range("2000-01-01", periods=60, freq="MS")


def fit(history: xr.DataArray | xr.Dataset, **options: Any) -> FieldPrior:
    settings: dict[str, Any] = {"scales": SCALES, "anchor_scales": SCALES, "rank": 12}
    settings |= {"folds": 2, "training": Training(steps=0, progress=False)}
    return fit_prior(history, **(settings | options))


def untrained(prior: FieldPrior, noise_std: float | torch.Tensor, **options: Any) -> Posterior:
    settings: dict[str, Any] = {"spec": SPEC, "rounds": 1, "folds": 2}
    return distill(
        prior, Mask(), noise_std, training=Training(steps=0, progress=False), **(settings | options)
    )


def colours(count: int = 50) -> xr.DataArray:
    """Red is smooth, green is its negative, blue has nothing to do with them; (y, ..., x)."""
    rng = numpy_seeded(0)
    smooth = ImageDomain(6, 6).eigenbasis(5)[1].numpy() * 6.0
    red, blue = (rng.standard_normal((count, 5)) @ smooth.T / 3 for _ in range(2))
    values = np.stack([red, -red, blue], 1).reshape(count, 3, 6, 6)
    values = (100 + 20 * values).astype(np.float32)
    array = xr.DataArray(values, {"rgb": ["r", "g", "b"]}, ("sample", "rgb", "y", "x"), "photo")
    return array.transpose("y", "sample", "x", "rgb")


@functools.cache
def photos() -> tuple[FieldPrior, Posterior]:
    prior = fit(colours())
    return prior, untrained(prior, 1.0)


def test_what_one_colour_says_of_another_is_known(tmp_path: Path) -> None:
    prior, posterior = photos()
    assert (prior.normals.mean.shape[1], prior.diffusion) == (3, None)
    truth = colours()[:, -4:]
    obs = truth.where(truth.rgb == "r")  # red alone was observed
    ensemble = impute(obs, Posterior.load(posterior.save(tmp_path / "model")), members=32)
    assert ensemble.dims == ("member", "sample", "rgb", "y", "x")
    error = ensemble.mean("member") - truth
    spread = truth.std()
    rms = (error**2).mean(["sample", "y", "x"]) ** 0.5
    assert float(rms.sel(rgb="g")) < 0.25 * float(spread)
    assert float(rms.sel(rgb="b")) > 0.5 * float(spread)
    scores = score_ensemble(ensemble, truth, obs, progress=False)
    both = np.sqrt((error.sel(rgb=["g", "b"]) ** 2).mean())
    assert scores.rmse == pytest.approx(float(both), rel=1e-5)
    with pytest.raises(GridError, match="obs has 2 channels, and the model 3"):
        impute(obs.isel(rgb=slice(2)), posterior)
    with pytest.raises(GridError, match="obs has 1 channels, and the model 3"):
        impute(obs.isel(rgb=0), posterior)
    with pytest.raises(GridError, match="the history has 1 channels, and the prior 3"):
        prior.encode(truth.isel(rgb=0))


def test_noise_is_a_number_or_one_a_cell_or_a_channel() -> None:
    posterior = photos()[1]
    obs = colours()[:, -2:].where(numpy_seeded(1).random((6, 2, 6, 3)) < 0.5)
    noise = xr.DataArray([1.0, 4.0, 2.0], {"rgb": obs.rgb}, ("rgb",))
    per_cell = noise.expand_dims(x=6, y=6)
    given = [
        impute(obs, posterior, 2, noise_std=n) for n in (noise, per_cell, per_cell.transpose())
    ]
    for other in given[1:]:
        alike(given[0], other)
    flat = impute(obs, posterior, 2, noise_std=np.full(36, 1.0))
    alike(flat, impute(obs, posterior, 2, noise_std=1.0))
    assert not np.allclose(flat, given[0])
    with pytest.raises(InputError, match="noise_std has dims"):
        impute(obs, posterior, noise_std=noise.rename(rgb="band"))
    # one a channel for distillation, too
    same = untrained(photos()[0], torch.tensor([[1.0], [4.0], [2.0]]))
    alike(impute(obs, same, 2), impute(obs, same, 2, noise_std=noise))
    with pytest.raises(InputError, match=r"one a channel \(3, 1\)"):
        untrained(photos()[0], torch.ones(2, 1))


def weather() -> xr.Dataset:
    rng = numpy_seeded(2)
    domain = LatLonDomain([-60.0, -20.0, 20.0, 60.0], np.arange(0, 360, 45.0))
    smooth = domain.eigenbasis(5)[1].numpy() * 3.5
    u = rng.standard_normal((60, 5)) @ smooth.T / 2
    coords = {"time": TIME, "lat": domain.lat, "lon": domain.lon}
    dims = ("time", "lat", "lon")
    values = {"u": u, "t": 280 + 5 * u + 0.1 * rng.standard_normal(u.shape)}
    dataset = xr.Dataset({n: (dims, v.reshape(60, 4, 8)) for n, v in values.items()}, coords)
    dataset.u.attrs, dataset.t.attrs = {"units": "m s-1", "long_name": "wind"}, {"units": "K"}
    return dataset.astype("float32").assign_attrs(title="weather")


def test_a_data_set_in_a_data_set_out() -> None:
    history = weather()
    history["t"] = history.t.transpose("lon", "time", "lat")
    prior = fit(history, scales=HybridScales(), anchor_scales=HybridScales())
    assert (prior.variable, prior.units) == ("u, t", "m s-1, K")
    posterior = untrained(prior, torch.tensor([[0.1], [0.5]]), history=history)
    obs = weather().isel(time=slice(-3, None))
    obs["t"] = obs.t.where(False)
    filled = impute(obs.chunk(time=1), posterior, members=8)
    assert list(filled.data_vars) == ["u", "t"]
    assert dask.is_dask_collection(filled.t)
    assert filled.t.dims == ("member", "time", "lat", "lon")
    assert filled.attrs == obs.attrs
    assert filled.u.attrs["units"] == "m s-1"
    assert filled.u.attrs["long_name"] == "wind"
    error = (filled.t.mean("member") - weather().t.isel(time=slice(-3, None))).std()
    assert float(error) < 0.45 * float(weather().t.std())
    with pytest.raises(InputError, match="obs has the variables t, u, and the model is of u, t"):
        impute(obs[["t", "u"]], posterior)
    with pytest.raises(InputError, match="the history has the variables t, u"):
        prior.encode(history[["t", "u"]])
    with pytest.raises(InputError, match="several of the same dims"):
        fit(history.assign(z=history.t[0]))


def test_variables_and_channels_are_the_same() -> None:
    dataset = weather()
    array = as_array(dataset)
    assert array.attrs["units"] == "m s-1, K"
    assert as_array(array) is array
    xr.testing.assert_identical(
        as_variables(array, dataset).drop_vars("variable", errors="ignore"), dataset
    )


def test_windows_are_a_time_and_its_neighbours() -> None:
    array = weather().u
    found = windows(array, 5)
    assert found.lag.values.tolist() == [-2, -1, 0, 1, 2]
    assert found.time.equals(array.time[2:-2])
    for lag in (-2, 0, 1):
        shifted = array.shift(time=-lag).sel(time=found.time)
        np.testing.assert_array_equal(found.sel(lag=lag).transpose(*array.dims), shifted)
    assert found.attrs["units"] == "m s-1"
    assert dask.is_dask_collection(windows(array.chunk(time=10), 3).data)
    for size in (1, 4, 61):
        with pytest.raises(InputError, match=f"windows of {size}"):
            windows(array, size)


def test_what_is_held_out_is_in_no_window_that_is_learned_from() -> None:
    history = windows(weather().u, 3)
    scales = HybridScales()
    prior = fit(history, held_out_from="2004-01-01", scales=scales, anchor_scales=scales)
    learned, held = prior.split(history)
    assert str(learned.dates.values[-1])[:7] == "2003-11"  # whose window ends with December
    assert str(held.dates.values[0])[:7] == "2004-01"
    assert prior.normals.mean.shape[1] == 3
    obs = windows(weather().u.where(numpy_seeded(0).random((60, 4, 8)) < 0.3), 3)
    filled = apsgeo.impute(obs[-2:], untrained(prior, 0.1), members=2).sel(lag=0)
    assert filled.sizes == {"member": 2, "time": 2, "lat": 4, "lon": 8}


def test_known_fields_and_architecture_reach_the_network(tmp_path: Path) -> None:
    history = weather().u.where(weather().lat < 50)  # the north is land
    orography = xr.DataArray(
        np.arange(32.0).reshape(4, 8), {"lat": history.lat, "lon": history.lon}, ("lat", "lon")
    )
    known = xr.Dataset({"height": orography[::-1], "depth": -(orography**2)})
    spec = DenoiserSpec(schedule=EDMSchedule(0.01, 50.0), levels=5)
    scales = HybridScales()
    options: dict[str, Any] = {"scales": scales, "anchor_scales": scales, "spec": spec}
    options["training"] = Training(steps=2, progress=False)
    prior = fit(history, static=known, **options)
    assert prior.diffusion is not None
    static = prior.diffusion.network.static
    land = prior.normals.valid.double()
    expected = torch.stack([land, torch.arange(32.0).double(), -(torch.arange(32.0).double() ** 2)])
    expected = expected - expected.mean(1, keepdim=True)
    expected /= expected.square().mean(1, keepdim=True).sqrt()
    torch.testing.assert_close(static, expected.float())
    again = FieldPrior.load(prior.save(tmp_path / "prior")).diffusion
    assert again is not None
    assert torch.equal(again.network.static, static)  # type: ignore[arg-type]
    assert (again.schedule, again.levels) == (spec.schedule, 5)
    assert prior.provenance["denoiser"]["schedule"]["sigma_max"] == 50.0
    with pytest.raises(GridError, match="static has dims"):
        fit(history, static=weather().u, **options)
    with pytest.raises(InputError, match="same everywhere"):
        fit(history, static=0.0 * orography, **options)
    with pytest.raises(InputError, match="size='giant'"):
        DenoiserSpec(size="giant")  # type: ignore[arg-type]


def test_a_data_set_has_the_accessor_too() -> None:
    lat, lon = np.linspace(60.0, -60.0, 5), np.arange(0.0, 360.0, 45.0)
    values = numpy_seeded(3).normal(size=(2, 5, 8)).astype(np.float32)
    coords = {"lat": lat, "lon": lon}
    winds = xr.Dataset(
        {name: (("lat", "lon"), each) for name, each in zip("uv", values, strict=True)}, coords
    )
    assert winds.aps.domain == winds.u.aps.domain
    target = winds.aps.domain.coarse()
    for name in winds:
        alone = winds[name].aps.regrid(target, "conservative")
        xr.testing.assert_identical(winds.aps.regrid(target, "conservative")[name], alone)
