"""The benchmark of honesty: what it observes, and the coverage that it finds."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from benchmarks.__main__ import main
from benchmarks.honesty import suite
from benchmarks.honesty.records import RECORDS, Record, gappy
from tests.cases import monthly, numpy_seeded

LAT, LON = np.arange(80.0, -81.0, -20.0), np.arange(0.0, 360.0, 30.0)


def _record() -> Record:
    """Return ten years of a field of a few waves, and a year of another time."""
    rng = numpy_seeded(0)
    angle = np.deg2rad(LON) * np.arange(1, 4)[:, None]
    waves = rng.standard_normal((132, 3, 1, 1)) * np.sin(angle)[:, None]
    height = np.cos(np.deg2rad(LAT))[:, None] * waves.sum(1)
    noise = 0.3 * rng.standard_normal((132, len(LAT), len(LON)))
    field = monthly((height + noise).astype(np.float32), LAT, LON, "m")
    return Record(field[:120], field[120:], 0.1)


def test_observations_are_noisy_truth_at_a_share_of_the_area() -> None:
    record = _record()
    observed = gappy(record, 0.3, 0)
    weight = np.cos(np.deg2rad(record.later["lat"]))
    seen = (observed.notnull() * weight).mean() / weight.mean()
    count = observed.size
    assert abs(float(seen) - 0.3) < 4 * np.sqrt(0.3 * 0.7 / count * 1.5)
    error = (observed - record.later).values
    error = error[np.isfinite(error)]
    assert abs(error.std() / record.noise_std - 1.0) < 4 / np.sqrt(2 * error.size)
    xr.testing.assert_identical(observed, gappy(record, 0.3, 0))


@pytest.mark.filterwarnings("ignore")
def test_a_run_scores_start_and_flow_and_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = next(iter(RECORDS))
    monkeypatch.setitem(RECORDS, name, _record)
    arguments = ["honesty", "--parts", name, "--steps", "2", "--members", "8"]
    arguments += ["--densities", "0.3", "--rows", str(tmp_path / "rows")]
    arguments += ["--output", str(tmp_path), "--figures", str(tmp_path)]
    main(arguments)
    kept = next((tmp_path / "rows").rglob("*.json"))
    rows = json.loads(kept.read_text("utf-8"))
    assert [row["method"] for row in rows] == ["untrained start", "APS"]
    for row in rows:
        assert 0.5 < row["spread_skill"] < 2.0
        assert {*suite.BANDS} <= {*row}
    page = (tmp_path / "honesty" / "records.md").read_bytes()
    monkeypatch.setattr(suite, "filled", None)  # a second run does nothing again
    main(arguments)
    assert (tmp_path / "honesty" / "records.md").read_bytes() == page
    assert (tmp_path / "honesty.png").exists()
