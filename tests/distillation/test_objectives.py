"""Divergences of a flow from a posterior that is known: their gradients."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from apsgeo.distillation.objective import (
    Annealing,
    FollowingReverseKL,
    ForwardKL,
    PathReverseKL,
    ReverseKL,
    WeightedSum,
    frozen,
)
from apsgeo.distillation.pairs import Batch
from apsgeo.domains import LatLonDomain
from apsgeo.flows.coupling import ElementwiseMap
from apsgeo.flows.flow import Conditioning, CouplingFlow
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.flows.start import Moments
from apsgeo.gaussian.fit import fit_gaussian
from apsgeo.gaussian.matern import MaternField
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.measurement import Measurement
from tests.cases import rounding, seed_weights, seeded

FIELDS, MEMBERS = 2, 300


@pytest.fixture(scope="module")
def setting() -> tuple[CouplingFlow, Batch]:
    """A flow of one map at each node, on the posterior of its anchor."""
    domain = LatLonDomain(np.linspace(80, -80, 4), np.arange(0, 360, 90.0))
    generator = seeded(0)
    history = torch.randn(30, 1, 16, generator=generator)
    base = fit_gaussian(MaternField(domain, 8000.0), history, HybridScales(), rank=4)
    shape = (FIELDS, 1, 16)
    mask = torch.rand(shape, generator=generator) < 0.4
    values = torch.randn(shape, generator=generator)
    measurement = Measurement(values, mask, torch.full(shape, 0.3))
    start = base.posterior(measurement)
    noise = torch.randn(MEMBERS, FIELDS, start.noise_dim, generator=generator)
    deviations = start.deviations(noise)
    batch = Batch(values, Moments.of(start, torch.empty(0, 0)), deviations, base)
    seed_weights(0)
    context = nn.Conv1d(CouplingFlow.inputs(1), 3, 1)
    return CouplingFlow(base, context, [ElementwiseMap(domain, 1, 3)]), batch


def given(flow: CouplingFlow, batch: Batch) -> Conditioning:
    return flow.condition(batch.start)


def anchor(signal: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
    assert isinstance(batch.base, SeasonalPrior)
    return batch.base.log_prob(signal, batch.season)


def gradients(loss: ReverseKL, flow: CouplingFlow, batch: Batch) -> Tensor:
    """The gradient of the last layer's bias, one row a member."""
    (bias,) = [p for name, p in flow.transforms.named_parameters() if name.endswith("bias")]
    rows = []
    for member in range(MEMBERS):
        one = Batch(**(vars(batch) | {"deviations": batch.deviations[member : member + 1]}))
        value = loss(flow, one, given(flow, batch), seeded(0))
        rows.append(torch.autograd.grad(value, bias)[0])
    return torch.stack(rows).double()


def test_path_gradient_is_zero_for_every_member_of_the_exact_posterior(
    setting: tuple[CouplingFlow, Batch],
) -> None:
    path, total = (gradients(kind(anchor), *setting) for kind in (PathReverseKL, ReverseKL))
    assert float(path.abs().max()) < 1e-4 * float(total.std(0).max())


def test_path_gradient_has_the_mean_of_the_total_one(
    setting: tuple[CouplingFlow, Batch],
) -> None:
    flow, batch = setting
    kept = {name: value.clone() for name, value in flow.state_dict().items()}
    with torch.no_grad():
        for parameter in flow.transforms.parameters():
            noise = torch.randn(parameter.shape, generator=seeded(1))
            parameter.add_(0.2 * noise)
    path, total = (gradients(kind(anchor), flow, batch) for kind in (PathReverseKL, ReverseKL))
    flow.load_state_dict(kept)
    difference = path - total  # of the same members
    error = difference.std(0) / MEMBERS**0.5
    assert bool((difference.mean(0).abs() < 5 * error).all())
    assert bool((path.mean(0).abs() > 4 * path.std(0) / MEMBERS**0.5).any())


def test_frozen_weights_thaw_again() -> None:
    layer = nn.Linear(2, 1)
    layer.bias.requires_grad_(False)
    with frozen(layer):
        inside = [each.requires_grad for each in layer.parameters()]
    assert inside == [False, False]
    assert [each.requires_grad for each in layer.parameters()] == [True, False]


def test_what_follows_is_trained_and_the_weight_of_each_mode_is_not(
    setting: tuple[CouplingFlow, Batch],
) -> None:
    _, batch = setting
    assert isinstance(batch.base, SeasonalPrior)
    seed_weights(0)
    flow = SpectralFlow(batch.base.annual, 3, candidates=2, width=8, bins=4)
    for parameter in flow.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    start = batch.base.posterior(batch.measurement)

    def size(kind: type[PathReverseKL], names: tuple[str, ...]) -> float:
        flow.zero_grad()
        generator = seeded(0)
        kind(anchor)(flow, batch, flow.condition(start), generator).backward()
        found = [p.grad for name, p in flow.named_parameters() if name.startswith(names)]
        return max(0.0 if grad is None else float(grad.abs().max()) for grad in found)

    weights, others = ("leading_",), ("encoder", "summarize", "follow")
    assert size(FollowingReverseKL, weights) == 0.0
    assert size(PathReverseKL, weights) > 0.0
    following, path = (size(kind, others) for kind in (FollowingReverseKL, PathReverseKL))
    assert following == pytest.approx(path, rel=rounding(256))
    assert path > 0.0


def test_temperature_falls_geometrically_to_one_at_half_time() -> None:
    anneal = Annealing(16.0, steps=100)
    assert [anneal.temperature(step) for step in (0, 25, 50, 75)] == pytest.approx([16, 4, 1, 1])
    assert Annealing(1.0, steps=7).temperature(3) == 1.0
    inner, other = PathReverseKL(anchor), ReverseKL(anchor)
    anneal.apply(WeightedSum({ForwardKL(): 1.0, WeightedSum({inner: 1.0}): 1.0, other: 0.5}), 25)
    assert inner.temperature == other.temperature == pytest.approx(4.0)


def test_at_a_temperature_the_tempered_posterior_is_the_optimum(
    setting: tuple[CouplingFlow, Batch],
) -> None:
    """Of a Gaussian that is twice as wide: there the path gradient is zero for every member."""
    flow, batch = setting
    hot, cold = PathReverseKL(anchor), PathReverseKL(anchor)
    hot.temperature = 4.0
    kept = {name: value.clone() for name, value in flow.state_dict().items()}
    flow.spread[0] = math.log(2.0)
    wide, narrow = (gradients(loss, flow, batch) for loss in (hot, cold))
    flow.load_state_dict(kept)
    assert float(wide.abs().max()) < 1e-4
    assert float(narrow.abs().max()) > 1e-2
