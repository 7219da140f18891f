"""Every baseline is the exact posterior of the Gaussian prior that it states."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from torch import Tensor

from apsgeo.baselines import (
    BASELINES,
    Climatology,
    EofInterpolation,
    HybridGaussian,
    Kriging,
    Observations,
)
from apsgeo.baselines.eof import select_rank
from apsgeo.domains import LatLonDomain
from apsgeo.errors import InputError
from apsgeo.gaussian.hybrid import HybridPrior
from apsgeo.gaussian.matern import MaternField
from apsgeo.gaussian.posterior import GaussianPosterior
from apsgeo.measurement import Measurement, Normals
from apsgeo.metrics.predictions import EnsemblePrediction, Prediction

DOMAIN = LatLonDomain(np.linspace(75, -75, 6), np.arange(0, 360, 45.0))
NODES = DOMAIN.num_nodes
RNG = np.random.default_rng(11)
NORMALS = Normals(
    mean=torch.tensor(RNG.normal(280, 10, (12, 1, NODES)), dtype=torch.float32),
    std=torch.tensor(RNG.uniform(0.5, 3, (12, 1, NODES)), dtype=torch.float32),
    valid=torch.ones(NODES, dtype=torch.bool),
)
LOADINGS = RNG.normal(0, 0.4, (NODES, 4))
SCALE, NUGGET, RANGE_KM = RNG.uniform(0.5, 1, NODES), RNG.uniform(0.2, 0.4, NODES), 4000.0
MEMBERS = 3000


@dataclass
class Fixed:
    """The same prior in every season."""

    prior: HybridPrior

    @property
    def noise_dim(self) -> int:
        return self.prior.noise_dim

    def posterior(self, measurement: Measurement, season: Tensor) -> GaussianPosterior:
        return self.prior.posterior(measurement)


def hybrid(members: int = MEMBERS) -> HybridGaussian:
    prior = HybridPrior(
        MaternField(DOMAIN, RANGE_KM),
        torch.tensor(LOADINGS)[None],
        torch.tensor(SCALE)[None],
        torch.tensor(NUGGET)[None],
    )
    return HybridGaussian(NORMALS, Fixed(prior), members=members, seed=3)


def hybrid_covariance() -> np.ndarray:
    kappa = np.sqrt(8.0) * DOMAIN.radius_km / RANGE_KM
    cells = DOMAIN.reduced
    areas, spread = np.diag(cells.areas), cells.spread.toarray()
    root = np.linalg.inv(cells.stiffness.toarray() + kappa**2 * areas)
    local = 4 * np.pi * kappa**2 * spread @ root @ areas @ root @ spread.T
    return LOADINGS @ LOADINGS.T + SCALE[:, None] * local * SCALE + np.diag(NUGGET**2)


def kriging() -> Kriging:
    from sklearn.gaussian_process.kernels import ConstantKernel, Matern

    kernel = ConstantKernel(0.3) * Matern(0.5, nu=0.5) + ConstantKernel(0.7) * Matern(0.4, nu=1.5)
    return Kriging(NORMALS, DOMAIN.positions.numpy(), kernel)


def kriging_covariance() -> np.ndarray:
    d = cdist(DOMAIN.positions.numpy(), DOMAIN.positions.numpy())
    smooth = np.sqrt(3) * d / 0.4
    return 0.3 * np.exp(-d / 0.5) + 0.7 * (1 + smooth) * np.exp(-smooth)


def eof_covariance() -> np.ndarray:
    square = (LOADINGS**2).sum(1)
    return LOADINGS @ LOADINGS.T + np.diag(np.maximum(1 - square, 1e-3))


@dataclass(frozen=True)
class Case:
    """A baseline with parameters that are not fitted, and the covariance of its prior (N, N)."""

    make: Callable[[], Any]
    covariance: Callable[[], np.ndarray]


CASES: dict[type, Case] = {
    Climatology: Case(lambda: Climatology(NORMALS), lambda: np.eye(NODES)),
    EofInterpolation: Case(lambda: EofInterpolation(NORMALS, LOADINGS), eof_covariance),
    Kriging: Case(kriging, kriging_covariance),
    HybridGaussian: Case(hybrid, hybrid_covariance),
}


def observations() -> Observations:
    """Three records: some nodes observed, none, all; the noise differs by node and record."""
    rng = np.random.default_rng(5)
    mask = np.stack([rng.random(NODES) < 0.3, np.zeros(NODES, bool), np.ones(NODES, bool)])
    season = np.array([0, 6, 11])
    values = NORMALS.mean[season, 0].numpy() + 2 * rng.standard_normal((3, NODES))
    noise = rng.uniform(0.1, 1.0, (3, NODES))
    return Observations(values, mask, noise, season, np.array([-10, 20, 30]))


def moments(prediction: Prediction) -> tuple[np.ndarray, np.ndarray]:
    variance = prediction.variance()
    if isinstance(prediction, EnsemblePrediction):
        variance = variance * MEMBERS / (MEMBERS + 1)
    return prediction.mean(), variance


def closed_form(covariance: np.ndarray, seen: Observations) -> tuple[np.ndarray, np.ndarray]:
    """Return posterior mean and variance (T, N) in the unit of the data, by dense algebra."""
    means, variances = [], []
    for t in range(len(seen)):
        mu, sd = (a[seen.season[t], 0].double().numpy() for a in (NORMALS.mean, NORMALS.std))
        prior = sd[:, None] * covariance * sd
        at = np.flatnonzero(seen.mask[t])
        total = prior[np.ix_(at, at)] + np.diag(seen.noise_std[t, at] ** 2)
        gain = np.linalg.solve(total, prior[at]).T
        means.append(mu + gain @ (seen.values[t, at] - mu[at]))
        variances.append(np.diag(prior) - (gain * prior[:, at]).sum(1))
    return np.array(means), np.array(variances)


def test_every_baseline_is_tested() -> None:
    assert set(CASES) == set(BASELINES)


@pytest.fixture(params=CASES, ids=lambda kind: kind.__name__)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


def test_prediction_is_the_closed_form_posterior(case: Case) -> None:
    seen = observations()
    prediction = case.make().predict(seen)
    mean, variance = moments(prediction)
    true_mean, true_variance = closed_form(case.covariance(), seen)
    scale = np.sqrt(true_variance)
    if isinstance(prediction, EnsemblePrediction):
        # 144 cells: 4.5 standard errors of a mean and of a variance of normal draws.
        assert np.abs((mean - true_mean) / scale).max() < 4.5 / np.sqrt(MEMBERS)
        assert np.abs(variance / true_variance - 1).max() < 4.5 * np.sqrt(2 / MEMBERS)
    else:
        # scikit-learn's variance is a difference of numbers of the prior's size.
        assert np.abs((mean - true_mean) / scale).max() < 1e-9
        assert np.abs(variance / true_variance - 1).max() < 1e-9


def test_prediction_does_not_depend_on_the_batch(case: Case) -> None:
    seen, method = observations(), case.make()
    mean, variance = moments(method.predict(seen))
    for t in range(len(seen)):
        alone = moments(method.predict(seen[t : t + 1]))
        np.testing.assert_allclose(alone[0][0], mean[t], rtol=0, atol=1e-9)
        np.testing.assert_allclose(alone[1][0], variance[t], rtol=1e-9)


@pytest.mark.parametrize("junk", [np.nan, np.inf, 1e30])
def test_what_stands_under_the_mask_changes_no_bit(case: Case, junk: float) -> None:
    seen, method = observations(), case.make()
    other = replace(
        seen,
        values=np.where(seen.mask, seen.values, junk),
        noise_std=np.where(seen.mask, seen.noise_std, junk),
    )
    np.testing.assert_array_equal(other.values, seen.values)
    first, second = (moments(method.predict(o)) for o in (seen, other))
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_a_member_depends_on_seed_record_and_number_alone() -> None:
    seen = observations()
    members = hybrid(5).predict(seen).members
    fewer = hybrid(3).predict(seen[1:2]).members
    np.testing.assert_allclose(fewer[:, 0], members[:3, 1], rtol=0, atol=1e-9)
    renamed = replace(seen, key=seen.key + 1)
    assert np.abs(hybrid(5).predict(renamed).members - members).min() > 0


def history() -> tuple[torch.Tensor, torch.Tensor]:
    """Draw 240 months (240, 1, N) of the kriging prior, in the unit of the data."""
    rng = np.random.default_rng(8)
    factor = np.linalg.cholesky(kriging_covariance() + 1e-10 * np.eye(NODES))
    anomalies = torch.tensor((factor @ rng.standard_normal((NODES, 240))).T)[:, None]
    season = torch.arange(240) % 12
    return NORMALS.restore(anomalies, season), season


def test_kriging_finds_the_covariance_it_was_fitted_to() -> None:
    fields, season = history()
    fitted = Kriging.fit(DOMAIN, NORMALS, fields, season, nodes=NODES, times=240)
    covariance = fitted.kernel(DOMAIN.positions.numpy())
    # A covariance estimated from 240 draws has standard errors of at most sqrt(2 / 240) = 0.09.
    assert np.abs(covariance - kriging_covariance()).max() < 0.1


def test_eof_rank_is_chosen_by_held_out_crps() -> None:
    rng = np.random.default_rng(9)
    shapes = rng.normal(0, 1, (3, NODES))
    patterns = torch.tensor(shapes * np.sqrt(0.7 / (shapes**2).sum(0)))
    amplitudes = torch.tensor(rng.standard_normal((90, 3)))
    noise = torch.tensor(rng.normal(0, np.sqrt(0.3), (90, NODES)))
    season = torch.arange(90) % 12
    fields = NORMALS.restore((amplitudes @ patterns + noise)[:, None], season)
    fitted = EofInterpolation.fit(DOMAIN, NORMALS, fields[:60], season[:60], 40)
    mask = rng.random((30, NODES)) < 0.4
    truth = fields[60:, 0].numpy()
    seen = Observations(
        truth, mask, np.full(truth.shape, 0.01), season[60:].numpy(), np.arange(30, dtype=np.int64)
    )
    cases = [(seen, truth, (~mask).astype(float))]
    # Three patterns are there; one is too few and forty fit the history's noise.
    assert select_rank(fitted, cases, [1, 3, 40], progress=False) == 3
    with pytest.raises(InputError, match="41"):
        select_rank(fitted, cases, [41], progress=False)


def test_observations_refuse_what_cannot_be_used() -> None:
    seen = observations()
    with pytest.raises(InputError, match="boolean"):
        replace(seen, mask=seen.mask.astype(float))
    with pytest.raises(InputError, match="one each"):
        replace(seen, season=seen.season[:1])
    with pytest.raises(InputError, match="finite"):
        replace(seen, values=np.full_like(seen.values, np.nan))
    with pytest.raises(InputError, match="noise_std"):
        replace(seen, noise_std=np.zeros((3, NODES)))
