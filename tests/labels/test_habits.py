"""What xarray's users hand in out of habit: each gives the right members, or says what is wrong."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pandas as pd
import pytest
import xarray as xr

import apsgeo
from apsgeo.errors import (
    ApsgeoError,
    GridError,
    InputError,
    LostBoundsWarning,
    OutlierWarning,
    ShorterStepsWarning,
)
from apsgeo.files.cf import writable_attr
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.io import write_netcdf
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from tests.cases import alike, history, numpy_seeded

Change = Callable[[xr.DataArray], Any]
SCALES = HybridScales(0.5, 3000.0, 0.05)


@pytest.fixture(scope="module")
def months() -> xr.DataArray:
    return history(20)


@pytest.fixture(scope="module")
def model(months: xr.DataArray) -> Posterior:
    options: Any = {"scales": SCALES, "anchor_scales": SCALES, "rank": 4, "steps": 0}
    prior = apsgeo.fit_prior(months, memory=False, progress=False, **options)
    return Posterior.of(prior, VecchiaPrior(prior.anchor), Mask(), 0.3)


@pytest.fixture(scope="module")
def obs(months: xr.DataArray) -> xr.DataArray:
    return months[:4].where(numpy_seeded(1).random((4, 6, 10)) < 0.4)


def west(obs: xr.DataArray) -> xr.DataArray:
    return obs.assign_coords(lon=(obs.lon + 180) % 360 - 180).sortby("lon")


def curvilinear(obs: xr.DataArray) -> xr.DataArray:
    lat, lon = xr.broadcast(obs.lat, obs.lon)
    places = {"lat": (("y", "x"), lat.values), "lon": (("y", "x"), lon.values)}
    return obs.rename(lat="y", lon="x").drop_vars(["y", "x"]).assign_coords(places)


SAME: dict[str, Change] = {
    "latitude the other way": lambda o: o[:, ::-1],
    "longitudes from -180": west,
    "time last": lambda o: o.transpose("lat", "lon", "time"),
    "big-endian": lambda o: o.astype(">f4"),
    "float64": lambda o: o.astype("f8"),
    "Celsius": lambda o: o.assign_attrs(units="Celsius"),
    "units of bytes": lambda o: o.assign_attrs(units=b"degC"),
    "attributes of numpy": lambda o: o.assign_attrs(units=np.str_("degC"), a=np.float32(1)),
    "scalar coordinates": lambda o: o.assign_coords(height=2.0, run="a"),
    "chunks that cut cells": lambda o: o.chunk(time=3, lat=2, lon=7),
    "masked array": lambda o: xr.DataArray(
        np.ma.masked_invalid(o.values), o.coords, o.dims, o.name, o.attrs
    ),
    "data set": lambda o: o.to_dataset(),
    "no name": lambda o: o.rename(None),
    "latitudes in single precision": lambda o: o.assign_coords(lat=o.lat.astype("f4")),
    "coordinates rounded when written": lambda o: o.assign_coords(lat=o.lat - 0.2, lon=o.lon + 0.1),
    "latitudes as integers": lambda o: o.assign_coords(lat=o.lat.astype(int)),
    "some more coordinates": lambda o: o.assign_coords(
        mask=(("lat", "lon"), np.ones((6, 10), bool))
    ),
    "mid-month": lambda o: o,
}


@pytest.mark.parametrize("case", SAME)
def test_members_are_the_same(model: Posterior, obs: xr.DataArray, case: str) -> None:
    expected = apsgeo.impute(obs, model, 3).compute()
    found = apsgeo.impute(SAME[case](obs), model, 3).compute()
    found = found["air"] if isinstance(found, xr.Dataset) else found
    found = found.assign_coords(lon=found.lon % 360).sortby("lon").sortby("lat", ascending=False)
    found = found.transpose(*expected.dims)
    # float64 members are of the same float32 numbers; the sums are laid out otherwise
    alike(found.values.astype(np.float32), expected.values, 64)


BAD: dict[str, tuple[Change, type[ApsgeoError], str]] = {
    "complex": (lambda o: o.astype("c8"), InputError, "dtype complex64"),
    "truth": (lambda o: o.notnull(), InputError, "dtype bool"),
    "text": (lambda o: o.astype(str), InputError, "has dtype <U"),
    "objects": (lambda o: o.astype(object), InputError, "has dtype object"),
    "kelvin": (lambda o: o.assign_attrs(units="K"), ApsgeoError, r"use \(obs - 273.15\)"),
    "metres": (lambda o: o.assign_attrs(units="m"), ApsgeoError, "units 'm'"),
    "same time twice": (lambda o: o.isel(time=[0, 0]), GridError, "holds 1990-01-01.* 2 times"),
    "times out of order": (lambda o: o.isel(time=[1, 0, 2]), GridError, "neither ascends nor"),
    "time zone": (
        lambda o: o.assign_coords(time=pd.DatetimeIndex(o.time.to_index()).tz_localize("UTC")),
        InputError,
        r"times with a time zone, datetime64\[.*UTC\]",
    ),
    "periods": (
        lambda o: o.assign_coords(time=pd.PeriodIndex(o.time.to_index(), freq="M")),
        InputError,
        "has no dates",
    ),
    "dates as text": (
        lambda o: o.assign_coords(time=o.time.dt.strftime("%Y-%m").values),
        InputError,
        "has no dates",
    ),
    "missing date": (
        lambda o: o.assign_coords(time=[np.datetime64("NaT"), *o.time.values[1:]]),
        GridError,
        "missing or infinite in 1 records",
    ),
    "months as numbers": (
        lambda o: o.assign_coords(time=[199001, 199002, 199003, 199004]),
        InputError,
        "but 199001",
    ),
    "two levels of time": (
        lambda o: o.assign_coords(
            year=("time", o.time.dt.year.values), month=("time", o.time.dt.month.values)
        ).set_index(time=["year", "month"]),
        InputError,
        "has no dates",
    ),
    "stacked cells": (lambda o: o.stack(cell=("lat", "lon")), GridError, r"\.unstack\('cell'\)"),
    "radians": (
        lambda o: o.assign_coords(lat=np.deg2rad(o.lat).values, lon=np.deg2rad(o.lon).values),
        GridError,
        "the globe in radians",
    ),
    "curvilinear": (lambda o: curvilinear(o), GridError, "curvilinear or rotated grid.: regrid"),
    "times not decoded": (
        lambda o: o.assign_coords(time=("time", [0, 31, 59, 90], {"units": "days since 1990"})),
        InputError,
        "decode_cf",
    ),
    "one value": (lambda o: o[0, 0, 0], GridError, "no single latitude"),
    "one series": (lambda o: o[:, 0, 0], GridError, "no single latitude"),
    "no times": (lambda o: o[:0], InputError, "has no record"),
    "no latitudes": (lambda o: o.drop_vars("lat"), GridError, "no single latitude"),
    "latitude missing": (
        lambda o: o.assign_coords(lat=[np.nan, *o.lat.values[1:]]),
        GridError,
        "1 non-finite",
    ),
    "first column again": (
        lambda o: xr.concat([o, o[..., :1].assign_coords(lon=[360.0])], "lon"),
        GridError,
        "columns that are given twice",
    ),
    "part of the globe": (lambda o: o[:, :3], GridError, "put NaN elsewhere, obs.reindex"),
    "coarser": (lambda o: o.coarsen(lat=2, lon=2).mean(), GridError, "CellMeans"),
    "another grid": (lambda o: o.assign_coords(lon=o.lon + 1.0), GridError, "interpolate one to"),
    "other variable": (lambda o: o.rename("q").to_dataset(), InputError, "rename.*'q': 'air'"),
    "numbers alone": (lambda o: o.values, InputError, "obs is a ndarray"),
    "a path": (lambda o: "obs.nc", InputError, "obs is a str"),
    "a series of pandas": (lambda o: o.to_series(), InputError, "obs is a Series"),
    "a tree": (lambda o: xr.DataTree(o.to_dataset()), InputError, "obs is a DataTree"),
    "nothing": (lambda o: None, InputError, "obs is a NoneType"),
    "infinite": (lambda o: o.where(o < 20, np.inf), InputError, "infinite values"),
    "packed": (lambda o: o.assign_attrs(scale_factor=0.1), InputError, "its values are packed"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_used_is_refused(model: Posterior, obs: xr.DataArray, case: str) -> None:
    change, error, match = BAD[case]
    with pytest.raises(error, match=match):
        apsgeo.impute(change(obs), model, 2)


def test_records_of_shorter_steps_are_no_means_over_months(
    model: Posterior, obs: xr.DataArray
) -> None:
    days = obs.assign_coords(time=xr.date_range("1990-01-01", periods=4))
    with pytest.warns(ShorterStepsWarning, match=r"records 1 days apart, .* 30\.\d days apart"):
        apsgeo.impute(days, model, 2)
    with warnings.catch_warnings():  # all Januaries are months of the same kind
        warnings.simplefilter("error", ShorterStepsWarning)
        apsgeo.impute(obs.assign_coords(time=xr.date_range("1990", periods=4, freq="YS")), model, 2)
        apsgeo.impute(obs[:1], model, 2)


def test_the_bounds_of_months_that_are_stamped_at_their_ends(
    model: Posterior, obs: xr.DataArray
) -> None:
    starts = obs.time.values
    ends = xr.date_range("1990-02-01", periods=4, freq="MS").values
    whole = obs.assign_coords(time=("time", ends, {"bounds": "time_bnds"})).to_dataset()
    whole["time_bnds"] = ("time", "bnds"), np.stack([starts, ends], 1)
    with pytest.warns(LostBoundsWarning, match="such as 1990-02-01.*'time_bnds'"):
        apsgeo.impute(whole["air"], model, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error", LostBoundsWarning)
        found = apsgeo.impute(whole, model, 64)["air"]
        middles = obs.assign_coords(time=("time", starts + np.timedelta64(14, "D")))
        middles.time.attrs["bounds"] = "time_bnds"  # lost, and not needed
        expected = apsgeo.impute(middles, model, 64)
    spread = expected.std("member").values  # the same months; other members, by other dates
    away = np.abs(found.mean("member").values - expected.mean("member").values)
    assert (away < 7 * spread / np.sqrt(32) + 1e-3).all()


def test_zeros_on_land_are_told(months: xr.DataArray) -> None:
    options: Any = {"scales": SCALES, "anchor_scales": SCALES, "rank": 4, "steps": 0}
    options |= {"memory": False, "progress": False}
    land = months.lon > 300
    with pytest.warns(
        OutlierWarning, match="6 cells that are exactly 0 at all times, such as lat="
    ):
        apsgeo.fit_prior(months.where(~land, 0.0), **options)
    rain = (months.where(~land, 0.0) - 15).clip(min=0).assign_attrs(units="mm")
    with warnings.catch_warnings():  # where it never rains is no land
        warnings.simplefilter("error", OutlierWarning)
        apsgeo.fit_prior(rain, **options)


@pytest.mark.parametrize("calendar", ["noleap", "360_day", "julian", "all_leap"])
def test_calendars_have_the_same_months(model: Posterior, obs: xr.DataArray, calendar: str) -> None:
    dates = [cftime.datetime(1990, month, 1, calendar=calendar) for month in (1, 2, 3, 4)]
    found = apsgeo.impute(obs.assign_coords(time=dates), model, 64)
    expected = apsgeo.impute(obs, model, 64)
    # other members (their keys are other numbers) of the same posterior
    spread = expected.std("member").values
    away = np.abs(found.mean("member").values - expected.mean("member").values)
    assert (away < 7 * spread / np.sqrt(32) + 1e-3).all()


def test_files_hold_attributes_of_any_type(obs: xr.DataArray, tmp_path: Path) -> None:
    odd: dict[str, Any] = {
        "a": True,
        "b": None,
        "c": [1, "x"],
        "d": {"k": 1},
        "e": np.datetime64("2000-01-01"),
    }
    odd |= {
        "f": np.bool_(False),
        "g": [1, 2],
        "h": ["x", "y"],
        "i": np.float32(2),
        "j": [[1], [2, 3]],
    }
    whole = obs.assign_attrs(odd).assign_coords(lat=obs.lat.assign_attrs(odd)).to_dataset()
    path = write_netcdf(whole.assign_attrs(odd), tmp_path / "odd.nc")
    with xr.open_dataset(path) as found:
        for attrs in (found.attrs, found.air.attrs, found.lat.attrs):
            assert (attrs["a"], attrs["b"], attrs["f"]) == (1, "None", 0)
            assert attrs["e"].startswith("2000-01-01")
            assert list(attrs["g"]) == [1, 2]
            assert attrs["h"] == ["x", "y"]
    assert writable_attr("text") == "text"


def test_a_name_with_a_slash_is_no_name_in_a_file(obs: xr.DataArray, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'a/b' has a slash in its name"):
        write_netcdf(obs.rename("a/b"), tmp_path / "out.nc")
    assert not list(tmp_path.iterdir())
