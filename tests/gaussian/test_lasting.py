"""Large scales that last and small ones that do not: what neighbours tell, and if they help."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import apsgeo
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.time.choice import Series, choose_memory
from apsgeo.gaussian.time.lasting import Lasting
from apsgeo.gaussian.time.memory import Memory, Split
from apsgeo.gaussian.time.series import SeriesPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from tests.cases import alike, monthly, numpy_seeded, rounding, seeded
from tests.gaussian.test_memory import everything, measured, memory_of
from tests.gaussian.test_vecchia import dense
from tests.places import PLACES

RHO, MONTHS, LEARNED = 0.8, 192, 168
LAT, LON = np.linspace(75, -75, 6), np.arange(0, 360, 36.0)
SCALES = HybridScales(eof_weight=0.98, range_km=3000.0, nugget=0.005)


def waves_and_noise(lasting: bool) -> xr.DataArray:
    """Two waves that last for months, and noise of every cell, which lasts as long or not."""
    rng = numpy_seeded(0)
    waves = [np.cos(np.deg2rad(k * LON)) * np.cos(np.deg2rad(LAT))[:, None] for k in (1, 2)]
    driven = 3.0 * np.einsum("tk,kij->tij", rng.standard_normal((MONTHS, 2)), np.stack(waves))
    small = rng.standard_normal(driven.shape)
    values = driven + small if lasting else driven
    for t in range(1, MONTHS):
        values[t] = RHO * values[t - 1] + (1.0 - RHO**2) ** 0.5 * values[t]
    return monthly(values if lasting else values + small, LAT, LON, "degC")


def fitted(history: xr.DataArray, **options: Any) -> FieldPrior:
    settings = {"scales": SCALES, "anchor_scales": SCALES, "steps": 0, "progress": False, **options}
    return apsgeo.fit_prior(history[:LEARNED], **settings)


@pytest.fixture(scope="module")
def mixed() -> tuple[xr.DataArray, FieldPrior]:
    """A history whose waves last, and its prior."""
    history = waves_and_noise(lasting=False)
    return history, fitted(history)


def error(prior: FieldPrior, memory: Memory | None, history: xr.DataArray) -> float:
    """The RMSE of the mean at hidden cells of months after the history, 20 % of which are seen."""
    truth = history[LEARNED:]
    seen = truth.where(numpy_seeded(1).random(truth.shape) < 0.2)
    records = prior.records(seen)
    model = Posterior.of(prior, VecchiaPrior(prior.anchor, memory), Mask(), 0.1)
    time = torch.arange(len(truth), dtype=torch.float64)
    mean = model(records.values, season=prior.season_of(records), time=time).mean
    wrong = (mean - prior.records(truth).values)[records.values.isnan()]
    return float(wrong.square().mean().sqrt())


def plain(prior: FieldPrior) -> Memory:
    """The memory of each value, fitted to all scales together."""
    assert prior.history is not None
    fields = prior.encode(prior.history)
    found = Memory.fit(
        prior.domain, fields, np.arange(len(fields), dtype=np.float64), step_days=31.0
    )
    assert found is not None
    return found


def test_neighbours_do_no_harm_where_only_waves_last(
    mixed: tuple[xr.DataArray, FieldPrior],
) -> None:
    """Small scales are taken to last if their correlation is fitted together with the waves'."""
    history, prior = mixed
    memory = prior.memory
    assert memory is not None
    assert memory.split is not None
    assert len(memory.split.lasting.weights) == 2
    alone = error(prior, None, history)
    assert error(prior, plain(prior), history) > 1.01 * alone
    assert error(prior, memory, history) <= alone
    assert "split=True" in repr(prior)
    described = prior.provenance["memory"]
    assert (described["kept"], described["split"]) == (memory.kept, True)


def test_neighbours_help_where_everything_lasts() -> None:
    history = waves_and_noise(lasting=True)
    prior = fitted(history)
    assert prior.memory is not None
    assert prior.memory.kept == 1.0
    assert error(prior, prior.memory, history) < 0.9 * error(prior, None, history)


def test_a_memory_that_helps_nobody_is_left_out(
    mixed: tuple[xr.DataArray, FieldPrior],
) -> None:
    """Records that have nothing to do with each other, and a memory that says they have."""
    anchor = mixed[1].anchor
    season = torch.arange(16) % 12
    series = Series(anchor.sample(season, seeded(2)), torch.arange(16.0).double(), season)
    memory = Memory(torch.full(anchor.variance.shape, 0.05), window=1)
    valid = torch.ones(anchor.domain.num_nodes, dtype=torch.bool)
    choice = choose_memory(anchor, [memory], series, torch.arange(2, 14), valid)
    assert choice.memory is None
    assert choice.provenance["kept"] == 0.0
    assert "left out" in str(choice)


def test_both_parts_add_up_to_the_prior() -> None:
    """What amplitudes tell is uncorrelated with the rest, and both have the prior's covariance."""
    prior = dense(PLACES["latlon"].domain)
    some = torch.arange(0, prior.size, 3)
    lasting = Lasting(some, torch.randn(3, len(some), generator=seeded(0)))
    every = np.arange(prior.size)
    cov = torch.from_numpy(prior.covariance(every, every))
    fields = torch.from_numpy(prior.draw(torch.eye(prior.draw_dim).double().numpy())).T
    part = lasting.part(prior, fields.unflatten(1, prior.variance.shape)).flatten(1)
    root = lasting.root(prior).double()
    single = rounding(64, float(cov.abs().max()))
    torch.testing.assert_close(part.T @ part, root @ root.T, rtol=0, atol=single)
    torch.testing.assert_close(part.T @ fields, root @ root.T, rtol=0, atol=single)


def test_the_local_posterior_of_a_split_memory_is_the_exact_one() -> None:
    prior = dense(PLACES["latlon"].domain)
    some = torch.arange(0, prior.size, 2)
    lasting = Lasting(some, torch.randn(2, len(some), generator=seeded(0)))
    large = Memory(torch.full_like(memory_of(prior).rate, 0.1), window=2)
    share = torch.full(prior.variance.shape, 0.5)
    own = memory_of(prior)
    memory = Memory(own.rate, own.slow, 0.95, 2, kept=0.75, split=Split(lasting, large, share))
    given = measured(prior)
    expected = SeriesPrior(prior, memory).posterior(given)
    found = everything(prior, memory).posterior(given)
    bound = 4 * rounding(6 * prior.size) / 0.09 * float(given.values.abs().max())
    torch.testing.assert_close(found.mean, expected.mean, rtol=0, atol=bound)
    nodes = torch.tensor([1, 5, 7])
    mean, std = everything(prior, memory).marginals_at(given, nodes)
    torch.testing.assert_close(mean, expected.mean[..., nodes], rtol=0, atol=bound)
    torch.testing.assert_close(std, expected.marginal_std[..., nodes], rtol=0, atol=bound)


def test_a_split_memory_is_saved_as_it_is(
    mixed: tuple[xr.DataArray, FieldPrior], tmp_path: Path
) -> None:
    prior = mixed[1]
    assert prior.memory is not None
    again = FieldPrior.load(prior.save(tmp_path / "prior")).memory
    assert again is not None
    alike(again.correlation, prior.memory.correlation)
    fields = torch.randn(3, 1, prior.domain.num_nodes, generator=seeded(1))
    assert prior.memory.split is not None
    assert again.split is not None
    expected = prior.memory.split.lasting.amplitudes(fields)
    alike(again.split.lasting.amplitudes(fields), expected)
