"""Priors of histories with gaps: what they keep, what they fill, and what they refuse."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import apsgeo
from apsgeo.errors import InputError, OutlierWarning, SeldomSeenWarning
from apsgeo.gaussian.scales import LocalisedScales
from apsgeo.labels.history.trend import preferred_trend
from apsgeo.labels.quality import Innovations
from apsgeo.labels.records import Records
from apsgeo.measurement import Normals
from apsgeo.measurement.trend import Index, Trend
from apsgeo.operators.linear import IdentityMap
from tests.cases import alike, history, numpy_seeded

HISTORY = history(8)
SCALES = LocalisedScales(0.95, 0.1, 20000.0, 4000.0, 0.01)
HYBRID = apsgeo.HybridScales(eof_weight=0.9, range_km=4000.0, nugget=0.01)


def fit(given: xr.DataArray, **options: Any) -> apsgeo.FieldPrior:
    return apsgeo.fit_prior(
        given, scales=HYBRID, anchor_scales=SCALES, steps=0, progress=False, **options
    )


def cloudy(share: float, seed: int = 1) -> xr.DataArray:
    """Hide a share of the cells of each month in blocks of three by three."""
    rng = numpy_seeded(seed)
    coarse = rng.random((len(HISTORY), 2, 4)) < share
    hidden = coarse.repeat(3, 1).repeat(3, 2)[:, :6, :10]
    return HISTORY.where(~hidden)


@pytest.fixture(scope="module")
def given() -> xr.DataArray:
    return cloudy(0.4)


@pytest.fixture(scope="module")
def prior(given: xr.DataArray) -> apsgeo.FieldPrior:
    return fit(given)


def filled(prior: apsgeo.FieldPrior) -> xr.DataArray:
    assert prior.history is not None
    return prior.history.array


def test_what_was_observed_stays_and_gaps_are_filled_as_the_truth_would(
    prior: apsgeo.FieldPrior, given: xr.DataArray
) -> None:
    completed = filled(prior)
    assert not bool(completed.isnull().any())
    xr.testing.assert_equal(completed.where(given.notnull()), given)
    hidden = given.isnull()
    monthly = HISTORY.groupby("time.month")
    anomaly = monthly - monthly.mean()
    error = float(((completed - HISTORY) ** 2).where(hidden).mean()) ** 0.5
    spread = float((anomaly**2).where(hidden).mean()) ** 0.5
    # A member errs by root two of the posterior's spread: the noise of 0.3, and what gaps hide.
    assert 0.3 < error < 0.75 * spread
    # Members have the variance of fields; the mean of the posterior would have less.
    own = (completed.groupby("time.month") - monthly.mean()).where(hidden)
    assert 0.8 < float((own**2).mean()) ** 0.5 / spread < 1.25


def test_normals_and_predictions_are_about_those_of_the_complete_history(
    prior: apsgeo.FieldPrior,
) -> None:
    complete = fit(HISTORY)
    std = complete.normals.std
    assert float(((prior.normals.mean - complete.normals.mean) / std).abs().mean()) < 0.25
    assert float((prior.normals.std / std).log().abs().mean()) < 0.25
    truth = HISTORY.isel(time=slice(-12, None))
    obs = truth.where(numpy_seeded(3).random(truth.shape) < 0.3)
    scores = []
    for each in (complete, prior):
        posterior = apsgeo.Posterior.of(each, each.anchor, apsgeo.Mask(), noise_std=0.1)
        members = apsgeo.impute(obs, posterior, members=32).compute()
        scores.append(float(((members.mean("member") - truth) ** 2).mean()) ** 0.5)
    assert scores[1] < 1.3 * scores[0]


def test_a_complete_history_gives_what_it_gave(prior: apsgeo.FieldPrior) -> None:
    first, second = fit(HISTORY), fit(HISTORY.assign_attrs(note="the same"))
    assert first.provenance["gaps"] is None
    loadings = [each.anchor.eofs.loadings.float() for each in (first, second)]
    alike(loadings[0], loadings[1], 1000)
    assert prior.provenance["gaps"]["observed"] == pytest.approx(0.6, abs=0.1)
    objective = np.array(prior.provenance["gaps"]["objective"])
    assert np.diff(objective).min() > -1e-9 * np.abs(objective).max()


def test_land_stays_land_and_cells_seen_once_join_it(given: xr.DataArray) -> None:
    shore = given.copy()
    shore[:, 2, 3] = np.nan
    shore[:, 4, 5] = np.nan
    shore[7, 4, 5] = 15.0
    with pytest.warns(SeldomSeenWarning, match="1 cells"):
        found = fit(shore)
    assert (~found.normals.valid).nonzero()[:, 0].tolist() == [23, 45]
    completed = filled(found)
    assert bool(completed[:, 2, 3].isnull().all())
    assert int(completed.isnull().sum()) == 2 * len(completed)


def test_empty_records_are_left_out_and_empty_histories_refused(given: xr.DataArray) -> None:
    empty = given.copy()
    empty[17] = np.nan
    found = fit(empty)
    assert found.history is not None
    assert len(found.history) == len(given) - 1
    with pytest.raises(InputError, match="all are NaN"):
        fit(given.where(False))
    with pytest.raises(InputError, match="infinite"):
        fit(given.where(given.isnull() | (given > -1e9), np.inf).fillna(np.inf))


def test_noise_of_the_history_is_taken_out(given: xr.DataArray) -> None:
    rng = numpy_seeded(8)
    error = xr.where(given["lat"] > 0, 1.5, 0.05).broadcast_like(given).transpose(*given.dims)
    noisy = given + error * rng.standard_normal(given.shape)
    noisy = noisy.assign_attrs(given.attrs)
    per_time = fit(noisy, noise_std=error.where(noisy.notnull()))
    per_cell = fit(noisy, noise_std=error.isel(time=0, drop=True))
    for found in (per_time, per_cell):
        north = (filled(found) - HISTORY).where(noisy.notnull()).sel(lat=slice(90, 0))
        assert float((north**2).mean()) ** 0.5 < 1.2
    with pytest.raises(InputError, match="below zero"):
        fit(noisy, noise_std=-error)


def test_it_distils_and_is_saved(prior: apsgeo.FieldPrior, tmp_path: Path) -> None:
    training: dict[str, Any] = {"steps": 2, "batch": 4, "rounds": 1, "folds": 2, "progress": False}
    posterior = apsgeo.distill(prior, apsgeo.Mask(0.1, 0.5), noise_std=0.1, **training)
    obs = HISTORY.isel(time=slice(2)).where(numpy_seeded(3).random((2, 6, 10)) < 0.3)
    assert bool(apsgeo.impute(obs, posterior, members=2).notnull().all())
    prior.save(tmp_path / "prior")
    again = apsgeo.load(tmp_path / "prior")
    assert isinstance(again, apsgeo.FieldPrior)
    assert again.provenance["gaps"]["patterns"] == prior.provenance["gaps"]["patterns"]
    completed = again.complete(cloudy(0.5, seed=4).isel(time=slice(24)))
    assert not bool(torch.isnan(completed.values).any())
    other = apsgeo.distill(
        again, apsgeo.Mask(0.1, 0.5), noise_std=0.1, history=cloudy(0.5, seed=4), **training
    )
    assert bool(apsgeo.impute(obs, other, members=2).notnull().all())


def test_scales_are_chosen_by_observed_cells(given: xr.DataArray) -> None:
    found = apsgeo.fit_prior(
        given.isel(time=slice(60)), scales=HYBRID, steps=0, progress=False, rank=20
    )
    assert found.anchor.kind == "localised"


def test_a_trend_is_fitted_foretold_and_corrected() -> None:
    warm = HISTORY + 0.1 * (HISTORY["time"].dt.year - 1990)
    warm = warm.astype("float32").assign_attrs(HISTORY.attrs)
    still, moving = fit(warm), fit(warm, trend="linear")
    assert moving.normals.trend is not None
    later = warm.isel(time=slice(0, 12)).assign_coords(
        time=xr.date_range("2011-01-01", periods=12, freq="MS")
    )
    later = later.copy(data=later + 2.1)
    obs = later.where(numpy_seeded(3).random(later.shape) < 0.05)
    bias = []
    for each in (still, moving):
        posterior = apsgeo.Posterior.of(each, each.anchor, apsgeo.Mask(), noise_std=0.1)
        members = apsgeo.impute(obs, posterior, members=16).compute()
        bias.append(float((members.mean("member") - later).mean()))
    assert abs(bias[1]) < 0.5 * abs(bias[0])
    co2 = xr.DataArray(
        np.linspace(0.0, 4.0, 41),
        {"time": xr.date_range("1985-01-01", periods=41, freq="YS")},
        ("time",),
        name="co2",
    )
    indexed = fit(warm, trend=co2)
    assert indexed.normals.trend is not None
    assert indexed.provenance["trend"] == "co2"
    with pytest.raises(InputError, match="covers the history"):
        fit(warm, trend=co2.isel(time=slice(0, 8)))
    with pytest.raises(InputError, match="without dates"):
        fit(warm.rename(time="sample").drop_vars("sample"), trend="linear")
    with pytest.raises(InputError, match="'linear', or an index"):
        fit(warm, trend="cubic")
    y = moving.records(obs).values
    with pytest.raises(InputError, match="pass instant="):
        posterior(y, season=moving.season_of(obs))


def test_held_out_years_choose_a_trend() -> None:
    still = history(20)
    warming = 0.1 * (still["time"].dt.year - 1990)

    def chosen(given: xr.DataArray, held_out_from: str = "2006-01-01") -> str | None:
        records = Records.of(given.astype("float32")).as_history()
        learned, held = records.split(held_out_from)
        normals = Normals.fit(learned.values, learned.season(12), 12)
        return preferred_trend(normals, learned, held, None)

    assert chosen(still + warming) == "linear"
    assert chosen(still) is None
    stopped = warming.where(still["time"].dt.year < 2006, warming.min())
    assert chosen(still + stopped) is None  # it warmed, and is as cold again as at first
    assert chosen(still + warming, "2009-01-01") is None  # a year does not tell


def test_quality_control_knows_the_trend() -> None:
    """A value that is far from the normals of the history is none from what the trend foretells."""
    records = Records.of(HISTORY.isel(time=slice(24))).as_history()
    normals = Normals.fit(records.values, records.season(12), 12)
    year = 365.25 * 86400e6
    index = Index(torch.tensor([0.0, 100.0 * year]), torch.tensor([0.0, 100.0]), extend=True)
    ones = torch.ones(1, 60)
    moving = replace(normals, trend=Trend(ones, index, 0.0, 0.0))
    value = normals.mean[:1, 0].reshape(1, 6, 10).double().numpy()
    value = value + 50.0 * normals.std[:1, 0].reshape(1, 6, 10).double().numpy()
    when = np.array([50.0 * year]), np.array(["then"])
    noise, linear = torch.tensor(0.1), IdentityMap(60)
    still, knows = (
        Innovations.of(records, each, linear, noise, "reject") for each in (normals, moving)
    )
    season = np.array([0])
    kept = knows(value, season, when[1], instant=when[0])
    assert not np.isnan(kept).any()
    with pytest.warns(OutlierWarning):
        assert np.isnan(still(value, season, when[1], instant=when[0])).mean() > 0.5
