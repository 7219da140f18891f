"""The part field of the benchmark history: skipped without its file, and its scores."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from benchmarks.__main__ import main, parse
from benchmarks.history import field
from benchmarks.history.field import Prediction
from benchmarks.report import RESULTS
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
    main(["history", "--parts", "field"])
    assert "give the path of heaton_modis.nc" in capsys.readouterr().out
    options = parse(["history", "--heaton", "nowhere.nc"])
    field.run(options, "")
    assert "nowhere.nc is no file" in capsys.readouterr().out


def test_scores_are_of_the_held_back_cells_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth, observed = gappy()
    path = tmp_path / "field.nc"
    xr.Dataset({"observed": observed, "truth": truth}).to_netcdf(path)
    off = np.where(observed.isnull().values.ravel(), 0.5, 100.0)
    known = Prediction(truth.values.ravel() + off, np.full(off.size, 0.25))
    monkeypatch.setattr(field, "_methods", lambda: {"known": lambda *_: known})
    row, _ = field.score("known", str(path), seed=0, threads=1)
    assert row["cells"] == int(observed.isnull().sum())
    np.testing.assert_allclose([row["mae"], row["rmse"]], 0.5, rtol=1e-6)
    assert row["coverage"] == 0.0
    known = Prediction(known.mean, np.full(off.size, 0.26))
    assert field.score("known", str(path), seed=0, threads=1)[0]["coverage"] == 1.0


@pytest.mark.skipif(
    not (RESULTS / "history" / "field.csv").exists(), reason="the table has not been made yet"
)
def test_the_committed_table_is_made_of_its_numbers() -> None:
    rows = read(RESULTS / "history" / "field.csv")
    said = (RESULTS / "history" / "field.md").read_text(encoding="utf-8")
    assert field.TABLE.markdown(rows).strip() in said
