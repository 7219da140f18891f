"""Regridding of labelled arrays: labels in, labels out, lazily."""

from pathlib import Path
from typing import Any

import dask.array
import numpy as np
import pytest
import torch
import xarray as xr

import apsgeo  # noqa: F401  # registers the accessor
from apsgeo.domains import Domain, GraphDomain, HEALPixDomain, ImageDomain, LatLonDomain
from apsgeo.domains.regrid import bilinear, conservative
from apsgeo.errors import GridError, InputError
from apsgeo.labels.healpix import label_healpix
from apsgeo.labels.layout import domain_of, layout_of
from apsgeo.labels.regridding import regrid
from tests.cases import alike, numpy_seeded

LAT, LON = np.linspace(75, -75, 6), np.arange(0.0, 360.0, 30.0)
GRID = LatLonDomain(LAT, LON)
STATIONS = GraphDomain.from_latlon([10, -20, 30, 44], [20, 50, 350, 0.0], k=2)


@pytest.fixture
def air() -> xr.DataArray:
    values = numpy_seeded(0).random((3, 2, 6, 12)).astype(np.float32)
    coords: dict[str, Any] = {
        "time": xr.date_range("2000-01-01", periods=3),
        "level": [1000, 850],
        "lat": LAT,
        "lon": LON,
        "area": (("lat", "lon"), np.ones((6, 12))),
    }
    return xr.DataArray(values, coords, ("time", "level", "lat", "lon"), "air", {"units": "K"})


@pytest.mark.parametrize(
    "target", [HEALPixDomain(4), HEALPixDomain(2, False), STATIONS, LatLonDomain(LAT[1:], LON)]
)
def test_labels_say_the_new_domain(air: xr.DataArray, target: Domain) -> None:
    found = regrid(air, target)
    expected = bilinear(GRID, target).apply(torch.from_numpy(air.values).flatten(2)).numpy()
    layout = layout_of(found, target)
    alike(layout.nodes(found.values), expected)
    assert found.dims == ("time", "level", *layout.dims)
    assert (found.name, found.attrs, found.dtype) == ("air", {"units": "K"}, np.float32)
    xr.testing.assert_identical(found.time.reset_coords(drop=True), air.time)
    assert "area" not in found.coords
    if not isinstance(target, GraphDomain):
        assert domain_of(found) == target


def test_there_and_back_to_the_labels_of_an_array(air: xr.DataArray, tmp_path: Path) -> None:
    cells = regrid(air, HEALPixDomain(4), "conservative")
    expected = conservative(GRID, HEALPixDomain(4)).apply(torch.from_numpy(air.values).flatten(2))
    alike(cells.values, expected)
    cells.to_netcdf(tmp_path / "cells.nc")
    with xr.open_dataset(tmp_path / "cells.nc", decode_coords="all") as dataset:
        assert domain_of(dataset["air"]) == HEALPixDomain(4)
        back = regrid(dataset["air"], air.isel(time=0).drop_vars("level"))
    assert back.dims == air.dims
    assert "crs" not in back.coords
    assert "grid_mapping" not in back.attrs
    xr.testing.assert_identical(back.area.reset_coords(drop=True), air.area.reset_coords(drop=True))
    np.testing.assert_array_equal(back.lat, LAT)


def test_cells_in_another_order_are_taken_as_labelled() -> None:
    shuffled = HEALPixDomain(2, True, numpy_seeded(0).permutation(48))
    z = label_healpix(shuffled, shuffled.positions[:, 2].numpy())
    found = regrid(z, HEALPixDomain(2))
    np.testing.assert_allclose(found, HEALPixDomain(2).positions[:, 2], atol=1e-12)


def test_it_is_lazy_and_the_same_in_blocks(air: xr.DataArray) -> None:
    expected = regrid(air, HEALPixDomain(4))
    found = regrid(air.chunk(time=1, lat=2), HEALPixDomain(4))
    assert isinstance(found.data, dask.array.Array)
    assert found.chunks is not None
    assert found.chunks[0] == (1, 1, 1)
    alike(found, expected)
    assert (found.name, found.attrs) == (expected.name, expected.attrs)
    assert found.encoding["grid_mapping"] == "crs"


def test_missing_values_are_left_out(air: xr.DataArray) -> None:
    gappy = air.where(air.lat > 0)
    found = regrid(gappy, STATIONS)
    assert found.isnull().all(("time", "level")).values.tolist() == [False, True, False, False]
    whole = regrid(gappy, STATIONS, min_weight=1.0)
    assert int(whole.isnull().sum()) > int(found.isnull().sum())


def test_the_accessor_is_the_function(air: xr.DataArray) -> None:
    assert air.aps.domain == GRID
    found = air.aps.regrid(HEALPixDomain(2), "conservative")
    alike(found, regrid(air, HEALPixDomain(2), "conservative"))


def test_whole_numbers_become_floats(air: xr.DataArray) -> None:
    assert regrid((10 * air).astype(int), STATIONS).dtype == np.float64


def test_what_cannot_be_regridded_is_refused(air: xr.DataArray) -> None:
    with pytest.raises(InputError, match="'nearest' given; expected one of bilinear, conserv"):
        regrid(air, STATIONS, "nearest")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="conservative regridding from"):
        regrid(air, STATIONS, "conservative")
    with pytest.raises(InputError, match="expected a Domain"):
        regrid(air, 4)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"points \(N, 3\)"):
        regrid(air, ImageDomain(3, 4))
    with pytest.raises(GridError, match="nothing says where"):
        regrid(air.rename(lat="a", lon="b"), STATIONS)


def test_cells_of_a_coarser_grid_are_means_by_area(air: xr.DataArray) -> None:
    coarse = LatLonDomain([60.0, 0.0, -60.0], np.arange(15.0, 360.0, 60.0))
    found = regrid(air, coarse, "conservative")
    area = xr.DataArray(GRID.areas.reshape(6, 12), dims=("lat", "lon"))
    expected = (air * area).coarsen(lat=2, lon=2).sum() / area.coarsen(lat=2, lon=2).sum()
    alike(found.values, expected.values.astype("f4"))
