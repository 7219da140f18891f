"""The spread that each record tells: against dense algebra, and on records of known size."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from apsgeo.domains import Domain, LatLonDomain
from apsgeo.gaussian.localised import LocalisedField, LocalisedPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.own_spread import OwnSpread
from apsgeo.gaussian.vecchia.posterior import VecchiaPosterior
from apsgeo.measurement import Measurement
from apsgeo.operators import Downsample
from apsgeo.operators.linear import LinearMap
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
    """Records of the prior's fields times a size (record, node), seen with noise at some nodes."""
    root = np.linalg.cholesky(covariance(of) + 1e-6 * np.eye(of.size))
    shape = len(size), of.channels, NODES
    fields = torch.from_numpy(root @ noise(of.size, len(size), seed=1).numpy()).T.reshape(shape)
    values = size[:, None] * fields + NOISE * noise(*shape, seed=2)
    mask = torch.rand(shape, generator=seeded(3)) < density
    return Measurement(values.float(), mask, torch.tensor(NOISE))


def drawn(of: LocalisedPrior, given: Measurement, spread: OwnSpread) -> VecchiaPosterior:
    draws = VecchiaPrior(of, spread=spread).posterior(given)
    assert isinstance(draws, VecchiaPosterior)
    return draws


def sizes(of: LocalisedPrior, given: Measurement, spread: OwnSpread) -> Tensor:
    """Return the factors (record, channel, node)."""
    found = drawn(of, given, spread).sizes
    assert found is not None
    return found


def sized(*size: float) -> Tensor:
    return torch.tensor(size)[:, None].expand(-1, NODES)


@pytest.mark.parametrize("operator", [None, Downsample(2).on(DOMAIN)], ids=["nodes", "means"])
def test_predictions_are_those_of_all_other_observations(operator: LinearMap | None) -> None:
    """Where all are near, e and v follow from the inverse of the observations' covariance."""
    of, given = prior(), measured(prior(), sized(1.0, 0.6), 0.25)
    if operator is not None:
        values = operator.apply(given.values)
        given = Measurement.of(values, NOISE, operator)
    found = sizes(of, given, OwnSpread(doubt=3.0, near=5.0, around=NODES))
    rows = np.eye(NODES) if operator is None else operator.to_matrix().toarray()  # type: ignore[union-attr]
    for record in range(2):
        seen = given.mask[record, 0].numpy()
        assert 4 < seen.sum() <= 25  # a target, and those that it is predicted from
        matrix = (rows @ covariance(of) @ rows.T)[np.ix_(seen, seen)] + NOISE**2 * np.eye(
            int(seen.sum())
        )
        inverse = np.linalg.inv(matrix)
        var = 1.0 / np.diag(inverse)
        off = var * (inverse @ given.values[record, 0].double().numpy()[seen])
        share = 1.0 - NOISE**2 / var
        assert (off**2 / var).max() < 25.0  # no outlier
        total = (share * off**2 / var).sum()
        whole = (3.0 + total) / (3.0 + share.sum())
        expected = (5.0 * whole + total) / (5.0 + share.sum())
        alike(found[record, 0], torch.tensor(expected).sqrt().expand(NODES).float(), terms=TERMS)


def test_a_record_tells_its_size() -> None:
    """Five standard errors of a mean square of so many residuals, which are hardly correlated."""
    size = sized(0.5, 1.0, 2.0, 4.0)
    given = measured(prior(), size, density=1.0)
    found = sizes(prior(), given, OwnSpread(doubt=0.1, around=NODES))
    error = 5.0 * (2.0 / NODES) ** 0.5 / 2.0
    noisy = (size.square() + NOISE**2).sqrt()  # the noise is not of the record's size
    assert float((found[:, 0] / noisy - 1.0).abs().max()) < error
    nothing = replace(given, mask=torch.zeros_like(given.mask))
    assert torch.equal(sizes(prior(), nothing, OwnSpread()), torch.ones(4, 1, NODES))


def test_a_region_tells_its_size() -> None:
    """One hemisphere is four times as rough as the other."""
    east = torch.from_numpy(np.tile(DOMAIN.lon < 180.0, 6))  # type: ignore[attr-defined]
    size = torch.where(east, 4.0, 1.0).expand(3, -1)
    given = measured(prior(), size, density=1.0)
    found = sizes(prior(), given, OwnSpread(near=1.0, around=6))[:, 0]
    assert float(found[:, east].mean()) > 1.4 * float(found[:, ~east].mean())


def test_a_wrong_observation_does_not_widen_all() -> None:
    """It counts for five typical errors at most: 25 of the 72 squares, and two or three beside."""
    given = measured(prior(), sized(1.0), density=1.0)
    values = given.values.clone()
    values[0, 0, 30] += 50.0
    spread = OwnSpread(around=NODES)
    plain, wrong = (
        sizes(prior(), replace(given, values=v), spread) for v in (given.values, values)
    )
    assert float((wrong / plain).max()) < 2.5


def test_each_channel_tells_its_own_size() -> None:
    of, given = prior(2), measured(prior(2), sized(1.0), density=1.0)
    values = given.values * torch.tensor([3.0, 0.3])[:, None]
    found = sizes(of, replace(given, values=values), OwnSpread(doubt=1.0))
    assert float(found[0, 0].min()) > 2.0 * float(found[0, 1].max())


@pytest.mark.same_bits
def test_members_have_the_spread_and_the_density() -> None:
    given = measured(prior(), sized(0.5, 2.0))
    plain, draws = VecchiaPrior(prior()).posterior(given), drawn(prior(), given, OwnSpread())
    assert isinstance(plain, VecchiaPosterior)
    found = draws.sizes
    assert found is not None
    members = draws.members(4, seed=0)
    alike(members - draws.mean, found * (plain.members(4, seed=0) - plain.mean))
    alike(draws.mean, plain.mean)
    alike(draws.std(), found * plain.std())
    noise_to_field = plain.deviations(torch.eye(NODES)[:, None].expand(-1, 2, -1))[:, 1, 0].double()
    root = found[1, 0].double().numpy()[:, None] * noise_to_field.numpy().T
    density = multivariate_normal(draws.mean[1, 0].numpy(), root @ root.T)
    expected = density.logpdf(members[:, 1, 0].numpy())
    np.testing.assert_allclose(draws.log_prob(members)[:, 1], expected, rtol=1e-3)
    every = torch.ones(1, NODES)
    ratio = draws.functional_variance(every)[1, 0] / float((root.sum(0) ** 2).sum())
    assert float(ratio) == pytest.approx(1.0, abs=5.0 * (2.0 / 128) ** 0.5)


def test_units_of_the_data_do_not_matter() -> None:
    """Means of values whose units differ from node to node, in units of their own."""
    operator = Downsample(2).on(DOMAIN)
    scale = 0.5 + torch.rand(2, 1, NODES, generator=seeded(5))
    values = 3.0 * noise(2, 1, operator.num_observations, seed=6).float()
    given = Measurement.of(values, 0.3, operator)
    plain = sizes(prior(), given, OwnSpread())
    alike(sizes(prior(), replace(given, scale=torch.ones_like(scale)), OwnSpread()), plain)
    factor = 7.0
    larger = replace(
        given,
        values=factor * values,
        noise_std=factor * given.noise_std,
        scale=torch.full_like(scale, factor),
    )
    alike(sizes(prior(), larger, OwnSpread()), plain, terms=TERMS)
