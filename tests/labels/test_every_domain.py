"""Fit, distill, impute and score on each domain, from the labels that its data comes with."""

import math
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial import ConvexHull
from typer.testing import CliRunner

from apsgeo.cli import app
from apsgeo.distillation.distill import distill
from apsgeo.domains import Domain, GraphDomain, HEALPixDomain, ImageDomain, MeshDomain
from apsgeo.errors import GridError, InputError
from apsgeo.evaluation import score_ensemble
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.io import read_field, write_netcdf
from apsgeo.labels.healpix import label_healpix
from apsgeo.labels.layout import domain_of
from apsgeo.labels.mesh import read_mesh
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.output.write import write_ensemble
from apsgeo.posterior import Posterior
from apsgeo.prior import FieldPrior, fit_prior
from apsgeo.xarray import impute
from tests.cases import alike, numpy_seeded

SPEC = CouplingSpec(width=8, depth=1, context=4, local=2, patterns=4, coupling_width=4)
TIME = xr.date_range("2000-01-01", periods=48, freq="MS")
NAME: dict[str, Any] = {"name": "t", "attrs": {"units": "K", "long_name": "temperature"}}


class Case(NamedTuple):
    """A history and, if its labels do not say it, its domain."""

    history: xr.DataArray
    domain: Domain | None = None


def fields(domain: Domain) -> np.ndarray:
    """Return smooth fields (time, node) and a little noise, of unit variance or so."""
    rng = numpy_seeded(0)
    basis = domain.eigenbasis(6)[1].numpy() * math.sqrt(float(domain.areas.sum()) / 6)
    smooth = rng.standard_normal((len(TIME), 6)) @ basis.T
    return (smooth + 0.1 * rng.standard_normal(smooth.shape)).astype(np.float32)


def healpix(nest: bool) -> Case:
    domain = HEALPixDomain(4, nest)
    return Case(label_healpix(domain, fields(domain), ("time", "cells"), {"time": TIME}, **NAME))


def images() -> Case:
    domain = ImageDomain(8, 10)
    coords = {"time": TIME, "y": np.arange(8.0)}
    values = fields(domain).reshape(-1, 8, 10)
    return Case(xr.DataArray(values, coords, ("time", "y", "x"), **NAME))


def sphere(count: int) -> MeshDomain:
    """Return a mesh of points along a spiral from pole to pole."""
    z = 1 - (2 * np.arange(count) + 1) / count
    turn = np.pi * (3 - math.sqrt(5)) * np.arange(count)
    points = np.stack([np.sqrt(1 - z**2) * np.cos(turn), np.sqrt(1 - z**2) * np.sin(turn), z], 1)
    return MeshDomain(points, ConvexHull(points).simplices)


def mesh() -> Case:
    domain = sphere(162)
    array = xr.DataArray(fields(domain), {"time": TIME}, ("time", "vertex"), **NAME)
    return Case(array, domain)


def stations() -> Case:
    rng = numpy_seeded(1)
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 90))), rng.uniform(0, 360, 90)
    coords = {
        "time": TIME,
        "lat": ("station", lat),
        "lon": ("station", lon),
        "station": [f"S{i}" for i in range(90)],
    }
    values = fields(GraphDomain.from_latlon(lat, lon))
    return Case(xr.DataArray(values, coords, ("time", "station"), **NAME))


CASES: dict[str, Callable[[], Case]] = {
    "healpix nested": lambda: healpix(True),
    "healpix ring": lambda: healpix(False),
    "images": images,
    "mesh": mesh,
    "stations": stations,
}


class Model(NamedTuple):
    case: Case
    prior: FieldPrior
    posterior: Posterior


@cache
def fitted(name: str) -> Model:
    case = CASES[name]()
    scales = HybridScales.start(case.domain or domain_of(case.history))
    prior = fit_prior(
        case.history,
        case.domain,
        scales=scales,
        anchor_scales=scales,
        rank=5,
        training=Training(steps=0, progress=False),
    )
    posterior = distill(
        prior, Mask(), 0.1, spec=SPEC, training=Training(steps=4, progress=False), rounds=1
    )
    return Model(case, prior, posterior)


@pytest.fixture(params=list(CASES))
def model(request: pytest.FixtureRequest) -> Model:
    return fitted(request.param)


def gappy(case: Case, records: int = 3) -> xr.DataArray:
    truth = case.history[-records:]
    return truth.where(numpy_seeded(2).random(truth.shape) < 0.3)


def close(found: xr.DataArray, expected: xr.DataArray) -> None:
    """Assert that members are the same: their noise is, and their values to rounding."""
    assert found.dims == expected.dims
    alike(found.values, expected.values, 1024)  # some of small matrices of condition 100 or so


def test_an_ensemble_has_the_labels_of_its_observations(model: Model) -> None:
    obs = gappy(model.case)
    obs.encoding["zlib"] = True
    ensemble = impute(obs, model.posterior, members=4)
    assert ensemble.dims == ("member", *obs.dims)
    assert ensemble.sizes["member"] == 4
    assert ensemble.name == "t"
    assert ensemble.dtype == np.float32
    assert ensemble.attrs["long_name"] == "temperature"
    assert ensemble.encoding == obs.encoding
    xr.testing.assert_identical(
        ensemble.coords.to_dataset().drop_vars("member"), obs.coords.to_dataset()
    )
    assert not ensemble.isnull().any()


def test_nearly_perfect_observations_are_honoured(model: Model) -> None:
    noise = 1e-3
    obs = gappy(model.case)
    members = impute(obs, model.posterior, members=8, noise_std=noise).compute()
    error = np.abs(members - obs)
    assert float(error.max()) < 10 * noise
    assert float(members.std("member").where(obs.isnull()).mean()) > 10 * noise


def test_members_depend_on_neither_chunks_nor_the_order_of_dims(model: Model) -> None:
    obs = gappy(model.case)
    expected = impute(obs, model.posterior, members=4, seed=1).compute()
    close(impute(obs.chunk(time=1), model.posterior, members=4, seed=1), expected)
    split = obs.chunk(dict.fromkeys(obs.dims, 2))
    close(impute(split, model.posterior, members=4, seed=1), expected)
    last = obs.transpose(*obs.dims[1:], "time")
    close(impute(last, model.posterior, members=4, seed=1), expected)
    close(impute(obs[1], model.posterior, members=4, seed=1), expected[:, 1])
    close(impute(obs, model.posterior, members=2, seed=1), expected[:2])


def test_noise_by_cell_is_used_where_it_belongs(model: Model) -> None:
    obs = gappy(model.case)
    noise = xr.full_like(obs[0], 0.1).drop_vars("time")
    noise[(3,) * noise.ndim] = 5.0
    obs[0][(3,) * noise.ndim] = 5.0
    expected = impute(obs, model.posterior, members=2, noise_std=0.1)
    for given in (noise, noise.values, noise.values.ravel()):
        found = impute(obs, model.posterior, members=2, noise_std=given)
        change = abs(found - expected)[:, 0].max("member").compute()
        assert float(change.max()) == float(change[(3,) * noise.ndim]) > 0.1


def test_another_size_is_refused(model: Model) -> None:
    obs = gappy(model.case)
    less = obs.isel({obs.dims[-1]: slice(1, None)})
    if isinstance(model.prior.domain, HEALPixDomain):  # some of its pixels are known by number
        assert impute(less, model.posterior, 1).sizes["cells"] == obs.sizes["cells"]
        less = less.drop_vars(["cell_ids", "crs"])
    with pytest.raises(GridError, match=r"obs (has|is).*the model (is for|on) \w+Domain"):
        impute(less, model.posterior)
    with pytest.raises(GridError, match="the history"):
        distill(
            model.prior,
            Mask(),
            0.1,
            history=model.case.history[:, 1:],
            training=Training(steps=0, progress=False),
        )
    lat, lon = np.linspace(80, -80, 9), np.arange(0, 360, 20.0)
    grid = xr.DataArray(np.full((9, 18), np.nan, "f4"), {"lat": lat, "lon": lon}, ("lat", "lon"))
    with pytest.raises(GridError, match="obs has (dims|latitudes)"):
        impute(grid, model.posterior)


def test_a_saved_model_knows_its_domain(model: Model, tmp_path: Path) -> None:
    obs = gappy(model.case)
    loaded = Posterior.load(model.posterior.save(tmp_path / "model"))
    close(
        impute(obs, loaded, members=2).compute(),
        impute(obs, model.posterior, members=2).compute(),
    )
    prior = FieldPrior.load(model.prior.save(tmp_path / "prior"))
    torch.testing.assert_close(
        prior.encode(model.case.history), model.prior.encode(model.case.history)
    )


def test_from_the_shell(model: Model, tmp_path: Path) -> None:
    obs, folder = gappy(model.case), model.posterior.save(tmp_path / "model")
    write_netcdf(obs, tmp_path / "obs.nc")
    write_netcdf(model.case.history, tmp_path / "truth.nc")
    run = CliRunner().invoke
    filled = [str(tmp_path / name) for name in ("obs.nc", "model", "filled.nc")]
    result = run(app, ["impute", *filled, "--members", "8"])
    assert result.exit_code == 0, result.output
    files = [str(tmp_path / name) for name in ("truth.nc", "filled.nc")]
    observed = ["--observed", str(tmp_path / "obs.nc"), "--model", str(folder)]
    result = run(app, ["evaluate", *files, *observed])
    assert result.exit_code == 0, result.output
    assert "3 fields" in result.output


def test_scores_are_weighted_by_area_in_any_order(model: Model) -> None:
    truth = model.case.history[-3:].load()
    error = xr.zeros_like(truth[0])
    error[(0,) * error.ndim] = 1.0
    ensemble = xr.concat([truth + 2 * error - 1, truth + 2 * error + 1], "member")
    domain = model.posterior.domain
    scores = score_ensemble(ensemble, truth, domain=domain, progress=False)
    share = float(domain.areas[0] / domain.areas.sum())
    assert scores.rmse == pytest.approx(2 * math.sqrt(share), rel=1e-5)


def test_files_hold_one_member_of_one_record_in_a_chunk(model: Model, tmp_path: Path) -> None:
    obs = gappy(model.case)
    file = write_ensemble(impute(obs, model.posterior, members=3), tmp_path / "out.nc")
    assert read_field(file, "t").encoding["chunksizes"] == (1, 1, *obs.shape[1:])


# Orders that differ


@pytest.mark.parametrize("name", ["healpix nested", "healpix ring"])
def test_pixels_are_known_by_number_in_any_order_and_either_scheme(name: str) -> None:
    model = fitted(name)
    obs = gappy(model.case)
    expected = impute(obs, model.posterior, members=2).compute()
    rng = numpy_seeded(3)
    shuffled = rng.permutation(192)
    close(impute(obs[:, shuffled], model.posterior, members=2), expected[..., shuffled])
    own, other = HEALPixDomain(4, "nested" in name), HEALPixDomain(4, "nested" not in name)
    place = own.node_at(other.positions.numpy())
    coords: dict[str, Any] = {"time": obs.time}
    renumbered = label_healpix(other, obs.values[:, place], ("time", "cells"), coords, **NAME)
    found = impute(renumbered, model.posterior, members=2)
    close(found, expected[..., place])
    hidden = obs.where(xr.DataArray(np.arange(192) != shuffled[0], dims="cells"))
    close(
        impute(obs[:, shuffled[1:]], model.posterior, members=2).compute(),
        impute(hidden, model.posterior, members=2).compute(),
    )
    elsewhere = label_healpix(
        HEALPixDomain(8, True, [0, 1, 2]), np.zeros((1, 3)), ("time", "cells")
    )
    with pytest.raises(GridError, match="regrid one to the other"):
        impute(elsewhere, model.posterior)


def test_the_model_is_given_values_in_one_layout_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or kernels would add them up in another order, and members would differ by rounding."""
    model, measure = fitted("healpix nested"), Posterior.measure
    obs, strides = gappy(model.case), []

    def watched(self: Posterior, y: torch.Tensor, **options: Any) -> Any:
        strides.append(y.stride())
        return measure(self, y, **options)

    monkeypatch.setattr(Posterior, "measure", watched)
    for given in (obs, obs[:, numpy_seeded(3).permutation(192)]):
        impute(given, model.posterior, members=1).compute()
    assert strides[0] == strides[1] == (192, 192, 1)


def test_stations_in_another_order_are_known_by_place() -> None:
    model = fitted("stations")
    obs = gappy(model.case)
    expected = impute(obs, model.posterior, members=2).compute()
    shuffled = numpy_seeded(3).permutation(obs.sizes["station"])
    close(impute(obs[:, shuffled], model.posterior, members=2), expected[..., shuffled])
    moved = obs.assign_coords(lat=obs.lat * 0.9)
    with pytest.raises(GridError, match="not those of the nodes"):
        impute(moved, model.posterior)


# Samples without dates


def test_samples_without_dates_are_counted(tmp_path: Path) -> None:
    dated = images().history
    samples = dated.drop_vars("time").rename(time="sample").transpose("y", "x", "sample")
    scales = HybridScales.start(ImageDomain(8, 10))
    training = Training(steps=0, progress=False)
    prior = fit_prior(samples, scales=scales, anchor_scales=scales, rank=5, training=training)
    assert (prior.held_out_from, prior.normals.seasons) == (44, 1)
    assert FieldPrior.load(prior.save(tmp_path / "prior")).held_out_from == 44
    learned, kept_back = prior.split(samples)
    assert (len(learned), len(kept_back)) == (44, 4)
    posterior = distill(
        prior, Mask(), 0.1, spec=SPEC, training=Training(steps=1, progress=False), rounds=1
    )
    obs = samples[..., :3].where(numpy_seeded(0).random((8, 10, 3)) < 0.5)
    ensemble = impute(obs, posterior, members=2)
    assert ensemble.dims == ("member", "sample", "y", "x")
    file = write_ensemble(ensemble, tmp_path / "out.nc")
    alike(read_field(file, "t").values, ensemble.values)
    for argument in ({"baseline": ("2000", "2001")}, {"held_out_from": "2003-01-01"}):
        with pytest.raises(InputError, match="names dates, and the history has none"):
            fit_prior(samples, training=Training(steps=0, progress=False), **argument)


def test_a_history_of_unknown_place_is_refused() -> None:
    history = mesh().history
    with pytest.raises(GridError, match=r"nothing says where they are; .*pass domain="):
        fit_prior(history, training=Training(steps=0, progress=False))
    with pytest.raises(GridError, match=r"the history has dims \(time: 48, vertex: 162\)"):
        fit_prior(history, sphere(42), training=Training(steps=0, progress=False))
    with pytest.raises(InputError, match="along 'time'"):
        fit_prior(history[0], sphere(162), training=Training(steps=0, progress=False))


def ugrid(array: xr.DataArray, domain: MeshDomain) -> xr.Dataset:
    """Return a data set that holds the mesh beside the array, by UGRID."""
    node = array.dims[-1]
    topology = {
        "cf_role": "mesh_topology",
        "topology_dimension": 2,
        "node_coordinates": "node_x node_y node_z",
        "face_node_connectivity": "faces",
    }
    axes = {f"node_{axis}": (node, domain.vertices[:, i]) for i, axis in enumerate("xyz")}
    faces = (("face", "corner"), domain.faces, {"start_index": 0})
    return xr.Dataset({array.name: array, "mesh": ((), 0, topology), "faces": faces}, axes)


def test_a_prior_of_a_mesh_from_the_shell(tmp_path: Path) -> None:
    domain = sphere(30)
    history = xr.DataArray(fields(domain), {"time": TIME}, ("time", "node"), **NAME)
    ugrid(history, domain).to_netcdf(tmp_path / "history.nc")
    assert read_mesh(tmp_path / "history.nc").domain == domain
    files = [str(tmp_path / name) for name in ("history.nc", "prior")]
    options = ["--variable", "t", "--rank", "3", "--steps", "0"]
    result = CliRunner().invoke(app, ["fit", *files, "--mesh", files[0], *options])
    assert result.exit_code == 0, result.output
    assert FieldPrior.load(files[1]).domain == domain
    result = CliRunner().invoke(app, ["fit", files[0], str(tmp_path / "other"), *options])
    assert result.exit_code == 2
    assert "nothing says where they are" in result.stderr
    (tmp_path / "damaged.nc").write_bytes(b"no netCDF")
    with pytest.raises(InputError, match="cannot be read as netCDF"):
        read_mesh(tmp_path / "damaged.nc")
