"""Ensembles on disk: netCDF and Zarr, gone on with after a kill, added to."""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import apsgeo
import apsgeo.xarray
from apsgeo.errors import InputError, OutputExistsError
from apsgeo.labels import lazy
from apsgeo.output import blocks
from apsgeo.output.blocks import parts_folder
from apsgeo.output.write import write_ensemble
from apsgeo.posterior import Posterior
from apsgeo.xarray import impute
from tests.statistics.test_statistics import CountedPrior, fields, model

STATISTICS = ["mean", "area"]


@pytest.fixture
def posterior() -> Posterior:
    return model()


@pytest.fixture
def obs(posterior: Posterior) -> xr.DataArray:
    return fields(posterior, 6).chunk(time=2)


def contents(path: Path) -> str:
    """Checksum of a file, or of all files of a folder."""
    if path.is_file():
        return hashlib.sha256(path.read_bytes()).hexdigest()
    each = sorted(file for file in path.rglob("*") if file.is_file())
    return hashlib.sha256(
        b"".join(str(f.relative_to(path)).encode() + f.read_bytes() for f in each)
    ).hexdigest()


def opened(path: Path) -> xr.Dataset:
    if path.suffix == ".zarr":
        return xr.open_zarr(path, consolidated=False).load()
    return xr.load_dataset(path)


@pytest.mark.parametrize("name", ["out.nc", "out.zarr"])
@pytest.mark.parametrize("statistics", [None, STATISTICS])
@pytest.mark.parametrize("resume", [None, "this one"])
def test_what_is_written_is_what_was_drawn(
    obs: xr.DataArray,
    posterior: Posterior,
    tmp_path: Path,
    name: str,
    statistics: list[str] | None,
    resume: str | None,
) -> None:
    made: Any = impute(obs, posterior, 5, 2, statistics=statistics)
    path = write_ensemble(made, tmp_path / name, attrs={"title": "filled"}, resume=resume)
    found = opened(path)
    expected = made.compute() if statistics else made.to_dataset(name="air").compute()
    xr.testing.assert_equal(found, expected)
    assert found.attrs["title"] == "filled"
    for variable in expected.data_vars:
        assert found[variable].dtype == expected[variable].dtype
        assert found[variable].attrs.items() >= expected[variable].attrs.items()
    assert [each.name for each in tmp_path.iterdir()] == [name]
    with pytest.raises(OutputExistsError):
        write_ensemble(made, path)
    before = contents(path)
    write_ensemble(made, path, overwrite=True, attrs={"title": "filled"}, resume=resume)
    assert contents(path) == before


@pytest.mark.parametrize("name", ["out.nc", "out.zarr"])
def test_a_stopped_call_goes_on_to_the_same_bytes(
    obs: xr.DataArray,
    posterior: Posterior,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted: Any = posterior.method
    assert isinstance(counted, CountedPrior)

    def write(path: Path, identity: str = "a") -> Path:
        ensemble = impute(obs, posterior, 5, 2)
        return write_ensemble(ensemble, path, overwrite=True, resume=identity)

    expected = contents(write(tmp_path / "whole" / name))
    draw, stops = blocks._draw, [2]

    def stopped(part: xr.Dataset, file: Path) -> None:
        stops[0] -= 1
        if stops[0] < 0:
            raise KeyboardInterrupt
        draw(part, file)

    monkeypatch.setattr(blocks, "_draw", stopped)
    path = tmp_path / name
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert not path.exists()
    assert len(list(parts_folder(path).glob("*.nc"))) == 2
    monkeypatch.setattr(blocks, "_draw", draw)
    counted.conditioned = 0
    assert contents(write(path)) == expected
    assert counted.conditioned == 1  # only the last of three blocks
    assert not parts_folder(path).exists()


def test_blocks_of_another_call_are_not_used(
    obs: xr.DataArray, posterior: Posterior, tmp_path: Path
) -> None:
    path = tmp_path / "out.nc"
    folder = parts_folder(path)
    folder.mkdir()
    (folder / "identity.json").write_text('{"sha256": "of another"}')
    (folder / "000000.nc").write_bytes(b"another")
    write_ensemble(impute(obs, posterior, 3), path, resume="mine")
    assert bool(opened(path)["air"].notnull().any())


@pytest.mark.parametrize("name", ["out.nc", "out.zarr"])
@pytest.mark.parametrize("statistics", [None, STATISTICS])
def test_records_are_added(
    obs: xr.DataArray,
    posterior: Posterior,
    tmp_path: Path,
    name: str,
    statistics: list[str] | None,
) -> None:
    path, counted = tmp_path / name, posterior.method
    assert isinstance(counted, CountedPrior)
    write_ensemble(impute(obs[:4], posterior, 5, 2, statistics=statistics), path, append=True)
    counted.conditioned = 0
    write_ensemble(impute(obs, posterior, 5, 2, statistics=statistics), path, append=True)
    assert counted.conditioned == 1  # what was there is not drawn again
    write_ensemble(impute(obs, posterior, 5, 2, statistics=statistics), tmp_path / f"all{name}")
    xr.testing.assert_identical(opened(path), opened(tmp_path / f"all{name}"))
    before = contents(path)
    write_ensemble(impute(obs, posterior, 5, 2, statistics=statistics), path, append=True)
    assert contents(path) == before


def test_earlier_records_come_before(
    obs: xr.DataArray, posterior: Posterior, tmp_path: Path
) -> None:
    path = tmp_path / "out.nc"
    for part in (obs[4:], obs[:2], obs[2:4]):
        write_ensemble(impute(part, posterior, 3), path, append=True)
    xr.testing.assert_allclose(opened(path)["air"], impute(obs, posterior, 3).compute())


def test_only_records_of_the_same_ensemble_are_added(
    obs: xr.DataArray, posterior: Posterior, tmp_path: Path
) -> None:
    path = write_ensemble(impute(obs[:2], posterior, 3), tmp_path / "out.nc")
    before = contents(path)
    rest = obs[2:]
    cases: list[tuple[Any, str]] = [
        (impute(rest, posterior, 3, seed=1), "seed 0"),
        (impute(rest, posterior, 4), "'member'"),
        (impute(rest, posterior, 3, noise_std=0.5), "noise_std"),
        (impute(rest, posterior, 3).rename("tas"), "variables air"),
        (impute(rest, posterior, 3, statistics=["mean"]), "air_mean"),
        (impute(obs[4], posterior, 3), "no dim of dates"),
    ]
    for other, match in cases:
        with pytest.raises(InputError, match=match):
            write_ensemble(other, path, append=True)
    assert contents(path) == before


def test_a_folder_that_is_no_store_is_not_replaced(
    obs: xr.DataArray, posterior: Posterior, tmp_path: Path
) -> None:
    folder = tmp_path / "out.zarr"
    folder.mkdir()
    (folder / "thesis.tex").write_text("mine")
    with pytest.raises(OutputExistsError):
        write_ensemble(impute(obs, posterior, 3), folder, overwrite=True)
    assert (folder / "thesis.tex").exists()


def test_members_of_one_record_in_several_blocks_are_written(
    obs: xr.DataArray, posterior: Posterior, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lazy, "_RECORD_BYTES", 4 * 24 * 4)
    monkeypatch.setattr(lazy, "_BLOCK_BYTES", 4 * 24 * 4)
    ensemble = impute(obs, posterior, 10)
    assert ensemble.chunks is not None
    assert ensemble.chunks[0] == (4, 4, 2)
    for name in ("out.nc", "out.zarr"):
        path = write_ensemble(ensemble, tmp_path / name, resume="a")
        np.testing.assert_array_equal(opened(path)["air"], ensemble)


def test_it_is_a_public_name() -> None:
    assert apsgeo.write_ensemble is write_ensemble
    assert apsgeo.xarray.write_ensemble is write_ensemble  # as in version 0.2


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_records_are_not_added_to_what_is_no_ensemble(tmp_path: Path, suffix: str) -> None:
    posterior = model()
    path = tmp_path / f"rubbish.{suffix}"
    path.write_text("x") if suffix == "nc" else path.mkdir()
    with pytest.raises(InputError, match="holds no ensemble that records can be added to"):
        write_ensemble(impute(fields(posterior), posterior, 2), path, append=True)
