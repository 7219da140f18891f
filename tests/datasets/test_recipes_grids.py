"""Recipes of fields on grids, on small files of the originals' layouts."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from apsgeo.datasets.cf import finish, north_first
from apsgeo.datasets.coads.recipe import COADS
from apsgeo.datasets.etopo.recipe import ETOPO, ETOPO_PATCHES, cut_patches
from apsgeo.datasets.navy_winds.recipe import NAVY_WINDS
from apsgeo.datasets.nrcan.recipe import NRCAN
from apsgeo.datasets.oisst.recipe import OISST
from apsgeo.datasets.pressure_levels.recipe import V200, Z200, Z500
from apsgeo.datasets.recipe import Recipe
from apsgeo.errors import DatasetError
from apsgeo.io import write_netcdf
from tests.cases import numpy_seeded

RNG = numpy_seeded(0)
LAT, LON = np.array([90.0, 0.0, -90.0], "f4"), np.array([0.0, 90.0, 180.0, 270.0], "f4")


def monthly(name: str, values: np.ndarray, **attrs: Any) -> xr.Dataset:
    time = np.arange("1981-01", "1981-06", dtype="datetime64[M]").astype("datetime64[ns]")
    coords = {"time": time, "lat": LAT, "lon": LON}
    return xr.Dataset({name: (("time", "lat", "lon"), values, attrs)}, coords)


def values(*shape: int, gaps: bool = False) -> np.ndarray:
    drawn = RNG.normal(10, 3, shape).astype("f4")
    if gaps:
        drawn[..., 0, 0] = np.nan
    return drawn


def ferret(path: Path, names: tuple[str, ...], axes: tuple[str, ...], coords: Any) -> Path:
    shape = xr.Dataset(coords=coords).sizes
    fields = {
        name: (axes, values(*(shape[axis] for axis in axes), gaps=True), {"units": "M/S"})
        for name in names
    }
    encoding = {name: {"_FillValue": np.float32(-1e34)} for name in names}
    xr.Dataset(fields, coords).to_netcdf(path, encoding=encoding)
    return path


@pytest.fixture
def built(tmp_path: Path) -> Callable[[Recipe, list[Path]], xr.Dataset]:
    """Build, write, and open again: what users get."""

    def build(recipe: Recipe, raw: list[Path]) -> xr.Dataset:
        return xr.open_dataset(write_netcdf(recipe.build(raw), tmp_path / f"{recipe.name}.nc"))

    return build


@pytest.mark.parametrize(
    ("recipe", "original", "units", "level"),
    [(Z500, "hgt", "m", 500), (Z200, "hgt", "m", 200), (V200, "vwnd", "m s-1", 200)],
)
def test_pressure_levels(
    built: Any, tmp_path: Path, recipe: Recipe, original: str, units: str, level: int
) -> None:
    expected = values(5, 3, 4)
    monthly(original, expected).to_netcdf(tmp_path / "raw.nc")
    field = built(recipe, [tmp_path / "raw.nc"])[recipe.variable]
    np.testing.assert_array_equal(field, expected)
    assert field.attrs["units"] == units
    assert field["level"].item() == level
    assert field["time"].dt.month.values.tolist() == [1, 2, 3, 4, 5]


def test_oisst_keeps_its_land(built: Any, tmp_path: Path) -> None:
    expected = values(5, 3, 4, gaps=True)
    monthly("sst", expected).to_netcdf(tmp_path / "raw.nc")
    np.testing.assert_array_equal(built(OISST, [tmp_path / "raw.nc"])["sst"], expected)


def test_nrcan_is_one_file_and_rain_is_in_millimetres_a_day(built: Any, tmp_path: Path) -> None:
    fields, raw = {}, []
    for name in ("pr", "tasmax", "tasmin"):
        fields[name] = values(5, 3, 4, gaps=True)
        raw.append(tmp_path / f"{name}.nc")
        monthly(name, fields[name], units="?").to_netcdf(raw[-1])
    found = built(NRCAN, raw)
    # Two roundings to float32: of the rate in the file, and of the product.
    np.testing.assert_allclose(found["pr"], fields["pr"].astype("f8") * 86400, rtol=2**-24)
    np.testing.assert_array_equal(found["tasmax"], fields["tasmax"])
    assert (found["pr"].attrs["units"], found["tasmin"].attrs["units"]) == ("mm d-1", "K")
    assert "unknown" in found.attrs["license"]


def test_coads_has_months_and_keeps_its_gaps(built: Any, tmp_path: Path) -> None:
    year_zero = ("TIME", np.arange(3) * 730.5 + 366, {"units": "hour since 0000-01-01 00:00:00"})
    coords = {"TIME": year_zero, "COADSY": [-45.0, 45], "COADSX": [90.0, 270, 390]}
    names = ("SST", "AIRT", "SPEH", "WSPD", "UWND", "VWND", "SLP")
    raw = ferret(tmp_path / "raw.nc", names, ("TIME", "COADSY", "COADSX"), coords)
    found = built(COADS, [raw])
    assert found["month"].values.tolist() == [1, 2, 3]
    assert found["lat"].values.tolist() == [45, -45]
    assert found["lon"].values.tolist() == [30, 90, 270]
    with xr.open_dataset(raw, decode_times=False) as original:
        expected = original["SLP"].values[:, ::-1][:, :, [2, 0, 1]]
    np.testing.assert_array_equal(found["slp"], expected)
    assert np.isnan(found["slp"].sel(lat=-45, lon=90)).all()


def test_navy_winds_are_dated_with_the_first_of_the_month(built: Any, tmp_path: Path) -> None:
    time = np.array(["1982-01-16T20:00", "1982-02-16T06:30"], "datetime64[ns]")
    coords = {"TIME": time, "FNOCY": [-90.0, 0, 90], "FNOCX": [20.0, 200, 377.5]}
    raw = ferret(tmp_path / "raw.nc", ("UWND", "VWND"), ("TIME", "FNOCY", "FNOCX"), coords)
    found = built(NAVY_WINDS, [raw])
    assert found["time"].dt.strftime("%Y-%m-%d %H").values.tolist() == [
        "1982-01-01 00",
        "1982-02-01 00",
    ]
    assert found["lon"].values.tolist() == [17.5, 20, 200]
    with xr.open_dataset(raw) as original:
        np.testing.assert_array_equal(found["vwnd"][:, 0, 0], original["VWND"][:, 2, 2])


def relief(path: Path, lon: np.ndarray, rows: int = 181) -> Path:
    axes = {"ETOPO05_Y": np.linspace(-90, 90, rows), "ETOPO05_X": lon}
    heights = np.arange(rows * len(lon), dtype="f4").reshape(rows, len(lon)) - 1000
    xr.Dataset({"ROSE": (tuple(axes), heights)}, axes).to_netcdf(path)
    return path


def test_etopo_has_exact_coordinates_and_north_first(built: Any, tmp_path: Path) -> None:
    lon = np.arange(360) * 1.00001  # as if it had been rounded somewhere
    found = built(ETOPO, [relief(tmp_path / "raw.nc", lon)])["elevation"]
    np.testing.assert_array_equal(found["lon"], np.arange(360))
    assert (found["lat"].values[0], found["lat"].values[-1]) == (90, -90)
    assert found.values[-1, 5] == 5 - 1000


def test_etopo_refuses_coordinates_of_another_grid(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="ETOPO05_X"):
        ETOPO.build([relief(tmp_path / "raw.nc", np.arange(360) * 1.01)])


def test_patches_are_the_field_cut_up(built: Any, tmp_path: Path) -> None:
    raw = relief(tmp_path / "raw.nc", np.arange(360.0))
    whole = built(ETOPO, [raw])["elevation"]
    patches = built(ETOPO_PATCHES, [raw])
    assert dict(patches.sizes) == {"patch": 1 * 5, "row": 64, "col": 64}  # 121 rows to 60 degrees
    for patch in patches["elevation"]:
        same = whole.sel(lat=patch["lat"].values, lon=patch["lon"].values)
        np.testing.assert_array_equal(patch, same)
        assert patch["land_fraction"] == np.float32((same.values > 0).mean())
    small = cut_patches(whole, 30, 90)
    assert small.sizes["patch"] == 6 * 12


def test_north_first_moves_values_with_their_coordinates() -> None:
    lat, lon = [-10.0, 10.0], [-170.0, 10.0, 200.0]
    field = xr.Dataset(
        {"x": (("lat", "lon"), np.arange(6).reshape(2, 3))}, {"lat": lat, "lon": lon}
    )
    found = north_first(field)
    assert found["lon"].values.tolist() == [10, 190, 200]
    assert found["x"].values.tolist() == [[4, 3, 5], [1, 0, 2]]


def test_dates_within_a_day_survive_the_file(tmp_path: Path) -> None:
    hours = np.arange("1979-01-01T00", "1979-01-03T00", dtype="datetime64[h]")
    dataset = xr.Dataset(
        {"x": ("time", np.zeros(len(hours)))}, {"time": hours.astype("datetime64[ns]")}
    )
    write_netcdf(finish(dataset, title="hourly"), tmp_path / "x.nc")
    with xr.open_dataset(tmp_path / "x.nc") as found:
        np.testing.assert_array_equal(found["time"], dataset["time"])
