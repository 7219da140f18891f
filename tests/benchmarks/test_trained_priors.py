"""The benchmark of trained priors at small size: what it measures, and its tables."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.domains import ImageDomain
from benchmarks.trained_priors.cases import TrainedCase, dequantized, patches
from benchmarks.trained_priors.fit import train
from benchmarks.trained_priors.report import keep, load, markdown
from benchmarks.trained_priors.scores import (
    Budget,
    band_power,
    bands,
    denoising,
    memorization,
    nearest,
    spectra,
)
from benchmarks.trained_priors.suite import score
from benchmarks.views import picture
from tests.cases import numpy_seeded, seeded

DOMAIN = ImageDomain(16, 16)


def waves(count: int, seed: int) -> np.ndarray:
    rng = numpy_seeded(seed)
    y, x = np.mgrid[:16, :16] / 16.0
    phase = rng.random((count, 2, 1, 1))
    fields = np.cos(2 * np.pi * (x - phase[:, 0])) + np.cos(4 * np.pi * (y - phase[:, 1]))
    return (fields + 0.2 * rng.standard_normal((count, 16, 16))).astype(np.float32)


@pytest.fixture(scope="module")
def case() -> TrainedCase:
    dims = ("sample", "y", "x")
    options = {"rank": 8, "steps": 4, "folds": 2, "spec": DenoiserSpec("tiny", levels=4)}
    return TrainedCase(
        DOMAIN,
        xr.DataArray(waves(60, 0), dims=dims, name="wave"),
        xr.DataArray(waves(24, 1), dims=dims, name="wave"),
        0.8,
        options,
        picture,
        False,
    )


def test_grey_levels_become_uniform_in_their_bins() -> None:
    images = xr.DataArray(np.repeat(np.arange(4) / 3.0, 500).reshape(4, 500), dims=("n", "x"))
    spread = dequantized(images, levels=4)
    assert ((4 * spread.values).astype(int) == np.arange(4)[:, None]).all()
    inside = 4 * spread.values - np.arange(4)[:, None]
    assert abs(inside.mean() - 0.5) < 5 * math.sqrt(1 / 12 / 2000)


def test_patches_lie_within_their_sectors() -> None:
    lat, lon = np.linspace(89.5, -89.5, 180), np.arange(0.5, 400.5)
    sector = xr.DataArray(
        np.broadcast_to(np.arange(400) // 40, (180, 400)).astype(float),
        {"lat": lat, "lon": lon},
        ("lat", "lon"),
    )
    cut = patches(sector, (2, 5), 4)
    assert set(np.unique(cut)) == {2.0, 5.0}
    assert cut.shape[1:] == (32, 32)


def test_bands_hold_each_eigenfunction_once_and_their_power_is_parsevals() -> None:
    found = bands(256)
    assert [band.start for band in found[1:]] == [band.stop for band in found[:-1]]
    assert (found[0].start, found[-1].stop) == (0, 256)
    fields = torch.from_numpy(waves(5, 2)).reshape(5, 1, -1)
    power = band_power(DOMAIN, fields, 256)
    sizes = np.array([band.stop - band.start for band in found])
    norm = (DOMAIN.areas * fields[:, 0].double() ** 2).sum(1).numpy()
    np.testing.assert_allclose((power * sizes).sum(1), norm, rtol=1e-9)


def test_spectra_and_distances_tell_what_was_done_to_fields() -> None:
    learned, other = (
        torch.from_numpy(waves(count, seed)).reshape(count, 1, -1)
        for count, seed in ((80, 3), (40, 4))
    )
    rows = spectra(DOMAIN, {"train": learned, "samples": 2.0 * learned, "test": other}, 64, 1)
    doubled = [row.value for row in rows if row.name == "samples / train"]
    np.testing.assert_allclose(doubled, 4.0, rtol=1e-9)
    assert float(nearest(DOMAIN, learned[:3], learned).max()) == pytest.approx(0.0, abs=1e-6)
    found = {row.name: row.value for row in memorization(DOMAIN, learned[:20], other, learned)}
    assert found["ratio of medians"] < 1e-4


def test_a_trained_prior_is_kept_scored_and_reported(case: TrainedCase, tmp_path: Path) -> None:
    prior = train(case, tmp_path / "wave", share=1.0, evaluations=2, seed=0)
    assert isinstance(prior.diffusion, DiffusionPrior)
    fields = prior.encode(case.test)
    generator = seeded(0)
    ratios = [row for row in denoising(prior.diffusion, fields, generator) if row.name == "ratio"]
    assert len(ratios) == 4
    budget = Budget(8, 4, 2, 2, 2, 1e-2, 12, 6, 64)
    rows, shown = score(case, prior, budget, seed=0)
    about = {"training": prior.provenance, "seconds": 1, "budget": vars(budget)}
    keep(tmp_path, "wave", about, rows, shown)
    found = load(tmp_path, "wave")
    assert [row.value for row in found.scores] == [row.value for row in rows]
    gaussian, better = (found.one("density", name).value for name in ("gaussian", "elbo"))
    difference = found.one("density", "elbo - gaussian").value
    assert difference == pytest.approx(better - gaussian, abs=1e-9)
    text = markdown({"wave": found}, "made")
    assert "| wave |" in text
