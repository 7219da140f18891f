"""A spread that each record tells by its own observations: smooth days, rough days."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.draws import GaussianDraws
from apsgeo.gaussian.vecchia.ordering import nearest_of
from apsgeo.gaussian.vecchia.prior import VecchiaPrior
from apsgeo.measurement import Measurement, NoiseDraws

__all__ = ["OwnSpread"]

_MOST = 1000  # observations of a record by which its spread is told


@dataclass(frozen=True)
class OwnSpread:
    r"""A method that draws what `VecchiaPrior` draws, with a spread that each record tells.

    One covariance for all records is right on average, too wide for the smooth ones and too narrow
    for the rough ones. Here the deviations of a record from its mean are multiplied by s,

        s^2 = (doubt + sum_i w_i e_i^2 / v_i) / (doubt + sum_i w_i),

    where e_i is what an observation differs by from its prediction given the observations nearest
    to it, v_i the variance of that, and w_i the share of v_i that is not noise. It is the scale of
    a Student-t process of so many degrees of freedom (Shah, Wilson & Ghahramani 2014, "Student-t
    processes as alternatives to Gaussian processes", arXiv 1402.4306), by local predictions in
    place of the joint law. The mean stays.

    Attributes:
        method: The approximation whose spread is the average one.
        doubt: Number of observations that count as much as the average spread.
    """

    method: VecchiaPrior
    doubt: float = 8.0

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        return f"{self.method.name}, own spread"

    def posterior(self, measurement: Measurement) -> NoiseDraws:
        """Return the draws of the fields behind a measurement.

        Raises:
            InputError: If an observation is not of one node.
        """
        return _Scaled(self.method.posterior(measurement), self.sizes(measurement))

    def sizes(self, measurement: Measurement) -> Tensor:
        """Return the factor s (batch,) of each record's spread; see `posterior` for errors."""
        if not measurement.operator.is_identity:
            raise InputError(
                f"{measurement.operator!r} observes several nodes at a time, by which a record's "
                "spread is not told; use VecchiaPrior alone, or measure at nodes, as Mask() does."
            )
        priors = self.method.priors(measurement)
        each = [self._size(prior, measurement[k : k + 1]) for k, prior in enumerate(priors)]
        return torch.stack(each).to(measurement.values)

    def _size(self, prior: Covariance, record: Measurement) -> Tensor:
        """Return the factor of one record."""
        seen = record.mask.flatten().nonzero()[:, 0].cpu()
        if len(seen) < 2:
            return torch.ones((), dtype=torch.float64)
        parts = (record.values, record.noise_std.square())
        values, noise_var = (part.flatten().cpu().double()[seen] for part in parts)
        if record.scale is not None:
            scale = record.scale.flatten().cpu().double()[seen]
            values, noise_var = values / scale, noise_var / scale**2
        own = torch.arange(0, len(seen), -(-len(seen) // _MOST))
        near = self._others(prior, seen.numpy(), own.numpy())
        block = prior.covariance_blocks(torch.cat([seen[own][:, None], seen[near]], 1)).double()
        cross, others = block[:, 1:, 0], block[:, 1:, 1:] + torch.diag_embed(noise_var[near])
        gain = torch.linalg.solve(others, cross)
        off = values[own] - (gain * values[near]).sum(1)
        left = (block[:, 0, 0] - (gain * cross).sum(1)).clamp(min=0.0)
        share = left / (left + noise_var[own])
        told = (share * off.square() / (left + noise_var[own])).sum()
        return ((self.doubt + told) / (self.doubt + share.sum())).sqrt()

    def _others(self, prior: Covariance, seen: np.ndarray, own: np.ndarray) -> Tensor:
        """Return the observations (own, k) that are nearest to each, but for itself."""
        positions = prior.domain.positions.numpy()
        place = positions[seen % len(positions)]
        near = nearest_of(place, place[own], 1 + self.method.observations * prior.channels)[0]
        last = np.argsort(near == own[:, None], axis=1, kind="stable")[:, :-1]
        return torch.from_numpy(np.take_along_axis(near, last, 1))


class _Scaled(NoiseDraws):
    """Gaussian draws whose deviations are multiplied by a factor (batch,) of each record."""

    def __init__(self, draws: GaussianDraws, sizes: Tensor) -> None:
        self.draws, self.sizes, self.measurement = draws, sizes, draws.measurement

    @property
    def noise_dim(self) -> int:
        return self.draws.noise_dim

    def noise_batches(self, count: int, seed: int, size: int, first: int = 0) -> Iterator[Tensor]:
        yield from self.draws.noise_batches(count, seed, size, first)

    @property
    def mean(self) -> Tensor:
        return self.draws.mean

    def from_noise(self, noise: Tensor) -> Tensor:
        return self.mean + self.sizes[:, None, None] * self.draws.deviations(noise)

    def log_prob(self, signal: Tensor) -> Tensor:
        members = self.as_members(signal)
        sizes = self.sizes.to(signal)
        energy = self.draws.energy(members - self.mean.to(signal)) / sizes.square()
        shrunk = members[0, 0].numel() * sizes.log()
        result = self.draws.peak_log_prob().to(signal) - shrunk - energy
        return result.reshape(signal.shape[:-2])
