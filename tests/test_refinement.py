"""Refinement of a flow that is wrong: chains and adaptation, where the posterior is known."""

import pytest
import torch
from torch import Tensor

from apsgeo.domains import GraphDomain
from apsgeo.errors import InputError
from apsgeo.flows.build import CouplingSpec, SpectralSpec, build_flow
from apsgeo.flows.spec import Site
from apsgeo.flows.start import Known
from apsgeo.gaussian.fit import fit_gaussian
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.mixture import GaussianMixturePrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Normals
from apsgeo.measurement.distribution import FieldDistribution
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from apsgeo.refinement import adapt, metropolis
from tests.cases import rounding, seed_weights, seeded

NODES, NOISE, COPIES = 12, 0.4, 400


@pytest.fixture(scope="module")
def mixture() -> GaussianMixturePrior:
    """Two regimes, a smooth field or its negative, as `history` draws them."""
    place = torch.linspace(0.0, 1.0, NODES)[:, None]
    domain = GraphDomain(torch.cat([place, place**2], 1).numpy())
    bend = torch.sin(3.0 * place)[None]
    component = LowRankPrior(domain, 0.5 * bend, 0.5)
    mean = 0.9 * torch.cos(2.0 * place.T)
    return GaussianMixturePrior([component, component], [0.6, 0.4], torch.stack([mean, -mean]))


@pytest.fixture(scope="module", params=[CouplingSpec(width=8, depth=0, context=4, local=1), None])
def posterior(request: pytest.FixtureRequest, mixture: GaussianMixturePrior) -> Posterior:
    """A flow that is wrong: it starts from one Gaussian, and its weights are off."""
    spec = request.param or SpectralSpec(patterns=3, candidates=2, width=8, bins=4)
    fields = mixture.sample(400, seeded(0))
    domain, scales = mixture.domain, HybridScales(0.9, 0.5, 0.1)
    anchor = fit_gaussian(scales.field(domain), fields, scales, rank=4)
    shape = (1, 1, NODES)
    normals = Normals(torch.zeros(shape), torch.ones(shape), torch.ones(NODES).bool())
    seed_weights(1)
    known = Known(normals)
    flow = build_flow(Site(domain, 1, known, torch.zeros(3, NODES), anchor), spec)
    for parameter in flow.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return Posterior(domain, normals, Mask(), flow.eval(), torch.full((NODES,), NOISE))


def measured(posterior: Posterior, copies: int) -> tuple[FieldDistribution, Tensor]:
    """One measurement of two nodes, so many times."""
    y = torch.full((copies, 1, NODES), torch.nan)
    y[..., 2], y[..., 9] = 0.2, -0.1
    return posterior(y), y


def test_chains_have_the_mean_of_the_exact_posterior(
    posterior: Posterior, mixture: GaussianMixturePrior
) -> None:
    found, y = measured(posterior, COPIES)
    exact = mixture.posterior(posterior(y[:1]).measurement)
    chains = metropolis(found, mixture.log_prob, 2, steps=50, seed=2)
    each = chains.fields.flatten(0, 1).double()
    error = (each.mean(0) - exact.mean[0]) / (each.std(0) / len(each) ** 0.5)
    assert float(error.abs().max()) < 5.0  # of standard errors, at 12 nodes
    torch.testing.assert_close(
        each.var(0), exact.variance[0], rtol=6 * (2 / len(each)) ** 0.5, atol=0.0
    )
    before = found.from_noise(torch.randn(2, COPIES, found.noise_dim, generator=seeded(3)))
    wrong = (before.detach().flatten(0, 1).double().mean(0) - exact.mean[0]).abs()
    assert float((wrong / (each.std(0) / len(each) ** 0.5)).max()) > 5
    assert 0.1 < float(chains.acceptance.mean()) < 0.95


def test_chains_of_the_exact_posterior_always_move(
    posterior: Posterior, mixture: GaussianMixturePrior
) -> None:
    """All weights are equal where log p is the flow's own: no proposal is refused."""
    found, _ = measured(posterior, 2)

    def own(fields: Tensor) -> Tensor:
        flat = found.log_prob(fields).double()
        return flat - found.measurement.log_likelihood(fields).double()

    # a tenth of a nat, far above float32 rounding, would refuse one proposal in twenty
    assert float(metropolis(found, own, 2, steps=10).acceptance.min()) == 1.0


def kl(found: FieldDistribution, mixture: GaussianMixturePrior) -> float:
    """KL(q || p) up to log p(y), the same for all."""
    with torch.no_grad():
        noise = torch.randn(400, 1, found.noise_dim, generator=seeded(4))
        fields = found.from_noise(noise)
        gap = found.log_prob(fields).double() - found.log_joint(fields, mixture.log_prob).double()
    return float(gap.mean())


def test_adaptation_lowers_the_divergence(
    posterior: Posterior, mixture: GaussianMixturePrior
) -> None:
    found, y = measured(posterior, 1)
    evidence = float(mixture.posterior(posterior(y).measurement).log_evidence())
    before = kl(found, mixture) + evidence
    weights = {name: value.clone() for name, value in posterior.flow.state_dict().items()}
    adapted = adapt(found, mixture.log_prob, steps=40, lr=0.05, members=4)
    after = kl(adapted, mixture) + evidence
    assert 0.0 < after < 0.9 * before  # what is left: one Gaussian's share of two modes
    # the one that was given is as it was
    assert kl(found, mixture) + evidence == pytest.approx(before, rel=rounding(256))
    for name, value in posterior.flow.state_dict().items():
        assert torch.equal(value, weights[name])
    assert all(parameter.requires_grad for parameter in posterior.flow.parameters())


def test_unusable_chains_are_refused(posterior: Posterior, mixture: GaussianMixturePrior) -> None:
    found, _ = measured(posterior, 1)
    with pytest.raises(InputError, match="at least one"):
        metropolis(found, mixture.log_prob, 0)
    with pytest.raises(InputError, match="at least one"):
        metropolis(found, mixture.log_prob, 1, steps=0)
