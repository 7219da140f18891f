"""The Gaussian prior and its posterior against dense linear algebra."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import kv
from scipy.stats import multivariate_normal, norm

from apsgeo.domains import LatLonDomain
from apsgeo.errors import InputError, ModelError
from apsgeo.gaussian.drift.added import AddedPatterns
from apsgeo.gaussian.eofs import EOFs, empirical_orthogonal_functions
from apsgeo.gaussian.fit import (
    contiguous_folds,
    fit_gaussian,
    select_scales,
)
from apsgeo.gaussian.hybrid import HybridPrior
from apsgeo.gaussian.localised import (
    LocalisedField,
    LocalisedPrior,
    gaspari_cohn,
    matern_correlation,
)
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.matern import LocalField, MaternField, MaternSum
from apsgeo.gaussian.scales import (
    HybridScales,
    LocalisedScales,
    Scales,
    TwoRangeScales,
    from_config,
    to_config,
)
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.measurement import Measurement
from apsgeo.metrics.scores import crps_normal
from apsgeo.operators import Downsample, Mask
from tests.cases import numpy_seeded, rounding, seeded

DRAWS = 4000
# The localised prior's Matern correlation is interpolated in a table, to about (step of the
# table)^2 = 6e-8, and kept in single precision, to 6e-8; the inverse multiplies both.
RELATIVE = {HybridPrior: 1e-9, LocalisedPrior: 4e-6, LowRankPrior: 1e-9, AddedPatterns: 4e-6}
Prior = HybridPrior | LocalisedPrior | LowRankPrior | AddedPatterns


@pytest.fixture(scope="module")
def domain() -> LatLonDomain:
    return LatLonDomain(np.linspace(90, -90, 9), np.arange(0, 360, 30.0))


@pytest.fixture(
    scope="module", params=["hybrid", "two-range hybrid", "localised", "low-rank", "added"]
)
def prior(domain: LatLonDomain, request: pytest.FixtureRequest) -> Prior:
    rng = numpy_seeded(0)
    nodes = domain.num_nodes
    loadings = torch.from_numpy(0.4 * rng.standard_normal((2, nodes, 5)))
    local = torch.from_numpy(rng.uniform(0.4, 1.0, (2, nodes)))
    nugget = torch.full((2, nodes), 0.1, dtype=torch.float64)
    if request.param == "low-rank":
        return LowRankPrior(domain, loadings, 0.4)
    if request.param == "hybrid":
        return HybridPrior(MaternField(domain, 6000.0), loadings, local, nugget)
    if request.param == "two-range hybrid":
        return HybridPrior(two_ranges(domain), loadings, local, nugget)
    localised = LocalisedPrior(
        LocalisedField(domain, 4000.0, 6000.0),
        loadings,
        local,
        nugget,
        global_weight=0.3,
        tapered_weight=0.5,
    )
    if request.param == "localised":
        return localised
    patterns = torch.from_numpy(0.3 * rng.standard_normal((2, nodes, 2)))
    return AddedPatterns(localised, patterns)


def two_ranges(domain: LatLonDomain) -> MaternSum:
    return MaternSum([MaternField(domain, 3000.0, 2), MaternField(domain, 8000.0, 2)], [0.3, 0.7])


def covariance_of(field: LocalField) -> np.ndarray:
    basis = field.basis.toarray()
    return basis @ np.linalg.inv(field.precision.toarray()) @ basis.T


def dense(prior: Prior) -> np.ndarray:
    """The covariance, from the definition."""
    if isinstance(prior, AddedPatterns):
        patterns = prior.patterns.flatten(0, 1).numpy()
        assert isinstance(prior.prior, LocalisedPrior)
        return dense(prior.prior) + patterns @ patterns.T
    loadings = prior.loadings.flatten(0, 1).numpy()
    if isinstance(prior, LowRankPrior):
        return loadings @ loadings.T + prior.white_std**2 * np.eye(len(loadings))
    eofs, scale = loadings @ loadings.T, prior.local_scale.flatten().numpy()
    if isinstance(prior, HybridPrior):
        local = covariance_of(prior.matern)
    else:
        chord = cdist(prior.domain.positions.numpy(), prior.domain.positions.numpy())
        factor = prior.field.taper
        eofs = eofs * (0.3 + 0.5 * np.kron(np.ones((2, 2)), factor @ factor.T))
        local = (1 - 2e-5) * matern_correlation(6371.0 * chord / 6000.0) + 2e-5 * np.eye(len(chord))
    blocks = np.kron(np.eye(prior.channels), local)
    nugget = np.diag(prior.nugget_std.flatten().numpy() ** 2)
    return eofs + scale[:, None] * blocks * scale + nugget


@pytest.fixture(scope="module")
def measured(prior: Prior) -> Measurement:
    rng = numpy_seeded(1)
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


@pytest.mark.parametrize("smoothness", [1, 2, 3])
def test_matern_variance_is_that_of_its_precision(domain: LatLonDomain, smoothness: int) -> None:
    field = MaternField(domain, 5000.0, smoothness)
    # kept in float32
    np.testing.assert_allclose(field.variance, np.diag(covariance_of(field)), rtol=rounding(1))


@pytest.mark.parametrize("smoothness", [1, 2, 3])
def test_matern_draws_and_covariance_are_those_of_the_precision(
    domain: LatLonDomain, smoothness: int
) -> None:
    field = MaternField(domain, 5000.0, smoothness)
    expected = covariance_of(field)
    root = field.sample(np.eye(field.basis.shape[1]))
    np.testing.assert_allclose(root @ root.T, expected, atol=1e-9)
    every = np.eye(domain.num_nodes)
    np.testing.assert_allclose(field.covariance_apply(every), expected, atol=1e-9)


def test_matern_variance_is_accurate_where_meridians_meet() -> None:
    """One degree from the pole, a cell is a sixtieth of its height wide."""
    cap = LatLonDomain(np.linspace(90, 71, 20), np.arange(0, 360, 1.0))
    field = MaternField(cap, 2000.0, 2)
    some = np.array([0, 400, 3600])
    unit = np.zeros((cap.num_nodes, 3))
    unit[some, [0, 1, 2]] = 1.0
    exact = field.covariance_apply(unit)[some, [0, 1, 2]]
    np.testing.assert_allclose(field.variance[some], exact, rtol=1e-6)


def test_a_sum_of_fields_has_the_sum_of_their_covariances(domain: LatLonDomain) -> None:
    total, every = two_ranges(domain), np.eye(domain.num_nodes)
    parts = [MaternField(domain, 3000.0, 2), MaternField(domain, 8000.0, 2)]
    short, long = (part.covariance_apply(every) for part in parts)
    expected = 0.3 * short + 0.7 * long
    np.testing.assert_allclose(total.covariance_apply(every), expected, atol=1e-9)
    # each part's, and the sum, kept in float32
    np.testing.assert_allclose(total.variance, np.diag(expected), rtol=rounding(2))
    root = total.sample(np.eye(total.basis.shape[1]))
    np.testing.assert_allclose(root @ root.T, expected, atol=1e-9)
    eigenvalues = np.array([0.0, 6.0])
    shares = 0.3 * parts[0].spectrum(eigenvalues) + 0.7 * parts[1].spectrum(eigenvalues)
    np.testing.assert_allclose(total.spectrum(eigenvalues), shares)


@pytest.mark.parametrize("smoothness", [1, 2])
def test_matern_correlation_follows_the_closed_form(smoothness: int) -> None:
    """On a fine grid, it is 2^{1 - nu} / Gamma(nu) (kappa d)^nu K_nu(kappa d)."""
    domain = LatLonDomain(np.linspace(90, -90, 73), np.arange(0, 360, 2.5))
    field = MaternField(domain, 4000.0, smoothness)
    start = 36 * 144
    unit = np.zeros((domain.num_nodes, 1))
    unit[start] = 1.0
    column = field.covariance_apply(unit)[start : start + 10, 0]
    distance = field.kappa * np.deg2rad(2.5) * np.arange(1, 10)
    # The variance at zero distance is that of a cell, an error of second order in its size.
    form = distance**smoothness * kv(smoothness, distance) * 2.0 ** (1 - smoothness)
    np.testing.assert_allclose(column[1:] / column[0], form, atol=0.012)


def test_log_prob_and_score(prior: Prior) -> None:
    rng = numpy_seeded(2)
    x = torch.from_numpy(rng.standard_normal((4, 2, prior.domain.num_nodes))).requires_grad_()
    covariance = dense(prior)
    expected = multivariate_normal(np.zeros(len(covariance)), covariance).logpdf(
        x.detach().flatten(1).numpy()
    )
    value = prior.log_prob(x)
    np.testing.assert_allclose(value.detach().numpy(), expected, rtol=RELATIVE[type(prior)])
    (gradient,) = torch.autograd.grad(value.sum(), x)
    solved = -np.linalg.solve(covariance, x.detach().flatten(1).numpy().T).T
    error = 10 * RELATIVE[type(prior)] * abs(solved).max()
    for found in (gradient, prior.score(x).detach()):
        np.testing.assert_allclose(found.flatten(1).numpy(), solved, rtol=0.0, atol=error)


def test_denoiser_is_the_posterior_mean_and_its_own_adjoint(prior: Prior) -> None:
    rng = numpy_seeded(3)
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


def test_posterior_of_an_average_is_exact(prior: Prior) -> None:
    operator = Downsample(2).on(prior.domain)
    values = operator.apply(torch.ones(1, 2, prior.domain.num_nodes, dtype=torch.float64))
    posterior = prior.posterior(Measurement.of(values, 0.3, operator))
    unit = torch.eye(prior.size, dtype=torch.float64).reshape(prior.size, 2, -1)
    matrix, covariance = operator.apply(unit).flatten(1).numpy().T, dense(prior)
    gram = matrix @ covariance @ matrix.T + 0.09 * np.eye(len(matrix))
    y = values.flatten().numpy()
    np.testing.assert_allclose(
        posterior.mean.flatten().numpy(),
        covariance @ matrix.T @ np.linalg.solve(gram, y),
        atol=RELATIVE[type(prior)],
    )
    evidence = multivariate_normal(np.zeros(len(y)), gram).logpdf(y)
    assert float(posterior.log_evidence()) == pytest.approx(evidence, rel=RELATIVE[type(prior)])


def test_low_rank_denoiser_and_its_spread_are_exact_at_every_level(domain: LatLonDomain) -> None:
    loadings = torch.from_numpy(numpy_seeded(0).standard_normal((1, domain.num_nodes, 4)))
    prior = LowRankPrior(domain, torch.cat([loadings, loadings], -1), 0.2)  # of rank four
    covariance, x = dense(prior), prior.sample(2, seeded(0)).double()
    for noise_std in (1e-4, 0.3, 50.0):
        noisy = covariance + noise_std**2 * np.eye(len(covariance))
        gain = np.linalg.solve(noisy, covariance)
        np.testing.assert_allclose(
            prior.denoise(x, noise_std).flatten(1).numpy(), x.flatten(1).numpy() @ gain, atol=1e-9
        )
        spread = noise_std * np.sqrt(np.trace(gain) / len(gain))
        assert prior.denoise_std(noise_std) == pytest.approx(spread, rel=1e-9)
        truth = multivariate_normal(np.zeros(len(noisy)), noisy).logpdf(x.flatten(1).numpy())
        np.testing.assert_allclose(prior.log_prob(x, noise_std).numpy(), truth, rtol=1e-9)


def test_low_rank_prior_of_what_does_not_fit_is_refused(domain: LatLonDomain) -> None:
    loadings = torch.zeros(1, domain.num_nodes, 2)
    for given, white_std in ((loadings, 0.0), (loadings[:, 1:], 0.1), (loadings[0], 0.1)):
        with pytest.raises(InputError, match="loadings have shape"):
            LowRankPrior(domain, given, white_std)


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
    noise = torch.randn(DRAWS, 1, prior.noise_dim, generator=seeded(0))
    draws = prior.posterior(one).deviations(noise).flatten(1).numpy()
    # Six standard errors of a sample covariance (Isserlis), of each of 46 656 entries.
    spread = np.sqrt(np.diag(covariance))
    error = np.sqrt((np.outer(spread, spread) ** 2 + covariance**2) / DRAWS)
    assert (np.abs(draws.T @ draws / DRAWS - covariance) < 6 * error).all()
    # 48 draws: about 10 % each, and their mean varies as squares that are correlated do.
    ratio = prior.posterior(one).std().flatten().numpy() / spread
    correlated = np.mean((covariance / np.outer(spread, spread)) ** 2)
    assert abs(ratio.mean() - 1) < 5 * 0.5 * np.sqrt(2 / 48 * correlated) < 0.2
    assert (np.abs(ratio - 1) < 0.5).all()


def test_marginals_at_nodes_are_exact(prior: Prior, measured: Measurement) -> None:
    nodes = np.array([7, 3, prior.size - 1])
    mean, var = prior.posterior(measured).marginals_at(nodes)
    for index in range(len(measured.values)):
        expected, covariance, _ = exact(prior, measured, index)
        np.testing.assert_allclose(mean[index], expected[nodes], atol=RELATIVE[type(prior)])
        np.testing.assert_allclose(
            var[index], np.diag(covariance)[nodes], atol=RELATIVE[type(prior)]
        )


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
    noise = torch.randn(4, 3, prior.noise_dim, generator=seeded(0))
    together = prior.posterior(measured).deviations(noise)
    for index in range(3):
        part = slice(index, index + 1)
        one = Measurement(measured.values[part], measured.mask[part], measured.noise_std[part])
        alone = prior.posterior(one).deviations(noise[:, part])
        torch.testing.assert_close(together[:, part], alone, rtol=1e-9, atol=1e-9)


def test_measurement_on_another_domain_is_refused(prior: Prior) -> None:
    values = torch.zeros(1, 2, 5)
    with pytest.raises(InputError, match="own domain"):
        prior.posterior(Measurement(values, values == 0, torch.ones(())))


@pytest.mark.parametrize("scales", [HybridScales(), TwoRangeScales(), LocalisedScales()])
def test_saved_prior_is_the_same(domain: LatLonDomain, scales: Scales) -> None:
    fields = torch.randn(30, 1, domain.num_nodes, generator=seeded(0))
    season = torch.arange(30) % 3
    field = scales.field(domain, fields)
    fitted = fit_gaussian(field, fields, scales, rank=10, season=season, seasons=3)
    config, tensors = fitted.to_state()
    again = SeasonalPrior.from_state(json.loads(json.dumps(config)), tensors, domain)
    sent = pickle.loads(pickle.dumps(fitted))
    for copied in (again, sent):
        torch.testing.assert_close(
            copied.log_prob(fields, season), fitted.log_prob(fields, season), rtol=1e-5, atol=0.0
        )


def test_eofs_diagonalize_the_sample_covariance(domain: LatLonDomain) -> None:
    fields = torch.randn(20, 1, domain.num_nodes, generator=seeded(0))
    loadings = empirical_orthogonal_functions(domain, fields, 19).loadings[0]
    weights = domain.areas / domain.areas.sum()
    gram = loadings.T @ (weights[:, None] * loadings)
    variances = torch.diag(gram)
    torch.testing.assert_close(gram, torch.diag(variances), atol=1e-9, rtol=0.0)
    assert bool((variances.diff() < 0).all())
    sample = (fields[:, 0].double().T @ fields[:, 0].double()) / 20
    full = empirical_orthogonal_functions(domain, fields, 20).loadings[0]
    missing = sample - full @ full.T  # the twentieth pattern, which rank < times leaves out
    assert float(torch.linalg.matrix_norm(missing, 2)) <= float(torch.linalg.matrix_norm(sample, 2))


@pytest.mark.parametrize(
    ("scales", "inflation"),
    [(HybridScales(), 1.0), (TwoRangeScales(inflation=1.3), 1.3), (LocalisedScales(), 1.0)],
)
def test_fitted_prior_has_the_data_variance(
    domain: LatLonDomain, scales: Scales, inflation: float
) -> None:
    scale = torch.linspace(0.5, 2.0, domain.num_nodes)
    fields = scale * torch.randn(40, 1, domain.num_nodes, generator=seeded(0))
    fitted = fit_gaussian(scales.field(domain, fields), fields, scales, rank=10)
    torch.testing.assert_close(
        fitted.annual.variance, inflation * (fields.double() ** 2).mean(0), rtol=2e-3, atol=0.0
    )


def test_select_scales_finds_the_range_that_made_the_fields() -> None:
    domain = LatLonDomain(np.linspace(82.5, -82.5, 12), np.arange(0, 360, 15.0))
    truth = MaternField(domain, 5000.0)
    white = numpy_seeded(0).standard_normal((truth.basis.shape[1], 60))
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
    generator = seeded(0)
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
    for scales in (
        HybridScales(0.4, 1800.0, 2e-3, 0.3),
        LocalisedScales(0.8, 0.3, 3000.0, 900.0, 1e-3, 0.6),
    ):
        again = type(scales).decode(scales.encode())
        np.testing.assert_allclose(list(vars(again).values()), list(vars(scales).values()))


def test_taper_is_a_correlation_close_to_the_published_one() -> None:
    domain = LatLonDomain(np.linspace(90, -90, 19), np.arange(0, 360, 10.0))
    field = LocalisedField(domain, 4000.0, 1500.0)
    taper = field.taper @ field.taper.T
    chord = cdist(domain.positions.numpy(), domain.positions.numpy())
    np.testing.assert_allclose(np.diag(taper), 1.0)
    # What the factor leaves out is one per cent of the variance on average.
    assert np.abs(taper - gaspari_cohn(6371.0 * chord / 4000.0)).max() < 0.05
    assert field.taper.shape[1] < domain.num_nodes / 4


def test_crps_of_a_normal_is_that_of_many_draws() -> None:
    draws = numpy_seeded(0).normal(1.0, 2.0, 200_000)
    expected = np.abs(draws - 2.5).mean() - 0.5 * np.abs(draws[::2] - draws[1::2]).mean()
    found = crps_normal(np.array(1.0), np.array(2.0), np.array(2.5))
    # The standard error of the two means is 2 / sqrt(200 000) each.
    assert float(found) == pytest.approx(expected, abs=5 * 2 * 2 / 200_000**0.5)


def seasonal_eofs(domain: LatLonDomain) -> tuple[EOFs, torch.Tensor, torch.Tensor]:
    """A history whose first half of the year varies in one pattern, the second in another."""
    generator = seeded(0)
    season = torch.arange(240) % 12
    patterns = torch.randn(2, domain.num_nodes, generator=generator)
    amplitude = torch.randn(240, 1, generator=generator)
    fields = (amplitude * patterns[(season >= 6).long()])[:, None]
    return empirical_orthogonal_functions(domain, fields, 2, season, 12), fields, season


def test_eofs_follow_the_season(domain: LatLonDomain) -> None:
    eofs, fields, season = seasonal_eofs(domain)
    for month in (2, 8):  # three months from the change: the kernel reaches one
        found = eofs.at(month, share=1.0)[0]
        kernel = torch.exp(
            -0.5 * torch.minimum((season - month).abs(), 12 - (season - month).abs()).double() ** 2
        )
        part = fields[:, 0].double() * kernel.sqrt()[:, None]
        expected = part.T @ part / kernel.sum()
        error = rounding(4, expected)  # both loadings of a product are kept in float32
        torch.testing.assert_close(found @ found.T, expected, rtol=0.0, atol=error)
    every = eofs.loadings[0]
    annual = eofs.at(2, share=0.0)[0]
    torch.testing.assert_close(annual @ annual.T, every @ every.T, atol=1e-9, rtol=1e-9)
    mean = sum(eofs.at(m, share=1.0)[0] @ eofs.at(m, share=1.0)[0].T for m in range(12)) / 12
    torch.testing.assert_close(mean, every @ every.T, atol=1e-9, rtol=1e-9)


def test_rounded_eofs_are_what_is_saved(domain: LatLonDomain) -> None:
    eofs = seasonal_eofs(domain)[0]
    once = eofs.rounded()
    twice = once.rounded()
    assert torch.equal(once.loadings, twice.loadings)
    assert torch.equal(once.components, twice.components)
    step = eofs.loadings.abs().amax((0, 1)) / 127
    assert bool(((once.loadings - eofs.loadings).abs() <= 0.5001 * step).all())


@pytest.mark.parametrize("scales", [HybridScales(), TwoRangeScales(), LocalisedScales()])
def test_each_field_meets_the_prior_of_its_season(domain: LatLonDomain, scales: Scales) -> None:
    _, fields, season = seasonal_eofs(domain)
    noisy = fields + 0.3 * torch.randn(fields.shape, generator=seeded(1))
    field = scales.field(domain, noisy)
    prior = fit_gaussian(field, noisy, scales, rank=10, season=season, seasons=12)
    mask = torch.rand(fields[:3].shape, generator=seeded(2)) < 0.3
    measured = Measurement(noisy[:3].double(), mask, torch.full_like(mask, 0.3, dtype=torch.double))
    together = prior.posterior(replace(measured, season=torch.tensor([7, 1, 7])))
    noise = torch.randn(2, 3, prior.annual.noise_dim, generator=seeded(3))
    deviations = together.deviations(noise)
    for index, month in enumerate((7, 1, 7)):
        one = Measurement(
            *(part[index : index + 1] for part in (measured.values, mask, measured.noise_std))
        )
        alone = prior.at(month).posterior(one)
        torch.testing.assert_close(together.mean[index : index + 1], alone.mean)
        torch.testing.assert_close(together.std()[index : index + 1], alone.std())
        torch.testing.assert_close(
            deviations[:, index : index + 1], alone.deviations(noise[:, index : index + 1])
        )
        value = together.log_prob(noisy[:3].double())[index : index + 1]
        torch.testing.assert_close(value, alone.log_prob(noisy[index : index + 1].double()))
    assert not torch.allclose(prior.at(7).posterior(one).mean, prior.at(1).posterior(one).mean)


@pytest.mark.parametrize(
    ("kind", "length"),
    [(HybridScales, "range_km"), (TwoRangeScales, "long_km"), (LocalisedScales, "range_km")],
)
def test_scales_start_in_proportion_to_the_domain(
    domain: LatLonDomain, kind: type[Scales], length: str
) -> None:
    lat, lon = np.linspace(40.5, 49.5, 10), np.linspace(0.5, 9.5, 10)
    region = LatLonDomain(lat, lon)
    sphere, small = getattr(kind.start(domain), length), getattr(kind.start(region), length)
    assert sphere == pytest.approx(getattr(kind(), length), rel=0.1)
    share = float(region.areas.sum() / domain.areas.sum())
    assert small / sphere == pytest.approx(share**0.5)


@pytest.mark.parametrize("scales", [HybridScales(0.3), TwoRangeScales(0.3), LocalisedScales(0.3)])
def test_scales_survive_their_configuration(scales: Scales) -> None:
    assert from_config(json.loads(json.dumps(to_config(scales)))) == scales


def test_a_covariance_of_another_version_is_named() -> None:
    with pytest.raises(ModelError, match="covariance's kind is 'wavelets'.*knows: hybrid,"):
        from_config({"kind": "wavelets"})
