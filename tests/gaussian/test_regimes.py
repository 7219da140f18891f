"""Mixtures fitted to fields in two regimes, against dense covariances of the same moments."""

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo.domains import ImageDomain
from apsgeo.errors import InputError
from apsgeo.gaussian.dense import DensePrior
from apsgeo.gaussian.mixture import GaussianMixturePrior
from apsgeo.gaussian.regimes import LowRankMixturePrior, fit_regimes
from apsgeo.measurement import Measurement
from tests.cases import seeded

PATTERNS, CHANNELS = 5, 2
SINGLE = 1e-6  # loadings and means are single precision


def two_regimes(domain: ImageDomain, count: int) -> tuple[Tensor, Tensor]:
    """Fields in two channels, and which regime each is of: far apart, unlike in their spread."""
    generator = seeded(0)
    size = CHANNELS * domain.num_nodes
    patterns = torch.linalg.qr(torch.randn(size, PATTERNS, generator=generator))[0] * size**0.5
    first = torch.rand(count, generator=generator) < 0.4
    spread = torch.where(first, 1.0, 0.5)[:, None] * torch.linspace(1.0, 0.5, PATTERNS)
    amplitudes = spread * torch.randn(count, PATTERNS, generator=generator)
    amplitudes[:, 0] = torch.where(first, -6.0, 6.0) + 0.5 * amplitudes[:, 0]
    noise = torch.where(first, 0.3, 0.4)[:, None] * torch.randn(count, size, generator=generator)
    fields = amplitudes @ patterns.T + noise + 1.0
    return fields.unflatten(1, (CHANNELS, -1)), first


def dense(domain: ImageDomain, fields: Tensor, first: Tensor) -> GaussianMixturePrior:
    """The mixture of the moments of each regime: on the leading patterns, and of what is left."""
    flat = fields.double().flatten(1).numpy()
    mean = flat.mean(0)
    basis = np.linalg.svd(flat - mean, full_matrices=False)[2][:PATTERNS].T
    priors, means = [], []
    for which in (first.numpy(), ~first.numpy()):
        coefficients = (flat[which] - mean) @ basis
        left = flat[which] - mean - coefficients @ basis.T
        variance = (left**2).sum() / which.sum() / (len(mean) - PATTERNS)
        matrix = basis @ np.cov(coefficients.T, bias=True) @ basis.T
        matrix += variance * (np.eye(len(mean)) - basis @ basis.T)
        priors.append(DensePrior(domain, torch.from_numpy((matrix + matrix.T) / 2)))
        means.append(torch.from_numpy(mean + basis @ coefficients.mean(0)))
    weights = [float(first.double().mean()), float((~first).double().mean())]
    return GaussianMixturePrior(priors, weights, torch.stack(means).unflatten(1, (CHANNELS, -1)))


def ordered(mixture: LowRankMixturePrior) -> LowRankMixturePrior:
    """The regimes by their weight: which of them is the first depends on a pattern's sign."""
    order = mixture.weights.argsort()
    tensors = {name: value[order] for name, value in mixture.to_tensors().items()}
    return LowRankMixturePrior.from_tensors(mixture.domain, tensors)


@pytest.mark.parametrize(("side", "count"), [(4, 300), (12, 120)], ids=["many", "few"])
def test_posterior_is_that_of_dense_covariances(side: int, count: int) -> None:
    domain = ImageDomain(side, side)
    fields, first = two_regimes(domain, count)
    found = ordered(fit_regimes(domain, fields, patterns=PATTERNS))
    expected = dense(domain, fields, first)
    assert found.weights.tolist() == pytest.approx(expected.weights.tolist())
    every = np.arange(found.size)
    for low_rank, full in zip(found.components, expected.components, strict=True):
        exact = full.covariance(every, every)
        error = np.abs(low_rank.covariance(every, every) - exact).max()
        assert error < SINGLE * np.abs(exact).max()
    generator = seeded(1)
    # Between the regimes, so that neither is ruled out.
    values = expected.means.mean(0) + torch.randn(3, *fields.shape[1:], generator=generator)
    mask = torch.rand(values.shape, generator=generator) < 0.1
    given = Measurement(values, mask, torch.full_like(values, 6.0))
    posteriors = [each.posterior(given) for each in (found, expected)]
    weights = [each.weights for each in posteriors]
    assert float(weights[1].min()) > 0.01
    torch.testing.assert_close(*weights, rtol=0.0, atol=10 * SINGLE)
    torch.testing.assert_close(*(each.log_evidence() for each in posteriors), rtol=SINGLE, atol=0.0)
    means = [each.component_means for each in posteriors]
    torch.testing.assert_close(*means, rtol=0.0, atol=10 * SINGLE)


def test_a_pattern_that_tells_regimes_apart_may_not_vary_within_them() -> None:
    """It gets the variance of what no pattern describes."""
    domain = ImageDomain(4, 4)
    fields, first = two_regimes(domain, 300)
    flat = fields.double().flatten(1)
    flat = flat - flat.mean(0)
    wave = torch.ones(flat.shape[1], dtype=torch.float64) / flat.shape[1] ** 0.5
    flat = flat - torch.outer(flat @ wave, wave)  # of which then each field has exactly +-1000
    flat += torch.where(first, -1000.0, 1000.0)[:, None] * wave
    found = fit_regimes(domain, flat.reshape(fields.shape), patterns=PATTERNS)
    for prior, std in zip(found.components, found.to_tensors()["white_std"], strict=True):
        variance = wave.numpy() @ prior.covariance_apply(wave.numpy()[:, None])
        assert float(variance[0]) == pytest.approx(float(std) ** 2, rel=1e-3)


def test_what_never_varies_does_not_count() -> None:
    """Land is zero in every anomaly; the others' variance is what it was."""
    fields, _ = two_regimes(ImageDomain(4, 4), 300)
    land = torch.zeros(len(fields), CHANNELS, 4)
    found = fit_regimes(ImageDomain(4, 4), fields, patterns=PATTERNS)
    wider = fit_regimes(ImageDomain(5, 4), torch.cat([fields, land], -1), patterns=PATTERNS)
    expected, white_std = (each.to_tensors()["white_std"] for each in (found, wider))
    torch.testing.assert_close(white_std, expected, rtol=1e-9, atol=0.0)
    assert not wider.means[..., -4:].any()


@pytest.mark.same_bits
def test_tensors_make_the_same_prior_to_the_bit() -> None:
    domain = ImageDomain(4, 4)
    fields, _ = two_regimes(domain, 300)
    found = fit_regimes(domain, fields, patterns=PATTERNS, count=2)
    again = LowRankMixturePrior.from_tensors(domain, found.to_tensors())
    assert torch.equal(*(each.log_prob(fields[:5].double()) for each in (again, found)))
    assert repr(again) == repr(found)


def test_what_cannot_be_fitted_is_refused() -> None:
    domain = ImageDomain(4, 4)
    fields, _ = two_regimes(domain, 19)
    with pytest.raises(InputError, match="at least 20 fields, or ask for at most 4 patterns"):
        fit_regimes(domain, fields, patterns=PATTERNS)
    tensors = fit_regimes(domain, fields, patterns=2).to_tensors()
    with pytest.raises(InputError, match="white_std"):
        LowRankMixturePrior.from_tensors(domain, tensors | {"white_std": torch.ones(3)})
