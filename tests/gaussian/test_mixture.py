"""The mixture of Gaussian priors and its posterior against dense linear algebra."""

import math

import numpy as np
import pytest
import torch
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from torch import Tensor

from apsgeo.diffusion.schedule import VPSchedule
from apsgeo.domains import HEALPixDomain, ImageDomain, LatLonDomain
from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.hybrid import HybridPrior
from apsgeo.gaussian.localised import LocalisedField, LocalisedPrior
from apsgeo.gaussian.matern import MaternField
from apsgeo.gaussian.mixture import GaussianMixturePrior
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.measurement import Measurement
from apsgeo.operators import Downsample
from tests.cases import numpy_seeded, seeded

DRAWS = 4000
WEIGHTS = np.array([0.2, 0.5, 0.3])
# A localised component keeps its Matern part in single precision; see test_gaussian.py.
CLOSE = 1e-5


def make_components(domain: Domain) -> list[GaussianPrior]:
    rng = numpy_seeded(0)
    shape, unit = (2, domain.num_nodes), domain.radius_km * float(domain.areas.sum()) ** 0.5
    loadings = [torch.from_numpy(0.5 * rng.standard_normal((*shape, 3))) for _ in range(3)]
    local = [torch.from_numpy(rng.uniform(0.3, 0.9, shape)) for _ in range(3)]
    nugget = [torch.full(shape, std, dtype=torch.float64) for std in (0.3, 0.4, 0.3)]
    hybrids = [
        HybridPrior(MaternField(domain, reach), *parts)
        for reach, *parts in zip((0.15 * unit, 0.4 * unit), loadings, local, nugget, strict=False)
    ]
    field = LocalisedField(domain, 0.2 * unit, 0.3 * unit)
    return [
        *hybrids,
        LocalisedPrior(
            field, loadings[2], local[2], nugget[2], global_weight=0.3, tapered_weight=0.5
        ),
    ]


@pytest.fixture(
    scope="module",
    params=[
        LatLonDomain(np.linspace(-72, 72, 5), np.arange(0.0, 360.0, 60.0)),
        HEALPixDomain(2),
        ImageDomain(4, 4),
    ],
    ids=["lat-lon", "healpix", "image"],
)
def mixture(request: pytest.FixtureRequest) -> GaussianMixturePrior:
    domain: Domain = request.param
    components = make_components(domain)
    rng = numpy_seeded(1)
    means = torch.from_numpy(0.4 * rng.standard_normal((3, 2, domain.num_nodes)))
    return GaussianMixturePrior(components, (7.0 * WEIGHTS).tolist(), means)


def dense(mixture: GaussianMixturePrior) -> tuple[np.ndarray, np.ndarray]:
    """The means (component, size) and covariances (component, size, size)."""
    every = np.arange(mixture.size)
    covariances = [component.covariance(every, every) for component in mixture.components]
    return mixture.means.flatten(1).numpy(), np.stack(covariances)


def log_density(mixture: GaussianMixturePrior, x: Tensor, noise_var: float = 0.0) -> np.ndarray:
    """log(w_k N_k) of each component, (component, batch)."""
    means, covariances = dense(mixture)
    white = noise_var * np.eye(mixture.size)
    flat = x.detach().double().flatten(1).numpy()
    each = [
        np.atleast_1d(multivariate_normal(mean, cov + white).logpdf(flat))
        for mean, cov in zip(means, covariances, strict=True)
    ]
    return np.array(each) + np.log(WEIGHTS)[:, None]


def fields(mixture: GaussianMixturePrior, count: int = 4) -> Tensor:
    return mixture.sample(count, seeded(2)).double()


@pytest.mark.parametrize("noise_std", [0.0, 0.7])
def test_log_prob_and_responsibilities_are_those_of_the_dense_mixture(
    mixture: GaussianMixturePrior, noise_std: float
) -> None:
    x = fields(mixture)
    joint = log_density(mixture, x, noise_std**2)
    truth = logsumexp(joint, axis=0)
    np.testing.assert_allclose(mixture.log_prob(x, noise_std).numpy(), truth, rtol=CLOSE)
    np.testing.assert_allclose(
        mixture.responsibilities(x, noise_std).numpy().T, np.exp(joint - truth), atol=CLOSE
    )


@pytest.mark.parametrize("t", [0.01, 0.3, 0.9])
def test_score_and_denoiser_follow_from_the_density_at_every_noise_level(
    mixture: GaussianMixturePrior, t: float
) -> None:
    """Score = grad log p_t and D = (x_t + sigma^2 score) / alpha (Tweedie), in float64."""
    schedule = VPSchedule()
    alpha, sigma = float(schedule.alpha(t)), float(schedule.sigma(t))
    noise = torch.randn(fields(mixture).shape, generator=seeded(3)).double()
    x_t = (alpha * fields(mixture) + sigma * noise).requires_grad_()
    log_p = mixture.log_prob(x_t / alpha, sigma / alpha)
    (truth,) = torch.autograd.grad(log_p.sum(), x_t)
    score = mixture.score(x_t / alpha, sigma / alpha) / alpha
    np.testing.assert_allclose(score.detach(), truth, atol=CLOSE / sigma)
    clean = mixture.denoise(x_t / alpha, sigma / alpha)
    tweedie = (x_t + sigma**2 * truth) / alpha
    np.testing.assert_allclose(clean.detach(), tweedie.detach(), atol=CLOSE)


def test_denoiser_differentiates_to_the_posterior_covariance(
    mixture: GaussianMixturePrior,
) -> None:
    """Its Jacobian is cov(x | s) / noise^2, responsibilities included."""
    x, noise_std = fields(mixture, 1), 6.0
    jacobian = torch.autograd.functional.jacobian(lambda s: mixture.denoise(s, noise_std), x)
    means, covariances = dense(mixture)
    joint = log_density(mixture, x, noise_std**2)[:, 0]
    shares = np.exp(joint - logsumexp(joint))
    assert shares.max() < 0.99
    gains = [cov @ np.linalg.inv(cov + noise_std**2 * np.eye(len(cov))) for cov in covariances]
    flat = x.flatten().numpy()
    each = np.array([m + gain @ (flat - m) for m, gain in zip(means, gains, strict=True)])
    centre = each - shares @ each
    covariance = np.einsum("k,kij->ij", shares, np.array(gains)) * noise_std**2
    covariance += np.einsum("k,ki,kj->ij", shares, centre, centre)
    np.testing.assert_allclose(
        jacobian.reshape(mixture.size, -1).numpy(), covariance / noise_std**2, atol=CLOSE
    )


def moments(
    weights: np.ndarray, means: np.ndarray, covariances: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance of a mixture."""
    mean = weights @ means
    centre = means - mean
    between = np.einsum("k,ki,kj->ij", weights, centre, centre)
    return mean, np.einsum("k,kij->ij", weights, covariances) + between


def check_draws(draws: np.ndarray, mean: np.ndarray, covariance: np.ndarray) -> None:
    """Compare draws (draw, size) with exact moments, thousands of them, to six standard errors."""
    centre = draws - mean
    var = np.diag(covariance)
    assert (np.abs(centre.mean(0)) < 6 * np.sqrt(var / len(draws))).all()
    found = centre.T @ centre / len(draws)
    error = np.sqrt(((centre**2).T @ centre**2 / len(draws) - found**2) / len(draws))
    assert (np.abs(found - covariance) < 6 * error).all()


def test_draws_have_the_moments_of_the_mixture(mixture: GaussianMixturePrior) -> None:
    mean, covariance = moments(WEIGHTS, *dense(mixture))
    np.testing.assert_allclose(mixture.mean.flatten().numpy(), mean)
    np.testing.assert_allclose(mixture.variance.flatten().numpy(), np.diag(covariance), rtol=CLOSE)
    draws = mixture.sample(DRAWS, seeded(4)).flatten(1).double().numpy()
    check_draws(draws, mean, covariance)


def measured(mixture: GaussianMixturePrior, share: float = 0.15) -> Measurement:
    """Two fields, with masks and noise of their own, so noisy that no component is ruled out."""
    rng = numpy_seeded(5)
    values = fields(mixture, 2)
    mask = torch.from_numpy(rng.random(values.shape) < share)
    noise = torch.from_numpy(rng.uniform(0.5, 1.0, values.shape))
    return Measurement(values, mask, noise)


def downsampled(mixture: GaussianMixturePrior) -> Measurement:
    """Two fields' means of neighbours, with a scale, as behind a model's normals."""
    operator = Downsample(2).on(mixture.domain)
    x = fields(mixture, 2)
    scale = torch.linspace(0.5, 2.0, x.numel(), dtype=torch.float64).reshape(x.shape)
    values = operator.apply(scale * x) + 0.3
    mask = torch.ones(values.shape, dtype=torch.bool)
    noise = torch.full_like(values, 2.0)
    return Measurement(values, mask, noise, operator=operator, scale=scale)


def exact(
    mixture: GaussianMixturePrior, measurement: Measurement, index: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """log(w_k p(y|k)), and each component's posterior mean and covariance, and x's own matrix."""
    means, covariances = dense(mixture)
    unit = torch.eye(mixture.size, dtype=torch.float64).reshape(-1, *mixture.means.shape[1:])
    scale = measurement.scale
    if scale is not None:
        unit = scale[index] * unit
    seen = measurement.mask[index].flatten().numpy()
    matrix = measurement.operator.apply(unit).flatten(1).T.numpy()[seen]
    noise = measurement.noise_std[index].flatten().numpy()[seen]
    y = measurement.values[index].flatten().numpy()[seen]
    joint, centres, spreads = [], [], []
    for weight, mean, cov in zip(WEIGHTS, means, covariances, strict=True):
        gram = matrix @ cov @ matrix.T + np.diag(noise**2)
        gain = np.linalg.solve(gram, matrix @ cov).T
        joint.append(np.log(weight) + multivariate_normal(matrix @ mean, gram).logpdf(y))
        centres.append(mean + gain @ (y - matrix @ mean))
        spreads.append(cov - gain @ matrix @ cov)
    return np.array(joint), np.array(centres), np.array(spreads), matrix


@pytest.mark.parametrize("observe", [measured, downsampled])
def test_posterior_is_exact(mixture: GaussianMixturePrior, observe) -> None:  # type: ignore[no-untyped-def]
    measurement = observe(mixture)
    posterior = mixture.posterior(measurement)
    x = fields(mixture, 2) + 0.2
    for index in range(2):
        joint, means, covariances, _ = exact(mixture, measurement, index)
        weights = np.exp(joint - logsumexp(joint))
        mean, covariance = moments(weights, means, covariances)
        assert 0.01 < weights.max() < 0.999
        np.testing.assert_allclose(posterior.weights[index], weights, atol=CLOSE)
        np.testing.assert_allclose(posterior.log_evidence()[index], logsumexp(joint), rtol=CLOSE)
        np.testing.assert_allclose(posterior.mean[index].flatten(), mean, atol=CLOSE)
        np.testing.assert_allclose(
            posterior.variance[index].flatten(), np.diag(covariance), atol=CLOSE
        )
        parts = [
            np.log(w) + multivariate_normal(m, c).logpdf(x[index].flatten().numpy())
            for w, m, c in zip(weights, means, covariances, strict=True)
        ]
        np.testing.assert_allclose(posterior.log_prob(x)[index], logsumexp(parts), rtol=10 * CLOSE)


def test_posterior_draws_have_the_exact_moments(mixture: GaussianMixturePrior) -> None:
    measurement = measured(mixture)
    posterior = mixture.posterior(measurement)
    shape = (DRAWS, len(measurement), posterior.noise_dim)
    draws = posterior.from_noise(torch.randn(shape, generator=seeded(6)))
    assert draws.shape == (DRAWS, *measurement.values.shape)
    for index in range(2):
        joint, means, covariances, _ = exact(mixture, measurement, index)
        weights = np.exp(joint - logsumexp(joint))
        check_draws(draws[:, index].flatten(1).numpy(), *moments(weights, means, covariances))


def test_nothing_observed_returns_the_prior(mixture: GaussianMixturePrior) -> None:
    posterior = mixture.posterior(measured(mixture, share=0.0))
    np.testing.assert_allclose(posterior.weights, np.tile(WEIGHTS, (2, 1)), atol=1e-8)
    assert torch.allclose(posterior.mean[0], mixture.mean)
    assert torch.allclose(posterior.variance[0], mixture.variance)


@pytest.mark.same_bits
def test_values_under_the_mask_and_other_fields_of_the_batch_never_matter(
    mixture: GaussianMixturePrior,
) -> None:
    given = measured(mixture)
    dirty = torch.where(given.mask, given.values, math.nan)
    again = mixture.posterior(Measurement(dirty, given.mask, given.noise_std))
    assert torch.equal(mixture.posterior(given).mean, again.mean)
    one = Measurement(given.values[1:], given.mask[1:], given.noise_std[1:])
    torch.testing.assert_close(mixture.posterior(one).mean, again.mean[1:], rtol=1e-9, atol=1e-9)


def test_single_precision_signals_keep_their_dtype_and_nearly_the_value(
    mixture: GaussianMixturePrior,
) -> None:
    x = fields(mixture)
    single = mixture.score(x.float(), 0.3)
    assert single.dtype == torch.float32
    # Rounding of the signal, times the largest eigenvalue of the precision, 1 / 0.3^2.
    torch.testing.assert_close(single.double(), mixture.score(x, 0.3), atol=1e-5, rtol=1e-5)


def test_what_does_not_fit_is_refused(mixture: GaussianMixturePrior) -> None:
    one = mixture.components[0]
    with pytest.raises(InputError, match="at least one"):
        GaussianMixturePrior([], [])
    for weights in ([0.5, 0.0], [1.0], [0.5, math.nan]):
        with pytest.raises(InputError, match="positive number for each of the 2"):
            GaussianMixturePrior([one, one], weights)
    with pytest.raises(InputError, match="means have shape"):
        GaussianMixturePrior([one], [1.0], mixture.means)
    other = make_components(ImageDomain(2, 3))[0]
    with pytest.raises(InputError, match="one shape"):
        GaussianMixturePrior([one, other], [0.5, 0.5])
    values = torch.zeros(1, 2, 5)
    with pytest.raises(InputError, match="own domain"):
        mixture.posterior(Measurement(values, values == 0, torch.ones(())))
