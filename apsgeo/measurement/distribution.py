"""The posterior of measured fields, in the units of the data."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from apsgeo.errors import InputError
from apsgeo.measurement.draws import PROBE_SEED, Draws, NoiseDraws
from apsgeo.measurement.measurement import Measurement
from apsgeo.measurement.normals import Normals

__all__ = ["FieldDistribution"]

_PROBES = 128  # draws behind moments that are not known


class FieldDistribution(Distribution, Draws):
    """p(x | y) of a batch of measured fields, in the units of the data.

    `batch_shape` is (batch,), `event_shape` (channel, node).

    Attributes:
        draws: Draws of the standardized anomalies.
    """

    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def __init__(self, draws: Draws, normals: Normals) -> None:
        self.draws, self._normals = draws, normals
        self._season = draws.measurement.season_of(normals.seasons)
        self._instant = draws.measurement.instant
        batch, _, nodes = draws.measurement.shape
        shape = torch.Size((batch, normals.data_channels, nodes))
        super().__init__(shape[:1], shape[1:], validate_args=False)

    @property
    def has_rsample(self) -> bool:  # type: ignore[override]
        """Whether members are differentiable functions of noise."""
        return isinstance(self.draws, NoiseDraws)

    @property
    def support(self) -> constraints.Constraint:
        """All fields."""
        return constraints.independent(constraints.real, 2)

    @property
    def measurement(self) -> Measurement:  # type: ignore[override]
        """The measurement of standardized anomalies."""
        return self.draws.measurement

    def of(self, draws: Draws) -> FieldDistribution:
        """Return the distribution of other draws, in the same units."""
        other = copy.copy(self)
        other.draws = draws
        return other

    @property
    def _noise_draws(self) -> NoiseDraws:
        if not isinstance(self.draws, NoiseDraws):
            raise InputError(
                "the members of this method are no function of noise; use members(count, seed)."
            )
        return self.draws

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one member."""
        return self._noise_draws.noise_dim

    def from_noise(self, noise: Tensor) -> Tensor:
        """Map noise (member, batch, noise_dim) to fields (member, batch, channel, node)."""
        return self._restore(self._noise_draws.from_noise(noise))

    def members(self, count: int, seed: int) -> Tensor:
        """Return reproducible members (member, batch, channel, node); see `Draws.members`."""
        return self._restore(self.draws.members(count, seed))

    def batches(self, count: int, seed: int, size: int, first: int = 0) -> Iterator[Tensor]:
        """Yield `members` in batches; see `Draws.batches`."""
        for fields in self.draws.batches(count, seed, size, first):
            yield self._restore(fields)

    def rsample(self, sample_shape: torch.Size | list[int] | tuple[int, ...] = ()) -> Tensor:
        """Draw (*sample_shape, batch, channel, node) with torch's global generator."""
        members = int(np.prod(sample_shape, dtype=int))
        if self.has_rsample:
            noise = torch.randn(members, *self.batch_shape, self.noise_dim)
            drawn = self.from_noise(noise)
        else:
            drawn = self.members(members, int(torch.randint(2**31, ())))
        return drawn.reshape(*sample_shape, *self.batch_shape, *self.event_shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Return log q(x | y) (..., batch) of fields (..., batch, channel, node).

        Raises:
            InputError: If some nodes are not valid (land), where there is no density, or the method
                has none.
        """
        anomalies = self._standardized(value)
        units = self._log_det(anomalies)
        result = self.draws.log_prob(anomalies)
        return (result - units.to(result)).reshape(value.shape[:-2])

    def log_joint(self, value: Tensor, log_prior: Callable[[Tensor], Tensor]) -> Tensor:
        """Return log p(x) + log p(y | x) (..., batch) of fields (..., batch, channel, node).

        If the method were exact, this would be `log_prob` plus log p(y), the log density of the
        standardized measurement.

        Args:
            value: Fields in the units of the data.
            log_prior: Function that returns log p (batch,) of anomalies (batch, channel, node).

        Raises:
            InputError: If some nodes are not valid (land), where there is no density.
        """
        measured = self.measurement.to(value.device)
        anomalies = self._standardized(value)
        units = self._log_det(anomalies).double()
        each = [
            log_prior(fields).double() + measured.log_likelihood(fields).double()
            for fields in anomalies
        ]
        return (torch.stack(each) - units).reshape(value.shape[:-2])

    def _restore(self, fields: Tensor) -> Tensor:
        return self._normals.restore(fields, self._season, self._instant)

    def _standardized(self, value: Tensor) -> Tensor:
        """Return fields (..., batch, channel, node) as anomalies (member, batch, channel, node)."""
        self._normals.check_density()
        if not bool(self._normals.valid.all()):
            raise InputError("a density needs a domain on which every node is valid.")
        return self._normals.standardize(self.as_members(value), self._season, self._instant)

    def _log_det(self, anomalies: Tensor) -> Tensor:
        """Return the log-determinant (member, batch) of the map from anomalies to the data."""
        return self._normals.log_det(anomalies, self._season)

    @property
    def mean(self) -> Tensor:
        """Mean (batch, channel, node); of a flow, that of 128 draws with fixed noise.

        Of values on a manifold it is the Fréchet mean.
        """
        if not self._normals.linear:
            return self._normals.average(self._probes)
        return self._restore(self.draws.mean)

    @property
    def _probes(self) -> Tensor:
        return self.members(_PROBES, PROBE_SEED)

    @property
    def marginal_std(self) -> Tensor | None:
        """Exact standard deviation (batch, channel, node), None where it is not known."""
        std = self.draws.marginal_std if self._normals.linear else None
        return None if std is None else self._scale(std)

    @property
    def variance(self) -> Tensor:
        """Variance (batch, channel, node); if not known exactly, of 128 draws with fixed noise."""
        if not self._normals.linear:
            return self._probes.var(0)
        return self._scale(self._scale(self.draws.variance))

    def _scale(self, values: Tensor) -> Tensor:
        """Multiply values (batch, channel, node) by the normals' spread; NaN where not valid."""
        std, valid = self._normals.std[self._season].to(values), self._normals.valid
        return torch.where(valid.to(values.device), values * std, torch.nan)
