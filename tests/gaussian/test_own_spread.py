"""The spread that each record tells: against dense algebra, and on records of known size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from apsgeo.domains import Domain, LatLonDomain
from apsgeo.errors import InputError
from apsgeo.gaussian.localised import LocalisedField, LocalisedPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.own_spread import OwnSpread
from apsgeo.measurement import Measurement
from apsgeo.operators import Downsample
from tests.cases import alike, noise, seeded

DOMAIN: Domain = LatLonDomain(np.linspace(75, -75, 6), np.arange(0, 360, 30.0))
NODES, NOISE = 72, 0.1
TERMS = 2**11  # roundings, by the condition of blocks with a noise of 0.1


def prior(channels: int = 1) -> LocalisedPrior:
    """A field of unit variance whose correlation is 0.14 at 4000 km."""
    return LocalisedPrior(
        LocalisedField(DOMAIN, 9000.0, 4000.0),
        torch.zeros(channels, NODES, 0),
        torch.ones(channels, NODES),
        torch.full((channels, NODES), 0.05),
        global_weight=0.5,
        tapered_weight=0.5,
    )


def covariance(of: LocalisedPrior) -> np.ndarray:
    every = np.arange(of.size)
    return of.covariance_blocks(torch.from_numpy(every)[None])[0].double().numpy()


def measured(of: LocalisedPrior, size: Tensor, density: float = 0.5) -> Measurement:
    """Records (size,) of the prior's fields times a size, with noise, seen at random nodes."""
    root = np.linalg.cholesky(covariance(of) + 1e-6 * np.eye(of.size))
    shape = len(size), of.channels, NODES
    fields = torch.from_numpy(root @ noise(of.size, len(size), seed=1).numpy()).T.reshape(shape)
    values = size[:, None, None] * fields + NOISE * noise(*shape, seed=2)
    mask = torch.rand(shape, generator=seeded(3)) < density
    return Measurement(values, mask, torch.tensor(NOISE, dtype=torch.float64))


@pytest.mark.parametrize("channels", [1, 2])
def test_predictions_are_those_of_all_other_observations(channels: int) -> None:
    """With as many neighbours as observations, e and v follow from the inverse covariance."""
    of = prior(channels)
    given = measured(of, torch.tensor([1.0, 0.6], dtype=torch.float64))
    method = OwnSpread(VecchiaPrior(of, observations=of.size), doubt=3.0)
    found = method.sizes(given)
    for record in range(2):
        seen = given.mask[record].flatten().numpy()
        matrix = covariance(of)[np.ix_(seen, seen)] + NOISE**2 * np.eye(int(seen.sum()))
        inverse = np.linalg.inv(matrix)
        values = given.values[record].flatten().numpy()[seen]
        var = 1.0 / np.diag(inverse)
        off, share = var * (inverse @ values), 1.0 - NOISE**2 / var
        expected = (3.0 + (share * off**2 / var).sum()) / (3.0 + share.sum())
        alike(found[record].float(), torch.tensor(expected).sqrt().float(), terms=TERMS)


def test_a_record_tells_its_size() -> None:
    """Five standard errors of a mean square of so many residuals, which are hardly correlated."""
    size = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    given = measured(prior(), size, density=1.0)
    found = OwnSpread(VecchiaPrior(prior()), doubt=0.1).sizes(given)
    error = 5.0 * (2.0 / NODES) ** 0.5 / 2.0
    noisy = (size.square() + NOISE**2).sqrt()  # the noise is not of the record's size
    assert float((found / noisy - 1.0).abs().max()) < error
    nothing = replace(given, mask=torch.zeros_like(given.mask))
    assert torch.equal(OwnSpread(VecchiaPrior(prior())).sizes(nothing), torch.ones(4).double())


def test_members_have_the_spread_and_the_density() -> None:
    given = measured(prior(), torch.tensor([0.5, 2.0], dtype=torch.float64))
    method = OwnSpread(VecchiaPrior(prior()))
    plain, draws = method.method.posterior(given), method.posterior(given)
    members, sizes = draws.members(4, seed=0), method.sizes(given)[:, None, None]
    alike(members - draws.mean, sizes * (plain.members(4, seed=0) - plain.mean))
    alike(draws.mean, plain.mean)
    noise_to_field = plain.deviations(torch.eye(NODES)[:, None].expand(-1, 2, -1))[:, 1, 0].double()
    root = float(sizes[1]) * noise_to_field.numpy().T
    density = multivariate_normal(draws.mean[1, 0].numpy(), root @ root.T)
    expected = density.logpdf(members[:, 1, 0].numpy())
    np.testing.assert_allclose(draws.log_prob(members)[:, 1], expected, rtol=1e-3)


def test_units_of_the_data_do_not_matter() -> None:
    given = measured(prior(), torch.tensor([0.5, 2.0], dtype=torch.float64))
    factor = 0.5 + torch.rand(given.shape, generator=seeded(5), dtype=torch.float64)
    scaled = replace(
        given, values=factor * given.values, noise_std=factor * given.noise_std, scale=factor
    )
    method = OwnSpread(VecchiaPrior(prior()))
    alike(method.sizes(scaled), method.sizes(given), terms=TERMS)


def test_observations_of_several_nodes_are_refused() -> None:
    operator = Downsample(2).on(DOMAIN)
    values = torch.zeros(1, 1, operator.num_observations)
    given = Measurement.of(values, 0.1, operator)
    with pytest.raises(InputError, match="several nodes at a time"):
        OwnSpread(VecchiaPrior(prior())).posterior(given)
