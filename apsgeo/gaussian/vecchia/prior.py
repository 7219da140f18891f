"""A Gaussian prior by Vecchia's approximation, for grids and masks of any size."""

from __future__ import annotations

import copy
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.posterior import fields_alike
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.vecchia.factor import Seen, factorize
from apsgeo.gaussian.vecchia.ordering import Ordering
from apsgeo.gaussian.vecchia.posterior import Laws, VecchiaPosterior
from apsgeo.measurement import Measurement

__all__ = ["VecchiaPrior"]


class VecchiaPrior:
    """A method that samples a Gaussian prior's posterior at a cost linear in the values.

    It takes what `VecchiaPosterior` says from the prior's covariance. The cost of a value does not
    depend on how many are observed, and nothing is factorized but blocks of some seventy values.

    Args:
        prior: The Gaussian prior, or one for each season.
        observations: Number of nearest observations that a block is drawn given.
        before: Number of nearest earlier nodes that a block is drawn given.
        block: Largest number of nodes of a block.
    """

    def __init__(
        self,
        prior: Covariance | SeasonalPrior,
        *,
        observations: int = 40,
        before: int = 12,
        block: int = 24,
    ) -> None:
        self.prior = prior
        self.observations, self.before, self.block = observations, before, block

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        return f"local {self.prior.kind} Gaussian"

    def of(self, prior: Covariance | SeasonalPrior) -> VecchiaPrior:
        """Return the same approximation of another prior on the same domain."""
        other = copy.copy(self)
        other.prior = prior
        return other

    @cached_property
    def ordering(self) -> Ordering:
        """The blocks, of values (channel * node)."""
        positions = self.prior.domain.positions.numpy()
        ordering = Ordering.of(positions, block=self.block, before=self.before)
        return ordering.of_values(len(self.prior.variance), len(positions))

    def posterior(self, measurement: Measurement) -> VecchiaPosterior:
        """Return the draws of the fields behind a measurement.

        Raises:
            InputError: If the operator is no sparse matrix.
        """
        channels, nodes = self.prior.variance.shape
        if measurement.shape[1:] != (channels, nodes):
            raise InputError(
                f"the measurement has (channel, node) = {measurement.shape[1:]}, the prior "
                f"{(channels, nodes)}; measure on the prior's own domain."
            )
        positions = np.tile(self.prior.domain.positions.numpy(), (channels, 1))
        laws = []
        for group in fields_alike(self._priors(measurement), measurement):
            matrix = group.operator.to_matrix(channels)
            if matrix is None:
                raise InputError(
                    f"{group.operator!r} is not a sparse matrix, and a local posterior needs each "
                    "observation to be of a few nodes; take the exact posterior of the prior."
                )
            seen = Seen.of(matrix, group.observed, group.noise_var, positions)
            factors = tuple(
                factorize(group.prior, blocks, seen, self.observations)
                for blocks in self.ordering.parts
            )
            observed = torch.from_numpy(np.flatnonzero(group.observed))
            laws.append(Laws(factors, observed, group.index))
        return VecchiaPosterior(self.ordering, laws, measurement)

    def log_prob(self, signal: Tensor, season: Tensor | None = None) -> Tensor:
        """Return the log density (batch,) of signals (batch, channel, node), by their seasons."""
        nothing = torch.zeros(signal.shape, dtype=torch.bool, device=signal.device)
        blank = Measurement(torch.zeros_like(signal), nothing, torch.ones(()), season=season)
        return self.posterior(blank).log_prob(signal)

    def _priors(self, measurement: Measurement) -> list[Covariance]:
        if isinstance(self.prior, SeasonalPrior):
            return list(self.prior.of(measurement))
        return [self.prior] * len(measurement)
