"""The chains for diffusion priors, against exact denoisers whose posteriors are known."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from torch import Tensor

from apsgeo.diffusion.analytic import AnalyticDiffusion
from apsgeo.diffusion.schedule import VPSchedule
from apsgeo.domains import ImageDomain
from apsgeo.errors import InputError
from apsgeo.gaussian.dense import DensePrior
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.mixture import GaussianMixturePrior
from apsgeo.measurement import Measurement
from benchmarks.truth.gibbs import Plan, Process, chains
from tests.cases import seeded

DOMAIN = ImageDomain(3, 4)
NODES = DOMAIN.num_nodes
FINE = VPSchedule(eps=1e-4)
NOISE_STD = 0.5
PLAN = Plan(sweep_moves=15)
VARIANCES = torch.logspace(-3, 2, NODES, dtype=torch.float64)  # of independent nodes


def independent() -> AnalyticDiffusion:
    return AnalyticDiffusion(DensePrior(DOMAIN, VARIANCES.diag()), FINE)


def variance_of_steps(start: float, stop: float, ratio: float) -> Tensor:
    """Return the variance of x given s that the steps give independent nodes, by recursion."""
    steps = math.ceil(math.log(start / stop) / math.log(ratio))
    levels = [start * (stop / start) ** (k / steps) for k in range(steps + 1)]
    variance = torch.zeros_like(VARIANCES)
    for now, then in pairwise(levels):
        gain, kept = VARIANCES / (VARIANCES + now**2), (then / now) ** 2
        root = now * (2.0 * gain - gain**2)
        variance = (kept + (1.0 - kept) * gain) ** 2 * variance
        variance = variance + (1.0 - kept) ** 2 * root**2 + then**2 * (1.0 - kept)
    return (VARIANCES / (VARIANCES + stop**2)) ** 2 * variance


@pytest.mark.parametrize(("ratio", "within"), [(4.0, 0.15), (2.2, 0.1), (1.3, 0.045)])
def test_a_reverse_diffusion_draws_what_its_state_leaves_open(ratio: float, within: float) -> None:
    """The mean is exact; the variance is that of the recursion, and that is near the exact one."""
    process = Process(independent(), Plan(ratio=ratio), seeded(0))
    count, lowest = 8000, 0.02
    state = torch.linspace(-2.0, 2.0, NODES)[None, None].expand(count, 1, -1)
    found = process.reverse(state, NOISE_STD, lowest)[:, 0].double()
    gain = VARIANCES / (VARIANCES + NOISE_STD**2)
    expected = variance_of_steps(NOISE_STD, lowest, ratio)
    error = (found.mean(0) - gain * state[0, 0]) / expected.sqrt() * math.sqrt(count)
    assert float(error.abs().max()) < 4.5
    assert float((found.var(0) / expected - 1.0).abs().max()) < 5.0 * math.sqrt(2.0 / count)
    exact = gain * NOISE_STD**2
    wide = VARIANCES / lowest**2 > 20.0  # the last denoising takes the spread of others away
    assert float((expected / exact - 1.0)[wide].abs().max()) < within


def test_a_walk_leaves_the_diffused_posterior_as_it_is() -> None:
    """Far from the prior's own steps: Euler's noise would give stiff nodes 1.6 times the spread."""
    process = Process(independent(), Plan(step=1.2), seeded(1))
    count = 8000
    free = torch.arange(NODES) != 3
    free = free.expand(count, 1, -1)
    std = (VARIANCES + NOISE_STD**2).sqrt()
    start = (std * torch.randn(count, 1, NODES, generator=seeded(2))).float()
    state = process.walk(start, free, NOISE_STD, 30)
    torch.testing.assert_close(state[..., 3], start[..., 3], rtol=0.0, atol=0.0)
    ratio = state[:, 0].double().var(0) / std**2
    assert float((ratio - 1.0).abs().max()) < 5.0 * math.sqrt(2.0 / count)
    moved = (state - start)[:, 0].double().square().mean(0)
    assert float(moved[:3].min()) > NOISE_STD**2


@pytest.fixture(scope="module")
def mixture() -> GaussianMixturePrior:
    def part(seed: int, white_std: float) -> LowRankPrior:
        loadings = torch.randn(1, NODES, 3, generator=seeded(seed), dtype=torch.float64)
        return LowRankPrior(DOMAIN, 0.9 * loadings, white_std)

    slope = torch.linspace(-1.5, 1.5, NODES, dtype=torch.float64).reshape(1, 1, NODES)
    return GaussianMixturePrior(
        [part(1, 0.2), part(2, 0.3)], [0.3, 0.7], torch.cat([slope, -slope])
    )


def measured(mixture: GaussianMixturePrior) -> Measurement:
    """Two measurements that leave both modes open, and one that does not."""
    truth = mixture.sample(3, seeded(5))
    seen = torch.zeros(3, 1, NODES, dtype=torch.bool)
    seen[0, 0, [5, 6]], seen[1, 0, 5], seen[2, 0, [0, 3, 8, 11]] = True, True, True
    return Measurement.of(torch.where(seen, truth, torch.nan), NOISE_STD)


def test_chains_reach_the_posterior_of_a_mixture(mixture: GaussianMixturePrior) -> None:
    """Weights of modes, means and variances, within the errors that independent runs show."""
    given, members, runs = measured(mixture), 250, 16
    exact = mixture.posterior(given)
    assert float(exact.weights[:2].min()) > 0.1
    denoiser = AnalyticDiffusion(mixture, FINE)
    weights, means, squares = [], [], []
    for run in range(runs):
        process = Process(denoiser, PLAN, seeded(run))
        start = mixture.sample(members, seeded(100 + run))
        found = chains(process, given, start, members, PLAN).double()
        weights.append(torch.stack([mixture.responsibilities(x) for x in found]).mean(0))
        means.append(found.mean(0))
        squares.append(((found - exact.mean) ** 2).mean(0))
    pairs = [(weights, exact.weights), (means, exact.mean.double()), (squares, exact.variance)]
    # what a finite population leaves, and the steps' own error of a variance
    rare = torch.tensor(1.0 / (runs * members))  # what is rarer is not drawn
    allowed = [rare, 0.03 * exact.variance.sqrt(), 0.05 * exact.variance]
    for (each, expected), more in zip(pairs, allowed, strict=True):
        table = torch.stack(each)
        error = table.std(0) / math.sqrt(runs)
        # Student's t with 15 degrees is above 5 with a probability of 2e-4
        assert bool(((table.mean(0) - expected).abs() <= 5.0 * error + more + 1e-6).all())


def test_draws_of_the_prior_have_its_variance(mixture: GaussianMixturePrior) -> None:
    denoiser, count = AnalyticDiffusion(mixture, FINE), 4000
    found = Process(denoiser, Plan(), seeded(3)).prior(count).double()
    shares = mixture.responsibilities(found)[:, 0]
    assert float(shares.mean()) == pytest.approx(0.3, abs=5 * math.sqrt(0.21 / count))
    ratio = found.var(0) / mixture.variance
    assert float((ratio - 1.0).abs().max()) < 0.05 + 5.0 * math.sqrt(2.0 / count)


def test_choices_are_by_weight() -> None:
    process = Process(independent(), Plan(), seeded(4))
    fields = torch.arange(4.0)[:, None, None, None].expand(-1, 2, 1, 3)
    weights = torch.tensor([[0.5, 0.0], [0.3, 1.0], [0.2, 0.0], [0.0, 0.0]])
    found = process.choose(fields, weights.log(), 10)
    assert found.shape == (10, 2, 1, 3)
    counts = [int((found[:, 0, 0, 0] == k).sum()) for k in range(4)]
    # systematic: each is one of the two numbers next to its expectation
    assert counts[3] == 0
    assert all(abs(n - 10 * w) <= 1 for n, w in zip(counts, weights[:, 0].tolist(), strict=True))
    assert bool((found[:, 1] == 1.0).all())


def test_noise_that_differs_is_refused() -> None:
    noise = torch.linspace(0.1, 0.2, NODES).expand(1, 1, -1)
    given = Measurement(torch.zeros(1, 1, NODES), torch.ones(1, 1, NODES).bool(), noise)
    process = Process(independent(), Plan(), seeded(0))
    with pytest.raises(InputError, match="12 noises"):
        chains(process, given, torch.zeros(2, 1, NODES), 2, Plan())
