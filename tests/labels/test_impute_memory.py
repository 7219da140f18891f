"""Gaps filled from the records before and after: `impute` of a model that has a memory."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr

import apsgeo
from apsgeo.distillation.pairs import Setting, cells_of, simulate_pairs
from apsgeo.distillation.sources import Fields
from apsgeo.errors import InputError
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.build import CouplingSpec
from apsgeo.flows.flow import Flow
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.time.memory import Memory
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.labels.dates import Dates
from apsgeo.labels.steps import step_days, time_in_steps
from apsgeo.operators import Mask
from apsgeo.operators.linear import IdentityMap
from apsgeo.posterior import Posterior
from tests.cases import alike, monthly, numpy_seeded, seeded

RHO = 0.8
LAT, LON = np.linspace(75, -75, 6), np.arange(0, 360, 36.0)


@pytest.fixture(scope="module")
def history() -> xr.DataArray:
    """Two waves and what differs from cell to cell, all of which lasts for months, from 1990 on."""
    rng = numpy_seeded(0)
    waves = [np.cos(np.deg2rad(k * LON)) * np.cos(np.deg2rad(LAT))[:, None] for k in (1, 2)]
    driven = 3.0 * np.einsum("tk,kij->tij", rng.standard_normal((192, 2)), np.stack(waves))
    driven += rng.standard_normal(driven.shape)
    values = driven.copy()
    for t in range(1, len(values)):
        values[t] = RHO * values[t - 1] + (1.0 - RHO**2) ** 0.5 * driven[t]
    return monthly(values, LAT, LON, "degC")


@pytest.fixture(scope="module")
def prior(history: xr.DataArray) -> FieldPrior:
    scales = HybridScales(range_km=3000.0)
    return apsgeo.fit_prior(history, scales=scales, anchor_scales=scales, steps=0, progress=False)


@pytest.fixture(scope="module")
def model(prior: FieldPrior) -> Posterior:
    return Posterior.of(prior, VecchiaPrior(prior.anchor, prior.memory), Mask(), 0.5)


@pytest.fixture(scope="module")
def obs(history: xr.DataArray) -> xr.DataArray:
    months = history.isel(time=slice(0, 20))
    return months.where(numpy_seeded(1).random(months.shape) < 0.2)


def test_a_history_has_the_memory_that_it_was_made_with(prior: FieldPrior) -> None:
    assert prior.memory is not None
    # Five standard errors of 160 months; the seasonal normals take off some of what lasts.
    assert abs(float(prior.memory.correlation.mean()) - RHO) < 5 * ((1 - RHO**2) / 160) ** 0.5
    assert prior.memory.step_days == 31.0


def test_members_do_not_depend_on_chunks(model: Posterior, obs: xr.DataArray) -> None:
    whole = apsgeo.impute(obs, model, members=4).compute()
    for chunks in ((7, 1, 9, 3), (20,)):
        alike(apsgeo.impute(obs.chunk(time=chunks), model, members=4).compute(), whole, 4000)
    backwards = apsgeo.impute(obs[::-1], model, members=4).compute()
    alike(backwards.sortby("time"), whole, 4000)
    alike(apsgeo.impute(obs, model, members=6).compute()[:4], whole, 4000)


def test_a_record_follows_from_its_window_alone(model: Posterior, obs: xr.DataArray) -> None:
    whole = apsgeo.impute(obs, model, members=4).compute()
    part = apsgeo.impute(obs.isel(time=slice(3, 14)), model, members=4).compute()
    inner = slice(3 + model.window, 14 - model.window)
    alike(part.isel(time=slice(model.window, 11 - model.window)), whole.isel(time=inner), 4000)
    near = part.isel(time=0).drop_vars("member") - whole.isel(time=3).drop_vars("member")
    assert float(abs(near).max()) > 0.01  # it lacks the months before


def test_a_missing_month_is_not_closed_up(model: Posterior, obs: xr.DataArray) -> None:
    """Lags come from dates: a month that is left out is as one without observations."""
    blank = obs.copy()
    blank[8] = np.nan
    with pytest.warns(apsgeo.errors.NothingObservedWarning):
        expected = apsgeo.impute(blank, model, members=4, window=1).compute()
    left = np.delete(np.arange(20), 8)
    found = apsgeo.impute(obs.isel(time=left), model, members=4, window=1).compute()
    # A neighbour two months off would count, beyond one on either side.
    alike(found.isel(time=[0, 5, 11]), expected.isel(time=[0, 5, 12]), 4000)
    wide = apsgeo.impute(obs.isel(time=left), model, members=4).compute()
    as_if_closed = obs.isel(time=left).assign_coords(time=obs.time[:19])
    closed = apsgeo.impute(as_if_closed, model, members=4).compute()
    assert float(abs(wide[:, 7].values - closed[:, 7].values).max()) > 0.01


def test_neighbours_make_a_better_mean(
    model: Posterior, obs: xr.DataArray, history: xr.DataArray
) -> None:
    truth = history.isel(time=slice(0, 20))
    errors = {}
    for window in (0, 1, model.window):
        mean = apsgeo.impute(obs, model, members=64, window=window).mean("member")
        errors[window] = float(((mean - truth) ** 2).mean()) ** 0.5
    assert errors[model.window] < errors[0]
    assert errors[1] < errors[0]


def test_members_go_on_from_month_to_month(model: Posterior, obs: xr.DataArray) -> None:
    with pytest.warns(apsgeo.errors.NothingObservedWarning):
        drawn = apsgeo.impute(obs.isel(time=slice(0, 6)) * np.nan, model, members=400).compute()
    left = drawn.values - drawn.values.mean(0)
    together = (left[:, 1:] * left[:, :-1]).mean() / (left**2).mean()
    assert 0.6 < together < 0.9


def test_windows_are_those_of_the_model(prior: FieldPrior, obs: xr.DataArray) -> None:
    alone = Posterior.of(prior, VecchiaPrior(prior.anchor), Mask(), 0.5)
    assert alone.window == 0
    with pytest.raises(InputError, match="window=1, and the model knows 0"):
        apsgeo.impute(obs, alone, members=2, window=1)
    single = apsgeo.impute(obs.isel(time=3), alone, members=2).compute()
    alike(apsgeo.impute(obs, alone, members=2).isel(time=3).compute(), single, 4000)


def test_a_single_record_has_no_neighbours(model: Posterior, obs: xr.DataArray) -> None:
    single = apsgeo.impute(obs.isel(time=3), model, members=2).compute()
    alone = apsgeo.impute(obs, model, members=2, window=0).isel(time=3).compute()
    alike(single, alone, 4000)


def test_a_distilled_flow_remembers_when_it_is_loaded(
    prior: FieldPrior, obs: xr.DataArray, tmp_path: Path
) -> None:
    assert prior.memory is not None
    prior = replace(prior, memory=replace(prior.memory, window=1))
    small = CouplingSpec(width=4, depth=2, context=4, embedding=2)
    made = apsgeo.distill(
        prior, Mask(), 0.5, spec=small, folds=1, steps=4, rounds=1, progress=False
    )
    assert isinstance(made.method, Flow)
    assert made.memory is prior.memory
    loaded = Posterior.load(made.save(tmp_path / "model"))
    assert loaded.memory is not None
    assert loaded.window == made.window
    expected = apsgeo.impute(obs, made, members=2).compute()
    alike(apsgeo.impute(obs, loaded, members=2).compute(), expected, 4000)
    again = FieldPrior.load(prior.save(tmp_path / "prior"))
    assert again.memory is not None
    assert prior.memory is not None
    assert torch.equal(again.memory.slow, prior.memory.slow)


def test_the_pairs_of_a_flow_have_neighbours(prior: FieldPrior, history: xr.DataArray) -> None:
    """The base that a flow learns on is given the months around each, where they are there."""
    assert prior.memory is not None
    fields, season = prior.encode(history), prior.season_of(history)
    dates = Dates(history["time"].values, "time", "the history")
    time = time_in_steps(dates, step_days(dates))
    fold = torch.full((len(fields),), -1)
    fold[[0, 12, 24]] = 0
    nodes = prior.domain.num_nodes
    seen = torch.rand(3, nodes, generator=seeded(0)) < 0.2
    noise_std, operator = torch.full((1, nodes), 0.5), IdentityMap(nodes)
    near = tuple(zip((-1, 1), seen[1:], strict=True))
    base = VecchiaPrior(prior.anchor, prior.memory)

    def groups(around: tuple[tuple[int, torch.Tensor], ...]) -> dict[int, float]:
        settings = [Setting(seen[0], noise_std, operator, around)]
        pairs = simulate_pairs(
            fields,
            cells_of(fold, season),
            [base],
            prior.normals,
            settings,
            series=(time, season),
            progress=False,
        )
        return {
            int(t): float(group.std.square().mean()) for group in pairs.groups for t in group.times
        }

    alone, helped = groups(()), groups(near)
    assert alone.keys() == helped.keys() == {0, 12, 24}
    assert helped[12] == pytest.approx(helped[24], rel=1e-3)
    assert helped[24] < helped[0] < alone[0]  # the first month has none before it


def test_held_out_fields_are_those_with_all_neighbours() -> None:
    time = torch.tensor([0.0, 1.0, 2.0, 4.0, 5.0, 6.0, 7.0, 8.0])
    fields = Fields(torch.zeros(8, 1, 2), torch.zeros(8, dtype=torch.long), time)
    kept = fields.with_all_around(1)
    assert kept.picked is not None
    assert kept.picked.nonzero()[:, 0].tolist() == [1, 4, 5, 6]
    assert kept.in_folds(torch.arange(kept.count)).tolist() == [-1, 0, -1, -1, 1, 2, 3, -1]
    assert fields.with_all_around(4).time is None  # none has so many: all, without neighbours
    assert replace(fields, time=None).with_all_around(1).picked is None


def test_steps_are_those_of_the_history() -> None:
    months = Dates(np.arange("2000-01", "2003-01", dtype="datetime64[M]"), "time", "obs")
    assert step_days(months) == 31.0
    lag = np.diff(time_in_steps(months, 31.0).numpy())
    assert np.abs(lag - 1.0).max() < 0.1
    samples = Dates.counted(5, "obs")
    assert step_days(samples) is None
    assert time_in_steps(samples, 31.0).tolist() == [0.0, 1.0, 2.0, 3.0, 4.0]


def test_white_histories_and_samples_have_no_memory(history: xr.DataArray) -> None:
    scales = HybridScales(range_km=3000.0)
    options: dict[str, Any] = {
        "scales": scales,
        "anchor_scales": scales,
        "steps": 0,
        "progress": False,
    }
    samples = history.rename(time="sample").drop_vars("sample")
    assert apsgeo.fit_prior(samples, **options).memory is None
    assert apsgeo.fit_prior(history, memory=False, **options).memory is None
    shuffled = history.copy(data=history.values[numpy_seeded(3).permutation(len(history))])
    assert apsgeo.fit_prior(shuffled, **options).memory is None
    assert isinstance(apsgeo.fit_prior(history, **options).memory, Memory)
