"""The benchmark of domains: its one code path, on small made-up cases that live anywhere."""

import csv
import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from apsgeo.domains import Domain, HEALPixDomain, ImageDomain, MeshDomain
from apsgeo.gaussian.matern import MaternField
from apsgeo.measurement import Normals
from apsgeo.metrics.table import write_rows
from benchmarks.__main__ import parse
from benchmarks.domains.cases import Case, monthly, samples
from benchmarks.domains.figure import draw
from benchmarks.domains.suite import TASKS, evaluate, fit, report, row_of
from benchmarks.report import RESULTS, provenance
from benchmarks.views import View, along_z, globe, picture
from tests.cases import numpy_seeded, seeded

IMPUTATION, DENOISING, _ = TASKS


def octahedron(levels: int = 2) -> MeshDomain:
    vertices = np.concatenate([np.eye(3), -np.eye(3)])
    faces = np.array([[0, 1, 2], [3, 1, 2], [0, 4, 2], [0, 1, 5], [3, 4, 2], [3, 1, 5], [0, 4, 5]])
    faces = np.concatenate([faces, [[3, 4, 5]]])
    for _ in range(levels):
        corners = vertices[faces]
        middles = (corners + np.roll(corners, -1, 1)) / 2
        both = np.concatenate([corners, middles], 1).reshape(-1, 3)
        vertices, which = np.unique(np.round(both, 12), axis=0, return_inverse=True)
        a, b, c, ab, bc, ca = which.reshape(-1, 6).T
        faces = np.stack([a, ab, ca, b, bc, ab, c, ca, bc, ab, bc, ca], 1).reshape(-1, 3)
    return MeshDomain(vertices / np.linalg.norm(vertices, axis=1, keepdims=True), faces)


def made(domain: Domain, view: View) -> Case:
    """Make 120 months of a smooth field on a domain, of mean 5 and standard deviation 2."""
    extent = float(domain.areas.sum()) ** 0.5 * domain.radius_km
    field = MaternField(domain, 0.6 * extent)
    white = numpy_seeded(0).standard_normal((field.spread.shape[1], 480))
    unit = field.sample(white).T / np.sqrt(field.variance)
    values = torch.from_numpy(5 + 2 * unit).float()[:, None]
    season = torch.zeros(480, dtype=torch.long)
    return Case(
        domain,
        "K",
        0.2,
        train=values[:400],
        train_season=season[:400],
        test=values[400:],
        test_season=season[400:],
        test_key=torch.arange(80),
        seasons=1,
        view=view,
        anomalies=True,
    )


@pytest.fixture(
    scope="module",
    params=[
        (ImageDomain(12, 12), picture),
        (HEALPixDomain(4, nest=True), globe),
        (octahedron(), along_z),
    ],
    ids=["image", "healpix", "mesh"],
)
def case(request: pytest.FixtureRequest) -> Case:
    return made(*request.param)


def test_every_task_is_calibrated_and_beats_the_climatology(case: Case, tmp_path: Path) -> None:
    fitted = fit(case, rank=20, evaluations=24, seed=0, progress=False)
    index = torch.arange(80)
    rows, drawn = [], []
    for task in TASKS:
        scores, climatology, panels = evaluate(case, fitted, task, index, members=32, seed=0)
        rows.append(row_of("made", case, task, scores, climatology))
        drawn.append(panels)
        assert scores.records == 80
        # of the normal distribution N(5, 4) itself: 2 / sqrt(pi)
        assert climatology == pytest.approx(2 / np.sqrt(np.pi), rel=0.1)
        assert scores.crps < 0.9 * climatology
        assert 0.85 < scores.spread_skill < 1.15
        assert 0.85 < scores.coverage90 < 0.95
    write_rows(tmp_path / "made.csv", rows)
    with (tmp_path / "made.csv").open(encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    committed = RESULTS / "domains.csv"
    assert list(found[0]) == committed.read_text(encoding="utf-8").splitlines()[0].split(",")
    assert [line["task"] for line in found] == [task.name for task in TASKS]
    assert float(found[0]["crps"]) == pytest.approx(rows[0]["crps"], rel=1e-5)
    text = report(rows, parse(["domains"]), provenance(["domains"], 0))
    assert text.count("| made |") == len(TASKS)
    assert "- command: `python -m benchmarks domains`" in text
    figure = draw({"made": (case, drawn)}, [task.name for task in TASKS])
    figure.savefig(tmp_path / "made.png")
    # truth, three panels a task, two colour bars
    assert len(figure.axes) == 1 + 3 * len(TASKS) + 2


def test_what_is_drawn_is_the_anomaly_and_what_was_measured(case: Case) -> None:
    fitted = fit(case, rank=5, evaluations=1, seed=0, progress=False)
    whole = dataclasses.replace(case, anomalies=False)
    index = torch.arange(3)
    _, _, of_anomalies = evaluate(case, fitted, IMPUTATION, index, members=2, seed=0)
    _, _, of_fields = evaluate(whole, fitted, IMPUTATION, index, members=2, seed=0)
    mean = fitted.normals.mean[0, 0].numpy()
    seen = np.isfinite(of_fields.measured)
    assert 0 < seen.mean() < 0.2
    np.testing.assert_allclose(of_fields.truth, case.test[1, 0], rtol=1e-6)
    for name in ("truth", "measured", "mean"):
        difference = getattr(of_fields, name) - getattr(of_anomalies, name)
        np.testing.assert_allclose(difference[seen], mean[seen], atol=1e-5)
    # two members' noise, and the noise of the values: within five of its standard deviations
    error = of_fields.measured[seen] - of_fields.truth[seen]
    assert np.abs(error).max() < 5 * case.noise_std


def test_imputation_is_scored_where_nothing_was_observed_and_denoising_everywhere(
    case: Case,
) -> None:
    fitted = fit(case, rank=5, evaluations=1, seed=0, progress=False)
    index = torch.arange(3)
    whole = dataclasses.replace(IMPUTATION, density=1e3)
    scores, climatology, _ = evaluate(case, fitted, whole, index, members=2, seed=0)
    assert np.isnan(scores.crps)
    assert np.isnan(climatology)
    scores, _, _ = evaluate(case, fitted, DENOISING, index, members=2, seed=0)
    assert scores.crps > 0


def test_the_noise_is_that_of_the_task_and_masks_differ_by_record(case: Case) -> None:
    truth = case.test.double()
    given = DENOISING.measure(case.domain, truth, seeded(0), case.noise_std)
    error = (given.values - truth).numpy()
    assert (given.noise_std == 10 * case.noise_std).all()
    # the standard error of a standard deviation of n values is 1 / sqrt(2 n) of it
    assert abs(error.std() / (10 * case.noise_std) - 1) < 5 / np.sqrt(2 * error.size)
    masks = IMPUTATION.measure(case.domain, truth, seeded(0), case.noise_std).mask
    assert not (masks[0] == masks[1]).all()


def test_fields_of_the_test_are_of_later_months_or_of_other_samples() -> None:
    domain = ImageDomain(2, 2)
    time = (np.datetime64("2013-01", "M") + np.arange(36)).astype("datetime64[ns]")
    numbers = np.arange(36.0)[:, None, None] + np.zeros((36, 2, 2))
    field = xr.DataArray(numbers, {"time": time}, ("time", "lat", "lon"))
    case = monthly(field, domain, globe, "K", 1.0, years=(2013, 2014))
    assert case.train[:, 0, 0].tolist() == list(range(24))
    assert case.test[:, 0, 0].tolist() == list(range(24, 36))
    assert case.test_season.tolist() == list(range(12))
    assert Normals.fit(case.train, case.train_season, 12).mean[3, 0, 0] == (3 + 15) / 2

    split = ["train"] * 30 + ["test"] * 6
    images = field.rename(time="sample").assign_coords(sample=range(36), split=("sample", split))
    case = samples(images, domain, picture, 0.1, most=10)
    assert case.train[:, 0, 0].tolist() == list(range(10))
    assert case.test[:, 0, 0].tolist() == list(range(30, 36))


# --- views


def test_the_globe_is_an_ellipse_in_which_areas_are_kept() -> None:
    domain = HEALPixDomain(4, nest=True)
    view = globe(domain)
    rows, columns = view.shape
    assert (view >= 0).mean() == pytest.approx(np.pi / 4, abs=0.01)
    counts = np.bincount(view[view >= 0], minlength=domain.num_nodes)
    # 192 cells on 50 000 pixels, each cut by its own border
    assert counts.std() / counts.mean() < 0.1
    lat = np.rad2deg(np.arcsin(domain.positions[:, 2].numpy()))
    assert (lat[view[0][view[0] >= 0]] > 70).all()
    middle = domain.positions.numpy()[view[rows // 2, columns // 2]]
    assert middle[0] > 0.9  # Greenwich on the equator
    assert domain.positions.numpy()[view[rows // 2, 3 * columns // 4], 1] > 0.9  # 90 degrees east


def test_a_coast_is_left_out_of_the_globe() -> None:
    sphere = octahedron(3)
    north = sphere.vertices[:, 2] >= -1e-9
    faces = sphere.faces[north[sphere.faces].all(1)]
    numbers = np.cumsum(north) - 1
    view = globe(MeshDomain(sphere.vertices[north], numbers[faces]))
    rows = len(view)
    assert (view[: rows // 2 - 1, rows] >= 0).all()
    assert (view[3 * rows // 4 :] == -1).all()


def test_along_z_the_nearer_side_is_seen() -> None:
    domain = octahedron(3)
    view = along_z(domain)
    seen = domain.positions.numpy()[np.unique(view[view >= 0])]
    assert seen[:, 2].min() > -0.35  # the rim's cells reach a little below the horizon
    rows, columns = view.shape
    assert domain.positions.numpy()[view[rows // 2, columns // 2], 2] > 0.9
    assert domain.positions.numpy()[view[2, columns // 2], 1] > 0.8
    assert domain.positions.numpy()[view[rows // 2, columns - 3], 0] > 0.8


def test_a_picture_has_its_rows_and_columns() -> None:
    assert picture(ImageDomain(2, 3)).tolist() == [[0, 1, 2], [3, 4, 5]]
