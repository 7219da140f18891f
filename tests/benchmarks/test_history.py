"""The benchmark of histories: its masks, and its scores of global means."""

import numpy as np
import pytest

import apsgeo
from apsgeo.baselines.gaussian import climatology
from apsgeo.posterior import Posterior
from apsgeo.protocol import NcepProtocol
from benchmarks.amortized import cases
from benchmarks.history.gaps import hide
from benchmarks.history.trend import score
from tests.cases import monthly, numpy_seeded

LAT, LON = np.arange(90.0, -91.0, -10.0), np.arange(0.0, 360.0, 10.0)


@pytest.fixture(autouse=True)
def _ships(monkeypatch: pytest.MonkeyPatch) -> None:
    known = np.zeros((12, 90, 180), dtype=bool)
    known[:, 30:80] = True  # what shifts along latitude move
    monkeypatch.setattr(cases, "_sea_surface", lambda: known)


@pytest.mark.parametrize("share", [0.3, 0.7])
def test_each_month_lacks_the_share_and_each_cell_is_seen_alike(share: float) -> None:
    months = monthly(np.zeros((400, len(LAT), len(LON))), LAT, LON, "degC")
    hidden = hide(months, share, 0).isnull().values
    size = len(LAT) * len(LON)
    assert set(hidden.sum((1, 2)).tolist()) == {round(share * size)}
    # A month's mask is of bands: cells of a row are alike, so that months count, not cells.
    error = np.sqrt(share * (1 - share) / len(months))
    assert np.abs(hidden.mean(0) - share).max() < 5.5 * error
    assert np.array_equal(hidden, hide(months, share, 0).isnull().values)
    assert not np.array_equal(hidden, hide(months, share, 1).isnull().values)


def test_a_bias_of_all_members_is_that_of_the_global_mean() -> None:
    years = np.arange(1955, 2012)
    rng = numpy_seeded(0)
    values = rng.standard_normal((12 * len(years), len(LAT), len(LON))).astype(np.float32)
    time = np.arange("1955-01", "2012-01", dtype="datetime64[M]").astype("datetime64[ns]")
    values[time >= np.datetime64("2010")] += 2.0
    field = monthly(values, LAT, LON, "degC").assign_coords(time=time)
    protocol = NcepProtocol(field)
    prior = protocol.prior(apsgeo.HybridScales())
    model = Posterior.of(prior, climatology(prior), apsgeo.Mask(), noise_std=0.25)
    found = score(model, protocol, protocol.test, 0.01, members=30)
    assert found["records"] == len(protocol.test)
    # Climatology is 2 K too cold but where it was observed, a hundredth of the area.
    assert abs(found["bias"] + 2.0) < 0.15
    assert found["coverage90"] == 0.0
