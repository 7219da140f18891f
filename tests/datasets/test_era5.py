"""The ERA5 recipe, on small files of the layouts that users have."""

import zipfile
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from healpy import pix2ang
from typer.testing import CliRunner

from apsgeo.cli import app
from apsgeo.datasets.era5 import open_era5
from apsgeo.datasets.era5.regrid import coarsen, healpix_weights, latitude_edges
from apsgeo.errors import InputError
from tests.cases import numpy_seeded

LAT, LON = np.linspace(90, -90, 13), np.arange(0, 360, 15.0)
needs_zarr = pytest.mark.skipif(find_spec("zarr") is None, reason="needs zarr")


def truth(years: tuple[int, int] = (1979, 1980), variable: str = "t2m") -> xr.DataArray:
    """Monthly fields that differ by month, place and variable, in quarters: exact in float32."""
    first, last = years
    time = np.arange(f"{first}-01", f"{last + 1}-01", dtype="datetime64[M]").astype("M8[ns]")
    months = time.astype("M8[M]").astype(int)
    waves = 20 * np.cos(np.radians(LAT))[:, None] * np.cos(np.radians(LON - 40))
    values = 270 + 0.25 * np.rint(4 * (waves + 0.25 * months[:, None, None] + len(variable)))
    coords = {"time": time, "lat": LAT, "lon": LON}
    attrs = {"units": "K", "long_name": variable}
    return xr.DataArray(values.astype("f4"), coords, ("time", "lat", "lon"), variable, attrs)


def old_layout(field: xr.DataArray, path: Path, expver: bool = False) -> Path:
    """Write a file as the CDS did: `time`, packed integers, `expver` as a dimension."""
    dataset = field.rename(lat="latitude", lon="longitude").to_dataset()
    if expver:
        known = dataset["time"] < dataset["time"][-3]
        # The preliminary version stays in the file, and differs, where the final one is there.
        versions = [dataset.where(known), dataset.where(~known, dataset + 1)]
        dataset = xr.concat(versions, xr.Variable("expver", np.array([1, 5], "i4")))
        dataset = dataset.transpose("time", "expver", ...)
    packed = {"dtype": "i2", "scale_factor": 0.25, "add_offset": 270.0, "_FillValue": -32767}
    time = {"units": "hours since 1900-01-01", "dtype": "i4"}
    encoding: dict[str, Any] = {str(field.name): packed, "time": time}
    dataset.to_netcdf(path, format="NETCDF3_64BIT", encoding=encoding)
    return path


def new_layout(field: xr.DataArray, path: Path) -> Path:
    """Write a file as the CDS does since 2024: `valid_time`, `number`, `expver` along time."""
    dataset = field.rename(time="valid_time", lat="latitude", lon="longitude").to_dataset()
    versions = np.array(["0001"] * (field.sizes["time"] - 1) + ["0005"])
    dataset = dataset.assign_coords(number=0, expver=("valid_time", versions))
    dataset.to_netcdf(path)
    return path


def from_180_west(field: xr.DataArray, path: Path) -> Path:
    """Write the new layout with longitudes from -180° to 180° and south first."""
    lon = (field["lon"] + 180) % 360 - 180
    return new_layout(field.assign_coords(lon=lon).sortby("lon").sortby("lat"), path)


LAYOUTS: dict[str, Callable[[xr.DataArray, Path], Path]] = {
    "old": old_layout,
    "old with expver": lambda field, path: old_layout(field, path, expver=True),
    "new": new_layout,
    "from 180 west, south first": from_180_west,
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_every_layout_becomes_the_same(layout: Any, tmp_path: Path) -> None:
    expected = truth()
    found = open_era5(layout(expected, tmp_path / "era5.nc"))
    assert list(found) == ["t2m"]
    assert found["t2m"].dims == ("time", "lat", "lon")
    assert found["t2m"].dtype == np.float32
    assert set(found.coords) == {"time", "lat", "lon"}
    for name in ("time", "lat", "lon"):
        np.testing.assert_array_equal(found[name], expected[name])
    np.testing.assert_array_equal(found["t2m"], expected)
    assert found["t2m"].attrs["units"] == "K"
    assert found["lat"].attrs["standard_name"] == "latitude"
    assert "Copernicus" in found.attrs["license"]


def test_levels_stand_between_time_and_latitude(tmp_path: Path) -> None:
    field = truth(variable="z")
    stacked = xr.concat([field, field + 1], xr.Variable("pressure_level", [500.0, 850.0]))
    new_layout(stacked, tmp_path / "era5.nc")
    found = open_era5(tmp_path / "era5.nc")["z"]
    assert found.dims == ("time", "level", "lat", "lon")
    np.testing.assert_array_equal(found.sel(level=850), field + 1)


def test_variables_and_years_may_be_spread_over_files_of_both_layouts(tmp_path: Path) -> None:
    old_layout(truth((1979, 1979)), tmp_path / "b.nc")
    from_180_west(truth((1980, 1981)), tmp_path / "a.nc")
    new_layout(truth((1979, 1981), "2m_dewpoint_temperature"), tmp_path / "c.nc")
    found = open_era5(tmp_path)
    np.testing.assert_array_equal(found["t2m"], truth((1979, 1981)))
    expected = truth((1979, 1981), "2m_dewpoint_temperature")
    np.testing.assert_array_equal(found["d2m"], expected)
    some = open_era5(tmp_path, variables=["2m_temperature"], years=(1980, 1980))
    assert list(some) == ["t2m"]
    np.testing.assert_array_equal(some["t2m"], truth((1980, 1980)))


@needs_zarr
@pytest.mark.filterwarnings("ignore")  # zarr's, of its own formats
def test_a_zarr_store_with_long_names(tmp_path: Path) -> None:
    field = truth().rename("2m_temperature", lat="latitude", lon="longitude")
    field.to_dataset().chunk(time=5).to_zarr(tmp_path / "store")
    found = open_era5(tmp_path / "store")["t2m"]
    assert found.chunks is not None
    np.testing.assert_array_equal(found, truth())


def refuse(graph: Any, keys: Any, **options: Any) -> Any:
    raise AssertionError("something was computed")


def test_nothing_is_computed_before_it_is_asked_for(tmp_path: Path) -> None:
    path = old_layout(truth(), tmp_path / "era5.nc", expver=True)
    with dask.config.set(scheduler=refuse):
        found = open_era5(path, years=(1980, 1980), coarsen=2, healpix_level=1)
        with pytest.raises(AssertionError, match="something was computed"):
            found.load()
    assert found.load()["t2m"].shape == (12, 48)


# --- coarsening


def areas(lat: np.ndarray) -> np.ndarray:
    edges = np.sin(np.radians(latitude_edges(lat)))
    return edges[:-1] - edges[1:]


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 6, 12])
def test_coarsening_keeps_the_global_mean(factor: int) -> None:
    fine = truth().astype("f8").to_dataset()
    coarse = coarsen(fine, factor)
    assert coarse.sizes["lon"] == 24 // factor
    rows = coarse.sizes["lat"]
    assert rows == (13 if factor == 1 else 12 // factor)
    if factor > 1:
        np.testing.assert_allclose(coarse["lat"], 90 - 180 / rows * (np.arange(rows) + 0.5))
        step = np.linspace(90, -90, rows + 1)
        weights = -np.diff(np.sin(np.radians(step)))
        before = fine["t2m"].mean("lon").values @ areas(LAT)
        after = coarse["t2m"].mean("lon").values @ weights
        np.testing.assert_allclose(after, before, rtol=1e-13)


def test_rows_in_groups_are_weighted_by_area() -> None:
    """Without pole rows: 12 rows by 3."""
    lat = 90 - 15 * (np.arange(12) + 0.5)
    values = numpy_seeded(0).normal(size=(1, 12, 6))
    coords = {"time": [0], "lat": lat, "lon": np.arange(0, 360, 60.0)}
    field = xr.Dataset({"x": (("time", "lat", "lon"), values)}, coords)
    found = coarsen(field, 3)
    weighted = (values[0] * areas(lat)[:, None]).reshape(4, 3, 2, 3).sum((1, 3))
    expected = weighted / (3 * areas(lat).reshape(4, 3).sum(1)[:, None])
    np.testing.assert_allclose(found["x"][0], expected, rtol=1e-13)
    np.testing.assert_allclose(found["lat"], [67.5, 22.5, -22.5, -67.5])
    np.testing.assert_allclose(found["lon"], [60, 240])


def test_a_mean_needs_half_of_its_area() -> None:
    lat = 90 - 15 * (np.arange(12) + 0.5)
    values = np.ones((1, 12, 4))
    values[0, 4, 0] = values[0, 4, 2:] = values[0, 5, 3] = np.nan  # one, and more than half, of 4
    values[0, 5, 1] = 3.0
    coords = {"time": [0], "lat": lat, "lon": np.arange(0, 360, 90.0)}
    found = coarsen(xr.Dataset({"x": (("time", "lat", "lon"), values)}, coords), 2)["x"]
    first, second = areas(lat)[4:6]
    expected = (first * 1 + second * (1 + 3)) / (first + 2 * second)
    np.testing.assert_allclose(found[0, 2, 0], expected, rtol=1e-13)
    assert np.isnan(found[0, 2, 1])
    assert np.isfinite(found).sum() == 11


@pytest.mark.parametrize("factor", [0, -2, 5, 7])
def test_a_factor_that_does_not_divide_the_grid_is_refused(factor: int) -> None:
    with pytest.raises(InputError, match="factor|divided"):
        coarsen(truth().to_dataset(), factor)


# --- HEALPix


@pytest.mark.parametrize("level", [0, 1, 3])
def test_healpix_weights_average(level: int) -> None:
    weights = healpix_weights(LAT, LON, level)
    assert weights.shape == (12 * 4**level, 13 * 24)
    assert weights.min() >= 0
    np.testing.assert_allclose(weights.sum(1), 1, rtol=0, atol=1e-13)


def test_healpix_pixels_have_the_values_of_their_places(tmp_path: Path) -> None:
    """Means of sin(lat) and cos(lat) cos(lon - 40°), whose second derivatives are 1 at most."""
    lat, lon = np.linspace(90, -90, 181), np.arange(0, 360, 1.0)
    north = np.tile(np.sin(np.radians(lat))[:, None], (1, 360))
    east = np.cos(np.radians(lat))[:, None] * np.cos(np.radians(lon - 40))
    time = np.array(["2000-01-01", "2000-02-01"], "M8[ns]")
    coords = {"time": time, "lat": lat, "lon": lon}
    field = xr.DataArray(np.stack([north, east]), coords, ("time", "lat", "lon"), "t2m")
    new_layout(field, tmp_path / "era5.nc")
    level = 4
    found = open_era5(tmp_path / "era5.nc", healpix_level=level)["t2m"]
    assert found.dims == ("time", "cells")
    assert found["cell_ids"].attrs["indexing_scheme"] == "nested"
    assert found["cell_ids"].attrs["level"] == level
    points = 4**3  # in a pixel: 0.46° apart, not more than half of the grid's step
    there, around = pix2ang(2 ** (level + 3), np.arange(12 * 4**level * points), nest=True)
    means = [
        function.reshape(-1, points).mean(1)
        for function in (np.cos(there), np.sin(there) * np.cos(around - np.radians(40)))
    ]
    bound = 2 * np.radians(1) ** 2 / 8 + 2**-23  # linear interpolation along each axis; float32
    assert abs(found.values - means).max() < bound
    assert abs(found.mean("cells")).max() < 1e-6  # equal areas; float32


def test_healpix_leaves_out_what_is_missing(tmp_path: Path) -> None:
    field = truth().where(LAT[:, None] < 40)
    new_layout(field, tmp_path / "era5.nc")
    found = open_era5(tmp_path / "era5.nc", healpix_level=1)["t2m"].load()
    assert np.isnan(found.values[:, found["lat"].values > 50]).all()
    assert np.isfinite(found.values[:, found["lat"].values < 20]).all()


def test_healpix_of_a_region_is_refused(tmp_path: Path) -> None:
    new_layout(truth().sel(lon=slice(0, 90)), tmp_path / "east.nc")
    new_layout(truth().sel(lat=slice(60, -60)), tmp_path / "middle.nc")
    new_layout(truth(), tmp_path / "all.nc")
    for name, level in (("east", 1), ("middle", 1), ("all", -1)):
        with pytest.raises(InputError, match="global regular grid"):
            open_era5(tmp_path / f"{name}.nc", healpix_level=level)


# --- what goes wrong


def test_files_that_are_no_netcdf_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "zip.nc", "w") as archive:
        archive.writestr("data.nc", b"x")
    (tmp_path / "grib.nc").write_bytes(b"GRIB" + bytes(100))
    (tmp_path / "text.nc").write_text("no netCDF")
    whole = new_layout(truth(), tmp_path / "whole.nc").read_bytes()
    (tmp_path / "half.nc").write_bytes(whole[: len(whole) // 2])
    for name, match in (
        ("zip.nc", "zip archive"),
        ("grib.nc", "GRIB"),
        ("text.nc", "cannot be read"),
        ("half.nc", "cannot be read"),
        ("none.nc", "not there"),
    ):
        with pytest.raises(InputError, match=match):
            open_era5(tmp_path / name)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="neither a Zarr store nor a folder"):
        open_era5(tmp_path / "empty")


def test_a_store_without_zarr_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".zgroup").write_text("{}")
    monkeypatch.setattr("apsgeo.datasets.era5.recipe.find_spec", lambda name: None)
    with pytest.raises(InputError, match="install the package zarr"):
        open_era5(tmp_path)


def test_sources_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    new_layout(truth((1979, 1980)), tmp_path / "a.nc")
    new_layout(truth((1980, 1981)), tmp_path / "overlap.nc")
    new_layout(truth((1981, 1981), "d2m"), tmp_path / "other.nc")
    new_layout(truth((1981, 1981)).isel(lat=slice(1, None)), tmp_path / "grid.nc")
    for name, match in (
        ("overlap", "overlap in time"),
        ("other", "same times"),
        ("grid", "one grid"),
    ):
        with pytest.raises(InputError, match=match):
            open_era5([tmp_path / "a.nc", tmp_path / f"{name}.nc"])
    with pytest.raises(InputError, match="no variable msl; there are: t2m"):
        open_era5(tmp_path / "a.nc", variables=["mean_sea_level_pressure"])
    with pytest.raises(InputError, match="no record from 1990 to 1991"):
        open_era5(tmp_path / "a.nc", years=(1990, 1991))


def test_what_is_no_grid_over_time_is_refused(tmp_path: Path) -> None:
    field = truth()
    steps = field.rename(lat="latitude", lon="longitude").expand_dims(valid_time=[0, 1])
    twice = xr.concat([field, field.isel(lon=[0]).assign_coords(lon=[360.0])], "lon")
    for wrong, match in (
        (steps, "forecasts"),
        (field.isel(lat=0, drop=True), "no dimension latitude"),
        (field.isel(time=0, drop=True), "neither time nor valid_time"),
        (twice, "repeat"),
        (field.isel(lat=[1, 0, *range(2, 13)]), "no order"),
        (field.isel(lon=0, drop=True), "no dimension latitude or longitude"),
    ):
        wrong.to_dataset().to_netcdf(tmp_path / "wrong.nc")
        with pytest.raises(InputError, match=match):
            open_era5(tmp_path / "wrong.nc")
        (tmp_path / "wrong.nc").unlink()


def test_one_record_has_its_time_as_a_scalar(tmp_path: Path) -> None:
    one = truth().isel(time=3).rename(time="valid_time", lat="latitude", lon="longitude")
    one.to_dataset().to_netcdf(tmp_path / "one.nc")
    found = open_era5(tmp_path / "one.nc")["t2m"]
    np.testing.assert_array_equal(found, truth().isel(time=[3]))
    assert found["time"].values[0] == truth()["time"].values[3]


# --- the command


def test_the_command_makes_one_file(tmp_path: Path) -> None:
    old_layout(truth((1979, 1979)), tmp_path / "a.nc")
    new_layout(truth((1980, 1980)), tmp_path / "b.nc")
    arguments = [str(tmp_path / name) for name in ("a.nc", "b.nc", "out.nc")]
    options = ["--variable", "2m_temperature", "--years", "1979", "1980", "--coarsen", "2"]
    result = CliRunner().invoke(app, ["era5", *arguments, *options])
    assert result.exit_code == 0, result.output
    assert "'time': 24" in result.output
    with xr.open_dataset(tmp_path / "out.nc") as found:
        expected = coarsen(truth().to_dataset(), 2)["t2m"]
        np.testing.assert_array_equal(found["t2m"], expected)
        np.testing.assert_array_equal(found["time"], expected["time"])
        assert found.attrs["Conventions"].startswith("CF-")
    again = CliRunner().invoke(app, ["era5", *arguments, *options])
    assert again.exit_code == 2
    assert "exists" in again.output
