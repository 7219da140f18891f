"""Labelled observations that are not of the model's nodes: coarse grids, blurs, families."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import torch
import xarray as xr
from typer.testing import CliRunner

import apsgeo
from apsgeo.cli import app
from apsgeo.domains import GraphDomain, HEALPixDomain, ImageDomain, LatLonDomain, MeshDomain
from apsgeo.errors import GridError, InputError, NothingObservedWarning
from apsgeo.evaluation import score_ensemble
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.io import read_field, write_netcdf
from apsgeo.labels.healpix import label_healpix
from apsgeo.labels.labels import labels_of
from apsgeo.labels.layout import domain_of, layout_of
from apsgeo.operators import (
    Compose,
    Downsample,
    GaussianBlur,
    GaussianBlurs,
    Identity,
    Mask,
    OneOf,
    Operator,
    PointSample,
)
from apsgeo.optim.training import Training
from apsgeo.output.write import write_ensemble
from apsgeo.posterior import Posterior
from apsgeo.prior import fit_prior
from apsgeo.xarray import impute
from tests import cases
from tests.cases import numpy_seeded

alike = partial(cases.alike, terms=512)  # the solves of neighbours' observations enlarge roundings
SPEC = CouplingSpec(width=4, depth=1, context=4, local=2, patterns=2, coupling_width=4)
FAMILY = OneOf((Mask(0.1, 0.5), Downsample(2), Downsample(4), GaussianBlurs(0.8, 2.0)))
TIME = xr.date_range("1990-01-01", periods=48, freq="MS")
GRID = LatLonDomain(np.linspace(75, -75, 6), np.arange(0, 360, 36.0))
CELLS = HEALPixDomain(4)
IMAGE = ImageDomain(8, 8)


def smooth(domain: Any, records: int = 48) -> np.ndarray:
    """Fields (record, node) of standard deviation about 2 about 5, float32."""
    rng = numpy_seeded(0)
    places = domain.positions.numpy()
    waves = np.concatenate([np.cos(places), np.sin(places)], axis=1)
    values = 5.0 + 2.0 * rng.standard_normal((records, waves.shape[1])) @ waves.T
    return (values + 0.3 * rng.standard_normal(values.shape)).astype(np.float32)


def labelled(domain: Any) -> xr.DataArray:
    """Fields in time, with the labels that their domain should have."""
    values = smooth(domain)
    attrs = {"units": "degC", "long_name": "air temperature"}
    if isinstance(domain, HEALPixDomain):
        coords = {"time": TIME}
        return label_healpix(domain, values, ("time", "cells"), coords, name="air", attrs=attrs)
    image = isinstance(domain, ImageDomain)
    dims = ("time", "y", "x") if image else ("time", "lat", "lon")
    axes = {} if image else {"lat": domain.lat, "lon": domain.lon}
    return xr.DataArray(
        values.reshape(-1, *domain.shape), {"time": TIME, **axes}, dims, "air", attrs
    )


def untrained(domain: Any, operator: Operator, noise_std: Any = 0.3) -> Posterior:
    scales = HybridScales(0.5, 5000.0 if domain.radius_km > 1 else 3.0, 0.05)
    prior = fit_prior(
        labelled(domain),
        scales=scales,
        anchor_scales=scales,
        rank=4,
        memory=False,  # each record on its own, as `expected` draws them
        training=Training(steps=0, progress=False),
    )
    return apsgeo.distill(
        prior,
        operator,
        noise_std,
        spec=SPEC,
        training=apsgeo.Training(steps=0, progress=False),
        folds=2,
        rounds=1,
    )


@pytest.fixture(scope="module", params=[IMAGE, GRID, CELLS], ids=lambda domain: domain.kind)
def posterior(request: pytest.FixtureRequest) -> Posterior:
    return untrained(request.param, Downsample(2))


@pytest.fixture(scope="module")
def on_grid() -> Posterior:
    return untrained(GRID, Downsample(2))


@pytest.fixture(scope="module")
def several() -> Posterior:
    return untrained(IMAGE, FAMILY, (0.05, 0.5))


def measured(
    posterior: Posterior, operator: Operator | None = None, records: int = 3
) -> xr.DataArray:
    """What the operator says of the first fields, with the labels of its own domain."""
    linear = posterior.family.on(operator)
    codomain: Any = linear.codomain
    fields = torch.from_numpy(smooth(posterior.domain)[:records])[:, None]
    y = linear.apply(fields)[:, 0].numpy()
    attrs = {"units": "degC", "long_name": "air temperature", "source": "a satellite"}
    coords: dict[str, Any] = {"time": TIME[:records], "level": 2.0}
    if isinstance(codomain, HEALPixDomain):
        return label_healpix(codomain, y, ("time", "cells"), coords, name="air", attrs=attrs)
    dims = ("time", "y", "x")
    if isinstance(codomain, LatLonDomain):
        dims = ("time", "lat", "lon")
        coords |= {"lat": codomain.lat, "lon": codomain.lon}
    coords["area"] = (dims[1:], codomain.areas.numpy().reshape(codomain.shape))
    return xr.DataArray(y.reshape(-1, *codomain.shape), coords, dims, "air", attrs)


def gappy(obs: xr.DataArray) -> xr.DataArray:
    """Without the second cell of the first record."""
    values = obs.values.copy()
    values[0].flat[1] = np.nan
    return obs.copy(data=values)


def expected(
    posterior: Posterior,
    obs: xr.DataArray,
    members: int,
    seed: int = 0,
    operator: Operator | None = None,
) -> np.ndarray:
    """The members (member, time, node) by way of tensors."""
    y = torch.from_numpy(obs.values).reshape(len(obs), 1, -1)
    season = torch.from_numpy(obs.time.dt.month.values - 1).long()
    keys = torch.from_numpy(obs.time.values.astype("datetime64[ns]").astype(np.int64))
    return (
        posterior(y, season=season, operator=operator, key=keys)
        .members(members, seed)[:, :, 0]
        .numpy()
    )


# Coarse observations


def test_coarse_fields_give_the_members_of_tensors_on_the_model_s_domain(
    posterior: Posterior,
) -> None:
    domain: Any = posterior.domain
    obs = gappy(measured(posterior))
    ensemble = impute(obs, posterior, members=3, seed=4)
    like = labelled(domain)
    assert ensemble.dims == ("member", *like.dims)
    alike(ensemble.values.reshape(3, 3, -1), expected(posterior, obs, 3, seed=4))
    assert domain_of(ensemble) == domain
    for name in like.coords:
        np.testing.assert_array_equal(
            ensemble[name], like[name][:3] if name == "time" else like[name]
        )
    assert set(ensemble.coords) == {*like.coords, "level", "member"}
    assert (ensemble.name, ensemble.dtype) == ("air", np.float32)
    made = {"apsgeo_version": apsgeo.__version__, "noise_std": pytest.approx(0.3), "seed": 4}
    made["model_sha256"] = posterior.digest
    assert ensemble.attrs == {**obs.attrs, **made}


def test_what_is_missing_is_not_known(posterior: Posterior) -> None:
    obs = measured(posterior)
    cell = int(posterior.linear.forward(np.eye(posterior.domain.num_nodes))[1].argmax())
    spread = [
        impute(given, posterior, members=60).std("member").values.reshape(3, -1)[:, cell]
        for given in (obs, gappy(obs))
    ]
    assert spread[1][0] > 1.2 * spread[0][0]
    alike(spread[1][1:], spread[0][1:])
    with pytest.warns(NothingObservedWarning, match="nothing was observed in 1990-02-01"):
        impute(obs.where(obs.time != TIME[1]), posterior, members=2)


def test_it_is_lazy_and_members_depend_on_seed_time_and_number_alone(
    posterior: Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    obs = gappy(measured(posterior))
    whole = impute(obs, posterior, members=4)
    assert isinstance(whole.data, dask.array.Array)
    with monkeypatch.context() as patched:
        patched.setattr(Posterior, "__call__", None)
        chunked = impute(obs.chunk({obs.dims[-1]: 2, "time": 2}), posterior, members=4)
        assert chunked.chunks is not None
        assert chunked.chunks[1] == (2, 1)
    others = {
        "chunks": chunked,
        "fewer members": impute(obs, posterior, members=2),
        "another record's neighbour": impute(obs[1:], posterior, members=4),
        "one record": impute(obs[2], posterior, members=4),
    }
    for other in others.values():
        # batches of another size round otherwise
        alike(other, whole.sel(member=other.member, time=other.time))
    again = impute(obs, posterior, members=4, seed=1)
    assert float(abs(again - whole).min()) > 0
    alike(obs.aps.impute(posterior, 4), whole)


def test_fields_in_one_block_are_no_more_than_asked_for(
    on_grid: Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apsgeo.labels.lazy._BLOCK_BYTES", 2 * 5 * GRID.num_nodes * 4)
    ensemble = impute(measured(on_grid, records=5), on_grid, members=5)
    assert ensemble.chunks is not None
    assert ensemble.chunks[1] == (2, 2, 1)


def test_rows_and_cells_may_be_in_another_order(on_grid: Posterior) -> None:
    obs = measured(on_grid)
    turned = obs.isel(lat=slice(None, None, -1)).transpose("lon", "time", "lat")
    alike(impute(turned, on_grid, members=2), impute(obs, on_grid, members=2))


def test_dims_keep_their_names(on_grid: Posterior, several: Posterior) -> None:
    names = {"lat": "latitude", "lon": "longitude"}
    found = impute(measured(on_grid).rename(names), on_grid, members=2)
    assert found.dims == ("member", "time", "latitude", "longitude")
    assert domain_of(found) == GRID
    assert not {"lat", "lon"} & set(found.coords)
    pixels = measured(several, Downsample(4)).rename(y="row", x="col")
    assert impute(pixels, several, 2, operator=Downsample(4)).dims == (
        "member",
        "time",
        "row",
        "col",
    )


def test_what_describes_the_coarse_grid_goes(on_grid: Posterior) -> None:
    obs = measured(on_grid).assign_coords(
        sphere=((), 0, {"grid_mapping_name": "latitude_longitude"})
    )
    obs.encoding = {"zlib": True, "grid_mapping": "sphere", "coordinates": "area level"}
    ensemble = impute(obs, on_grid, members=2)
    assert ensemble.encoding == {"zlib": True}
    assert set(ensemble.coords) == {"member", "time", "lat", "lon", "level"}


def test_noise_is_of_the_coarse_cells(on_grid: Posterior) -> None:
    obs = measured(on_grid)
    noise = xr.full_like(obs[0].drop_vars("time"), 0.3)
    noise[0, 0] = 3.0
    plain, number, same, other = (
        impute(obs, on_grid, members=40, noise_std=each)
        for each in (None, 0.3, noise.where(noise < 1, 0.3).values.ravel(), noise.transpose())
    )
    for each in (number, same):
        alike(each, plain)
    assert other.attrs["noise_std"] == "0.3 to 3"
    ratio = (other.std("member") / plain.std("member")).mean("time")
    assert float(ratio[:2, :2].mean()) > 1.2 > float(ratio[-2:].max())
    with pytest.raises(InputError, match=r"noise_std has shape \(6, 10\).*\(lat, lon\) = \(3, 5\)"):
        impute(obs, on_grid, noise_std=np.ones(GRID.shape))


def test_another_grid_is_refused_with_the_one_that_is_wanted(
    posterior: Posterior, on_grid: Posterior
) -> None:
    fine = labelled(posterior.domain)[:2]
    coarse = repr(posterior.linear.codomain).replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(GridError, match=rf"the model's Downsample\(factor=2\) .*{coarse}"):
        impute(fine, posterior)
    obs = measured(on_grid)
    with pytest.raises(GridError, match="interpolate one to the other's grid"):
        impute(obs.assign_coords(lat=obs.lat + 1), on_grid)
    with pytest.raises(GridError, match="obs has 2 channels, and the model 1"):
        impute(obs.expand_dims(band=2), on_grid)


def test_coarse_cells_with_land_are_not_observed(on_grid: Posterior) -> None:
    valid = on_grid.normals.valid.clone()
    valid[0] = False
    normals = replace(on_grid.normals, valid=valid)
    model = replace(on_grid, normals=normals)
    obs = measured(on_grid)
    changed = obs.copy()
    changed[:, 0, 0] = 99.0
    found, other = (impute(each, model, members=2).compute() for each in (obs, changed))
    alike(found, other)
    assert int(found.isnull().sum()) == 2 * 3
    assert bool(found[..., 0, 0].isnull().all())
    only = obs.where((obs.lat == obs.lat[0]) & (obs.lon == obs.lon[0]))
    with pytest.warns(NothingObservedWarning):
        impute(only, model, members=2)


def test_several_variables_are_a_data_set_again(tmp_path: Path) -> None:
    one = labelled(CELLS)
    history = xr.Dataset({"u": one, "v": one[::-1].assign_coords(time=TIME) + 1.0})
    scales = HybridScales(0.5, 5000.0, 0.05)
    prior = fit_prior(
        history,
        scales=scales,
        anchor_scales=scales,
        rank=4,
        memory=False,
        training=Training(steps=0, progress=False),
    )
    model = apsgeo.distill(
        prior,
        Downsample(2),
        0.3,
        spec=SPEC,
        training=apsgeo.Training(steps=0, progress=False),
        folds=2,
        rounds=1,
    )
    fields = torch.from_numpy(np.stack([history[name].values[:2] for name in "uv"], 1))
    y = model.linear.apply(fields)
    coarse: Any = model.linear.codomain
    obs = xr.Dataset(
        {
            name: label_healpix(coarse, y[:, i].numpy(), ("time", "cells"), {"time": TIME[:2]})
            for i, name in enumerate("uv")
        }
    )
    found = impute(obs, model, members=2, noise_std=xr.DataArray([0.3, 0.5], dims="variable"))
    assert list(found) == ["u", "v"]
    tensors = model(
        y,
        season=torch.arange(2),
        noise_std=torch.tensor([[0.3], [0.5]]),
        key=torch.from_numpy(TIME[:2].values.astype("datetime64[ns]").astype(np.int64)),
    ).members(2, 0)
    for i, name in enumerate("uv"):
        assert found[name].dims == ("member", "time", "cells")
        assert domain_of(found[name]) == CELLS
        alike(found[name], tensors[:, :, i])


def test_the_ensemble_is_written_and_scored(posterior: Posterior, tmp_path: Path) -> None:
    ensemble = impute(measured(posterior), posterior, members=3)
    kept = read_field(write_ensemble(ensemble, tmp_path / "fine.nc"))
    alike(kept.values, ensemble.values)
    assert domain_of(kept) == posterior.domain
    scores = score_ensemble(kept, labelled(posterior.domain), progress=False)
    assert 0.0 < scores.crps < 2.0


# Families, and observations on the model's own domain


@pytest.mark.parametrize("member", [Downsample(2), Downsample(4), GaussianBlur(1.3)], ids=repr)
def test_a_family_is_told_which_of_it_measured(several: Posterior, member: Operator) -> None:
    obs = measured(several, member)
    found = impute(obs, several, members=2, operator=member)
    alike(found.values.reshape(2, 3, -1), expected(several, obs, 2, operator=member))
    alike(obs.aps.impute(several, members=2, operator=member), found)


def test_an_operator_that_is_not_told_or_not_of_the_family_is_refused(several: Posterior) -> None:
    obs = measured(several, Downsample(2))
    with pytest.raises(InputError, match="say which of them measured, such as operator=Mask"):
        impute(obs, several)
    with pytest.raises(InputError, match=r"not of the family .*; give one of it, such as Mask"):
        impute(obs, several, operator=GaussianBlur(9.0))
    with pytest.raises(GridError, match=r"the model's Downsample\(factor=4\) is for .*2 x 2"):
        impute(obs, several, operator=Downsample(4))


def test_only_a_mask_must_leave_a_gap(several: Posterior) -> None:
    obs = measured(several, GaussianBlur(1.3))
    for lazy in (obs, obs.chunk(time=1), obs.chunk()):
        assert not bool(impute(lazy, several, 2, operator=GaussianBlur(1.3)).isnull().any())
        with pytest.raises(InputError, match="no gap to fill"):
            impute(obs, several, 2, operator=Mask())
    masked = impute(gappy(obs), several, members=2, operator=Mask())
    assert "area" in masked.coords


def test_noisy_fields_are_denoised_and_blurred_ones_sharpened() -> None:
    truth = labelled(IMAGE)[:3]
    for operator in (Identity(), Compose((GaussianBlur(0.8), GaussianBlur(0.6)))):
        model = untrained(IMAGE, operator, 1.0)
        exact = measured(model)
        noisy = exact + numpy_seeded(1).standard_normal(exact.shape).astype(np.float32)
        noisy.attrs = exact.attrs
        found = impute(noisy, model, members=20)
        alike(found.values.reshape(20, 3, -1), expected(model, noisy, 20))
        error = [float(((each - truth) ** 2).mean()) for each in (noisy, found.mean("member"))]
        assert error[1] < 0.5 * error[0]


def test_what_is_on_no_domain_is_for_tensors(on_grid: Posterior) -> None:
    points = replace(on_grid, operator=PointSample(((10.0, 20.0), (-44.0, 200.0))))
    with pytest.raises(
        InputError, match=r"PointSample\(2 points\) measures nothing .*posterior\(y"
    ):
        impute(measured(on_grid), points)


# Labels


def test_only_nodes_on_a_sphere_get_latitudes() -> None:
    stations = GraphDomain.from_latlon([10, -20, 30, 44], [20, 50, 350, 0.0], k=2)
    labels = labels_of(stations).along(("station",))
    array = xr.DataArray(np.zeros(4), labels.coords, ("station",))
    assert layout_of(array, stations).dims == ("station",)
    np.testing.assert_allclose(array.lat, [10, -20, 30, 44], atol=1e-5)
    body = MeshDomain(
        np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1.0]]),
        np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]]),
    )
    labels = labels_of(body)
    assert (labels.layout.dims, dict(labels.coords)) == (("node",), {})
    assert labels.along(("y", "x")) is labels


# From the shell


def test_the_command_brings_coarse_fields_to_the_model_s_grid(
    on_grid: Posterior, tmp_path: Path
) -> None:
    model = on_grid.save(tmp_path / "model")
    obs = measured(on_grid)
    coarse = write_netcdf(obs, tmp_path / "coarse.nc")
    truth = write_netcdf(labelled(GRID), tmp_path / "truth.nc")
    fine = tmp_path / "fine.nc"
    for arguments in (("impute", coarse, model, fine, "--members", 3), ("evaluate", truth, fine)):
        result = CliRunner().invoke(app, [str(argument) for argument in arguments])
        assert result.exit_code == 0, (result.output, result.exception)
    assert "3 fields" in result.output
    alike(read_field(fine).values, impute(obs, on_grid, members=3).values)
    result = CliRunner().invoke(app, ["impute", str(truth), str(model), str(tmp_path / "no.nc")])
    assert result.exit_code == 2
    assert "and the model's Downsample(factor=2) on" in result.stderr
