"""Random fields: the Matern correlation, the likelihood, moved gaps, and recovered parameters."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.stats import chi2, multivariate_normal

from apsgeo.domains import ImageDomain, LatLonDomain
from apsgeo.gaussian.random_field.cases import gap_cases, ordered_cases
from apsgeo.gaussian.random_field.coordinates import bumps_of, coordinates_of
from apsgeo.gaussian.random_field.correlation import matern
from apsgeo.gaussian.random_field.fit import FieldSpec, fit_terms, log_likelihood
from apsgeo.gaussian.random_field.prior import RandomFieldPrior
from apsgeo.gaussian.random_field.terms import Terms
from tests.cases import numpy_seeded, rounding

_TABLE = 2e-6  # of the correlation's table: the square of a step in log distance, over eight


@pytest.mark.parametrize(
    ("smoothness", "closed"),
    [
        (0.5, lambda u: np.exp(-2.0 * u)),
        (1.5, lambda u: (1.0 + np.sqrt(12.0) * u) * np.exp(-np.sqrt(12.0) * u)),
    ],
)
def test_the_matern_correlation_is_the_closed_form(
    smoothness: float, closed: Callable[[np.ndarray], np.ndarray]
) -> None:
    ratio = torch.logspace(-3, 1, 200)
    found = matern(ratio, torch.tensor(smoothness))
    expected = closed(ratio.double().numpy())
    assert np.abs(found.numpy() - expected).max() < _TABLE + rounding(4)
    assert matern(torch.zeros(1), torch.tensor(smoothness)).item() == 1.0


def test_the_matern_correlation_has_the_slopes_of_its_values() -> None:
    ratio = torch.logspace(-2, 0.5, 40).requires_grad_()
    nu, step = torch.tensor(0.8, requires_grad=True), 1e-2
    weight = torch.linspace(-1, 1, 40)
    (weight * matern(ratio, nu)).sum().backward()
    with torch.no_grad():
        changed = [matern(ratio, nu + sign * step).double() for sign in (1, -1)]
        moved = [matern(ratio * (1 + sign * step), nu).double() for sign in (1, -1)]
        by_nu = (weight * (changed[0] - changed[1])).sum() / (2 * step)
        by_ratio = weight * (moved[0] - moved[1]) / (2 * step * ratio)
    # a central difference errs by step^2 / 6 third derivatives, which are of order ten here
    assert nu.grad is not None
    assert ratio.grad is not None
    assert abs(float(nu.grad - by_nu)) < 20 * step**2
    assert float((ratio.grad - by_ratio).abs().max() / by_ratio.abs().max()) < 20 * step**2


def _terms(dims: int, bumps: int = 1) -> Terms:
    generator = np.random.default_rng(3)  # any fixed numbers will do

    def normal(*shape: int) -> torch.Tensor:
        return torch.from_numpy(0.3 * generator.standard_normal(shape)).float()

    return Terms(
        log_std=normal(2) - 0.3,
        log_range=torch.log(torch.tensor([8.0, 3.0])),
        log_smoothness=torch.log(torch.tensor([0.6, 1.4])),
        stretch=normal(2, dims, dims),
        log_nugget=torch.tensor(-1.5),
        local_std=normal(2, bumps),
        local_range=normal(2, bumps),
    )


@pytest.mark.parametrize("records", [1, 2])
def test_the_likelihood_is_the_dense_one_if_all_earlier_values_are_given(records: int) -> None:
    rng = numpy_seeded(0)
    domain = ImageDomain(8, 9)
    place = coordinates_of(domain)
    values = np.where(rng.random((records, 72)) < 0.7, rng.standard_normal((records, 72)), np.nan)
    bumps = bumps_of(place, place, 4)
    terms = _terms(2, 4)
    trend = torch.from_numpy(np.c_[np.ones(72), place[:, 0] / 5]).float()
    noise_var = np.full(values.shape, 0.01)
    cases = ordered_cases(place, values, noise_var, 10_000, 72, rng)
    found = log_likelihood(terms, cases, torch.from_numpy(place).float(), bumps, trend)
    full = RandomFieldPrior(domain, terms, bumps, trend)
    expected = 0.0
    for row in values:
        seen = np.flatnonzero(np.isfinite(row))
        matrix = full.covariance(seen, seen)
        # the jitter that single precision needs is a part of the model
        own = np.diag(matrix) - np.exp(2 * float(terms.log_nugget))
        matrix += np.diag(0.01 + 3e-5 * own)
        expected += multivariate_normal(np.zeros(len(seen)), matrix).logpdf(row[seen])
    # float32 entries of size 3 against a least eigenvalue of 0.06
    count = int(np.isfinite(values).sum())
    assert abs(found - expected) < rounding(count * count, 3.0 / 0.06)


def test_the_covariance_is_positive_definite_where_ranges_follow_the_place() -> None:
    domain = LatLonDomain(np.linspace(-80, 80, 9), np.arange(0, 360, 24.0))
    place = coordinates_of(domain)
    bumps = bumps_of(place, place, 8)
    terms = _terms(3, 8).tensors()
    terms["log_range"] = torch.log(torch.tensor([6000.0, 2000.0]))
    terms["local_range"] = 3 * terms["local_range"]
    prior = RandomFieldPrior(domain, Terms(**terms), bumps, torch.zeros(len(place), 1))
    every = np.arange(len(place))
    matrix = prior.covariance(every, every)
    np.testing.assert_allclose(matrix, matrix.T, rtol=0, atol=rounding(8, matrix))
    np.testing.assert_allclose(np.diag(matrix), prior.variance[0], rtol=1e-5)
    nugget = float(torch.exp(2 * prior.terms.log_nugget))
    assert np.linalg.eigvalsh(matrix)[0] > nugget - len(place) * (_TABLE + rounding(8, matrix))


def test_moved_gaps_hide_what_is_as_far_as_in_the_gaps() -> None:
    rng = numpy_seeded(1)
    domain = ImageDomain(40, 50)
    place = coordinates_of(domain)
    row, column = np.divmod(np.arange(2000), 50)
    gap = (np.hypot(row - 12, column - 15) < 7) | (np.hypot(row - 30, column - 38) < 5)
    values = np.where(gap, np.nan, rng.standard_normal(2000))[None]
    valid, noise_var = np.ones(2000, dtype=bool), np.zeros((1, 2000))
    cases = gap_cases(place, values, noise_var, valid, 300, 20, 3, rng)
    assert cases is not None
    node, known = cases.node.numpy(), cases.known.numpy()
    assert np.isfinite(values[0, node[known]]).all()
    assert (node[:, :1] != np.where(known, node, -1)[:, 1:]).all()
    np.testing.assert_allclose(cases.weight.sum(), (~gap).sum(), rtol=1e-5)
    away = np.linalg.norm(place[node[:, 0]] - place[node[:, 1]], axis=1)
    seen, hidden = np.flatnonzero(~gap), np.flatnonzero(gap)
    wanted = np.linalg.norm(place[hidden][:, None] - place[seen], axis=2).min(1)
    assert 0.7 < away.mean() / wanted.mean() < 1.4
    assert away.max() > 0.6 * wanted.max()


def test_parameters_of_a_simulated_field_are_recovered_within_their_sampling_error() -> None:
    rng = numpy_seeded(2)
    domain = ImageDomain(26, 26)
    place = coordinates_of(domain)
    bumps, trend = torch.ones(len(place), 1), torch.zeros(len(place), 1)
    truth = Terms(
        log_std=torch.zeros(1),
        log_range=torch.log(torch.tensor([9.0])),
        log_smoothness=torch.log(torch.tensor([0.8])),
        stretch=torch.tensor([[[0.3, 0.2], [0.2, -0.3]]]),
        log_nugget=torch.log(torch.tensor(0.2)),
        local_std=torch.zeros(1, 1),
        local_range=torch.zeros(1, 1),
    )
    drawn = RandomFieldPrior(domain, truth, bumps, trend).draw(rng.standard_normal((676, 1)))
    values = np.where(rng.random(676) < 0.8, drawn[:, 0], np.nan)[None]
    spec = FieldSpec(terms=1, bumps=1, neighbours=20, steps=60, batch=350)
    noise_var, valid = np.zeros(values.shape), np.ones(676, dtype=bool)
    found, _ = fit_terms(place, values, noise_var, valid, trend, spec, progress=False)
    cases = ordered_cases(place, values, noise_var, 10_000, 60, rng)
    where = torch.from_numpy(place).float()
    gain = log_likelihood(found, cases, where, bumps, trend)
    gain -= log_likelihood(truth, cases, where, bumps, trend)
    # twice the gain over the truth is chi-square with a degree of freedom a free number
    assert -1.0 < 2 * gain < chi2(6).isf(1e-5)
    assert abs(float(found.log_range - truth.log_range)) < 1.0
