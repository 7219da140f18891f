"""Gap filling of labelled data: lazy, label-keeping, reproducible, and strict about its input."""

import hashlib
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import cftime
import dask
import dask.array
import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import apsgeo
from apsgeo.domains import LatLonDomain
from apsgeo.errors import GridError, InputError, NothingObservedWarning, UnitsError
from apsgeo.io import read_field, write_netcdf
from apsgeo.measurement import Draws, Measurement, Normals, members_noise
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from apsgeo.xarray import impute
from tests.cases import numpy_seeded

LAT = np.array([60.0, 20.0, -20.0, -60.0])
LON = np.arange(0.0, 360.0, 60.0)
SHAPE = (len(LAT), len(LON))
LAND = (1, 2)


class IndependentCells:
    """A method in closed form: anomalies are independent and normal, so is the noise.

    Given y with noise r, an anomaly of mean 0 and spread 1 has mean g y and spread sqrt(1 - g),
    with g = 1 / (1 + r^2) where it is observed and 0 where not.
    """

    name = "independent cells"

    def __init__(self) -> None:
        self.calls: list[tuple[int, int]] = []

    def posterior(self, measurement: Measurement) -> Draws:
        return IndependentDraws(measurement, self.calls)


class IndependentDraws(Draws):
    def __init__(self, measurement: Measurement, calls: list[tuple[int, int]]) -> None:
        self.measurement, self.calls = measurement, calls
        self.gain = torch.where(measurement.mask, 1 / (1 + measurement.noise_std**2), 0.0)

    @property
    def mean(self) -> Tensor:
        return self.gain * self.measurement.values

    def members(self, count: int, seed: int) -> Tensor:
        self.calls.append((len(self.measurement), count))
        nodes = self.measurement.shape[-1]
        draws = members_noise(seed, self.measurement.key, count, nodes)
        return self.mean + (1 - self.gain).sqrt() * draws[:, :, None]


@pytest.fixture
def posterior() -> Posterior:
    """Means and spreads differ from cell to cell and month to month; one cell is land."""
    rng = numpy_seeded(1)
    valid = np.ones(SHAPE, dtype=bool)
    valid[LAND] = False
    normals = Normals(
        torch.from_numpy(rng.normal(10, 5, (12, 1, valid.size))).float(),
        torch.from_numpy(rng.uniform(1, 3, (12, 1, valid.size))).float(),
        torch.from_numpy(valid.ravel()),
    )
    noise = torch.full((valid.size,), 0.25)
    method = IndependentCells()
    return Posterior(LatLonDomain(LAT, LON), normals, Mask(), method, noise, "degC", "air")


@pytest.fixture
def calls(posterior: Posterior) -> list[tuple[int, int]]:
    return cast(IndependentCells, posterior.method).calls


@pytest.fixture
def obs() -> xr.DataArray:
    rng = numpy_seeded(2)
    values = rng.normal(10, 5, (7, *SHAPE)).astype(np.float32)
    values[rng.random(values.shape) < 0.7] = np.nan
    values[:, *LAND] = np.nan
    return xr.DataArray(
        values,
        dims=("time", "lat", "lon"),
        coords={
            "time": xr.date_range("2010-01-01", periods=7, freq="MS"),
            "lat": ("lat", LAT, {"units": "degrees_north"}),
            "lon": ("lon", LON, {"units": "degrees_east"}),
            "area": (("lat", "lon"), rng.random(SHAPE)),
            "level": 2.0,
        },
        name="air",
        attrs={"units": "degC", "long_name": "air temperature"},
    )


def run(obs: xr.DataArray, posterior: Posterior, members: int = 5, **options: Any) -> xr.DataArray:
    return impute(obs, posterior, members=members, **options)


# What comes out


def test_members_have_the_posterior_s_moments(obs: xr.DataArray, posterior: Posterior) -> None:
    members = 4000
    ensemble = run(obs, posterior, members, noise_std=0.5).compute()
    season = obs.time.dt.month.values - 1
    mean = posterior.normals.mean[season].numpy().reshape(obs.shape)
    var = posterior.normals.std[season].numpy().reshape(obs.shape) ** 2
    gain = xr.where(obs.notnull(), var / (var + 0.5**2), 0.0)
    expected = mean + gain * (obs.fillna(0.0) - mean)
    std = np.sqrt((1 - gain) * var)
    land = ~posterior.normals.valid.numpy().reshape(SHAPE)
    error = abs(ensemble.mean("member") - expected).where(~land)
    assert float((error / std).max()) < 5 / np.sqrt(members)
    ratio = (ensemble.std("member", ddof=1) / std).where(~land)
    assert float(abs(ratio - 1).max()) < 5 / np.sqrt(2 * members)
    assert ensemble.isel(lat=LAND[0], lon=LAND[1]).isnull().all()
    assert int(ensemble.isnull().sum()) == members * len(obs)


def test_labels_survive(obs: xr.DataArray, posterior: Posterior) -> None:
    obs.encoding = {"dtype": np.dtype("f4"), "_FillValue": -999.0, "zlib": True, "complevel": 2}
    obs["time"].encoding = {"units": "days since 1800-01-01", "dtype": "float64"}
    ensemble = run(obs, posterior, seed=3)
    assert ensemble.dims == ("member", "time", "lat", "lon")
    assert ensemble.member.values.tolist() == [0, 1, 2, 3, 4]
    assert ensemble.name == "air"
    assert ensemble.dtype == np.float32
    assert ensemble.encoding == obs.encoding
    assert set(ensemble.coords) == {*obs.coords, "member"}
    for name in obs.coords:
        xr.testing.assert_identical(
            ensemble[name].drop_vars(["level"], errors="ignore"),
            obs[name].drop_vars(["level"], errors="ignore"),
        )
        assert ensemble[name].encoding == obs[name].encoding
    made = {"apsgeo_version": apsgeo.__version__, "noise_std": 0.25, "seed": 3}
    assert ensemble.attrs == {**obs.attrs, **made}
    assert obs.attrs == {"units": "degC", "long_name": "air temperature"}


def test_what_a_larger_array_cannot_keep_is_dropped(
    obs: xr.DataArray, posterior: Posterior, tmp_path: Path
) -> None:
    packing = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 10.0, "_FillValue": -32768}
    layout = {"chunksizes": (1, *SHAPE), "zlib": True, "shuffle": False}
    file = write_netcdf(obs, tmp_path / "obs.nc", encoding={"air": packing | layout})
    opened = read_field(file)
    ensemble = run(opened, posterior)
    assert opened.encoding["scale_factor"] == 0.01
    assert not {"scale_factor", "add_offset", "dtype", "chunksizes"} & set(ensemble.encoding)
    assert ensemble.encoding["zlib"]
    assert ensemble.encoding["shuffle"] is False
    kept = read_field(write_netcdf(ensemble, tmp_path / "ensemble.nc"))
    np.testing.assert_array_equal(kept, ensemble)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dtype_survives(obs: xr.DataArray, posterior: Posterior, dtype: str) -> None:
    ensemble = run(obs.astype(dtype), posterior)
    assert ensemble.dtype == dtype
    assert ensemble.compute().dtype == dtype


@pytest.mark.parametrize("dims", [("lon", "time", "lat"), ("lat", "lon", "time")])
def test_dims_come_in_any_order(
    obs: xr.DataArray, posterior: Posterior, dims: tuple[str, ...]
) -> None:
    expected = run(obs, posterior)
    xr.testing.assert_identical(run(obs.transpose(*dims), posterior).compute(), expected.compute())
    lazy = obs.transpose(*dims).chunk(dict.fromkeys(dims, 2))
    xr.testing.assert_identical(run(lazy, posterior).compute(), expected.compute())


def test_latitude_may_run_either_way(obs: xr.DataArray, posterior: Posterior) -> None:
    noise = xr.DataArray(numpy_seeded(3).uniform(0.1, 1, SHAPE), dims=("lat", "lon"))
    expected = run(obs, posterior, noise_std=noise)
    ascending = obs.isel(lat=slice(None, None, -1))
    ensemble = run(ascending, posterior, noise_std=noise[::-1])
    np.testing.assert_array_equal(ensemble.lat, LAT[::-1])
    xr.testing.assert_identical(
        ensemble.isel(lat=slice(None, None, -1)).compute(), expected.compute()
    )


def test_other_names_of_the_dimensions_stay(obs: xr.DataArray, posterior: Posterior) -> None:
    names = {"lat": "latitude", "lon": "longitude"}
    ensemble = run(obs.rename(names), posterior)
    assert ensemble.dims == ("member", "time", "latitude", "longitude")
    np.testing.assert_array_equal(ensemble, run(obs, posterior))


def test_one_field_without_time(obs: xr.DataArray, posterior: Posterior) -> None:
    one = run(obs[3], posterior)
    assert one.dims == ("member", "lat", "lon")
    assert one.time == obs.time[3]
    np.testing.assert_array_equal(one, run(obs, posterior)[:, 3])


def test_noise_by_cell_is_used_where_it_belongs(obs: xr.DataArray, posterior: Posterior) -> None:
    noise = np.full(SHAPE, 0.5)
    noise[0, 0] = 2.0
    noise[LAND] = np.nan
    by_cell = run(obs, posterior, noise_std=noise)
    assert by_cell.attrs["noise_std"] == "0.5 to 2"
    differs = (by_cell != run(obs, posterior, noise_std=0.5)) & by_cell.notnull()
    expected = obs.notnull() & (obs.lat == LAT[0]) & (obs.lon == LON[0])
    assert expected.any()
    np.testing.assert_array_equal(differs.any("member"), expected)
    same = [noise.ravel(), torch.from_numpy(noise), xr.DataArray(noise.T, dims=("lon", "lat"))]
    for other in same:
        xr.testing.assert_identical(
            run(obs, posterior, noise_std=other).compute(), by_cell.compute()
        )


def test_the_accessor_is_the_function(obs: xr.DataArray, posterior: Posterior) -> None:
    by_accessor = obs.aps.impute(posterior, members=3, seed=4, noise_std=0.1)
    xr.testing.assert_identical(by_accessor.compute(), impute(obs, posterior, 3, 4, 0.1).compute())


# Reproducible members


@pytest.mark.parametrize("chunk", [1, 2, 3, 7])
def test_members_do_not_depend_on_chunks(
    obs: xr.DataArray, posterior: Posterior, chunk: int
) -> None:
    chunked = run(obs.chunk(time=chunk, lat=2, lon=4), posterior)
    assert chunked.chunks is not None
    assert chunked.chunks[0] == (5,)
    assert max(chunked.chunks[1]) == chunk
    xr.testing.assert_identical(chunked.compute(), run(obs, posterior).compute())


def test_members_do_not_depend_on_other_records_or_members(
    obs: xr.DataArray, posterior: Posterior
) -> None:
    expected = run(obs, posterior).compute()
    xr.testing.assert_identical(run(obs[::-2], posterior).compute(), expected[:, ::-2])
    xr.testing.assert_identical(run(obs, posterior, members=2).compute(), expected[:2])
    other = run(obs, posterior, seed=1)
    assert float(abs(other - expected).isel(lat=0).min()) > 0


def test_a_time_is_the_same_time_in_any_encoding(obs: xr.DataArray, posterior: Posterior) -> None:
    expected = run(obs, posterior).values
    days = [cftime.DatetimeGregorian(2010, month, 1) for month in range(1, 8)]
    seconds = obs.time.values.astype("datetime64[s]")
    for time in (days, seconds):
        np.testing.assert_array_equal(run(obs.assign_coords(time=time), posterior), expected)


def test_without_times_records_are_told_apart_by_index(
    obs: xr.DataArray, posterior: Posterior
) -> None:
    one_season = Normals(
        posterior.normals.mean[:1], posterior.normals.std[:1], posterior.normals.valid
    )
    posterior = replace(posterior, normals=one_season)
    ensemble = run(obs.drop_vars("time"), posterior).compute()
    assert "time" not in ensemble.coords
    same = run(obs.assign_coords(time=range(7)), posterior)
    np.testing.assert_array_equal(ensemble, same)
    assert float(abs(ensemble[:, 0] - ensemble[:, 1]).isel(lat=0).min()) > 0


def test_far_dates_and_other_calendars_have_keys(obs: xr.DataArray, posterior: Posterior) -> None:
    far = np.array(["0850-01-01", "0850-02-01", "9000-01-01"], dtype="datetime64[s]")
    days = [cftime.Datetime360Day(year, 2, 30) for year in (1, 1850, 9000)]
    for time in (far, days):
        ensemble = run(obs[:3].assign_coords(time=time), posterior)
        assert float(abs(ensemble.diff("time")).isel(lat=0).min()) > 0


def test_run_twice_the_file_is_the_same_bytes(
    obs: xr.DataArray, posterior: Posterior, tmp_path: Path
) -> None:
    digests = set()
    for name in ("first.nc", "second.nc"):
        file = write_netcdf(run(obs, posterior), tmp_path / name)
        digests.add(hashlib.sha256(file.read_bytes()).hexdigest())
    assert len(digests) == 1


# Lazy


class CountingScheduler:
    """Runs dask graphs and counts how often."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, dsk: Mapping[Any, Any], keys: Any, **options: Any) -> Any:
        self.runs += 1
        return dask.get(dsk, keys, **options)


def test_nothing_is_computed_before_it_is_asked_for(
    obs: xr.DataArray, posterior: Posterior, calls: list[tuple[int, int]]
) -> None:
    read = []

    def reading(block: np.ndarray) -> np.ndarray:
        read.append(len(block))
        return block

    lazy = obs.copy(data=dask.array.from_array(obs.values, chunks=(2, *SHAPE)))
    lazy = lazy.copy(data=lazy.data.map_blocks(reading, meta=np.empty((0, 0, 0), np.float32)))
    scheduler = CountingScheduler()
    with dask.config.set(scheduler=scheduler):
        ensemble = run(lazy, posterior)
        in_memory = run(obs, posterior)
        quantiles = ensemble.quantile([0.05, 0.95], "member")
        assert (scheduler.runs, calls, read) == (0, [], [])
        assert isinstance(quantiles.data, dask.array.Array)
        assert isinstance(in_memory.data, dask.array.Array)
        ensemble[:, 2].compute()
        assert (scheduler.runs, calls, read) == (1, [(2, 5)], [2])
        quantiles.compute()
    assert scheduler.runs == 2
    assert sorted(calls[1:]) == [(1, 5), (2, 5), (2, 5), (2, 5)]


def test_large_ensembles_are_drawn_in_blocks_of_few_records(
    obs: xr.DataArray, posterior: Posterior, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = run(obs, posterior).compute()
    record_bytes = 5 * expected[0, 0].size * 4
    monkeypatch.setattr("apsgeo.labels.lazy._BLOCK_BYTES", 3 * record_bytes)
    for given, blocks in ((obs, (3, 3, 1)), (obs.chunk(time=(5, 2)), (3, 2, 2))):
        ensemble = run(given, posterior)
        assert ensemble.chunks is not None
        assert ensemble.chunks[1] == blocks
        xr.testing.assert_identical(ensemble.compute(), expected)


# Bad input


def refused(error: type[Exception], match: str, *args: Any, **options: Any) -> None:
    with pytest.raises(error, match=match):
        run(*args, **options)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_field_without_gaps_is_refused(
    obs: xr.DataArray, posterior: Posterior, lazy: bool
) -> None:
    full = obs.fillna(1.0)
    whole = full.where(np.arange(obs[0].size).reshape(SHAPE) != np.ravel_multi_index(LAND, SHAPE))
    for array in (full, whole):
        with pytest.raises(InputError, match="no NaN, so there is no gap"):
            run(array.chunk() if lazy else array, posterior).compute()


def test_one_record_without_gaps_is_no_error(obs: xr.DataArray, posterior: Posterior) -> None:
    obs[3] = 1.0
    expected = run(obs, posterior).compute()
    xr.testing.assert_identical(run(obs.chunk(time=1), posterior).compute(), expected)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("bad", [np.inf, -np.inf])
def test_infinite_values_are_refused(
    obs: xr.DataArray, posterior: Posterior, bad: float, lazy: bool, tmp_path: Path
) -> None:
    obs[4, 0, 0] = bad
    with pytest.raises(InputError, match=r"1 infinite values, in 2010-05-01; .*isfinite"):
        write_netcdf(run(obs.chunk(time=1) if lazy else obs, posterior), tmp_path / "out.nc")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lazy", [False, True])
def test_a_month_with_nothing_observed_gets_the_prior(
    obs: xr.DataArray, posterior: Posterior, lazy: bool
) -> None:
    obs[5] = np.nan
    obs[5, *LAND] = 1.0  # what stands on land is no observation
    with pytest.warns(NothingObservedWarning, match="nothing was observed in 2010-06-01"):
        ensemble = run(obs.chunk(time=1) if lazy else obs, posterior, members=2000).compute()
    june = posterior.normals.mean[5].numpy().reshape(SHAPE)
    std = posterior.normals.std[5].numpy().reshape(SHAPE)
    error = (ensemble[:, 5].mean("member") - june) / std * np.sqrt(2000)
    assert float(abs(error).max()) < 5


def test_months_with_observations_make_no_warning(obs: xr.DataArray, posterior: Posterior) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(obs, posterior, quality_control="off").compute()


def test_another_grid_is_refused(obs: xr.DataArray, posterior: Posterior) -> None:
    refused(GridError, "a part of it: put NaN elsewhere", obs.isel(lon=slice(4)), posterior)
    refused(GridError, "interpolate", obs.assign_coords(lat=LAT + 1.0), posterior)
    refused(GridError, "interpolate", obs.assign_coords(lon=LON + 1.0), posterior)
    refused(GridError, "no single longitude", obs.rename(lon="x"), posterior)
    refused(GridError, "no single latitude", obs.isel(lat=0), posterior)


def test_longitudes_may_be_counted_otherwise(obs: xr.DataArray, posterior: Posterior) -> None:
    west = obs.assign_coords(lon=(obs.lon + 180) % 360 - 180).sortby("lon")
    found, expected = run(west, posterior), run(obs, posterior)
    np.testing.assert_array_equal(found.lon, west.lon)
    np.testing.assert_array_equal(found.roll(lon=3), expected)


@pytest.mark.parametrize(
    ("name", "values", "match"),
    [
        ("lat", [60.0, 20.0, 20.0, -60.0], "20 is given twice"),
        ("lat", [60.0, -20.0, 20.0, -60.0], "neither ascends nor descends"),
        ("lat", [60.0, np.nan, 20.0, -60.0], "non-finite"),
        ("lat", [160.0, 20.0, -20.0, -60.0], "degrees from -90 to 90"),
        ("lon", [0.0, 60.0, 60.0, 180.0, 240.0, 300.0], "60 is given twice"),
        ("lon", [0.0, 120.0, 60.0, 180.0, 240.0, 301.0], "neither ascends nor descends"),
    ],
)
def test_bad_coordinates_are_refused(
    obs: xr.DataArray, posterior: Posterior, name: str, values: list[float], match: str
) -> None:
    refused(GridError, match, obs.assign_coords({name: values}), posterior)


def test_bad_times_are_refused(obs: xr.DataArray, posterior: Posterior) -> None:
    twice, mixed, absent = ([obs.time.values[i] for i in range(7)] for _ in range(3))
    twice[3] = twice[2]
    mixed[3], mixed[2] = mixed[2], mixed[3]
    absent[3] = np.datetime64("NaT", "ns")
    refused(
        GridError, "'time' holds 2010-03-01.* 2 times", obs.assign_coords(time=twice), posterior
    )
    refused(GridError, "'time' neither ascends nor", obs.assign_coords(time=mixed), posterior)
    refused(
        GridError, "'time' is missing .* in 1 records", obs.assign_coords(time=absent), posterior
    )
    refused(InputError, "no record", obs[:0], posterior)


def test_a_model_of_months_needs_dates(obs: xr.DataArray, posterior: Posterior) -> None:
    refused(InputError, "knows 12 seasons, and obs has no dates", obs.drop_vars("time"), posterior)
    refused(InputError, "no dates", obs.assign_coords(time=range(7)), posterior)
    refused(InputError, "no dates", obs[0].drop_vars("time"), posterior)


def test_other_units_are_refused_with_the_conversion(
    obs: xr.DataArray, posterior: Posterior
) -> None:
    kelvin = (obs + 273.15).assign_attrs(obs.attrs, units="kelvin")
    with pytest.raises(UnitsError, match="units 'kelvin', and the model has 'degC'") as caught:
        run(kelvin, posterior)
    advice = str(caught.value).split("use ")[1]
    mended = eval(advice, {"obs": kelvin})
    xr.testing.assert_allclose(run(mended, posterior).compute(), run(obs, posterior).compute())
    refused(UnitsError, "convert the values", obs.assign_attrs(units="m s-1"), posterior)


@pytest.mark.parametrize("units", ["degC", "Celsius", " °C", "degrees_celsius", None])
def test_units_that_are_the_same_or_unknown_are_taken(
    obs: xr.DataArray, posterior: Posterior, units: str | None
) -> None:
    del obs.attrs["units"]
    run(obs if units is None else obs.assign_attrs(units=units), posterior)
    posterior.units = None
    run(obs.assign_attrs(units="K"), posterior)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, np.inf])
def test_noise_must_be_finite_and_above_zero(
    obs: xr.DataArray, posterior: Posterior, bad: float
) -> None:
    refused(InputError, f"noise_std={bad:g}", obs, posterior, noise_std=bad)
    by_cell = np.full(SHAPE, 0.25)
    by_cell[0, 0] = bad
    refused(InputError, r"noise_std has \d such values", obs, posterior, noise_std=by_cell)


def test_noise_must_have_a_shape_that_fits(obs: xr.DataArray, posterior: Posterior) -> None:
    for shape in ((1,), (5,), SHAPE[::-1], (6, *SHAPE)):
        refused(InputError, "noise_std has shape", obs, posterior, noise_std=np.ones(shape))
    deep = xr.ones_like(obs).expand_dims(z=2)
    refused(InputError, "noise_std has dims", obs, posterior, noise_std=deep)
    refused(InputError, "expected numbers", obs, posterior, noise_std="much")
    elsewhere = xr.ones_like(obs[0]).assign_coords(lon=LON + 1)
    refused(GridError, "other coordinates 'lon'", obs, posterior, noise_std=elsewhere)


@pytest.mark.parametrize("bad", [0, -1, 2.5, "8", True, None])
def test_members_must_be_a_whole_number_above_zero(
    obs: xr.DataArray, posterior: Posterior, bad: Any
) -> None:
    refused(InputError, "members=.*at least 1", obs, posterior, members=bad)
    if bad != 0:
        refused(InputError, "seed=.*at least 0", obs, posterior, seed=bad)
    assert run(obs, posterior, members=cast(int, np.int64(2))).sizes["member"] == 2


def test_a_data_set_of_the_variable_is_as_good(obs: xr.DataArray, posterior: Posterior) -> None:
    found = impute(obs.to_dataset(), posterior, members=5)
    xr.testing.assert_equal(found["air"], run(obs, posterior))


def test_arguments_of_other_types_are_refused(obs: xr.DataArray, posterior: Posterior) -> None:
    slp = obs.to_dataset(name="slp")
    refused(InputError, "obs has the variables slp, and the model is of air", slp, posterior)
    refused(InputError, "obs is a ndarray", obs.values, posterior)
    refused(InputError, "posterior is a str; .*apsgeo.load", obs, "ncep-air")
    refused(InputError, "a IndependentCells; .*Posterior.of", obs, posterior.method)
    refused(InputError, "in which no value can be missing", obs.fillna(0).astype(int), posterior)
    kept = {name: getattr(posterior, name) for name in ("form", "units", "normals", "operator")}
    elsewhere = SimpleNamespace(codomain="a mesh")
    family = SimpleNamespace(on=lambda operator: elsewhere)
    other = SimpleNamespace(**kept, domain="a mesh", family=family, posterior=None)
    refused(GridError, "the model is for 'a mesh'", obs, other)
