"""Gaussian priors of a signal."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.posterior import GaussianPosterior
from apsgeo.linalg.columns import columns_of, signal_of, symmetric
from apsgeo.measurement import Measurement
from apsgeo.measurement.draws import PROBE_SEED

__all__ = ["GaussianPrior"]


class GaussianPrior(Covariance):
    """A zero-mean Gaussian prior of signals (channel, node), a method whose posterior is exact.

    Attributes:
        name: Name of the method in tables.
    """

    name: str

    def __init__(self) -> None:
        super().__init__()
        self.name = f"{self.kind} Gaussian"

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (count, channel, node) fields, float32."""
        noise = torch.randn(self.draw_dim, count, generator=generator, dtype=torch.float64)
        like = torch.empty(count, self.channels, self.domain.num_nodes)
        return signal_of(self.draw(noise.numpy()), like)

    def score(self, signal: Tensor, noise_std: float = 0.0) -> Tensor:
        """Return the gradient of `log_prob`, of the shape of the signal."""
        return -self.precision_apply(signal, noise_std)

    def denoise(self, signal: Tensor, noise_std: float) -> Tensor:
        """Return E[x | x + noise_std n = signal], one solve a field; differentiable."""
        system = self._level(noise_std)
        return symmetric(signal, lambda s: signal_of(system.update(columns_of(s)), s))

    def denoise_std(self, noise_std: float) -> float:
        """Return the root mean square of the posterior standard deviation after white noise."""
        if noise_std == 0.0:
            return 0.0
        rng = np.random.default_rng(PROBE_SEED)
        signs = rng.choice([-1.0, 1.0], size=(self.size, 16))
        # Posterior covariance of x under white noise is sigma^2 - sigma^4 (C + sigma^2)^{-1}.
        inverse_trace = (signs * self._level(noise_std).solve(signs)).mean()
        var = noise_std**2
        return float(np.sqrt(max(var - var**2 * inverse_trace, 0.0)))

    def posterior(self, measurement: Measurement) -> GaussianPosterior:
        """Return the exact posterior of the fields behind a measurement."""
        return GaussianPosterior([self] * len(measurement.values), measurement)
