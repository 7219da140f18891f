"""Gaussian draws, each a mean and a deviation from it, and the methods that flows start from."""

from __future__ import annotations

import math
from abc import abstractmethod
from typing import Protocol

import torch
from torch import Tensor

from apsgeo.measurement import Measurement, NoiseDraws

__all__ = ["Base", "GaussianDraws", "WhiteNoise"]


class GaussianDraws(NoiseDraws):
    """Gaussian draws for each measured field; a flow transforms their deviations from the mean.

    Attributes:
        sizes: Factors (batch, channel, node) of the deviations, where each record tells its own.
    """

    sizes: Tensor | None = None

    def sized(self, deviations: Tensor) -> Tensor:
        """Multiply deviations ([member,] batch, channel, node) by the factors, if there are any."""
        return deviations if self.sizes is None else deviations * self.sizes.to(deviations)

    @abstractmethod
    def std(self) -> Tensor:
        """Return the marginal standard deviation (batch, channel, node)."""

    @abstractmethod
    def functional_variance(self, functionals: Tensor) -> Tensor:
        """Return the variance (batch, k) of inner products with fields (k, channel * node)."""

    @abstractmethod
    def deviations(self, noise: Tensor) -> Tensor:
        """Map noise (member, batch, noise_dim) to deviations (member, batch, channel, node)."""

    @abstractmethod
    def shared_deviations(self, noise: Tensor) -> Tensor:
        """Map noise (member, noise_dim) to deviations (member, channel, node) of any field.

        The fields must share their mask, noise and season. What each record tells of its own spread
        is left out; see `sized`.
        """

    @abstractmethod
    def energy(self, deviations: Tensor) -> Tensor:
        """Return d^T C^{-1} d / 2 (member, batch) of deviations (member, batch, channel, node)."""

    @abstractmethod
    def peak_log_prob(self) -> Tensor:
        """Return the log density at the mean, (batch,)."""

    def from_noise(self, noise: Tensor) -> Tensor:
        """Map noise (member, batch, noise_dim) to fields (member, batch, channel, node)."""
        return self.mean + self.deviations(noise)

    def log_prob(self, signal: Tensor) -> Tensor:
        """Return the log density (..., batch) of fields (..., batch, channel, node)."""
        members = self.as_members(signal)
        result = self.peak_log_prob().to(signal) - self.energy(members - self.mean.to(signal))
        return result.reshape(signal.shape[:-2])


class Base(Protocol):
    """A method that a flow can start from: its draws are Gaussian."""

    @property
    def name(self) -> str:
        """Name in tables."""
        ...

    def posterior(self, measurement: Measurement) -> GaussianDraws:
        """Return the Gaussians of a batch of measurements."""
        ...


class WhiteNoise:
    """The base of the paper's flow: it draws z ~ N(0, I), whatever was measured."""

    name = "white noise"

    def posterior(self, measurement: Measurement) -> GaussianDraws:
        """Return N(0, I) of the measurement's shape."""
        return _StandardNormal(measurement)


class _StandardNormal(GaussianDraws):
    def __init__(self, measurement: Measurement) -> None:
        self.measurement = measurement
        self._like = measurement.values.new_empty(measurement.shape)

    @property
    def noise_dim(self) -> int:
        return self._like[0].numel()

    @property
    def mean(self) -> Tensor:
        return torch.zeros_like(self._like)

    def std(self) -> Tensor:
        return torch.ones_like(self._like)

    def functional_variance(self, functionals: Tensor) -> Tensor:
        return functionals.square().sum(1).expand(len(self._like), -1)

    def deviations(self, noise: Tensor) -> Tensor:
        return noise.to(self._like).reshape(-1, *self._like.shape)

    def shared_deviations(self, noise: Tensor) -> Tensor:
        return noise.to(self._like).reshape(-1, *self._like.shape[1:])

    def energy(self, deviations: Tensor) -> Tensor:
        return 0.5 * deviations.square().flatten(2).sum(2)

    def peak_log_prob(self) -> Tensor:
        nodes = self._like[0].numel()
        return self._like.new_full((len(self._like),), -0.5 * nodes * math.log(2 * math.pi))
