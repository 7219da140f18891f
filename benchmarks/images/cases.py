"""The images of the benchmark of images, and how they are measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.ndimage import maximum_filter

from apsgeo import datasets
from apsgeo.flows.build import CouplingSpec, MultiscaleSpec
from apsgeo.flows.spec import FlowSpec
from apsgeo.operators import Block, Downsample, GaussianBlur, Identity, Mask
from benchmarks.domains.cases import halves
from benchmarks.tasks import Task
from benchmarks.trained_priors.cases import dequantized, tiles

GREY_LEVELS = 256
TILE = 128
FITTED_IMAGES = 4000
_TEST_LONGITUDES = (240.0, 330.0)  # the Americas and the eastern Pacific
_MOST_NORTHERN = 64.0
_BLOCK, _SMOOTHEST = 8, 0.1

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ImageCase:
    """Images to learn from, others to be tried on, and the tasks.

    Attributes:
        name: Name in the table.
        train, test: Images (sample, y, x).
        fitted: Number of training images that the prior is fitted to. Flows learn from the others,
            which it has not seen, or where there are none from the same, cross-fitted.
        tasks: Tasks that are tried.
        data_range: Range of PSNR and SSIM, in the units of the data.
        background: Function that tells where the truth (image, y, x) is so smooth that noise shows.
        colours: Colour map of the figure.
        shading: Factor of heights over pixels for a shaded relief; zero for plain colours.
        rank: Number of EOFs.
        large: Whether a dense anchor costs too much, so that the hybrid prior is the anchor.
        flow: Architecture of the flow.
        steps, batch, lr, rounds, score_scales: Settings of `apsgeo.distill`.
        held_out: Number of training images that only decide when to stop.
        members: Number of members of the ensembles.
        most_images: Most images for testing.
        first: Task whose flow is trained before all others, which begin with its weights; if any.
        first_steps: Number of steps of that.
        ablation: Another architecture that is trained alike, if any.
        ablation_steps: Number of steps of its training.
        ablated: Tasks that the ablation is tried on.
    """

    name: str
    train: xr.DataArray
    test: xr.DataArray
    fitted: int
    tasks: tuple[Task, ...]
    data_range: float
    background: Callable[[Array], NDArray[np.bool_]]
    colours: str
    shading: float
    rank: int
    large: bool
    flow: FlowSpec
    steps: int
    batch: int
    lr: float
    rounds: int
    score_scales: int
    held_out: int
    members: int
    most_images: int
    first: Task | None = None
    first_steps: int = 0
    ablation: FlowSpec | None = None
    ablation_steps: int = 0
    ablated: tuple[Task, ...] = ()


def dark(truth: Array) -> NDArray[np.bool_]:
    """Tell where grey values are nearly black in all of a 3 x 3 neighbourhood."""
    found: NDArray[np.bool_] = maximum_filter(truth, size=(1, 3, 3)) < 1.5 / GREY_LEVELS
    return found


def smoothest(truth: Array) -> NDArray[np.bool_]:
    """Tell where values vary least: the smoothest tenth of all blocks of 8 x 8."""
    blocks = truth.reshape(len(truth), truth.shape[1] // _BLOCK, _BLOCK, -1, _BLOCK)
    spread = blocks.std((2, 4), keepdims=True)
    smooth = spread <= np.quantile(spread, _SMOOTHEST)
    found: NDArray[np.bool_] = np.broadcast_to(smooth, blocks.shape).reshape(truth.shape)
    return found


def _padded(images: xr.DataArray, seed: int) -> xr.DataArray:
    """Return 32 x 32 images of grey levels with the noise that makes them continuous."""
    padded = np.pad(images.values, ((0, 0), (2, 2), (2, 2)))
    array = xr.DataArray(padded, dims=("sample", "y", "x"), name="image")
    return dequantized(array, GREY_LEVELS, seed)


_FOUR = Task("super-resolution × 4", Downsample(4), 0.02)
_NODEWISE = CouplingSpec(
    base="anchor", width=24, depth=3, local=4, patterns=32, coupling_width=12, roughness=3
)


def fashion(train: int | None = None, seed: int = 0) -> ImageCase:
    """Return Fashion-MNIST padded to 32 x 32, its values from 0 to 1."""
    images = datasets.load("fashion-mnist")
    learned, held = halves(images, len(images) if train is None else train)
    return ImageCase(
        "Fashion-MNIST, 32 × 32",
        train=_padded(learned, seed),
        test=_padded(held, seed + 1),
        fitted=min(FITTED_IMAGES, len(learned)),
        tasks=(
            Task("denoising", Identity(), 0.3),
            Task("inpainting", Block(count=2), 0.05, density=0.7),
            _FOUR,
            Task("deblurring", GaussianBlur(1.5), 0.05),
            Task("5 % of pixels", Mask(), 0.05, density=0.05),
        ),
        data_range=1.0,
        background=dark,
        colours="gray",
        shading=0.0,
        rank=300,
        large=False,
        flow=MultiscaleSpec(),
        steps=1000,
        batch=16,
        lr=2e-3,
        rounds=1,
        score_scales=5,
        held_out=80,
        members=128,
        most_images=64,
        first=Task("any pixels", Mask(), 0.05),
        first_steps=6000,
        ablation=_NODEWISE,
        ablation_steps=1000,
        ablated=(_FOUR,),
    )


def _tiles(elevation: xr.DataArray, size: int, step: int) -> xr.DataArray:
    """Cut squares (sample, y, x) of `size` cells a side, `step` cells apart."""
    cut = tiles(elevation.values, size, step).astype(np.float32) / 1000.0
    return xr.DataArray(cut, dims=("sample", "y", "x"), name="elevation", attrs={"units": "km"})


def terrain(size: int = TILE) -> ImageCase:
    """Return squares of the Earth's relief at 5 arc minutes, in km, tested on other longitudes."""
    elevation = datasets.load("etopo")
    elevation = elevation.isel(lat=np.flatnonzero(abs(elevation["lat"].values) < _MOST_NORTHERN))
    lon = elevation["lon"].values % 360.0
    west, east = _TEST_LONGITUDES
    inside = (lon >= west) & (lon < east)
    shifted = elevation.isel(lon=np.argsort((lon - east) % 360.0))  # training without a seam
    count = int((~inside).sum())
    train = _tiles(shifted.isel(lon=slice(0, count)), size, size * 3 // 4)
    return ImageCase(
        f"relief, {size} × {size}",
        train=train,
        test=_tiles(shifted.isel(lon=slice(count, None)), size, size),
        fitted=len(train),
        tasks=(_FOUR,),
        data_range=8.0,
        background=smoothest,
        colours="terrain",
        shading=3.0,
        rank=100,
        large=True,
        flow=CouplingSpec(
            base="anchor", width=16, depth=4, local=4, coupling_width=8, patterns=0, roughness=4
        ),
        steps=4500,
        batch=3,
        lr=2e-3,
        rounds=4,
        score_scales=1,
        held_out=24,
        members=128,
        most_images=16,
    )


CASES: dict[str, Callable[[], ImageCase]] = {"fashion": fashion, "terrain": terrain}
"""The cases by name, opened when called."""
