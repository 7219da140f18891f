"""The flow from coarse to fine, and its split, on every domain."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from apsgeo.domains import Domain, ImageDomain
from apsgeo.errors import InputError
from apsgeo.flows.build import MultiscaleSpec, build_flow, spec_from_config
from apsgeo.flows.multiscale.flow import MultiscaleFlow
from apsgeo.flows.multiscale.split import Split
from apsgeo.flows.spec import Site
from apsgeo.flows.start import Known
from apsgeo.measurement import Measurement, Normals
from tests.cases import noise, rounding, seed_weights, seeded
from tests.places import PLACES

CHANNELS = 2
# Of float64: a few hundred sums and products, through slopes between e^-7 and e^7.
EXACT = 1e-9

DOMAINS = {name: place.domain for name, place in PLACES.items()}


@cache
def split_of(name: str) -> Split:
    return Split(DOMAINS[name]).double()


@pytest.fixture(params=DOMAINS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def areas(domain: Domain) -> Tensor:
    return domain.areas / domain.areas.mean()


def test_split_is_inverted(name: str) -> None:
    split = split_of(name)
    fields = noise(2, CHANNELS, DOMAINS[name].num_nodes)
    torch.testing.assert_close(split.merge(*split(fields)), fields, rtol=0.0, atol=1e-12)
    torch.testing.assert_close(split.unstack(split.stack(fields)), fields, rtol=0.0, atol=0.0)


def test_means_of_the_split_are_those_of_pooling(name: str) -> None:
    fields = noise(1, CHANNELS, DOMAINS[name].num_nodes)
    means, _ = split_of(name)(fields)
    pooled = DOMAINS[name].pool()(fields)
    torch.testing.assert_close(means, pooled, rtol=0.0, atol=rounding(64, fields))


def test_a_constant_has_no_details(name: str) -> None:
    means, details = split_of(name)(torch.full((1, 1, DOMAINS[name].num_nodes), 3.0).double())
    torch.testing.assert_close(means, torch.full_like(means, 3.0), rtol=0.0, atol=rounding(64, 3.0))
    assert float(details.abs().max()) < rounding(64, 3.0)


def test_split_is_orthonormal_by_area_and_its_determinant_is_one(name: str) -> None:
    domain, split = DOMAINS[name], split_of(name)
    root = areas(domain).sqrt()
    impulses = torch.eye(domain.num_nodes, dtype=torch.float64) / root
    means, details = split(impulses[:, None])
    weighted = (
        means
        * areas(domain.coarse()).sqrt()
        * split.total.new_tensor(domain.num_nodes / domain.coarse().num_nodes).sqrt()
    )
    kept = torch.cat([weighted[:, 0], details[:, 0, split.detailed]], 1)
    assert kept.shape == (domain.num_nodes, domain.num_nodes)
    eye = torch.eye(domain.num_nodes, dtype=torch.float64)
    torch.testing.assert_close(kept @ kept.T, eye, rtol=0.0, atol=rounding(64))
    size = torch.linalg.slogdet(kept)[1]
    torch.testing.assert_close(size, torch.zeros_like(size), rtol=0.0, atol=rounding(64) * len(eye))


def test_variances_are_those_of_independent_values(name: str) -> None:
    domain, split = DOMAINS[name], split_of(name)
    variance = noise(1, CHANNELS, domain.num_nodes).exp()
    impulses = torch.diag_embed(variance[0].sqrt()).movedim(1, 0)  # value, channel, node
    means, details = split(impulses)
    found = split.variances(variance)
    torch.testing.assert_close(found[0][0], means.square().sum(0), rtol=1e-6, atol=0.0)
    there = split.detailed
    expected = details.square().sum(0)[:, there]
    torch.testing.assert_close(found[1][0][:, there], expected, rtol=1e-6, atol=1e-9)


def flow_on(domain: Domain, **options: int) -> MultiscaleFlow:
    spec = MultiscaleSpec(
        base="white", width=4, depth=1, context=4, embedding=2, level_width=4, **options
    )
    shape = (1, CHANNELS, domain.num_nodes)
    level = torch.linspace(-1.0, 2.0, domain.num_nodes)
    normals = Normals(level.expand(shape), level.exp().expand(shape), torch.ones(shape[-1]).bool())
    seed_weights(0)
    flow = build_flow(Site(domain, CHANNELS, Known(normals), torch.zeros(3, shape[-1])), spec)
    assert isinstance(flow, MultiscaleFlow)
    return flow


def measured(domain: Domain) -> Measurement:
    values = noise(2, CHANNELS, domain.num_nodes, seed=2)
    mask = torch.rand(values.shape, generator=seeded(2)) < 0.4
    return Measurement(values, mask, torch.full_like(values, 0.3))


MAPS = {"affine": {"bins": 0, "nodewise": 0}, "spline": {"bins": 3, "nodewise": 3}}


@pytest.mark.parametrize("maps", MAPS)
def test_flow_starts_as_its_base(name: str, maps: str) -> None:
    domain = DOMAINS[name]
    flow, given = flow_on(domain, **MAPS[maps]).double(), measured(domain)
    start = flow.base.posterior(given)
    deviations = start.deviations(noise(3, 2, start.noise_dim))
    fields, log_det = flow.push(deviations, flow.condition(start))
    torch.testing.assert_close(fields, deviations + start.mean, rtol=0.0, atol=1e-6)
    assert float(log_det.detach().abs().max()) < 1e-6


@pytest.mark.parametrize("maps", MAPS)
def test_flow_is_inverted_and_its_log_determinant_is_that_of_autograd(name: str, maps: str) -> None:
    domain = DOMAINS[name]
    flow, given = flow_on(domain, **MAPS[maps]).double(), measured(domain)
    seed_weights(1)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    start = flow.base.posterior(given)
    conditioning = flow.condition(start)
    deviations = start.deviations(noise(3, 2, start.noise_dim))
    fields, log_det = flow.push(deviations, conditioning)
    assert float((fields - deviations - start.mean).detach().abs().max()) > 0.01
    back, again = flow.pull(fields, conditioning)
    torch.testing.assert_close(back, deviations, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(again, log_det, rtol=EXACT, atol=EXACT)

    # one member for each value of the field: the gradient of value k of member k is row k
    size = deviations[0, 0].numel()
    copies = deviations[2:].expand(size, -1, -1, -1).clone().requires_grad_()
    pushed, _ = flow.push(copies, conditioning)
    (rows,) = torch.autograd.grad(pushed[:, 1].flatten(1).diagonal().sum(), copies)
    jacobian = rows[:, 1].flatten(1)
    expected = torch.linalg.slogdet(jacobian)[1]
    torch.testing.assert_close(log_det[2, 1].detach(), expected, rtol=EXACT, atol=EXACT)


def test_a_domain_without_levels_is_refused() -> None:
    domain = ImageDomain(3, 3)
    with pytest.raises(InputError, match="coarsened"):
        build_flow(Site(domain, 1, None, torch.zeros(1, 9)), MultiscaleSpec(base="white"))


def test_spec_comes_back_from_its_configuration() -> None:
    spec = MultiscaleSpec(width=7, bins=3)
    assert spec_from_config(spec.to_config()) == spec
