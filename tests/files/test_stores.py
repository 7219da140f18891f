"""Fields in files of every kind: groups, Zarr of both versions, and patterns of many files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import cftime
import numpy as np
import pytest
import typer
import xarray as xr
from typer.testing import CliRunner

from apsgeo.console import Commands
from apsgeo.errors import InputError
from apsgeo.files.stores import is_zarr, matching, open_store, read_provenance
from apsgeo.io import read_field, read_fields, write_netcdf
from tests.cases import numpy_seeded


@pytest.fixture(scope="module")
def field() -> xr.DataArray:
    values = numpy_seeded(0).normal(size=(6, 3, 4)).astype(np.float32)
    coords = {
        "time": xr.date_range("2000-01-01", periods=6, freq="MS"),
        "lat": [10.0, 0.0, -10.0],
        "lon": [0.0, 10.0, 20.0, 30.0],
    }
    return xr.DataArray(values, coords, ("time", "lat", "lon"), "air", {"units": "degC"})


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("group", [None, "deep/down"])
@pytest.mark.parametrize("consolidated", [True, False])
def test_zarr(
    field: xr.DataArray, tmp_path: Path, version: Any, group: str | None, consolidated: bool
) -> None:
    store = tmp_path / "store.zarr"
    field.to_dataset().to_zarr(
        store, zarr_format=version, group=group, consolidated=consolidated and group is None
    )
    assert is_zarr(store)
    xr.testing.assert_identical(read_field(store, group=group).compute(), field)
    if group is not None:
        xr.testing.assert_identical(read_field(store, "deep/down/air").compute(), field)
        with pytest.raises(InputError, match=r"in groups; name one of deep, deep/down: group="):
            read_field(store)
    with pytest.raises(
        InputError, match=r"group 'nonsense' of .*store.zarr cannot be read as Zarr"
    ):
        read_field(store, group="nonsense")


def test_what_is_no_zarr_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is not a folder; give the path of a Zarr store"):
        open_store(tmp_path / "none.zarr")
    broken = tmp_path / "broken.zarr"
    broken.mkdir()
    (broken / "zarr.json").write_text("{")
    with pytest.raises(InputError, match="cannot be read as Zarr"):
        open_store(broken)


def test_a_store_holds_files_alone(field: xr.DataArray, tmp_path: Path) -> None:
    """A chunk that is linked to a device would never end, and a pipe never begin."""
    store, kept = tmp_path / "store.zarr", tmp_path / "kept"
    field.to_dataset().to_zarr(store, zarr_format=2, consolidated=False)
    chunk = store / "air" / "0.0.0"
    chunk.rename(kept)
    chunk.symlink_to(kept)
    (store / "again").symlink_to(store)
    xr.testing.assert_identical(read_field(store).compute(), field)
    chunk.unlink()
    for make in (lambda: chunk.symlink_to("/dev/zero"), lambda: os.mkfifo(chunk)):
        make()
        with pytest.raises(InputError, match=r"0.0.0 is no file, but a link to nowhere, a device"):
            read_field(store)
        chunk.unlink()


def test_faults_of_readers_are_told_in_one_line() -> None:
    """Values are read late, when members are drawn, by libraries that have errors of their own."""
    verbs = typer.Typer(cls=Commands)

    @verbs.callback()
    def _() -> None:
        """Do nothing."""

    @verbs.command()
    def read() -> None:
        cftime.num2date(0, "nonsense since never")

    @verbs.command()
    def fault() -> None:
        raise ValueError("ours")

    done = CliRunner().invoke(verbs, ["read"])
    assert done.exit_code == 2
    assert done.stderr.startswith("error: a file is damaged, its values cannot be read: ")
    assert isinstance(CliRunner().invoke(verbs, ["fault"]).exception, ValueError)


def test_files_of_a_pattern_follow_each_other(field: xr.DataArray, tmp_path: Path) -> None:
    for number, part in enumerate((field[3:], field[:3])):  # by their times, not by their names
        write_netcdf(part.assign_attrs(field.attrs), tmp_path / f"obs_{number}.nc")
    pattern = str(tmp_path / "obs_*.nc")
    assert len(matching(pattern)) == 2
    found = read_field(pattern)
    assert found.chunks is not None
    xr.testing.assert_identical(found.compute(), field)
    xr.testing.assert_identical(found.time.compute(), field.time)
    assert read_provenance(pattern, "cmd")[0]["history"].endswith(": cmd")
    with pytest.raises(InputError, match=r"no file matches .*none_\*.nc"):
        read_field(str(tmp_path / "none_*.nc"))
    write_netcdf(field.isel(lat=[0]), tmp_path / "obs_2.nc")
    with pytest.raises(InputError, match="do not fit together.*give files of one grid"):
        read_field(pattern)


def test_several_variables(field: xr.DataArray, tmp_path: Path) -> None:
    both = xr.Dataset(
        {"u": field, "v": 2 * field.assign_attrs(units="m")}, attrs={"title": "winds"}
    )
    path = write_netcdf(both.assign(w=field), tmp_path / "winds.nc")
    found = read_fields(path, ["u", "v"])
    assert isinstance(found, xr.Dataset)
    xr.testing.assert_identical(found, both.assign(v=both.v))
    xr.testing.assert_identical(read_fields(path, ["u"]), both.u)
    with pytest.raises(InputError, match="no variable 'q'"):
        read_fields(path, ["u", "q"])


def test_files_of_two_units_are_refused(field: xr.DataArray, tmp_path: Path) -> None:
    field[:3].to_netcdf(tmp_path / "a.nc")
    (field[3:] + 273.15).assign_attrs(units="K").to_netcdf(tmp_path / "b.nc")
    with pytest.raises(InputError, match=r"air has units 'degC' in .*a.nc and 'K' in .*b.nc"):
        open_store(tmp_path / "*.nc")
