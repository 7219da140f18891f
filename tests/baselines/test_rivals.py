"""What rivals promise: coordinates of a measurement, interpolation, moments matched."""

import numpy as np
import pytest
import torch

from apsgeo.baselines.coordinates import Coordinates
from apsgeo.baselines.dineof import DINEOF
from apsgeo.baselines.inverse_distance import InverseDistance
from apsgeo.baselines.mmps import MMPS
from apsgeo.diffusion.analytic import AnalyticDiffusion
from apsgeo.domains import ImageDomain
from apsgeo.errors import InputError
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.measurement import Measurement
from apsgeo.operators import Downsample, GaussianBlur
from apsgeo.operators.linear import FunctionMap
from tests.cases import alike, noise, numpy_seeded, seeded

IMAGE = ImageDomain(8, 6)
NODES = IMAGE.num_nodes


def averages(noise_std: float) -> tuple[torch.Tensor, Measurement]:
    """Fields of two channels, and means of their 2 x 2 blocks in other units, some missing."""
    truth, scale = noise(3, 2, NODES), 0.5 + noise(3, 2, NODES, seed=1).abs()
    linear = Downsample(2).on(IMAGE)
    exact = linear.apply(scale * truth)
    mask = torch.rand(exact.shape, generator=seeded(2)) < 0.7
    return truth, Measurement(
        exact, mask, torch.tensor(noise_std), operator=linear, scale=scale, key=torch.arange(3)
    )


def test_coordinates_turn_fields_and_measure_each_number_alone() -> None:
    truth, given = averages(0.2)
    known = Coordinates(given)
    turned = known.into(truth)
    np.testing.assert_allclose(turned.square().sum(-1)[0], truth.square().flatten(1).sum(1))
    np.testing.assert_allclose(known.back(turned), truth, atol=1e-12)
    assert known.seen.sum(1).tolist() == given.mask.flatten(1).sum(1).tolist()
    np.testing.assert_allclose(known.misfit(truth), 0.0, atol=1e-10)
    assert bool(known.noise_std[~known.seen].isinf().all())
    # The information about a field, |R^(-1/2) A x|^2, is the same in both.
    other = noise(3, 2, NODES, seed=3)
    standardized = torch.where(given.mask, given.apply(other) / given.noise_std, 0.0)
    informed = (known.into(other)[0] / known.noise_std).square().sum(-1)
    np.testing.assert_allclose(informed, standardized.square().flatten(1).sum(1), rtol=1e-9)


def test_coordinates_of_members_are_those_of_each() -> None:
    truth, given = averages(0.2)
    both = Coordinates(given, count=2).into(torch.cat([truth, 2.0 * truth]))
    alike(both, Coordinates(given).into(truth) * torch.tensor([1.0, 2.0])[:, None, None])


def test_coordinates_of_a_large_blur_are_not_had() -> None:
    image = ImageDomain(65, 64)
    values = torch.zeros(1, 1, image.num_nodes)
    given = Measurement.of(values, 0.1, GaussianBlur(1.0).on(image))
    with pytest.raises(InputError, match="4096"):
        Coordinates(given)


def test_matched_moments_are_those_of_a_blurred_gaussian_field() -> None:
    """The mean and, to the error of 150 steps, the variance of the exact posterior."""
    patterns = torch.tensor(numpy_seeded(4).normal(0, 1, (1, NODES, 4))) / 2.0
    prior = LowRankPrior(IMAGE, patterns, white_std=0.3)
    linear = GaussianBlur(1.0).on(IMAGE)
    truth = prior.sample(1, seeded(5)).double()
    given = Measurement.of(linear.apply(truth) + 0.2 * noise(1, 1, NODES), 0.2, linear)
    exact = prior.posterior(given)
    members = MMPS(AnalyticDiffusion(prior), steps=150).posterior(given).members(100, 0)
    error = (members.mean(0) - exact.mean) / exact.variance.sqrt()
    # of 48 nodes in hundred draws; a step too long or short is off by more
    assert float(error.square().mean().sqrt()) < 0.2
    assert 0.8 < float((members.var(0) / exact.variance).mean()) < 1.1


def test_dineof_finds_fields_of_few_patterns() -> None:
    rng = numpy_seeded(6)
    patterns = torch.tensor(rng.normal(0, 1, (1, NODES, 12)))
    truth = torch.einsum("cnr,br->bcn", patterns[..., :3], torch.tensor(rng.normal(0, 1, (2, 3))))
    mask = torch.rand(truth.shape, generator=seeded(7)) < 0.7
    values = truth + 0.01 * noise(*truth.shape)
    draws = DINEOF(patterns).posterior(Measurement(values, mask, torch.tensor(0.01)))
    # An amplitude's error is that of a mean of some thirty values; three patterns add up.
    assert float((draws.mean - truth).abs().max()) < 0.1
    few = Measurement(values, mask & (torch.arange(NODES) < 4), torch.tensor(0.01))
    np.testing.assert_array_equal(DINEOF(patterns).posterior(few).mean, 0.0)


def test_inverse_distances_weigh_and_pass_through_values() -> None:
    values = torch.full((1, 1, NODES), torch.nan, dtype=torch.float64)
    values[0, 0, 0], values[0, 0, 2] = 1.0, 3.0
    draws = InverseDistance(IMAGE).posterior(Measurement.of(values, 0.1))
    mean, std = draws.mean[0, 0], draws.marginal_std[0, 0]
    np.testing.assert_allclose(mean[:3], [1.0, 2.0, 3.0], atol=1e-9)
    # From (0, 0) and (0, 2) pixel (0, 4) is 4 and 2 away: weights of 1 and 4.
    assert float(mean[4]) == pytest.approx((1.0 + 4.0 * 3.0) / 5.0)
    np.testing.assert_allclose(std[[0, 2]], 0.1)
    # Each value is predicted by the other, 2 off.
    assert float(std[1]) == pytest.approx((4.0 - 0.01) ** 0.5)


def test_inverse_distances_weigh_values_by_what_is_not_noise() -> None:
    values = torch.full((1, 1, NODES), torch.nan, dtype=torch.float64)
    noise = torch.full((NODES,), 0.5, dtype=torch.float64)
    values[0, 0, 0], values[0, 0, 2], noise[2] = 1.0, 60.0, 30.0
    draws = InverseDistance(IMAGE).posterior(Measurement.of(values, noise))
    first, second = 1.0 / 1.25, 1.0 / 901.0  # pixel (0, 1) is as far from both
    expected = (first * 1.0 + second * 60.0) / (first + second)
    assert float(draws.mean[0, 0, 1]) == pytest.approx(expected)
    assert float(draws.mean[0, 0, 2]) == pytest.approx(60.0)
    assert float(draws.marginal_std[0, 0, 2]) == pytest.approx(30.0)


def test_inverse_distances_need_places() -> None:
    total = FunctionMap(lambda x: x.sum(1, keepdims=True), lambda y: y, NODES, 1)
    with pytest.raises(InputError, match="places"):
        InverseDistance(IMAGE).posterior(Measurement.of(torch.zeros(1, 1, 1), 0.1, total))
