"""The data sets of the benchmark of trained priors: fields to learn from, and fields to score."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo import datasets
from apsgeo.diffusion.schedule import VPSchedule
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.domains import Domain, ImageDomain
from benchmarks.domains.cases import halves, opened
from benchmarks.views import View, picture

TRAIN_IMAGES = 12000
LEAST_STD = 0.3  # of a pixel, relative: borders of images hardly vary
# Fine enough for the grey levels.
FINE = VPSchedule(eps=1e-4)
SECTORS = 10  # of longitude, for patches of terrain
TEST_SECTORS = (2, 5, 8)
HELD_OUT_SECTOR = 1  # of sea, plains and mountains
SIDE = 32
HIGHEST = 60.0  # latitude of patches


@dataclass(frozen=True)
class TrainedCase:
    """Fields of one variable, some to fit a prior to, and others to try it on.

    Attributes:
        domain: where they live.
        train: (record, ...), in the order of time or place; `fit_prior` holds the last out.
        test: (record, ...), later months, other images or other places.
        eof_weight: where the search for the Gaussian prior's scales begins.
        options: of `apsgeo.fit_prior`, but for scales and seed.
        view: how the domain is drawn.
        anomalies: whether fields are drawn without their normal, in diverging colours.
    """

    domain: Domain
    train: xr.DataArray
    test: xr.DataArray
    eof_weight: float
    options: Mapping[str, Any]
    view: View
    anomalies: bool


def dequantized(images: xr.DataArray, levels: int = 256, seed: int = 0) -> xr.DataArray:
    """Spread images of ``levels`` grey levels from 0 to 1 over the bins of the levels.

    Each value becomes uniform in its bin (Theis et al. 2016, *A note on the evaluation of
    generative models*, arXiv 1511.01844, section 3.1): of discrete values there is no density.
    """
    noise = np.random.default_rng(seed).random(images.shape, dtype=np.float32)
    return images.copy(data=(np.float32(levels - 1) * images.values + noise) / np.float32(levels))


def patches(relief: xr.DataArray, sectors: tuple[int, ...], stride: int) -> xr.DataArray:
    """Cut square patches (patch, row, col) that lie within sectors of longitude.

    Args:
        relief: (lat, lon) of the whole Earth, with longitudes from 0.
        sectors: numbers of sectors, in whose order the patches come.
        stride: of neighbouring patches, in cells.
    """
    low = relief.sel(lat=slice(HIGHEST, -HIGHEST)).values
    width = low.shape[1] // SECTORS
    strips = [low[:, sector * width : (sector + 1) * width] for sector in sectors]
    found = np.concatenate([tiles(strip, SIDE, stride) for strip in strips])
    return xr.DataArray(found, dims=("patch", "row", "col"), attrs=relief.attrs)


def tiles(values: NDArray[Any], size: int, stride: int) -> NDArray[Any]:
    """Cut squares (square, size, size) of an array (row, col), row by row."""
    cut = np.lib.stride_tricks.sliding_window_view(values, (size, size))
    return cut[::stride, ::stride].reshape(-1, size, size)


def _months(name: str, last: int, **options: Any) -> TrainedCase:
    field, domain, view = opened(name)
    train = field.sel(time=slice(None, str(last)))
    test = field.sel(time=slice(str(last + 1), None))
    options = {"rank": 300, "steps": 1500, "folds": 3, **options}
    return TrainedCase(domain, train, test, 0.8, options, view, True)


def _samples(name: str, steps: int) -> TrainedCase:
    images, domain, view = opened(name)
    options = {
        "least_std": LEAST_STD,
        "rank": 600,
        "steps": steps,
        "spec": DenoiserSpec("tiny", FINE, levels=24),
    }
    train, test = halves(dequantized(images), TRAIN_IMAGES)
    return TrainedCase(domain, train, test, 0.95, options, view, False)


def _terrain() -> TrainedCase:
    fine = datasets.load("etopo")
    relief = fine.coarsen(lat=2, lon=2, boundary="trim").mean()
    learned = [s for s in range(SECTORS) if s not in (*TEST_SECTORS, HELD_OUT_SECTOR)]
    train = patches(relief, (*learned, HELD_OUT_SECTOR), SIDE // 2)
    domain = ImageDomain(SIDE, SIDE)
    options = {
        "held_out_from": len(train) * len(learned) // (len(learned) + 1),
        "rank": 600,
        "steps": 10000,
        "spec": DenoiserSpec("tiny", FINE, levels=24),
        "augment": domain.symmetries.only("left-right", "up-down"),
    }
    test = patches(relief, TEST_SECTORS, SIDE)
    return TrainedCase(domain, train, test, 0.95, options, picture, False)


CASES: dict[str, Callable[[], TrainedCase]] = {
    "ncep-air": lambda: _months("ncep-air", 2009, held_out_from="2005-01-01"),
    "z500-healpix": lambda: _months("z500-healpix", 2014),
    "fashion-mnist": lambda: _samples("fashion-mnist", 15000),
    "digits-on-bunny": lambda: _samples("digits-on-bunny", 2000),
    "etopo-patches": _terrain,
}
"""The data sets by name, opened when called."""
