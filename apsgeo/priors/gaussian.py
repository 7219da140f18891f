"""Gaussian priors of a signal, and their exact posterior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.measurement import Measurement

__all__ = ["GaussianPosterior", "GaussianPrior", "System"]

_KEPT_SYSTEMS = 4  # the same measurement is often asked for its mean, spread and draws
_PROBES = 48  # draws behind the posterior's marginal standard deviation
_PROBE_SEED = 20240717


class _SymmetricMap(torch.autograd.Function):
    """A symmetric linear map computed outside torch; its vector-Jacobian product is itself."""

    @staticmethod
    def forward(ctx: Any, signal: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.linear = apply
        return apply(signal)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        return ctx.linear(grads[0]), None


def _symmetric(signal: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
    return _SymmetricMap.apply(signal, apply)


def _columns(signal: Tensor) -> np.ndarray:
    """Flatten (batch, channel, node) to float64 columns (channel * node, batch)."""
    return signal.detach().to("cpu", torch.float64).reshape(len(signal), -1).numpy().T


def _signal(columns: np.ndarray, like: Tensor) -> Tensor:
    """Undo `_columns`, with the dtype, device and trailing shape of `like`."""
    flat = torch.from_numpy(np.ascontiguousarray(columns.T))
    return flat.reshape(-1, *like.shape[-2:]).to(like.device, like.dtype)


class System(ABC):
    """(A C A^T + R)^{-1} for one observed set and one noise; the work is done once, when made."""

    @abstractmethod
    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} A data, (nodes, m); zero where nothing is observed."""

    @abstractmethod
    def update(self, data: np.ndarray) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} A data, (nodes, m)."""

    @abstractmethod
    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(A data; 0, A C A^T + R), (m,)."""


class GaussianPrior(ABC):
    """A zero-mean Gaussian prior of signals (channel, node), known by its covariance C.

    Attributes:
        domain: Where the signal lives.
        channels: Channels of the signal.
        draw_dim: Length of the standard normal vector behind one prior draw.
        loadings: (channel, node, rank) leading patterns of the covariance.
    """

    kind: ClassVar[str]
    domain: Domain
    channels: int
    draw_dim: int
    loadings: Tensor

    def __init__(self) -> None:
        self._levels: dict[float, System] = {}
        self.system = lru_cache(_KEPT_SYSTEMS)(self._system_of_bytes)

    @property
    def size(self) -> int:
        """Number of values of a signal, channels times nodes."""
        return self.channels * self.domain.num_nodes

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one posterior draw."""
        return self.draw_dim + self.size

    @property
    @abstractmethod
    def variance(self) -> Tensor:
        """Marginal variance (channel, node)."""

    @abstractmethod
    def draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (draw_dim, m) to prior draws (nodes, m)."""

    @abstractmethod
    def make_system(self, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the system of an observed set (nodes,) with noise variance (nodes,)."""

    @abstractmethod
    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return a JSON-able configuration and the tensors."""

    @classmethod
    @abstractmethod
    def from_state(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], domain: Domain
    ) -> GaussianPrior:
        """Rebuild a prior from `to_state`."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and send a prior by its state: factorizations cannot be."""
        return type(self).from_state, (*self.to_state(), self.domain)

    @cached_property
    def probes(self) -> tuple[np.ndarray, np.ndarray]:
        """Fixed prior draws (size, 48) and noise of their measurements, for marginal spreads."""
        rng = np.random.default_rng(_PROBE_SEED)
        draws = self.draw(rng.standard_normal((self.draw_dim, _PROBES)))
        return draws, rng.standard_normal((self.size, _PROBES))

    def _system_of_bytes(self, observed: bytes, noise_var: bytes) -> System:
        return self.make_system(np.frombuffer(observed, dtype=bool), np.frombuffer(noise_var))

    def _level(self, noise_std: float) -> System:
        """Return the cached system in which every node is observed with one noise."""
        key = float(noise_std)
        if key not in self._levels:
            everywhere = np.ones(self.size, dtype=bool)
            self._levels[key] = self.make_system(everywhere, np.full(self.size, key**2))
        return self._levels[key]

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (count, channel, node) fields, float32."""
        noise = torch.randn(self.draw_dim, count, generator=generator, dtype=torch.float64)
        like = torch.empty(count, self.channels, self.domain.num_nodes)
        return _signal(self.draw(noise.numpy()), like)

    def precision_apply(self, signal: Tensor) -> Tensor:
        """Return C^{-1} x for x (batch, channel, node); differentiable."""
        system = self._level(0.0)
        return _symmetric(signal, lambda x: _signal(system.solve(_columns(x)), x))

    def log_prob(self, signal: Tensor) -> Tensor:
        """Return the exact log density (batch,) of signals (batch, channel, node)."""
        constant = self._level(0.0).log_evidence(np.zeros((self.size, 1)))[0]
        quadratic = (signal * self.precision_apply(signal)).flatten(1).sum(1)
        return float(constant) - 0.5 * quadratic

    def score(self, signal: Tensor) -> Tensor:
        """Return the gradient of `log_prob`, of the shape of the signal."""
        return -self.precision_apply(signal)

    def denoise(self, signal: Tensor, noise_std: float) -> Tensor:
        """Return E[x | x + noise_std n = signal], differentiable; one solve a field."""
        system = self._level(noise_std)
        return _symmetric(signal, lambda s: _signal(system.update(_columns(s)), s))

    def denoise_std(self, noise_std: float) -> float:
        """Return the root mean square posterior standard deviation after white noise."""
        if noise_std == 0.0:
            return 0.0
        rng = np.random.default_rng(_PROBE_SEED)
        signs = rng.choice([-1.0, 1.0], size=(self.size, 16))
        # Posterior covariance of x under white noise is sigma^2 - sigma^4 (C + sigma^2)^{-1}.
        inverse_trace = (signs * self._level(noise_std).solve(signs)).mean()
        var = noise_std**2
        return float(np.sqrt(max(var - var**2 * inverse_trace, 0.0)))

    def posterior(self, measurement: Measurement) -> GaussianPosterior:
        """Return the exact posterior of the field behind a measurement."""
        return GaussianPosterior(self, measurement)


class GaussianPosterior:
    r"""The exact posterior of a `GaussianPrior` given point measurements with Gaussian noise.

    Fields that share mask and noise share one factorization. Draws are made by pathwise
    conditioning (Matheron's rule; Wilson et al. 2020, arXiv 2002.09309).
    """

    def __init__(self, prior: GaussianPrior, measurement: Measurement) -> None:
        shape = (prior.channels, prior.domain.num_nodes)
        if measurement.values.shape[1:] != shape:
            given = tuple(measurement.values.shape[1:])
            raise InputError(
                f"the measurement has (channel, node) = {given}, the prior {shape}; "
                "measure on the prior's own domain."
            )
        self.prior, self.measurement = prior, measurement
        self._groups = list(_groups(measurement))

    @cached_property
    def _systems(self) -> list[System]:
        return [
            self.prior.system(observed.tobytes(), noise_var.tobytes())
            for observed, noise_var, _ in self._groups
        ]

    def _each(self, apply: Callable[[System, np.ndarray], np.ndarray], signal: Tensor) -> Tensor:
        """Apply a map of each field's own system to (batch, channel, node)."""
        out = torch.empty_like(signal)
        for system, (_, _, index) in zip(self._systems, self._groups, strict=True):
            part = signal[index]
            out[index] = _signal(apply(system, _columns(part)), part)
        return out

    @cached_property
    def mean(self) -> Tensor:
        """Posterior mean (batch, channel, node)."""
        return self._each(lambda system, data: system.update(data), self.measurement.values)

    def deviations(self, noise: Tensor) -> Tensor:
        """Map standard normal noise (members, batch, noise_dim) to draws minus the mean.

        Returns (members, batch, channel, node) in float32.
        """
        members = len(noise)
        like = self.measurement.values
        out = torch.empty(members, *like.shape, dtype=like.dtype)
        for system, (_, noise_var, index) in zip(self._systems, self._groups, strict=True):
            part = noise[:, index]
            columns = part.double().reshape(-1, part.shape[-1]).numpy().T
            prior_draw = self.prior.draw(columns[: self.prior.draw_dim])
            noisy = prior_draw + np.sqrt(noise_var)[:, None] * columns[self.prior.draw_dim :]
            fields = prior_draw - system.update(noisy)
            out[:, index] = _signal(fields, like[:1]).reshape(members, len(index), *like.shape[1:])
        return out

    def std(self) -> Tensor:
        """Return the marginal standard deviation (batch, channel, node).

        From a fixed set of draws, with the prior's draws as control variate, so that it is
        exact far from observations and does not depend on the caller's seed.
        """
        like = self.measurement.values
        out = torch.empty_like(like)
        before, noise = self.prior.probes
        truth = self.prior.variance.reshape(-1).numpy()
        for system, (_, noise_var, index) in zip(self._systems, self._groups, strict=True):
            after = before - system.update(before + np.sqrt(noise_var)[:, None] * noise)
            var_after, var_before = (after**2).mean(1), (before**2).mean(1)
            shared = (after * before).mean(1) ** 2 / (var_after * var_before)
            scale = shared * truth / var_before + (1.0 - shared)
            out[index] = _signal((np.sqrt(var_after * scale))[:, None], like[:1])
        return out

    def precision_apply(self, signal: Tensor) -> Tensor:
        """Return (C^{-1} + A^T R^{-1} A) x; differentiable."""
        measured = self.measurement
        inverse = torch.where(measured.mask, measured.noise_std.pow(-2), 0.0)
        return self.prior.precision_apply(signal) + inverse * signal

    def log_evidence(self) -> Tensor:
        """Return log p(y) of each field (batch,)."""
        values = self.measurement.values
        out = torch.empty(len(values), dtype=torch.float64)
        for system, (_, _, index) in zip(self._systems, self._groups, strict=True):
            out[index] = torch.from_numpy(system.log_evidence(_columns(values[index])))
        return out

    def peak_log_prob(self) -> Tensor:
        """Return the log density at the mean (batch,), from which a quadratic form falls off."""
        return self.log_prob(self.mean)

    def log_prob(self, signal: Tensor) -> Tensor:
        """Return log p(x|y) = log p(x) + log N(y; A x, R) - log p(y), exactly, (batch,)."""
        likelihood = self.measurement.log_likelihood(signal)
        return self.prior.log_prob(signal) + likelihood - self.log_evidence().to(likelihood)


def _groups(measurement: Measurement) -> Iterable[tuple[np.ndarray, np.ndarray, Tensor]]:
    """Yield (observed, noise variance, field indices) for each distinct mask and noise."""
    count = len(measurement.values)
    observed = measurement.mask.reshape(count, -1).cpu().numpy()
    noise = measurement.noise_std.detach().double().reshape(count, -1).cpu().numpy()
    seen: dict[bytes, list[int]] = {}
    for index in range(count):
        seen.setdefault(observed[index].tobytes() + noise[index].tobytes(), []).append(index)
    for members in seen.values():
        yield observed[members[0]], noise[members[0]] ** 2, torch.tensor(members)
