"""Dates are found under any name, with bounds and in stacks, and tell the season."""

from __future__ import annotations

import functools
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

from apsgeo.errors import GridError, InputError, OneSeasonWarning
from apsgeo.evaluation import score_ensemble
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.io import read_field, write_netcdf
from apsgeo.labels.channels import as_array, windows
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import fit_prior
from apsgeo.xarray import impute
from tests.cases import alike, history, numpy_seeded

SCALES = HybridScales(range_km=3000.0, eof_weight=0.9)


def fit(fields: xr.DataArray | xr.Dataset, **options: Any) -> FieldPrior:
    return fit_prior(
        fields,
        scales=SCALES,
        anchor_scales=SCALES,
        rank=8,
        training=Training(steps=0, progress=False),
        **options,
    )


@functools.cache
def model() -> Posterior:
    prior = fit(history(5))
    return Posterior.of(prior, prior.anchor, Mask(), noise_std=0.3)


def gappy(count: int = 5) -> xr.DataArray:
    fields = history(6)[60 : 60 + count]
    return fields.where(numpy_seeded(3).random(fields.shape) < 0.2)


@pytest.mark.parametrize("name", ["valid_time", "time_counter", "Time", "T", "t"])
def test_dates_are_found_under_any_name(name: str) -> None:
    prior = fit(history(5).rename(time=name), baseline=("1990", "1992"))
    same = fit(history(5), baseline=("1990", "1992"))
    assert prior.normals.seasons == 12
    torch.testing.assert_close(prior.normals.mean, same.normals.mean, rtol=0, atol=1e-4)
    assert prior.held_out_from == same.held_out_from
    drawn = impute(gappy().rename(time=name), model(), 2)
    assert drawn.dims == ("member", name, "lat", "lon")
    alike(drawn.rename({name: "time"}), impute(gappy(), model(), 2))
    # truth and ensemble may name it otherwise
    truth = history(6)
    whole = impute(gappy(), model(), 3).compute()
    scored = score_ensemble(whole.rename(time=name), truth, gappy(), progress=False)
    assert scored == score_ensemble(whole, truth, gappy(), progress=False)


def test_dates_may_be_a_coordinate_of_another_name() -> None:
    fields = history(5).rename(time="Time")
    along = fields.drop_vars("Time").assign_coords(XTIME=("Time", fields.Time.values))
    torch.testing.assert_close(fit(along).normals.mean, model().normals.mean, rtol=0, atol=1e-4)
    # of a forecast's two dates the standard name says which is meant
    forecast = history(5).assign_coords(
        time=history(5).time - np.timedelta64(40, "D"),
        valid_time=("time", history(5).time.values, {"standard_name": "time"}),
    )
    torch.testing.assert_close(fit(forecast).normals.mean, model().normals.mean, rtol=0, atol=1e-4)
    two = along.assign_coords(other=("Time", fields.Time.values))
    with pytest.raises(InputError, match="several coordinates of dates, XTIME, other; keep"):
        fit(two)


def test_times_without_dates_are_no_samples() -> None:
    numbers = np.arange(60)
    for name in ("time", "valid_time", "time_counter", "Time"):
        with pytest.raises(InputError, match=r"hold no dates.*assign_coords"):
            fit(history(5).assign_coords(time=numbers).rename(time=name))
    assert fit(history(5).assign_coords(time=numbers).rename(time="sample")).normals.seasons == 1


def with_bounds(fields: xr.DataArray, calendar: str | None = None) -> xr.Dataset:
    """Stamp months at their ends, with bounds and cell areas beside the fields."""
    options: dict[str, Any] = {} if calendar is None else {"calendar": calendar}
    ends = xr.date_range("1990-01-01", periods=len(fields) + 1, freq="MS", **options).values
    dataset = fields.assign_coords(time=ends[1:]).to_dataset()
    dataset["time_bnds"] = ("time", "bnds"), np.stack([ends[:-1], ends[1:]], 1)
    dataset["areacella"] = ("lat", "lon"), np.ones((6, 10))
    dataset.time.attrs["bounds"] = "time_bnds"
    dataset.time.encoding = {"units": "days since 1990-01-01"}
    dataset.air.attrs["cell_measures"] = "area: areacella"
    return dataset


@pytest.mark.parametrize("calendar", [None, "noleap", "360_day"])
def test_bounds_tell_the_month(tmp_path: Path, calendar: str | None) -> None:
    dataset = with_bounds(history(5), calendar)
    read = read_field(write_netcdf(dataset, tmp_path / "ended.nc"))
    assert read.name == "air"
    obs = read_field(write_netcdf(with_bounds(gappy(), calendar), tmp_path / "gappy.nc"))
    for each in (read, as_array(dataset).squeeze(drop=True)):
        found = fit(each)
        torch.testing.assert_close(found.normals.mean, model().normals.mean, rtol=0, atol=1e-4)
    first = gappy().assign_coords(time=history(1).time[:5].values)
    members = impute(obs, model(), 400).mean("member")
    # members of other dates are others; only the mean is the same
    expected = impute(first, model(), 400)
    error = 5 * expected.std("member") / 400**0.5 * 2**0.5
    assert (abs(members.values - expected.mean("member").values) < error.values).all()
    assert "time_middle" not in members.coords
    assert impute(obs[0], model(), 2).sizes == {"member": 2, "lat": 6, "lon": 10}


def test_stacked_ensembles_keep_their_dates() -> None:
    runs = xr.concat([history(5), history(5) + 1.0], "run")
    with pytest.raises(GridError, match=r"\.stack\(record=\('run', 'time'\)\)"):
        fit(runs)
    stacked = runs.stack(record=("run", "time"))
    prior = fit(stacked)
    assert prior.normals.seasons == 12
    means = fit(history(5), held_out_from=60).normals.mean + 0.5
    every = fit(stacked, held_out_from=120).normals.mean
    torch.testing.assert_close(every, means, rtol=0, atol=1e-4)
    # what is held out are the last dates of both
    learned, held = prior.split(prior.history.array)  # type: ignore[union-attr]
    assert (len(learned), len(held)) == (108, 12)
    assert held.array.time.values.min() > learned.array.time.values.max()


def test_members_of_a_stacked_ensemble_are_filled_alone() -> None:
    runs = xr.concat([gappy(), gappy() + 1.0], xr.Variable("run", [0, 1]))
    found = impute(runs.stack(record=("run", "time")), model(), 2).unstack("record")
    assert found.sizes == {"member": 2, "lat": 6, "lon": 10, "run": 2, "time": 5}
    expected = impute(gappy(), model(), 2).transpose("member", "lat", "lon", "time")
    alike(found.sel(run=0, drop=True), expected)
    # by another noise: with the same, members would differ by about one everywhere
    difference = found.sel(run=1) - found.sel(run=0)
    assert float(difference.where(gappy().isnull()).std()) > 0.3


def test_repeated_and_unsorted_times_say_how_to_mend_them() -> None:
    twice = xr.concat([history(5), history(5)[:1]], "time")
    with pytest.raises(GridError, match=r"1990-01-01.* 2 times .*drop_duplicates\('time'\)"):
        fit(twice)
    with pytest.raises(GridError, match=r"sortby\('valid_time'\)"):
        fit(history(5)[::-1].rename(time="valid_time"))
    times = history(5).time.values.copy()
    times[4] = np.datetime64("NaT")
    missing = history(5).assign_coords(time=times)
    with pytest.raises(GridError, match=r"missing or infinite in 1 records.*dropna\('time'\)"):
        fit(missing)


def test_less_than_a_year_has_one_season_and_says_so() -> None:
    with pytest.warns(OneSeasonWarning, match="one normal holds for all times"):
        prior = fit(history(1))
    assert "one season" in repr(prior)
    posterior = Posterior.of(prior, prior.anchor, Mask(), noise_std=0.3)
    assert "one season" in repr(posterior)
    assert "12 seasons" in repr(model())
    assert impute(gappy(), posterior, 2).sizes["time"] == 5


def test_expver_is_joined() -> None:
    both = xr.concat([history(3), history(3)], "expver").transpose("time", "expver", "lat", "lon")
    with pytest.raises(GridError, match=r"join them, \.max\('expver'\)"):
        fit(both)


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian"])
def test_scores_go_by_the_date_of_another_calendar(calendar: str) -> None:
    drawn = impute(gappy(), model(), 3).compute()
    expected = score_ensemble(drawn, history(6), gappy(), progress=False)
    truth = history(6).convert_calendar(calendar, align_on="date")
    assert score_ensemble(drawn, truth, gappy(), progress=False) == expected
    stamped = truth.assign_coords(time=truth.time.values + timedelta(5))
    with pytest.raises(InputError, match=rf"\({calendar}\) and others.*stamped otherwise"):
        score_ensemble(drawn, stamped, progress=False)


def test_windows_skip_records_that_are_missing() -> None:
    fields = history(2)
    gap = fields.isel(time=[i for i in range(24) if i != 10])
    found = windows(gap.rename(time="valid_time"), 3)
    months = [i for i in range(1, 23) if i not in (9, 10, 11)]
    np.testing.assert_array_equal(found.valid_time, fields.time[months])
    for lag in (-1, 0, 1):
        expected = fields.values[np.array(months) + lag]
        np.testing.assert_array_equal(found.sel(lag=lag), expected)
    days = fields.assign_coords(
        time=np.datetime64("2000-02-27", "ns") + np.arange(24) * 864 * 10**11
    )
    assert windows(days, 5).sizes["time"] == 20
    with pytest.raises(GridError, match="not equally far apart"):
        windows(days.assign_coords(time=days.time.values + np.arange(24) ** 2 * 10**12), 3)
    with pytest.raises(InputError, match="no 3 records follow on one another"):
        windows(fields.isel(time=[0, 1, 3, 4, 6]), 3)


def daily(calendar: str, step: str, count: int, first: str = "1999-01-01") -> xr.DataArray:
    """Return fields of an annual cycle of amplitude ten, alike in every calendar, and noise."""
    time = xr.date_range(first, periods=count, freq=step, calendar=calendar).values
    days = {"360_day": 360.0, "noleap": 365.0}.get(calendar, 365.2425)
    year = np.arange(count) * {"D": 1, "5D": 5, "7D": 7}[step] / days
    cycle = 10 * np.cos(2 * np.pi * year)[:, None, None]
    noise = numpy_seeded(7).standard_normal((count, 3, 4))
    coords = {"time": time, "lat": [-60.0, 0.0, 60.0], "lon": np.arange(0, 360, 90.0)}
    return xr.DataArray((cycle + noise).astype("f4"), coords, ("time", "lat", "lon"), "air")


@pytest.mark.parametrize("calendar", ["standard", "noleap", "360_day"])
@pytest.mark.parametrize(
    ("step", "count", "seasons"),
    [("D", 1500, 73), ("5D", 300, 73), ("7D", 300, 36)],
)
def test_days_have_a_smooth_annual_cycle(
    calendar: str, step: str, count: int, seasons: int
) -> None:
    fields = daily(calendar, step, count)
    prior = fit(fields, held_out_from=count)
    if (step, calendar) == ("5D", "360_day"):
        seasons = 36  # of 72 pentads some of 73 would have none
    assert prior.normals.seasons == seasons
    year = (np.arange(seasons) + 0.5) / seasons
    expected = 10 * np.cos(2 * np.pi * year)
    # nine of the harmonics' numbers are fitted to noise of deviation one
    error = prior.normals.mean[:, 0].numpy() - expected[:, None]
    assert abs(error).max() < 5 * (9 / count) ** 0.5 + 0.1
    # Five standard errors of pentads in 36 parts, smoothed over 7.5 of them: of 62 records.
    np.testing.assert_allclose(prior.normals.std.numpy(), 1.0, atol=5 / (2 * 62) ** 0.5)


def test_days_at_the_ends_of_months_are_not_those_amid() -> None:
    prior = fit(daily("standard", "D", 1500))
    posterior = Posterior.of(prior, prior.anchor, Mask(), noise_std=0.3)
    obs = daily("standard", "D", 70, "2004-02-20")  # over a leap day
    truth = 10 * np.cos(2 * np.pi * (np.arange(70) + 50) / 366)
    none = obs.where(obs.lat > 90).chunk(time=7)
    with pytest.warns(UserWarning, match="nothing was observed"):
        mean = impute(none, posterior, 200).mean(["member", "lat", "lon"]).compute()
    # a month's mean is up to 2.7 off at its ends; five days are off by 0.45
    spread = 5 / (200 * 12) ** 0.5 * 1.5
    assert abs(mean.values - truth).max() < 0.45 + 0.35 + spread


@pytest.mark.parametrize(("step", "hours", "seasons"), [(1, 8, 192), (6, 4, 144), (12, 2, 72)])
def test_the_hour_of_the_day_is_a_season_too(step: int, hours: int, seasons: int) -> None:
    count = 800 * 24 // step
    time = xr.date_range("1999-01-01", periods=count, freq=f"{step}h").values
    hour, day = np.divmod(np.arange(count) * step, 24)[::-1]
    part = hour * hours // 24
    cycle = 10 * np.cos(2 * np.pi * day / 365.2425) + 3 * part
    noise = numpy_seeded(8).standard_normal((count, 3, 4))
    coords = {"time": time, "lat": [-60.0, 0.0, 60.0], "lon": np.arange(0, 360, 90.0)}
    values = (cycle[:, None, None] + noise).astype("f4")
    prior = fit(xr.DataArray(values, coords, ("time", "lat", "lon"), "air"), held_out_from=count)
    assert prior.normals.seasons == seasons
    mean = prior.normals.mean[:, 0].reshape(seasons // hours, hours, 12)
    parts = len(mean)
    year = 10 * np.cos(2 * np.pi * (np.arange(parts) + 0.5) / parts)
    error = mean.numpy() - (year[:, None] + 3 * np.arange(hours))[:, :, None]
    assert abs(error).max() < 5 * (9 * hours / count) ** 0.5 + 0.2


def test_the_number_of_seasons_may_be_asked_for() -> None:
    days = daily("standard", "D", 800)
    assert [fit(days, seasons=number).normals.seasons for number in (1, 12, 36)] == [1, 12, 36]
    with pytest.raises(InputError, match=r"seasons=4 given; expected one of \[1, 12, 36"):
        fit(days, seasons=4)
    with pytest.raises(InputError, match="seasons=73 given, and .* where two are needed"):
        fit(history(5), seasons=73)
