"""Spectral flows through `distill`, `Posterior`, `save` and `load`, with seasonal priors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import Tensor

import apsgeo
from apsgeo.distillation.distill import distill
from apsgeo.distillation.objective import LeadingForwardKL
from apsgeo.errors import InputError, ModelError
from apsgeo.flows.build import CouplingSpec, SpectralSpec, build_flow, spec_from_config
from apsgeo.flows.spec import Site
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.gaussian.regimes import fit_regimes
from apsgeo.gaussian.scales import HybridScales
from apsgeo.operators import Downsample, Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import FieldPrior, fit_prior
from tests.cases import monthly, numpy_seeded, rounding, seed_weights, seeded

SPEC = SpectralSpec(patterns=6, candidates=2, width=16, bins=8)
NOISE = 0.3
LAT, LON = np.linspace(75, -75, 6), np.arange(0, 360, 36.0)
WAVE = np.cos(np.deg2rad(LON)) * np.cos(np.deg2rad(LAT))[:, None]


def history() -> xr.DataArray:
    """Monthly fields in two regimes, a pattern or its negative, with a seasonal mean and spread."""
    month = np.cos(np.tile(np.arange(1, 13), 12) * np.pi / 6)
    rng = numpy_seeded(0)
    sign = rng.choice([-1.0, 1.0], size=len(month)) * (2.0 + month)
    values = 15 + 10 * month[:, None, None] + 2.0 * sign[:, None, None] * WAVE
    return monthly(values + 0.5 * rng.standard_normal(values.shape), LAT, LON, "degC")


@pytest.fixture(scope="module")
def prior() -> FieldPrior:
    scales = HybridScales(0.5, 5000.0, 0.1)
    return fit_prior(
        history(),
        scales=scales,
        anchor_scales=scales,
        rank=8,
        training=Training(steps=0, progress=False),
    )


def distilled(
    prior: FieldPrior, steps: int | None = None, lr: float = 1e-3, **options: Any
) -> Posterior:
    settings: dict[str, Any] = {"spec": SPEC, "rounds": 1}
    training = Training(steps, batch=16, lr=lr, progress=False)
    return distill(prior, Mask(0.02, 0.2), NOISE, training=training, **(settings | options))


@pytest.fixture(scope="module")
def posterior(prior: FieldPrior) -> Posterior:
    made = distilled(prior, steps=0)
    seed_weights(0)
    for parameter in made.flow.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    made.flow.spread.copy_(torch.tensor([0.05, -0.02]))
    return made


def gappy(records: int = 3) -> tuple[Tensor, Tensor]:
    fields = torch.from_numpy(history().values[:records]).reshape(records, 1, -1).clone()
    fields[torch.rand(fields.shape, generator=seeded(0)) > 0.1] = torch.nan
    return fields, torch.arange(records)


def test_untrained_it_is_the_exact_posterior_of_each_season(prior: FieldPrior) -> None:
    untrained = distilled(prior, steps=0)
    untrained.flow.spread.zero_()
    y, season = gappy()
    exact = prior.anchor.posterior(untrained(y, season=season).measurement)
    value = torch.from_numpy(history().values[:3]).reshape(3, 1, -1)
    expected = exact.log_prob(prior.normals.standardize(value, season))
    expected = expected - prior.normals.std[season].log().flatten(1).sum(1)
    found = untrained(y, season=season).log_prob(value).detach()
    # sums of some hundreds in float32
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-2)


def test_log_prob_is_the_density_of_the_draws(posterior: Posterior) -> None:
    """exp(log p - log q) averages to one over draws of q, for the posterior p of the anchor."""
    y, season = gappy(1)
    seed_weights(1)
    with torch.no_grad():
        distribution = posterior(y, season=season)
        draws = distribution.rsample([1000])
        log_q = distribution.log_prob(draws)[:, 0].double()
        exact = posterior.flow.base.posterior(distribution.measurement)
        fields = posterior.normals.standardize(draws[:, 0], season.expand(len(draws)))
        log_p = torch.stack([exact.log_prob(each[None])[0] for each in fields])
    ratio = (log_p.double() - posterior.normals.std[season].log().sum() - log_q).exp()
    error = float(ratio.std()) / len(ratio) ** 0.5
    assert error < 0.2
    assert abs(float(ratio.mean()) - 1.0) < 5 * error


@pytest.mark.same_bits
def test_saved_it_gives_the_same_bits(posterior: Posterior, tmp_path: Path) -> None:
    again = apsgeo.load(posterior.save(tmp_path / "model"))
    assert isinstance(again, Posterior)
    assert again.flow.spec == SPEC
    assert repr(again) == repr(posterior)
    y, season = gappy()
    first, second = (each(y, season=season).members(4, 0) for each in (posterior, again))
    assert torch.equal(first, second)
    with torch.no_grad():
        densities = [each(y, season=season).log_prob(first) for each in (posterior, again)]
    assert torch.equal(*densities)


def test_saved_weights_keep_their_patterns_whatever_their_sign(
    posterior: Posterior, tmp_path: Path
) -> None:
    """A decomposition may turn a pattern's sign on another machine; the weights go with theirs."""
    assert isinstance(posterior.flow, SpectralFlow)
    folder = posterior.save(tmp_path / "model")
    again = Posterior.load(folder)
    assert isinstance(again.flow, SpectralFlow)
    assert torch.equal(again.flow.whiten, posterior.flow.whiten)
    assert "whiten" in again.flow.state_dict()
    identity = again.flow.whiten.double() @ again.flow.colour.double().T
    # products over sixty nodes of patterns kept in float32
    torch.testing.assert_close(identity, torch.eye(6).double(), rtol=0.0, atol=rounding(60))


@pytest.fixture(scope="module")
def seeing(prior: FieldPrior) -> Posterior:
    """Distilled, with networks that see regimes."""
    return distilled(prior, spec=replace(SPEC, regimes=2), rounds=2, steps=40, lr=2e-3)


def test_regimes_are_fitted_to_the_anomalies_to_learn_from(
    prior: FieldPrior, seeing: Posterior
) -> None:
    learned, _ = prior.split(history())
    expected = fit_regimes(prior.domain, prior.encode(learned), patterns=6)
    assert isinstance(seeing.flow, SpectralFlow)
    assert seeing.flow.regimes is not None
    for name, value in seeing.flow.regimes.to_tensors().items():
        assert torch.equal(value, expected.to_tensors()[name]), name


@pytest.mark.same_bits
def test_what_sees_regimes_is_saved_and_gives_the_same_bits(
    seeing: Posterior, tmp_path: Path
) -> None:
    again = Posterior.load(seeing.save(tmp_path / "model"))
    assert again.flow.spec == replace(SPEC, regimes=2)
    y, season = gappy()
    first, second = (each(y, season=season).members(4, 0) for each in (seeing, again))
    assert torch.equal(first, second)


def two_modes(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Sparse measurements of fields like those of `history`, their seasons and times' means.

    Also the exact probability of the regime with the positive pattern.
    """
    generator = seeded(5)
    season = torch.arange(count) % 12
    month = torch.cos((season + 1) * torch.pi / 6)[:, None]
    mean, pattern = 15 + 10 * month, 2.0 * (2.0 + month) * torch.from_numpy(WAVE).flatten()
    sign = torch.where(torch.rand(count, 1, generator=generator) < 0.5, -1.0, 1.0)
    variance = 0.5**2 + NOISE**2
    noise = variance**0.5 * torch.randn(pattern.shape, generator=generator)
    mask = torch.rand(pattern.shape, generator=generator) < 0.02
    mask[~mask.any(1), 0] = True
    y = mean + sign * pattern + noise
    # log N(y; mean + pattern) - log N(y; mean - pattern)
    odds = (mask * 2.0 * (y - mean) * pattern).sum(1) / variance
    return torch.where(mask, y, torch.nan)[:, None].float(), season, mean, torch.sigmoid(odds)


def test_what_sees_regimes_weighs_modes_better(prior: FieldPrior, seeing: Posterior) -> None:
    y, season, mean, exact = two_modes(150)
    plain = distilled(prior, rounds=2, steps=40, lr=2e-3)
    errors = []
    for made in (seeing, plain):
        members = made(y, season=season).members(64, 1)[:, :, 0]
        positive = (members - mean).double() @ torch.from_numpy(WAVE).flatten() > 0
        errors.append(float((positive.double().mean(0) - exact).abs().mean()))
    assert errors[0] < 0.9 * errors[1]


def test_regimes_need_fields_enough_or_draws_of_the_prior(prior: FieldPrior) -> None:
    spec = SpectralSpec(candidates=2, width=16, bins=8, regimes=2)
    with pytest.raises(InputError, match="fewer regimes"):
        distilled(prior, spec=spec, steps=0)
    made = distilled(replace(prior, history=None), spec=spec, steps=0)
    assert isinstance(made.flow, SpectralFlow)
    assert made.flow.regimes is not None


def test_regimes_that_do_not_fit_the_spec_are_refused(prior: FieldPrior) -> None:
    for count in (-1, 1):
        with pytest.raises(InputError, match="at least two"):
            SpectralSpec(regimes=count)
    sites = torch.zeros(3, prior.domain.num_nodes)
    with pytest.raises(InputError, match="2 regimes was given a mixture of 0"):
        build_flow(Site(prior.domain, 1, None, sites, prior.anchor), SpectralSpec(regimes=2))


def test_members_do_not_depend_on_the_batch(posterior: Posterior) -> None:
    y, season = gappy()
    together = posterior(y, season=season).members(4, 5)
    alone = posterior(y[1:2], season=season[1:2], key=torch.arange(1, 2)).members(2, 5)
    error = rounding(256, together)  # a flow of some hundred sums and products
    torch.testing.assert_close(alone, together[:2, 1:2], rtol=0.0, atol=error)


@pytest.mark.parametrize("objective", ["score", "forward", "reverse"])
def test_every_objective_trains_it(prior: FieldPrior, objective: Any) -> None:
    made = distilled(prior, objective=objective, steps=2)
    y, season = gappy(1)
    assert bool(torch.isfinite(made(y, season=season).members(2, 0)).all())


def test_training_never_ends_worse_on_held_out_months(prior: FieldPrior) -> None:
    made = distilled(prior, objective="mixed", steps=10)
    scores = [row["validation"] for row in made.provenance["log"]]
    assert min(scores) <= 1.0 + 1e-6
    assert np.isfinite(scores).all()


def test_operators_that_are_not_of_nodes_are_refused(prior: FieldPrior) -> None:
    with pytest.raises(InputError, match="CouplingSpec"):
        distill(prior, Downsample(2), NOISE, spec=SPEC, training=Training(progress=False))
    with pytest.raises(InputError, match="patterns"):
        distilled(prior, spec=SpectralSpec(patterns=1))


def test_other_flows_have_no_leading_coefficient(prior: FieldPrior) -> None:
    made = distilled(prior, spec=CouplingSpec(width=8, depth=1, context=4, local=0), steps=0)
    with pytest.raises(InputError, match="SpectralSpec"):
        LeadingForwardKL()(made.flow, None, None, None)  # type: ignore[arg-type]


def test_specs_are_rebuilt_from_their_configuration() -> None:
    for spec in (SPEC, replace(SPEC, regimes=2), CouplingSpec(width=4)):
        assert spec_from_config(spec.to_config()) == spec
    assert spec_from_config({"width": 4}) == CouplingSpec(width=4)
    assert spec_from_config({"base": "normal", "scales": 3}) == CouplingSpec(
        base="white", roughness=3
    )
    with pytest.raises(ModelError, match="flow"):
        spec_from_config({"kind": "unknown"})
