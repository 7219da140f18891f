"""A Gaussian prior by Vecchia's approximation, for grids and masks of any size."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import cached_property
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.draws import GaussianDraws
from apsgeo.gaussian.posterior import Alike, GaussianPosterior, series_alike
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.time.memory import Memory
from apsgeo.gaussian.vecchia.factor import Factor, Seen, Within, factorize
from apsgeo.gaussian.vecchia.ordering import Blocks, Ordering
from apsgeo.gaussian.vecchia.own_spread import OwnSpread
from apsgeo.gaussian.vecchia.posterior import Laws, VecchiaPosterior
from apsgeo.measurement import Bias, Measurement
from apsgeo.operators.linear import LinearMap

__all__ = ["VecchiaPrior"]

_BEFORE, _SMALL = 24, 256
_FEW = 10  # times the observations of a block that are few in all
_MORE = 4  # times as many that the first blocks are then given
_AROUND = 3  # observations that a block is given, at least, for each of its own
_NEIGHBOURS = 0.6  # observations of a record next to it for each of its own; fewer farther off
_WIDEST = 128  # most nodes of an observation
_NODES = 16  # nodes of the observations that a block is given, for each observation of one node
_FEWEST = 8  # observations that a block is given, however wide


class VecchiaPrior:
    """A method that samples a Gaussian prior's posterior at a cost linear in the values.

    It takes what `VecchiaPosterior` says from the prior's covariance. The cost of a value does not
    depend on how many are observed, and nothing is factorized but blocks of some ninety values.
    What no mask changes, the covariance of a block with the values before it, is kept.

    A block is given more observations than asked for where it has as many itself. Where few are
    observed, the blocks that are drawn first are: later ones are drawn given these.

    With a memory, the records around each one (`Measurement.around`) are observations too: a block
    is given the nearest of its own record, and fewer of those before and after it. All have the
    covariance of the record's own season. An operator that observes many nodes at a time does
    without them.

    Args:
        prior: The Gaussian prior, or one for each season.
        memory: Memory in time; without one every record is on its own.
        observations: Number of nearest observations of each channel that a block is drawn given.
        before: Number of nearest earlier nodes that a block is drawn given; by default 24, or all
            on a domain of fewer than 256 nodes, too small for coarse levels.
        block: Number of nodes of a block, up to a factor of the root of two.
        spread: How a record tells the spread of its members; by default it is the prior's.
    """

    bias: ClassVar[Bias] = Bias(mean=0.3, variance=(0.8, 1.2))

    def __init__(
        self,
        prior: Covariance | SeasonalPrior,
        memory: Memory | None = None,
        *,
        observations: int = 40,
        before: int | None = None,
        block: int = 24,
        spread: OwnSpread | None = None,
    ) -> None:
        self.prior, self.spread = prior, spread
        self.observations, self.before, self.block = observations, before, block
        self._shape = (len(prior.variance), prior.domain.num_nodes)
        self.memory = memory
        self._within = Within(memory)

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        return "local Gaussian" if self.spread is None else "local Gaussian, own spread"

    def of(self, prior: Covariance | SeasonalPrior) -> VecchiaPrior:
        """Return the same approximation of another prior on the same domain."""
        other = copy.copy(self)
        other.prior = prior
        return other

    @cached_property
    def ordering(self) -> Ordering:
        """The blocks, of values (channel * node)."""
        positions = self._positions
        usual = _BEFORE if len(positions) >= _SMALL else len(positions)
        before = usual if self.before is None else self.before
        ordering = Ordering.of(positions, block=self.block, before=before)
        return ordering.of_values(*self._shape)

    def takes(self, operator: LinearMap) -> bool:
        """Tell whether each observation is of a few nodes; others have the exact posterior."""
        matrix = operator.to_matrix()
        return matrix is not None and int(np.diff(matrix.indptr).max(initial=0)) <= _WIDEST

    def posterior(self, measurement: Measurement) -> GaussianDraws:
        """Return the draws of the fields behind a measurement.

        Where an observation is of many nodes, such as of a wide blur, none is near to a block, and
        the draws are those of the prior's exact posterior.

        Raises:
            InputError: If the measurement is of another domain.
        """
        if measurement.shape[1:] != self._shape:
            raise InputError(
                f"the measurement has (channel, node) = {measurement.shape[1:]}, the prior "
                f"{self._shape}; measure on the prior's own domain."
            )
        priors = self.priors(measurement)
        if not self.takes(measurement.operator):
            return GaussianPosterior(priors, measurement)
        laws, sizes = [], None
        if self.spread is not None:
            sizes = torch.ones(len(measurement), math.prod(self._shape))
        for own, around in series_alike(priors, measurement, self.memory):
            seen = self._seen(own, around)
            places = [own, *(record for _, record in around)]
            observed, *others = (torch.from_numpy(np.flatnonzero(r.observed)) for r in places)
            factors = self._factors(own.prior, seen)
            indices = [record.index for _, record in around]
            laws.append(
                Laws(factors, observed, own.index, tuple(zip(others, indices, strict=True)))
            )
            if self.spread is not None and sizes is not None:
                values = measurement.values[own.index].flatten(1)[:, observed]
                sizes[own.index] = self.spread.sizes(own.prior, seen[0], values, self._positions)
        return VecchiaPosterior(self.ordering, laws, measurement, self.memory, sizes)

    def marginals_at(self, measurement: Measurement, nodes: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation (batch, channel, n) of some nodes (n,), one by one.

        Each is given the observations nearest to it. It costs as much as n blocks.
        """
        few = copy.copy(self)
        few.spread = None
        blocks = Blocks.single(self._positions, nodes)
        few.ordering = Ordering(None, blocks.of_values(*self._shape))
        few._within = Within(self.memory)
        draws = few.posterior(measurement)
        assert isinstance(draws, VecchiaPosterior)
        return draws.local_mean[..., nodes], draws.std()[..., nodes]

    @property
    def _positions(self) -> np.ndarray:
        return self.prior.domain.positions.numpy()

    def _seen(self, own: Alike, around: Sequence[tuple[float, Alike]]) -> list[Seen]:
        """Return the observations of a record, and those of the records around it."""
        channels = self._shape[0]
        positions = np.tile(self._positions, (channels, 1))
        seen = []
        for lag, record in ((0.0, own), *around):
            matrix = record.operator.to_matrix(channels)
            assert matrix is not None
            seen.append(Seen.of(matrix, record.observed, record.noise_var, positions, lag))
        return seen

    def _factors(self, prior: Covariance, seen: Sequence[Seen]) -> tuple[Factor, ...]:
        parts = self.ordering.parts
        fewer = [
            max(1, round(_NEIGHBOURS * self._counts(part)[-1] / max(1.0, abs(part.lag))))
            for part in seen[1:]
        ]
        counts = [[count, *fewer] for count in self._counts(seen[0])]
        within = self._within.of(prior, parts)
        return tuple(
            factorize(prior, self.memory, blocks, each, seen, count)
            for blocks, each, count in zip(parts, within, counts, strict=True)
        )

    def _counts(self, seen: Seen) -> list[int]:
        """Return how many observations the blocks of each part are given."""
        count = self.observations * self._shape[0]
        own = self.ordering.fine.nodes.shape[1] * len(seen) / math.prod(self._shape)
        usual = max(count, round(_AROUND * own))
        first = _MORE * count if len(seen) < _FEW * count else usual
        most = max(_FEWEST, _NODES * count // seen.width)
        return [min(first, most), *[min(usual, most)] * (len(self.ordering.parts) - 1)]

    def log_prob(self, signal: Tensor, season: Tensor | None = None) -> Tensor:
        """Return the log density (batch,) of signals (batch, channel, node), by their seasons."""
        nothing = torch.zeros(signal.shape, dtype=torch.bool, device=signal.device)
        blank = Measurement(torch.zeros_like(signal), nothing, torch.ones(()), season=season)
        return self.posterior(blank).log_prob(signal)

    def priors(self, measurement: Measurement) -> list[Covariance]:
        """Return the prior of each measured field, by its season."""
        if isinstance(self.prior, SeasonalPrior):
            return list(self.prior.of(measurement))
        return [self.prior] * len(measurement)
