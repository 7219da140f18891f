"""Every schedule is another clock for the same denoiser: facts that hold on all of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apsgeo.diffusion.prior import COND_DIM, DiffusionPrior
from apsgeo.diffusion.samplers import DDIM
from apsgeo.diffusion.schedule import (
    SCHEDULES,
    EDMSchedule,
    Schedule,
    VESchedule,
    VPSchedule,
    from_config,
)
from apsgeo.domains import ImageDomain
from apsgeo.errors import InputError, ModelError
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.nn.unet import UNet
from tests.cases import alike, seed_weights, seeded

DOMAIN = ImageDomain(4, 4)
CASES = [kind() for kind in SCHEDULES]
every = pytest.mark.parametrize("schedule", CASES, ids=lambda schedule: schedule.kind)


def gaussian() -> LowRankPrior:
    loadings = 0.8 * torch.randn(1, 16, 3, generator=seeded(1), dtype=torch.float64)
    return LowRankPrior(DOMAIN, loadings, 0.4)


def covariance(prior: LowRankPrior) -> Tensor:
    return torch.from_numpy(prior.covariance(np.arange(16), np.arange(16)))


class Zero(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.weight * x[:, :1]


def untrained(schedule: Schedule, levels: int = 60) -> DiffusionPrior:
    return DiffusionPrior(DOMAIN, 1, Zero(), schedule, gaussian(), levels=levels)


@every
def test_a_schedule_agrees_with_itself(schedule: Schedule) -> None:
    # From a place above eps, where a clock may stand still in log(snr), to T.
    start = schedule.eps + 0.01 * (schedule.T - schedule.eps)
    t = torch.linspace(start, schedule.T, 9, dtype=torch.float64, requires_grad=True)
    log_snr = schedule.log_snr(t)
    (slope,) = torch.autograd.grad(log_snr.sum(), t)
    assert torch.allclose(schedule.rate(t), -slope)
    assert bool((slope < 0).all())
    assert torch.allclose(2 * torch.log(schedule.alpha(t) / schedule.sigma(t)), log_snr)
    assert torch.allclose(schedule.time_of_snr(schedule.snr(t)), t, rtol=1e-10)
    assert torch.allclose(schedule.alpha_sigma(log_snr)[1], schedule.sigma(t))
    assert from_config(schedule.to_config()) == schedule


def test_clocks_are_those_of_their_papers() -> None:
    ve, edm = VESchedule(0.02, 50.0), EDMSchedule()
    t = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert torch.allclose(ve.sigma(t), torch.tensor([0.02, 1.0, 50.0], dtype=torch.float64))
    assert torch.allclose(edm.sigma(t[1:]), t[1:])
    assert torch.equal(edm.alpha(t[1:]), torch.ones(2, dtype=torch.float64))


def test_nonsense_is_refused() -> None:
    with pytest.raises(InputError, match="beta_min=2.0, beta_max=1.0"):
        VPSchedule(beta_min=2.0, beta_max=1.0)
    for kind in (VESchedule, EDMSchedule):
        with pytest.raises(InputError, match="0 < sigma_min < sigma_max"):
            kind(sigma_min=2.0, sigma_max=1.0)
    with pytest.raises(ModelError, match="schedule's kind is 'cosine'"):
        from_config({"kind": "cosine"})


@every
def test_of_gaussian_data_the_untrained_denoiser_is_the_optimum_at_every_level(
    schedule: Schedule,
) -> None:
    prior, exact = untrained(schedule, levels=12), covariance(gaussian())
    eye = torch.eye(16, dtype=torch.float64)
    for log_snr in prior.log_snr:
        time = float(schedule.time_of_snr(log_snr.exp()).clamp(schedule.eps, schedule.T))
        alpha, sigma = float(schedule.alpha(time)), float(schedule.sigma(time))
        x = gaussian().draw(torch.randn(gaussian().draw_dim, 5, generator=seeded(2)).numpy())
        noise = torch.randn(5, 16, generator=seeded(3), dtype=torch.float64)
        x_t = alpha * torch.from_numpy(x.T) + sigma * noise
        total = alpha**2 * exact + sigma**2 * eye  # the covariance of x_t
        pulled = torch.linalg.solve(total, x_t.T).T
        views = {
            "clean": (prior.predict(x_t[:, None], time), alpha * pulled @ exact),
            "score": (-prior.predict_noise(x_t[:, None], time) / sigma, -pulled),
            "epsilon": (prior.predict_noise(x_t[:, None], time), sigma * pulled),
            "velocity": (
                prior.predict_velocity(x_t[:, None], time),
                alpha * sigma * pulled - sigma * alpha * pulled @ exact,
            ),
        }
        for name, (found, truth) in views.items():
            # Divided by sigma^2 at most, from the float64 of x_t and its denoised value.
            rounding = 1e-12 * float(x_t.abs().max()) * max(1.0, alpha / sigma) ** 2
            assert float((found[:, 0] - truth).detach().abs().max()) < rounding, (
                name,
                float(log_snr),
            )


@every
def test_of_gaussian_data_the_log_densities_are_the_truth(schedule: Schedule) -> None:
    """The flow from x0 and the bound, as far as the range of the schedule allows."""
    anchor = gaussian()
    prior = untrained(schedule)
    x = anchor.sample(2, seeded(4)).double()
    truth = anchor.log_prob(x)
    alike(prior.estimate_log_prob(x).value, truth.double())
    found = prior.estimate_log_prob(x, method="ode", tolerance=1e-4).value
    # The denoiser is interpolated, within spacing^2 / 83 of the exact one per value and e-fold of
    # noise; at the last level the data's covariance is lost up to its square over the noise's.
    reach = 0.5 * float(prior.log_snr[-1] - prior.log_snr[0])
    lost = float(torch.linalg.eigvalsh(covariance(anchor)).sum()) * math.exp(
        float(prior.log_snr[0])
    )
    bound = reach * prior.spacing**2 / 83.0 * (16.0 + float(x.square().sum() / 2)) + lost
    assert float((found - truth).abs().max()) < bound
    estimate = prior.estimate_log_prob(x, method="elbo", samples=60, generator=seeded(5))
    mean, error = estimate.value.mean(), estimate.standard_error.norm() / 2
    assert float((mean - truth.mean()).abs()) < 5.0 * float(error) + bound


@every
def test_one_network_is_the_same_prior_on_every_clock(schedule: Schedule) -> None:
    """Over the same range of log(snr): fields that are drawn, and their log-densities."""
    ends = [float(torch.exp(-0.5 * schedule.log_snr(t))) for t in (schedule.eps, schedule.T)]
    for anchor in (None, gaussian()):
        seed_weights(0)
        network = UNet(DOMAIN, 1 if anchor is None else 2, 1, cond_dim=COND_DIM, zero_init=False)
        prior, edm = (
            DiffusionPrior(DOMAIN, 1, network.double(), each, anchor, levels=12).eval()
            for each in (schedule, EDMSchedule(*ends))
        )
        x = torch.randn(2, 1, 16, generator=seeded(6), dtype=torch.float64)
        with torch.no_grad():
            for method in ("anchored", "elbo"):
                one, other = (
                    p.estimate_log_prob(x, method=method, generator=seeded(7)) for p in (prior, edm)
                )
                assert torch.allclose(one.value, other.value, rtol=1e-8)
            drawn = [DDIM(6).sample(p, 2, generator=seeded(8), like=x) for p in (prior, edm)]
        assert torch.allclose(drawn[0], drawn[1], rtol=1e-8, atol=1e-8)
        assert float((drawn[0] - x).abs().max()) > 0.1
