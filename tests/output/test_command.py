"""What the command writes and says: statistics, plans, logs, and the same bytes after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from apsgeo.io import write_netcdf
from apsgeo.output.blocks import parts_folder
from tests.cases import alike
from tests.test_cli import anchored, done, field, names, obs, prior, run, saved, sha256

__all__ = ["anchored", "field", "obs", "prior", "saved"]  # fixtures


@pytest.fixture
def gappy(obs: xr.DataArray, tmp_path: Path) -> Path:
    return write_netcdf(obs, tmp_path / "gappy.nc")


@pytest.mark.parametrize("suffix", ["nc", "zarr"])
def test_statistics_in_place_of_members(gappy: Path, saved: Path, suffix: str) -> None:
    members, output = gappy.parent / "members.nc", gappy.parent / f"statistics.{suffix}"
    done("impute", gappy, saved, members, "--members", 9)
    options = ("--statistics", "mean,q05,q95,p>10,area", "--region", "north=0,90,-180,180")
    said = done("impute", gappy, saved, output, "--members", 9, *options)
    assert said.splitlines()[-1].startswith(f"{output}: ")
    ensemble = xr.load_dataset(members)["air"]
    found = (
        xr.open_zarr(output, consolidated=False) if suffix == "zarr" else xr.open_dataset(output)
    )
    with found:
        alike(found["air_mean"].values, ensemble.mean("member").values)
        quantiles = ensemble.quantile([0.05, 0.95], "member").astype("f4")
        alike(found["air_quantile"].values, quantiles.values)
        assert found["air_area_mean"].sizes == {"member": 9, "region": 1, "time": 5}
        assert found.attrs["history"].count("--statistics") == 1
        assert found.attrs["model_sha256"] == ensemble.attrs["model_sha256"]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        (("--statistics", "meen"), "'meen' is no statistic"),
        (("--region", "north=0,90,0,10"), "give both"),
        (("--statistics", "mean", "--region", "north=0,90,0,10"), "give both"),
        (("--statistics", "area", "--region", "north"), "NAME=SOUTH,NORTH,WEST,EAST"),
        (("--statistics", "area", "--region", "n=90,0,0,10"), "south < north"),
    ],
)
def test_statistics_that_cannot_be_read(
    gappy: Path, saved: Path, options: tuple[str, ...], match: str
) -> None:
    result = run("impute", gappy, saved, gappy.parent / "no.nc", *options)
    assert result.exit_code == 2
    assert match in result.stderr
    assert result.stderr.count("\n") == 1
    assert names(gappy.parent) == ["gappy.nc"]


def test_records_are_appended(obs: xr.DataArray, gappy: Path, saved: Path) -> None:
    folder = gappy.parent
    early, output, whole = folder / "early.nc", folder / "out.nc", folder / "whole.nc"
    write_netcdf(obs[:3], early)
    for each in (early, gappy):
        done("impute", each, saved, output, "--members", 3, "--append")
    done("impute", gappy, saved, whole, "--members", 3)
    alike(xr.load_dataset(output)["air"], xr.load_dataset(whole)["air"])
    result = run("impute", gappy, saved, output, "--members", 4, "--append")
    assert result.exit_code == 2
    assert "'member'" in result.stderr


def test_a_plan_writes_nothing(gappy: Path, saved: Path) -> None:
    output = gappy.parent / "out.nc"
    said = done("impute", gappy, saved, output, "--members", 50, "--dry-run")
    assert "plan: 5 records, 50 members each: air (member 50, time 5, lat 7, lon 8)" in said
    assert all(part in said for part in ("time: about", "memory: about", "output: "))
    assert names(gappy.parent) == ["gappy.nc"]
    plan = json.loads(done("--json", "impute", gappy, saved, output, "--dry-run").splitlines()[-1])
    assert plan["event"] == "plan"
    assert plan["output_bytes"] > 64 * 5 * 56 * 4


def test_logs_are_json(gappy: Path, saved: Path) -> None:
    output = gappy.parent / "out.nc"
    result = run("--json", "impute", gappy, saved, output, "--members", 3)
    records = [json.loads(line) for line in result.stdout.splitlines()]
    assert records[-1]["event"] == "done"
    assert records[-1]["sizes"] == {"member": 3, "time": 5, "lat": 7, "lon": 8}
    assert all(json.loads(line)["event"] for line in result.stderr.splitlines())
    result = run("--json", "impute", gappy, saved, output)
    assert result.exit_code == 2
    record = json.loads(result.stderr)
    assert record["event"] == "error"
    assert "exists" in record["message"]


def test_no_bars_beside_a_terminal(gappy: Path, saved: Path) -> None:
    result = run("impute", gappy, saved, gappy.parent / "out.nc", "--members", 3)
    assert "%|" not in result.output


def test_ctrl_c_has_a_status_of_its_own(
    gappy: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("apsgeo.output.write.drawn_in_blocks", stopped)
    result = run("impute", gappy, saved, gappy.parent / "out.nc")
    assert result.exit_code == 130
    assert "interrupted" in result.stderr


@pytest.mark.same_bits
def test_a_killed_run_goes_on_to_the_same_bytes(
    gappy: Path, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed by SIGKILL once a block is drawn; what is left is a hidden folder alone."""
    folder, members = gappy.parent, 20_000  # of which three records make a block
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0"}

    def start(output: Path) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "apsgeo", "impute", gappy, saved, output]
        options = ["--members", members, "--statistics", "mean"]
        return subprocess.Popen([*map(str, command), *map(str, options)], env=environment)

    output = folder / "out.nc"
    process = start(output)
    while process.poll() is None and not list(parts_folder(output).glob("*.nc")):
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not output.exists() or process.returncode == 0
    assert start(output).wait() == 0
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    done("impute", gappy, saved, folder / "whole.nc", "--members", members, "--statistics", "mean")
    assert sha256(output) == sha256(folder / "whole.nc")
    assert names(folder) == ["gappy.nc", "out.nc", "whole.nc"]
    assert bool(np.isfinite(xr.load_dataset(output)["air_mean"]).all())


def test_a_fit_says_how_long_it_takes(field: xr.DataArray, tmp_path: Path) -> None:
    history = write_netcdf(field[:48], tmp_path / "history.nc")
    said = done("fit", history, tmp_path / "prior", "--rank", 3, "--steps", 0, "--dry-run")
    assert said.startswith("fit: about")
    assert "hybrid scales" in said
    assert names(tmp_path) == ["history.nc"]
