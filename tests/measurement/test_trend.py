"""Trends of normals: fitted, extrapolated, saved, and corrected by observations."""

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.measurement import Measurement, Normals
from apsgeo.measurement.trend import Index, Trend
from tests.cases import noise

YEAR = 365.25 * 86400e6
TIMES = torch.arange(40 * 12, dtype=torch.float64) / 12.0 * YEAR
AREAS = torch.linspace(1.0, 2.0, 50, dtype=torch.float64)
SLOPE = 0.5 + torch.linspace(-0.2, 0.2, 50, dtype=torch.float64)[None]


def anomalies(times: Tensor, seed: int = 0) -> Tensor:
    decades = (times - TIMES.mean()) / (10.0 * YEAR)
    white = noise(len(times), 1, 50, seed=seed)
    return decades[:, None, None] * SLOPE + 0.3 * white


def test_slopes_are_recovered_within_their_errors() -> None:
    later = TIMES[-1] + torch.arange(1, 121, dtype=torch.float64) / 12.0 * YEAR
    held = anomalies(later, 1), later
    found = Trend.fit(Index.linear(TIMES), anomalies(TIMES), TIMES, AREAS, held)
    error = 0.3 / (480 * 40.0**2 / 12.0 / 100.0) ** 0.5
    assert float((found.pattern - SLOPE).abs().max()) < 5.0 * error + 0.05
    rise = found.shift(later)[-1] - found.shift(TIMES)[0]
    years = float(later[-1] - TIMES[0]) / YEAR
    torch.testing.assert_close(rise, found.pattern * years / 10.0, rtol=1e-5, atol=1e-6)


def test_slopes_that_held_out_records_deny_are_shrunk_away() -> None:
    later = TIMES[-1] + torch.arange(1, 121, dtype=torch.float64) / 12.0 * YEAR
    held = -anomalies(later, 1), later
    found = Trend.fit(Index.linear(TIMES), anomalies(TIMES), TIMES, AREAS, held)
    assert float(found.pattern.abs().max()) == 0.0


def test_the_index_is_zero_in_the_mean_of_the_baseline() -> None:
    baseline = torch.arange(480) < 120
    found = Trend.fit(Index.linear(TIMES), anomalies(TIMES), TIMES, AREAS, baseline=baseline)
    assert abs(float(found.index.at(TIMES[:120]).mean())) < 1e-9
    assert float(found.index.at(TIMES[-1:])) > 3.0


def test_amplitudes_are_sure_in_the_history_and_less_and_less_after_it() -> None:
    found = Trend.fit(Index.linear(TIMES), anomalies(TIMES), TIMES, AREAS)
    after = TIMES[-1] + torch.tensor([5.0, 10.0, 20.0]) * YEAR
    wander = found.wander(torch.cat([TIMES[:1], TIMES[-1:], after]))
    torch.testing.assert_close(wander[1:2], wander[:1])
    assert bool((wander[1:].diff() > 0).all())


def test_a_given_index_is_read_between_its_knots_and_stays_beyond_them() -> None:
    knots = torch.tensor([0.0, 10.0]).double(), torch.tensor([1.0, 3.0]).double()
    index = Index(*knots, extend=False)
    assert index.at(torch.tensor([-5.0, 5.0, 20.0])).tolist() == [1.0, 2.0, 3.0]
    line = Index(*knots, extend=True)
    assert line.at(torch.tensor([-5.0, 5.0, 20.0])).tolist() == [0.0, 2.0, 5.0]
    with pytest.raises(InputError, match="same at all records"):
        Trend.fit(
            Index(TIMES[[0, -1]], torch.ones(2).double(), False), anomalies(TIMES), TIMES, AREAS
        )


def test_normals_with_a_trend_standardize_and_restore_and_are_saved() -> None:
    trend = Trend.fit(Index.linear(TIMES), anomalies(TIMES), TIMES, AREAS)
    normals = Normals(torch.full((1, 1, 50), 15.0), torch.full((1, 1, 50), 2.0), AREAS > 0, trend)
    normals = Normals.from_tensors(normals.to_tensors())
    season, time = torch.zeros(3, dtype=torch.long), TIMES[[0, 200, 479]]
    fields = 15.0 + noise(3, 1, 50)
    anomaly = normals.standardize(fields, season, time)
    expected = (fields - 15.0) / 2.0 - trend.shift(time)
    torch.testing.assert_close(anomaly, expected, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(normals.restore(anomaly, season, time), fields)
    measured = normals.measure(
        Measurement(
            fields, torch.ones(fields.shape, dtype=torch.bool), torch.ones(()), instant=time
        )
    )
    torch.testing.assert_close(measured.values, anomaly)
    assert measured.wander is not None
    np.testing.assert_allclose(measured.wander, trend.wander(time))
    with pytest.raises(InputError, match="pass instant="):
        normals.standardize(fields, season)
