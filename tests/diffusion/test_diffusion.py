"""The diffusion prior against closed forms: Gaussians and a Gaussian mixture."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apsgeo.diffusion.analytic import AnalyticDiffusion
from apsgeo.diffusion.estimate import Estimate
from apsgeo.diffusion.fit import level_of, train_diffusion
from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.diffusion.schedule import EDMSchedule, Schedule, VESchedule, VPSchedule
from apsgeo.domains import LatLonDomain
from apsgeo.errors import InputError, ModelError
from apsgeo.gaussian.hybrid import HybridPrior
from apsgeo.gaussian.matern import MaternField
from apsgeo.nn.unet import UNet
from apsgeo.optim.training import Training
from tests.cases import alike, rounding, seed_weights, seeded

# Four nodes, two channels: eight dimensions, in which everything is known in closed form.
SMALL = LatLonDomain([-30.0, 30.0], [0.0, 180.0])
SHAPE = (2, 4)
DIMS = 8


def orthogonal(dims: int, seed: int) -> Tensor:
    generator = seeded(seed)
    return torch.linalg.qr(torch.randn(dims, dims, generator=generator, dtype=torch.float64))[0]


class DenseGaussian:
    """N(0, V diag(eigenvalues) V^T), with the methods of GaussianPrior that denoising needs."""

    def __init__(self, eigenvalues: Tensor, vectors: Tensor) -> None:
        self.eigenvalues, self.vectors = eigenvalues, vectors

    def _scale(self, x: Tensor, factors: Tensor) -> Tensor:
        flat = (x.double().flatten(1) @ self.vectors * factors) @ self.vectors.T
        return flat.reshape(x.shape).to(x.dtype)

    def denoise(self, x: Tensor, noise_std: float) -> Tensor:
        return self._scale(x, self.eigenvalues / (self.eigenvalues + noise_std**2))

    def denoise_std(self, noise_std: float) -> float:
        var = self.eigenvalues * noise_std**2 / (self.eigenvalues + noise_std**2)
        return float(var.mean().sqrt())

    def score(self, x: Tensor) -> Tensor:
        return -self._scale(x, 1.0 / self.eigenvalues)

    def log_prob(self, x: Tensor) -> Tensor:
        constant = torch.log(2.0 * math.pi * self.eigenvalues).sum()
        return 0.5 * ((x * self.score(x)).flatten(1).sum(1) - constant)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        z = torch.randn(count, len(self.eigenvalues), generator=generator, dtype=torch.float64)
        return z * self.eigenvalues.sqrt() @ self.vectors.T


class ZeroNetwork(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.weight = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        return self.weight * x[:, : self.channels]


class Mixture:
    """Two Gaussians of different covariance with overall mean zero."""

    domain, channels = SMALL, 2

    def __init__(self) -> None:
        centre = torch.linspace(0.4, 1.2, DIMS, dtype=torch.float64)
        self.log_weights = torch.tensor([0.4, 0.6], dtype=torch.float64).log()
        self.means = torch.stack([centre / 0.4, -centre / 0.6])
        spectra = [torch.linspace(0.2, 1.5, DIMS), torch.linspace(0.8, 0.3, DIMS)]
        self.covariances = torch.stack(
            [
                orthogonal(DIMS, k) @ torch.diag(s.double()) @ orthogonal(DIMS, k).T
                for k, s in enumerate(spectra)
            ]
        )

    def _joint(self, flat: Tensor, noise_var: float) -> tuple[Tensor, Tensor]:
        """Return log(weight_k N_k) (batch, k) and the deviations solved, (batch, k, dims)."""
        total = self.covariances + noise_var * torch.eye(DIMS, dtype=torch.float64)
        deviation = flat[:, None] - self.means
        solved = torch.linalg.solve(total, deviation[..., None])[..., 0]
        normal = -0.5 * ((deviation * solved).sum(-1) + torch.logdet(2.0 * math.pi * total))
        return self.log_weights + normal, solved

    def log_prob(self, x: Tensor, noise_var: float = 0.0) -> Tensor:
        return torch.logsumexp(self._joint(x.flatten(1), noise_var)[0], 1)

    def denoise(self, x: Tensor, noise_std: float) -> Tensor:
        joint, solved = self._joint(x.flatten(1), noise_std**2)
        each = self.means + torch.einsum("kij,bkj->bki", self.covariances, solved)
        return (torch.softmax(joint, 1)[..., None] * each).sum(1).reshape(x.shape)

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        which = torch.multinomial(self.log_weights.exp(), count, True, generator=generator)
        z = torch.randn(count, DIMS, 1, generator=generator, dtype=torch.float64)
        deviation = (torch.linalg.cholesky(self.covariances)[which] @ z)[..., 0]
        return (self.means[which] + deviation).reshape(count, *SHAPE)

    def matched(self) -> DenseGaussian:
        weights = self.log_weights.exp()[:, None, None]
        outer = self.means[:, :, None] * self.means[:, None, :]
        return DenseGaussian(*torch.linalg.eigh((weights * (self.covariances + outer)).sum(0)))


def gaussian() -> DenseGaussian:
    return DenseGaussian(torch.logspace(-1.5, 1.0, DIMS, dtype=torch.float64), orthogonal(DIMS, 9))


def anchored(anchor: Any, **options: Any) -> Any:
    return DiffusionPrior(SMALL, 2, ZeroNetwork(2), anchor=anchor, **options)


def exact(mixture: Mixture, **options: Any) -> Any:
    """A prior whose network is perfect: its denoiser is the mixture's."""
    return AnalyticDiffusion(mixture, anchor=mixture.matched(), **options)  # type: ignore[arg-type]


def within(estimate: Any, truth: Tensor, extra: float = 0.0, sigmas: float = 5.0) -> bool:
    allowed = sigmas * estimate.standard_error + extra
    return bool(((estimate.value - truth).abs() <= allowed).all())


# --- schedule ----------------------------------------------------------------------------------


def test_vp_is_the_solution_of_its_equation() -> None:
    schedule = VPSchedule()
    t = torch.linspace(0.01, 1.0, 7, dtype=torch.float64, requires_grad=True)
    alpha, log_snr = schedule.alpha(t), schedule.log_snr(t)
    assert torch.allclose(alpha**2 + schedule.sigma(t) ** 2, torch.ones(7).double())
    (slope,) = torch.autograd.grad(alpha.sum(), t, retain_graph=True)
    assert torch.allclose(slope, -0.5 * schedule.beta(t) * alpha)
    (slope,) = torch.autograd.grad(log_snr.sum(), t)
    assert torch.allclose(slope, -schedule.beta(t) / schedule.sigma(t) ** 2)
    assert torch.allclose(log_snr.exp(), (schedule.alpha(t) / schedule.sigma(t)) ** 2)
    assert torch.allclose(schedule.time_of_snr(schedule.snr(t)), t, rtol=1e-10)


# --- denoising ---------------------------------------------------------------------------------


def test_zero_network_is_the_anchors_denoiser_on_the_grid_and_near_it_between() -> None:
    anchor = gaussian()
    prior = anchored(anchor, levels=20)
    x_t = torch.randn(5, *SHAPE, generator=seeded(), dtype=torch.float64)
    on_grid = float(prior.schedule.time_of_snr(prior.log_snr[7].exp()))
    alpha = float(prior.schedule.alpha(on_grid))
    exact = anchor.denoise(x_t / alpha, prior.noise_std[7])
    assert torch.allclose(prior.predict(x_t, on_grid), exact, rtol=1e-6)

    between = float(prior.schedule.time_of_snr((prior.log_snr[7] + 0.5 * prior.spacing).exp()))
    alpha, sigma = (float(f(between)) for f in (prior.schedule.alpha, prior.schedule.sigma))
    exact = anchor.denoise(x_t / alpha, sigma / alpha)
    error = ((prior.predict(x_t, between) - exact).flatten(1) @ anchor.vectors).abs()
    size = ((x_t / alpha).flatten(1) @ anchor.vectors).abs()
    bound = prior.spacing**2 / 8.0 / (6.0 * math.sqrt(3.0))  # max |logistic''| = 1 / (6 sqrt 3)
    assert bool((error <= bound * size).all())
    assert float((error / size).detach().max()) > 0.1 * bound


def test_every_record_may_have_its_own_time() -> None:
    prior = anchored(gaussian())
    x_t = torch.randn(4, *SHAPE, generator=seeded(), dtype=torch.float64)
    times = torch.tensor([0.002, 0.4, 0.4, 1.0])
    together = prior.predict(x_t, times)
    alone = torch.cat([prior.predict(x_t[i : i + 1], float(times[i])) for i in range(4)])
    assert torch.allclose(together, alone, rtol=1e-5)


def test_score_is_the_gradient_of_the_noisy_log_density() -> None:
    mixture = Mixture()
    prior = exact(mixture)
    for t in (0.001, 0.1, 0.37, 1.0):
        alpha, sigma = float(prior.schedule.alpha(t)), float(prior.schedule.sigma(t))
        x_t = torch.randn(6, *SHAPE, generator=seeded(), dtype=torch.float64, requires_grad=True)
        log_p = mixture.log_prob(x_t / alpha, (sigma / alpha) ** 2)
        (truth,) = torch.autograd.grad(log_p.sum(), x_t)
        found = -prior.predict_noise(x_t, t) / sigma
        assert torch.allclose(found, truth, rtol=1e-5, atol=1e-6 / sigma)
        found = prior.score(x_t / alpha, sigma / alpha) / alpha
        assert torch.allclose(found, truth, rtol=1e-5, atol=1e-6 / sigma)


def test_without_anchor_the_start_is_the_standard_normal() -> None:
    prior = DiffusionPrior(SMALL, 2, ZeroNetwork(2))
    x = torch.randn(3, *SHAPE, generator=seeded(), dtype=torch.float64)
    noise_std = float(prior.schedule.sigma(0.3) / prior.schedule.alpha(0.3))
    assert torch.allclose(prior.score(x, noise_std), -x / (1.0 + noise_std**2))
    truth = torch.distributions.Normal(0.0, 1.0).log_prob(x).flatten(1).sum(1)
    assert torch.allclose(prior.estimate_log_prob(x).value, truth)
    assert within(prior.elbo(x, samples=64, generator=seeded()), truth, extra=1e-3 * DIMS)


# --- log-densities of a Gaussian ---------------------------------------------------------------


def closed_form_elbo(prior: DiffusionPrior, anchor: DenseGaussian, squares: Tensor) -> Tensor:
    """Integrate the bound of the exact Gaussian denoiser, given each mode's x^2 (batch, dims)."""
    low, high = float(prior.log_snr[0]), float(prior.log_snr[-1])
    lam = anchor.eigenvalues

    def mse(gamma: Tensor) -> Tensor:
        g = gamma[:, None, None]
        return ((squares + g * lam**2) / (1.0 + g * lam) ** 2).sum(-1)

    grid = torch.linspace(low, high, 4001, dtype=torch.float64)
    integral = torch.trapezoid(grid.exp()[:, None] * mse(grid.exp()), grid, dim=0)
    var_t = 1.0 / (1.0 + math.exp(low))
    var_eps = 1.0 / (1.0 + math.exp(high))
    tau2 = anchor.denoise_std(math.exp(-0.5 * high)) ** 2
    end = mse(torch.tensor([high], dtype=torch.float64).exp())[0]
    prior_term = -0.5 * (
        DIMS * math.log(2.0 * math.pi) + (1.0 - var_t) * squares.sum(1) + DIMS * var_t
    )
    path = -0.5 * integral + 0.5 * DIMS * math.log(var_t / var_eps)
    reconstruction = 0.5 * DIMS * (math.log(var_eps / tau2) + 1.0) - end / (2.0 * tau2)
    return prior_term + path + reconstruction


def squared_modes(anchor: DenseGaussian, x: Tensor) -> Tensor:
    return (x.flatten(1) @ anchor.vectors) ** 2


def precise_elbo(prior: DiffusionPrior, x: Tensor, generator: torch.Generator) -> Estimate:
    """Average many copies of each record, which share the times of a pass, over many passes."""
    copies = x.repeat_interleave(200, 0)
    with torch.no_grad():
        passes = [prior.elbo(copies, generator=generator).value for _ in range(30)]
    means = torch.stack(passes).reshape(30, len(x), 200).mean(2)
    return Estimate(means.mean(0), means.std(0) / math.sqrt(30))


# The short schedule begins with much noise and ends with much signal, so that the terms of
# x_eps and x_T matter.
SHORT = VPSchedule(beta_max=2.0, eps=0.2)


@pytest.mark.parametrize("schedule", [VPSchedule(), SHORT, EDMSchedule(), VESchedule(0.2, 1.5)])
def test_elbo_of_a_gaussian_is_its_closed_form(schedule: Schedule) -> None:
    anchor = gaussian()
    prior = anchored(anchor, schedule=schedule)
    x = anchor.sample(6, seeded(1)).reshape(-1, *SHAPE)
    bound = closed_form_elbo(prior, anchor, squared_modes(anchor, x))
    estimate = precise_elbo(prior, x, seeded(2))
    assert within(estimate, bound)
    assert float(estimate.standard_error.max()) < 0.15


def test_elbo_of_a_gaussian_is_a_tight_bound_on_average() -> None:
    # At one x it bounds its own model's density, which is only nearly the anchor's.
    anchor = gaussian()
    entropy = 0.5 * torch.log(2.0 * math.pi * math.e * anchor.eigenvalues).sum()
    gaps = []
    for schedule in (VPSchedule(), SHORT):
        prior = anchored(anchor, schedule=schedule)
        bound = closed_form_elbo(prior, anchor, anchor.eigenvalues[None])
        gaps.append(float(-entropy - bound))
    assert 0.0 <= gaps[0] < 1e-4
    assert gaps[1] > 0.1


def test_reference_error_is_integrated_exactly() -> None:
    prior = anchored(gaussian(), levels=6)
    grid = torch.linspace(float(prior.log_snr[0]), float(prior.log_snr[-1]), 20001).double()
    kept = grid.exp() * prior.output_std(grid) ** 2
    # The trapezoidal rule errs by about (spacing of this grid)^2 / 12, relative.
    assert prior._kept_integral() == pytest.approx(float(torch.trapezoid(kept, grid)), rel=1e-6)


@pytest.mark.parametrize("times", ["importance", "uniform"])
@pytest.mark.parametrize("schedule", [VPSchedule(), VESchedule(0.05, 20.0), EDMSchedule(0.1, 4.0)])
def test_both_densities_of_time_give_the_bound(
    times: Literal["importance", "uniform"], schedule: Schedule
) -> None:
    anchor = gaussian()
    prior = anchored(anchor, schedule=schedule)
    x = anchor.sample(4, seeded(1)).reshape(-1, *SHAPE)
    bound = closed_form_elbo(prior, anchor, squared_modes(anchor, x))
    estimate = prior.elbo(x, samples=100, times=times, generator=seeded(3))
    assert within(estimate, bound)
    assert float(estimate.standard_error.max()) < 0.6


def test_standard_errors_are_the_spread_of_the_estimates() -> None:
    anchor = gaussian()
    prior = anchored(anchor)
    x = anchor.sample(4, seeded(1)).reshape(-1, *SHAPE)
    generator = seeded(4)
    runs = [prior.elbo(x, samples=8, points=4, generator=generator) for _ in range(60)]
    spread = torch.stack([run.value for run in runs]).std(0)
    claimed = torch.stack([run.standard_error for run in runs]).pow(2).mean(0).sqrt()
    # A standard deviation from 60 runs is itself uncertain by 1 / sqrt(118) = 9 %.
    assert bool(((spread / claimed - 1.0).abs() < 5 * 0.092).all())
    assert bool(torch.isnan(prior.elbo(x).standard_error).all())


def test_anchored_equals_the_anchor_while_the_network_is_zero() -> None:
    anchor = gaussian()
    prior = anchored(anchor)
    x = anchor.sample(3, seeded(1)).reshape(-1, *SHAPE).requires_grad_()
    estimate = prior.anchored_log_prob(x, samples=2)
    alike(estimate.value, anchor.log_prob(x))
    assert bool((estimate.standard_error == 0.0).all())
    (gradient,) = torch.autograd.grad(prior.estimate_log_prob(x).value.sum(), x)
    assert torch.allclose(gradient, anchor.score(x))


# --- log-densities of a mixture, with its exact denoiser ---------------------------------------

# So far out in log-SNR that both tails of the I-MMSE integral are below 1e-3 nats here.
WIDE = VPSchedule(beta_max=30.0, eps=1e-4)


def tail_bound(prior: DiffusionPrior, mixture: Mixture) -> float:
    """The bound in anchored_log_prob's docstring; J is at most that of the components."""
    fisher = max(float(torch.linalg.inv(c).trace()) for c in mixture.covariances)
    trace = float(mixture.matched().eigenvalues.sum())
    low, high = math.exp(float(prior.log_snr[0])), math.exp(float(prior.log_snr[-1]))
    return 0.5 * low * trace + 0.5 * fisher / high


def test_anchored_log_prob_is_the_mixtures() -> None:
    mixture = Mixture()
    prior = exact(mixture, schedule=WIDE, levels=60)
    x = mixture.sample(6, seeded(5))
    truth = mixture.log_prob(x)
    tails = tail_bound(prior, mixture)
    assert tails < 1e-3
    # Records have noise of their own at every level, so that copies of one are independent.
    copies = x.repeat_interleave(400, 0)
    values = prior.anchored_log_prob(copies, generator=seeded(6)).value.reshape(6, 400)
    estimate = Estimate(values.mean(1), values.std(1) / 20.0)
    assert within(estimate, truth, extra=10.0 * tails)
    assert float(estimate.standard_error.max()) < 0.2
    # It is news: the anchor is far from the truth at these points.
    assert float((mixture.matched().log_prob(x) - truth).abs().max()) > 1.0
    few = prior.anchored_log_prob(x, samples=200, points=5, generator=seeded(7))
    assert within(few, truth, extra=10.0 * tails)


def test_drawn_levels_are_an_unbiased_estimate_of_the_rule_of_all() -> None:
    prior = anchored(gaussian(), levels=20)
    rule, generator = torch.zeros(20).double(), seeded()
    for level, weight in prior._drawn_levels(20, generator):
        rule[level] += weight
    assert torch.allclose(rule, 0.5 * prior.quadrature * torch.exp(prior.log_snr))
    draws = torch.zeros(3000, 20).double()
    for draw in draws:
        for level, weight in prior._drawn_levels(3, generator):
            draw[level] += weight
    error = draws.std(0) / math.sqrt(len(draws))
    assert bool(((draws.mean(0) - rule).abs() < 5.0 * error).all())


def test_drawn_levels_vary_less_than_evenly_spaced_ones() -> None:
    """For what the modes of a Gaussian gain whose variances are a tenth off the anchor's."""
    anchor = gaussian()
    prior = anchored(anchor, schedule=WIDE, levels=60)
    gamma = torch.exp(prior.log_snr)[:, None]
    shares = [
        lam * gamma / (1.0 + lam * gamma) for lam in (anchor.eigenvalues, 1.1 * anchor.eigenvalues)
    ]
    gain = ((shares[0] - shares[1]).square() * (anchor.eigenvalues + 1.0 / gamma)).sum(1)
    generator, even, drawn = seeded(1), [], []
    for _ in range(500):
        drawn.append(sum(w * float(gain[k]) for k, w in prior._drawn_levels(6, generator)))
        offset = int(torch.randint(10, (), generator=generator))
        weights = 5.0 * prior.quadrature * torch.exp(prior.log_snr)
        even.append(float((weights * gain)[offset::10].sum()))
    assert np.var(drawn) < 0.5 * np.var(even)


def test_elbo_of_the_exact_denoiser_is_the_mixtures_to_noise() -> None:
    mixture = Mixture()
    prior = exact(mixture, schedule=WIDE, levels=60)
    x = mixture.sample(6, seeded(5))
    estimate = precise_elbo(prior, x, seeded(8))
    assert within(estimate, mixture.log_prob(x))
    assert float(estimate.standard_error.max()) < 0.1


@pytest.mark.parametrize("method", ["anchored_log_prob", "elbo"])
def test_gradient_with_respect_to_the_signal_is_the_mixtures_score(method: str) -> None:
    mixture = Mixture()
    prior = exact(mixture, schedule=WIDE, levels=60)
    one = mixture.sample(1, seeded(9)).requires_grad_()
    (truth,) = torch.autograd.grad(mixture.log_prob(one).sum(), one)
    copies = one.detach().expand(3000, -1, -1).clone().requires_grad_()
    options = {} if method == "anchored_log_prob" else {"points": 60}
    value = getattr(prior, method)(copies, generator=seeded(10), **options).value
    (each,) = torch.autograd.grad(value.sum(), copies)
    error = each.std(0) / math.sqrt(len(each))
    assert bool(((each.mean(0) - truth[0]).abs() <= 5.0 * error).all())
    assert float(error.max()) < 0.2 * float(truth.abs().max())


def test_leaving_out_the_networks_jacobian_changes_the_gradient_not_the_value() -> None:
    mixture = Mixture()
    prior = exact(mixture)
    x = mixture.sample(2, seeded(9)).requires_grad_()
    values, gradients = [], []
    for differentiate in (True, False):
        value = prior.anchored_log_prob(
            x, generator=seeded(), differentiate_network=differentiate
        ).value
        values.append(value)
        gradients.append(torch.autograd.grad(value.sum(), x)[0])
    torch.testing.assert_close(values[0], values[1], rtol=1e-10, atol=1e-10)
    assert float((gradients[0] - gradients[1]).abs().max()) > 1e-2


# --- training, saving, errors ------------------------------------------------------------------

GRID = LatLonDomain([-75.0, -45.0, -15.0, 15.0, 45.0, 75.0], [float(45 * k) for k in range(8)])


def skewed(count: int, seed: int) -> Tensor:
    """Draw fields whose nodes are rarely 3, mostly -1/3, with a little noise: not Gaussian."""
    generator = seeded(seed)
    shape = (count, 1, GRID.num_nodes)
    rare = (torch.rand(shape, generator=generator) < 0.1).float()
    return (10.0 * rare - 1.0) / 3.0 + 0.2 * torch.randn(shape, generator=generator)


def white_anchor() -> DenseGaussian:
    nodes = GRID.num_nodes
    return DenseGaussian(torch.full((nodes,), 1.04).double(), torch.eye(nodes).double())


def small_prior(anchor: Any, levels: int = 12) -> DiffusionPrior:
    seed_weights(0)
    inputs = 1 if anchor is None else 2
    network = UNet(GRID, inputs, 1, width=16, depth=0, cond_dim=64)
    return DiffusionPrior(GRID, 1, network, anchor=anchor, levels=levels)


@pytest.mark.parametrize("with_anchor", [True, False])
def test_training_improves_unseen_fields(with_anchor: bool) -> None:
    prior = small_prior(white_anchor() if with_anchor else None)
    log = train_diffusion(
        prior,
        skewed(200, 1),
        skewed(64, 2),
        Training(steps=150, lr=1e-2, ema_decay=0.98, progress=False),
    )
    history = [record for record in log if "validation" in record]
    curve = [record for record in log if "level" in record]
    assert history[0]["validation"] == pytest.approx(1.0, abs=1e-6)
    assert len(curve) == prior.levels
    assert all(record["mse"] <= record["mse_anchor"] * (1 + rounding(4)) for record in curve)
    assert sum(record["gain"] for record in curve) > 0.0

    unseen = skewed(200, 3)
    start = small_prior(prior.anchor)
    gain = (
        prior.estimate_log_prob(unseen, generator=seeded()).value
        - start.estimate_log_prob(unseen).value
    )
    error = float(gain.detach().std()) / math.sqrt(len(unseen))
    assert float(gain.detach().mean()) > 4.0 * error


def test_training_that_fails_leaves_the_anchor() -> None:
    prior = small_prior(white_anchor())
    fields = skewed(20, 1)
    log = train_diffusion(
        prior, 50.0 * fields, fields[:4], Training(steps=40, lr=0.5, ema_decay=0.5, progress=False)
    )
    assert log[0]["best"] == 1.0
    assert sum(record.get("best", 0.0) for record in log) == 1.0
    alike(prior.estimate_log_prob(fields).value.float(), white_anchor().log_prob(fields))


def test_shrinkage_never_lets_a_level_worsen() -> None:
    prior = small_prior(white_anchor())
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=seeded()))
    log = train_diffusion(prior, skewed(8, 1), skewed(8, 2), Training(steps=0, progress=False))
    curve = [record for record in log if "level" in record]
    assert log[0]["validation"] > 1.0
    assert all(record["mse"] <= record["mse_anchor"] * (1 + rounding(4)) for record in curve)
    assert prior.shrinkage.tolist() == [record["shrinkage"] for record in curve]
    assert min(record["shrinkage"] for record in curve) < 0.9


@pytest.mark.same_bits
def test_training_is_reproducible() -> None:
    states = []
    for _ in range(2):
        prior = small_prior(white_anchor(), levels=4)
        log = train_diffusion(
            prior, skewed(20, 1), skewed(4, 2), Training(steps=10, progress=False)
        )
        states.append((prior.state_dict(), log[1:]))
    assert all(torch.equal(states[0][0][name], states[1][0][name]) for name in states[0][0])
    assert states[0][1] == states[1][1]


@pytest.mark.same_bits
def test_a_killed_training_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    def train(prior: DiffusionPrior) -> list[dict[str, float]]:
        return train_diffusion(
            prior,
            skewed(20, 1),
            skewed(4, 2),
            Training(
                steps=11,
                validate_every=3,
                progress=False,
                checkpoint=tmp_path / "run",
                log=tmp_path / "log.csv",
            ),
        )

    whole, killed, again = (small_prior(white_anchor(), levels=4) for _ in range(3))
    expected = train_diffusion(
        whole, skewed(20, 1), skewed(4, 2), Training(steps=11, validate_every=3, progress=False)
    )
    perturb, calls = killed.perturb, iter(range(4 + 8))  # four held-out cases, eight steps

    def until_killed(*arguments: Any) -> tuple[Tensor, Tensor]:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return perturb(*arguments)

    killed.perturb = until_killed  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        train(killed)
    found = train(again)
    assert str(found) == str(expected)
    state, again_state = whole.state_dict(), again.state_dict()
    assert all(torch.equal(state[name], again_state[name]) for name in state)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 6  # the head, 0, 3, 6, 9, 11


def test_levels_are_visited_equally_often() -> None:
    visited = [level_of(step, 7, seed=3) for step in range(70)]
    assert all(sorted(visited[k : k + 7]) == list(range(7)) for k in range(0, 70, 7))
    assert visited[:7] != visited[7:14]
    assert visited[:7] != [level_of(step, 7, seed=4) for step in range(7)]


class Watched(DenseGaussian):
    def __init__(self) -> None:
        like = white_anchor()
        super().__init__(like.eigenvalues, like.vectors)
        self.signs: list[float] = []

    def denoise(self, x: Tensor, noise_std: float) -> Tensor:
        self.signs.append(math.copysign(1.0, float(x.mean())))
        return super().denoise(x, noise_std)


def test_crossfit_anchors_see_their_own_records_only() -> None:
    own, first, second = Watched(), Watched(), Watched()
    prior = small_prior(own, levels=4)
    fields = torch.full((10, 1, GRID.num_nodes), 1e4)
    fields[6:] *= -1.0
    train_diffusion(
        prior,
        fields,
        skewed(4, 2),
        Training(steps=12, progress=False),
        crossfit=[(first, torch.arange(6)), (second, torch.arange(6, 10))],  # type: ignore[list-item]
    )
    assert len(own.signs) == prior.levels  # the held-out cases
    assert set(first.signs) == {1.0}
    assert set(second.signs) == {-1.0}
    assert len(first.signs) + len(second.signs) == 12


@pytest.mark.same_bits
@pytest.mark.parametrize("with_anchor", [True, False])
def test_state_round_trip(with_anchor: bool) -> None:
    anchor = white_anchor() if with_anchor else None
    prior = small_prior(anchor)
    train_diffusion(prior, skewed(40, 1), skewed(8, 2), Training(steps=30, progress=False))
    config, tensors = prior.to_state()
    again = DiffusionPrior.from_state(json.loads(json.dumps(config)), tensors, GRID, anchor)  # type: ignore[arg-type]
    x = skewed(3, 4)
    assert torch.equal(prior.predict(x, 0.2), again.predict(x, 0.2))
    other = None if with_anchor else white_anchor()
    with pytest.raises(ModelError, match="anchor"):
        DiffusionPrior.from_state(config, tensors, GRID, other)  # type: ignore[arg-type]
    del tensors["shrinkage"]
    with pytest.raises(ModelError, match="shrinkage"):
        DiffusionPrior.from_state(config, tensors, GRID, anchor)  # type: ignore[arg-type]


def test_stands_on_the_real_gaussian_prior() -> None:
    generator = seeded(11)
    anchor = HybridPrior(
        MaternField(GRID, 3000.0),
        0.3 * torch.randn(1, GRID.num_nodes, 3, generator=generator),
        torch.full((1, GRID.num_nodes), 0.7),
        torch.full((1, GRID.num_nodes), 0.3),
    )
    prior = DiffusionPrior(GRID, 1, anchor=anchor, levels=20)
    x = anchor.sample(2, generator).requires_grad_()
    truth = anchor.log_prob(x).double()
    alike(prior.anchored_log_prob(x, points=3).value.float(), truth.float())
    bound = prior.elbo(x, samples=40, generator=generator)
    assert within(bound, truth)
    (gradient,) = torch.autograd.grad(bound.value.sum(), x)
    assert float((gradient - anchor.score(x)).norm()) < float(anchor.score(x).norm())


def test_bad_input_is_refused() -> None:
    prior = anchored(gaussian())
    x = torch.zeros(2, *SHAPE, dtype=torch.float64)
    with pytest.raises(InputError, match="shape"):
        prior.estimate_log_prob(x[:, :1])
    with pytest.raises(InputError, match="between"):
        prior.predict(x, 1e-5)
    with pytest.raises(InputError, match="records"):
        prior.predict(x, torch.tensor([0.1, 0.2, 0.3]))
    with pytest.raises(InputError, match="anchored, elbo, ode"):
        prior.estimate_log_prob(x, method="exact")
    with pytest.raises(InputError, match="points"):
        prior.anchored_log_prob(x, points=41)
    with pytest.raises(InputError, match="samples"):
        prior.elbo(x, samples=0)
    with pytest.raises(InputError, match="levels"):
        anchored(gaussian(), levels=1)
    with pytest.raises(InputError, match="validation"):
        train_diffusion(prior, x, x[:0], Training(progress=False))
