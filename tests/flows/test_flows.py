"""Couplings and the conditional flow: inverse, Jacobian, identity at the start."""

from typing import Literal

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apsgeo.domains import LatLonDomain
from apsgeo.errors import InputError
from apsgeo.flows.build import (
    CouplingSpec,
    SpectralSpec,
    build_flow,
    large_scale_patterns,
)
from apsgeo.flows.coupling import ChannelMixing, ElementwiseMap, LocalCoupling
from apsgeo.flows.elementwise import Affine, Elementwise, Spline, elementwise
from apsgeo.flows.patterns import GlobalAutoregressive, GlobalCoupling, GlobalMap
from apsgeo.flows.spec import FlowSpec, Site
from apsgeo.flows.start import Known
from apsgeo.gaussian.fit import fit_gaussian
from apsgeo.gaussian.matern import MaternField
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.measurement import Measurement, Normals
from tests.cases import seed_weights, seeded

CHANNELS, CONTEXT = 2, 3
# Of float64: a few hundred sums and products, through slopes between e^-7 and e^7.
EXACT = 1e-9


@pytest.fixture(scope="module")
def domain() -> LatLonDomain:
    return LatLonDomain(np.linspace(80, -80, 5), np.arange(0, 360, 60.0))


@pytest.fixture(scope="module")
def anchor(domain: LatLonDomain) -> SeasonalPrior:
    generator = seeded(0)
    fields = torch.randn(40, CHANNELS, domain.num_nodes, generator=generator)
    return fit_gaussian(MaternField(domain, 8000.0), fields, HybridScales(), rank=6)


def randomize(module: nn.Module, seed: int = 0) -> nn.Module:
    """Take a module away from its start, where every map is the identity."""
    seed_weights(seed)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.3)
    return module.double()


def exact(flow: nn.Module) -> nn.Module:
    """Turn a flow into float64; patterns kept in float32 become orthonormal to its rounding."""
    for module in flow.double().modules():
        if isinstance(module, GlobalMap):
            root = module.weights.sqrt()[:, None]
            left, _, right = torch.linalg.svd(
                (module.basis * root).flatten(0, 1), full_matrices=False
            )
            module.basis.copy_((left @ right).unflatten(0, module.basis.shape[:2]) / root)
    return flow


MAPS: dict[str, Elementwise] = {"affine": Affine(), "spline": Spline(bins=4, bound=2.0)}


def transform(name: str, domain: LatLonDomain, anchor: SeasonalPrior) -> nn.Module:
    kind, _, rest = name.partition("-")
    if kind == "mixing":
        return ChannelMixing(CHANNELS)
    maps = MAPS[rest[:6]]
    if kind == "elementwise":
        return ElementwiseMap(domain, CHANNELS, CONTEXT, maps)
    parity = name.endswith("1")
    if kind == "local":
        return LocalCoupling(domain, CHANNELS, CONTEXT, parity=parity, width=4, elementwise=maps)
    basis, weights = large_scale_patterns(anchor, 4)
    made = GlobalAutoregressive if kind == "autoregressive" else GlobalCoupling
    return exact(made(basis, weights, CONTEXT, parity=parity, width=8, elementwise=maps))


NAMES = [
    "mixing",
    *(f"elementwise-{name}" for name in MAPS),
    *(
        f"{kind}-{name}{parity}"
        for kind in ("local", "global", "autoregressive")
        for name in MAPS
        for parity in "01"
    ),
]


def inputs(domain: LatLonDomain) -> tuple[Tensor, Tensor]:
    generator = seeded(1)
    r = torch.randn(3, 2, CHANNELS, domain.num_nodes, generator=generator, dtype=torch.float64)
    context = torch.randn(2, CONTEXT, domain.num_nodes, generator=generator, dtype=torch.float64)
    return r, context


@pytest.mark.parametrize("name", NAMES)
def test_transform_starts_as_the_identity(
    name: str, domain: LatLonDomain, anchor: SeasonalPrior
) -> None:
    r, context = inputs(domain)
    moved, log_det = transform(name, domain, anchor).double()(r, context)
    # A spline adds up its bins and mixing its channels, and so are the identity to rounding only.
    sums = "spline" in name or name == "mixing"
    rounding = 64 * torch.finfo(r.dtype).eps if sums else 0.0
    torch.testing.assert_close(moved, r, rtol=rounding, atol=rounding)
    assert float(log_det.detach().abs().max()) <= r[0, 0].numel() * rounding


@pytest.mark.parametrize("name", NAMES)
def test_transform_is_inverted(name: str, domain: LatLonDomain, anchor: SeasonalPrior) -> None:
    r, context = inputs(domain)
    module = randomize(transform(name, domain, anchor))
    moved, log_det = module(r, context)
    assert float((moved - r).detach().abs().max()) > 0.01
    back, again = module.inverse(moved, context)  # type: ignore[operator]
    torch.testing.assert_close(back, r, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(again, log_det, rtol=EXACT, atol=EXACT)


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
    torch.testing.assert_close(log_det.detach(), expected, rtol=EXACT, atol=EXACT)


@pytest.mark.parametrize("maps", MAPS.values(), ids=MAPS)
def test_elementwise_maps_increase_and_are_inverted_to_rounding(maps: Elementwise) -> None:
    generator = seeded(3)
    raw = torch.randn(50, 1, maps.count, generator=generator, dtype=torch.float64)
    x = torch.linspace(-4, 4, 401, dtype=torch.float64).expand(50, -1)
    y, log_slope = maps.forward(x, raw.expand(-1, 401, -1))
    assert bool((y.diff(dim=1) > 0).all())
    back, again = maps.inverse(y, raw.expand(-1, 401, -1))
    # Slopes are within e^-7 and e^7, so that 1e-16 is at most 1e-13 of an error in x.
    torch.testing.assert_close(back, x, rtol=0.0, atol=1e-11)
    torch.testing.assert_close(again, log_slope, rtol=0.0, atol=1e-8)


def test_a_spline_splits_one_mode_into_two() -> None:
    """Steep in the middle, it moves a normal's mass away from zero: no affine map does."""
    maps = Spline(bins=4, bound=4.0)
    raw = torch.zeros(maps.count, dtype=torch.float64)
    raw[2 : 2 + maps.bins] = torch.tensor([1.0, -1.0, -1.0, 1.0])  # narrow inner bins
    x = torch.randn(20000, generator=seeded(0), dtype=torch.float64)
    y, _ = maps.forward(x, raw.expand(len(x), -1))
    assert float((y.abs() < 0.5).double().mean()) < 0.6 * float((x.abs() < 0.5).double().mean())
    assert float((y**4).mean() / (y**2).mean() ** 2) < 2.5  # a normal's is 3


@pytest.mark.parametrize("options", [{"bins": 1}, {"bound": 0.0}])
def test_an_unusable_spline_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(InputError, match="Spline"):
        Spline(**options)
    with pytest.raises(InputError, match="affine"):
        elementwise("cubic", 8)


def measurement(domain: LatLonDomain) -> Measurement:
    generator = seeded(2)
    shape = (2, CHANNELS, domain.num_nodes)
    values = torch.randn(shape, generator=generator, dtype=torch.float64)
    mask = torch.rand(shape, generator=generator) < 0.4
    return Measurement(values, mask, torch.full(shape, 0.3, dtype=torch.float64))


@pytest.mark.parametrize("maps", ["affine", "spline"])
@pytest.mark.parametrize("base", ["anchor", "white"])
def test_flow_is_inverted(
    base: Literal["anchor", "white"],
    maps: Literal["affine", "spline"],
    domain: LatLonDomain,
    anchor: SeasonalPrior,
) -> None:
    spec = CouplingSpec(
        base=base,
        width=8,
        depth=1,
        context=4,
        local=2,
        patterns=4,
        coupling_width=4,
        elementwise=maps,
        bins=4,
        mixing=True,
    )
    shape = (1, CHANNELS, domain.num_nodes)
    normals = Normals(torch.zeros(shape), torch.ones(shape), torch.ones(shape[-1]).bool())
    sites = torch.zeros(3, domain.num_nodes)
    flow = build_flow(Site(domain, CHANNELS, Known(normals), sites, anchor), spec)
    seed_weights(0)
    for parameter in flow.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    exact(flow)
    measured = measurement(domain)
    start = flow.base.posterior(measured)
    given = flow.condition(start)
    noise = torch.randn(5, 2, start.noise_dim, dtype=torch.float64)
    deviations = start.deviations(noise)
    fields, log_det = flow.push(deviations, given)
    back, again = flow.pull(fields, given)
    torch.testing.assert_close(back, deviations, rtol=EXACT, atol=EXACT)
    torch.testing.assert_close(again, log_det, rtol=EXACT, atol=EXACT)
    assert float(log_det.detach().abs().min()) > 0.0


def test_patterns_are_orthonormal_under_their_weights(anchor: SeasonalPrior) -> None:
    basis, weights = large_scale_patterns(anchor, 4)
    gram = torch.einsum("cnk,cnl,n->kl", basis, basis, weights)
    torch.testing.assert_close(gram, torch.eye(4, dtype=gram.dtype))


@pytest.mark.parametrize("spec", [CouplingSpec(), SpectralSpec()])
def test_a_gaussian_base_without_its_prior_is_refused(domain: LatLonDomain, spec: FlowSpec) -> None:
    with pytest.raises(InputError, match="anchor"):
        build_flow(Site(domain, 1, None, torch.zeros(1, domain.num_nodes)), spec)


def test_a_base_of_another_name_is_refused() -> None:
    with pytest.raises(InputError, match="give one of"):
        CouplingSpec(base="gaussian")  # type: ignore[arg-type]
