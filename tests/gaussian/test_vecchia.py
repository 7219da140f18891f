"""Vecchia's approximation of Gaussian posteriors against dense linear algebra."""

import pickle
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.spatial.distance import cdist
from scipy.stats import multivariate_normal
from sklearn.gaussian_process.kernels import ConstantKernel, Matern
from torch import Tensor

from apsgeo.domains import Domain, HEALPixDomain, LatLonDomain
from apsgeo.errors import InputError
from apsgeo.gaussian.dense import DensePrior
from apsgeo.gaussian.eofs import EOFs
from apsgeo.gaussian.kernel import KernelPrior
from apsgeo.gaussian.localised import (
    MOST_VALUES,
    LocalisedField,
    LocalisedPrior,
    gaspari_cohn,
    matern_correlation,
)
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.scales import LocalisedScales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.vecchia import VecchiaPosterior, VecchiaPrior
from apsgeo.measurement import Measurement
from apsgeo.operators import Downsample, GaussianBlur
from apsgeo.operators.linear import SparseMap
from tests.cases import alike, noise, numpy_seeded, rounding, seeded
from tests.places import PLACES

_ILL = 8192  # roundings, enlarged where nodes hardly differ, as about a pole
JITTER = 1e-5  # white share of the variance that the factors have


def extent(domain: Domain) -> float:
    """Greatest side of a box about the domain, in units of its positions."""
    return float(np.ptp(domain.positions.numpy(), axis=0).max())


def localised(domain: Domain, channels: int = 1, rank: int = 5) -> LocalisedPrior:
    """A prior of smooth patterns, a field that is as rough as the domain resolves, and a nugget."""
    rng, nodes = numpy_seeded(0), domain.num_nodes
    waves = domain.eigenbasis(rank)[1].double().numpy()
    size = rng.uniform(0.5, 1.5, (channels, 1, rank)) / (2 * rank**0.5)
    km = extent(domain) * domain.radius_km
    return LocalisedPrior(
        LocalisedField(domain, km / 3, km / 4),
        torch.from_numpy(size * waves / waves.std()),
        torch.from_numpy(rng.uniform(0.4, 1.0, (channels, nodes))),
        torch.full((channels, nodes), 0.1, dtype=torch.float64),
        global_weight=0.3,
        tapered_weight=0.7,
    )


def local(method: VecchiaPrior, measurement: Measurement) -> VecchiaPosterior:
    """The posterior of measurements that are of a few nodes each."""
    draws = method.posterior(measurement)
    assert isinstance(draws, VecchiaPosterior)
    return draws


def kernel(domain: Domain) -> KernelPrior:
    """A field without a nugget that is not differentiable, on top of a smoother one."""
    size = extent(domain)
    rough = ConstantKernel(0.3) * Matern(size / 4, nu=0.5)
    return KernelPrior(domain, rough + ConstantKernel(0.7) * Matern(size / 3, nu=1.5))


def dense(domain: Domain) -> DensePrior:
    every = np.arange(domain.num_nodes)
    matrix = kernel(domain).covariance(every, every) + 0.01 * np.eye(len(every))
    return DensePrior(domain, torch.from_numpy(matrix))


PRIORS: dict[str, Callable[[Domain], GaussianPrior]] = {
    "localised": localised,
    "two channels": lambda domain: localised(domain, 2),
    "kernel": kernel,
    "dense": dense,
}


@pytest.fixture(params=PLACES)
def domain(request: pytest.FixtureRequest) -> Domain:
    return PLACES[request.param].domain


@pytest.fixture(params=PRIORS)
def prior(request: pytest.FixtureRequest, domain: Domain) -> GaussianPrior:
    return PRIORS[request.param](domain)


def covariance(prior: GaussianPrior) -> np.ndarray:
    """The covariance (value, value) in the single precision that the blocks have."""
    return prior.covariance_blocks(torch.arange(prior.size)[None])[0].double().numpy()


def measure(
    prior: GaussianPrior, densities: tuple[float, ...] = (0.3, 0.05, 0.0, 1.0), seed: int = 1
) -> Measurement:
    """Records of fields of the prior, at some densities, with noise that differs by node."""
    shape = (len(densities), prior.channels, prior.domain.num_nodes)
    root = np.linalg.cholesky(covariance(prior) + 1e-6 * np.eye(prior.size))
    truth = torch.from_numpy(root @ noise(prior.size, len(densities), seed=seed).numpy())
    std = 0.2 + 0.3 * torch.rand(shape, generator=seeded(seed), dtype=torch.float64)
    values = truth.T.reshape(shape) + std * noise(*shape, seed=seed + 1)
    chance = torch.tensor(densities)[:, None, None]
    mask = torch.rand(shape, generator=seeded(seed + 2)) < chance
    return Measurement(values, mask, std, key=torch.arange(len(densities)) - 2)


def exact(prior: GaussianPrior, given: Measurement, record: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance given all that is observed in a record, by dense algebra."""
    matrix = covariance(prior)
    matrix += np.diag(JITTER * np.diag(matrix))
    linear = given.operator.to_matrix(prior.channels)
    assert linear is not None
    operator = linear.toarray()
    if given.scale is not None:
        operator = operator * given.scale[record].flatten().numpy()
    seen = given.mask[record].flatten().numpy()
    operator, noise_std = operator[seen], given.noise_std[record].flatten().numpy()[seen]
    cross = operator @ matrix
    gram = cross @ operator.T + np.diag(noise_std**2)
    gain = np.linalg.solve(gram, cross).T
    mean = gain @ given.values[record].double().flatten().numpy()[seen]
    return mean, matrix - gain @ cross


def root_of(draws: VecchiaPosterior, record: int = 0) -> np.ndarray:
    """The map L (value, value) from noise to the deviations of a record."""
    size, batch = draws.noise_dim, len(draws.measurement)
    unit = torch.eye(size)[:, None].expand(size, batch, size)
    return draws.deviations(unit)[:, record].flatten(1).double().numpy().T


def everything(prior: GaussianPrior) -> VecchiaPrior:
    """Give each block all observations; there is one block."""
    size = prior.size
    return VecchiaPrior(prior, observations=size, before=size, block=size)


def assert_is_exact(prior: GaussianPrior, given: Measurement) -> None:
    draws = local(everything(prior), given)
    fields = given.values.new_zeros(3, len(given), *given.shape[1:]) + draws.mean
    fields = fields + draws.deviations(noise(3, len(given), draws.noise_dim))
    density = draws.log_prob(fields)
    for t in range(len(given)):
        mean, expected = exact(prior, given, t)
        root = root_of(draws, t)
        # Cholesky factors of N values are exact to N eps of the matrix; the inverse of the noise's
        # variance of at least 0.04 multiplies that, and the size of the observations.
        error = rounding(prior.size) / 0.04
        most = float(given.values[t].abs().max())
        np.testing.assert_allclose(draws.mean[t].flatten(), mean, rtol=0, atol=error * most)
        np.testing.assert_allclose(root @ root.T, expected, rtol=0, atol=error)
        np.testing.assert_allclose(
            draws.std()[t].flatten() ** 2, np.diag(expected), rtol=0, atol=error
        )
        # the least eigenvalue divides the error of the matrix
        least = np.linalg.eigvalsh(expected)[0]
        truth = multivariate_normal(mean, expected, allow_singular=True)
        np.testing.assert_allclose(
            density[:, t],
            truth.logpdf(fields[:, t].flatten(1).numpy()),
            rtol=0,
            atol=rounding(4 * prior.size) * prior.size / least,
        )


def test_given_everything_it_is_the_exact_posterior(prior: GaussianPrior) -> None:
    assert_is_exact(prior, measure(prior))


@pytest.mark.parametrize("place", ["latlon", "regional", "image", "healpix"])
@pytest.mark.parametrize("channels", [1, 2])
def test_averages_of_scaled_values_are_conditioned_on_exactly(place: str, channels: int) -> None:
    prior = localised(PLACES[place].domain, channels)
    operator = Downsample(2).on(prior.domain)
    shape = (2, channels, operator.num_observations)
    scale = 0.5 + torch.rand(2, channels, prior.domain.num_nodes, generator=seeded(4)).double()
    mask = torch.rand(shape, generator=seeded(5)) < torch.tensor([0.4, 1.0])[:, None, None]
    std = 0.2 + 0.3 * torch.rand(shape, generator=seeded(6), dtype=torch.float64)
    given = Measurement(noise(*shape), mask, std, operator=operator, scale=scale)
    assert_is_exact(prior, given)


def divergence(draws: VecchiaPosterior, prior: GaussianPrior, record: int) -> float:
    """KL divergence of the draws' law from the exact posterior, in nats a value."""
    mean, expected = exact(prior, draws.measurement, record)
    root = root_of(draws, record)
    half = np.linalg.solve(root, np.linalg.cholesky(expected))
    away = np.linalg.solve(root, mean - draws.mean[record].double().flatten().numpy())
    logs = 2 * np.linalg.slogdet(half)[1]
    return float((half**2).sum() - prior.size + away @ away - logs) / (2 * prior.size)


def test_it_is_within_a_fiftieth_of_a_nat_of_the_exact_posterior(prior: GaussianPrior) -> None:
    given = measure(prior)
    draws = local(VecchiaPrior(prior), given)
    found = [divergence(draws, prior, t) for t in range(len(given))]
    assert max(found) < 0.02
    assert min(found) > -1e-3  # that of the rounding: it is an approximation, and none is below


@pytest.mark.parametrize(
    "large",
    [
        LatLonDomain(np.linspace(90, -90, 25), np.arange(0, 360, 7.5)),
        HEALPixDomain(8),
    ],
    ids=["latlon", "healpix"],
)
def test_it_stays_so_where_there_are_many_blocks(large: Domain) -> None:
    prior = localised(large)
    draws = local(VecchiaPrior(prior), measure(prior, (0.02, 0.3, 1.0)))
    assert len(draws.ordering.parts) == 2
    assert max(divergence(draws, prior, t) for t in range(3)) < 0.02


@pytest.mark.parametrize("channels", [1, 2])
def test_first_blocks_are_given_more_where_few_are_observed(channels: int) -> None:
    prior = localised(HEALPixDomain(8), channels)
    shape = (2, channels, prior.domain.num_nodes)
    mask = torch.zeros(shape, dtype=torch.bool)
    mask[0, :, ::10], mask[1, :, ::2] = True, True  # 77 and 384 in each channel
    given = Measurement(torch.zeros(shape), mask, torch.tensor(0.3))
    draws = local(VecchiaPrior(prior, observations=16), given)
    counts = [[factor.gain.shape[2] for factor in law.factors] for law in draws.laws]
    dense = 3 * draws.ordering.fine.nodes.shape[1] // 2  # thrice those of a block itself
    assert counts == [[64 * channels, 16 * channels], [dense, dense]]


@pytest.mark.parametrize("name", ["localised", "two channels"])
def test_density_is_that_of_its_draws(name: str) -> None:
    """N(mean, L L^T), with L as the draws have it: energy, constant and mean."""
    prior = PRIORS[name](HEALPixDomain(8))
    given = measure(prior, (0.3, 0.02))
    draws = local(VecchiaPrior(prior), given)
    white = noise(5, 2, draws.noise_dim)
    deviations = draws.deviations(white)
    # Each value went through as many products as there are values before it, in single precision.
    squares = white.square().sum(2) / 2
    torch.testing.assert_close(draws.energy(deviations), squares, rtol=1e-4, atol=0.0)
    for t in range(2):
        root = root_of(draws, t)
        constant = -np.linalg.slogdet(root)[1] - draws.noise_dim / 2 * np.log(2 * np.pi)
        assert float(draws.peak_log_prob()[t]) == pytest.approx(constant, abs=1e-3)
        found = draws.log_prob(draws.mean + deviations)[:, t]
        away = np.linalg.solve(root, deviations[:, t].flatten(1).numpy().T)
        np.testing.assert_allclose(found, constant - 0.5 * (away**2).sum(0), rtol=1e-4)


def test_energy_has_the_gradient_of_its_quadratic_form() -> None:
    prior = localised(PLACES["healpix"].domain)
    draws = local(VecchiaPrior(prior), measure(prior, (0.3,)))
    deviation = noise(1, *draws.mean.shape).requires_grad_()
    (found,) = torch.autograd.grad(draws.energy(deviation).sum(), deviation)
    root = root_of(draws)
    expected = np.linalg.solve(root @ root.T, deviation.detach().flatten().numpy())
    np.testing.assert_allclose(found.flatten(), expected, rtol=0, atol=1e-4 * abs(expected).max())


def test_nothing_observed_gives_the_prior(prior: GaussianPrior) -> None:
    draws = local(VecchiaPrior(prior), measure(prior, (0.0,)))
    assert float(draws.mean.abs().max()) == 0.0
    error = rounding(prior.size)
    if isinstance(prior, LocalisedPrior):
        # The chord of a node to itself is the root of a rounding of positions.
        away = np.sqrt(rounding(8)) * extent(prior.domain) * prior.domain.radius_km
        error += float(1 - matern_correlation(np.array(away / prior.field.range_km)))
    variance = prior.variance.flatten() * (1 + JITTER)
    np.testing.assert_allclose(draws.std().flatten() ** 2, variance, rtol=error)
    fields = noise(3, prior.channels, prior.domain.num_nodes)
    found, expected = VecchiaPrior(prior).log_prob(fields), draws.log_prob(fields[:, None])[:, 0]
    alike(found.float(), expected.float(), _ILL)  # its factors are in float32


def test_the_prior_is_asked_for_blocks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Anything of the size of the grid, for every few blocks, would cost its square."""
    prior = localised(HEALPixDomain(8))
    given, method = measure(prior, (0.3,)), VecchiaPrior(prior)
    for name in ("variance", "_weights"):
        monkeypatch.delattr(LocalisedPrior, name)
    assert bool(torch.isfinite(method.posterior(given).members(1, 0)).all())


@pytest.mark.same_bits
def test_values_under_the_mask_change_no_bit(prior: GaussianPrior) -> None:
    given, method = measure(prior), VecchiaPrior(prior)
    draws = method.posterior(given)
    for junk in (torch.nan, 1e30):
        dirty = torch.where(given.mask, given.values, junk)
        again = method.posterior(replace(given, values=dirty))
        for name in ("mean", "local_mean"):
            assert torch.equal(getattr(again, name), getattr(draws, name))
        assert torch.equal(again.members(2, 0), draws.members(2, 0))


def test_each_record_is_as_it_is_alone(prior: GaussianPrior) -> None:
    given, method = measure(prior), VecchiaPrior(prior)
    draws = method.posterior(given)
    members, fields = draws.members(3, 5), noise(*given.shape)
    for t in range(len(given)):
        alone = method.posterior(given[t : t + 1])
        bound = rounding(32 * prior.size, members)  # the batch decides the order of sums
        for name in ("mean", "local_mean"):
            one, together = getattr(alone, name)[0], getattr(draws, name)[t]
            torch.testing.assert_close(one, together, rtol=0, atol=bound)
        alike(alone.std()[0].float(), draws.std()[t].float(), _ILL)
        torch.testing.assert_close(alone.members(2, 5)[:, 0], members[:2, t], rtol=0, atol=bound)
        found = float(alone.log_prob(fields[t : t + 1]))
        assert found == pytest.approx(float(draws.log_prob(fields)[t]), rel=rounding(_ILL))
        white = noise(4, draws.noise_dim)
        expected = alone.deviations(white[:, None])[:, 0]
        alike(alone.shared_deviations(white).float(), expected.float(), prior.size)


def test_results_have_the_precision_of_the_measurement() -> None:
    prior = localised(PLACES["image"].domain)
    given = measure(prior)
    for each in (given, given.float()):
        draws, dtype = local(VecchiaPrior(prior), each), each.values.dtype
        results = [draws.mean, draws.local_mean, draws.std(), draws.members(2, 0)]
        results += [draws.peak_log_prob(), draws.functional_variance(torch.ones(1, prior.size))]
        results += [draws.log_prob(draws.members(2, 0))]
        assert [result.dtype for result in results] == [dtype] * len(results)


def test_variance_of_functionals_is_that_of_the_draws() -> None:
    prior = localised(PLACES["healpix"].domain)
    draws = local(VecchiaPrior(prior), measure(prior, (0.3,)))
    functionals, root = noise(4, prior.size), root_of(draws)
    expected = ((functionals.numpy() @ root) ** 2).sum(1)
    ratio = draws.functional_variance(functionals)[0].numpy() / expected
    assert np.abs(ratio - 1).max() < 5 * np.sqrt(2 / 128)  # standard errors of 128 draws


def test_a_seasonal_prior_gives_each_record_its_own() -> None:
    domain = PLACES["latlon"].domain
    nodes, scales = domain.num_nodes, LocalisedScales.start(domain)
    loadings = torch.from_numpy(0.3 * numpy_seeded(0).standard_normal((1, nodes, 4)))
    components = noise(60, 4)
    eofs = EOFs(loadings, components, torch.arange(60) % 3, 3).rounded()
    seasonal = SeasonalPrior(
        scales, scales.field(domain, noise(60, 1, nodes)), eofs, torch.ones(1, nodes).double()
    )
    given = replace(measure(seasonal.at(0), (0.3, 0.3)), season=torch.tensor([2, 0]))
    method = VecchiaPrior(seasonal)
    draws = method.posterior(given)
    for t, season in enumerate((2, 0)):
        alone = VecchiaPrior(seasonal.at(season)).posterior(given[t : t + 1])
        alike(draws.mean[t].float(), alone.mean[0].float(), _ILL)
    assert method.of(seasonal.at(0)).ordering is method.ordering
    sent = pickle.loads(pickle.dumps(method)).posterior(given)
    alike(sent.mean.float(), draws.mean.float(), _ILL)


def test_blocks_of_a_localised_covariance_are_those_of_its_definition(domain: Domain) -> None:
    prior = localised(domain, 2)
    chord = cdist(domain.positions.numpy(), domain.positions.numpy())
    taper_km, range_km = prior.field.taper_km, prior.field.range_km
    eofs = prior.loadings.flatten(0, 1).numpy()
    taper = gaspari_cohn(chord * domain.radius_km / taper_km)
    expected = (0.3 + 0.7 * np.tile(taper, (2, 2))) * (eofs @ eofs.T)
    smooth = (1 - 2e-5) * matern_correlation(chord * domain.radius_km / range_km)
    local = np.kron(np.eye(2), smooth + 2e-5 * np.eye(len(chord)))
    scale = prior.local_scale.flatten().numpy()
    expected += scale[:, None] * local * scale + np.diag(prior.nugget_std.flatten().numpy() ** 2)
    # Tables of 2^18 entries, looked up to an entry: the slopes are below 1.4 and 1 a range. A
    # chord of nodes that coincide is the root of a rounding; its correlation falls as its square.
    step = chord.max() * domain.radius_km * 2**-18
    error = step * (1.4 / range_km + 1 / taper_km) * abs(expected).max() + rounding(100, expected)
    np.testing.assert_allclose(covariance(prior), expected, rtol=0, atol=error)
    values = torch.stack([torch.randperm(prior.size, generator=seeded(t))[:9] for t in range(3)])
    for leading in (None, 4, 0):
        found = prior.covariance_blocks(values, leading)
        for each, rows in zip(found, values.numpy(), strict=True):
            part = expected[np.ix_(rows, rows[:leading])]
            np.testing.assert_allclose(each, part, rtol=0, atol=error)


def test_a_localised_prior_of_any_size_is_sampled_locally_only() -> None:
    domain = HEALPixDomain(64)
    nodes = domain.num_nodes
    assert nodes > MOST_VALUES
    pattern = domain.positions[None, :, :2].double() / 2
    prior = LocalisedPrior(
        LocalisedField(domain, 9000.0, 1000.0),
        pattern,
        torch.full((1, nodes), 0.8).double(),
        torch.full((1, nodes), 0.1).double(),
        global_weight=0.5,
        tapered_weight=0.5,
    )
    mask = torch.rand(1, 1, nodes, generator=seeded(0)) < 0.05
    given = Measurement(noise(1, 1, nodes).float(), mask, torch.tensor(0.3))
    draws = local(VecchiaPrior(prior), given)
    members = draws.members(2, 0)
    assert bool(torch.isfinite(members).all())
    assert float((members - draws.mean)[:, mask].std()) < float((members - draws.mean).std())
    block = np.arange(0, nodes, nodes // 5)
    assert prior.covariance(block, block).shape == (6, 6)
    exactly: list[Callable[[], object]] = [
        lambda: prior.posterior(given).mean,
        lambda: prior.draw(np.zeros((1, 1))),
        lambda: prior.field.matern_full,
        lambda: prior.covariance_apply(np.zeros((nodes, 1))),
    ]
    for call in exactly:
        with pytest.raises(InputError, match="VecchiaPrior"):
            call()


def test_operators_that_are_not_local_have_the_exact_posterior() -> None:
    place = PLACES["healpix"]
    prior, nodes = localised(place.domain), place.domain.num_nodes
    mean = SparseMap(sp.csr_array(np.full((1, nodes), 1 / nodes)))
    for operator in (GaussianBlur(place.km).on(place.domain), mean):
        given = Measurement.of(operator.apply(noise(1, 1, nodes)), 0.3, operator)
        found, expected = VecchiaPrior(prior).posterior(given), prior.posterior(given)
        assert torch.equal(found.mean, expected.mean)
        assert torch.equal(found.members(2, seed=0), expected.members(2, seed=0))


def test_measurements_on_another_domain_are_refused() -> None:
    method = VecchiaPrior(localised(PLACES["image"].domain))
    values: Tensor = torch.zeros(1, 1, 5)
    with pytest.raises(InputError, match="own domain"):
        method.posterior(Measurement(values, values == 0, torch.ones(())))
