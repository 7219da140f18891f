"""Attributes and encodings of what is written hold for it, whatever those of the source were."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import netCDF4
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from apsgeo.cli import app
from apsgeo.cli import impute as verb
from apsgeo.errors import InputError, OutlierWarning
from apsgeo.field_prior import FieldPrior
from apsgeo.files.cf import float_encoding, without_invalid
from apsgeo.files.stores import open_store
from apsgeo.gaussian.scales import HybridScales
from apsgeo.io import write_netcdf
from apsgeo.operators import Mask
from apsgeo.output.write import write_ensemble
from apsgeo.posterior import Posterior
from apsgeo.prior import fit_prior
from apsgeo.xarray import impute
from tests.cases import alike, history, numpy_seeded

SCALES = HybridScales(range_km=3000.0, eof_weight=0.9)


@functools.cache
def prior() -> FieldPrior:
    return fit_prior(
        history(5), scales=SCALES, anchor_scales=SCALES, rank=8, steps=0, progress=False
    )


@functools.cache
def model() -> Posterior:
    return Posterior.of(prior(), prior().anchor, Mask(), noise_std=0.3)


def gappy() -> xr.DataArray:
    fields = history(6)[-5:]
    return fields.where(numpy_seeded(3).random(fields.shape) < 0.2)


def stale() -> xr.DataArray:
    """Observations whose attributes hold for them alone."""
    return gappy().assign_attrs(
        valid_range=np.array([-90.0, 90.0], "f4"),
        valid_min=np.float32(-90),
        valid_max=np.float32(90),
        actual_range=np.array([0.0, 20.0], "f4"),
        unpacked_valid_range=np.array([-9.0, 9.0], "f4"),
        missing_value=np.float32(-999),
        flag_values=np.array([0, 1], "i1"),
        flag_meanings="bad good",
        cell_measures="area: areacella",
        ancillary_variables="air_error",
        climatology="climatology_bounds",
        cell_methods="time: mean",
        standard_name="air_temperature",
    )


def test_members_have_no_attributes_of_the_observed_values(tmp_path: Path) -> None:
    ensemble = impute(stale(), model(), 3)
    kept = {"units", "cell_methods", "standard_name"}
    assert set(ensemble.attrs) == kept | {"apsgeo_version", "noise_std", "seed"}
    alike(ensemble, impute(gappy(), model(), 3))
    together = impute(stale().to_dataset(), model(), 3)
    assert set(together.air.attrs) == set(ensemble.attrs)
    with netCDF4.Dataset(write_ensemble(ensemble, tmp_path / "out.nc")) as file:
        assert not np.ma.getmaskarray(file["air"][:]).any()


def test_what_lies_beside_stays_and_what_does_not_is_not_named() -> None:
    dataset = gappy().to_dataset()
    dataset["areacella"] = ("lat", "lon"), np.ones((6, 10))
    dataset["time_bnds"] = ("time", "bnds"), np.stack([dataset.time.values] * 2, 1)
    dataset.time.attrs["bounds"] = "time_bnds"
    dataset.air.attrs["cell_measures"] = "area: areacella"
    dataset.attrs = {"institution": "here"}
    dataset.encoding["unlimited_dims"] = {"time"}
    both = impute(dataset, model(), 2)
    assert set(both.variables) == {"air", *dataset.variables, "member"}
    assert both.air.attrs["cell_measures"] == "area: areacella"
    assert (both.attrs, both.encoding) == ({"institution": "here"}, {"unlimited_dims": {"time"}})
    alike(both.air, impute(gappy(), model(), 2).assign_coords(areacella=dataset.areacella))


@pytest.mark.parametrize(
    ("encoding", "expected"),
    [
        ({"_FillValue": -999.0, "missing_value": -99.0}, {"_FillValue": -999.0}),
        ({"_FillValue": 1e20, "missing_value": 1e20}, {"_FillValue": 1e20, "missing_value": 1e20}),
        ({"missing_value": 1e20}, {"_FillValue": 1e20, "missing_value": 1e20}),
        ({"dtype": "int16", "scale_factor": 0.1, "_FillValue": -1, "missing_value": -1}, {}),
        (
            {"compressors": "zstd", "filters": (), "shards": 3, "chunks": (1, 2), "zlib": True},
            {"zlib": True},
        ),
        ({"dtype": "float64", "chunksizes": (1, 2), "source": "a.nc"}, {"dtype": "float64"}),
    ],
)
def test_encodings_are_those_that_members_can_have(
    encoding: dict[str, Any], expected: dict[str, Any], tmp_path: Path
) -> None:
    assert float_encoding(encoding, "f4") == expected
    obs = gappy()
    obs.encoding = encoding
    ensemble = impute(obs, model(), 2)
    file = write_ensemble(ensemble, tmp_path / "out.nc")
    with xr.open_dataset(file) as dataset:
        alike(dataset.air.load().astype("f4"), ensemble)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr_and_netcdf_take_what_came_from_each_other(tmp_path: Path, version: Any) -> None:
    pytest.importorskip("zarr")
    stored = tmp_path / "obs.zarr"
    options: dict[str, Any] = {"consolidated": False}
    gappy().chunk(time=2, lat=3).to_dataset().to_zarr(stored, zarr_format=version, **options)
    expected = impute(gappy(), model(), 2).compute()
    with xr.open_zarr(stored, **options) as dataset:
        ensemble = impute(dataset.air, model(), 2)
        for other in (2, 3):
            again = tmp_path / f"{other}.zarr"
            ensemble.chunk(-1).to_dataset().to_zarr(again, zarr_format=other, **options)
            with xr.open_zarr(again, **options) as written:
                alike(written.air.load(), expected)
        ensemble.to_netcdf(tmp_path / "plain.nc")
        with xr.open_dataset(write_ensemble(ensemble, tmp_path / "out.nc")) as written:
            alike(written.air.load(), expected)


def test_a_valid_range_says_what_is_missing() -> None:
    obs = gappy()
    filled = obs.fillna(9999.0).assign_attrs(valid_range=np.array([-90, 90], "f4"))
    with pytest.warns(OutlierWarning, match=r"obs has \d+ values outside its own valid range"):
        found = impute(filled, model(), 2)
    alike(found, impute(obs, model(), 2))
    lazy = impute(filled.chunk(time=2), model(), 2)
    with pytest.warns(OutlierWarning, match="valid range"):
        alike(lazy.compute(), found)
    undecoded = obs.fillna(-99.0).assign_attrs(missing_value=np.float32(-99))
    alike(impute(undecoded, model(), 2), found)


@pytest.mark.parametrize(
    ("attrs", "inside"),
    [
        ({"valid_range": np.array([-300, 4500], "i2")}, [-3.0, 45.0]),
        ({"valid_min": np.int16(-300), "valid_max": np.int16(4500)}, [-3.0, 45.0]),
        ({"valid_range": np.array([-3.0, 45.0], "f4")}, [-3.0, 45.0]),
        ({"valid_min": np.float64(-3.0)}, [-3.0, 1e9]),
    ],
)
def test_valid_ranges_of_packed_values_are_packed(attrs: Any, inside: list[float]) -> None:
    values = np.array([*inside, inside[0] - 0.02, inside[1] + 0.02], "f4")
    array = xr.DataArray(values, attrs=attrs)
    array.encoding = {"dtype": np.dtype("i2"), "scale_factor": 0.01, "add_offset": 0.0}
    with pytest.warns(OutlierWarning):
        found = without_invalid(array, "obs")
    assert found.isnull().values.tolist() == [
        False,
        False,
        True,
        len(attrs) == 2 or inside[1] < 1e9,
    ]


def test_the_command_keeps_the_history_of_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1000000000")
    dataset = stale().to_dataset()
    dataset.attrs = {"institution": "here", "title": "Months", "history": "yesterday: made"}
    dataset.encoding["unlimited_dims"] = {"time"}
    obs = write_netcdf(dataset, tmp_path / "obs.nc")
    monkeypatch.setattr(verb, "open_posterior", lambda name: model())
    line = ["impute", str(obs), "model", str(tmp_path / "out.nc"), "--members", "2"]
    line += ["--overwrite"]
    result = CliRunner().invoke(app, line)
    assert result.exit_code == 0, result.output
    with netCDF4.Dataset(tmp_path / "out.nc") as file:
        assert file.history == (
            f"2001-09-09: apsgeo impute {obs} model --members 2\nyesterday: made"
        )
        assert (file.institution, file.title) == ("here", "Months, ensemble")
        assert file.dimensions["time"].isunlimited()
        assert not file.dimensions["lat"].isunlimited()
        assert not {"valid_range", "ancillary_variables"} & set(file["air"].ncattrs())
        assert not np.ma.getmaskarray(file["air"][:]).any()


def test_the_command_takes_noise_from_a_variable_and_controls_quality(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    obs = gappy().copy()
    at = tuple(np.argwhere(obs.notnull().values)[7])
    error = xr.full_like(obs, 0.3).where(obs.notnull()).rename("air_error")
    error[at] = 2.0
    obs[at] += 125.0
    file = write_netcdf(xr.merge([obs.drop_attrs(), error.drop_attrs()]), tmp_path / "obs.nc")
    monkeypatch.setattr(verb, "open_posterior", lambda name: model())

    def run(*options: str) -> Any:
        out = str(tmp_path / "out.nc")
        line = ["impute", str(file), "model", out, "--variable", "air", "--overwrite"]
        return CliRunner().invoke(app, [*line, "--members", "2", *options])

    result = run("--noise-variable", "air_error")
    assert (result.exit_code, "warning: 1 observed values are far" in result.output) == (0, True)
    assert "leave them out by --quality-control reject" in result.output
    with xr.open_dataset(tmp_path / "out.nc") as written:
        alike(written.air.load(), impute(obs, model(), 2, noise_std=error).drop_attrs().compute())
    result = run("--noise-variable", "air_error", "--quality-control", "reject")
    with xr.open_dataset(tmp_path / "out.nc") as written:
        obs[at] = np.nan
        alike(written.air.load(), impute(obs, model(), 2, noise_std=error).drop_attrs().compute())
    result = run("--noise-std", "air_error")
    assert result.exit_code == 2
    assert "by --noise-variable air_error" in " ".join(result.output.split())
    result = run("--noise-std", "1", "--noise-variable", "air_error")
    assert (result.exit_code, "not by several" in result.output) == (2, True)


def test_what_is_unlimited_in_the_file_stays_so(tmp_path: Path) -> None:
    dataset = gappy().to_dataset()
    dataset.encoding["unlimited_dims"] = {"time"}
    with xr.open_dataset(write_netcdf(dataset, tmp_path / "obs.nc")) as opened:
        file = write_ensemble(impute(opened.air, model(), 2), tmp_path / "out.nc")
    with netCDF4.Dataset(file) as written:
        assert [k for k, d in written.dimensions.items() if d.isunlimited()] == ["time"]


def test_values_that_are_still_packed_are_refused() -> None:
    packed = gappy().assign_attrs(scale_factor=0.01, add_offset=273.15)
    with pytest.raises(InputError, match="values are packed; open .* with mask_and_scale=True"):
        impute(packed, model(), 2)
    alike(impute(gappy().assign_attrs(scale_factor=1.0), model(), 2), impute(gappy(), model(), 2))


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_coordinates_are_written_in_a_type_that_holds_them(tmp_path: Path, suffix: str) -> None:
    """That of the file which they came from held other dates, or degrees times a factor."""
    obs = gappy().assign_coords(lat=gappy().lat.copy(), time=gappy().time.copy())
    wanted = obs.coords.to_dataset().copy(deep=True)
    obs.time.encoding = {"units": "days since 1900-01-01", "dtype": "int8", "_FillValue": -127}
    obs.lat.encoding = {"dtype": "int8", "scale_factor": 0.5, "_FillValue": np.int8(-127)}
    obs.lon.encoding = {"dtype": "int16"}
    path = write_ensemble(impute(obs, model(), 2), tmp_path / f"out.{suffix}")
    with open_store(path) as found:
        for name, each in wanted.coords.items():
            np.testing.assert_array_equal(found[name].values, each.values)


def test_what_cannot_be_written_is_said_before_anything_is_drawn(tmp_path: Path) -> None:
    mixed = np.array([1, "b", *range(gappy().sizes["lat"] - 2)], dtype=object)
    odd = gappy().assign_coords(note=("lat", mixed))
    never = gappy().assign_coords(time=gappy().time.copy())
    never.time.encoding = {"units": "days since never"}
    cases: list[tuple[Any, str]] = [
        (impute(odd, model(), 2), "coordinate 'note' cannot be written"),
        (impute(never, model(), 2), "coordinate 'time' cannot be written"),
        (impute(gappy(), model(), 2).stack(p=("lat", "lon")), "'p' cannot be written"),
        (impute(gappy().rename("time"), model(), 2), "no name of its own .* but 'time'"),
        (impute(gappy().rename(None), model(), 2), "no name of its own .* but None"),
        (np.zeros(3), "is a ndarray"),
    ]
    for ensemble, match in cases:
        for suffix in ("nc", "zarr"):
            with pytest.raises(InputError, match=match):
                write_ensemble(ensemble, tmp_path / f"out.{suffix}")
    assert list(tmp_path.iterdir()) == []
    other = gappy().assign_attrs(a=None, b={"x": 1}, c=xr.DataArray(1), d=1j, e=True)
    with xr.open_dataset(write_ensemble(impute(other, model(), 2), tmp_path / "out.nc")) as found:
        assert found.air.attrs["c"] == 1
        assert found.air.attrs["a"] == "None"
