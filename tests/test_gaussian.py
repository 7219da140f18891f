"""The Gaussian prior and its posterior against dense linear algebra."""

import numpy as np
import pytest
import torch
from scipy.sparse.linalg import spsolve
from scipy.spatial.distance import cdist
from scipy.special import k1
from scipy.stats import multivariate_normal, norm

from apsgeo.domains import LatLonDomain
from apsgeo.errors import InputError
from apsgeo.operators import Mask, Measurement
from apsgeo.priors.gaussian import GaussianPosterior
from apsgeo.priors.gaussian_fit import (
    HybridScales,
    LocalisedScales,
    Scales,
    contiguous_folds,
    empirical_orthogonal_functions,
    fit_gaussian,
    select_scales,
)
from apsgeo.priors.hybrid import HybridPrior
from apsgeo.priors.localised import LocalisedPrior, gaspari_cohn, matern_correlation
from apsgeo.priors.matern import MaternField
from apsgeo.priors.registry import gaussian_from_state

DRAWS = 4000
# The localised covariance is interpolated in a table, to about (step of the table)^2 = 6e-8.
RELATIVE = {HybridPrior: 1e-9, LocalisedPrior: 1e-6}
Prior = HybridPrior | LocalisedPrior


@pytest.fixture(scope="module")
def domain() -> LatLonDomain:
    return LatLonDomain(np.linspace(90, -90, 9), np.arange(0, 360, 30.0))


@pytest.fixture(scope="module", params=[HybridPrior, LocalisedPrior])
def prior(domain: LatLonDomain, request: pytest.FixtureRequest) -> Prior:
    rng = np.random.default_rng(0)
    nodes = domain.num_nodes
    loadings = torch.from_numpy(0.4 * rng.standard_normal((2, nodes, 5)))
    local = torch.from_numpy(rng.uniform(0.4, 1.0, (2, nodes)))
    nugget = torch.full((2, nodes), 0.1, dtype=torch.float64)
    if request.param is HybridPrior:
        return HybridPrior(MaternField(domain, 6000.0), loadings, local, nugget)
    return LocalisedPrior(
        domain,
        loadings,
        local,
        nugget,
        global_weight=0.3,
        tapered_weight=0.5,
        taper_km=4000.0,
        range_km=6000.0,
    )


def dense(prior: Prior) -> np.ndarray:
    """The covariance, from the definition."""
    loadings = prior.loadings.flatten(0, 1).numpy()
    eofs, scale = loadings @ loadings.T, prior.local_scale.flatten().numpy()
    if isinstance(prior, HybridPrior):
        local = np.linalg.inv(prior.matern.precision.toarray())
    else:
        chord = cdist(prior.domain.positions.numpy(), prior.domain.positions.numpy())
        km = 6371.0 * chord
        taper = np.kron(np.ones((2, 2)), gaspari_cohn(km / 4000.0))
        eofs = eofs * (0.3 + 0.5 * taper)
        local = matern_correlation(km / 6000.0)
    blocks = np.kron(np.eye(prior.channels), local)
    nugget = np.diag(prior.nugget_std.flatten().numpy() ** 2)
    return eofs + scale[:, None] * blocks * scale + nugget


@pytest.fixture(scope="module")
def measured(prior: Prior) -> Measurement:
    rng = np.random.default_rng(1)
    shape = (3, prior.channels, prior.domain.num_nodes)
    values = torch.from_numpy(rng.standard_normal(shape))
    mask = torch.from_numpy(rng.random(shape) < 0.3)
    return Measurement(values, mask, torch.from_numpy(rng.uniform(0.2, 0.5, shape)))


def exact(prior: Prior, measured: Measurement, index: int) -> tuple[np.ndarray, ...]:
    """Mean, covariance and log evidence by dense algebra."""
    covariance = dense(prior)
    seen = measured.mask[index].flatten().numpy()
    noise = measured.noise_std[index].flatten().numpy()[seen]
    y = measured.values[index].flatten().numpy()[seen]
    gram = covariance[np.ix_(seen, seen)] + np.diag(noise**2)
    gain = np.linalg.solve(gram, covariance[seen]).T
    evidence = multivariate_normal(np.zeros(len(y)), gram).logpdf(y)
    return gain @ y, covariance - gain @ covariance[seen], evidence


def test_matern_variance_is_that_of_its_precision(domain: LatLonDomain) -> None:
    field = MaternField(domain, 5000.0)
    np.testing.assert_allclose(field.variance, np.diag(np.linalg.inv(field.precision.toarray())))


def test_matern_correlation_follows_the_closed_form() -> None:
    """On a fine grid, the correlation is (kappa d) K_1(kappa d), the Matern form for nu = 1."""
    domain = LatLonDomain(np.linspace(90, -90, 73), np.arange(0, 360, 2.5))
    field = MaternField(domain, 4000.0)
    start = 36 * 144
    unit = np.zeros((domain.num_nodes, 1))
    unit[start] = 1.0
    column = spsolve(field.precision, unit)[start : start + 10]
    distance = field.kappa * np.deg2rad(2.5) * np.arange(1, 10)
    # The variance at zero distance is that of a cell, an error of second order in its size.
    np.testing.assert_allclose(column[1:] / column[0], distance * k1(distance), atol=0.012)


def test_log_prob_and_score(prior: Prior) -> None:
    rng = np.random.default_rng(2)
    x = torch.from_numpy(rng.standard_normal((4, 2, prior.domain.num_nodes))).requires_grad_()
    covariance = dense(prior)
    expected = multivariate_normal(np.zeros(len(covariance)), covariance).logpdf(
        x.detach().flatten(1).numpy()
    )
    value = prior.log_prob(x)
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=RELATIVE[type(prior)])
    (gradient,) = torch.autograd.grad(value.sum(), x)
    solved = -np.linalg.solve(covariance, x.detach().flatten(1).numpy().T).T
    np.testing.assert_allclose(
        gradient.flatten(1).numpy(), solved, rtol=100 * RELATIVE[type(prior)], atol=1e-5
    )
    np.testing.assert_allclose(
        prior.score(x).detach().flatten(1).numpy(),
        solved,
        rtol=100 * RELATIVE[type(prior)],
        atol=1e-5,
    )


def test_denoiser_is_the_posterior_mean_and_its_own_adjoint(prior: Prior) -> None:
    rng = np.random.default_rng(3)
    x = torch.from_numpy(rng.standard_normal((2, 2, prior.domain.num_nodes))).requires_grad_()
    covariance = dense(prior)
    shrunk = covariance @ np.linalg.inv(covariance + 0.25 * np.eye(len(covariance)))
    out = prior.denoise(x, 0.5)
    np.testing.assert_allclose(
        out.detach().flatten(1).numpy(),
        x.detach().flatten(1).numpy() @ shrunk.T,
        atol=RELATIVE[type(prior)],
    )
    weight = torch.from_numpy(rng.standard_normal(out.shape))
    (gradient,) = torch.autograd.grad((out * weight).sum(), x)
    np.testing.assert_allclose(
        gradient.flatten(1).numpy(), weight.flatten(1).numpy() @ shrunk, atol=RELATIVE[type(prior)]
    )
    spread = np.sqrt(np.trace(covariance - shrunk @ covariance) / len(covariance))
    assert prior.denoise_std(0.5) == pytest.approx(spread, rel=0.05)


@pytest.mark.parametrize("index", [0, 2])
def test_posterior_is_exact(prior: Prior, measured: Measurement, index: int) -> None:
    mean, covariance, evidence = exact(prior, measured, index)
    posterior = prior.posterior(measured)
    np.testing.assert_allclose(
        posterior.mean[index].flatten().numpy(), mean, atol=RELATIVE[type(prior)]
    )
    assert float(posterior.log_evidence()[index]) == pytest.approx(
        evidence, rel=RELATIVE[type(prior)]
    )
    x = measured.values + 0.3
    expected = multivariate_normal(mean, covariance).logpdf(x[index].flatten().numpy())
    assert float(posterior.log_prob(x)[index]) == pytest.approx(
        expected, rel=10 * RELATIVE[type(prior)]
    )


def test_posterior_draws_have_the_exact_covariance(prior: Prior, measured: Measurement) -> None:
    one = Measurement(measured.values[:1], measured.mask[:1], measured.noise_std[:1])
    _, covariance, _ = exact(prior, measured, 0)
    noise = torch.randn(DRAWS, 1, prior.noise_dim, generator=torch.Generator().manual_seed(0))
    draws = prior.posterior(one).deviations(noise).flatten(1).numpy()
    # Five standard errors of a sample covariance, entry by entry (Isserlis).
    spread = np.sqrt(np.diag(covariance))
    error = np.sqrt((np.outer(spread, spread) ** 2 + covariance**2) / DRAWS)
    assert (np.abs(draws.T @ draws / DRAWS - covariance) < 5 * error).all()
    # 48 draws: the standard deviation of one estimate is about 10 %.
    ratio = prior.posterior(one).std().flatten().numpy() / spread
    assert abs(ratio.mean() - 1) < 0.03
    assert (np.abs(ratio - 1) < 0.5).all()


def test_nothing_observed_returns_the_prior(prior: Prior) -> None:
    shape = (1, 2, prior.domain.num_nodes)
    nothing = Measurement(torch.zeros(shape), torch.zeros(shape, dtype=torch.bool), torch.ones(()))
    posterior = prior.posterior(nothing)
    assert float(posterior.mean.abs().max()) == 0.0
    assert float(posterior.log_evidence()) == pytest.approx(0.0, abs=1e-8)
    torch.testing.assert_close(posterior.std()[0], prior.variance.sqrt().float())


def test_values_under_the_mask_never_matter(prior: Prior, measured: Measurement) -> None:
    dirty = torch.where(measured.mask, measured.values, torch.nan)
    again = Measurement(dirty, measured.mask, measured.noise_std)
    assert torch.equal(prior.posterior(measured).mean, prior.posterior(again).mean)


def test_batch_does_not_matter(prior: Prior, measured: Measurement) -> None:
    noise = torch.randn(4, 3, prior.noise_dim, generator=torch.Generator().manual_seed(0))
    together = prior.posterior(measured).deviations(noise)
    for index in range(3):
        part = slice(index, index + 1)
        one = Measurement(measured.values[part], measured.mask[part], measured.noise_std[part])
        alone = prior.posterior(one).deviations(noise[:, part])
        torch.testing.assert_close(together[:, part], alone, rtol=1e-9, atol=1e-9)


def test_measurement_on_another_domain_is_refused(prior: Prior) -> None:
    values = torch.zeros(1, 2, 5)
    with pytest.raises(InputError, match="own domain"):
        GaussianPosterior(prior, Measurement(values, values == 0, torch.ones(())))


@pytest.mark.parametrize("scales", [HybridScales(), LocalisedScales()])
def test_saved_prior_is_the_same(domain: LatLonDomain, scales: Scales) -> None:
    fields = torch.randn(30, 1, domain.num_nodes, generator=torch.Generator().manual_seed(0))
    fitted = fit_gaussian(scales.field(domain), fields, scales, rank=10)
    config, tensors = fitted.to_state()
    again = gaussian_from_state(config, tensors, domain)
    torch.testing.assert_close(again.log_prob(fields), fitted.log_prob(fields), rtol=1e-5, atol=0.0)


def test_eofs_diagonalize_the_sample_covariance(domain: LatLonDomain) -> None:
    fields = torch.randn(20, 1, domain.num_nodes, generator=torch.Generator().manual_seed(0))
    loadings = empirical_orthogonal_functions(domain, fields, 19)[0]
    weights = domain.areas / domain.areas.sum()
    gram = loadings.T @ (weights[:, None] * loadings)
    variances = torch.diag(gram)
    torch.testing.assert_close(gram, torch.diag(variances), atol=1e-9, rtol=0.0)
    assert bool((variances.diff() < 0).all())
    sample = (fields[:, 0].double().T @ fields[:, 0].double()) / 20
    full = empirical_orthogonal_functions(domain, fields, 20)[0]
    missing = sample - full @ full.T  # the twentieth pattern, which rank < times leaves out
    assert float(torch.linalg.matrix_norm(missing, 2)) <= float(torch.linalg.matrix_norm(sample, 2))


@pytest.mark.parametrize("scales", [HybridScales(), LocalisedScales()])
def test_fitted_prior_has_the_data_variance(domain: LatLonDomain, scales: Scales) -> None:
    scale = torch.linspace(0.5, 2.0, domain.num_nodes)
    fields = scale * torch.randn(
        40, 1, domain.num_nodes, generator=torch.Generator().manual_seed(0)
    )
    fitted = fit_gaussian(scales.field(domain), fields, scales, rank=10)
    torch.testing.assert_close(fitted.variance, (fields.double() ** 2).mean(0), rtol=2e-3, atol=0.0)


def test_select_scales_finds_the_range_that_made_the_fields() -> None:
    domain = LatLonDomain(np.linspace(82.5, -82.5, 12), np.arange(0, 360, 15.0))
    truth = MaternField(domain, 5000.0)
    white = np.random.default_rng(0).standard_normal((domain.num_nodes, 60))
    fields = torch.from_numpy(truth.sample(white).T[:, None] / np.sqrt(truth.variance))
    found = select_scales(
        domain, fields, HybridScales(), folds=2, rank=5, max_evaluations=20, progress=False
    )
    # The search starts at 2250 km; 24 held-out fields pin the range to a fifth or so.
    assert 4000 < found.range_km < 6500
    assert found.eof_weight < 0.5


def test_too_short_a_history_is_refused(domain: LatLonDomain) -> None:
    with pytest.raises(InputError, match="at least three complete fields"):
        fit_gaussian(
            MaternField(domain, 5000.0), torch.zeros(2, 1, domain.num_nodes), HybridScales()
        )


def test_contiguous_folds_are_blocks_of_about_equal_length() -> None:
    fold = contiguous_folds(10, 4)
    assert fold.tolist() == sorted(fold.tolist())
    assert max(fold.bincount()) - min(fold.bincount()) <= 1


def test_masks_observe_in_proportion_to_area(domain: LatLonDomain) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([Mask.at_density(domain, 0.2, generator) for _ in range(DRAWS)])
    share = (0.2 * domain.areas / domain.areas.mean()).clamp(max=1.0)
    error = (share * (1 - share) / DRAWS).sqrt()
    limit = norm.isf(0.0005 / domain.num_nodes)
    assert bool(((draws.double().mean(0) - share).abs() <= limit * error).all())
    with pytest.raises(InputError, match="0 < least <= most <= 1"):
        Mask(least=0.5, most=0.1)


def test_taper_is_the_published_one() -> None:
    """Values of Gaspari & Cohn's function: one at zero, 5/24 at one, zero from two on."""
    np.testing.assert_allclose(
        gaspari_cohn(np.array([0.0, 1.0, 2.0, 3.0])), [1.0, 5 / 24, 0.0, 0.0], atol=1e-12
    )


def test_scales_are_decoded_as_encoded() -> None:
    for scales in (HybridScales(0.4, 1800.0, 2e-3), LocalisedScales(0.8, 0.3, 3000.0, 900.0, 1e-3)):
        again = type(scales).decode(scales.encode())
        np.testing.assert_allclose(list(vars(again).values()), list(vars(scales).values()))
