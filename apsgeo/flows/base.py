"""Where a flow starts: standard normal noise, or the exact posterior of a Gaussian prior."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from apsgeo.gaussian.posterior import GaussianPosterior
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.measurement import Measurement

__all__ = [
    "Base",
    "BasePosterior",
    "FixedBase",
    "GaussianBase",
    "Moments",
    "StandardNormalBase",
    "Start",
]


class Start(Protocol):
    """What a flow is told of a batch of measurements: they, and moments of its base given them."""

    @property
    def measurement(self) -> Measurement:
        """The batch."""
        ...

    @property
    def mean(self) -> Tensor:
        """(batch, channel, node)."""
        ...

    def std(self) -> Tensor:
        """Marginal standard deviation (batch, channel, node)."""
        ...

    def functional_variance(self, functionals: Tensor) -> Tensor:
        """Variance (batch, k) of the inner products with fields (k, channel * node)."""
        ...


class BasePosterior(Start, Protocol):
    """A Gaussian with a mean for each field, of which a flow transforms the deviations."""

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one draw."""
        ...

    def deviations(self, noise: Tensor) -> Tensor:
        """Map noise (member, batch, noise_dim) to draws minus the mean, each of its shape."""
        ...

    def shared_deviations(self, noise: Tensor) -> Tensor:
        """Map noise (member, noise_dim) to deviations (member, channel, node) of any field.

        The fields must share their mask, noise and season.
        """
        ...

    def energy(self, deviations: Tensor) -> Tensor:
        """Half of d^T C^{-1} d, (member, batch), of (member, batch, channel, node)."""
        ...

    def peak_log_prob(self) -> Tensor:
        """Log density at the mean, (batch,)."""
        ...


@dataclass(frozen=True)
class Moments:
    """The moments that one flow wants of its base, computed beforehand: a `Start`.

    Attributes:
        measurement: The batch.
        mean: (batch, channel, node).
        deviation: The marginal standard deviation, likewise.
        variance: Of the flow's functionals, (batch, k).
    """

    measurement: Measurement
    mean: Tensor
    deviation: Tensor
    variance: Tensor

    @classmethod
    def of(cls, start: Start, functionals: Tensor) -> Moments:
        """Compute the moments with a flow's functionals (k, channel * node), of which k may be 0.

        The standard deviation takes draws, and the variance some columns of the covariance.
        """
        variance = start.mean.new_empty(len(start.mean), 0)
        if len(functionals):
            variance = start.functional_variance(functionals)
        return cls(start.measurement, start.mean, start.std(), variance)

    def std(self) -> Tensor:
        """Return the marginal standard deviation (batch, channel, node)."""
        return self.deviation

    def functional_variance(self, functionals: Tensor) -> Tensor:
        """Return the variance (batch, k) of the functionals that the moments were made with."""
        return self.variance

    def to(self, device: torch.device) -> Moments:
        """Return the moments on a device."""
        tensors = (self.mean, self.deviation, self.variance)
        return Moments(self.measurement.to(device), *(each.to(device) for each in tensors))


class Base(Protocol):
    """A family of Gaussians, one for each measurement."""

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one draw given measurements of nodes."""
        ...

    def posterior(self, measurement: Measurement, season: Tensor) -> BasePosterior:
        """Return the Gaussians of a batch of measurements, taken in seasons (batch,)."""
        ...


class _StandardNormal:
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


class StandardNormalBase:
    """The base of the paper: z ~ N(0, I), whatever was measured."""

    kind = "normal"

    def __init__(self, channels: int, nodes: int) -> None:
        self.noise_dim = channels * nodes

    def posterior(self, measurement: Measurement, season: Tensor) -> BasePosterior:
        """Return N(0, I) of the measurement's shape."""
        return _StandardNormal(measurement)


class GaussianBase:
    """The exact posterior of a Gaussian prior: the flow starts at optimal interpolation."""

    kind = "gaussian"

    def __init__(self, prior: SeasonalPrior) -> None:
        self.prior = prior

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one draw given measurements of nodes."""
        return self.prior.annual.noise_dim

    def posterior(self, measurement: Measurement, season: Tensor) -> GaussianPosterior:
        """Return the posterior of the Gaussian prior of each field's season (batch,)."""
        return self.prior.posterior(measurement, season)


class FixedBase:
    """The exact posterior of one Gaussian prior, whatever the season."""

    kind = "fixed"

    def __init__(self, prior: GaussianPrior) -> None:
        self.prior, self.noise_dim = prior, prior.noise_dim

    def posterior(self, measurement: Measurement, season: Tensor) -> GaussianPosterior:
        """Return the posterior of the prior."""
        return self.prior.posterior(measurement)
