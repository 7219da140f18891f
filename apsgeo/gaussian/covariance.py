"""The covariance of a Gaussian prior, and how it is solved with."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.gaussian.systems import DirectSystem, IterativeSystem, System
from apsgeo.linalg.columns import columns_of, signal_of, symmetric
from apsgeo.measurement.draws import PROBE_SEED
from apsgeo.operators.linear import LinearMap

__all__ = ["Covariance"]

_ROWS = 1024  # rows of the covariance at once
_SMALL = 4096  # values of a signal whose covariance may be kept as a matrix
_PROBES = 48  # draws behind the posterior's marginal standard deviation
_KEPT_LEVELS = 128  # factorizations for white noise on every node


def _same(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second.detach().cpu())


class Covariance(ABC):
    """A zero-mean Gaussian of signals (channel, node), known by its covariance C.

    Attributes:
        domain: Domain of the signal.
        channels: Number of channels of the signal.
        draw_dim: Length of the standard normal vector behind one prior draw.
        loadings: Leading patterns (channel, node, rank) of the covariance.
    """

    kind: ClassVar[str]
    direct_entries: ClassVar[int] = 2**22
    """Most observations times values for which the system of an operator is factorized densely."""
    exact_marginals: ClassVar[bool] = False
    """Whether a posterior's marginals are exact and cost no more than its mean."""
    domain: Domain
    channels: int
    draw_dim: int
    loadings: Tensor

    def __init__(self) -> None:
        self._levels: dict[float, System] = {}
        self._functionals: tuple[Tensor, np.ndarray] | None = None
        self._probe_noise: dict[int, np.ndarray] = {}

    @property
    def size(self) -> int:
        """Number of values of a signal, channels times nodes."""
        return self.channels * self.domain.num_nodes

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one draw given measurements of nodes."""
        return self.draw_dim + self.size

    def _as_signal(self, values: np.ndarray) -> Tensor:
        """Return values (size,) as (channel, node)."""
        return torch.from_numpy(values).reshape(self.channels, -1)

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Marginal variance (channel, node)."""

    @abstractmethod
    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (draw_dim, m) to prior draws (size, m)."""

    @abstractmethod
    def make_system(self, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the system of an observed set (size,) with noise variance (size,)."""

    @abstractmethod
    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the block C[rows, columns] of the covariance, float64."""

    def covariance_blocks(self, values: Tensor, leading: int | None = None) -> Tensor:
        """Return the blocks C[v, v[:leading]] (block, i, leading) of values v (block, i).

        They are float32, on the device of the values. Here those of a small signal are taken from
        the covariance of all values, which is kept, and others are computed one by one.
        """
        index = values.cpu().numpy()
        if self.size <= _SMALL:
            blocks = self._small[index[:, :, None], index[:, None, :leading]]
        else:
            blocks = np.stack([self.covariance(v, v[:leading]) for v in index])
        return torch.from_numpy(blocks.astype(np.float32)).to(values.device)

    @cached_property
    def _small(self) -> np.ndarray:
        every = np.arange(self.size)
        return self.covariance(every, every).astype(np.float32)

    def covariance_apply(self, columns: np.ndarray) -> np.ndarray:
        """Return C times columns (size, m); here block by block, at a cost of size squared."""
        every = np.arange(self.size)
        blocks = np.split(every, range(_ROWS, self.size, _ROWS))
        return np.concatenate([self.covariance(rows, every) @ columns for rows in blocks])

    def covariance_with(self, functionals: Tensor) -> np.ndarray:
        """Return the covariance (size, k) of the signal with functionals (k, size) of it."""
        if self._functionals is None or not _same(self._functionals[0], functionals):
            kept = functionals.detach().cpu().clone()
            self._functionals = kept, self.covariance_apply(kept.double().numpy().T)
        return self._functionals[1]

    def spectrum(self, eigenvalues: np.ndarray) -> np.ndarray:
        """Return about the variance that the loadings leave, by eigenvalue of the Laplacian.

        It is the variance of the signal's coefficients on eigenfunctions that are orthonormal by
        area, and zero where it is not known. It only speeds up conjugate gradients, so that it need
        not be exact.
        """
        return np.zeros_like(eigenvalues)

    def system(self, operator: LinearMap, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the system of an operator; observed set and noise are (observations,)."""
        if operator.is_identity:
            return self.make_system(observed, noise_var)
        return self.make_linear_system(operator, observed, noise_var)

    def make_linear_system(
        self, operator: LinearMap, observed: np.ndarray, noise_var: np.ndarray
    ) -> System:
        """Return the system of an operator that is not the identity: direct, or iterative."""
        count = int(observed.sum())
        if count * max(count, self.size) <= self.direct_entries:
            return DirectSystem(self, operator, observed, noise_var)
        return IterativeSystem(self, operator, observed, noise_var)

    @cached_property
    def _probe_draws(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Fixed prior draws (size, 48), and the state of the generator after them."""
        rng = np.random.default_rng(PROBE_SEED)
        draws = self.draw(rng.standard_normal((self.draw_dim, _PROBES)))
        return draws, dict(rng.bit_generator.state)

    def probes(self, observations: int) -> tuple[np.ndarray, np.ndarray]:
        """Return fixed prior draws (size, 48) and the noise of their measurements, for `std`."""
        draws, state = self._probe_draws
        if observations not in self._probe_noise:
            rng = np.random.default_rng()
            rng.bit_generator.state = state
            self._probe_noise[observations] = rng.standard_normal((observations, _PROBES))
        return draws, self._probe_noise[observations]

    def _level(self, noise_std: float) -> System:
        """Return the cached system in which every node is observed with one noise."""
        key = float(noise_std)
        if key not in self._levels:
            everywhere = np.ones(self.size, dtype=bool)
            system = self.make_system(everywhere, np.full(self.size, key**2))
            while len(self._levels) >= _KEPT_LEVELS:
                self._levels.pop(next(iter(self._levels)), None)
            self._levels[key] = system
            return system
        return self._levels[key]

    def precision_apply(self, signal: Tensor, noise_std: float = 0.0) -> Tensor:
        """Return (C + noise_std^2 I)^{-1} x for x (batch, channel, node); differentiable."""
        system = self._level(noise_std)
        return symmetric(signal, lambda x: signal_of(system.solve(columns_of(x)), x))

    def log_prob(self, signal: Tensor, noise_std: float = 0.0) -> Tensor:
        """Return the exact log density (batch,) of x + noise_std n at (batch, channel, node)."""
        constant = self._level(noise_std).log_evidence(np.zeros((self.size, 1)))[0]
        quadratic = (signal * self.precision_apply(signal, noise_std)).flatten(1).sum(1)
        return float(constant) - 0.5 * quadratic
