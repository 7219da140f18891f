"""The benchmark of images at small size: its scores, its table and its figure."""

import math
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy.ndimage import maximum_filter

import apsgeo
from apsgeo.flows.build import CouplingSpec, MultiscaleSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.metrics.table import Row
from apsgeo.operators import Downsample, Mask
from benchmarks.images.cases import ImageCase, dark, smoothest
from benchmarks.images.figure import draw
from benchmarks.images.scores import TABLE, score
from benchmarks.images.suite import kept, measure, run_ablation, run_task
from benchmarks.tasks import Task
from tests.cases import numpy_seeded

NOISE = 0.05


@pytest.fixture(scope="module")
def case() -> ImageCase:
    """Return bright discs on a dark ground."""
    rng = numpy_seeded(0)
    y, x = np.mgrid[:12, :12]
    middle = rng.uniform(3.0, 8.0, (60, 2, 1, 1))
    away = np.hypot(y - middle[:, 0], x - middle[:, 1])
    values = (away < 2.0) + 0.004 * rng.random((60, 12, 12))
    images = xr.DataArray(values.astype(np.float32), dims=("sample", "y", "x"), name="disc")
    return ImageCase(
        "discs",
        train=images[:48],
        test=images[48:],
        fitted=30,
        tasks=(Task("halves", Downsample(2), NOISE), Task("few", Mask(), NOISE, density=0.1)),
        data_range=1.0,
        background=lambda truth: maximum_filter(truth, size=(1, 3, 3)) < 0.01,
        colours="gray",
        shading=0.0,
        rank=8,
        large=True,
        flow=MultiscaleSpec(width=8, depth=1, context=4, level_width=4),
        steps=2,
        batch=4,
        lr=1e-3,
        rounds=1,
        score_scales=2,
        held_out=5,
        members=6,
        most_images=4,
        ablation=CouplingSpec(width=8, depth=1, local=2, coupling_width=4),
    )


def test_scores_of_the_truth_and_of_the_truth_with_noise(case: ImageCase) -> None:
    truth = case.test.values[:5].astype(np.float64)
    noise = NOISE * numpy_seeded(1).standard_normal((40, *truth.shape))
    row = score(case, "task", "method", truth + noise, truth, train_seconds=0.0, sample_ms=0.0)
    count = noise[0].size
    # Standard errors: of a variance's root, over all pixels and members.
    error = 5.0 / math.sqrt(2.0 * count)
    assert row["psnr_one"] == pytest.approx(-20 * math.log10(NOISE), abs=20 * error)
    assert row["psnr_mean"] == pytest.approx(row["psnr_one"] + 10 * math.log10(40), abs=20 * error)
    assert row["diversity"] == pytest.approx(NOISE, rel=error)
    assert row["speckle"] == pytest.approx(NOISE, rel=error)
    assert row["ssim_one"] < row["ssim_mean"] < 1.0
    assert row["roughness"] > 1.0
    exact = np.broadcast_to(truth, (3, *truth.shape)) + 1e-9 * noise[:3]
    same = score(case, "task", "method", exact, truth, train_seconds=0.0, sample_ms=0.0)
    assert same["speckle"] < 1e-8
    assert same["roughness"] == pytest.approx(1.0, abs=1e-6)


def test_where_noise_shows() -> None:
    truth = np.zeros((2, 40, 40))
    truth[0, 20, 20] = 1.0
    grey = dark(truth)
    assert int((~grey).sum()) == 9
    assert not grey[0, 19:22, 19:22].any()
    rng = numpy_seeded(0)
    rough = rng.standard_normal((2, 40, 40))
    rough[1, 8:16, 24:32] *= 0.01
    rough[1, 16:24, 24:40] *= 0.02
    rough[0, :8, :16] *= 0.03
    smooth = smoothest(rough)
    assert int(smooth.sum()) == 5 * 64
    assert smooth[1, 8:16, 24:32].all()
    assert smooth[1, 16:24, 24:40].all()
    assert smooth[0, :8, :16].all()


def test_every_task_has_rows_panels_and_a_table(case: ImageCase, tmp_path: Path) -> None:
    prior = apsgeo.fit_prior(
        case.train[: case.fitted],
        training=apsgeo.Training(steps=0, progress=False),
        rank=case.rank,
        scales=HybridScales(range_km=2.0),
        anchor_scales=HybridScales(range_km=2.0),
    )
    rows: list[Row] = []
    panels = {}
    for task in case.tasks:
        _, given = measure(prior, case, task, 4, seed=1)
        assert bool(given.mask.all()) == (task.name == "halves")
        work = partial(run_task, case, prior, task, images=4, steps=2, seed=0)
        found, shown = kept(tmp_path / task.name, work)
        again, same = kept(tmp_path / task.name, work)
        assert [row["sample_ms"] for row in again] == [row["sample_ms"] for row in found]
        assert list(same) == list(shown)
        np.testing.assert_array_equal(same["measured"], shown["measured"])
        rows += found
        panels[task.name] = shown
    methods = ["Gaussian posterior", "start of APS", "APS"]
    assert [row["method"] for row in rows] == methods * 2
    other, _ = run_ablation(case, prior, case.tasks[1], images=4, steps=2, seed=0)
    assert [row["method"] for row in other] == ["APS, one scale"]
    text = TABLE.markdown(rows)
    assert f"{rows[2]['crps']:.4g}" in text
    axes = draw(panels, case).axes
    assert len(axes) == 4 * (2 + 2 * 4)
    titles = [each.get_title() for each in axes]
    assert titles[:2] == ["truth", "measured"]
    assert all(titles[:10])
    assert not any(titles[10:])
    shaded = draw(panels, replace(case, shading=1.0)).axes[0].images[0].get_array()
    assert shaded is not None
    assert shaded.shape == (12, 12, 4)
