"""The flow on the prior's patterns, the dense prior behind it, and its training on true modes."""

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo.domains import LatLonDomain
from apsgeo.errors import InputError
from apsgeo.flows.attention import ObservationEncoder
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.gaussian.dense import DensePrior
from apsgeo.gaussian.posterior import GaussianPosterior
from apsgeo.measurement import Measurement
from apsgeo.operators import Downsample
from tests.cases import seed_weights, seeded

PATTERNS, MEMBERS, BATCH, NODES = 6, 3, 2, 30
# Of float64: a few hundred sums and products of numbers below 100 err by 1e-12 at most.
EXACT = 1e-10


@pytest.fixture(scope="module")
def domain() -> LatLonDomain:
    return LatLonDomain(np.linspace(80, -80, 5), np.arange(0, 360, 60.0))


@pytest.fixture(scope="module")
def prior(domain: LatLonDomain) -> DensePrior:
    root = torch.randn(NODES, NODES, generator=seeded(0), dtype=torch.float64)
    return DensePrior(domain, root @ root.T / NODES + 0.1 * torch.eye(NODES))


def posterior(prior: DensePrior, batch: int = BATCH) -> GaussianPosterior:
    """Return the posterior of measurements in float64."""
    generator = seeded(1)
    shape = (batch, 1, prior.size)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) < 0.3
    return prior.posterior(Measurement(values, mask, torch.full(shape, 0.3, dtype=torch.float64)))


def draws(found: GaussianPosterior) -> Tensor:
    shape = (MEMBERS, len(found.mean), found.noise_dim)
    return found.deviations(torch.randn(shape, generator=seeded(2), dtype=torch.float64))


def flow_of(prior: DensePrior, *, moved: float = 0.0) -> SpectralFlow:
    """Return a flow in float64, on patterns that are orthonormal to the rounding of float64."""
    seed_weights(3)
    flow = SpectralFlow(prior, PATTERNS, candidates=2, width=8, bins=4)
    for parameter in flow.parameters():
        parameter.data += moved * torch.randn_like(parameter)
    flow.double()
    left, _, right = torch.linalg.svd(flow.whiten * flow.sizes[:, None], full_matrices=False)
    flow.whiten.copy_(left @ right / flow.sizes[:, None])
    return flow


def test_flow_starts_as_the_identity(prior: DensePrior) -> None:
    found = posterior(prior)
    flow = flow_of(prior)
    fields, log_det = flow.push(draws(found), flow.condition(found))
    torch.testing.assert_close(fields, found.mean + draws(found), rtol=0.0, atol=EXACT)
    assert float(log_det.detach().abs().max()) < EXACT


def test_flow_is_inverted(prior: DensePrior) -> None:
    found = posterior(prior)
    flow = flow_of(prior, moved=0.2)
    given = flow.condition(found)
    fields, log_det = flow.push(draws(found), given)
    back, again = flow.pull(fields, given)
    assert float((fields - found.mean - draws(found)).detach().abs().max()) > 0.1
    torch.testing.assert_close(back, draws(found), rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(again, log_det, rtol=EXACT, atol=EXACT)


def test_log_determinant_is_that_of_autograd(prior: DensePrior) -> None:
    found = posterior(prior, batch=1)
    flow = flow_of(prior, moved=0.2)
    given = flow.condition(found)
    start = draws(found)[:1]

    def one(flat: Tensor) -> Tensor:
        return flow.push(flat.reshape(start.shape), given)[0].flatten()

    jacobian = torch.autograd.functional.jacobian(one, start.flatten())
    expected = torch.linalg.slogdet(jacobian)[1]
    log_det = flow.push(start, given)[1][0, 0]
    torch.testing.assert_close(log_det.detach(), expected, rtol=EXACT, atol=EXACT)


def test_density_of_the_leading_coefficient_is_that_of_the_draws(prior: DensePrior) -> None:
    """It integrates to one, and gives the mean of the draws' leading coefficient."""
    found = posterior(prior, batch=1)
    flow = flow_of(prior, moved=0.1)
    noise = torch.randn(8000, 1, found.noise_dim, generator=seeded(4))
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    with torch.no_grad():
        given = flow.condition(found)
        drawn = flow.push(found.deviations(noise), given)[0].flatten(1) @ flow.whiten[0]
        places = grid[:, None, None] * flow.colour[0]  # whose other coefficients are zero
        density = flow.leading_log_prob(places, given).exp()
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1.0, abs=1e-3)
    mean = float(torch.trapezoid(density * grid, grid))
    assert float(drawn.mean()) == pytest.approx(mean, abs=5 * float(drawn.std()) / 8000**0.5)


def test_fields_do_not_depend_on_the_batch_nor_on_what_is_not_seen(prior: DensePrior) -> None:
    flow = flow_of(prior, moved=0.2)
    found = posterior(prior)
    given = found.measurement
    together, _ = flow.push(draws(found), flow.condition(found))
    junk = torch.where(given.mask, given.values, 1e6)
    alone = prior.posterior(Measurement(junk[1:], given.mask[1:], given.noise_std[1:]))
    single, _ = flow.push(draws(found)[:, 1:], flow.condition(alone))
    torch.testing.assert_close(single, together[:, 1:], rtol=EXACT, atol=EXACT)


def test_measurements_that_are_not_of_nodes_are_refused(
    prior: DensePrior, domain: LatLonDomain
) -> None:
    operator = Downsample(2).on(domain)
    values = torch.zeros(1, 1, operator.num_observations)
    measurement = Measurement.of(values, 0.3, operator)
    with pytest.raises(InputError, match="nodes"):
        flow_of(prior).condition(prior.posterior(measurement))


def test_encoder_treats_observations_as_a_set() -> None:
    seed_weights(0)
    encoder = ObservationEncoder(3, 4, width=8, layers=1).double().eval()
    tokens, seen = torch.randn(1, 5, 3).double(), torch.tensor([[True, True, True, False, False]])
    features, pooled = encoder(tokens, seen)
    order = torch.tensor([2, 0, 1, 4, 3])
    again, same = encoder(tokens[:, order], seen[:, order])
    torch.testing.assert_close(again, features[:, order])
    torch.testing.assert_close(same, pooled)
    assert bool((features[0, 3:] == 0).all())
    tokens[0, 3:] = 100.0
    torch.testing.assert_close(encoder(tokens, seen)[1], pooled)
    assert not encoder(tokens, torch.zeros_like(seen))[1].any()  # where nothing was observed


def test_variance_of_functionals_is_exact(prior: DensePrior) -> None:
    found = posterior(prior)
    weights = torch.randn(4, 1, prior.size, generator=seeded(5), dtype=torch.float64)
    covariance = prior.covariance(np.arange(NODES), np.arange(NODES))
    for index, mask in enumerate(found.measurement.mask[:, 0].double().numpy()):
        dense = np.linalg.inv(np.linalg.inv(covariance) + np.diag(mask / 0.3**2))
        expected = np.einsum("ki,ij,kj->k", weights[:, 0], dense, weights[:, 0])
        np.testing.assert_allclose(
            found.functional_variance(weights.flatten(1))[index], expected, rtol=EXACT
        )


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (torch.eye(29), "30 nodes"),
        (torch.eye(NODES) + torch.triu(torch.ones(NODES, NODES)), "not symmetric"),
        (-torch.eye(NODES), "not positive definite"),
    ],
)
def test_an_unusable_covariance_is_refused(
    domain: LatLonDomain, matrix: Tensor, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        DensePrior(domain, matrix)
