"""Analytic priors as denoisers: what samplers and estimates of densities are tested on."""

from __future__ import annotations

import math
from typing import Protocol

import torch
from torch import Tensor

from apsgeo.diffusion.density import DiffusionDensity
from apsgeo.diffusion.schedule import Schedule
from apsgeo.domains.base import Domain
from apsgeo.gaussian.prior import GaussianPrior

__all__ = ["AnalyticDiffusion", "AnalyticPrior"]


class AnalyticPrior(Protocol):
    """A prior whose exact denoiser is known: `GaussianPrior` or `GaussianMixturePrior`."""

    @property
    def domain(self) -> Domain:
        """Where the signal lives."""

    @property
    def channels(self) -> int:
        """Channels of the signal."""

    def denoise(self, signal: Tensor, noise_std: float) -> Tensor:
        """Return E[x | x + noise_std n = signal], differentiable."""


class AnalyticDiffusion(DiffusionDensity):
    r"""The diffusion of a prior whose exact denoiser is known, at every time.

    It has the samplers and log-densities of a `DiffusionPrior` that is perfectly trained.

    Args:
        prior: Prior whose exact denoiser is known.
        schedule: The noise schedule; `VPSchedule()` if not given.
        anchor: Replaces the anchor of a `DiffusionPrior` in the log-densities; None is N(0, I).
        levels: Number of levels of the grid of the anchored estimate.
    """

    def __init__(
        self,
        prior: AnalyticPrior,
        schedule: Schedule | None = None,
        anchor: GaussianPrior | None = None,
        *,
        levels: int = 40,
    ) -> None:
        super().__init__(prior.domain, prior.channels, schedule, anchor, levels=levels)
        self.prior = prior

    def predict(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return E[x | x_t], exactly; see `AnchoredDenoiser.predict`."""
        self._check(x_t)
        return self._exact(x_t, self._log_snr_of(t, len(x_t)))

    def correction(self, x_t: Tensor, mean: Tensor, log_snr: Tensor) -> Tensor:
        """Return the exact denoiser less the anchor's ``mean``, (batch, channel, node)."""
        return self._exact(x_t, log_snr) - mean

    def _exact(self, x_t: Tensor, log_snr: Tensor) -> Tensor:
        alpha, _ = self.alpha_sigma(log_snr, x_t)
        clean, out = x_t / alpha, torch.zeros_like(x_t)
        for level in log_snr.unique().tolist():
            rows = (log_snr == level).nonzero().flatten().to(x_t.device)
            part = self.prior.denoise(clean[rows], math.exp(-0.5 * level))
            out = out.index_add(0, rows, part)
        return out
