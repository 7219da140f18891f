"""The price of amortization: what it is measured against, at small size."""

import math

import pytest
import torch

from apsgeo.flows.spectral import SpectralFlow
from benchmarks.amortization.suite import TABLE, FixedPairs, gaps, kl_of, optimized
from benchmarks.truth.mixture import MixtureProblem
from benchmarks.truth.training import Recipe
from tests.cases import seed_weights, seeded

SETTING = (2, 3)


def test_a_fixed_set_of_measurements_is_drawn_again_and_again() -> None:
    source = FixedPairs(10, 0, *SETTING)
    generator = seeded(1)
    pairs = source.draw(32, generator, sharing=4)
    assert len(pairs.truth) == 32
    known = {tuple(field.flatten().tolist()) for field in source.truth}
    drawn = {tuple(field.flatten().tolist()) for field in pairs.truth}
    assert len(known) == 10
    assert drawn <= known
    # Values belong to their truths: noise of 0.1 apart where observed.
    error = (pairs.measurement.values - pairs.truth)[pairs.measurement.mask]
    assert float(error.abs().max()) < 0.6
    assert float(error.std()) == pytest.approx(0.1, rel=0.5)


def test_a_flow_optimized_for_a_measurement_is_nearer_to_its_posterior() -> None:
    problem = MixtureProblem(*SETTING)
    generator = seeded(0)
    given = problem.draw(1, generator, density=0.05).measurement
    seed_weights(0)
    flow = SpectralFlow(problem.anchor, problem.patterns)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    better = optimized(problem, flow, given, steps=60, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in flow.state_dict().items())
    # 256 members have a standard error of a tenth of a nat here.
    assert kl_of(problem, better, given, 1) < kl_of(problem, flow, given, 1) - 0.3


def test_the_table_says_what_amortization_costs() -> None:
    rows = gaps([4, math.inf], Recipe(steps=4), fields=1, steps=2, seed=0, setting=SETTING)
    assert [row["measurements"] for row in rows] == [4.0] * 3 + [math.inf] * 3
    assert all(math.isfinite(row["gap"]) for row in rows)
    text = TABLE.markdown(rows)
    assert text.count("| without end |") == 3
    assert f"{rows[0]['amortized']:.2f}" in text
