"""The truth suite at small size: its exact references, its scores, and what training reaches."""

import math

import numpy as np
import pytest
import torch

from apsgeo.diagnostics.calibration import ranks, tarp_ranks, uniformity
from apsgeo.errors import InputError
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.gaussian.regimes import fit_regimes
from apsgeo.metrics.table import Row
from benchmarks.__main__ import parse
from benchmarks.truth.fields import Entry, score
from benchmarks.truth.gaussian import gaussian_rows
from benchmarks.truth.mixture import MixtureProblem
from benchmarks.truth.planar import DENSITIES, NOISE_STD, Planar, Quadrature
from benchmarks.truth.planar_rows import PLANS, train
from benchmarks.truth.planar_rows import score as planar_score
from benchmarks.truth.scores import TABLE, excess_scores, mode_errors
from benchmarks.truth.training import Recipe, train_spectral
from tests.cases import rounding, seed_weights, seeded


@pytest.fixture(scope="module")
def problem() -> MixtureProblem:
    return MixtureProblem(nside=2, degree=3)


@pytest.mark.parametrize("kind", DENSITIES)
def test_densities_in_the_plane_are_those_of_their_draws(kind: type[Planar]) -> None:
    """They integrate to one, and E of a bounded function is the same over grid and draws."""
    density = kind()
    exact = Quadrature(density, torch.zeros(1))
    weights = density.log_prob(exact.grid).exp() * exact.step**2
    assert float(weights.sum()) == pytest.approx(1.0, abs=2e-3)  # 1e-3 lies outside the grid
    draws = density.sample(20_000, seeded(0))[:, 0]
    for function in (torch.sin, torch.cos):
        values = function(3.0 * draws[:, 1] + draws[:, 0])
        expected = (weights * function(3.0 * exact.grid[..., 1] + exact.grid[..., 0])).sum()
        error = float(values.std()) / len(draws) ** 0.5
        assert float(values.mean()) == pytest.approx(float(expected), abs=5 * error + 2e-3)


@pytest.mark.parametrize("kind", DENSITIES)
def test_draws_by_quadrature_are_calibrated(kind: type[Planar]) -> None:
    density, generator = kind(), seeded(1)
    truth = density.sample(150, generator)
    exact = Quadrature(density, density.measure(truth, generator).values[:, 0, 0])
    points, truths = exact.sample(39, generator), truth[:, 0].double()
    assert uniformity(ranks(points[..., 1], truths[:, 1]), 39).p_value > 1e-6
    assert uniformity(tarp_ranks(points, truths), 39).p_value > 1e-6
    # log p(x|y) = log p(x) + log p(y|x) - log p(y) integrates to one for each y.
    total = exact.log_density.flatten(1).logsumexp(1) + 2 * math.log(exact.step)
    torch.testing.assert_close(total, torch.zeros_like(total), rtol=0.0, atol=1e-9)
    first = points[0, :, 0]
    at = exact.log_prob(points)[0]
    likelihood = -0.5 * ((exact.values - first) / NOISE_STD) ** 2
    constant = -0.5 * math.log(2 * math.pi) - math.log(NOISE_STD) - exact.log_evidence
    # Centres near 2 are in float32; four spreads of 1/4 off, log p moves 16 times as far as each.
    expected = density.log_prob(points[0]) + likelihood + constant
    torch.testing.assert_close(at, expected, rtol=1e-7, atol=rounding(2, 2 * 16 * 2.0))


@pytest.mark.parametrize("spread", [0.5, 1.0, 2.0])
def test_excess_scores_are_those_of_normals(spread: float) -> None:
    """E|X - Y| = sqrt(2 (1 + s^2) / pi), E|X - X'| = 2 s / sqrt(pi), for N(0, s^2) and N(0, 1)."""
    draws = torch.randn(2, 400, 1, 500, generator=seeded(2)).double()
    crps, energy = excess_scores(spread * draws[0], draws[1])
    expected = math.sqrt(2 * (1 + spread**2)) - spread
    assert crps == pytest.approx(expected, abs=0.01)
    # In many dimensions a length is its root mean square: the same ratio to 1 / dimensions.
    assert energy == pytest.approx(expected, abs=0.01)


def test_a_mode_without_members_is_collapsed_if_it_has_weight() -> None:
    exact = torch.tensor([[0.8, 0.2], [0.95, 0.05], [0.5, 0.5]])
    error, collapsed = mode_errors(torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.6, 0.4]]), exact)
    assert error == pytest.approx((0.2 + 0.05 + 0.1) / 3)
    assert collapsed == 1.0


def test_untrained_flows_are_exact_on_every_domain() -> None:
    """Means to float32, log q within the rounding of its quadratic form.

    So few observations and nodes are all near: the local start leaves none of them out.
    """
    for row in gaussian_rows(simulations=40, members=19, seed=3):
        local = row["method"].startswith("local")  # which solves for blocks in float32
        assert row["mean_error"] < rounding(256) * (100 if local else 1), row
        assert row["kl_greatest"] < (0.5 if local else 1e-3), row
        assert min(row["sbc"], row["tarp"]) > 1e-6, row


def test_the_anchor_has_the_moments_of_the_mixture(problem: MixtureProblem) -> None:
    full = MixtureProblem()
    assert full.patterns == 170
    nodes = np.arange(768)
    first, second = (each.covariance(nodes, nodes) for each in full.mixture.components)
    assert np.diag(first).mean() == pytest.approx(1.02)
    assert np.diag(second).mean() == pytest.approx(0.51)
    torch.testing.assert_close(full.mixture.mean, torch.zeros(1, 768, dtype=torch.float64))
    torch.testing.assert_close(full.anchor.variance, full.mixture.variance)
    fields = problem.mixture.sample(20_000, seeded(0))[:, 0].double()
    every = np.arange(48)
    expected = torch.from_numpy(problem.anchor.covariance(every, every))
    size = float(expected.diagonal().max())
    torch.testing.assert_close(
        fields.T @ fields / len(fields), expected, rtol=0.0, atol=6 * size / 20_000**0.5
    )


def test_regimes_are_found_in_draws(problem: MixtureProblem) -> None:
    fields = problem.mixture.sample(6000, seeded(4))
    found = fit_regimes(problem.domain, fields, patterns=problem.patterns)
    order = found.means[:, 0, 0].argsort()
    true = problem.mixture.means[problem.mixture.means[:, 0, 0].argsort()]
    error = (found.means[order] - true).square().mean().sqrt()
    assert float(error) < 5 * (1.02 / 3000) ** 0.5
    assert found.weights.tolist() == pytest.approx([0.5, 0.5], abs=5 * 0.5 / 6000**0.5)
    entry = Entry("fitted", found)
    fitted = score(problem, entry, density=0.05, fields=16, members=64, seed=0)
    assert fitted["crps"] == pytest.approx(1.0, abs=0.03)
    with pytest.raises(InputError, match="at least"):
        fit_regimes(problem.domain, fields[:20], patterns=problem.patterns)


def both(problem: MixtureProblem, entry: Entry) -> Row:
    return score(problem, entry, density=0.05, fields=32, members=64, seed=5)


def test_training_splits_the_modes(problem: MixtureProblem) -> None:
    """A flow on a single Gaussian learns both modes: bar 2 in its parts, at small size."""
    generator = seeded(6)
    draws = problem.mixture.sample(3000, generator)
    regimes = fit_regimes(problem.domain, draws, patterns=problem.patterns)
    seed_weights(0)
    flow = SpectralFlow(problem.anchor, problem.patterns, regimes=regimes, width=48)
    recipe = Recipe(mode="mixed", steps=100, lr=4e-3, leading_batch=32)
    train_spectral(problem, flow, recipe, seed=0)
    before = both(problem, Entry("anchor", problem.anchor))
    after = both(problem, Entry("trained", flow))
    assert after["kl"] < 0.6 * before["kl"]
    assert after["crps"] < before["crps"]
    assert after["mode_error"] < before["mode_error"]
    assert after["collapsed"] == 0


def test_training_in_the_plane_lowers_the_divergence_it_is_about() -> None:
    density = DENSITIES[1]()
    by_name = {method.name: method for method in PLANS}
    untrained, _ = train(density, by_name["anchored, untrained"], 0, 0)
    before = planar_score(density, untrained, fields=100, members=63, seed=1)
    made, _ = train(density, by_name["anchored, mixed"], 40, 0)
    after = planar_score(density, made, fields=100, members=63, seed=1)
    assert after["kl"] < 0.8 * before["kl"]


def test_report_has_a_column_for_what_any_row_has() -> None:
    first, second = {"problem": "a", "method": "b"}, {"problem": "c", "method": "d"}
    text = TABLE.markdown([{**first, "kl": 1.5}, {**second, "sbc": 0.25}])
    assert "| problem | method | KL, nats | SBC p |" in text
    assert "| a | b | 1.5 |  |" in text
    assert "| c | d |  | 0.25 |" in text
    assert parse(["truth"]).members == 128
