"""The samplers against closed forms: what they draw from Gaussians and mixtures is known."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo.diffusion.analytic import AnalyticDiffusion
from apsgeo.diffusion.samplers import DDIM, Ancestral, DPMSolver, Heun, Sampler
from apsgeo.diffusion.schedule import EDMSchedule, Schedule, VESchedule, VPSchedule
from apsgeo.domains import ImageDomain
from apsgeo.errors import InputError
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.mixture import GaussianMixturePrior
from tests.cases import seeded

DOMAIN = ImageDomain(2, 3)
LIKE = torch.empty(0, dtype=torch.float64)
DRAWS = 6000
SAMPLERS = [Ancestral, DDIM, Heun, DPMSolver]


def gaussian(seed: int = 0, white_std: float = 0.4) -> LowRankPrior:
    loadings = 0.8 * torch.randn(1, 6, 3, generator=seeded(seed), dtype=torch.float64)
    return LowRankPrior(DOMAIN, loadings, white_std)


def mixture() -> GaussianMixturePrior:
    mean = torch.linspace(-1.5, 2.0, 6, dtype=torch.float64).reshape(1, 1, 6)
    means = torch.cat([mean / 0.3, -mean / 0.7])
    return GaussianMixturePrior([gaussian(1), gaussian(2, 0.7)], [0.3, 0.7], means)


def covariance(prior: LowRankPrior) -> np.ndarray:
    return prior.covariance(np.arange(6), np.arange(6))


def scales(sampler: Sampler, schedule: Schedule) -> np.ndarray:
    """Return sigma / alpha at the sampler's times."""
    first, last = (float(schedule.log_snr(end)) for end in (schedule.T, schedule.eps))
    return np.exp(-0.5 * np.linspace(first, last, sampler.steps + 1))


def factor_of_a_step(sampler: Sampler, lam: np.ndarray, now: float, then: float) -> np.ndarray:
    """What a one-step method multiplies s by, along an eigenvector of eigenvalue lam."""
    gain, kept = lam / (lam + now**2), then / now
    euler = kept + (1.0 - kept) * gain
    if isinstance(sampler, Ancestral):
        return kept**2 + (1.0 - kept**2) * gain
    if isinstance(sampler, DDIM):
        return euler
    last = 1.0 - lam / (lam + then**2)
    return 1.0 + 0.5 * (then - now) * ((1.0 - gain) / now + euler * last / then)


def variance_drawn(sampler: Sampler, lam: np.ndarray, schedule: Schedule) -> np.ndarray:
    """The variance that the sampler gives, along an eigenvector: a linear recursion."""
    v = scales(sampler, schedule)
    var = np.full_like(lam, 1.0 + v[0] ** 2)  # alpha^2 = 1 / (1 + v^2)
    for now, then in pairwise(v):
        var = var * factor_of_a_step(sampler, lam, now, then) ** 2
        if isinstance(sampler, Ancestral):
            var = var + then**2 * (1.0 - (then / now) ** 2)
    return var * (lam / (lam + v[-1] ** 2)) ** 2


@pytest.mark.parametrize("schedule", [VPSchedule(eps=0.1), VESchedule(0.1, 2.0), EDMSchedule()])
@pytest.mark.parametrize("steps", [8, 60])
@pytest.mark.parametrize("kind", [Ancestral, DDIM, Heun])
def test_draws_of_a_gaussian_have_the_covariance_of_the_recursion(
    kind: type[Sampler], steps: int, schedule: Schedule
) -> None:
    prior, sampler = gaussian(), kind(steps)
    denoiser = AnalyticDiffusion(prior, schedule)
    draws = sampler.sample(denoiser, DRAWS, generator=seeded(1), like=LIKE)
    lam, vectors = np.linalg.eigh(covariance(prior))
    expected = np.diag(variance_drawn(sampler, lam, schedule))
    flat = draws.flatten(1).numpy() @ vectors
    found = flat.T @ flat / DRAWS
    var = np.diag(expected)
    error = np.sqrt((np.outer(var, var) + expected**2) / DRAWS)  # Isserlis
    assert (np.abs(found - expected) < 5.0 * error).all()
    assert (np.abs(flat.mean(0)) < 5.0 * np.sqrt(var / DRAWS)).all()


@pytest.mark.parametrize("kind", SAMPLERS)
def test_draws_of_a_mixture_have_its_weights_means_and_covariances(kind: type[Sampler]) -> None:
    """The bias is far below the error of some thousand draws; ancestral steps make most of it."""
    prior, sampler = mixture(), kind(400 if kind is Ancestral else 100)
    draws = sampler.sample(AnalyticDiffusion(prior), DRAWS, generator=seeded(2), like=LIKE)
    shares = prior.responsibilities(draws)
    assert float((shares.amax(1) > 0.99).double().mean()) > 0.98  # the modes are apart
    for index, weight in enumerate(prior.weights.tolist()):
        part = draws[shares.argmax(1) == index].flatten(1).numpy()
        spread = math.sqrt(weight * (1.0 - weight) / DRAWS)
        assert abs(len(part) / DRAWS - weight) < 5.0 * spread
        truth = covariance(prior.components[index])  # type: ignore[arg-type]
        var, centre = np.diag(truth), part - prior.means[index].flatten().numpy()
        assert (np.abs(centre.mean(0)) < 5.0 * np.sqrt(var / len(part))).all()
        error = np.sqrt((np.outer(var, var) + truth**2) / len(part))
        assert (np.abs(centre.T @ centre / len(part) - truth) < 5.0 * error).all()


def draw(sampler: Sampler) -> Tensor:
    return sampler.sample(AnalyticDiffusion(mixture()), 16, generator=seeded(3), like=LIKE)


@pytest.fixture(scope="module")
def converged() -> Tensor:
    """Where the flow leads from one initial state, by Richardson's extrapolation."""
    return (4.0 * draw(Heun(800)) - draw(Heun(400))) / 3.0


@pytest.mark.parametrize(("kind", "order"), [(DDIM, 1), (Heun, 2), (DPMSolver, 2)])
def test_order_of_convergence(kind: type[Sampler], order: int, converged: Tensor) -> None:
    """On one initial state, doubling the steps divides the error by 2^order."""
    coarse, fine = (float((draw(kind(steps)) - converged).norm()) for steps in (100, 200))
    assert abs(math.log2(coarse / fine) - order) < 0.15


@pytest.mark.same_bits
@pytest.mark.parametrize("kind", SAMPLERS)
def test_draws_are_those_of_the_seed_in_the_dtype_asked_for(kind: type[Sampler]) -> None:
    denoiser = AnalyticDiffusion(gaussian())
    first, again, other = (
        kind(5).sample(denoiser, 3, generator=seeded(seed)) for seed in (1, 1, 2)
    )
    assert first.shape == (3, 1, 6)
    assert first.dtype == torch.float32
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_no_steps_are_refused() -> None:
    with pytest.raises(InputError, match="steps=0"):
        Heun(0)
