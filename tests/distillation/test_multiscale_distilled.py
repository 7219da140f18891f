"""Distilling a flow from coarse to fine: its base, its score on several scales, its beginning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from apsgeo import FieldPrior, Mask, MultiscaleSpec, Posterior, Training, distill, fit_prior
from apsgeo.distillation.objective import CRPS, ForwardKL, fair_crps
from apsgeo.distillation.pairs import Batch, PairSet
from apsgeo.errors import InputError
from apsgeo.flows.build import CouplingSpec
from apsgeo.flows.start import Moments
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.independent import Independent
from apsgeo.measurement import Measurement
from tests.cases import alike, history, noise, seeded

SPEC = MultiscaleSpec(width=8, depth=1, context=4, embedding=2, level_width=4, nodewise=3)
MONTHS = history(years=5)


@pytest.fixture(scope="module")
def prior() -> FieldPrior:
    scales = HybridScales()
    quiet = Training(steps=0, progress=False)
    return fit_prior(MONTHS, scales=scales, anchor_scales=scales, rank=5, training=quiet)


def distilled(prior: FieldPrior, steps: int = 0, **options: Any) -> Posterior:
    training = Training(steps=steps, batch=8, lr=3e-3, progress=False)
    settings: dict[str, Any] = {"rounds": 1, "folds": 2, "training": training} | options
    return distill(prior, Mask(), 0.5, objective="forward", score_scales=3, **settings)


@pytest.fixture(scope="module")
def trained(prior: FieldPrior) -> Posterior:
    return distilled(prior, steps=24, spec=SPEC)


def measured(prior: FieldPrior, records: int = 2) -> Measurement:
    values = noise(records, 1, prior.domain.num_nodes, seed=3)
    seen = noise(records, 1, prior.domain.num_nodes, seed=4) > 0.3
    return Measurement(
        values, seen, torch.full_like(values, 0.3), season=torch.arange(records)
    ).float()


def test_training_betters_likelihood_and_score_and_is_saved(
    trained: Posterior, tmp_path: Path
) -> None:
    loss = [row["loss"] for row in trained.provenance["log"] if "loss" in row]
    assert loss[-1] < loss[0] - 0.02
    again = Posterior.load(trained.save(tmp_path / "model"))
    y = torch.from_numpy(MONTHS.values[-2:].reshape(2, 1, -1)).clone()
    y[:, :, ::3] = torch.nan
    season = torch.tensor([10, 11])
    members = [each(y, season=season).members(3, seed=1) for each in (trained, again)]
    alike(members[1], members[0])
    densities = [each(y, season=season).log_prob(members[0]) for each in (trained, again)]
    alike(densities[1], densities[0])


def test_values_of_the_independent_base_have_the_local_law(prior: FieldPrior) -> None:
    given, local = measured(prior), VecchiaPrior(prior.anchor)
    base, known = Independent(local).posterior(given), local.posterior(given)
    members = base.members(4000, seed=0)
    torch.testing.assert_close(base.mean, known.mean)
    torch.testing.assert_close(base.std(), known.std())
    z = (members - known.mean) / known.std()
    count = len(z)
    assert float((z.mean(0) * count**0.5).square().mean()) < 1.5
    assert float((z.std(0) - 1.0).abs().max()) < 6 / (2 * count) ** 0.5
    cross = np.corrcoef(z[:, 0, 0].numpy().T)
    assert abs(cross[~np.eye(len(cross), dtype=bool)]).max() < 6 / count**0.5
    normal = torch.distributions.Normal(known.mean.double(), known.std().double())
    expected = normal.log_prob(members[:3].double()).flatten(2).sum(2)
    torch.testing.assert_close(base.log_prob(members[:3]).double(), expected, rtol=1e-5, atol=1e-3)


def batch_of(prior: FieldPrior, flow: Any) -> Batch:
    base = flow.base.posterior(measured(prior))
    deviations = base.deviations(noise(CRPS.members, 2, base.noise_dim, seed=6).float())
    truth = base.mean + noise(*base.mean.shape, seed=7).float() * base.std()
    return Batch(truth, Moments.of(base, flow.functionals), deviations, flow.base)


def test_likelihood_is_that_of_the_draws(prior: FieldPrior, trained: Posterior) -> None:
    flow = trained.flow
    batch = batch_of(prior, flow)
    loss = ForwardKL()(flow, batch, flow.condition(batch.start), seeded(0))
    draws = flow.posterior(measured(prior))
    values = batch.truth[0].numel()
    expected = (draws.base.peak_log_prob() - draws.log_prob(batch.truth)).mean() / values
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-5)


def test_means_over_groups_are_scored(prior: FieldPrior, trained: Posterior) -> None:
    flow, domain = trained.flow, prior.domain
    batch = batch_of(prior, flow)
    given = flow.condition(batch.start)
    std = prior.normals.std
    pools = [(domain.pool(), domain.coarse().areas.float())]
    areas = domain.areas.float()
    found = CRPS(areas * std, std, pools)(flow, batch, given, seeded(0))
    fields, _ = flow.push(batch.deviations[:2], given)
    scale, pool = std[batch.season], domain.pool()
    nodes = (areas * scale * fair_crps(fields, batch.truth)).sum((1, 2))
    coarse = torch.stack([pool(each * scale) for each in fields])
    groups = (pools[0][1] * fair_crps(coarse, pool(batch.truth * scale))).sum((1, 2))
    start = fair_crps(batch.start.mean + batch.deviations[:2], batch.truth)
    expected = ((nodes + groups) / (areas * scale * start).sum((1, 2))).mean()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=0.0)


def test_training_begins_with_the_weights_of_another(prior: FieldPrior, trained: Posterior) -> None:
    again = distilled(prior, start=trained, folds=1)
    assert again.flow.spec == SPEC
    first, second = trained.flow.state_dict(), again.flow.state_dict()
    assert all(torch.equal(first[name], second[name]) for name in first if name != "spread")
    with pytest.raises(InputError, match="start"):
        distilled(prior, start=trained, spec=CouplingSpec())


def test_many_records_without_seasons_meet_many_masks(
    prior: FieldPrior, monkeypatch: pytest.MonkeyPatch
) -> None:
    met: list[PairSet] = []
    draw = PairSet.draw

    def watched(self: PairSet, *arguments: Any) -> Batch:
        met.append(self)
        return draw(self, *arguments)

    monkeypatch.setattr(PairSet, "draw", watched)
    monkeypatch.setattr("apsgeo.distillation.sources._SHARING", 2)
    distilled(prior, steps=1, spec=SPEC)
    sizes = [len(group.times) for group in met[0].groups]
    assert max(sizes) <= 2
    assert len(met[0]) == sum(sizes)
    masks = {tuple(group.mask.flatten().tolist()) for group in met[0].groups}
    assert len(masks) > len(sizes) // 2
