"""The benchmark of one network evaluation: its cases and its scores of whole fields."""

import numpy as np
import pytest
import torch

from apsgeo.domains import LatLonDomain
from apsgeo.metrics.scores import crps_ensemble
from apsgeo.protocol import NcepProtocol
from benchmarks.amortized import cases
from benchmarks.amortized.cases import CASES, observe
from benchmarks.amortized.figure import draw
from benchmarks.amortized.scores import BANDS, FieldScores
from benchmarks.amortized.suite import TABLE, against_start
from tests.cases import monthly, numpy_seeded

LAT, LON = np.arange(90.0, -91.0, -5.0), np.arange(0.0, 360.0, 5.0)


@pytest.fixture(scope="module")
def protocol() -> NcepProtocol:
    years = np.arange(1955, 2012)
    values = numpy_seeded(0).standard_normal((12 * len(years), len(LAT), len(LON)))
    field = monthly(values.astype(np.float32), LAT, LON, "degC")
    time = np.arange("1955-01", "2012-01", dtype="datetime64[M]").astype("datetime64[ns]")
    return NcepProtocol(field.assign_coords(time=time))


@pytest.fixture(autouse=True)
def _ships(monkeypatch: pytest.MonkeyPatch) -> None:
    known = numpy_seeded(1).random((12, 90, 180)) < 0.5
    monkeypatch.setattr(cases, "_sea_surface", lambda: known)


@pytest.mark.parametrize("name", CASES)
def test_a_month_is_measured_alike_each_time(protocol: NcepProtocol, name: str) -> None:
    month = int(protocol.test[3])
    first, again = observe(protocol, month, name), observe(protocol, month, name)
    assert torch.equal(first.values, again.values)
    assert torch.equal(first.mask, again.mask)
    assert first.season is not None
    assert first.season.tolist() == [int(protocol.season[month])]
    seen = first.mask[0, 0].numpy()
    assert 0 < seen.sum() < seen.size
    error = first.values[0, 0].numpy()[seen] - protocol.values[month][seen]
    assert abs(error.std() / protocol.noise_std - 1) < 5 / np.sqrt(2 * seen.sum())
    other = observe(protocol, int(protocol.test[4]), name)
    assert not torch.equal(first.values, other.values)


@pytest.mark.parametrize("name", ["5 %", "ships"])
def test_neighbours_do_not_change_a_month(protocol: NcepProtocol, name: str) -> None:
    month = int(protocol.test[5])
    alone, among = observe(protocol, month, name), observe(protocol, month, name, 2)
    assert torch.equal(among.values, alone.values)
    assert torch.equal(among.mask, alone.mask)
    assert among.around is not None
    assert len(among.around) == 5
    before = observe(protocol, month - 2, name)
    assert torch.equal(among.around.values[0], before.values[0])
    assert torch.equal(among.around.mask[0], before.mask[0])


def test_a_flow_is_compared_with_its_start_month_by_month() -> None:
    start = {"case": "5 %", "method": "anchor, local gain", "crps_by_month": [1.0, 2.0, 3.0]}
    flow = {"case": "5 %", "method": "APS", "crps_by_month": [0.9, 1.9, 2.9]}
    former = {"case": "5 %", "method": "APS 0.2", "crps_by_month": [1.0, 1.0, 1.0]}
    rows = against_start([start, flow, former])
    assert rows[1]["start_ratio"] == pytest.approx(0.95)
    assert rows[1]["start_error"] == pytest.approx(0.0, abs=1e-12)
    assert "start_ratio" not in {*rows[0], *rows[2]}


def test_power_is_that_of_the_harmonics_of_a_band() -> None:
    domain = LatLonDomain(np.linspace(90, -90, 73), np.arange(0, 360, 2.5))
    scores = FieldScores(domain, domain.areas.numpy())
    found = domain.continuous_eigenbasis(49)
    assert found is not None
    field = found[1].numpy()[:, 36:49].sum(1)  # the thirteen harmonics of degree 6
    # quadrature on the grid is not exact: rows are weighted by their areas
    np.testing.assert_allclose(scores.power(field), [0, 13, 0, 0, 0], atol=0.05)
    assert [low for low, _ in BANDS[1:]] == [high + 1 for _, high in BANDS[:-1]]


def test_scores_of_records_are_pooled(protocol: NcepProtocol, tmp_path) -> None:  # type: ignore[no-untyped-def]
    scores = FieldScores(protocol.domain, protocol.weights)
    rng = numpy_seeded(2)
    nodes = protocol.domain.num_nodes
    records = []
    for _ in range(6):
        members, truth = rng.standard_normal((40, nodes)), rng.standard_normal(nodes)
        seen = rng.random(nodes) < 0.2
        records.append(scores.record(members, truth, seen, np.zeros(nodes)))
        weights = np.where(seen, 0, protocol.weights)
        expected = (crps_ensemble(members, truth) * weights).sum() / weights.sum()
        assert records[-1]["crps"] == pytest.approx(expected)
    pooled = FieldScores.pooled(records)
    assert pooled["spread_skill"] == pytest.approx(1.0, abs=0.03)
    assert pooled["coverage90"] == pytest.approx(0.9, abs=0.02)
    for band in range(len(BANDS)):  # noise has power in every band; few harmonics tell it loosely
        assert pooled[f"power_{band}"] == pytest.approx(1.0, abs=0.6)
    rows = [
        {"case": case, "method": method, "compared": case, **pooled, "seconds": 0.1, "records": 6}
        for case in ("5 %", "ships")
        for method in ("localised, exact", "APS")
    ]
    assert TABLE.markdown(rows).count("\n") >= 5
    assert draw(rows, tmp_path).endswith("amortized.png")
    assert (tmp_path / "amortized.png").stat().st_size > 10_000
