"""Patterns of fields with gaps against dense linear algebra."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.gaussian.gappy.patterns import GappyFields, Patterns, fit_patterns
from tests.cases import noise, seeded

RECORDS, VALUES, RANK, SEASONS = 60, 25, 3, 4
# Float64 sums of some thousand terms, through factors of well-conditioned matrices.
CLOSE: dict[str, Any] = {"rtol": 1e-10, "atol": 1e-10}


@pytest.fixture(scope="module", params=["exact", "noisy"])
def data(request: pytest.FixtureRequest) -> GappyFields:
    loadings = 0.7 * noise(VALUES, RANK, seed=1)
    fields = noise(RECORDS, RANK, seed=2) @ loadings.T + 0.3 * noise(RECORDS, VALUES, seed=3)
    mask = torch.rand(RECORDS, VALUES, generator=seeded(4)) < 0.6
    mask[:, 0] = False
    mask[0, 0] = True  # a value that is seen once
    season = torch.arange(RECORDS) % SEASONS
    regressors = 0.3 * torch.nn.functional.one_hot(season, SEASONS)
    error = 0.2 * torch.rand(RECORDS, VALUES, generator=seeded(5)).double()
    var = error**2 if request.param == "noisy" else torch.zeros(())
    return GappyFields(fields + error * noise(RECORDS, VALUES, seed=6), mask, var, regressors)


@pytest.fixture(scope="module")
def found(data: GappyFields) -> Patterns:
    return fit_patterns(data, RANK, iterations=25, tolerance=0.0)


def dense(data: GappyFields, loadings: Tensor, variance: Tensor) -> Tensor:
    """Return the log-likelihood by the covariance of each record's observations."""
    fixed, patterns = loadings.split([SEASONS, RANK], 1)
    covariance = patterns @ patterns.T + torch.diag(variance)
    noise_var = data.noise_var.expand_as(data.values)
    total = torch.zeros((), dtype=torch.float64)
    for t in range(RECORDS):
        seen = data.mask[t]
        block = covariance[seen][:, seen] + torch.diag(noise_var[t, seen])
        mean = (fixed @ data.regressors[t])[seen]
        law = torch.distributions.MultivariateNormal(mean, block)
        total = total + law.log_prob(data.values[t, seen])
    return total


def test_likelihood_and_predictions_are_those_of_dense_covariances(
    data: GappyFields, found: Patterns
) -> None:
    expected = dense(data, found.loadings, found.variance)
    torch.testing.assert_close(found.log_likelihood(data).sum(), expected, **CLOSE)
    mean, variance = found.predict(data)
    fixed, patterns = found.loadings.split([SEASONS, RANK], 1)
    covariance = patterns @ patterns.T + torch.diag(found.variance)
    noise_var = data.noise_var.expand_as(data.values)
    for t in (0, 17):
        seen = data.mask[t]
        block = covariance[seen][:, seen] + torch.diag(noise_var[t, seen])
        gain = covariance[:, seen] @ torch.linalg.inv(block)
        centre = fixed @ data.regressors[t]
        conditional = centre + gain @ (data.values[t] - centre)[seen]
        torch.testing.assert_close(mean[t], conditional, **CLOSE)
        left = covariance.diagonal() - (gain * covariance[:, seen]).sum(1)
        torch.testing.assert_close(variance[t], left, **CLOSE)


def test_the_objective_never_falls(found: Patterns) -> None:
    objective = torch.tensor(found.objective, dtype=torch.float64)
    rounding = 1e-12 * float(objective.abs().max())
    assert len(objective) > 20
    assert float(objective.diff().min()) > -rounding
    assert objective[-1] > objective[0] + 10.0


def test_the_fit_is_a_maximum_of_likelihood_times_prior(data: GappyFields) -> None:
    found = fit_patterns(data, RANK, iterations=4000, tolerance=1e-13)
    typical = float((data.values**2).sum() / data.mask.sum())
    loadings, variance = found.loadings.clone(), found.variance.clone()
    loadings.requires_grad_(True)
    variance.requires_grad_(True)
    precision = torch.ones(SEASONS + RANK, dtype=torch.float64)
    precision[SEASONS:] = RANK
    prior = -0.5 * (loadings**2 @ precision).sum()
    prior = prior - 0.5 * 4.0 * (variance.log() + typical / variance).sum()
    (dense(data, loadings, variance) + prior).backward()
    assert loadings.grad is not None
    assert variance.grad is not None
    # Steps of EM are about gradients times variances over counts; at its end both are small.
    assert float(loadings.grad.abs().max()) < 1e-2
    assert float((variance.grad * variance).abs().max()) < 1e-2


@pytest.mark.same_bits
def test_what_is_under_the_mask_never_matters(data: GappyFields, found: Patterns) -> None:
    junk = torch.where(data.mask, data.values, 1e6 * noise(RECORDS, VALUES, seed=9))
    junk[1, ~data.mask[1]] = torch.nan
    other = GappyFields(junk, data.mask, data.noise_var, data.regressors)
    again = fit_patterns(other, RANK, iterations=25, tolerance=0.0)
    assert torch.equal(again.loadings, found.loadings)
    assert torch.equal(again.variance, found.variance)


def test_amplitudes_are_drawn_from_their_posterior(data: GappyFields, found: Patterns) -> None:
    mean, factor, _ = found.moments(data)
    draws = 4000
    generator = seeded(11)
    drawn = torch.stack([found.draw_amplitudes(data, generator)[5] for _ in range(draws)])
    covariance = torch.cholesky_inverse(factor[5])
    error = covariance.diagonal().sqrt() / draws**0.5
    assert bool(((drawn.mean(0) - mean[5]).abs() < 5.0 * error).all())
    spread = torch.cov(drawn.T) - covariance
    scale = torch.outer(covariance.diagonal(), covariance.diagonal()).sqrt()
    assert float((spread.abs() / scale).max()) < 5.0 * (2.0 / draws) ** 0.5


def test_a_value_that_is_seldom_seen_has_small_patterns_and_a_typical_variance(
    data: GappyFields, found: Patterns
) -> None:
    typical = float((data.values**2).sum() / data.mask.sum())
    assert 0.3 * typical < float(found.variance[0]) < 3.0 * typical
    assert float(found.total[0]) < 3.0 * typical


def test_arguments_that_do_not_fit_are_errors(data: GappyFields) -> None:
    with pytest.raises(InputError, match="fewer than those"):
        fit_patterns(data, RECORDS)
    with pytest.raises(InputError, match="must both be"):
        replace(data, mask=data.mask[:1])
