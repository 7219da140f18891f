"""The product end to end on a small synthetic history: fit, distill, sample, save."""

import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import apsgeo
from apsgeo.baselines.gaussian import climatology
from apsgeo.diagnostics.importance import ImportanceWeights, importance_weights
from apsgeo.diffusion.samplers import DPMSolver
from apsgeo.distillation import sources
from apsgeo.distillation.distill import distill
from apsgeo.distillation.held_out import spread_factors
from apsgeo.distillation.pairs import PairSet, simulate_pairs
from apsgeo.distillation.sources import Fields, draws_of_prior
from apsgeo.errors import GridError, InputError, ModelError
from apsgeo.flows.build import CouplingSpec
from apsgeo.flows.flow import CouplingFlow
from apsgeo.gaussian.scales import HybridScales, LocalisedScales
from apsgeo.measurement import Normals, members_noise
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import FieldPrior, fit_prior
from tests.cases import alike, history, rounding, seed_weights, seeded

SPEC = CouplingSpec(
    base="anchor", width=8, depth=1, context=4, local=2, patterns=4, coupling_width=4
)
NOISE = 0.3
SCALES = HybridScales(0.5, 5000.0, 0.01)
ANCHOR = LocalisedScales(0.8, 0.6, 6000.0, 5000.0, 0.01)


@pytest.fixture(scope="module")
def prior() -> FieldPrior:
    return fit_prior(
        history(12),
        scales=SCALES,
        anchor_scales=ANCHOR,
        rank=5,
        training=Training(steps=6, progress=False),
    )


def distilled(prior: FieldPrior, steps: int = 12, **options: Any) -> Posterior:
    settings: dict[str, Any] = {"spec": SPEC, "rounds": 1}
    training = Training(steps, batch=4, progress=False)
    return distill(prior, Mask(), NOISE, training=training, **(settings | options))


@pytest.fixture(scope="module")
def posterior(prior: FieldPrior) -> Posterior:
    made = distilled(prior)
    seed_weights(0)
    for parameter in made.flow.parameters():  # away from the identity, whatever training found
        parameter.data += 0.05 * torch.randn_like(parameter)
    made.flow.spread.copy_(torch.tensor([0.05, -0.02]))
    return made


def gappy(records: int = 3) -> tuple[Tensor, Tensor]:
    fields = torch.from_numpy(history(12).values[:records]).reshape(records, 1, -1).clone()
    fields[torch.rand(fields.shape, generator=seeded(0)) > 0.3] = torch.nan
    return fields, torch.arange(records)


@pytest.mark.parametrize("members", [1, 64])
def test_one_network_evaluation_a_field_for_any_number_of_members(
    posterior: Posterior, members: int
) -> None:
    evaluated: list[int] = []
    assert isinstance(posterior.flow, CouplingFlow)
    hook = posterior.flow.context.register_forward_hook(
        lambda _module, inputs, _output: evaluated.append(len(inputs[0]))
    )
    y, season = gappy()
    drawn = posterior(y, season=season).members(members, 0)
    hook.remove()
    assert drawn.shape == (members, 3, 1, 60)
    assert evaluated == [3]  # one call, three fields


def test_untrained_flow_is_the_exact_gaussian_posterior(prior: FieldPrior) -> None:
    untrained = distilled(prior, steps=0)
    untrained.flow.spread.zero_()
    y, season = gappy()
    distribution = untrained(y, season=season)
    exact = prior.anchor.posterior(distribution.measurement)
    value = torch.from_numpy(history(12).values[:3]).reshape(3, 1, -1)
    standardized = prior.normals.standardize(value, season)
    jacobian = prior.normals.std[season].log().flatten(1).sum(1)
    torch.testing.assert_close(
        distribution.log_prob(value).detach(),
        exact.log_prob(standardized) - jacobian,
        rtol=1e-4,
        atol=1e-2,
    )
    mean = prior.normals.restore(exact.mean, season)
    spread = prior.normals.std[season] * exact.std()
    # 128 draws: the mean's standard error is spread / sqrt(128).
    assert bool(((distribution.mean - mean).abs() < 5 * spread / 128**0.5).all())


def test_members_of_an_untrained_flow_have_equal_weights(prior: FieldPrior) -> None:
    """It is the exact posterior of the anchor: weights are p(y), whatever the member."""
    untrained = distilled(prior, steps=0)
    y, season = gappy()
    evidence = prior.anchor.posterior(untrained(y, season=season).measurement).log_evidence()

    def weigh() -> tuple[Tensor, ImportanceWeights]:
        distribution = untrained(y, season=season)
        return importance_weights(
            distribution, lambda x: prior.anchor.log_prob(x, season), members=30
        )

    untrained.flow.spread.zero_()
    fields, exact = weigh()
    assert fields.shape == (30, 3, 1, 60)
    # float32 fields: rounding of 1e-7 of a field's log-density, here a sum of some hundreds
    np.testing.assert_allclose(exact.effective_sample_size, 30.0, rtol=1e-3)
    np.testing.assert_allclose(exact.log_evidence, evidence, atol=0.02)
    untrained.flow.spread[0] = 0.1
    _, wide = weigh()
    # E w^2 of a Gaussian that is exp(0.1) too wide in 60 dimensions, as in test_diagnostics.py
    share = (np.sqrt(2 * np.exp(0.2) - 1) / np.exp(0.2)) ** 60
    assert bool((wide.effective_sample_size < 30 * (share + 1) / 2).all())


def test_log_prob_is_the_density_of_the_draws(posterior: Posterior) -> None:
    """exp(log p - log q) averages to one over draws of q, for the Gaussian posterior p.

    The flow is near its base, so that the ratio has a finite variance.
    """
    y, season = gappy(1)
    distribution = posterior(y, season=season)
    seed_weights(1)
    with torch.no_grad():
        draws = distribution.rsample((4000,))
        log_q = distribution.log_prob(draws)[:, 0].double()
    base = posterior.flow.base.posterior(distribution.measurement)
    standardized = posterior.normals.standardize(draws[:, 0], season.expand(len(draws)))
    deviations = standardized - base.mean
    log_p = base.peak_log_prob() - base.energy(deviations[:, None])[:, 0]
    log_p = log_p - posterior.normals.std[season].log().sum()
    ratio = (log_p.double() - log_q).exp()
    error = float(ratio.std()) / len(ratio) ** 0.5
    assert abs(float(ratio.mean()) - 1) < 5 * error
    assert error < 0.2


def test_members_depend_on_seed_record_and_number_alone(posterior: Posterior) -> None:
    y, season = gappy()
    keys = torch.tensor([10, -20, 30])
    together = posterior(y, season=season, key=keys).members(8, 5)
    spread = together.std(0).clamp(min=1e-3)
    for index in range(3):
        part = slice(index, index + 1)
        alone = posterior(y[part], season=season[part], key=keys[part]).members(3, 5)
        error = (alone - together[:3, part]).abs()
        # A flow of some hundred sums and products in float32, and fields near 20 degC.
        assert bool((error <= rounding(256) * spread[part] + rounding(2, together)).all())
    alike(posterior(y, season=season, key=keys).members(8, 5), together, 256)
    other = posterior(y, season=season, key=keys).members(8, 6)
    assert float((other - together).abs().mean()) > 0.01


def test_noise_of_a_member_is_the_same_bits_however_many_are_asked_for() -> None:
    key = torch.tensor([-7])
    few, many = members_noise(3, key, 2, 1000), members_noise(3, key, 50, 1000)
    assert torch.equal(few, many[:2])
    assert not torch.equal(few[0], members_noise(3, -key, 1, 1000)[0])
    assert not torch.equal(few[0], members_noise(3, key, 1, 1000, stream=1)[0])
    assert abs(float(many.std()) - 1) < 5 / (2 * many.numel()) ** 0.5


def test_values_under_the_mask_and_nothing_else_are_ignored(posterior: Posterior) -> None:
    y, season = gappy()
    measured = posterior.measure(y, season)
    assert torch.equal(measured.mask, ~torch.isnan(y))
    draws = posterior(y, season=season).members(4, 0)
    assert bool(torch.isfinite(draws).all())


def test_saved_posterior_draws_the_same(posterior: Posterior, tmp_path: Path) -> None:
    posterior.save(tmp_path / "model")
    again = apsgeo.load(tmp_path / "model")
    assert isinstance(again, Posterior)
    assert repr(again) == repr(posterior)
    y, season = gappy()
    first = posterior(y, season=season).members(4, 0)
    second = again(y, season=season).members(4, 0)
    torch.testing.assert_close(first, second, rtol=0.0, atol=rounding(256, first))


@pytest.mark.parametrize("skip", ["gaussian", "none"])
def test_saved_prior_is_the_same(prior: FieldPrior, skip: Any, tmp_path: Path) -> None:
    fitted = fit_prior(
        history(12),
        scales=SCALES,
        anchor_scales=ANCHOR,
        rank=5,
        skip=skip,
        training=Training(steps=2, progress=False),
    )
    fitted.save(tmp_path / "prior")
    again = apsgeo.load(tmp_path / "prior")
    assert isinstance(again, FieldPrior)
    fields = fitted.encode(history(12)[:2])
    season = fitted.season_of(history(12)[:2])
    torch.testing.assert_close(
        again.gaussian.log_prob(fields, season),
        fitted.gaussian.log_prob(fields, season),
        rtol=1e-5,
        atol=0.0,
    )
    torch.testing.assert_close(
        again.denoiser.predict(fields, 0.3), fitted.denoiser.predict(fields, 0.3)
    )


@pytest.mark.parametrize("objective", ["score", "forward", "mixed"])
@pytest.mark.parametrize("base", ["anchor", "white"])
def test_training_never_ends_worse_on_held_out_months(
    prior: FieldPrior, objective: Any, base: Any
) -> None:
    spec = CouplingSpec(
        base=base, width=8, depth=1, context=4, local=2, patterns=4, coupling_width=4
    )
    made = distilled(prior, objective=objective, spec=spec, steps=10)
    scores = [row["validation"] for row in made.provenance["log"]]
    assert min(scores) <= 1.0 + 1e-6
    assert np.isfinite(scores).all()


def test_held_out_records_are_taken_evenly() -> None:
    season = torch.arange(1000) % 12
    many = Fields(torch.arange(1000.0).reshape(1000, 1, 1), season)
    few = many.evenly(160)
    assert few.fields[0] == 0.0
    assert few.fields[-1] == 999.0
    assert len(few.fields.unique()) == 160
    assert torch.equal(few.season, few.fields[:, 0, 0].long() % 12)
    assert torch.bincount(few.season, minlength=12).min() >= 10  # of 13 on average
    assert many.evenly(1000) is many


def test_distill_without_history_uses_prior_draws(prior: FieldPrior, tmp_path: Path) -> None:
    loaded = FieldPrior.load(prior.save(tmp_path / "prior"))
    assert loaded.history is None
    made = distilled(loaded, steps=2)
    y, season = gappy(1)
    assert made(y, season=season).members(2, 0).shape == (2, 1, 1, 60)


@pytest.mark.same_bits
def test_without_history_the_fields_are_draws_of_the_diffusion_prior(prior: FieldPrior) -> None:
    """Bit for bit those of its sampler; of the Gaussian prior only where there is no other."""
    season = torch.arange(125) % 12
    first, second = (seeded(3) for _ in range(2))
    drawn = draws_of_prior(prior, "diffusion", season, first)
    sampler = DPMSolver(steps=20)
    parts = [sampler.sample(prior.denoiser, count, generator=second) for count in (120, 5)]
    assert torch.equal(drawn, torch.cat(parts))
    alone = replace(prior, diffusion=None)
    gaussian = draws_of_prior(alone, "gaussian", season, seeded(3))
    expected = prior.gaussian.sample(season, seeded(3))
    assert torch.equal(gaussian, expected)


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan, [1.0, 2.0]])
def test_unusable_noise_is_refused(prior: FieldPrior, posterior: Posterior, bad: Any) -> None:
    y, season = gappy(1)
    with pytest.raises(InputError, match="noise_std"):
        posterior(y, season=season, noise_std=torch.as_tensor(bad))
    with pytest.raises(InputError, match="noise_std"):
        distill(prior, Mask(), torch.as_tensor(bad), training=Training(progress=False))


def test_normals_of_complete_fields_refuse_changing_gaps() -> None:
    broken = torch.ones(24, 1, 5)
    broken[3, 0, 2] = torch.nan
    with pytest.raises(InputError, match="change with time"):
        Normals.fit(broken, torch.arange(24) % 12, 12)


def test_land_stays_missing() -> None:
    masked = history(12)
    masked[:, 2, 3] = np.nan
    fitted = fit_prior(
        masked, scales=SCALES, anchor_scales=ANCHOR, rank=5, training=Training(steps=0)
    )
    made = distilled(fitted, steps=1)
    y, season = gappy(1)
    draws = made(y, season=season).members(2, 0)
    assert bool(torch.isnan(draws[..., 2 * 10 + 3]).all())
    for method in (made.method, climatology(fitted)):
        variance = Posterior.of(fitted, method, Mask(), NOISE)(y, season=season).variance
        assert int(torch.isnan(variance).sum()) == 1
    assert int(torch.isnan(draws).sum()) == 2


def test_a_model_of_other_weights_is_refused(posterior: Posterior, tmp_path: Path) -> None:
    folder = posterior.save(tmp_path / "model")
    weights = folder / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(ModelError):
        apsgeo.load(folder)


def test_history_without_dates_is_refused() -> None:
    undated = history(12).assign_coords(time=np.arange(144))
    with pytest.raises(InputError, match="no dates"):
        fit_prior(undated, scales=SCALES, anchor_scales=ANCHOR, training=Training(progress=False))
    backwards = history(12).isel(time=slice(None, None, -1))
    with pytest.raises(GridError, match="must ascend"):
        fit_prior(backwards, scales=SCALES, anchor_scales=ANCHOR, training=Training(progress=False))


def test_paper_form_is_saved_whatever_its_patterns(prior: FieldPrior, tmp_path: Path) -> None:
    spec = CouplingSpec(base="white", width=8, depth=1, context=4, local=2, coupling_width=4)
    made = distilled(prior, spec=spec, objective="reverse", steps=1)
    assert isinstance(apsgeo.load(made.save(tmp_path / "model")), Posterior)


def test_a_flow_of_splines_is_saved(prior: FieldPrior, tmp_path: Path) -> None:
    spec = replace(SPEC, elementwise="spline", bins=4, mixing=True)
    made = distilled(prior, spec=spec, steps=2)
    again = apsgeo.load(made.save(tmp_path / "model"))
    assert isinstance(again, Posterior)
    assert again.flow.spec == spec
    y, season = gappy(1)
    first = made(y, season=season).members(2, 0)
    second = again(y, season=season).members(2, 0)
    torch.testing.assert_close(first, second, rtol=0.0, atol=rounding(256, first))


def test_a_posterior_can_be_sent_to_another_process(posterior: Posterior) -> None:
    again = pickle.loads(pickle.dumps(posterior))
    y, season = gappy(1)
    first = posterior(y, season=season).members(2, 0)
    second = again(y, season=season).members(2, 0)
    torch.testing.assert_close(first, second, rtol=0.0, atol=rounding(256, first))


def test_an_absent_device_is_refused(posterior: Posterior) -> None:
    with pytest.raises(InputError, match="cannot be used here"):
        posterior.to("cuda:99")
    assert posterior.to("auto").flow.device.type in ("cpu", "cuda")
    posterior.to("cpu")


def test_reverse_returns_what_training_left(prior: FieldPrior) -> None:
    """Unsupervised: no held-out score picks the weights, so they have moved."""
    first = distilled(prior, objective="reverse", steps=0).flow.state_dict()
    last = distilled(prior, objective="reverse", steps=3).flow.state_dict()
    assert any(not torch.equal(first[name], last[name]) for name in first if name != "spread")


def test_spread_is_calibrated_at_every_density(
    prior: FieldPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After distilling, error and spread of the held-out pairs agree, whatever is observed."""
    seen: list[PairSet] = []

    def spy(*arguments: Any, **options: Any) -> PairSet:
        seen.append(simulate_pairs(*arguments, **options))
        return seen[-1]

    monkeypatch.setattr(sources, "simulate_pairs", spy)
    made = distilled(prior, steps=0)
    shares, factors = spread_factors(prior, made.flow, seen[-1])
    assert np.ptp(shares) > 2.0
    assert factors.mean() == pytest.approx(0.0, abs=0.05)  # 32 members, few fields
    assert np.polyfit(shares, factors, 1)[0] == pytest.approx(0.0, abs=0.05)
    made.flow.spread.zero_()
    _, before = spread_factors(prior, made.flow, seen[-1])
    assert before.mean() < -0.2
    assert np.polyfit(shares, before, 1)[0] < -0.1


@pytest.mark.parametrize("season", [-1, 12])
def test_a_season_that_is_none_is_refused(posterior: Posterior, season: int) -> None:
    y, _ = gappy(1)
    with pytest.raises(InputError, match="from 0 to 11"):
        posterior(y, season=torch.tensor([season]))


def test_no_record_is_refused(posterior: Posterior) -> None:
    y, season = gappy(1)
    with pytest.raises(InputError, match="no record"):
        posterior(y[:0], season=season[:0])
