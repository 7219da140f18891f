"""Flows that start locally: known marginals, the score by them, and the time foretold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from apsgeo import FieldPrior, Gaps, ImageDomain, Mask, Posterior, Training, distill, fit_prior
from apsgeo.distillation.objective import CRPS, fair_crps, normal_crps
from apsgeo.distillation.pairs import Batch
from apsgeo.domains import Domain
from apsgeo.flows.build import CouplingSpec
from apsgeo.flows.start import Moments
from apsgeo.gaussian.localised import MOST_VALUES
from apsgeo.gaussian.scales import HybridScales, LocalisedScales
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Measurement
from apsgeo.metrics.scores import crps_normal
from apsgeo.prior import _small_enough
from tests.cases import history, noise, seed_weights, seeded

SPEC = CouplingSpec(width=8, depth=1, context=4)
MONTHS = history(years=8)
QUIET = Training(steps=0, progress=False)


@pytest.fixture(scope="module")
def prior() -> FieldPrior:
    scales = HybridScales()
    return fit_prior(MONTHS, scales=scales, anchor_scales=scales, rank=5, training=QUIET)


def distilled(prior: FieldPrior, spec: CouplingSpec = SPEC, **options: Any) -> Posterior:
    settings: dict[str, Any] = {"rounds": 1, "folds": 2, "training": QUIET} | options
    return distill(prior, Gaps(), (0.1, 1.0), spec=spec, **settings)


def moved(posterior: Posterior) -> Posterior:
    """Take the maps of a flow away from the identity."""
    seed_weights(1)
    for parameter in posterior.flow.transforms.parameters():  # type: ignore[union-attr]
        torch.nn.init.normal_(parameter, std=0.2)
    return posterior


def measured(prior: FieldPrior, records: int = 2) -> Measurement:
    nodes = prior.domain.num_nodes
    values = noise(records, 1, nodes, seed=3)
    seen = noise(records, 1, nodes, seed=4) > 0.3
    season = torch.arange(records)
    return Measurement(values, seen, torch.full_like(values, 0.3), season=season)


def test_marginals_are_those_of_the_members(prior: FieldPrior) -> None:
    posterior = moved(distilled(prior))
    flow, measurement = posterior.flow, measured(prior)
    flow.spread[0] = 0.3
    draws = flow.posterior(measurement)
    known = flow.marginals(draws.conditioning)
    assert known is not None
    mean, std = (each.detach() for each in known)
    members = draws.members(4000, seed=0)
    count = len(members)
    z = (members.mean(0) - mean) / (std / count**0.5)
    # the base's std is given near observations: that of its draws is smaller by a few per cent
    assert float(z.square().mean()) < 1.3
    ratio = members.std(0) / std
    assert 0.95 < float(ratio.median()) < 1.02
    assert 0.8 < float(ratio.min()) <= float(ratio.max()) < 1.1


@pytest.mark.parametrize(
    "spec",
    [
        replace(SPEC, local=2, coupling_width=4),
        replace(SPEC, elementwise="spline", bins=4),
        replace(SPEC, base="anchor"),
    ],
    ids=["couplings", "splines", "exact base"],
)
def test_other_marginals_are_not_known(prior: FieldPrior, spec: CouplingSpec) -> None:
    flow = distilled(prior, spec).flow
    assert flow.marginals(flow.posterior(measured(prior)).conditioning) is None


def test_the_normal_score_is_that_of_many_members() -> None:
    mean, std, truth = (noise(50, seed=k).double() for k in range(3))
    std = std.exp()
    found = normal_crps(mean, std, truth)
    np.testing.assert_allclose(found, crps_normal(mean, std, truth), rtol=1e-12)
    members = mean + std * noise(4000, 50, seed=5)
    error = (fair_crps(members, truth) - found) / std
    assert float(error.abs().max()) < 5 / 4000**0.5


def test_the_score_is_relative_to_the_base(prior: FieldPrior) -> None:
    posterior = distilled(prior)
    flow, measurement = posterior.flow, measured(prior).float()
    base = flow.base.posterior(measurement)
    deviations = base.deviations(noise(CRPS.members, 2, base.noise_dim, seed=6).float())
    start = Moments.of(base, flow.functionals)
    truth = base.mean + noise(*base.mean.shape, seed=7).float() * base.std()
    batch = Batch(truth, start, deviations, flow.base)
    score = CRPS(prior.domain.areas.float() * prior.normals.std)
    flow.spread.zero_()
    loss = score(flow, batch, flow.condition(start), seeded(0))
    assert loss.item() == pytest.approx(1.0, abs=1e-6)  # untrained, the flow is its base
    flow.spread[0] = 1.0
    wide = score(flow, batch, flow.condition(start), seeded(0))
    assert wide.item() > 1.2


@pytest.mark.same_bits
def test_training_betters_the_score_and_is_saved(prior: FieldPrior, tmp_path: Any) -> None:
    training = Training(steps=30, batch=8, lr=3e-3, progress=False)
    made = distilled(prior, training=training)
    assert isinstance(made.flow.base, VecchiaPrior)
    again = Posterior.load(made.save(tmp_path / "model"))
    values = MONTHS.values[-2:].reshape(2, 1, -1)
    y = torch.where(measured(prior).mask, torch.from_numpy(values), torch.nan)
    season = torch.tensor([10, 11])
    members = [each(y, season=season).members(3, seed=1) for each in (made, again)]
    assert torch.equal(*members)
    loss = [row["loss"] for row in made.provenance["log"] if "loss" in row]
    assert loss[-1] < loss[0]


@pytest.mark.same_bits
def test_it_says_beforehand_how_long_it_takes(
    prior: FieldPrior, capsys: pytest.CaptureFixture[str]
) -> None:
    quiet, loud = Training(steps=2, batch=4, progress=False), Training(steps=2, batch=4)
    silent = distilled(prior, training=quiet)
    assert capsys.readouterr().err == ""
    told = distilled(prior, training=loud)
    said = capsys.readouterr().err
    assert "distill: about" in said
    assert "24 groups of pairs" in said  # two folds, twelve months, one round
    assert "2 steps" in said
    for name, weights in silent.flow.state_dict().items():
        torch.testing.assert_close(told.flow.state_dict()[name], weights, msg=name)


def test_the_anchor_of_a_large_grid_is_localised() -> None:
    domain = ImageDomain(300, 200)
    small = _small_enough(domain, torch.ones(2, 1, domain.num_nodes), None)
    assert small is not None
    coarse, fields, _ = small
    assert MOST_VALUES / 4 < coarse.num_nodes <= MOST_VALUES
    assert fields.shape == (2, 1, coarse.num_nodes)
    torch.testing.assert_close(fields, torch.ones_like(fields))

    class Whole(ImageDomain):
        can_coarsen = False

    whole: Domain = Whole(300, 200)
    assert _small_enough(whole, torch.ones(2, 1, domain.num_nodes), None) is None


def test_masks_and_operators_of_few_nodes_start_locally_on_localised_anchors() -> None:
    scales = LocalisedScales.start(ImageDomain(6, 5))
    images = MONTHS.isel(lat=slice(0, 6), lon=slice(0, 5)).drop_vars(["lat", "lon"])
    images = images.rename(lat="y", lon="x")
    made = fit_prior(images, anchor_scales=scales, scales=HybridScales(2.0), rank=4, training=QUIET)
    posterior = distill(made, Mask(), 0.3, spec=SPEC, folds=2, rounds=1, training=QUIET)
    y = torch.full((1, 1, 30), torch.nan)
    y[..., ::4] = 1.0
    found = posterior(y, season=torch.tensor([0]))
    exact = Posterior.of(made, made.anchor, Mask(), 0.3)(y, season=torch.tensor([0]))
    # few observations, and one block: local is exact, up to the table of the taper
    np.testing.assert_allclose(found.draws.base.mean, exact.draws.mean, atol=0.02)  # type: ignore[attr-defined]
