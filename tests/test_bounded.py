"""Variables with bounds: rain with its zeros, fractions from zero to one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import apsgeo
from apsgeo.domains import LatLonDomain
from apsgeo.errors import InputError
from apsgeo.gaussian.left_out.refined import refined
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Measurement, Normals, QuantileNormals, bounds_in
from apsgeo.measurement.quantile_map import QuantileMap
from apsgeo.metrics.scores import crps_ensemble
from tests.cases import numpy_seeded, seeded

DOMAIN = LatLonDomain(np.linspace(75, -75, 6), np.arange(0, 360, 30.0))
RECORDS, NODES = 400, 72
SCALES = HybridScales(eof_weight=0.9, range_km=3000.0, nugget=0.02)


def smooth(records: int, seed: int) -> np.ndarray[Any, Any]:
    """Return standard normal numbers (record, node) that vary smoothly over the sphere."""
    p = DOMAIN.positions.numpy()
    modes = np.concatenate([p, p[:, :1] * p[:, 1:], np.ones((NODES, 1))], 1)
    amplitude = numpy_seeded(seed).standard_normal((records, modes.shape[1]))
    noise = 0.2 * numpy_seeded(seed + 1).standard_normal((records, NODES))
    return (amplitude @ modes.T + noise) / np.sqrt((modes**2).sum(1) + 0.04)


def rain(records: int = RECORDS, seed: int = 0) -> Tensor:
    """Return fields (record, 1, node) with 62 % zeros and a heavy tail."""
    found = 4.0 * np.maximum(smooth(records, seed) - 0.3, 0.0) ** 2
    return torch.from_numpy(found.astype(np.float32))[:, None]


def ice(records: int = RECORDS, seed: int = 0) -> Tensor:
    """Return fields (record, 1, node) between zero and one, with values at either."""
    found = np.clip(0.5 + 0.5 * smooth(records, seed), 0.0, 1.0)
    return torch.from_numpy(found.astype(np.float32))[:, None]


def normals_of(fields: Tensor) -> QuantileNormals:
    season = torch.zeros(len(fields), dtype=torch.long)
    plain = Normals.fit(fields, season, 1)
    return QuantileNormals.of(plain, fields, season, [bounds_in(fields[:, 0])], DOMAIN)


def labelled(fields: Tensor, name: str = "pr") -> xr.DataArray:
    return xr.DataArray(
        fields.reshape(-1, 6, 12).numpy(),
        dims=("time", "lat", "lon"),
        coords={
            "time": np.datetime64("1990-01-01", "ns")
            + np.arange(len(fields)) * np.timedelta64(1, "D"),
            "lat": ("lat", DOMAIN.lat, {"units": "degrees_north"}),
            "lon": ("lon", DOMAIN.lon, {"units": "degrees_east"}),
        },
        name=name,
        attrs={"units": "mm/day"},
    )


def fitted(history: xr.DataArray, **options: Any) -> apsgeo.FieldPrior:
    return apsgeo.fit_prior(
        history, scales=SCALES, anchor_scales=SCALES, rank=10, steps=0, progress=False, **options
    )


@pytest.mark.parametrize(("make", "expected"), [(rain, (0.0, None)), (ice, (0.0, 1.0))])
def test_bounds_are_found_where_many_values_are(make: Any, expected: Any) -> None:
    assert bounds_in(make()[:, 0]) == expected
    assert bounds_in(make()[:, 0] + torch.rand(1, NODES, generator=seeded(1))) == (None, None)


def sea(records: int = RECORDS) -> Tensor:
    """Return temperatures (record, 1, node), at freezing in high latitudes alone."""
    latitude = torch.from_numpy(np.repeat(DOMAIN.lat, 12)).float()
    warm = 27.0 - 30.0 * (latitude / 75.0).abs() + 0.3 * torch.from_numpy(smooth(records, 4))
    return warm.clamp(min=-1.8).float()[:, None]


def test_freezing_under_the_ice_is_no_bound_of_the_sea() -> None:
    assert (sea() == -1.8).double().mean() > 0.1
    assert bounds_in(sea()[:, 0]) == (None, None)


def test_nodes_that_are_never_at_the_bound_do_not_get_there() -> None:
    """A share of those that might be there would throw members 25 degrees down."""
    fields, season = sea(), torch.zeros(RECORDS, dtype=torch.long)
    normals = QuantileNormals.of(
        Normals.fit(fields, season, 1), fields, season, [(-1.8, None)], DOMAIN
    )
    z = torch.randn(20_000, 1, 1, NODES, generator=seeded(2))
    x = normals.restore(z, torch.zeros(1, dtype=torch.long))[:, 0, 0]
    warm = torch.from_numpy(np.repeat(np.abs(DOMAIN.lat) < 20.0, 12))
    least = fields[:, 0, warm].min()
    assert float(least) > 15.0
    assert float(x[:, warm].min()) > float(least) - 2.0
    seldom = normals.standardize(torch.full((1, 1, NODES), -1.8), season[:1])
    assert bool(seldom.isfinite().all())
    assert bool(normals.latent(fields, season, DOMAIN).isfinite().all())


@pytest.mark.parametrize("make", [rain, ice])
def test_values_come_back_from_their_normal_numbers(make: Any) -> None:
    fields, normals = make(), normals_of(make())
    season = torch.zeros(len(fields), dtype=torch.long)
    z = normals.standardize(fields.double(), season)
    back = normals.restore(z, season)
    usual = z.abs() < 3.0  # farther out, and next to a bound, scores are limited
    size = float(fields.max())
    assert float((back - fields)[usual].abs().max()) < 5e-3 * size
    assert float((back - fields)[usual].abs().median()) < 1e-9 * size
    bound = fields <= normals.bounds[0]
    assert torch.equal(back[bound], fields.double()[bound])


@pytest.mark.parametrize("make", [rain, ice])
def test_normal_numbers_have_the_shares_of_the_data(make: Any) -> None:
    """The share of draws at each bound is that of the data, to the sampling error of both."""
    fields, normals = make(), normals_of(make())
    z = torch.randn(4000, 1, 1, NODES, generator=seeded(2))
    x = normals.restore(z, torch.zeros(1, dtype=torch.long))
    for end, at in ((0, x <= normals.bounds[0]), (1, x >= normals.bounds[1])):
        share = float(
            ((fields <= normals.bounds[0]) if end == 0 else (fields >= normals.bounds[1]))
            .double()
            .mean()
        )
        assert float(at.double().mean()) == pytest.approx(share, abs=0.01)
    assert float(x.min()) >= float(normals.bounds[0])
    middle = [float(v.median()) for v in (x[x > 0], fields[fields > 0])]
    assert middle[0] == pytest.approx(middle[1], rel=0.15)


@pytest.mark.parametrize("value", [0.0, 0.03, 0.4, 6.0])
def test_an_observation_tells_as_much_as_its_value_does(value: float) -> None:
    """The law of z given y by quadrature on a fine grid, and by the observation of z."""
    normals, noise = normals_of(rain()), 0.1
    y = torch.full((1, 1, NODES), value)
    season = torch.zeros(1, dtype=torch.long)
    seen = normals.measure(
        Measurement(y, torch.ones_like(y, dtype=torch.bool), torch.tensor(noise), season=season)
    )
    grid = torch.linspace(-6.0, 6.0, 4001, dtype=torch.float64)
    x = normals.restore(grid[:, None, None, None].expand(-1, 1, 1, NODES), season)
    weight = torch.softmax(
        -0.5 * ((value - x) / noise) ** 2 - 0.5 * grid[:, None, None, None] ** 2, 0
    )
    mean = (grid[:, None, None, None] * weight).sum(0)
    std = ((grid[:, None, None, None] - mean) ** 2 * weight).sum(0).sqrt()
    variance = 1.0 / (1.0 + 1.0 / seen.noise_std.double() ** 2)
    told = variance * seen.values.double() / seen.noise_std.double() ** 2
    assert float(((told - mean) / std).abs().max()) < 0.35
    assert float((variance.sqrt() / std).log().abs().max()) < 0.5


def test_no_rain_is_a_truncated_normal_number() -> None:
    """Mean -phi(t) / Phi(t) of z below t, at which the share of dry days is."""
    normals = normals_of(rain())
    y, season = torch.zeros(1, 1, NODES), torch.zeros(1, dtype=torch.long)
    mask = torch.ones_like(y, dtype=torch.bool)
    seen = normals.measure(Measurement(y, mask, torch.tensor(1e-3), season=season))
    share = normals.shares[0, 0].double()
    t = torch.special.ndtri(share)
    expected = -torch.exp(-0.5 * t**2) / np.sqrt(2 * np.pi) / share
    variance = 1.0 / (1.0 + 1.0 / seen.noise_std.double() ** 2)
    told = variance * seen.values.double() / seen.noise_std.double() ** 2
    step = 9.0 / 64.0  # of the grid that integrates it
    torch.testing.assert_close(told[0], expected, rtol=0.0, atol=step)


def test_values_beyond_all_records_come_back() -> None:
    """The root goes on in a straight line beyond the quantiles, as far as members reach."""
    fields, normals = rain(), normals_of(rain())
    season = torch.zeros(1, dtype=torch.long)
    most = 4.0 * fields.double().amax(0, keepdim=True)
    z = normals.standardize(most, season)
    reached = z < 7.9  # where a chance of 1e-15 is inverted to some ten digits
    assert bool(reached.any())
    assert float(((normals.restore(z, season) - most) / most)[reached].abs().max()) < 1e-5


@pytest.mark.parametrize("wet", [0.0, 0.4])
def test_dry_observations_near_each_other_tell_what_they_do_together(wet: float) -> None:
    """The share of dry members, and their mean, against draws weighted by the likelihood."""
    fields = rain()
    normals, noise, season = normals_of(fields), 0.2, torch.zeros(1, dtype=torch.long)
    z = torch.from_numpy(smooth(RECORDS, 0))
    joint = torch.linalg.cholesky(torch.cov(z.T) + 1e-6 * torch.eye(NODES))
    loadings = (joint / joint.norm(dim=1, keepdim=True)).float()[None]
    prior = LowRankPrior(DOMAIN, loadings, white_std=1e-3)
    near, hidden = [0, 1, 2, 12, 13, 14, 24, 25, 26], 40
    seen_at = torch.tensor([0.0] * 8 + [wet])
    y = torch.full((1, 1, NODES), torch.nan)
    y[0, 0, near] = seen_at
    given = replace(Measurement.of(y, noise), season=season)
    measured = normals.measure(given)
    nodes = [*near, hidden]
    low, high = normals.shares[:, 0, 0, nodes].double()
    maps = QuantileMap(
        normals.knots[0, 0, nodes].double(),
        low,
        high,
        normals.bounds.expand(2, len(nodes)).double(),
    )
    draws = loadings[0, nodes] @ torch.randn(NODES, 100_000, generator=seeded(5))
    at = maps.restore(draws.double())
    off = (at[:-1] - seen_at[:, None]) / noise
    weight = torch.softmax(-0.5 * off.square().sum(0), 0)
    truth = float((weight * (at[-1] <= 0)).sum())
    found = []
    for each in (measured, refined(normals, given, measured, prior)):
        members = prior.posterior(each).members(8000, seed=0)[:, 0, 0, nodes]
        found.append(float((maps.restore(members.double().T)[-1] <= 0).double().mean()))
    error = 5.0 * (0.25 / 8000 + 0.25 * float(weight.square().sum())) ** 0.5
    assert abs(found[1] - truth) < error
    assert abs(found[0] - truth) > abs(found[1] - truth)


def test_numbers_beyond_a_bound_have_the_law_of_a_normal_one() -> None:
    fields = rain(180)
    prior = fitted(labelled(fields))
    season = prior.season_of(labelled(fields))
    assert isinstance(prior.normals, QuantileNormals)
    z = prior.normals.latent(fields, season, prior.domain).double()
    count = z.numel()
    assert float(z.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(z.std()) == pytest.approx(1.0, abs=0.05)
    dry = fields[:, :, :] <= 0
    assert bool((z[dry] < 0.9).all())
    assert count == fields.numel()


@pytest.mark.parametrize("make", [rain, ice])
def test_members_keep_to_the_bounds_and_are_as_often_there(make: Any, tmp_path: Path) -> None:
    history, truth = labelled(make(180)), make(24, seed=7)
    prior = fitted(history)
    model = apsgeo.Posterior.of(prior, prior.anchor, apsgeo.Mask(), 0.05)
    seen = torch.rand(truth.shape, generator=seeded(3)) < 0.2
    obs = labelled(torch.where(seen, truth, torch.nan))
    ensemble = apsgeo.impute(obs, model, members=32).compute()
    low, high = bounds_in(make()[:, 0])
    assert float(ensemble.min()) >= (low or 0.0)
    assert high is None or float(ensemble.max()) <= high
    hidden = ~seen.reshape(-1, 6, 12).numpy()
    share = float((ensemble.values[:, hidden] <= 0.0).mean())
    real = float((truth.reshape(-1, 6, 12).numpy()[hidden] <= 0.0).mean())
    assert share == pytest.approx(real, abs=0.06)
    again = apsgeo.FieldPrior.load(prior.save(tmp_path / "prior"))
    assert isinstance(again.normals, QuantileNormals)
    torch.testing.assert_close(again.normals.knots, prior.normals.knots)  # type: ignore[attr-defined]


def lasting(records: int, seed: int = 0) -> Tensor:
    """Return rain (record, 1, node) whose normal numbers keep 0.8 of themselves a day."""
    new, fields = smooth(records + 40, seed), []
    state = new[0]
    for each in new[1:]:
        state = 0.8 * state + 0.6 * each
        fields.append(state)
    found = 4.0 * np.maximum(np.stack(fields[-records:]) - 0.3, 0.0) ** 2
    return torch.from_numpy(found.astype(np.float32))[:, None]


def scored(prior: apsgeo.FieldPrior, truth: Tensor, memory: Any = None) -> tuple[float, float]:
    """Return the CRPS, and the share of dry members less that of dry values, at hidden nodes."""
    method = VecchiaPrior(prior.anchor, memory)
    model = apsgeo.Posterior.of(prior, method, apsgeo.Mask(), 0.05)
    seen = torch.rand(truth.shape, generator=seeded(3)) < 0.2
    obs = labelled(torch.where(seen, truth, torch.nan))
    members = apsgeo.impute(obs, model, members=32).values
    assert members.min() >= 0.0
    hidden = ~seen.reshape(-1, 6, 12).numpy()
    real = truth.reshape(-1, 6, 12).numpy()[hidden]
    score = float(crps_ensemble(members[:, hidden], real).mean())
    return score, float((members[:, hidden] <= 0.0).mean() - (real <= 0.0).mean())


def test_a_history_of_rain_may_have_gaps() -> None:
    whole, truth = rain(60), rain(24, seed=7)
    lost = torch.rand(whole.shape, generator=seeded(4)) < 0.3
    gappy = labelled(torch.where(lost, torch.nan, whole))
    priors = [fitted(each, memory=False) for each in (labelled(whole), gappy)]
    assert all(isinstance(prior.normals, QuantileNormals) for prior in priors)
    assert priors[1].provenance["bounds"] == [(0.0, None)]
    history = priors[1].history
    assert history is not None
    torch.testing.assert_close(history.values[~lost].float(), whole[~lost])
    drawn = history.values[lost]
    assert float(drawn.min()) >= 0.0
    # what was filled in is dry as often as what it stands for, to five standard errors of days
    dry = torch.stack([(each <= 0).double().mean() for each in whole])
    error = 5.0 * float(dry.std()) / len(dry) ** 0.5
    assert abs(float((drawn <= 0).double().mean() - (whole[lost] <= 0).double().mean())) < error
    scores = [scored(prior, truth) for prior in priors]
    assert scores[1][0] < 1.1 * scores[0][0]
    assert abs(scores[1][1]) < 0.06
    later = labelled(torch.where(lost[:24], torch.nan, truth))
    completed = priors[1].complete(later).values
    assert float(completed.min()) >= 0.0
    assert float((completed - truth)[~lost[:24]].abs().max()) == 0.0


def test_rain_remembers() -> None:
    """Neighbouring days help, in members and in what a flow is trained on."""
    truth = lasting(24, seed=7)
    prior = fitted(labelled(lasting(120)))
    assert prior.memory is not None
    assert scored(prior, truth, prior.memory)[0] < 0.95 * scored(prior, truth)[0]
    assert prior.history is not None
    few = replace(prior, history=prior.history[np.arange(96, 120)])
    flow = apsgeo.distill(
        few, apsgeo.Mask(), 0.1, steps=1, batch=2, rounds=1, folds=2, progress=False
    )
    assert flow.memory is not None
    obs = labelled(torch.where(torch.arange(NODES) % 5 == 0, truth, torch.nan))
    assert float(apsgeo.impute(obs, flow, members=2).min()) >= 0.0


def test_a_flow_is_distilled(tmp_path: Path) -> None:
    prior = fitted(labelled(rain(60)))
    model = apsgeo.distill(
        prior, apsgeo.Mask(), 0.1, steps=2, batch=2, rounds=1, folds=2, progress=False
    )
    obs = labelled(
        torch.where(torch.rand(2, 1, NODES, generator=seeded(1)) < 0.3, rain(2), torch.nan)
    )
    loaded = apsgeo.load(model.save(tmp_path / "model"))
    assert isinstance(loaded, apsgeo.Posterior)
    assert float(apsgeo.impute(obs, loaded, members=4).min()) >= 0.0


def test_what_bounds_do_not_allow_is_said() -> None:
    history = labelled(rain(60))
    with pytest.raises(InputError, match="give bounds that all values keep to"):
        fitted(history, bounds=(0.0, 1.0))
    with pytest.raises(InputError, match="for each of the 1 channels"):
        fitted(history, bounds=(1.0, 0.0))
    with pytest.raises(InputError, match="a dry value with an error is no longer at the bound"):
        fitted(history, bounds=(0.0, None), noise_std=0.1)
    with pytest.raises(InputError, match="how often values are at a bound changes"):
        fitted(history, bounds=(0.0, None), trend="linear")
    prior = fitted(history)
    model = apsgeo.Posterior.of(prior, prior.anchor, apsgeo.Downsample(2), 0.1)
    with pytest.raises(InputError, match="bounds=None"):
        model(torch.zeros(1, 1, 18))
    masked = apsgeo.Posterior.of(prior, prior.anchor, apsgeo.Mask(), 0.1)
    draws = masked(torch.full((1, 1, NODES), 0.5))
    with pytest.raises(InputError, match="no density"):
        draws.log_prob(rain(1))
    assert draws.mean.shape == (1, 1, NODES)
    assert float(draws.variance.min()) >= 0.0
    assert not isinstance(fitted(history, bounds=None).normals, QuantileNormals)
