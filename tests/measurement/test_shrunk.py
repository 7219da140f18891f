"""Normals of histories with gaps: what is seen often rules, what is seldom seen borrows."""

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo.domains import LatLonDomain
from apsgeo.errors import InputError
from apsgeo.measurement import Normals
from apsgeo.measurement.shrunk import shrunk_normals
from tests.cases import noise, seeded

YEARS, MONTHS = 40, 12
DOMAIN = LatLonDomain(np.linspace(75, -75, 6), np.arange(0, 360, 36.0))
SEASON = torch.arange(YEARS * MONTHS) % MONTHS
LATITUDE = DOMAIN.positions[:, 2]
CYCLE = 10.0 * LATITUDE * torch.cos(2 * np.pi * (torch.arange(MONTHS) - 6) / MONTHS)[:, None]
STD = 1.0 + 0.5 * LATITUDE.abs()


def fields(seed: int = 0) -> Tensor:
    white = noise(YEARS * MONTHS, DOMAIN.num_nodes, seed=seed)
    return (15.0 + CYCLE[SEASON] + STD * white)[:, None]


def hidden(share: float) -> Tensor:
    full = fields()
    return torch.where(torch.rand(full.shape, generator=seeded(3)) < share, torch.nan, full)


def test_normals_of_many_records_are_those_of_the_process() -> None:
    found = shrunk_normals(DOMAIN, hidden(0.3), SEASON, MONTHS)
    error = (found.mean[:, 0] - 15.0 - CYCLE) / STD
    # 28 observations of a month alone would err by 0.19; the harmonics of all months, by less.
    assert float(error.square().mean().sqrt()) < 0.15
    assert float((found.std[:, 0] / STD).log().abs().max()) < 0.5
    assert bool(found.valid.all())


def test_a_month_that_a_cell_never_saw_has_the_cycle_of_the_others() -> None:
    given = hidden(0.3)
    given[SEASON == 6, 0, 33] = torch.nan
    found = shrunk_normals(DOMAIN, given, SEASON, MONTHS)
    assert abs(float(found.mean[6, 0, 33] - 15.0 - CYCLE[6, 33])) < 5.0 * float(STD[33]) / 18.0
    assert 0.6 < float(found.std[6, 0, 33] / STD[33]) < 1.6


def test_a_cell_that_is_seen_twice_borrows_from_its_neighbours() -> None:
    given = hidden(0.0)
    given[:, 0, 14] = torch.nan
    given[[40, 100], 0, 14] = fields()[[40, 100], 0, 14]
    found = shrunk_normals(DOMAIN, given, SEASON, MONTHS)
    truth = 15.0 + CYCLE[:, 14]
    assert float((found.mean[:, 0, 14] - truth).abs().max()) < 5.0 * float(STD[14]) / 2**0.5
    assert float((found.std[:, 0, 14] / STD[14]).min()) > 0.5
    assert bool(found.valid[14])


def test_cells_seen_once_or_never_are_land() -> None:
    given = hidden(0.2)
    given[:, 0, [3, 4]] = torch.nan
    given[7, 0, 4] = 20.0
    found = shrunk_normals(DOMAIN, given, SEASON, MONTHS)
    assert (~found.valid).nonzero()[:, 0].tolist() == [3, 4]
    assert bool(torch.isfinite(found.mean).all() & torch.isfinite(found.std).all())


def test_units_do_not_matter() -> None:
    given = hidden(0.5)
    found, scaled = (
        shrunk_normals(DOMAIN, each, SEASON, MONTHS) for each in (given, 100.0 * given - 7.0)
    )
    torch.testing.assert_close(scaled.mean, 100.0 * found.mean - 7.0, rtol=1e-4, atol=1e-2)
    torch.testing.assert_close(scaled.std, 100.0 * found.std, rtol=1e-4, atol=1e-2)


def test_one_season_without_dates_and_a_baseline() -> None:
    given = hidden(0.3)
    single = torch.zeros_like(SEASON)
    found = shrunk_normals(DOMAIN, given, single, 1)
    complete = Normals.fit(fields(), single, 1)
    assert float(((found.mean - complete.mean) / complete.std).abs().max()) < 0.3
    late = torch.arange(len(SEASON)) >= len(SEASON) // 2
    warmer = given + 4.0 * late[:, None, None]
    centred = shrunk_normals(DOMAIN, warmer, SEASON, MONTHS, ~late)
    assert abs(float((centred.mean[:, 0] - 15.0 - CYCLE).mean())) < 0.2
    assert float(centred.std.mean()) > float(found.std.mean()) / 3.0


def test_a_history_that_says_nothing_is_an_error() -> None:
    with pytest.raises(InputError, match="seen in 2 records"):
        shrunk_normals(DOMAIN, torch.full_like(fields(), torch.nan), SEASON, MONTHS)
    with pytest.raises(InputError, match="season 0 has 1 records in the baseline"):
        shrunk_normals(DOMAIN, fields(), SEASON, MONTHS, torch.arange(len(SEASON)) < 12)
    with pytest.raises(InputError, match="does not vary"):
        shrunk_normals(DOMAIN, torch.ones_like(fields()), SEASON, MONTHS)
