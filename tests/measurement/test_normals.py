"""Normals of short histories: the spread is that of records that are not among those fitted to."""

import numpy as np
import pytest
import torch
import xarray as xr

import apsgeo
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Normals
from apsgeo.measurement.normals import out_of_sample
from tests.cases import noise, numpy_seeded

NODES, YEARS = 4000, 6


def test_new_records_have_the_variance_of_the_normals() -> None:
    """E (x - m)^2 / E s^2 is one, to five standard errors; without the mean's error it is 1.4."""
    season = torch.arange(12).repeat(YEARS)
    fields = 3.0 + 2.0 * noise(12 * YEARS, 1, NODES, seed=0)
    normals = Normals.fit(fields, season, 12)
    new = 3.0 + 2.0 * noise(12, 1, NODES, seed=1)
    ratio = float(((new - normals.mean) ** 2).mean() / (normals.std**2).mean())
    records = 12 * NODES
    assert ratio == pytest.approx(1.0, abs=5.0 * (2.0 / records + 2.0 / (records * YEARS)) ** 0.5)


def test_records_outside_the_baseline_are_new_to_the_mean() -> None:
    season, baseline = torch.arange(12).repeat(YEARS), torch.arange(12 * YEARS) < 48
    found = out_of_sample(season, 12, baseline)
    assert torch.equal(found[48:], torch.ones(24, dtype=torch.float64))
    np.testing.assert_allclose(found[:48], ((1 + 1 / 4) / (1 - 1 / 4)) ** 0.5)


def test_days_of_the_year_share_nine_numbers() -> None:
    season = torch.arange(365).repeat(3)
    found = out_of_sample(season, 365)
    share = 9.0 / len(season)
    np.testing.assert_allclose(found, ((1 + share) / (1 - share)) ** 0.5)


def test_a_prior_of_few_records_is_as_wide_as_new_ones_are() -> None:
    """The mean square of new anomalies over the prior's variance; that of its own is 0.5."""
    rng, shape = numpy_seeded(2), (3, 4)
    values = rng.standard_normal((48 + 1200, *shape)).astype(np.float32)
    time = xr.date_range("1990-01-01", periods=len(values), freq="MS")
    fields = xr.DataArray(
        values,
        {"time": time, "lat": [-50.0, 0.0, 50.0], "lon": np.arange(0, 360, 90.0)},
        ("time", "lat", "lon"),
        "air",
        {"units": "K"},
    )
    scales = HybridScales(eof_weight=0.1, range_km=100.0, nugget=0.5)
    prior = apsgeo.fit_prior(
        fields[:48],
        scales=scales,
        anchor_scales=scales,
        rank=2,
        held_out_from="1994-01-01",
        steps=0,
        progress=False,
        memory=False,
        trend=None,
    )
    season = torch.arange(1200) % 12
    z = prior.normals.standardize(torch.from_numpy(values[48:]).reshape(1200, 1, 12), season)
    width = float((prior.normals.std**2).mean() * prior.gaussian.variance.mean())
    assert float((z**2 * prior.normals.std[season] ** 2).mean()) / width == pytest.approx(
        1.0, abs=5.0 * (2.0 / (48 * 12)) ** 0.5
    )
