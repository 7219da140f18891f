"""The chains of the truth suite, against posteriors that are known."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from apsgeo.domains import ImageDomain
from apsgeo.gaussian.dense import DensePrior
from apsgeo.measurement import Measurement
from benchmarks.truth.chains import HMC, hmc, whitened
from benchmarks.truth.planar import Quadrature, Ring
from benchmarks.truth.planar_rows import planar_chains, score
from benchmarks.truth.scores import excess_scores
from tests.cases import seeded


def anchor(scale: float = 1.0) -> DensePrior:
    factor = torch.randn(12, 12, generator=seeded(0)).double()
    covariance = factor @ factor.T / 12.0 + 0.1 * torch.eye(12)
    return DensePrior(ImageDomain(3, 4), scale * covariance)


def measured() -> Measurement:
    values = torch.randn(2, 1, 12, generator=seeded(1))
    values[0, 0, 3:] = torch.nan
    values[1, 0, :8] = torch.nan
    return Measurement.of(values, 0.3)


def test_whitened_coordinates_are_those_of_the_posterior() -> None:
    prior, given = anchor(), measured()
    mean, root = whitened(prior, given)
    covariance = prior.posterior(given).precision_apply
    for k in range(12):
        direction = root[:, :, k].reshape(2, 1, 12).float()
        # R^T P R = 1, column by column
        back = (root.mT @ covariance(direction).flatten(1)[..., None].double())[..., 0]
        expected = torch.eye(12).double()[k].expand(2, -1)
        torch.testing.assert_close(back, expected, rtol=0.0, atol=1e-4)
    torch.testing.assert_close(mean, prior.posterior(given).mean.flatten(1).double())


def test_chains_reach_a_posterior_that_they_do_not_start_from() -> None:
    """They start from that of a prior of four times the variance."""
    prior, wide, given = anchor(), anchor(4.0), measured()
    members = 400

    def log_target(fields: Tensor, every: Measurement) -> Tensor:
        return prior.log_prob(fields) + every.log_likelihood(fields)

    generator = seeded(2)
    found = hmc(HMC(wide, log_target, steps=80), given, members, generator)
    exact = prior.posterior(given)
    _, root = whitened(prior, given)
    std = root.square().sum(2).sqrt().reshape(2, 1, 12)
    error = (found.fields.mean(0) - exact.mean) / std * math.sqrt(members)
    assert float(error.abs().max()) < 4.5  # of 25 standard errors
    ratio = found.fields.std(0) / std
    assert float((ratio - 1.0).abs().max()) < 5.0 / math.sqrt(2 * members)
    start = whitened(wide, given)[1].square().sum(2).sqrt().reshape(2, 1, 12) / std
    assert float(start.max()) > 1.5
    assert 0.5 < found.acceptance < 1.0


def test_chains_on_a_ring_are_the_posterior() -> None:
    density = Ring()
    generator = seeded(3)
    given = density.measure(density.sample(100, generator), generator)
    exact = Quadrature(density, given.values[:, 0, 0])
    points = planar_chains(density).posterior(given).members(63, 3)[:, :, 0]
    crps, energy = excess_scores(points.double(), exact.sample(63, generator))
    assert abs(crps - 1.0) < 0.02
    assert abs(energy - 1.0) < 0.02


def test_a_row_of_chains_has_no_density() -> None:
    found = score(Ring(), planar_chains(Ring()), fields=20, members=7, seed=0)
    assert set(found) == {"crps", "energy", "sbc", "tarp"}
