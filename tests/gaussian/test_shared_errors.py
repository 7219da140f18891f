"""Errors that observations share: a posterior with a noise covariance that is not diagonal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch
import xarray as xr

import apsgeo
from apsgeo.errors import GridError, InputError
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.shared.posterior import WithSharedErrors, _chosen
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.labels.shared import SharedError
from apsgeo.measurement import Measurement
from apsgeo.operators import Mask, PointSample
from apsgeo.operators.linear import LinearMap
from apsgeo.posterior import Posterior
from tests.cases import alike, history, noise, numpy_seeded, seeded

Array = Any
NOISE = 0.3
SCALES = HybridScales(0.5, 3000.0, 0.05)


@pytest.fixture(scope="module")
def months() -> xr.DataArray:
    return history(20)


@pytest.fixture(scope="module")
def prior(months: xr.DataArray) -> apsgeo.FieldPrior:
    options: Any = {"scales": SCALES, "anchor_scales": SCALES, "rank": 4, "steps": 0}
    return apsgeo.fit_prior(months, memory=False, progress=False, **options)


def dense(
    prior: SeasonalPrior, season: int, a: Array, r: Array, b: Array, y: Array
) -> tuple[Array, Array]:
    """Mean and covariance of x given y = A x + B b + n, by dense matrices in float64."""
    gaussian = prior.at(season)
    every = np.arange(gaussian.size)
    c = gaussian.covariance(every, every)
    gain = c @ a.T @ np.linalg.inv(a @ c @ a.T + np.diag(r**2) + b @ b.T)
    return gain @ y, c - gain @ a @ c


def measured(
    linear: LinearMap, count: int, width: int, seed: int = 0
) -> tuple[Measurement, list[Array]]:
    """Measurements of two records whose errors are shared, and their loadings."""
    values = noise(2, 1, linear.num_observations, seed=seed)
    mask = torch.rand(2, 1, linear.num_observations, generator=seeded(seed + 1)) < count
    rng = numpy_seeded(seed)
    loadings = [rng.normal(size=(linear.num_observations, width)) for _ in range(2)]
    each = NOISE + torch.rand(2, 1, linear.num_observations, generator=seeded(seed + 2)).double()
    measurement = Measurement(
        values,
        mask,
        each,
        operator=linear,
        season=torch.tensor([0, 6]),
        key=torch.tensor([5, 9]),
        shared=tuple(sp.csr_array(b) for b in loadings),
    )
    return measurement, loadings


POINTS = PointSample(
    tuple((lat, lon) for lat in (-60.0, -10.0, 33.0) for lon in (3.0, 77.0, 200.0))
)


@pytest.mark.parametrize("operator", [Mask(), POINTS])
@pytest.mark.parametrize("exact", [True, False])
def test_moments_are_those_of_dense_matrices(
    prior: apsgeo.FieldPrior, operator: Any, exact: bool
) -> None:
    anchor = prior.anchor
    linear = operator.on(prior.domain)
    measurement, loadings = measured(linear, 1 if operator is POINTS else 0.5, 3)  # type: ignore[arg-type]
    # On so small a domain the local method is given everything, and is exact to its jitter.
    many = VecchiaPrior(anchor, observations=60, before=60)
    method: Any = anchor if exact else many
    draws = WithSharedErrors(method, method).posterior(measurement)
    matrix = np.asarray(linear.to_matrix().toarray())
    for i, b in enumerate(loadings):
        seen = measurement.mask[i, 0].numpy()
        r, y = (each[i, 0].numpy()[seen] for each in (measurement.noise_std, measurement.values))
        mean, covariance = dense(anchor, [0, 6][i], matrix[seen], r, b[seen], y)
        variance = np.diag(covariance)
        slack = 1e-6 if exact else 2e-3  # of float32, and of a share of 1e-5 of white noise
        assert np.abs(draws.mean[i, 0].numpy() - mean).max() < slack * np.abs(mean).max()
        if draws.marginal_std is not None:
            found = draws.marginal_std[i, 0].numpy() ** 2
            assert np.abs(found - variance).max() < 1e-3 * variance.max()
    count = 6000
    members = draws.members(count, seed=1).double().numpy()[:, :, 0]
    for i, b in enumerate(loadings):
        seen = measurement.mask[i, 0].numpy()
        r, y = (each[i, 0].numpy()[seen] for each in (measurement.noise_std, measurement.values))
        mean, covariance = dense(anchor, [0, 6][i], matrix[seen], r, b[seen], y)
        found = np.cov(members[:, i].T)
        # six standard errors of a mean, and of a covariance of normal numbers
        std = np.sqrt(np.diag(covariance))
        assert (np.abs(members[:, i].mean(0) - mean) < 6 * std / np.sqrt(count) + 5e-3).all()
        error = np.sqrt((covariance**2 + np.outer(std, std) ** 2) / count)
        assert (np.abs(found - covariance) < 6 * error + 5e-3).all()


def test_members_do_not_depend_on_batches(prior: apsgeo.FieldPrior) -> None:
    linear = Mask().on(prior.domain)
    measurement, _ = measured(linear, 0.5, 2)  # type: ignore[arg-type]
    method = WithSharedErrors(VecchiaPrior(prior.anchor), VecchiaPrior(prior.anchor))
    whole = method.posterior(measurement)
    members = whole.members(8, seed=3)
    alike(torch.cat([*whole.batches(8, 3, size=3)]), members, 4000)
    alike(torch.cat([*whole.batches(5, 3, size=5, first=3)]), members[3:], 4000)
    alike(method.posterior(measurement[1:]).members(8, seed=3), members[:, 1:], 4000)


def test_rare_kinds_of_observations_are_all_chosen() -> None:
    """Ten buoys without an error say more of it than thousands of rows that have it."""
    label = np.r_[np.zeros(5000, int), np.full(3000, 1)]
    loadings = sp.coo_array((np.ones(8000), (np.arange(8000), label)), shape=(8010, 2)).tocsr()
    chosen = _chosen(loadings)
    assert len(chosen) == 1024
    assert (chosen >= 8000).sum() == 10
    counts = (chosen < 5000).sum(), ((chosen >= 5000) & (chosen < 8000)).sum()
    assert abs(int(counts[0]) - int(counts[1])) <= 1


def test_no_shared_error_is_no_other_posterior(
    prior: apsgeo.FieldPrior, months: xr.DataArray
) -> None:
    model = Posterior.of(prior, VecchiaPrior(prior.anchor), Mask(), NOISE)
    obs = months[:3].where(numpy_seeded(1).random((3, 6, 10)) < 0.4)
    plain = apsgeo.impute(obs, model, members=3).compute()
    nothing = apsgeo.impute(obs, model, members=3, shared_error=SharedError(0.0)).compute()
    alike(nothing, plain, 4000)


@pytest.fixture
def swath(months: xr.DataArray) -> xr.DataArray:
    """A month with two swaths, of which one is too warm, and cells without one."""
    obs = months[[240 - 12]].where(numpy_seeded(2).random((6, 10)) < 0.7)
    label = xr.where(obs.lon < 180, "first", "second").expand_dims(lat=obs.lat)
    label = label.where(np.abs(label.lat) < 60, "").transpose("lat", "lon")
    obs = obs.assign_coords(swath=label)
    return (obs + 5.0 * (obs.swath == "first")).assign_attrs(months.attrs)


@pytest.mark.parametrize("exact", [True, False])
def test_a_bias_of_a_swath_is_found_and_taken_off(
    prior: apsgeo.FieldPrior, months: xr.DataArray, swath: xr.DataArray, exact: bool
) -> None:
    method: Any = prior.anchor if exact else VecchiaPrior(prior.anchor)
    model = Posterior.of(prior, method, Mask(), NOISE)
    truth = months[[240 - 12]]
    error = {
        name: float(
            np.sqrt(
                (
                    (apsgeo.impute(swath, model, 64, shared_error=e).mean("member") - truth) ** 2
                ).mean()
            )
        )
        for name, e in {"none": None, "swath": SharedError(5.0, by="swath")}.items()
    }
    assert error["swath"] < 0.5 * error["none"]


def test_labels_are_by_cell_by_time_or_both(prior: apsgeo.FieldPrior, months: xr.DataArray) -> None:
    """One error of everything is one label, however it is given."""
    model = Posterior.of(prior, VecchiaPrior(prior.anchor), Mask(), NOISE)
    obs = months[:3].where(numpy_seeded(3).random((3, 6, 10)) < 0.4)
    expected = apsgeo.impute(obs, model, 3, shared_error=SharedError(1.0)).compute()
    cells = xr.ones_like(obs[0], dtype=int).drop_vars("time")
    times = xr.DataArray(["a", "b", "c"], {"time": obs.time}, "time")
    both = xr.ones_like(obs) * xr.DataArray([1.0, 2.0, 3.0], {"time": obs.time}, "time")
    for by in (cells, times, both.transpose("lon", "time", "lat"), cells[::-1][::-1]):
        found = apsgeo.impute(obs, model, 3, shared_error=SharedError(1.0, by=by))
        alike(found.compute(), expected, 4000)
        named = obs.assign_coords(platform=by)
        found = apsgeo.impute(
            named.chunk(time=2), model, 3, shared_error=SharedError(1.0, "platform")
        )
        alike(found.drop_vars("platform").compute(), expected, 4000)
    with pytest.raises(GridError, match="have other coordinates than obs"):
        apsgeo.impute(obs, model, shared_error=SharedError(1.0, by=cells[::-1]))


def test_a_flow_takes_shared_errors(prior: apsgeo.FieldPrior, swath: xr.DataArray) -> None:
    """An untrained flow is the Gaussian that it starts from, with and without them."""
    spec = CouplingSpec(base="local", width=4, depth=1, context=4)
    flow = apsgeo.distill(
        prior, Mask(), NOISE, spec=spec, steps=0, folds=2, rounds=1, progress=False
    )
    flow.flow.spread.zero_()
    model = Posterior.of(prior, VecchiaPrior(prior.anchor), Mask(), NOISE)
    error = SharedError({"first": 5.0}, by="swath")
    found = apsgeo.impute(swath, flow, 4, shared_error=error)
    expected = apsgeo.impute(swath, model, 4, shared_error=error)
    alike(found.values, expected.values, 20_000)


def table(months: xr.DataArray) -> pd.DataFrame:
    rng = numpy_seeded(4)
    lat, lon = np.linspace(-40, 40, 25), np.linspace(10, 60, 25)
    time = pd.Timestamp("2000-06-01") + pd.to_timedelta(np.arange(25), "h")
    track = pd.DataFrame({"time": time, "lat": lat, "lon": lon, "instrument": "radar"})
    buoys = pd.DataFrame(
        {
            "time": pd.Timestamp("2000-06-02"),
            "lat": rng.uniform(-60, 60, 10),
            "lon": rng.uniform(0, 360, 10),
            "instrument": "buoy",
        }
    )
    both = pd.concat([track, buoys], ignore_index=True)
    return both.assign(air=15.0 + rng.standard_normal(35), error=NOISE)


@pytest.mark.parametrize("length", [None, 800.0])
def test_rows_of_an_instrument_share_an_error(
    prior: apsgeo.FieldPrior, months: xr.DataArray, length: float | None
) -> None:
    """The mean and the spread are those of dense matrices, also along a track."""
    model = Posterior.of(prior, prior.anchor, Mask(), NOISE)
    frame = table(months)
    error = SharedError({"radar": 2.0}, "instrument", length)
    count = 3000
    shuffled = frame.sample(frac=1, random_state=1)
    members = apsgeo.impute(shuffled, model, count, shared_error=error)[:, 0]
    points = frame[["lat", "lon"]].to_numpy()
    a = PointSample(tuple(map(tuple, points.tolist()))).on(prior.domain).to_matrix()
    assert a is not None
    std, mean = (each[5, 0].double().numpy() for each in (prior.normals.std, prior.normals.mean))
    lat, lon = np.deg2rad(points.T)
    unit = np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], 1)
    step = 6371.0 * np.arccos(np.clip((unit[1:25] * unit[:24]).sum(1), -1, 1))
    along = np.r_[0.0, np.cumsum(step)]
    correlation = 1.0 if length is None else np.exp(-np.abs(along[:, None] - along) / length)
    shared = np.zeros((35, 35))
    shared[:25, :25] = 4.0 * correlation
    gaussian = prior.anchor.at(5)
    every = np.arange(gaussian.size)
    c = std[:, None] * gaussian.covariance(every, every) * std
    dense_a = a.toarray()
    gain = c @ dense_a.T @ np.linalg.inv(dense_a @ c @ dense_a.T + NOISE**2 * np.eye(35) + shared)
    expected = mean + gain @ (frame.air.to_numpy() - dense_a @ mean)
    variance = np.diag(c - gain @ dense_a @ c)
    found = members.values.reshape(count, -1).astype(np.float64)
    assert (np.abs(found.mean(0) - expected) < 6 * np.sqrt(variance / count) + 1e-3).all()
    assert (np.abs(found.var(0) / variance - 1) < 6 * np.sqrt(2 / count) + 1e-3).all()


def test_long_tracks_are_interpolated_between_knots() -> None:
    lon = np.linspace(0, 90, 2000)
    place = np.stack([np.cos(np.deg2rad(lon)), np.sin(np.deg2rad(lon)), np.zeros(2000)], 1)
    error = SharedError(1.0, length_km=500.0)
    loadings = error.along_tracks(np.zeros(2000, int), np.ones(1), place)
    assert loadings.shape[1] < 512
    covariance = (loadings @ loadings.T).toarray()
    along = 6371.0 * np.deg2rad(lon)
    expected = np.exp(-np.abs(along[:, None] - along) / 500.0)
    # exponentials bend at zero distance, over the step of knots, a fourth of the length
    assert np.abs(covariance - expected).max() < 0.13
    assert np.abs(covariance - expected).mean() < 0.01


@pytest.mark.parametrize(
    ("error", "match"),
    [
        (SharedError(1.0, by="satellite"), "no coordinate 'satellite'; it has time, lat, lon"),
        (SharedError(1.0, by=xr.DataArray([1, 2], dims="run")), r"have the dims \('run',\)"),
        (SharedError(1.0, length_km=100.0), "along a track, which fields have none of"),
        (SharedError({"x": 1.0}, by="lat"), "deviations for x, and the labels of 'lat' are"),
        ("instrument", "shared_error='instrument' given; expected apsgeo.SharedError"),
    ],
)
def test_what_cannot_be_is_refused(
    prior: apsgeo.FieldPrior, months: xr.DataArray, error: Any, match: str
) -> None:
    model = Posterior.of(prior, VecchiaPrior(prior.anchor), Mask(), NOISE)
    obs = months[:1].where(months[:1].lat > 0)
    with pytest.raises(InputError, match=match):
        apsgeo.impute(obs, model, shared_error=error)


def test_bad_errors_are_refused(prior: apsgeo.FieldPrior, months: xr.DataArray) -> None:
    for std in (-1.0, np.nan, "x", {"a": -1.0}, True):
        with pytest.raises(InputError, match="give a standard deviation of at least 0"):
            SharedError(std)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="give a length above 0"):
        SharedError(1.0, length_km=0.0)
    model = Posterior.of(prior, VecchiaPrior(prior.anchor), Mask(), NOISE)
    frame = table(months)
    with pytest.raises(InputError, match="no column 'platform' that tells who shares an error"):
        apsgeo.impute(frame, model, 2, shared_error=SharedError(1.0, "platform")).compute()
    with pytest.raises(InputError, match="needs a model"):
        apsgeo.impute(months[:1].where(months.lat > 0), shared_error=SharedError(1.0))
    with pytest.raises(InputError, match=r"shared= has 1 loadings"):
        Measurement(
            torch.zeros(1, 1, 4),
            torch.ones(1, 1, 4, dtype=torch.bool),
            torch.ones(()),
            shared=(sp.csr_array((3, 1)),),
        )
