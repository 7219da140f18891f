"""Couplings and the conditional flow: inverse, Jacobian, identity at the start."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apsgeo.domains import LatLonDomain
from apsgeo.flows import ElementwiseAffine, GlobalCoupling, LocalCoupling
from apsgeo.flows.build import FlowSpec, build_flow, large_scale_patterns
from apsgeo.operators import Measurement
from apsgeo.priors.gaussian_fit import fit_gaussian
from apsgeo.priors.matern import MaternField
from apsgeo.priors.scales import HybridScales
from apsgeo.priors.seasonal import SeasonalPrior

CHANNELS, CONTEXT = 2, 3


@pytest.fixture(scope="module")
def domain() -> LatLonDomain:
    return LatLonDomain(np.linspace(80, -80, 5), np.arange(0, 360, 60.0))


@pytest.fixture(scope="module")
def anchor(domain: LatLonDomain) -> SeasonalPrior:
    generator = torch.Generator().manual_seed(0)
    fields = torch.randn(40, CHANNELS, domain.num_nodes, generator=generator)
    return fit_gaussian(MaternField(domain, 8000.0), fields, HybridScales(), rank=6)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Take a module away from its start, where every map is the identity."""
    torch.manual_seed(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def transform(name: str, domain: LatLonDomain, anchor: SeasonalPrior) -> nn.Module:
    if name == "elementwise":
        return ElementwiseAffine(domain, CHANNELS, CONTEXT)
    if name.startswith("local"):
        return LocalCoupling(domain, CHANNELS, CONTEXT, parity=name.endswith("1"), width=4)
    basis, weights = large_scale_patterns(anchor, 4)
    return GlobalCoupling(basis, weights, CONTEXT, parity=name.endswith("1"), width=8)


NAMES = ["elementwise", "local0", "local1", "global0", "global1"]


def inputs(domain: LatLonDomain) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    r = torch.randn(3, 2, CHANNELS, domain.num_nodes, generator=generator, dtype=torch.float64)
    context = torch.randn(2, CONTEXT, domain.num_nodes, generator=generator, dtype=torch.float64)
    return r, context


@pytest.mark.parametrize("name", NAMES)
def test_transform_starts_as_the_identity(
    name: str, domain: LatLonDomain, anchor: SeasonalPrior
) -> None:
    r, context = inputs(domain)
    moved, log_det = transform(name, domain, anchor).double()(r, context)
    assert torch.equal(moved, r)
    assert float(log_det.detach().abs().max()) == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_transform_is_inverted(name: str, domain: LatLonDomain, anchor: SeasonalPrior) -> None:
    r, context = inputs(domain)
    module = randomize(transform(name, domain, anchor))
    moved, log_det = module(r, context)
    assert float((moved - r).detach().abs().max()) > 0.01
    back, again = module.inverse(moved, context)  # type: ignore[operator]
    # The basis of the global coupling is kept in float32: orthonormal to 1e-6.
    torch.testing.assert_close(back, r, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(again, log_det, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_log_determinant_is_that_of_autograd(
    name: str, domain: LatLonDomain, anchor: SeasonalPrior
) -> None:
    r, context = inputs(domain)
    module = randomize(transform(name, domain, anchor))
    size = r[0, 0].numel()

    def one(flat: Tensor) -> Tensor:
        return module(flat.reshape(1, 1, *r.shape[2:]), context[1:])[0].flatten()

    jacobian = torch.autograd.functional.jacobian(one, r[2, 1].flatten()).reshape(size, size)
    expected = torch.linalg.slogdet(jacobian)[1]
    log_det = module(r, context)[1][2, 1]
    torch.testing.assert_close(log_det.detach(), expected, rtol=1e-5, atol=1e-5)


def measurement(domain: LatLonDomain) -> Measurement:
    generator = torch.Generator().manual_seed(2)
    shape = (2, CHANNELS, domain.num_nodes)
    values = torch.randn(shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < 0.4
    return Measurement(values, mask, torch.full(shape, 0.3))


@pytest.mark.parametrize("base", ["gaussian", "normal"])
def test_flow_is_inverted_to_float_precision(
    base: str, domain: LatLonDomain, anchor: SeasonalPrior
) -> None:
    spec = FlowSpec(base=base, width=8, depth=1, context=4, local=2, patterns=4, coupling_width=4)  # type: ignore[arg-type]
    flow = build_flow(domain, CHANNELS, 1, torch.zeros(3, domain.num_nodes), spec, anchor)
    torch.manual_seed(0)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    measured = measurement(domain)
    start = flow.base.posterior(measured, torch.zeros(2, dtype=torch.long))
    known = torch.zeros(2, 1, domain.num_nodes)
    given = flow.condition(measured, start.mean, start.std(), known)
    noise = torch.randn(5, 2, flow.base.noise_dim)
    deviations = start.deviations(noise)
    fields, log_det = flow.push(deviations, given)
    back, again = flow.pull(fields, given)
    torch.testing.assert_close(back, deviations, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(again, log_det, rtol=1e-3, atol=1e-4)
    assert float(log_det.detach().abs().min()) > 0.0


def test_patterns_are_orthonormal_under_their_weights(anchor: SeasonalPrior) -> None:
    basis, weights = large_scale_patterns(anchor, 4)
    gram = torch.einsum("cnk,cnl,n->kl", basis, basis, weights)
    torch.testing.assert_close(gram, torch.eye(4, dtype=gram.dtype))
