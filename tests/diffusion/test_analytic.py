"""Analytic priors as denoisers: views of one denoiser, and the probability-flow log-density."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo.diffusion.analytic import AnalyticDiffusion
from apsgeo.diffusion.estimate import Estimate
from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.diffusion.schedule import EDMSchedule, Schedule, VPSchedule
from apsgeo.domains import ImageDomain
from apsgeo.errors import InputError
from apsgeo.gaussian.hybrid import HybridPrior
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.matern import MaternField
from apsgeo.gaussian.mixture import GaussianMixturePrior
from apsgeo.gaussian.prior import GaussianPrior
from tests.cases import seeded

DOMAIN = ImageDomain(2, 3)
WIDE = VPSchedule(beta_max=30.0, eps=1e-4)


def gaussian(seed: int = 0, white_std: float = 0.4) -> LowRankPrior:
    loadings = 0.8 * torch.randn(1, 6, 3, generator=seeded(seed), dtype=torch.float64)
    return LowRankPrior(DOMAIN, loadings, white_std)


@pytest.fixture(scope="module")
def mixture() -> GaussianMixturePrior:
    mean = torch.linspace(-0.6, 0.9, 6, dtype=torch.float64).reshape(1, 1, 6)
    means = torch.cat([mean / 0.3, -mean / 0.7])
    return GaussianMixturePrior([gaussian(1), gaussian(2, 0.7)], [0.3, 0.7], means)


def draws(prior: GaussianMixturePrior | GaussianPrior, count: int = 5) -> Tensor:
    return prior.sample(count, seeded(3)).double()


def test_views_are_those_of_the_noisy_density(mixture: GaussianMixturePrior) -> None:
    """Each record at a time of its own, against grad log p_t by autograd."""
    denoiser, times = (
        AnalyticDiffusion(mixture, WIDE),
        torch.tensor([0.001, 0.1, 0.37, 0.9, 1.0]).double(),
    )
    x_t = draws(mixture).requires_grad_()
    alphas, sigmas = (f(times)[:, None, None] for f in (WIDE.alpha, WIDE.sigma))
    log_p = [
        mixture.log_prob(x / alpha, float(sigma / alpha))
        for x, alpha, sigma in zip(x_t.split(1), alphas, sigmas, strict=True)
    ]
    (truth,) = torch.autograd.grad(torch.cat(log_p).sum(), x_t)
    noise = denoiser.predict_noise(x_t, times)
    # Scores are divided by sigma^2, at most 1e6 here, from float64.
    assert torch.allclose(-noise / sigmas, truth, rtol=1e-8, atol=1e-8)
    assert torch.allclose(noise, -sigmas * truth, rtol=1e-8, atol=1e-8)
    clean = denoiser.predict(x_t, times)
    assert torch.allclose(x_t, alphas * clean + sigmas * noise)
    assert torch.allclose(denoiser.predict_velocity(x_t, times), alphas * noise - sigmas * clean)


@pytest.mark.parametrize("noise_std", [0.02, 0.7, 20.0])
def test_it_denoises_as_its_prior_does(mixture: GaussianMixturePrior, noise_std: float) -> None:
    """All priors share denoise and score, whether or not they know of a diffusion's time."""
    denoiser, noisy = AnalyticDiffusion(mixture, WIDE), draws(mixture)
    expected = mixture.denoise(noisy, noise_std)
    # The time of a level of noise is rounded: some 1e-15 of it, and as much of its logarithm.
    assert torch.allclose(denoiser.denoise(noisy, noise_std), expected, rtol=1e-9, atol=1e-9)
    slope = (expected - noisy) / noise_std**2
    assert torch.allclose(denoiser.score(noisy, noise_std), slope, rtol=1e-6, atol=1e-6)
    for wrong in (1e-9, 1e9):
        with pytest.raises(InputError, match="noise_std"):
            denoiser.denoise(noisy, wrong)


def test_a_gaussian_is_its_own_anchor() -> None:
    prior = gaussian()
    denoiser, x = AnalyticDiffusion(prior, anchor=prior), draws(prior)
    estimate = denoiser.estimate_log_prob(x, samples=2)
    assert torch.allclose(estimate.value, prior.log_prob(x))
    assert float(estimate.standard_error.max()) < 1e-9


@pytest.mark.parametrize(
    "schedule", [VPSchedule(beta_max=2.0, eps=0.05), WIDE, EDMSchedule(0.05, 4.0)]
)
def test_probability_flow_of_a_gaussian_is_its_closed_form(schedule: Schedule) -> None:
    """Along an eigenvector s grows as sqrt(lam + v); see `ode_log_prob` for the two ends."""
    prior = gaussian()
    x = draws(prior)
    lam, vectors = np.linalg.eigh(prior.covariance(np.arange(6), np.arange(6)))
    square = (x.flatten(1).numpy() @ vectors) ** 2
    first, last = (float(torch.exp(-schedule.log_snr(t))) for t in (schedule.eps, schedule.T))
    growth, alpha2 = (lam + last) / (lam + first), 1.0 / (1.0 + last)
    expected = -0.5 * (alpha2 * growth * square + math.log(2 * math.pi)) + 0.5 * np.log(
        alpha2 * growth
    )
    expected += 0.5 * first * (1.0 / (lam + first) - square / (lam + first) ** 2)
    denoiser = AnalyticDiffusion(prior, schedule)
    found = denoiser.estimate_log_prob(x, method="ode", tolerance=1e-8)
    np.testing.assert_allclose(found.value.numpy(), expected.sum(1), atol=1e-5)
    assert bool((found.standard_error == 0.0).all())
    if schedule is WIDE:
        np.testing.assert_allclose(found.value.numpy(), prior.log_prob(x).numpy(), atol=1e-4)


def test_probability_flow_of_a_mixture_is_its_log_density(mixture: GaussianMixturePrior) -> None:
    x, denoiser = draws(mixture), AnalyticDiffusion(mixture, WIDE)
    truth = mixture.log_prob(x)
    errors = [
        float(
            (denoiser.estimate_log_prob(x, method="ode", tolerance=tolerance).value - truth)
            .abs()
            .max()
        )
        for tolerance in (1e-3, 1e-6)
    ]
    assert errors[1] < 1e-4  # the ends of this schedule: (1e-5 / 0.16)^2 and below
    assert errors[0] > 10.0 * errors[1]  # so the tolerance is what decides


def test_hutchinson_is_unbiased_and_knows_its_error(mixture: GaussianMixturePrior) -> None:
    x, denoiser = draws(mixture, 3), AnalyticDiffusion(mixture, WIDE)
    truth = mixture.log_prob(x)
    runs = [
        denoiser.estimate_log_prob(x, method="ode", probes=16, generator=seeded(k), tolerance=1e-3)
        for k in range(20)
    ]
    values = torch.stack([run.value for run in runs])
    mean = Estimate.of(values)
    assert bool(((mean.value - truth).abs() < 5.0 * mean.standard_error).all())
    claimed = torch.stack([run.standard_error for run in runs]).square().mean(0).sqrt()
    # A standard deviation from 20 runs is uncertain by 1 / sqrt(38) = 16 %.
    assert bool(((values.std(0) / claimed - 1.0).abs() < 5 * 0.16).all())
    again = denoiser.estimate_log_prob(
        x, method="ode", probes=16, generator=seeded(0), tolerance=1e-3
    )
    torch.testing.assert_close(again.value, runs[0].value, rtol=1e-10, atol=1e-10)


def test_probability_flow_of_an_untrained_network_is_its_anchors_density() -> None:
    """With a network of single precision, and the anchor interpolated between its levels."""
    anchor = gaussian()
    prior = DiffusionPrior(DOMAIN, 1, Scaled(), WIDE, anchor, levels=80)
    x = draws(anchor)
    found = prior.estimate_log_prob(x, method="ode", tolerance=1e-5).value
    # The interpolated denoiser is within spacing^2 / 83 of the exact one per value and e-fold.
    reach = float(prior.log_snr[-1] - prior.log_snr[0])
    bound = 0.5 * reach * prior.spacing**2 / 83.0 * (6.0 + 2.0 * float(x.square().sum() / 5))
    assert float((found - anchor.log_prob(x)).abs().max()) < bound


class Scaled(torch.nn.Module):
    """A network that returns zero, as it does before training."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.weight * x[:, :1]


def test_the_anchor_controls_hutchinsons_estimate() -> None:
    """With a factorized prior, which is its own anchor: nothing is left to the signs."""
    one = torch.ones(1, 6, dtype=torch.float64)
    loadings = 0.8 * torch.randn(1, 6, 2, generator=seeded(), dtype=torch.float64)
    prior = HybridPrior(MaternField(DOMAIN, 2.0), loadings, 0.7 * one, 0.4 * one)
    x = draws(prior, 3)
    options = {"probes": 4, "generator": seeded(), "tolerance": 1e-5}
    plain = AnalyticDiffusion(prior, WIDE).estimate_log_prob(x, method="ode", **options)
    found = AnalyticDiffusion(prior, WIDE, prior).estimate_log_prob(x, method="ode", **options)
    assert float((found.value - prior.log_prob(x)).abs().max()) < 1e-3
    assert float(found.standard_error.max()) < 1e-3
    assert float(plain.standard_error.min()) > 0.05


def test_options_of_the_probability_flow_are_checked(mixture: GaussianMixturePrior) -> None:
    denoiser, x = AnalyticDiffusion(mixture), draws(mixture)
    for options in ({"probes": 1}, {"tolerance": 0.0}):
        with pytest.raises(InputError, match="at least 2 probes"):
            denoiser.estimate_log_prob(x, method="ode", **options)
    with pytest.raises(InputError, match="shape"):
        denoiser.estimate_log_prob(x[..., 1:], method="ode")
