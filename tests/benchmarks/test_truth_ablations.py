"""Ablations where the posterior is known: what they vary is what they say, at small size."""

import math

import pytest
import torch

from apsgeo.gaussian.draws import WhiteNoise
from apsgeo.gaussian.mixture import GaussianMixturePrior
from benchmarks.ablations import fields as ablation_fields
from benchmarks.ablations import planar as ablation_planar
from benchmarks.ablations.fields import NoisyProblem, unlike, unlike_rows
from benchmarks.ablations.planar import exact_diffusion, trained_prior
from benchmarks.ablations.suite import report
from benchmarks.truth.mixture import NOISE_STD, MixtureProblem
from benchmarks.truth.planar import EightGaussians
from benchmarks.truth.planar_rows import Plan, planar_flow
from benchmarks.truth.training import Recipe
from tests.cases import rounding, seeded

SETTING = (2, 3)


def test_the_exact_diffusion_is_that_of_the_eight_gaussians() -> None:
    density = EightGaussians()
    points = density.sample(50, seeded(0))
    prior = exact_diffusion(density).prior
    assert isinstance(prior, GaussianMixturePrior)
    expected = density.log_prob(points[:, 0].double())
    # Centres near 2 are in float32; four spreads of 1/4 off, log p moves 16 times as far as each.
    error = rounding(2, 2 * 16 * 2.0)
    torch.testing.assert_close(prior.log_prob(points.double()), expected, rtol=0.0, atol=error)


def test_objectives_are_tried_from_both_bases(monkeypatch: pytest.MonkeyPatch) -> None:
    plans: list[Plan] = []
    monkeypatch.setattr(
        ablation_planar, "_all", lambda densities, methods, **_: plans.extend(methods)
    )
    ablation_planar.objective_rows()
    white = [isinstance(planar_flow(EightGaussians(), plan).base, WhiteNoise) for plan in plans]
    assert white == 6 * [True] + 6 * [False]


def test_the_bound_of_a_trained_prior_is_below_its_density() -> None:
    """Model error and gap are divergences, up to the error of 60 points."""
    _, short, gap = trained_prior(EightGaussians(), 20, seed=0, points=60)
    assert short > -0.5
    assert gap > -0.15


def test_measurements_unlike_the_usual_have_other_noise_and_masks() -> None:
    problem = MixtureProblem(*SETTING)
    found = unlike(problem, 40, seed=0)
    for factor in (0.25, 1.0, 4.0):
        pairs = found[f"points, noise × {factor:g}"]
        error = (pairs.measurement.values - pairs.truth)[pairs.measurement.mask]
        standard = 1.0 / math.sqrt(2.0 * len(error))  # of the standard deviation's error
        assert float(error.std()) == pytest.approx(factor * NOISE_STD, rel=5 * standard)
    near = problem.domain.positions
    for name in ("a region, 5% observed", "swaths, 5% observed"):
        mask = found[name].measurement.mask[0, 0]
        assert 0 < int(mask.sum()) < len(near)


def test_noise_in_a_range_is_told_to_the_flow() -> None:
    generator = seeded(0)
    drawn = [NoisyProblem(*SETTING).draw(1, generator).measurement for _ in range(20)]
    each = torch.stack([given.noise_std[given.mask][0] for given in drawn]) / NOISE_STD
    assert float(each.min()) >= 0.25
    assert float(each.max()) <= 4.0
    assert float(each.max() / each.min()) > 4.0


def test_tables_have_a_row_for_each_variant(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = unlike_rows(Recipe(steps=2), fields=4, seed=0, setting=SETTING)
    assert len(rows) == 15
    monkeypatch.setattr(
        ablation_planar,
        "_REFERENCE",
        Plan("", "anchor", ablation_planar._SPLINE, "mixed", couplings=1, width=4),
    )
    estimators = ablation_planar.estimator_rows(steps=2, fields=30, seed=0)
    assert [row["method"].split(", ")[1][:3] for row in estimators] == ["exa", "(a)", "(b)"]
    monkeypatch.setattr(ablation_fields, "_SIZES", {"as it is": {}})
    sizes = ablation_fields.size_rows(Recipe(steps=2), fields=4, seed=0, setting=SETTING)
    assert len(sizes) == 2
    text = report("small", {"One": rows, "Two": estimators}, "made")
    assert text.count("## ") == 2
