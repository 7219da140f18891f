"""Digits on a mesh at toy size: rows, panels, and that a stopped run goes on."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
import xarray as xr

from apsgeo import fit_prior
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.distillation.measuring import Noise
from apsgeo.distillation.sources import Fields, Measuring
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.build import CouplingSpec, build_flow
from apsgeo.flows.spec import Site
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Family
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from benchmarks.truth.digits import NOISE_STD, Budget, DigitsProblem, digits_rows
from benchmarks.truth.gaussian import domains
from benchmarks.truth.gibbs import Plan
from tests.cases import rounding, seeded

TOY = Budget(
    draws=20,
    measurements=2,
    members=4,
    simulations=20,
    steps=1,
    rounds=2,
    plan=Plan(ratio=8.0, rest_moves=1, falling=3.0, moves=1, sweeps=1, sweep_moves=1),
)


@pytest.fixture(scope="module")
def prior() -> FieldPrior:
    domain = domains()["mesh"]
    smooth = domain.eigenbasis(6)[1][:, :6].float()
    generator = seeded(0)
    fields = torch.randn(60, 6, generator=generator) @ smooth.T
    fields = fields + 0.1 * torch.randn(fields.shape, generator=generator)
    history = xr.DataArray(3.0 + fields.numpy(), dims=("sample", "node"), name="image")
    scales = HybridScales.start(domain)
    found = fit_prior(
        history, domain, scales=scales, anchor_scales=scales, rank=6, training=Training(steps=0)
    )
    # Untrained it is its anchor, so that posteriors are Gaussian.
    found.diffusion = DenoiserSpec("tiny", levels=12).build(
        domain, 1, found.gaussian.annual, torch.zeros(0, domain.num_nodes)
    )
    return found


@pytest.mark.same_bits
def test_rows_are_of_every_method_and_a_second_run_reads_the_chains(
    prior: FieldPrior, tmp_path: Path
) -> None:
    rows, panels = digits_rows(prior, TOY, tmp_path, seed=0)
    names = [row["method"] for row in rows]
    assert names[:2] == ["chains, again", "Gaussian anchor, untrained"]
    assert len(set(names)) == len(names) == 4
    assert all(math.isfinite(row["crps"]) and row["crps"] > 0.3 for row in rows)
    assert set(panels[0].members) == {"chains", *names[1:]}
    assert all(len(each) == TOY.members for each in panels[1].members.values())
    written = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert len(written) == 3
    again, _ = digits_rows(prior, TOY, tmp_path, seed=0)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == written
    assert (again[0]["method"], again[0]["sample_ms"]) == (names[0], rows[0]["sample_ms"])
    for score in ("crps", "energy", "crps_at_truth"):
        expected = pytest.approx([row[score] for row in rows], rel=rounding(64))
        assert [row[score] for row in again] == expected


def test_what_chains_and_flows_are_given_is_one_measurement(prior: FieldPrior) -> None:
    problem = DigitsProblem(prior, TOY, seeded(1))
    truth = problem.process.prior(4)
    given = problem.observe(truth)
    posterior = problem.distill(problem.process.prior(20), "forward", 0, 0)
    flows = posterior(problem.restore(given.seen)).measurement
    for name in ("values", "mask", "noise_std"):
        pair = (getattr(flows, name), getattr(given.measurement, name))
        torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)
    noise = (given.seen - truth)[given.measurement.mask]
    assert float(noise.std()) == pytest.approx(NOISE_STD, rel=5 / math.sqrt(2 * len(noise)))


def test_with_one_fold_measurements_meet_the_anchor_itself(prior: FieldPrior) -> None:
    generator = seeded(2)
    learned = Fields(torch.randn(6, 1, prior.domain.num_nodes), torch.zeros(6, dtype=torch.long))
    family = Family(Mask(), prior.domain)
    spec = CouplingSpec(base="anchor", width=8, depth=0, context=4, patterns=4, coupling_width=4)
    features = torch.zeros(3, prior.domain.num_nodes)
    flow = build_flow(Site(prior.domain, 1, None, features, prior.anchor), spec)
    noise = Noise.of(0.1, family, 1)
    measuring = Measuring(prior, family, noise, flow, generator, progress=False)
    found = {}
    for folds in (1, 2):
        pairs = measuring.simulated(learned, measuring.bases(learned, folds), rounds=1)
        found[folds] = [base is prior.anchor for base in pairs.bases]
    assert found == {1: [True], 2: [False, False]}
