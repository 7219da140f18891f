"""The input of a flow's networks: a batch of measurements, and moments of the base given it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from apsgeo.measurement import Measurement, Normals

__all__ = ["Known", "Moments", "Start"]


class Start(Protocol):
    """A batch of measurements, and moments of the base given them."""

    @property
    def measurement(self) -> Measurement:
        """The batch of measurements."""
        ...

    @property
    def mean(self) -> Tensor:
        """Mean (batch, channel, node)."""
        ...

    def std(self) -> Tensor:
        """Return the marginal standard deviation (batch, channel, node)."""
        ...

    def functional_variance(self, functionals: Tensor) -> Tensor:
        """Return the variance (batch, k) of the inner products with fields (k, channel * node)."""
        ...


@dataclass(frozen=True)
class Moments:
    """A `Start` whose moments were computed beforehand, for one flow.

    Attributes:
        measurement: The batch of measurements.
        mean: Mean (batch, channel, node).
        deviation: Marginal standard deviation (batch, channel, node).
        variance: Variance (batch, k) of the flow's functionals.
    """

    measurement: Measurement
    mean: Tensor
    deviation: Tensor
    variance: Tensor

    @classmethod
    def of(cls, start: Start, functionals: Tensor) -> Moments:
        """Compute the moments for a flow with functionals (k, channel * node), where k may be 0.

        The standard deviation costs draws of the base, the variance columns of its covariance.
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


@dataclass(frozen=True)
class Known:
    """The fields, of order one, that the networks of a flow see beside the measurement.

    They are the covariates of the normals, and constant fields of the features by which a network
    tells the operators of a family apart (`LinearMap.features`).

    Attributes:
        normals: Normals of the variable.
        features: Number of features of an operator of the family.
    """

    normals: Normals
    features: int = 0

    @property
    def count(self) -> int:
        """Number of fields."""
        return self.normals.covariate_count + self.features * self.normals.channels

    def __call__(self, measurement: Measurement) -> Tensor:
        """Return the fields (batch, feature, node) of each record."""
        known = self.normals.covariates(measurement.season_of(self.normals.seasons))
        told = torch.tensor(measurement.operator.features).repeat_interleave(self.normals.channels)
        constant = told.to(known)[None, :, None].expand(len(known), -1, known.shape[-1])
        return torch.cat([known, constant], 1)
