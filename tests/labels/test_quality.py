"""Values that cannot be are found before they ruin a field, and the user is told where they are."""

from __future__ import annotations

import functools
import tracemalloc
import warnings
from typing import Any

import dask
import dask.array as da
import healpy
import numpy as np
import pytest
import xarray as xr

from apsgeo.distillation.distill import distill
from apsgeo.domains import HEALPixDomain
from apsgeo.errors import ApsgeoWarning, InputError, OnLandWarning, OutlierWarning
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.labels import quality
from apsgeo.labels.healpix import label_healpix
from apsgeo.labels.quality import checked_history, is_fill
from apsgeo.labels.records import Records
from apsgeo.operators import Downsample, Mask, OneOf
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import fit_prior
from apsgeo.xarray import impute
from tests.cases import alike, history, numpy_seeded

SCALES = HybridScales(range_km=3000.0, eof_weight=0.9)
FILLS = [-9999.0, 1e20, -1.6e30, healpy.UNSEEN, 9.96921e36, -32768.0]


def fit(fields: xr.DataArray, **options: Any) -> FieldPrior:
    settings = Training(steps=0, progress=False)
    known = {"scales": SCALES, "anchor_scales": SCALES, "rank": 8, "training": settings}
    return fit_prior(fields, **(known | options))  # type: ignore[arg-type]


@functools.cache
def model() -> Posterior:
    prior = fit(history(5))
    return Posterior.of(prior, prior.anchor, OneOf((Mask(), Downsample(2))), noise_std=0.3)


def drawn(obs: xr.DataArray, **options: Any) -> xr.DataArray:
    return impute(obs, model(), 3, operator=Mask(), **options)


def gappy() -> xr.DataArray:
    fields = history(6)[-5:]
    return fields.where(numpy_seeded(3).random(fields.shape) < 0.3)


def spoiled(value: float) -> tuple[xr.DataArray, xr.DataArray, str]:
    """Return observations with one wrong value, those without it, and the name of the place."""
    obs = gappy().copy()
    at = tuple(np.argwhere(obs.notnull().values)[7])
    right = obs.copy()
    right[at] = np.nan
    obs[at] = value
    where = f"lat={obs.lat.values[at[1]]:g}, lon={obs.lon.values[at[2]]:g}, "
    return obs, right, where + str(obs.time.values[at[0]])[:10]


def test_good_observations_make_no_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", ApsgeoWarning)
        alike(drawn(gappy()).compute(), drawn(gappy(), quality_control="off").compute())
        fit(history(5))


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("value", FILLS)
def test_a_fill_value_among_observations_is_missing(value: float, lazy: bool) -> None:
    obs, right, where = spoiled(value)
    obs = obs.chunk(time=2) if lazy else obs
    with pytest.warns(OutlierWarning, match=rf"far .* degC at {where}.*No such"):
        found = drawn(obs).compute()
    alike(found, drawn(right).compute())


def test_an_outlier_is_flagged_or_rejected_or_taken() -> None:
    obs, right, where = spoiled(gappy().mean().item() + 50 * 2.5)
    with pytest.warns(OutlierWarning, match=rf"at {where}.*They are used all the same"):
        flagged = drawn(obs).compute()
    with pytest.warns(OutlierWarning, match=rf"at {where}.*They are left out"):
        rejected = drawn(obs, quality_control="reject").compute()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        taken = drawn(obs, quality_control="off").compute()
    alike(flagged, taken)
    alike(rejected, drawn(right).compute())
    assert float(abs(taken - rejected).max()) > 10
    with pytest.raises(InputError, match="quality_control='drop' given; expected one of flag"):
        drawn(obs, quality_control="drop")


def test_values_are_compared_with_noise_and_through_the_operator() -> None:
    obs = spoiled(gappy().mean().item() + 50 * 2.5)[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        drawn(obs, noise_std=30.0).compute()
        coarse = history(6)[-5:].coarsen(lat=2, lon=2).mean()
        impute(coarse, model(), 2, operator=Downsample(2)).compute()
    wrong = coarse.copy()
    wrong[2, 1, 3] = 999.0
    with pytest.warns(OutlierWarning, match="999 degC at lat=0.*No such value"):
        found = impute(wrong, model(), 2, operator=Downsample(2)).compute()
    wrong[2, 1, 3] = np.nan
    alike(found, impute(wrong, model(), 2, operator=Downsample(2)).compute())


def test_observations_on_land_are_counted() -> None:
    land = history(5).where(history(5).lon < 200)
    prior = fit(land)
    posterior = Posterior.of(prior, prior.anchor, Mask(), noise_std=0.3)
    count = int(gappy().where(gappy().lon >= 200).count())
    with pytest.warns(OnLandWarning, match=f"{count} observed values lie where the model has none"):
        impute(gappy(), posterior, 2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        impute(
            gappy().where(gappy().lon < 200, -9999.0).where(gappy().notnull()), posterior, 2
        ) if False else None


def test_fill_values_are_known_in_either_precision() -> None:
    for dtype in ("f4", "f8"):
        known = [-9999, 1e20, healpy.UNSEEN, 9.96921e36, -999, 9999.9, -99.99]
        assert is_fill(np.array(known, dtype)).all()
        assert not is_fill(np.array([0.0, 1.0, -98.0, 250.0, 1013.25, 9998.0], dtype)).any()


def checked(fields: xr.DataArray, **options: Any) -> xr.DataArray:
    records = Records.of(fields, given="the history").as_history()
    return checked_history(records, options.get("control", "flag")).array


@pytest.mark.parametrize("value", FILLS)
def test_fill_values_of_a_history_are_missing(value: float) -> None:
    wrong = history(5)
    wrong = wrong.where(wrong.time != wrong.time[4], np.float32(value))
    wrong = wrong.where(wrong.lon < 200, np.float32(value))  # land
    with pytest.warns(OutlierWarning, match=r"the history has \d+ fill values, such as .* at lat="):
        found = checked(wrong)
    expected = history(5).where(history(5).time != history(5).time[4]).where(wrong.lon < 200)
    xr.testing.assert_identical(found, expected)
    with pytest.warns(OutlierWarning):
        land = fit(history(5).where(wrong.lon < 200, np.float32(value)))
    assert land.normals.valid.sum() == 36


def test_outliers_of_a_history_are_flagged_or_rejected() -> None:
    wrong = history(5).copy()
    wrong[11, 2, 5] += 50 * 2.5
    with pytest.warns(OutlierWarning, match=r"1 values far .* at lat=15, lon=180, 1990-12-01"):
        xr.testing.assert_identical(checked(wrong), wrong)
    with pytest.warns(OutlierWarning, match="they are left out"):
        found = checked(wrong, control="reject")
    assert int(found.isnull().sum()) == 1
    assert bool(found[11, 2, 5].isnull())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        xr.testing.assert_identical(checked(wrong, control="off"), wrong)


def test_rare_values_of_a_skewed_variable_are_no_outliers() -> None:
    rng = numpy_seeded(5)
    rain = history(10).copy(data=np.maximum(rng.standard_normal((120, 6, 10)) - 0.5, 0) ** 2 * 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked(rain)
    ice = history(10) * 0
    ice[:, 0] = rng.random((120, 10))
    ice[7, 1, 4] = 0.4  # ice where there never was any, as some ice elsewhere
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        checked(ice)


def test_unseen_is_no_value_on_healpix() -> None:
    domain = HEALPixDomain(4, False)
    rng = numpy_seeded(1)
    smooth = domain.eigenbasis(6)[1].numpy()
    time = xr.date_range("2000-01-01", periods=60, freq="MS")

    def maps(values: Any, first: int = 0) -> xr.DataArray:
        coords = {"time": time[first : first + len(values)]}
        return label_healpix(domain, values, ("time", "cells"), coords, name="x")

    values = (
        rng.standard_normal((60, 6)) @ smooth.T + 0.1 * rng.standard_normal((60, 192))
    ).astype("f4")
    prior = fit(maps(values))
    posterior = Posterior.of(prior, prior.anchor, Mask(), noise_std=0.1)
    seen = rng.random((4, 192)) < 0.3
    expected = impute(maps(np.where(seen, values[:4], np.nan)), posterior, 2)
    unseen = np.where(seen, values[:4], np.float32(healpy.UNSEEN))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for given in (maps(unseen), maps(unseen.astype("f8")), maps(unseen).chunk(time=2)):
            alike(impute(given, posterior, 2).astype("f4"), expected.astype("f4"))
        masked = maps(healpy.ma(unseen))
        assert int(masked.isnull().sum()) == int((~seen).sum())
        alike(impute(masked, posterior, 2), expected)
    part = impute(maps(values[:4]).isel(cells=slice(5, 90)), posterior, 2)
    whole = maps(np.where((np.arange(192) >= 5) & (np.arange(192) < 90), values[:4], np.nan))
    alike(part, impute(whole, posterior, 2))
    hollow = fit(maps(np.where(np.arange(60)[:, None] == 3, np.float32(healpy.UNSEEN), values)))
    assert hollow.history is not None
    assert len(hollow.history) == 59  # a month without a value tells nothing


def test_a_flow_is_not_taught_fill_values() -> None:
    prior = fit(history(5))
    wrong = history(5).where(history(5).time != history(5).time[4], -9999.0)
    with pytest.warns(OutlierWarning, match="60 fill values"):
        distill(prior, Mask(), 0.3, history=wrong, steps=0, progress=False)
    with pytest.warns(OutlierWarning):
        completed = prior.complete(checked_history(prior.records(wrong), "flag"))
    assert float(completed.values.min()) > -100.0


@pytest.mark.parametrize("lazy", [True, False])
def test_a_history_is_checked_in_little_more_than_its_own_memory(
    monkeypatch: pytest.MonkeyPatch, lazy: bool
) -> None:
    """A history of dask is read once, into place, and looked at block by block."""
    monkeypatch.setattr(quality, "_BLOCK", 2**14)
    monkeypatch.setattr(quality, "_SAMPLE", 2**12)
    fields = numpy_seeded(1).normal(size=(240, 50, 80)).astype(np.float32)
    time = xr.date_range("2000-01-01", periods=240, freq="MS")
    lat, lon = np.linspace(80, -80, 50), np.arange(0, 360, 4.5)
    array = xr.DataArray(fields, {"time": time, "lat": lat, "lon": lon}, ("time", "lat", "lon"))
    wanted = array.copy(deep=True)
    wanted[7, 3, 5] = wanted[230, 1, 1] = np.nan
    array[7, 3, 5] = array[230, 1, 1] = -9999.0
    before = array.copy(deep=True)
    read = list[int]()

    def block(values: np.ndarray) -> np.ndarray:
        read.append(len(values))
        return values.copy()

    given = array
    if lazy:
        given = array.copy(data=array.chunk(time=10).data.map_blocks(block, dtype="f4"))
    da.store(
        array.chunk().data[:2], np.empty((2, 50, 80))
    )  # what dask imports is no memory of ours
    read.clear()
    records = Records.of(given, given="the history")
    with dask.config.set(scheduler="synchronous"):
        tracemalloc.start()
        with pytest.warns(OutlierWarning, match=r"2 fill values, such as -9999 at .*, 2000-08"):
            found = checked_history(records, "flag").array
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    xr.testing.assert_identical(found.compute(), wanted)
    xr.testing.assert_identical(array, before)
    assert sum(read) == (240 if lazy else 0)
    copies = 2 if lazy else 1  # the one that is read, and the one without fill values
    assert most < (copies + 0.5) * fields.nbytes


def test_most_values_far_away_are_perhaps_in_other_units() -> None:
    with (
        pytest.warns(ApsgeoWarning),  # nothing is left
        pytest.warns(OutlierWarning, match="are they in other units than the model, degC?"),
    ):
        drawn((gappy() + 273.15).assign_attrs(units="degC"))
