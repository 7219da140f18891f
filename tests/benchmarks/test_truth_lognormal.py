"""The log-normal problem of the truth suite: its exact posterior, and its rows at toy size."""

from __future__ import annotations

import math

import pytest
import torch

from benchmarks.truth.lognormal import LogNormalProblem, lognormal_rows
from tests.cases import seeded


@pytest.fixture(scope="module")
def problem() -> LogNormalProblem:
    return LogNormalProblem(6)


def test_the_exact_posterior_is_that_of_the_logarithm(problem: LogNormalProblem) -> None:
    generator = seeded(0)
    truth = problem.sample(2, generator)
    given = problem.observe(truth, generator)
    given[:, :, :4] = truth[:, :, :4]
    members = 4000
    found = problem.exact(given, members, 1)
    nodes = problem.domain.num_nodes
    # D(x; v) = C (C + v^2)^-1 x, so that C = v^2 (1 - D)^-1 D with D of the identity
    share = problem.logarithm.denoise(torch.eye(nodes)[:, None], 1e3)[:, 0].double()
    identity = torch.eye(nodes).double()
    covariance = 1e6 * torch.linalg.solve(identity - share, share)
    for record in range(2):
        seen = ~given[record, 0].isnan()
        torch.testing.assert_close(
            found[:, record, 0, seen].mean(0), truth[record, 0, seen], rtol=5e-3, atol=0.0
        )
        known = given[record, 0, seen].double().log()
        cross = covariance[:, seen]
        solved = torch.linalg.solve(covariance[seen][:, seen], torch.stack([known], 1))
        mean = (cross @ solved)[:, 0]
        var = (
            covariance - cross @ torch.linalg.solve(covariance[seen][:, seen], cross.T)
        ).diagonal()
        drawn = found[:, record, 0].double().log()
        error = (drawn.mean(0) - mean)[~seen] / var[~seen].sqrt() * math.sqrt(members)
        assert float(error.abs().max()) < 5.0  # of about thirty standard errors
        ratio = drawn.std(0)[~seen] / var[~seen].sqrt()
        assert float((ratio - 1.0).abs().max()) < 5.0 / math.sqrt(2 * members)


def test_only_the_logarithm_keeps_fields_above_zero() -> None:
    rows = lognormal_rows(2, history=60, fields=30, members=7, seed=0, side=8)
    by_name = {row["method"]: row for row in rows}
    assert len(by_name) == 5
    assert by_name["exact posterior"]["impossible"] == 0.0
    assert by_name["Gaussian anchor of the logarithm, untrained"]["impossible"] == 0.0
    assert by_name["Gaussian anchor, untrained"]["impossible"] > 0.0
    assert all(math.isfinite(row["crps"]) and row["crps"] > 0.5 for row in rows)
