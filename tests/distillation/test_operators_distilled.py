"""A posterior distilled for measurements that are not of nodes, in the units of the data."""

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo.distillation.distill import distill
from apsgeo.errors import InputError
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Measurement
from apsgeo.operators import (
    Block,
    Compose,
    Downsample,
    GaussianBlur,
    Identity,
    Mask,
    Operator,
    PointSample,
    Stack,
    Swath,
)
from apsgeo.operators.base import HELD_OUT_DENSITIES
from apsgeo.operators.linear import LinearMap
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import FieldPrior, fit_prior
from tests.cases import history, rounding, seeded

SPEC = CouplingSpec(
    base="anchor", width=8, depth=1, context=4, local=2, patterns=4, coupling_width=4
)
NOISE = 0.3
POINTS = PointSample(((10.0, 20.0), (-44.0, 200.0), (70.0, 3.0)))
OPERATORS: list[Operator] = [
    Downsample(2),
    Stack((Downsample(2), POINTS)),
    Compose((GaussianBlur(2000.0), Downsample(2))),
]


@pytest.fixture(scope="module")
def prior() -> FieldPrior:
    scales = HybridScales(0.5, 5000.0, 0.01)
    return fit_prior(
        history(10),
        scales=scales,
        anchor_scales=scales,
        rank=5,
        training=Training(steps=4, progress=False),
    )


@pytest.fixture(scope="module", params=OPERATORS, ids=lambda operator: operator.kind)
def posterior(prior: FieldPrior, request: pytest.FixtureRequest) -> Posterior:
    return distill(
        prior, request.param, NOISE, spec=SPEC, training=Training(steps=6, progress=False), rounds=1
    )


def measured(posterior: Posterior, records: int = 3) -> tuple[Tensor, Tensor]:
    fields = torch.from_numpy(history(10).values[:records]).reshape(records, 1, -1)
    y = posterior.linear.apply(fields)
    y = y + NOISE * torch.randn(y.shape, generator=seeded(0))
    y[0, 0, 2] = torch.nan
    return y, torch.arange(records)


def test_the_base_is_the_exact_posterior_in_the_units_of_the_data(posterior: Posterior) -> None:
    y, season = measured(posterior)
    base = posterior.flow.base.posterior(posterior(y, season=season).measurement)
    found = posterior.normals.restore(base.mean, season)
    for i in range(3):
        gaussian = posterior.flow.base.at(i)  # type: ignore[attr-defined]
        every = np.arange(gaussian.size)
        std, mean = (
            part[i].flatten().double().numpy()
            for part in (posterior.normals.std, posterior.normals.mean)
        )
        covariance = std[:, None] * gaussian.covariance(every, every) * std
        matrix = posterior.linear.forward(np.eye(len(std)))
        values = y[i].flatten().double().numpy()
        seen = ~np.isnan(values)
        gram = (matrix @ covariance @ matrix.T + NOISE**2 * np.eye(len(values)))[seen][:, seen]
        gain = covariance @ matrix[seen].T
        expected = mean + gain @ np.linalg.solve(gram, (values - matrix @ mean)[seen])
        # standardized, and turned back, in float32; the gain is that of the observations
        error = rounding(4, values[seen]) * abs(gain).sum(1).max() + rounding(4, expected)
        np.testing.assert_allclose(found[i].flatten().numpy(), expected, rtol=0.0, atol=error)


def test_members_depend_on_neither_batch_nor_what_is_missing(posterior: Posterior) -> None:
    y, season = measured(posterior)
    together = posterior(y, season=season).members(4, 1)
    assert together.shape == (4, 3, 1, 60)
    assert bool(torch.isfinite(together).all())
    alone = posterior(y[1:2], season=season[1:2], key=torch.tensor([1])).members(4, 1)
    # a flow of some hundred sums and products
    error = rounding(256, together)
    torch.testing.assert_close(alone, together[:, 1:2], rtol=0.0, atol=error)


def test_density_of_the_flow_is_that_of_its_draws(posterior: Posterior) -> None:
    y, season = measured(posterior)
    distribution = posterior(y, season=season)
    fields = distribution.rsample([2])
    assert fields.shape == (2, 3, 1, 60)
    assert distribution.log_prob(fields).shape == (2, 3)
    assert bool(torch.isfinite(distribution.log_prob(fields)).all())


def test_saved_and_sent_it_is_the_same(posterior: Posterior, tmp_path: Path) -> None:
    y, season = measured(posterior)
    members = posterior(y, season=season).members(2, 1)
    loaded = Posterior.load(posterior.save(tmp_path / "model"))
    assert loaded.operator == posterior.operator
    for again in (loaded, pickle.loads(pickle.dumps(posterior))):
        found = again(y, season=season).members(2, 1)
        torch.testing.assert_close(found, members, rtol=0.0, atol=rounding(256, members))


def test_what_does_not_fit_is_refused(posterior: Posterior, prior: FieldPrior) -> None:
    y, season = measured(posterior)
    with pytest.raises(InputError, match=r"expected \(batch, channel, observation\)"):
        posterior(y[..., 1:], season=season)
    with pytest.raises(InputError, match="one an observation"):
        distill(
            prior, posterior.operator, torch.ones(2), spec=SPEC, training=Training(progress=False)
        )


def measured_in(month: Tensor, linear: LinearMap) -> Measurement:
    return replace(Measurement.of(month, 1.0, linear), season=torch.tensor([0]))


def test_land_is_not_observed_through_averages(prior: FieldPrior) -> None:
    linear = Downsample(2).on(prior.domain)
    valid = prior.normals.valid.clone()
    valid[0] = False
    normals = type(prior.normals)(prior.normals.mean, prior.normals.std, valid)
    y = torch.ones(1, 1, linear.num_observations)
    seen = normals.measure(measured_in(y, linear)).mask
    assert (~seen).sum() == 1
    identity = Mask().on(prior.domain)
    plain = normals.measure(measured_in(torch.ones(1, 1, 60), identity))
    assert (~plain.mask).sum() == 1


def test_where_all_nodes_are_observed_the_noisy_ones_are_scored(prior: FieldPrior) -> None:
    denoiser = distill(
        prior, Identity(), 3.0, spec=SPEC, training=Training(steps=6, progress=False), rounds=1
    )
    assert bool(torch.isfinite(denoiser.flow.spread).all())
    scores = [row["validation"] for row in denoiser.provenance["log"] if "validation" in row]
    assert scores
    y, season = measured(denoiser)
    assert bool(torch.isfinite(denoiser(y, season=season).mean).all())


def test_held_out_masks_are_of_the_densities_that_are_trained_on() -> None:
    for masks in (Mask(), Block(), Swath(), Mask(0.3, 0.3)):
        densities = masks.held_out_densities
        assert all(masks.least <= each <= masks.most * (1 + 1e-12) for each in densities)
    assert Mask().held_out_densities == HELD_OUT_DENSITIES
    assert Downsample(2).held_out_densities == (1.0,)
