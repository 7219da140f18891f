"""Scores of image ensembles: calibration, PSNR, SSIM, diversity, and noise where none belongs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import laplace
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from apsgeo.metrics.predictions import EnsemblePrediction
from apsgeo.metrics.scoreboard import Tally
from apsgeo.metrics.table import Column, Row, Table
from benchmarks.images.cases import ImageCase

Array = NDArray[np.float64]


TABLE = Table(
    Column("images", "case"),
    Column("task", "task"),
    Column("method", "method"),
    Column("CRPS", "crps", ".4g"),  # in the units of the data, as RMSE and diversity are
    Column("RMSE", "rmse", ".4g"),
    Column("spread/skill", "spread_skill", ".2f"),
    Column("90 % coverage", "coverage90", ".1%"),
    # of the first member and of the mean of all, in dB, and SSIM by Wang et al. 2004
    # (https://doi.org/10.1109/TIP.2003.819861)
    Column("PSNR, one", "psnr_one", ".2f"),
    Column("PSNR, mean", "psnr_mean", ".2f"),
    Column("SSIM, one", "ssim_one", ".3f"),
    Column("SSIM, mean", "ssim_mean", ".3f"),
    Column("diversity", "diversity", ".4g"),  # mean standard deviation of a pixel over the members
    # root mean square error of the members in the background; see `ImageCase`
    Column("speckle", "speckle", ".3g"),
    # root mean square Laplacian of the members over that of the truth: above one where members
    # are noisy, below where they are smooth
    Column("roughness", "roughness", ".2f"),
    Column("training, s", "train_seconds", ".0f"),  # of the processor
    Column("members, ms", "sample_ms", ".0f"),  # all of one image
)
"""What one method reached on one task; scores are over all pixels."""


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
    **spent: float,
) -> Row:
    """Score members (member, image, y, x) against the truth (image, y, x); add what was spent."""
    flat = truth.reshape(len(truth), -1)
    tally = Tally()
    ensemble = EnsemblePrediction(members.reshape(*members.shape[:2], -1))
    tally.add(ensemble, flat, np.ones_like(flat), 0.0)
    scores = tally.scores()
    mean = members.mean(0)
    psnr_one, ssim_one = _similarity(members[0], truth, case.data_range)
    psnr_mean, ssim_mean = _similarity(mean, truth, case.data_range)
    return {
        "case": case.name,
        "task": task,
        "method": method,
        "crps": scores.crps,
        "rmse": scores.rmse,
        "spread_skill": scores.spread_skill,
        "coverage90": scores.coverage90,
        "psnr_one": psnr_one,
        "psnr_mean": psnr_mean,
        "ssim_one": ssim_one,
        "ssim_mean": ssim_mean,
        "diversity": float(members.std(0, ddof=1).mean()),
        "speckle": float(np.sqrt(np.mean((members - truth)[:, case.background(truth)] ** 2))),
        "roughness": _roughness(members) / _roughness(truth),
        **spent,
    }
