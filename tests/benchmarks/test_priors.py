"""The benchmark of log-densities: its priors are what it says, and its verdict can fail."""

import csv
from pathlib import Path

import numpy as np
import pytest

from benchmarks.__main__ import main
from benchmarks.priors import suite as priors
from benchmarks.priors.cases import SHAPES, make_case
from benchmarks.priors.report import report
from tests.cases import seeded


@pytest.mark.parametrize(("components", "mean_rms"), SHAPES)
def test_anchor_has_the_mean_and_covariance_of_the_mixture(
    components: int, mean_rms: float
) -> None:
    case = make_case(64, components, mean_rms, seeded(0))
    every = np.arange(64)
    means, weights = case.prior.means.flatten(1).numpy(), case.prior.weights.numpy()
    expected = np.einsum("k,ki,kj->ij", weights, means, means)
    for weight, component in zip(weights, case.prior.components, strict=True):
        expected += weight * component.covariance(every, every)
    np.testing.assert_allclose(case.anchor.covariance(every, every), expected, atol=1e-12)
    np.testing.assert_allclose(weights @ means, 0.0, atol=1e-12)


def test_a_small_run_writes_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(priors, "SHAPES", ((1, 0.0), (2, 0.7)))
    arguments = ["priors", "--parts", "2", "--share", "0.02"]
    arguments += ["--output", str(tmp_path), "--figures", str(tmp_path)]
    main(arguments)
    with (tmp_path / "priors.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    exact = [row for row in rows if row["method"] == "ode-exact"]
    assert all(abs(float(row["bias"])) < 1e-5 for row in exact)
    assert (tmp_path / "priors.png").stat().st_size > 10_000
    assert "--share 0.02" in (tmp_path / "priors.md").read_text(encoding="utf-8")


def test_a_bias_is_named_in_the_report() -> None:
    about = {"dims": 64, "components": 2, "mean_rms": 0.7, "log_density": -80.0, "anchor_gap": 2.0}
    found = {"bias": 0.1, "standard_error": 0.1, "pass_std": 8.0}
    good = [{**about, **found, "method": name} for name in ("elbo", "elbo-anchored", "anchored")]
    assert "No bias is above three standard errors" in report(good, [], "")
    bad = [*good[:2], {**good[2], "bias": -0.4}]
    assert "(b) anchored in 64 (2, 0.7)" in report(bad, [], "")
