"""A spread that each record tells by its own observations: smooth days, rough days."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.draws import GaussianDraws
from apsgeo.gaussian.left_out.nodes import left_out
from apsgeo.gaussian.vecchia.ordering import nearest_of
from apsgeo.gaussian.vecchia.prior import VecchiaPrior
from apsgeo.measurement import Measurement, NoiseDraws

__all__ = ["OwnSpread"]

_OTHERS = 20  # observations of each channel that one is predicted from
_FALL = 2.0  # standard deviations of the weights at the farthest of the near observations
_TINY = 1e-12


@dataclass(frozen=True)
class OwnSpread:
    r"""A method that draws what `VecchiaPrior` draws, with a spread that each record tells.

    One covariance for all records is right on average, too wide for the smooth ones and too narrow
    for the rough ones, and so it is within a record: rain varies more in a front than beside it.
    Here the deviations of a record from its mean are multiplied at each node by

        s = (near_doubt s' + sum_i k_i w_i e_i) / (near_doubt + sum_i k_i w_i),

    where e_i is sqrt(pi / 2) times what an observation differs by from its prediction given the
    others near to it, in standard deviations, w_i the share of the variance of that which is not
    noise, and k_i a weight that falls with the distance of the observation, of those next to the
    node. Of the record as a whole, s' is found likewise, by all its observations and towards one.
    A mean of sizes is ruled less by a few large errors than one of squares. It is the scale of a
    Student-t process, by local predictions in place of the joint law (Shah, Wilson & Ghahramani
    2014, "Student-t processes as alternatives to Gaussian processes", arXiv 1402.4306), which
    varies in space. The mean stays.

    Attributes:
        method: The approximation whose spread is the average one.
        doubt: Number of observations of a record that count as much as the average spread.
        near_doubt: Number of observations near to a node that count as much as the record's spread.
        near: Number of observations of each channel that are near to a node.
    """

    method: VecchiaPrior
    doubt: float = 8.0
    near_doubt: float = 2.0
    near: int = 16

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
        """Return the factor s (batch, 1, node) of the spread; see `posterior` for errors."""
        if not measurement.operator.is_identity:
            raise InputError(
                f"{measurement.operator!r} observes several nodes at a time, by which a record's "
                "spread is not told; use VecchiaPrior alone, or measure at nodes, as Mask() does."
            )
        priors = self.method.priors(measurement)
        count = _OTHERS * measurement.shape[1]
        mean, cov = left_out(priors, measurement, near=count, apart=True)
        left = cov.diagonal(dim1=2, dim2=3).mT.clamp(min=0.0)
        scale = torch.ones(()) if measurement.scale is None else measurement.scale.cpu().double()
        noise_std = measurement.noise_std.cpu().double() / scale
        var = left + noise_std.square()
        off = (measurement.values.cpu().double() / scale - mean).abs() * (
            0.5 * math.pi / var
        ).sqrt()
        mask, share = measurement.mask.cpu(), left / var
        found = [
            self._size(prior.domain, mask[k], share[k], off[k]) for k, prior in enumerate(priors)
        ]
        return torch.stack(found).to(measurement.values)

    def _size(self, domain: Domain, mask: Tensor, share: Tensor, off: Tensor) -> Tensor:
        """Return the factor (1, node) of one record, of shares and sizes (channel, node)."""
        if int(mask.sum()) < 2:
            return torch.ones(1, domain.num_nodes, dtype=torch.float64)
        positions = domain.positions.numpy()
        seen = positions[mask.nonzero()[:, 1].numpy()]
        share, told = share[mask], (share * off)[mask]
        size = (self.doubt + told.sum()) / (self.doubt + share.sum())
        near, away = nearest_of(seen, positions, self.near * len(mask))
        reach = torch.from_numpy(away / np.maximum(away[:, -1:], _TINY))
        weight = torch.exp(-0.5 * (_FALL * reach).square())
        total = [(weight * each[torch.from_numpy(near)]).sum(1) for each in (told, share)]
        local = (self.near_doubt * size + total[0]) / (self.near_doubt + total[1])
        return local[None]


class _Scaled(NoiseDraws):
    """Gaussian draws whose deviations are multiplied by a factor (batch, 1, node)."""

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
        return self.mean + self.sizes * self.draws.deviations(noise)

    def log_prob(self, signal: Tensor) -> Tensor:
        members = self.as_members(signal)
        sizes = self.sizes.to(signal).expand(self.mean.shape)
        energy = self.draws.energy((members - self.mean.to(signal)) / sizes)
        result = self.draws.peak_log_prob().to(signal) - sizes.log().sum((1, 2)) - energy
        return result.reshape(signal.shape[:-2])
