"""Draws of methods that predict a mean and an error for each node, and nothing in common."""

from __future__ import annotations

from torch import Tensor
from torch.distributions import Normal

from apsgeo.measurement import Measurement, NoiseDraws

__all__ = ["NormalDraws"]


class NormalDraws(NoiseDraws):
    """Independent normal marginals.

    Args:
        measurement: What was measured.
        mean: Means (batch, channel, node).
        std: Standard deviations (batch, channel, node).
    """

    def __init__(self, measurement: Measurement, mean: Tensor, std: Tensor) -> None:
        self.measurement = measurement
        self._mean, self._std = mean.to(measurement.values), std.to(measurement.values)

    @property
    def noise_dim(self) -> int:
        """Number of values of a field."""
        return self._mean[0].numel()

    @property
    def mean(self) -> Tensor:
        """Mean (batch, channel, node)."""
        return self._mean

    @property
    def marginal_std(self) -> Tensor:
        """Standard deviation (batch, channel, node)."""
        return self._std

    def from_noise(self, noise: Tensor) -> Tensor:
        """Map noise (member, batch, value) to fields (member, batch, channel, node)."""
        return self._mean + self._std * noise.reshape(-1, *self._mean.shape).to(self._mean)

    def log_prob(self, signal: Tensor) -> Tensor:
        """Return the log-density (..., batch) of independent normal values."""
        self.as_members(signal)
        each = Normal(self._mean, self._std, validate_args=False).log_prob(signal)
        return each.flatten(-2).sum(-1)
