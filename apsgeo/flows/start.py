"""What a flow is told of a batch of measurements, and of the base it starts from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from apsgeo.measurement import Measurement, Normals

__all__ = ["Known", "Moments", "Start"]


class Start(Protocol):
    """The measurements, and moments of the base given them."""

    @property
    def measurement(self) -> Measurement:
        """The batch."""
        ...

    @property
    def mean(self) -> Tensor:
        """(batch, channel, node)."""
        ...

    def std(self) -> Tensor:
        """Return the marginal standard deviation (batch, channel, node)."""
        ...

    def functional_variance(self, functionals: Tensor) -> Tensor:
        """Return the variance (batch, k) of the inner products with fields (k, channel * node)."""
        ...


@dataclass(frozen=True)
class Moments:
    """The moments that one flow wants of its base, computed beforehand: a `Start`.

    Attributes:
        measurement: The batch.
        mean: (batch, channel, node).
        deviation: Marginal standard deviation, likewise.
        variance: Variance of the flow's functionals, (batch, k).
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


@dataclass(frozen=True)
class Known:
    """What the networks of a flow are told beside the measurement: fields of order one.

    The covariates of the normals, and the features by which the operators of a family are told
    apart (`LinearMap.features`), each a constant field a channel.

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
