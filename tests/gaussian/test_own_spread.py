"""The spread that each record tells: against dense algebra, and on records of known size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from apsgeo.domains import Domain, LatLonDomain
from apsgeo.errors import InputError
from apsgeo.gaussian.left_out.nodes import left_out
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
    mean, cov = left_out([of, of], given, near=of.size, apart=True)
    for record in range(2):
        seen = given.mask[record].flatten().numpy()
        matrix = covariance(of)[np.ix_(seen, seen)] + NOISE**2 * np.eye(int(seen.sum()))
        inverse = np.linalg.inv(matrix)
        values = given.values[record].flatten().numpy()[seen]
        var = 1.0 / np.diag(inverse)
        expected = torch.from_numpy(values - var * (inverse @ values))
        alike(mean[record].flatten()[seen].float(), expected.float(), terms=TERMS)
        found = cov[record].diagonal(dim1=1, dim2=2).mT.flatten()[seen] + NOISE**2
        alike(found.float(), torch.from_numpy(var).float(), terms=TERMS)
    assert not bool(mean[~given.mask].any())


def test_sizes_are_weighted_means_of_those_of_near_observations() -> None:
    given = measured(prior(), torch.tensor([1.0], dtype=torch.float64), density=0.8)
    method = OwnSpread(VecchiaPrior(prior()), doubt=5.0, near_doubt=3.0, near=7)
    found = method.sizes(given)[0, 0]
    mean, cov = left_out([prior()], given, apart=True)
    seen = given.mask[0, 0].nonzero()[:, 0]
    left, off = cov[0, seen, 0, 0], (given.values - mean)[0, 0, seen].abs()
    share = left / (left + NOISE**2)
    size = share * off / (left + NOISE**2).sqrt() * (np.pi / 2.0) ** 0.5
    record = float((5.0 + size.sum()) / (5.0 + share.sum()))
    for node in (0, 30, 71):
        apart = (DOMAIN.positions[seen] - DOMAIN.positions[node]).double().norm(dim=1)
        near = apart.argsort()[:7]
        weight = torch.exp(-2.0 * (apart[near] / apart[near[-1]]) ** 2)
        expected = 3.0 * record + (weight * size[near]).sum()
        expected = expected / (3.0 + (weight * share[near]).sum())
        alike(found[node].float(), expected.float(), terms=TERMS)


def test_a_record_tells_its_size() -> None:
    """Five standard errors of a mean of so many residuals, which are hardly correlated."""
    size = torch.tensor([0.5, 1.0, 2.0, 4.0], dtype=torch.float64)
    given = measured(prior(), size, density=1.0)
    method = OwnSpread(VecchiaPrior(prior()), doubt=0.1, near_doubt=1e6)
    found = method.sizes(given).flatten(1).mean(1)
    error = 5.0 * ((np.pi / 2.0 - 1.0) / NODES) ** 0.5
    noisy = (size.square() + NOISE**2).sqrt()  # the noise is not of the record's size
    assert float((found / noisy - 1.0).abs().max()) < error
    nothing = replace(given, mask=torch.zeros_like(given.mask))
    ones = torch.ones(4, 1, NODES).double()
    assert torch.equal(OwnSpread(VecchiaPrior(prior())).sizes(nothing), ones)


def test_a_place_tells_its_size() -> None:
    """The north is three times as rough as the south."""
    given = measured(prior(), torch.ones(20, dtype=torch.float64), density=1.0)
    north = DOMAIN.positions[:, 2] > 0.0
    rough = replace(given, values=torch.where(north, 3.0, 1.0) * given.values)
    found = OwnSpread(VecchiaPrior(prior())).sizes(rough)[:, 0].mean(0)
    pole = DOMAIN.positions[:, 2].abs() > 0.9
    assert 2.0 < float(found[north & pole].mean() / found[~north & pole].mean()) < 3.5


def test_members_have_the_spread_and_the_density() -> None:
    given = measured(prior(), torch.tensor([0.5, 2.0], dtype=torch.float64))
    method = OwnSpread(VecchiaPrior(prior()))
    plain, draws = method.method.posterior(given), method.posterior(given)
    members, sizes = draws.members(4, seed=0), method.sizes(given)
    alike(members - draws.mean, sizes * (plain.members(4, seed=0) - plain.mean))
    alike(draws.mean, plain.mean)
    noise_to_field = plain.deviations(torch.eye(NODES)[:, None].expand(-1, 2, -1))[:, 1, 0].double()
    root = sizes[1, 0].numpy()[:, None] * noise_to_field.numpy().T
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
