"""What every operator promises, on every domain; and what is special about each."""

import json
import sys
import types
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from apsgeo import operators
from apsgeo.domains import (
    Domain,
    HEALPixDomain,
    ImageDomain,
    LatLonDomain,
    MeshDomain,
)
from apsgeo.domains.interpolation import interpolation
from apsgeo.errors import InputError, ModelError
from apsgeo.flows.flow import CouplingFlow
from apsgeo.gaussian import hybrid
from apsgeo.gaussian.draws import WhiteNoise
from apsgeo.gaussian.hybrid import HybridPrior
from apsgeo.gaussian.localised import LocalisedField, LocalisedPrior
from apsgeo.gaussian.matern import MaternField
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.systems import TOLERANCE, DirectSystem, IterativeSystem
from apsgeo.measurement import Measurement
from apsgeo.operators import (
    OPERATORS,
    Block,
    CellMeans,
    Compose,
    Downsample,
    Gaps,
    GaussianBlur,
    GaussianBlurs,
    Identity,
    LinearMap,
    Mask,
    OneOf,
    Operator,
    PointSample,
    RandomMask,
    SpectralTruncation,
    Stack,
    Swath,
)
from apsgeo.operators.blur import HEAT_TOLERANCE, HeatMap
from apsgeo.operators.linear import StackedMap
from apsgeo.operators.physics import from_physics, to_physics
from tests.cases import alike, numpy_seeded, rounding, seeded
from tests.places import PLACES, Place

CHANNELS = 2
DRAWS = 3000


def operator_cases(place: Place) -> dict[str, Operator]:
    points = PointSample(tuple(map(tuple, place.points)))
    blur = GaussianBlur(place.km)
    return {
        "mask": Mask(),
        "swath": Swath(width_km=place.km),
        "block": Block(count=2),
        "gaps": Gaps(width_km=place.km),
        "identity": Identity(),
        "downsample": Downsample(2),
        "gaussian-blur": blur,
        "point-sample": points,
        "spectral-truncation": SpectralTruncation(9),
        "compose": Compose((blur, Downsample(2))),
        "stack": Stack((Downsample(2), points)),
    }


FAMILIES = {GaussianBlurs.kind, OneOf.kind}  # have no map of their own: test_families.py
FEW = {CellMeans.kind}  # are on a few kinds of domain: test_cells.py
KINDS = [operator.kind for operator in OPERATORS if operator.kind not in FAMILIES | FEW]


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest) -> Place:
    return PLACES[request.param]


@pytest.fixture(params=KINDS)
def operator(place: Place, request: pytest.FixtureRequest) -> Operator:
    return operator_cases(place)[request.param]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def dense(linear: LinearMap) -> np.ndarray:
    """A, from what it does to each node."""
    return linear.forward(np.eye(CHANNELS * linear.num_nodes))


def observed(operator: Operator, domain: Domain) -> Tensor:
    """A mask (observation,) with some of the operator's observations missing."""
    generator = seeded(0)
    mask = operator.simulate(domain, generator)
    return mask & (torch.rand(mask.shape, generator=generator) < 0.8)


def prior_on(domain: Domain, km: float, which: type[GaussianPrior] = HybridPrior) -> Any:
    rng = numpy_seeded(0)
    shape = (CHANNELS, domain.num_nodes)
    loadings = torch.from_numpy(0.4 * rng.standard_normal((*shape, 4)))
    local = torch.from_numpy(rng.uniform(0.4, 1.0, shape))
    nugget = torch.full(shape, 0.1, dtype=torch.float64)
    if which is HybridPrior:
        return HybridPrior(MaternField(domain, 3 * km), loadings, local, nugget)
    field = LocalisedField(domain, 2 * km, 3 * km)
    return LocalisedPrior(field, loadings, local, nugget, global_weight=0.3, tapered_weight=0.5)


def measured(operator: Operator, domain: Domain, batch: int = 2) -> Measurement:
    linear = operator.on(domain)
    shape = (batch, CHANNELS, linear.num_observations)
    values = torch.where(observed(operator, domain), draw(*shape), torch.nan)
    return Measurement.of(values, 0.2 + 0.3 * draw(*shape[1:], seed=1).abs(), linear)


# --- every operator on every domain ------------------------------------------------------------


def test_every_listed_operator_is_tested() -> None:
    assert set(operator_cases(PLACES["image"])) == set(KINDS)
    assert len({*KINDS, *FAMILIES, *FEW}) == len(OPERATORS)


def test_adjoint(place: Place, operator: Operator) -> None:
    linear = operator.on(place.domain)
    x = draw(3, CHANNELS, linear.num_nodes)
    y = draw(3, CHANNELS, linear.num_observations, seed=1)
    left = (linear.apply(x) * y).sum((1, 2))
    right = (x * linear.adjoint(y)).sum((1, 2))
    size = float(linear.apply(x).norm() * y.norm())
    torch.testing.assert_close(left, right, rtol=0.0, atol=1e-13 * size)


def test_linear_and_the_same_in_any_batch(place: Place, operator: Operator) -> None:
    linear = operator.on(place.domain)
    x = draw(3, CHANNELS, linear.num_nodes)
    y = linear.apply(x)
    assert y.shape == (3, CHANNELS, linear.num_observations)
    torch.testing.assert_close(linear.apply(x[0:1] - 2.5 * x[1:2]), y[:1] - 2.5 * y[1:2])
    for i in range(3):
        torch.testing.assert_close(linear.apply(x[i : i + 1]), y[i : i + 1], rtol=1e-12, atol=1e-12)
    assert linear.apply(x.float()).dtype == torch.float32


def test_gradients_are_the_adjoint(place: Place, operator: Operator) -> None:
    linear = operator.on(place.domain)
    x = draw(2, CHANNELS, linear.num_nodes).requires_grad_()
    y = draw(2, CHANNELS, linear.num_observations, seed=1)
    (gradient,) = torch.autograd.grad((linear.apply(x) * y).sum(), x)
    torch.testing.assert_close(gradient, linear.adjoint(y))


def test_norm_is_the_largest_singular_value(place: Place, operator: Operator) -> None:
    linear = operator.on(place.domain)
    exact = np.linalg.norm(linear.forward(np.eye(linear.num_nodes)), 2)
    assert linear.norm() == pytest.approx(exact, rel=1e-4)


def test_matrix_is_what_apply_does(place: Place, operator: Operator) -> None:
    linear = operator.on(place.domain)
    for each in (linear, linear.scaled(draw(CHANNELS, linear.num_nodes, seed=2).abs())):
        matrix = each.to_matrix(CHANNELS)
        if matrix is not None:
            np.testing.assert_allclose(matrix.toarray(), dense(each), atol=1e-14)
        y = draw(2, CHANNELS, each.num_observations, seed=1)
        expected = y.flatten(1).numpy() @ dense(each)
        np.testing.assert_allclose(each.adjoint(y).flatten(1).numpy(), expected, atol=1e-12)


def test_config_round_trip(place: Place, operator: Operator) -> None:
    again = operators.from_config(json.loads(json.dumps(operator.to_config())))
    assert again == operator
    assert hash(again) == hash(operator)


def test_simulated_observations_are_of_the_operator(place: Place, operator: Operator) -> None:
    first, second = (operator.simulate(place.domain, seeded(7)) for _ in range(2))
    assert first.shape == (operator.on(place.domain).num_observations,)
    assert first.dtype == torch.bool
    assert torch.equal(first, second)


# --- the Gaussian posterior --------------------------------------------------------------------


def covariance_of(prior: GaussianPrior) -> np.ndarray:
    every = np.arange(prior.size)
    return prior.covariance(every, every)


def exact(prior: GaussianPrior, y: Measurement, i: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean, covariance and log evidence by dense algebra."""
    covariance = covariance_of(prior)
    seen = y.mask[i].flatten().numpy()
    matrix = dense(y.operator)[seen]
    gram = matrix @ covariance @ matrix.T
    gram += np.diag(y.noise_std[i].flatten().numpy()[seen] ** 2)
    gain = np.linalg.solve(gram, matrix @ covariance).T
    values = y.values[i].flatten().numpy()[seen]
    evidence = multivariate_normal(np.zeros(len(values)), gram).logpdf(values)
    return gain @ values, covariance - gain @ matrix @ covariance, evidence


@pytest.mark.parametrize("few", [0, 10**6], ids=["sparse", "dense"])
def test_posterior_is_exact(
    place: Place, operator: Operator, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hybrid, "_FEW", few)
    prior = prior_on(place.domain, place.km)
    y = measured(operator, place.domain)
    posterior = prior.posterior(y)
    mean, covariance, evidence = exact(prior, y, 1)
    np.testing.assert_allclose(posterior.mean[1].flatten().numpy(), mean, atol=1e-9)
    assert float(posterior.log_evidence()[1]) == pytest.approx(evidence, rel=1e-9, abs=1e-9)
    x = draw(2, CHANNELS, place.domain.num_nodes, seed=3)
    expected = multivariate_normal(mean, covariance).logpdf(x[1].flatten().numpy())
    assert float(posterior.log_prob(x)[1]) == pytest.approx(expected, rel=1e-8)
    precision = np.linalg.solve(covariance, x[1].flatten().numpy())
    np.testing.assert_allclose(
        posterior.precision_apply(x)[1].flatten().numpy(), precision, rtol=1e-6, atol=1e-6
    )
    energy = 0.5 * float(x[1].flatten() @ torch.from_numpy(precision))
    found = posterior.energy(torch.stack([0.0 * x, x, -2.0 * x]))
    assert found.shape == (3, 2)
    np.testing.assert_allclose(found[:, 1], [0.0, energy, 4.0 * energy], rtol=1e-6)
    nodes = np.array([3, prior.size - 1])
    at_mean, at_var = posterior.marginals_at(nodes)
    np.testing.assert_allclose(at_mean[1], mean[nodes], atol=1e-9)
    np.testing.assert_allclose(at_var[1], np.diag(covariance)[nodes], atol=1e-9)


@pytest.mark.same_bits
def test_values_under_the_mask_never_matter(place: Place, operator: Operator) -> None:
    y = measured(operator, place.domain)
    prior = prior_on(place.domain, place.km)
    for junk in (torch.nan, 1e30, -torch.inf):
        dirty = torch.where(y.mask, y.values, junk)
        again = Measurement(dirty, y.mask, y.noise_std, operator=y.operator)
        assert torch.equal(prior.posterior(y).mean, prior.posterior(again).mean)
        x = draw(2, CHANNELS, place.domain.num_nodes)
        assert torch.equal(y.log_likelihood(x), again.log_likelihood(x))


def test_draws_do_not_depend_on_the_batch(place: Place, operator: Operator) -> None:
    y = measured(operator, place.domain)
    prior = prior_on(place.domain, place.km)
    posterior = prior.posterior(y)
    noise = draw(3, 2, posterior.noise_dim)
    together = posterior.deviations(noise)
    alone = Measurement(y.values[1:], y.mask[1:], y.noise_std[1:], operator=y.operator)
    torch.testing.assert_close(
        prior.posterior(alone).deviations(noise[:, 1:]), together[:, 1:], rtol=1e-9, atol=1e-9
    )


@pytest.mark.parametrize("which", [HybridPrior, LocalisedPrior])
@pytest.mark.parametrize("kind", ["gaussian-blur", "downsample", "stack"])
def test_draws_have_the_exact_covariance(kind: str, which: type[GaussianPrior]) -> None:
    place = PLACES["regional"]
    prior = prior_on(place.domain, place.km, which)
    y = measured(operator_cases(place)[kind], place.domain, batch=1)
    posterior = prior.posterior(y)
    mean, covariance, evidence = exact(prior, y, 0)
    np.testing.assert_allclose(posterior.mean[0].flatten().numpy(), mean, atol=1e-9)
    assert float(posterior.log_evidence()[0]) == pytest.approx(evidence, rel=1e-9)
    draws = posterior.deviations(draw(DRAWS, 1, posterior.noise_dim)).flatten(1).numpy()
    # Six standard errors of a sample covariance (Isserlis), of each of 32 400 entries.
    spread = np.sqrt(np.diag(covariance))
    error = np.sqrt((np.outer(spread, spread) ** 2 + covariance**2) / DRAWS)
    assert (np.abs(draws.T @ draws / DRAWS - covariance) < 6 * error).all()
    # 48 draws: about 10 % each, and their mean varies as squares that are correlated do
    ratio = posterior.std().flatten().numpy() / spread
    correlated = np.mean((covariance / np.outer(spread, spread)) ** 2)
    assert abs(ratio.mean() - 1) < 5 * 0.5 * np.sqrt(2 / 48 * correlated) < 0.2


@pytest.mark.parametrize("kind", ["gaussian-blur", "spectral-truncation", "compose", "downsample"])
def test_conjugate_gradients_agree_with_the_factorization(kind: str) -> None:
    place = PLACES["healpix"]
    prior = prior_on(place.domain, place.km)
    operator = operator_cases(place)[kind]
    y = measured(operator, place.domain)
    parts = y.mask[0].flatten().numpy(), y.noise_std[0].flatten().numpy() ** 2
    direct = DirectSystem(prior, y.operator, *parts)
    iterative = IterativeSystem(prior, y.operator, *parts)
    data = numpy_seeded(0).standard_normal((len(parts[0]), 5))
    data[:, 3] = 0.0
    # the residual bounds the error: C^{1/2} A^T (A C A^T + R)^{-1} is at most 1 / (2 min R^{1/2})
    spread = np.sqrt(np.linalg.eigvalsh(covariance_of(prior))[-1])
    bound = TOLERANCE * np.linalg.norm(data[parts[0]], axis=0).max() * spread / 2
    error = np.abs(iterative.update(data) - direct.update(data)).max()
    bound /= np.sqrt(parts[1].min())
    assert error < bound
    alone = iterative.update(data[:, 1:2])
    np.testing.assert_allclose(alone, iterative.update(data)[:, 1:2], rtol=0.0, atol=bound)
    with pytest.raises(InputError, match="needs a factorization"):
        iterative.log_evidence(data)


def test_the_preconditioner_saves_most_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    domain = HEALPixDomain(8)
    prior = prior_on(domain, 1000.0)
    linear = GaussianBlur(700.0).on(domain)
    y = Measurement.of(draw(1, CHANNELS, domain.num_nodes), 0.03, linear)
    steps = []
    for factor in (1.0, 0.0):
        monkeypatch.setattr(linear, "response", lambda e, f=factor: f * HeatMap.response(linear, e))
        system = IterativeSystem(
            prior, linear, y.mask[0].flatten().numpy(), y.noise_std[0].flatten().numpy() ** 2
        )
        calls: list[int] = []
        inner = system._apply
        monkeypatch.setattr(system, "_apply", lambda c, i=inner, n=calls: (n.append(1), i(c))[1])
        system.solve(y.values[0].flatten()[:, None].numpy())
        steps.append(len(calls))
    assert steps[0] < steps[1] / 4, steps


def test_a_large_system_is_iterative_only_where_it_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    place = PLACES["image"]
    prior = prior_on(place.domain, place.km)
    monkeypatch.setattr(HybridPrior, "direct_entries", 10)
    monkeypatch.setattr(hybrid, "_FEW", 0)
    for kind, direct in (("downsample", True), ("mask", True), ("gaussian-blur", False)):
        posterior = prior.posterior(measured(operator_cases(place)[kind], place.domain))
        assert isinstance(posterior._groups[0].system, IterativeSystem) != direct


def test_standardized_anomalies() -> None:
    """A prior of x / s with the operator scaled by s is the prior of x with the operator."""
    place = PLACES["image"]
    prior = prior_on(place.domain, place.km)
    scale = 0.5 + draw(CHANNELS, place.domain.num_nodes).abs()
    y = measured(Downsample(2), place.domain)
    scaled = Measurement(y.values, y.mask, y.noise_std, operator=y.operator.scaled(scale))
    matrix = dense(y.operator) * scale.flatten().numpy()
    np.testing.assert_allclose(dense(scaled.operator), matrix, atol=1e-15)
    mean, _, evidence = exact(prior, scaled, 0)
    np.testing.assert_allclose(prior.posterior(scaled).mean[0].flatten().numpy(), mean, atol=1e-9)
    assert float(prior.posterior(scaled).log_evidence()[0]) == pytest.approx(evidence, rel=1e-9)
    with pytest.raises(InputError, match="scale has shape"):
        y.operator.scaled(torch.ones(3))


def test_the_default_measurement_is_of_the_nodes() -> None:
    place = PLACES["image"]
    prior = prior_on(place.domain, place.km)
    y = measured(Identity(), place.domain)
    plain = Measurement(y.values, y.mask, y.noise_std)
    noise = draw(2, 2, prior.noise_dim)
    for given in (y, plain):
        assert prior.posterior(given).noise_dim == prior.noise_dim
    alike(prior.posterior(y).mean, prior.posterior(plain).mean)
    alike(prior.posterior(y).std(), prior.posterior(plain).std())
    alike(prior.posterior(y).deviations(noise), prior.posterior(plain).deviations(noise))


# --- noise -------------------------------------------------------------------------------------


def test_noise_is_a_number_or_one_an_observation_or_one_a_measurement() -> None:
    linear = Downsample(2).on(PLACES["image"].domain)
    values = draw(2, 1, linear.num_observations)
    each = torch.rand(linear.num_observations) + 0.1
    for noise in (0.3, each, torch.tensor([0.1, 0.4])[:, None, None]):
        y = Measurement.of(values, noise, linear)
        expected = torch.as_tensor(noise, dtype=torch.float64).expand(values.shape)
        assert torch.equal(y.noise_std, expected)
        x = draw(2, 1, linear.num_nodes)
        normal = torch.distributions.Normal(linear.apply(x), expected)
        torch.testing.assert_close(
            y.log_likelihood(x), normal.log_prob(values).sum((1, 2)), rtol=1e-12, atol=0.0
        )


def test_two_instruments_with_different_noise() -> None:
    place = PLACES["regional"]
    coarse, points = Downsample(2).on(place.domain), PointSample(place.points)  # type: ignore[arg-type]
    both = Stack((Downsample(2), points)).on(place.domain)
    x = draw(1, CHANNELS, place.domain.num_nodes)
    first, second = coarse.apply(x), points.on(place.domain).apply(x)
    alike(both.apply(x), both.join(first, second))
    noise = both.join(0.5, torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64))
    assert noise.tolist() == pytest.approx([0.5] * coarse.num_observations + [0.1, 0.2, 0.3])
    # the two together, or one after the other: the posterior of the first is the second's prior
    prior = prior_on(place.domain, place.km)
    mean, covariance, _ = exact(prior, Measurement.of(first, 0.5, coarse), 0)
    matrix = dense(points.on(place.domain))
    gram = matrix @ covariance @ matrix.T + np.diag(np.tile([0.1, 0.2, 0.3], CHANNELS) ** 2)
    innovation = second.flatten().numpy() - matrix @ mean
    expected = mean + covariance @ matrix.T @ np.linalg.solve(gram, innovation)
    found = prior.posterior(Measurement.of(both.join(first, second), noise, both)).mean
    np.testing.assert_allclose(found.flatten().numpy(), expected, atol=1e-9)
    for parts in ((0.5,), (0.5, torch.ones(2))):
        with pytest.raises(InputError, match="parts were given|a part has shape"):
            both.join(*parts)


# --- each operator -----------------------------------------------------------------------------


@pytest.mark.parametrize("factor", [2, 4])
def test_downsample_is_the_mean_by_area(factor: int) -> None:
    for domain in (HEALPixDomain(8), ImageDomain(17, 16), LatLonDomain(*_grid(16, 32))):
        linear = Downsample(factor).on(domain)
        x, expected, coarse = draw(2, 1, domain.num_nodes).float(), None, domain
        expected = x
        for _ in range(factor // 2):
            expected, coarse = coarse.pool()(expected), coarse.coarse()
        # means of at most nine nodes, once or twice
        torch.testing.assert_close(linear.apply(x), expected, rtol=0.0, atol=rounding(18, x))
        assert linear.codomain == coarse
        mean = linear.apply(x.double()) @ coarse.areas
        torch.testing.assert_close(mean, x.double() @ domain.areas, rtol=1e-12, atol=1e-12)


def _grid(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    edge = 90 - 90 / rows
    return np.linspace(edge, -edge, rows), np.arange(columns) * 360 / columns


def test_blur_is_the_heat_kernel(place: Place) -> None:
    domain = place.domain
    linear = GaussianBlur(place.km).on(domain)
    areas = domain.areas.numpy()
    time = (place.km / domain.radius_km) ** 2 / 2
    root = np.sqrt(areas)
    symmetric = domain.stiffness.toarray() / root[:, None] / root
    kernel = scipy.linalg.expm(-time * symmetric) * root / root[:, None]
    found = linear.forward(np.eye(domain.num_nodes))
    # in the norm of the areas the error is that of an eigenvalue
    error = root[:, None] * (found - kernel) / root
    assert np.linalg.norm(error, 2) < HEAT_TOLERANCE
    weighted = areas[:, None] * found
    np.testing.assert_allclose(weighted, weighted.T, atol=1e-12 * weighted.max())
    np.testing.assert_allclose(found.sum(1), 1.0, atol=1e-12)


@pytest.mark.parametrize(
    ("domain", "length"),
    [
        (ImageDomain(41, 41), 4.0),
        (HEALPixDomain(32), 900.0),
        (LatLonDomain(*_grid(60, 120)), 900.0),
    ],
    ids=["image", "healpix", "latlon"],
)
def test_blur_length_is_a_standard_deviation_everywhere(domain: Domain, length: float) -> None:
    """A point is drawn out to a mean square distance of 2 length^2: two directions."""
    places = domain.positions.numpy() * domain.radius_km
    start = domain.num_nodes // 2  # the image's middle, the equator
    unit = np.zeros((domain.num_nodes, 1))
    unit[start] = 1 / domain.areas.numpy()[start]
    density = GaussianBlur(length).on(domain).forward(unit)[:, 0]
    square = ((places - places[start]) ** 2).sum(1)
    spread = float((domain.areas.numpy() * density) @ square)
    # chords and curvature: 1 - exp(-2 t) in place of 2 t on the sphere, 2 % at this length
    assert spread == pytest.approx(2 * length**2, rel=0.03)


def test_projection(place: Place) -> None:
    domain = place.domain
    linear = SpectralTruncation(7).on(domain)
    basis = domain.eigenbasis(7)[1].numpy()
    np.testing.assert_allclose(linear.forward(basis), basis, atol=1e-9)
    x = numpy_seeded(0).standard_normal((domain.num_nodes, 2))
    once = linear.forward(x)
    np.testing.assert_allclose(linear.forward(once), once, atol=1e-9)
    areas = domain.areas.numpy()[:, None]
    np.testing.assert_allclose(basis.T @ (areas * (x - once)), 0.0, atol=1e-9)


def test_points_are_exact_where_interpolation_is() -> None:
    image = ImageDomain(9, 8)
    row, column = image.positions.numpy().T
    points = np.array([[0.7, 1.1], [4.25, 7.5], [8.5, 3.9]])
    np.testing.assert_allclose(
        interpolation(image, points) @ (2 * row - column), points @ [2, -1], atol=1e-12
    )
    mesh = PLACES["mesh"].domain
    assert isinstance(mesh, MeshDomain)
    corners = mesh.vertices[mesh.faces[[0, 11, 57]]]
    inside = (corners * np.array([0.5, 0.2, 0.3])[:, None]).sum(1)
    weights = interpolation(mesh, inside)
    np.testing.assert_allclose(weights @ mesh.vertices, inside, atol=1e-12)
    # above an edge, and beyond it
    sheet = MeshDomain([[0, 0], [1, 0], [0, 1], [1, 1]], [[0, 1, 2], [1, 3, 2]])
    weights = interpolation(sheet, [[-0.1, 0.25], [0.5, 0.5], [1.2, 1.2]])
    expected = np.array([[0.75, 0.0, 0.25, 0.0], [0.0, 0.5, 0.5, 0.0], [0.0, 0.0, 0.0, 1.0]])
    np.testing.assert_allclose(weights.toarray(), expected, atol=1e-12)
    grid = LatLonDomain(*_grid(12, 24))
    sine = grid.positions.numpy()[:, 2]
    found = interpolation(grid, [[grid.lat[3], grid.lon[5]], [grid.lat[3], 3.0]]) @ sine
    np.testing.assert_allclose(found, np.sin(np.deg2rad(grid.lat[3])))


@pytest.mark.parametrize("name", PLACES)
def test_at_the_nodes_points_are_the_nodes(name: str) -> None:
    domain = PLACES[name].domain
    positions = domain.positions.numpy()
    if name not in ("image", "mesh"):
        lat = np.rad2deg(np.arcsin(positions[:, 2].clip(-1, 1)))
        positions = np.stack([lat, np.rad2deg(np.arctan2(positions[:, 1], positions[:, 0]))], 1)
    matrix = interpolation(domain, positions)
    np.testing.assert_allclose(matrix.sum(1), 1.0)
    if name != "latlon":  # at a pole the mean of its nodes stands
        assert (matrix.diagonal() > 0.999).all()


@pytest.mark.parametrize("masks", [Mask(), Swath(), Block(), Block(count=3), Gaps()], ids=repr)
def test_masks_cover_the_share_asked_for(masks: RandomMask) -> None:
    domain = HEALPixDomain(16)
    share = (domain.areas / domain.areas.sum()).numpy()
    generator = seeded(0)
    for density in (0.05, 0.5, 0.9):
        covered = [
            share[masks.at_density(domain, density, generator).numpy()].sum() for _ in range(8)
        ]
        # one band of 1500 km is a share sin(750 / 6371) of the sphere: the most by which it is over
        assert density - 0.02 < np.mean(covered) < density + 0.12
    assert 0 < masks.simulate(domain, generator).sum() < domain.num_nodes


def test_a_swath_follows_a_great_circle_and_a_block_is_a_cap() -> None:
    domain = HEALPixDomain(16)
    generator = seeded(1)
    swath = domain.positions[Swath(width_km=1500.0).at_density(domain, 1e-3, generator)]
    normal = torch.linalg.svd(swath).Vh[-1]
    assert float((swath @ normal).abs().max()) <= 750 / 6371 + 1e-2
    assert float(swath.mean(0).norm()) < 0.05  # all the way round
    hidden = domain.positions[~Block().at_density(domain, 0.9, generator)]
    middle = hidden.mean(0) / hidden.mean(0).norm()
    # a cap of a tenth of the sphere reaches to cos = 0.8, and pixels are 3.7 degrees wide
    assert float((hidden @ middle).min()) > 0.8 - 0.06
    assert 0.1 <= len(hidden) / domain.num_nodes < 0.1 + 2 / domain.num_nodes


def test_compose_applies_the_first_first() -> None:
    domain = ImageDomain(9, 8)
    blur, coarse = GaussianBlur(2.0), Downsample(2)
    x = draw(1, 1, 72)
    expected = coarse.on(domain).apply(blur.on(domain).apply(x))
    torch.testing.assert_close(Compose((blur, coarse)).on(domain).apply(x), expected)
    inner = Compose((Identity(), coarse, Mask(0.2, 0.3)))
    assert inner.simulate(domain, seeded(0)).shape == (16,)
    assert Compose((Identity(), Mask())).on(domain).is_identity


# --- the flow ----------------------------------------------------------------------------------


def test_a_flow_is_conditioned_on_the_back_projected_innovation() -> None:
    domain = ImageDomain(8, 8)
    kept: list[Tensor] = []

    class Context(torch.nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            kept.append(features)
            return features

    base = WhiteNoise()
    flow = CouplingFlow(base, Context(), [])
    linear = Downsample(2).on(domain)
    y = Measurement.of(torch.where(draw(2, 1, 16) > 0, draw(2, 1, 16), torch.nan), 0.5, linear)
    posterior = base.posterior(y)
    given = flow.condition(posterior)
    assert given.mean.shape == (2, 1, 64)
    _, _, innovation, mask, noise = kept[0].split(1, dim=1)
    torch.testing.assert_close(innovation, linear.adjoint(y.values))
    torch.testing.assert_close(mask, linear.adjoint(y.mask.double()))
    torch.testing.assert_close(noise, np.log(0.5) * mask)


# --- deepinv -----------------------------------------------------------------------------------


class LinearPhysics:
    """What apsgeo needs of `deepinv.physics.LinearPhysics`."""

    def __init__(self, A: Any, A_adjoint: Any) -> None:
        self.A, self.A_adjoint = A, A_adjoint


def test_to_and_from_deepinv(monkeypatch: pytest.MonkeyPatch) -> None:
    package, module = types.ModuleType("deepinv"), types.ModuleType("deepinv.physics")
    module.LinearPhysics = LinearPhysics  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deepinv", package)
    monkeypatch.setitem(sys.modules, "deepinv.physics", module)
    domain = ImageDomain(9, 8)
    for operator in operator_cases(PLACES["image"]).values():
        linear = operator.on(domain)
        physics = to_physics(linear, (9, 8))
        x = draw(2, CHANNELS, 9, 8)
        torch.testing.assert_close(physics.A(x).flatten(2), linear.apply(x.flatten(2)))
        again = from_physics(physics, domain, (9, 8), CHANNELS)
        np.testing.assert_allclose(dense(again), dense(linear), atol=1e-14)
        y = draw(2, CHANNELS, linear.num_observations)
        torch.testing.assert_close(again.adjoint(y), linear.adjoint(y))
    with pytest.raises(InputError, match="does not hold the 72 nodes"):
        from_physics(physics, domain, (8, 8))
    with pytest.raises(InputError, match="does not hold the map's 72 nodes"):
        to_physics(linear, (8, 8))
    grey = LinearPhysics(lambda x: x.mean(1, keepdim=True), lambda y: y)
    with pytest.raises(InputError, match="2 channels into 1"):
        from_physics(grey, domain, (9, 8), 2)


def test_deepinv_is_asked_for_where_it_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "deepinv", None)
    with pytest.raises(InputError, match="pip install deepinv"):
        to_physics(Identity().on(ImageDomain(4, 4)), (4, 4))


# --- errors ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Mask(0.5, 0.1), "0 < least <= most <= 1"),
        (lambda: Swath(width_km=0.0), "positive width"),
        (lambda: Block(count=0), "one cap or more"),
        (lambda: Downsample(3), "choose 2 or 4"),
        (lambda: GaussianBlur(0.0), "positive length"),
        (lambda: GaussianBlur(float("nan")), "positive length"),
        (lambda: SpectralTruncation(0), "one eigenfunction or more"),
        (lambda: PointSample(()), "one point or more"),
        (lambda: PointSample(((1.0, 2.0), (1.0,))), "as many coordinates each"),
        (lambda: Compose(()), "one operator or more"),
        (lambda: Downsample(4).on(ImageDomain(5, 5)), "cannot be coarsened"),
        (lambda: SpectralTruncation(99).on(ImageDomain(5, 5)), "choose k"),
        (lambda: PointSample(((9.5, 1.0),)).on(ImageDomain(9, 8)), "off ImageDomain"),
        (lambda: PointSample(((1.0, 1.0, 1.0),)).on(ImageDomain(9, 8)), "row and column"),
        (lambda: PointSample(((100.0, 1.0),)).on(HEALPixDomain(4)), "latitude comes first"),
        (lambda: PointSample(((0.0, 50.0),)).on(PLACES["regional"].domain), "off LatLonDomain"),
        (lambda: PointSample(((9.0, 9.0, 9.0),)).on(PLACES["mesh"].domain), "off MeshDomain"),
        (lambda: PointSample(((float("nan"), 1.0),)).on(HEALPixDomain(4)), "finite"),
        (
            lambda: Compose((PointSample(((1.0, 1.0),)), Identity())).on(ImageDomain(9, 8)),
            "no signal on a domain",
        ),
        (lambda: Identity().on(ImageDomain(4, 4)).scaled(torch.ones(3, 3, 3)), "scale has shape"),
        (lambda: Downsample().on(ImageDomain(4, 4)).apply(torch.ones(2, 16)), "16 nodes was"),
        (lambda: Downsample().on(ImageDomain(4, 4)).adjoint(torch.ones(1, 2, 16)), "4 observa"),
        (
            lambda: Measurement.of(torch.ones(1, 1, 16), 0.1, Downsample().on(ImageDomain(4, 4))),
            "4 observations was expected",
        ),
    ],
)
def test_errors(make: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        make()


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ModelError, match=r"'nonsense'.*mask"):
        operators.from_config({"kind": "nonsense"})


def test_a_measurement_on_another_domain_is_refused() -> None:
    prior = prior_on(ImageDomain(9, 8), 2.0)
    y = measured(Downsample(2), ImageDomain(8, 8))
    with pytest.raises(InputError, match="own domain"):
        prior.posterior(y)


def test_stack_is_a_stacked_map() -> None:
    assert isinstance(Stack((Identity(), Identity())).on(ImageDomain(4, 4)), StackedMap)
