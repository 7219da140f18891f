"""A contest over a real cluster: a killed worker, a run that was stopped, a row made alone."""

from __future__ import annotations

import argparse
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

from apsgeo.baselines.gaussian import local
from apsgeo.diffusion import fit
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.domains import ImageDomain
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Draws, Measurement
from apsgeo.metrics import scores
from apsgeo.operators import Downsample, Mask
from benchmarks.options import add_options
from benchmarks.rivals.contest import Case, Contest, Job, run_job
from benchmarks.rivals.fields import (
    APS,
    START,
    Fields,
    FieldSuite,
    Gaussian,
    options_of,
    run_suite,
)
from benchmarks.rivals.harness import COLUMNS, Run, read_rows, run_jobs
from benchmarks.rivals.nongaussian import Rooted
from benchmarks.rivals.report import TABLE, pareto_figure, side_by_side, summary
from benchmarks.tasks import Task
from benchmarks.views import picture
from tests.cases import alike, noise, numpy_seeded, seeded

DOMAIN = ImageDomain(12, 12)
VIEW = picture(DOMAIN)
FIELDS, MEMBERS = 3, 4
AGAIN = ("members", "crps", "energy", "variance", "covered90", "rank")
"""What is the same whoever does a job, and however often."""


class Deadly:
    """Kill the process that asks first, without a word; then be the prior."""

    name = "deadly"

    def __init__(self, prior: LowRankPrior, mark: Path) -> None:
        self.prior, self.mark = prior, mark

    def posterior(self, measurement: Measurement) -> Draws:
        if not self.mark.exists():
            self.mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.prior.posterior(measurement)


def prior(rank: int) -> LowRankPrior:
    loadings = torch.tensor(numpy_seeded(0).normal(0, 1, (1, DOMAIN.num_nodes, 3))) / 2.0
    return LowRankPrior(DOMAIN, loadings[..., :rank], white_std=0.3 if rank else 1.0)


def contest(mark: Path) -> Contest:
    """Three methods on two ways of measuring three fields."""
    truth = prior(3).sample(FIELDS, seeded(1)).double()
    cases = []
    for share in (0.2, 0.6):
        mask = torch.rand(truth.shape, generator=seeded(2)) < share
        given = Measurement(
            truth + 0.1 * noise(*truth.shape), mask, torch.tensor(0.1), key=torch.arange(5, 8)
        )
        weights = (~mask[:, 0]).double().numpy()
        cases.append(Case(f"{share:.0%}", truth, given, weights, VIEW, data_range=4.0))
    methods: dict[str, Any] = {"deadly": Deadly(prior(3), mark), "mean": prior(0), "APS": prior(3)}
    return Contest(cases, methods, few={"mean": 2}, fewer_members={"mean": 2})


def opened(folder: Path) -> Contest:
    """Open the contest of a folder of models."""
    return contest(Path((folder / "mark.txt").read_text()))


@pytest.fixture
def run(tmp_path: Path) -> Run:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "mark.txt").write_text(str(tmp_path / "mark"))
    return Run(
        tmp_path / "models",
        tmp_path / "rows",
        members=MEMBERS,
        device="cpu",
        workers=2,
        zarr=tmp_path / "members.zarr",
        progress=False,
    )


def test_a_killed_workers_fields_are_done_again_and_the_table_is_the_same(
    run: Run, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    rows = run_jobs(opened(run.models), opened, run)
    assert mark.exists()  # a worker was killed
    toy = contest(mark)
    expected = [run_job(toy, job, members=MEMBERS, seed=0) for job in toy.jobs()]
    assert len(rows) == len(expected) == 2 * (2 * FIELDS + 2)
    assert set(rows[0]) == set(COLUMNS)
    made = {tuple(row[key] for key in ("case", "method", "field")): row for row in rows}
    for result in expected:
        row = made[tuple(result.row[key] for key in ("case", "method", "field"))]
        for key in AGAIN:
            six_digits = pytest.approx(result.row[key], rel=1e-5)  # which are written
            assert row[key] == six_digits
    # A run that was stopped, in the middle of a line, goes on with what is left; where that is
    # nothing, no cluster starts.
    path = run.folder / "rows.csv"
    text = path.read_text()
    assert run_jobs(toy, opened, run) == rows
    path.write_text(text + text.splitlines()[-1][:30])
    assert run_jobs(toy, opened, replace(run, workers=0)) == rows
    kept = zarr.open_array(tmp_path / "members.zarr", path="20--APS", mode="r")
    single = run_job(toy, Job("20%", "APS", 1), members=MEMBERS, seed=0, keep=True).members
    assert single is not None
    alike(torch.from_numpy(np.asarray(kept[1])), torch.from_numpy(single))
    assert side_by_side(toy.cases[0], toy, run.folder / "pictures").axes
    assert len(pareto_figure(summary(rows, "APS")).axes) == 2


def test_a_row_has_the_scores_of_its_members() -> None:
    toy = contest(Path("/"))
    result = run_job(toy, Job("60%", "APS", 2), members=MEMBERS, seed=3, keep=True)
    case, row = toy.cases[1], result.row
    assert result.members is not None
    members, truth = result.members.reshape(MEMBERS, -1), case.truth[2].flatten().numpy()
    crps = scores.crps_ensemble(members, truth)[case.weights[2] > 0].mean()
    assert row["crps"] == pytest.approx(crps, rel=1e-5)
    assert row["square_of_one"] == pytest.approx(
        ((members - truth)[:, case.weights[2] > 0] ** 2).mean(), rel=1e-5
    )
    assert row["evaluations"] == 0
    assert 0 <= row["rank"] <= MEMBERS


def rows_of(method: str, values: list[float], **more: float) -> list[dict[str, Any]]:
    return [
        {
            **dict.fromkeys(COLUMNS, 1.0),
            "case": "one",
            "method": method,
            "field": number,
            "members": 4,
            "rank": number % 5,
            "crps": value,
            **more,
        }
        for number, value in enumerate(values)
    ]


def test_differences_are_over_the_fields_that_both_have() -> None:
    rows = rows_of("APS", [1.0, 2.0, 30.0], variance=4.0) + rows_of("DPS", [1.1, 2.2])
    best, other = summary(rows, "APS")
    assert best["spread_skill"] == 2.0
    assert other["crps_against"] == "+10.0 [+10.0, +10.0]"
    assert other["fields"] == 2
    # The mean of two easy fields is lower, and yet not bold.
    lines = TABLE.markdown([best, other]).splitlines()
    assert "**11**" in lines[2]
    assert other["comparable"] != best["comparable"]


def test_an_interval_covers_what_chance_may_do() -> None:
    rng = numpy_seeded(4)
    base = rng.uniform(1.0, 2.0, 50)
    noisy = base + rng.normal(0.0, 0.3, 50)
    text = summary(rows_of("APS", [*base]) + rows_of("x", [*noisy]), "APS")[1]["crps_against"]
    low, high = (float(part) for part in text.split("[")[1].rstrip("]").split(", "))
    # The standard error of the mean is 0.3 / sqrt(50), 2.8 % of the mean of 1.5.
    assert 6.0 < high - low < 18.0
    assert low < 0.0 < high or abs(float(text.split(" ")[0])) > 4.0


def discs() -> Fields:
    """Bright discs on a dark ground, seen without a column of pixels."""
    rng = numpy_seeded(5)
    y, x = np.mgrid[:12, :12]
    middle = rng.uniform(3.0, 8.0, (60, 2, 1, 1))
    values = (np.hypot(y - middle[:, 0], x - middle[:, 1]) < 2.0) + 0.01 * rng.random((60, 12, 12))
    images = xr.DataArray(values.astype(np.float32), dims=("sample", "y", "x"), name="disc")
    return Fields(DOMAIN, np.where(x > 0, VIEW, -1), images[:30], images[30:50], images[50:])


@pytest.fixture(scope="module")
def suite() -> FieldSuite:
    flow = {"spec": CouplingSpec(width=8, depth=1)}
    scales = HybridScales(range_km=2.0)
    masks = Mask(0.1, 0.6)
    return FieldSuite(
        title="Discs",
        about="Discs.",
        fields=lambda seed: discs(),
        tasks={
            "few": Task("10 %", masks, 0.05, density=0.1, hidden_only=True),
            "many": Task("50 %", masks, 0.05, density=0.5),
            "coarse": Task("coarse", Downsample(2), 0.05),
        },
        prior={
            "rank": 8,
            "scales": scales,
            "anchor_scales": scales,
            "spec": DenoiserSpec("tiny", levels=4),
            "quality_control": "off",
        },
        networks={START: flow, APS: flow},
        gaussians={"of the root": Gaussian({"rank": 4}, local, lambda x: x**0.5, Rooted)},
        data_range=1.0,
        anomalies=True,
    )


def test_a_suite_of_fields_makes_its_models_once_and_its_page(
    suite: FieldSuite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fit, "_LEAST_SAMPLES", 4)
    monkeypatch.setattr(fit, "_SAMPLED_VALUES", 4)
    given = ["--fields", "2", "--iterative-fields", "1", "--iterative-members", "2"]
    given += [
        "--parts",
        "few",
        "coarse",
        "--steps",
        "2",
        "--prior-steps",
        "2",
        "--flow-steps",
        "2",
        "--members",
        "3",
    ]
    given += ["--device", "cpu", "--build", str(tmp_path / "build")]
    given += ["--output", str(tmp_path), "--figures", str(tmp_path)]
    parser = argparse.ArgumentParser()
    add_options(parser, options_of(suite))
    run_suite("discs", suite, parser.parse_args(given), "made here")
    page = (tmp_path / "discs.md").read_text()
    rows = read_rows(tmp_path / "discs.csv")
    names = {row["method"] for row in rows}
    assert {START, APS, "of the root", "DPS", "hybrid Gaussian"} <= names
    assert TABLE.markdown(summary(rows, APS)) in page
    assert (tmp_path / "discs-fields.png").exists()
    models = sorted((tmp_path / "build" / "discs" / "models").iterdir())
    # One flow for all masks, and one for coarse images; nothing is trained again.
    assert [path.name for path in models if path.name.endswith("-APS")] == [
        "downsample-APS",
        "mask-APS",
    ]
    before = [path.stat().st_mtime_ns for path in models]
    options = parser.parse_args([*given, "--only", "10 %", APS, "1"])
    run_suite("discs", suite, options, "made here")
    assert [path.stat().st_mtime_ns for path in models] == before


def test_pictures_are_compared_where_there_are_nodes_and_without_their_normals() -> None:
    toy = contest(Path("/"))
    hidden, normal = np.where(np.arange(144) % 12 == 0, -1, np.arange(144)), np.full((3, 144), 7.0)
    case = replace(toy.cases[1], view=hidden.reshape(12, 12), normal=normal)
    picture = case.picture(case.truth[0, 0].numpy(), 0)
    assert np.isnan(picture[:, 0]).all()
    np.testing.assert_allclose(
        picture[:, 1:].ravel(), case.truth[0, 0].reshape(12, 12)[:, 1:].ravel() - 7.0
    )
    found = {}
    for name, each in (("whole", toy.cases[1]), ("cut", case)):
        one = Contest([each], {"APS": toy.methods["APS"]})
        found[name] = run_job(one, Job("60%", "APS", 0), members=MEMBERS, seed=0).row
    # What is left out is left out, and what is subtracted from both does not matter.
    assert found["cut"]["psnr"] != found["whole"]["psnr"]
    again = replace(case, normal=None)
    one = Contest([again], {"APS": toy.methods["APS"]})
    row = run_job(one, Job("60%", "APS", 0), members=MEMBERS, seed=0).row
    assert row["psnr"] == pytest.approx(found["cut"]["psnr"])
    assert row["crps"] == found["whole"]["crps"]


def test_a_root_comes_back_as_rain() -> None:
    truth = prior(3).sample(2, seeded(8)).square()
    mask = torch.rand(truth.shape, generator=seeded(9)) < 0.5
    given = Measurement(truth, mask, torch.tensor(1e-4))
    members = Rooted(prior(3)).posterior(given).members(5, seed=0)
    assert members.min() >= 0.0
    near = (members - truth)[:, mask].abs().max()
    # The prior's white part is .3 of its spread, the noise far less.
    assert near < 0.01
