"""Scores of image ensembles: calibration, PSNR, SSIM, diversity, and noise where none belongs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import laplace
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from apsgeo.metrics.predictions import EnsemblePrediction
from apsgeo.metrics.scoreboard import Tally
from benchmarks.images.cases import ImageCase

__all__ = ["ImageRow", "score"]

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ImageRow:
    """What one method reached on one task; scores are over all pixels.

    Attributes:
        case, task, method: Their names.
        crps, rmse: In the units of the data.
        spread_skill, coverage90: See `apsgeo.metrics.Scores`.
        psnr_one, psnr_mean: In dB, of the first member and of the mean of all.
        ssim_one, ssim_mean: Likewise (Wang et al. 2004, https://doi.org/10.1109/TIP.2003.819861).
        diversity: Mean standard deviation of a pixel over the members.
        speckle: Root mean square difference of the members from the truth in the background; see
            `ImageCase`.
        roughness: Root mean square Laplacian of the members over that of the truth: above one
            where members are noisy, below where they are smooth.
        train_seconds: Of the processor.
        sample_ms: For all members of one image.
    """

    case: str
    task: str
    method: str
    crps: float
    rmse: float
    spread_skill: float
    coverage90: float
    psnr_one: float
    psnr_mean: float
    ssim_one: float
    ssim_mean: float
    diversity: float
    speckle: float
    roughness: float
    train_seconds: float
    sample_ms: float


def _similarity(images: Array, truth: Array, data_range: float) -> tuple[float, float]:
    """Return mean PSNR and SSIM of images (image, y, x)."""
    pairs = list(zip(truth, images, strict=True))
    psnr = [peak_signal_noise_ratio(t, x, data_range=data_range) for t, x in pairs]
    ssim = [
        structural_similarity(
            t,
            x,
            data_range=data_range,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        for t, x in pairs
    ]
    return float(np.mean(psnr)), float(np.mean(ssim))


def _roughness(images: Array) -> float:
    return float(np.sqrt(np.mean(laplace(images, axes=(-2, -1)) ** 2)))


def score(
    case: ImageCase,
    task: str,
    method: str,
    members: Array,
    truth: Array,
    *,
    train_seconds: float,
    sample_ms: float,
) -> ImageRow:
    """Score members (member, image, y, x) against the truth (image, y, x)."""
    flat = truth.reshape(len(truth), -1)
    tally = Tally()
    ensemble = EnsemblePrediction(members.reshape(*members.shape[:2], -1))
    tally.add(ensemble, flat, np.ones_like(flat), 0.0)
    scores = tally.scores()
    mean = members.mean(0)
    psnr_one, ssim_one = _similarity(members[0], truth, case.data_range)
    psnr_mean, ssim_mean = _similarity(mean, truth, case.data_range)
    return ImageRow(
        case=case.name,
        task=task,
        method=method,
        crps=scores.crps,
        rmse=scores.rmse,
        spread_skill=scores.spread_skill,
        coverage90=scores.coverage90,
        psnr_one=psnr_one,
        psnr_mean=psnr_mean,
        ssim_one=ssim_one,
        ssim_mean=ssim_mean,
        diversity=float(members.std(0, ddof=1).mean()),
        speckle=float(np.sqrt(np.mean((members - truth)[:, case.background(truth)] ** 2))),
        roughness=_roughness(members) / _roughness(truth),
        train_seconds=train_seconds,
        sample_ms=sample_ms,
    )
