"""The exact posterior of a Gaussian prior with a memory, given records around each one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import cholesky
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.posterior import Alike, series_alike
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.systems import Gram
from apsgeo.gaussian.time.memory import Memory
from apsgeo.measurement import Measurement, NoiseDraws

__all__ = ["SeriesPosterior", "SeriesPrior"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]

_JITTER = 1e-9  # share of the variance by which the covariance of a draw is made definite


class SeriesPrior:
    """A method that samples a Gaussian prior's posterior given the records around each one.

    It is exact, and dense: a factorization of all observations of a record and of those around it,
    which `VecchiaPrior` with the same memory approximates at a cost linear in the values. The
    first draw factorizes the covariance of all values.

    Args:
        prior: The Gaussian prior, or one for each season.
        memory: Memory in time.
    """

    def __init__(self, prior: Covariance | SeasonalPrior, memory: Memory) -> None:
        self.prior, self.memory = prior, memory

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        name = getattr(self.prior, "name", self.prior.kind)
        return f"{name}, with neighbours"

    def posterior(self, measurement: Measurement) -> SeriesPosterior:
        """Return the posterior of the fields behind a measurement.

        Raises:
            InputError: If the operator has no sparse matrix.
        """
        prior = self.prior
        if measurement.operator.to_matrix() is None:
            raise InputError(
                f"the exact posterior with neighbours needs the matrix of {measurement.operator!r},"
                " which has none; measure nodes or averages of a few."
            )
        if isinstance(prior, SeasonalPrior):
            return SeriesPosterior(list(prior.of(measurement)), self.memory, measurement)
        return SeriesPosterior([prior] * len(measurement), self.memory, measurement)


@dataclass(frozen=True)
class _Part:
    """The observations of one record: rows of a matrix (observation, used values), and noise."""

    lag: float
    observed: Index
    used: Index
    rows: Array
    noise_var: Array

    @classmethod
    def of(cls, lag: float, group: Alike, channels: int) -> _Part:
        matrix = group.operator.to_matrix(channels)
        assert matrix is not None
        observed = np.flatnonzero(group.observed)
        rows = matrix[observed]
        used = np.unique(rows.indices)
        if group.operator.is_identity:  # of the nodes themselves
            return cls(lag, observed, observed, np.ones((0, 0)), group.noise_var[observed])
        return cls(lag, observed, used, rows[:, used].toarray(), group.noise_var[observed])

    def apply(self, columns: Array) -> Array:
        """Return the observations of columns (used, m)."""
        return self.rows @ columns if self.rows.size else columns


class SeriesPosterior(NoiseDraws):
    """The exact posteriors of fields given their own observations and those of others near in time.

    Args:
        priors: The prior of each field.
        memory: Memory in time.
        measurement: The measurements, with those around them.
    """

    def __init__(
        self, priors: Sequence[Covariance], memory: Memory, measurement: Measurement
    ) -> None:
        self.memory, self.measurement = memory, measurement
        self._like = measurement.values.new_empty(measurement.shape)
        self._groups = [
            _Solved(memory, own, around, measurement)
            for own, around in series_alike(priors, measurement, memory)
        ]

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one draw."""
        return self._like[0].numel()

    def noise_batches(self, count: int, seed: int, size: int, first: int = 0) -> Iterator[Tensor]:
        """Yield the noise behind members; see `Memory.noise_batches`."""
        if self.measurement.time is None:
            return super().noise_batches(count, seed, size, first)
        return self.memory.noise_batches(seed, self.measurement.time, count, size, first)

    @cached_property
    def mean(self) -> Tensor:
        """Posterior mean (batch, channel, node)."""
        out = torch.empty_like(self._like)
        for group in self._groups:
            out[group.index] = self._signal(group.mean.T)
        return out

    @property
    def marginal_std(self) -> Tensor:
        """Standard deviation (batch, channel, node)."""
        out = torch.empty_like(self._like)
        for group in self._groups:
            out[group.index] = self._signal(np.sqrt(np.maximum(group.variance, 0.0))[None])
        return out

    def log_evidence(self) -> Tensor:
        """Return the log density (batch,) of all observations that each field is given."""
        out = torch.empty(len(self._like), dtype=torch.float64)
        for group in self._groups:
            out[group.index] = torch.from_numpy(group.log_evidence)
        return out

    def from_noise(self, noise: Tensor) -> Tensor:
        """Map noise (member, batch, noise_dim) to fields (member, batch, channel, node)."""
        out = self._like.new_empty(len(noise), *self._like.shape)
        for group in self._groups:
            drawn = noise[:, group.index].double().numpy() @ group.root.T
            out[:, group.index] = torch.from_numpy(drawn).to(out).unflatten(2, out.shape[2:])
        return self.mean + out

    def _signal(self, fields: Array) -> Tensor:
        return torch.from_numpy(fields).reshape(-1, *self._like.shape[1:]).to(self._like)


class _Solved:
    """The posterior of fields that share all but the values of what was observed."""

    def __init__(
        self,
        memory: Memory,
        own: Alike,
        around: Sequence[tuple[float, Alike]],
        measurement: Measurement,
    ) -> None:
        self.memory, self.prior, self.index = memory, own.prior, own.index
        channels = own.prior.channels
        self._parts = [_Part.of(lag, each, channels) for lag, each in ((0.0, own), *around)]
        values = [measurement.values[own.index].flatten(1)[:, self._parts[0].observed]]
        for part, (_, each) in zip(self._parts[1:], around, strict=True):
            assert measurement.around is not None
            values.append(measurement.around.values[each.index].flatten(1)[:, part.observed])
        self._values = torch.cat(values, 1).double().numpy().T
        gram = np.block([[self._between(a, b) for b in self._parts] for a in self._parts])
        gram[np.diag_indices_from(gram)] += np.concatenate([p.noise_var for p in self._parts])
        self._gram = Gram(gram)

    @cached_property
    def _shared(self) -> tuple[Index, Array]:
        """All values that were observed at any time, and their covariance (value, some) with all.

        Those that were observed at several times are computed once, since columns may cost solves.
        """
        some = np.unique(np.concatenate([part.used for part in self._parts]))
        return some, self.prior.covariance(np.arange(self.prior.size), some)

    def _covariance(self, a: Index, when: float, b: Index, then: float) -> Array:
        """Return the covariance of observed values a at one time with values b at another."""
        some, covariance = self._shared
        away = torch.tensor(then - when, dtype=torch.float64)
        block = torch.from_numpy(covariance[b[:, None], np.searchsorted(some, a)].T)
        rows, columns = torch.from_numpy(a), torch.from_numpy(b)
        return self.memory.covariance(self.prior, block, rows, columns, away).numpy()

    def _between(self, a: _Part, b: _Part) -> Array:
        found = self._covariance(a.used, a.lag, b.used, b.lag)
        return b.apply(a.apply(found).T).T

    @cached_property
    def _cross(self) -> Array:
        """Covariance (observation, value) of all observations with the field."""
        every = np.arange(self.prior.size)
        return np.concatenate(
            [p.apply(self._covariance(p.used, p.lag, every, 0.0)) for p in self._parts]
        )

    @property
    def mean(self) -> Array:
        """Posterior mean (value, field)."""
        return self._cross.T @ self._gram.solve(self._values)

    @property
    def variance(self) -> Array:
        """Posterior variance (value,)."""
        return self.prior.variance.flatten().numpy() - self._gram.explained(self._cross)

    @property
    def log_evidence(self) -> Array:
        """Log density (field,) of the observations."""
        return self._gram.log_density(self._values)

    @cached_property
    def root(self) -> Array:
        """Lower Cholesky factor of the posterior covariance (value, value)."""
        every = np.arange(self.prior.size)
        index = torch.from_numpy(every)
        now = torch.zeros((), dtype=torch.float64)
        block = torch.from_numpy(self.prior.covariance(every, every))
        left = self.memory.covariance(self.prior, block, index, index, now).numpy()
        left -= self._cross.T @ self._gram.solve(self._cross)
        left[np.diag_indices_from(left)] += _JITTER * self.prior.variance.flatten().numpy()
        return cholesky((left + left.T) / 2.0, lower=True, check_finite=False)
