"""Calibration by ranks, and importance weights, against closed forms."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from apsgeo.diagnostics.calibration import (
    rank_histogram,
    ranks,
    reliability,
    tarp_ranks,
    uniformity,
)
from apsgeo.diagnostics.importance import ImportanceWeights, generalized_pareto
from apsgeo.errors import InputError
from tests.cases import numpy_seeded

MEMBERS, DIMENSIONS = 39, 3
NOISE_STD = 0.5


def simulate(
    rng: np.random.Generator, simulations: int, spread: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Return members (K, simulation, d) and truth, of x ~ N(0, I), y = x + n; spread 1 is exact."""
    truth = rng.standard_normal((simulations, DIMENSIONS))
    y = truth + NOISE_STD * rng.standard_normal(truth.shape)
    var = NOISE_STD**2 / (1 + NOISE_STD**2)
    noise = rng.standard_normal((MEMBERS, *truth.shape))
    return y / (1 + NOISE_STD**2) + spread * np.sqrt(var) * noise, truth


def sbc(members: np.ndarray, truth: np.ndarray) -> np.ndarray:
    return ranks(members[..., 0], truth[..., 0])


Statistic = Callable[[np.ndarray, np.ndarray], np.ndarray]


@pytest.mark.parametrize("statistic", [sbc, tarp_ranks])
def test_p_values_are_uniform_for_the_exact_posterior(statistic: Statistic) -> None:
    rng = numpy_seeded(0)
    found = [uniformity(statistic(*simulate(rng, 200)), MEMBERS).p_value for _ in range(200)]
    assert kstest(found, "uniform").pvalue > 1e-6


@pytest.mark.parametrize("statistic", [sbc, tarp_ranks])
@pytest.mark.parametrize("spread", [0.6, 1.6])
def test_p_values_are_tiny_for_a_wrong_spread(statistic: Statistic, spread: float) -> None:
    members, truth = simulate(numpy_seeded(1), 500, spread)
    assert uniformity(statistic(members, truth), MEMBERS).p_value < 1e-6


def test_a_bias_is_seen_by_ranks_of_any_reference() -> None:
    members, truth = simulate(numpy_seeded(2), 500)
    biased = members + 0.4
    assert uniformity(sbc(biased, truth), MEMBERS).p_value < 1e-6
    references = np.full_like(truth, 3.0)
    assert uniformity(tarp_ranks(members, truth, references), MEMBERS).p_value > 1e-6
    assert uniformity(tarp_ranks(biased, truth, references), MEMBERS).p_value < 1e-6


def test_ranks_are_counts_of_smaller_members() -> None:
    assert ranks([[0.0, 5.0], [1.0, 6.0], [2.0, 7.0]], [1.5, 4.0]).tolist() == [2, 0]
    # Distances from the reference 0 are 1, 2, 3 and 2.5.
    found = tarp_ranks([[[1.0]], [[-2.0]], [[3.0]]], [[2.5]], [[0.0]])
    assert found.tolist() == [2]


def test_bins_expect_as_many_ranks_as_they_have() -> None:
    found = uniformity(np.arange(11).repeat(3), members=10, bins=4)  # 3, 3, 3 and 2 ranks
    assert found.counts.tolist() == found.expected.tolist()
    assert found.expected.tolist() == [9.0, 9.0, 9.0, 6.0]
    assert found.p_value == 1.0


def test_rank_histogram_is_flat_when_calibrated_and_counts_by_weight() -> None:
    rng = numpy_seeded(3)
    draws = rng.standard_normal((5, 40000))
    histogram = rank_histogram(draws[:4], draws[4])
    assert histogram.shape == (5,)
    np.testing.assert_allclose(histogram, 0.2, atol=5 * np.sqrt(0.2 * 0.8 / 40000))
    weighted = rank_histogram([[0.0, 0.0], [2.0, 2.0]], [1.0, 3.0], [3.0, 1.0])
    assert weighted.tolist() == [0.0, 0.75, 0.25]
    assert rank_histogram([[0.0, 0.0]], [1.0, np.nan]).tolist() == [0.0, 1.0]


def test_reliability_is_the_level_when_calibrated_and_below_it_when_overconfident() -> None:
    rng = numpy_seeded(4)
    draws = rng.standard_normal((20, 40000))
    levels = (0.2, 0.5, 0.8)
    error = 5 * np.sqrt(0.25 / 40000)
    np.testing.assert_allclose(reliability(draws[1:], draws[0], levels=levels), levels, atol=error)
    assert bool((reliability(0.5 * draws[1:], draws[0], levels=levels) < levels).all())


def test_equal_weights_are_worth_all_members() -> None:
    weights = ImportanceWeights(np.full((100, 2), 3.0))
    np.testing.assert_allclose(weights.effective_sample_size, 100.0)
    np.testing.assert_allclose(weights.log_evidence, 3.0)
    assert weights.pareto_k.tolist() == [-np.inf, -np.inf]


def log_weights(sigma: float, size: int, seed: int) -> np.ndarray:
    """Return log p/q of draws of q = N(0, sigma^2) for p = N(0, 1), (size, 1)."""
    x = sigma * numpy_seeded(seed).standard_normal((size, 1))
    return np.log(sigma) - 0.5 * x**2 * (1 - sigma**-2)


def test_effective_sample_size_and_evidence_of_a_wide_proposal() -> None:
    """ESS / n tends to 1 / E w^2 = sqrt(2 sigma^2 - 1) / sigma^2, the evidence is 1."""
    size, sigma = 200_000, 1.5
    weights = ImportanceWeights(log_weights(sigma, size, 0))
    expected = np.sqrt(2 * sigma**2 - 1) / sigma**2
    assert weights.effective_sample_size[0] / size == pytest.approx(expected, abs=0.005)
    error = np.sqrt((1 / expected - 1) / size)
    assert weights.log_evidence[0] == pytest.approx(0.0, abs=5 * error)
    assert weights.pareto_k[0] < 0.2  # bounded weights


@pytest.mark.parametrize("sigma", [0.5, 0.7])
def test_pareto_k_of_a_narrow_proposal(sigma: float) -> None:
    """P(w > t) falls as t^(-1/k) / sqrt(log t), k = 1 - sigma^2, for q = N(0, sigma^2).

    The logarithm makes the fitted k smaller: at the threshold, the local slope -dlog P / dlog w is
    1/k + 1 / (2 log w') with log w' = x^2 (1/sigma^2 - 1) / 2.
    """
    size = 400_000
    found = ImportanceWeights(log_weights(sigma, size, 1)).pareto_k[0]
    tail = 3 * np.sqrt(size)
    z = np.sqrt(2 * np.log(size / tail))
    local = 1 / (1 / (1 - sigma**2) + 1 / (z**2 * (1 - sigma**2)))
    error = (1 + local) / np.sqrt(tail)  # of the maximum-likelihood estimate
    assert local - 5 * error < found < 1 - sigma**2 + 5 * error


@pytest.mark.parametrize("k", [0.2, 0.7, 1.5])
def test_generalized_pareto_finds_shape_and_scale(k: float) -> None:
    uniform = numpy_seeded(5).random(20_000)
    sigma = 3.0
    found, scale = generalized_pareto(sigma * (uniform**-k - 1) / k)
    error = (1 + k) / np.sqrt(len(uniform))
    assert found == pytest.approx(k, abs=5 * error)
    assert scale == pytest.approx(sigma, rel=5 * np.sqrt(2) * error)


def test_resampled_members_follow_the_weights() -> None:
    shares = np.array([[0.5, 0.0], [0.25, 0.1], [0.25, 0.9]])
    with np.errstate(divide="ignore"):
        weights = ImportanceWeights(np.log(shares))
    fields = torch.arange(3.0)[:, None, None].expand(3, 2, 4)
    drawn = weights.resample(fields, 40, seed=1)
    assert drawn.shape == (40, 2, 4)
    for field in range(2):
        counts = [int((drawn[:, field, 0] == member).sum()) for member in range(3)]
        np.testing.assert_allclose(counts, 40 * shares[:, field], atol=1.0 - 1e-9)
    assert torch.equal(drawn, weights.resample(fields, 40, seed=1))
    assert not torch.equal(drawn, weights.resample(fields, 40, seed=2))


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(InputError, match="shape"):
        ranks(np.zeros((3, 4)), np.zeros(5))
    with pytest.raises(InputError, match="simulation, dimension"):
        tarp_ranks(np.zeros((3, 4)), np.zeros(4))
    with pytest.raises(InputError, match="references"):
        tarp_ranks(np.zeros((3, 4, 2)), np.zeros((4, 2)), np.zeros((3, 2)))
    with pytest.raises(InputError, match="from 0 to 9"):
        uniformity([10] * 50, members=9)
    with pytest.raises(InputError, match="at least 20"):
        uniformity([1] * 5, members=9)
    with pytest.raises(InputError, match="two members"):
        ImportanceWeights(np.zeros((1, 3)))
    with pytest.raises(InputError, match="NaN"):
        ImportanceWeights(np.full((3, 1), np.nan))
    with pytest.raises(InputError, match="weighted"):
        ImportanceWeights(np.zeros((3, 2))).resample(torch.zeros(4, 2), 5)
    assert np.isnan(ImportanceWeights(np.zeros((10, 1))).pareto_k[0])
