"""The benchmark of one gappy field: skipped without its file, and its scores."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from benchmarks.__main__ import main, parse
from benchmarks.report import RESULTS
from benchmarks.spatial import methods as module
from benchmarks.spatial import suite
from benchmarks.spatial.methods import Prediction, methods
from tests.benchmarks.test_tables import read
from tests.cases import numpy_seeded


def gappy() -> tuple[xr.DataArray, xr.DataArray]:
    """Make a field of slope and waves, and the same with a hole and scattered gaps."""
    lat, lon = np.linspace(34, 36, 60), np.linspace(-95, -92, 60)
    values = lon[None] + np.sin(4 * lat)[:, None] * np.cos(3 * lon)
    truth = xr.DataArray(values, {"lat": lat, "lon": lon}, ("lat", "lon"), name="t")
    hidden = numpy_seeded(0).random(truth.shape) < 0.1
    hidden[20:26, 30:37] = True
    return truth, truth.where(~hidden)


def test_without_its_file_it_is_skipped_with_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    main(["spatial", "--parts", "heaton"])
    assert "give the path of heaton_modis.nc" in capsys.readouterr().out
    options = parse(["spatial", "--parts", "heaton", "--heaton", "nowhere.nc"])
    suite.run(options, "")
    assert "nowhere.nc is no file" in capsys.readouterr().out


def test_scores_are_of_the_held_back_cells_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, observed = gappy()
    path = tmp_path / "field.nc"
    xr.Dataset({"observed": observed, "truth": truth}).to_netcdf(path)
    off = np.where(observed.isnull().values.ravel(), 0.5, 100.0)
    known = Prediction(truth.values.ravel() + off, np.full(off.size, 0.25))
    monkeypatch.setattr(suite, "methods", lambda: {"known": lambda *_: known})
    row, _ = suite.score("known", str(path), 0.0, seed=0, threads=1)
    assert row["cells"] == int(observed.isnull().sum())
    np.testing.assert_allclose([row["mae"], row["rmse"]], 0.5, rtol=1e-6)
    assert row["coverage"] == 0.0
    known = Prediction(known.mean, np.full(off.size, 0.26))
    assert suite.score("known", str(path), 0.0, seed=0, threads=1)[0]["coverage"] == 1.0


def test_noise_that_is_known_is_no_part_of_what_is_predicted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, number in {"_FIRST": 100, "_TRAINED": 12, "_NEAR": 40}.items():
        monkeypatch.setattr(module, name, number)
    lat, lon = np.linspace(34, 36, 30), np.linspace(-95, -92, 40)
    values = 10.0 + np.sin(4 * lat)[:, None] * np.cos(3 * lon)
    truth = xr.DataArray(values, {"lat": lat, "lon": lon}, ("lat", "lon"), name="t")
    rng = numpy_seeded(1)
    seen = rng.random(truth.shape) < 0.9
    observed = (truth + 0.5 * rng.standard_normal(truth.shape)).where(seen)
    fill = methods()["nearest-neighbour kriging"]
    with_noise, without = fill(observed, 0.5, 0), fill(observed, 0.0, 0)
    hidden = ~seen.ravel()
    error = with_noise.mean[hidden] - truth.values.ravel()[hidden]
    assert np.sqrt(np.mean(error**2)) < 0.3
    assert np.median(with_noise.std[hidden]) < 0.3
    assert np.median(without.std[hidden]) > 0.4  # a white part takes the noise's place


@pytest.mark.parametrize("part", suite.CASES)
def test_the_committed_table_is_made_of_its_numbers(part: str) -> None:
    rows = read(RESULTS / "spatial" / f"{part}.csv")
    said = (RESULTS / "spatial" / f"{part}.md").read_text(encoding="utf-8")
    assert suite.table(suite.CASES[part].units).markdown(rows).strip() in said
