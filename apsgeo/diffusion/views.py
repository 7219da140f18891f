"""One denoiser, seen as a score, as a prediction of the noise, and as a velocity.

With x_t = alpha x + sigma n and the denoiser D(x_t, t) = E[x | x_t], which is the x0 view itself,
the others are linear in D: see table 1 of Salimans & Ho (2022, arXiv 2202.00512).
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from apsgeo.diffusion.schedule import Schedule
from apsgeo.domains.base import Domain

__all__ = ["Denoiser", "epsilon", "score", "velocity"]


class Denoiser(Protocol):
    """What samplers and densities need of a prior."""

    domain: Domain
    channels: int
    schedule: Schedule

    def denoise(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return E[x | x_t] for x_t (batch, channel, node) at one time or one a record."""

    def calibrated(self, fields: Tensor) -> Tensor:
        """Return what samples (batch, channel, node) become at last."""


def score(denoiser: Denoiser, x_t: Tensor, t: float | Tensor) -> Tensor:
    """Return grad log p_t(x_t) = (alpha D - x_t) / sigma^2 (Tweedie's formula), as x_t."""
    alpha, sigma = _alpha_sigma(denoiser, x_t, t)
    return (alpha * denoiser.denoise(x_t, t) - x_t) / sigma**2


def epsilon(denoiser: Denoiser, x_t: Tensor, t: float | Tensor) -> Tensor:
    """Return E[n | x_t] = (x_t - alpha D) / sigma, as x_t."""
    alpha, sigma = _alpha_sigma(denoiser, x_t, t)
    return (x_t - alpha * denoiser.denoise(x_t, t)) / sigma


def velocity(denoiser: Denoiser, x_t: Tensor, t: float | Tensor) -> Tensor:
    """Return E[alpha n - sigma x | x_t] = (alpha x_t - (alpha^2 + sigma^2) D) / sigma, as x_t."""
    alpha, sigma = _alpha_sigma(denoiser, x_t, t)
    return (alpha * x_t - (alpha**2 + sigma**2) * denoiser.denoise(x_t, t)) / sigma


def _alpha_sigma(denoiser: Denoiser, x_t: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma as numbers, or (batch, 1, 1)."""
    time = torch.as_tensor(t, dtype=torch.float64)
    time = time[:, None, None] if time.ndim else time
    return denoiser.schedule.alpha(time).to(x_t), denoiser.schedule.sigma(time).to(x_t)
