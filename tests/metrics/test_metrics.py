"""Scores: against brute force, against each other, and as unbiased as they say."""

import csv
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import scoringrules
import xarray as xr
from scipy.integrate import quad
from scipy.stats import norm

import apsgeo
from apsgeo import evaluation
from apsgeo.errors import GridError, InputError, OutputExistsError
from apsgeo.metrics.predictions import EnsemblePrediction, NormalPrediction
from apsgeo.metrics.scoreboard import Scoreboard, Scores, Tally
from apsgeo.metrics.scores import (
    coverage,
    crps_ensemble,
    crps_normal,
    energy_score,
    ensemble_variance,
    rmse,
    spread_skill,
    weighted_mean,
)
from tests.cases import numpy_seeded

RNG = numpy_seeded(7)
MEMBERS = RNG.standard_normal((6, 3, 11))
TRUTH = RNG.standard_normal((3, 11))
WEIGHTS = RNG.random((3, 11))


def test_crps_ensemble_is_the_fair_double_sum() -> None:
    k = len(MEMBERS)
    pairs = np.abs(MEMBERS[:, None] - MEMBERS[None]).sum((0, 1)) / (2 * k * (k - 1))
    expected = np.abs(MEMBERS - TRUTH).mean(0) - pairs
    np.testing.assert_allclose(crps_ensemble(MEMBERS, TRUTH), expected, rtol=1e-13, atol=1e-15)


def test_crps_ensemble_agrees_with_scoringrules() -> None:
    expected = scoringrules.crps_ensemble(TRUTH, np.moveaxis(MEMBERS, 0, -1), estimator="fair")
    np.testing.assert_allclose(crps_ensemble(MEMBERS, TRUTH), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("size", [2, 3, 10])
def test_crps_ensemble_is_unbiased_at_any_size(size: int) -> None:
    draws = 1.3 * numpy_seeded(1).standard_normal((size, 40_000)) + 0.4
    score = crps_ensemble(draws, np.full(40_000, 1.0))
    error = score.std() / np.sqrt(score.size)
    assert abs(score.mean() - crps_normal(0.4, 1.3, 1.0)) < 5 * error


@pytest.mark.parametrize(("mean", "std", "truth"), [(0.0, 1.0, 0.0), (1.0, 0.3, -0.5), (2, 5, 3)])
def test_crps_normal_is_the_integral(mean: float, std: float, truth: float) -> None:
    left = quad(lambda x: norm.cdf(x, mean, std) ** 2, -60, truth)[0]
    right = quad(lambda x: norm.sf(x, mean, std) ** 2, truth, 60)[0]
    np.testing.assert_allclose(crps_normal(mean, std, truth), left + right, rtol=1e-6)


def test_crps_normal_of_certainty_is_the_absolute_error() -> None:
    np.testing.assert_array_equal(crps_normal([1.0, 1.0], 0.0, [1.0, -2.0]), [0.0, 3.0])


def test_crps_scales_and_shifts_with_the_unit() -> None:
    changed = crps_ensemble(1.8 * MEMBERS + 32, 1.8 * TRUTH + 32)
    np.testing.assert_allclose(changed, 1.8 * crps_ensemble(MEMBERS, TRUTH), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("size", [2, 5, 32])
def test_spread_skill_of_exchangeable_members_is_one(size: int) -> None:
    cells = 100_000
    draws = numpy_seeded(2).standard_normal((size + 1, cells))
    ratio = spread_skill(draws[1:], draws[0])
    # Relative error of a mean square of normals is sqrt(2 / cells); the ratio has half of two.
    assert abs(ratio - 1) < 5 * np.sqrt(2 / cells) / np.sqrt(2)


@pytest.mark.parametrize("size", [19, 32, 64])
def test_coverage_of_exchangeable_members_is_its_level(size: int) -> None:
    cells = 40_000
    draws = numpy_seeded(3).standard_normal((size + 1, cells))
    error = np.sqrt(0.9 * 0.1 / cells)
    assert abs(coverage(draws[1:], draws[0], level=0.9) - 0.9) < 5 * error


def test_energy_score_of_one_node_is_the_crps() -> None:
    score = energy_score(MEMBERS[..., :1], TRUTH[..., :1], np.array([3.0]))
    np.testing.assert_allclose(score, crps_ensemble(MEMBERS, TRUTH)[..., 0], rtol=1e-12)


def test_energy_score_is_the_fair_double_sum() -> None:
    w = WEIGHTS / WEIGHTS.sum(-1, keepdims=True)

    def size(v: np.ndarray) -> np.ndarray:
        return np.sqrt((w * v**2).sum(-1))

    k = len(MEMBERS)
    pairs = sum(size(a - b) for a in MEMBERS for b in MEMBERS) / (2 * k * (k - 1))
    expected = np.mean([size(m - TRUTH) for m in MEMBERS], axis=0) - pairs
    np.testing.assert_allclose(energy_score(MEMBERS, TRUTH, WEIGHTS), expected, rtol=1e-12)


SCORES = {
    "crps": lambda m, t, w: weighted_mean(crps_ensemble(m, t), w),
    "rmse": lambda m, t, w: rmse(m.mean(0), t, w),
    "spread_skill": spread_skill,
    "coverage": coverage,
    "energy_score": energy_score,
}


@pytest.mark.parametrize("name", SCORES)
def test_missing_truth_and_weight_zero_count_alike(name: str) -> None:
    score = SCORES[name]
    missing = TRUTH.copy()
    missing[:, [2, 5]] = np.nan
    dropped = np.delete(np.arange(11), [2, 5])
    expected = score(MEMBERS[..., dropped], TRUTH[..., dropped], WEIGHTS[..., dropped])
    np.testing.assert_allclose(score(MEMBERS, missing, WEIGHTS), expected, rtol=1e-12)
    zeroed = WEIGHTS.copy()
    zeroed[:, [2, 5]] = 0
    np.testing.assert_allclose(score(MEMBERS, TRUTH, zeroed), expected, rtol=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_nothing_to_score_is_nan(name: str) -> None:
    with np.errstate(all="raise"):
        assert np.isnan(SCORES[name](MEMBERS, np.full_like(TRUTH, np.nan), WEIGHTS)).all()


@pytest.mark.parametrize("score", [crps_ensemble, spread_skill, energy_score])
def test_one_member_is_refused(score: Any) -> None:
    with pytest.raises(InputError, match="at least 2"):
        score(MEMBERS[:1], TRUTH)


def test_members_of_another_shape_are_refused() -> None:
    with pytest.raises(InputError, match=r"\(6, 3, 11\).*\(11,\)"):
        crps_ensemble(MEMBERS, TRUTH[0])


@pytest.mark.parametrize("level", [0.0, 1.0, 90.0])
def test_level_is_a_share(level: float) -> None:
    with pytest.raises(InputError, match="level"):
        coverage(MEMBERS, TRUTH, level=level)


@pytest.fixture
def ensemble() -> xr.DataArray:
    return xr.DataArray(MEMBERS.reshape(6, 3, 1, 11), dims=("member", "time", "lat", "lon"))


@pytest.fixture
def truth() -> xr.DataArray:
    return xr.DataArray(TRUTH.reshape(3, 1, 11), dims=("time", "lat", "lon"), attrs={"units": "K"})


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("chunked", [False, True])
def test_labelled_scores_are_the_kernels(
    name: str, chunked: bool, ensemble: xr.DataArray, truth: xr.DataArray
) -> None:
    weights = xr.DataArray(WEIGHTS.reshape(3, 1, 11), dims=("time", "lat", "lon"))
    expected = SCORES[name](MEMBERS, TRUTH, WEIGHTS)
    shuffled = ensemble.transpose("lon", "member", "time", "lat")
    if chunked:
        shuffled, truth = shuffled.chunk(lon=4, member=2, time=1), truth.chunk(time=2)
    with dask.config.set(scheduler=_refuse):
        result = getattr(evaluation, name)(shuffled, truth, dim=["lat", "lon"], weights=weights)
    assert (result.chunks is not None) == chunked
    assert result.dims == ("time",)
    np.testing.assert_allclose(result.values, expected, rtol=1e-12)


def _refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("a lazy score was computed")


def test_labelled_scores_average_everything_by_default(
    ensemble: xr.DataArray, truth: xr.DataArray
) -> None:
    result = evaluation.crps(ensemble, truth)
    np.testing.assert_allclose(result, crps_ensemble(MEMBERS, TRUTH).mean(), rtol=1e-12)
    assert result.attrs["units"] == "K"


def test_labelled_scores_want_members_and_common_dimensions(
    ensemble: xr.DataArray, truth: xr.DataArray
) -> None:
    with pytest.raises(InputError, match="member_dim"):
        evaluation.crps(ensemble.rename(member="number"), truth)
    with pytest.raises(InputError, match="level"):
        evaluation.crps(ensemble, truth, dim="level")


def test_area_weights_are_the_cosine_on_a_grid_and_areas_elsewhere() -> None:
    coords = {"lat": [-90.0, -60.0, 0.0], "lon": [0.0, 120.0, 240.0]}
    field = xr.DataArray(np.zeros((2, 3, 3)), coords, ("time", "lat", "lon"))
    weights = evaluation.area_weights(field)
    assert weights.dims == ("lat", "lon")
    np.testing.assert_allclose(weights.sel(lon=120.0), [0, 0.5, 1], atol=1e-15)
    xr.testing.assert_equal(evaluation.area_weights(field[:, ::-1]), weights[::-1])
    domain = apsgeo.GraphDomain.from_latlon([0.0, 10.0, 40.0], [0.0, 20.0, 50.0], k=2)
    found = evaluation.area_weights(xr.DataArray(np.zeros(3), dims=("station",)), domain)
    np.testing.assert_array_equal(found, domain.areas)
    with pytest.raises(GridError, match="nothing says where"):
        evaluation.area_weights(xr.DataArray(np.zeros(3), dims=("station",)))


def test_a_tally_does_not_depend_on_its_batches() -> None:
    whole, parts = Tally(), Tally()
    whole.add(EnsemblePrediction(MEMBERS), TRUTH, WEIGHTS, 3.0)
    for i in range(3):
        part = EnsemblePrediction(MEMBERS[:, i : i + 1])
        parts.add(part, TRUTH[i : i + 1], WEIGHTS[i : i + 1], 1.0)
    assert whole.scores() == parts.scores()
    assert whole.scores().seconds_per_field == 1.0


def test_a_tally_pools_squares_before_the_root() -> None:
    tally = Tally()
    std = np.array([[1.0, 1.0], [3.0, 3.0]])
    truth = np.array([[3.0, 3.0], [0.0, 4.0]])
    tally.add(NormalPrediction(np.zeros((2, 2)), std), truth, np.array([[1.0, 1], [1, 0]]), 0.0)
    scores = tally.scores()
    assert scores.rmse == pytest.approx(np.sqrt((9 + 0) / 2))
    assert scores.spread_skill == pytest.approx(np.sqrt((1 + 9) / (9 + 0)))
    assert scores.coverage90 == 0.5


def test_normal_and_ensemble_of_it_score_alike() -> None:
    cells, size = 4000, 400
    rng = numpy_seeded(4)
    truth = rng.standard_normal((1, cells))
    normal = NormalPrediction(np.full((1, cells), 0.2), np.full((1, cells), 1.1))
    drawn = EnsemblePrediction(0.2 + 1.1 * rng.standard_normal((size, 1, cells)))
    difference = drawn.crps(truth) - normal.crps(truth)
    assert abs(difference.mean()) < 5 * difference.std() / np.sqrt(cells)
    spread = drawn.variance().mean() / normal.variance().mean()
    assert abs(spread * size / (size + 1) - 1) < 5 * np.sqrt(2 / (cells * size))


def test_ensemble_variance_counts_the_mean_s_own_error() -> None:
    np.testing.assert_allclose(ensemble_variance(np.array([0.0, 2.0])), 2.0 * 3 / 2)


@pytest.fixture
def board() -> Scoreboard:
    board = Scoreboard()
    board.add("kriging", 0.05, Scores(0.35678, 0.8, 0.9, 0.88, 0.5, 33))
    board.add("APS", 0.05, Scores(0.32, 0.75, 1.0, 0.9, 0.05, 33))
    board.add("APS", 0.3, Scores(0.17, 0.4, 1.0, 0.9, 0.05, 33))
    return board


def test_scoreboard_writes_every_digit(board: Scoreboard, tmp_path: Path) -> None:
    board.write_csv(tmp_path / "scores.csv")
    with (tmp_path / "scores.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["method"] for row in rows] == ["kriging", "APS", "APS"]
    assert float(rows[0]["crps"]) == 0.35678
    assert float(rows[2]["density"]) == 0.3
    with pytest.raises(OutputExistsError):
        board.write_csv(tmp_path / "scores.csv")
    board.write_csv(tmp_path / "scores.csv", overwrite=True)


def test_scoreboard_marks_the_best_at_each_density(board: Scoreboard) -> None:
    lines = board.to_markdown().splitlines()
    assert len(lines) == 5
    assert [("**" in line) for line in lines[2:]] == [False, True, True]
    assert "0.357" in lines[2]


def test_an_empty_tally_is_refused() -> None:
    with pytest.raises(InputError, match="at least one"):
        Tally().scores()
