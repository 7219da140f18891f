"""Gaussian priors of a signal, and their exact posterior."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.linear import LinearMap
from apsgeo.operators.measurement import Measurement
from apsgeo.priors.systems import DirectSystem, IterativeSystem, System

__all__ = ["GaussianPosterior", "GaussianPrior", "System", "each_prior"]

_ROWS = 1024  # of the covariance, at once
_PROBES = 48  # draws behind the posterior's marginal standard deviation
_PROBE_SEED = 20240717
_KEPT_LEVELS = 128  # factorizations for white noise on every node


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


def _same(first: Tensor, second: Tensor) -> bool:
    return first.dtype == second.dtype and torch.equal(first, second.detach().cpu())


class GaussianPrior(ABC):
    """A zero-mean Gaussian prior of signals (channel, node), known by its covariance C.

    Attributes:
        domain: Where the signal lives.
        channels: Channels of the signal.
        draw_dim: Length of the standard normal vector behind one prior draw.
        loadings: (channel, node, rank) leading patterns of the covariance.
    """

    kind: ClassVar[str]
    direct_entries: ClassVar[int] = 2**22
    """Largest observations times values for which an operator's system is factorized densely."""
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
        """Return one value a node as (channel, node)."""
        return torch.from_numpy(values).reshape(self.channels, -1)

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
    def covariance(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        """Return the block C[rows, columns] of the covariance, float64."""

    def covariance_apply(self, columns: np.ndarray) -> np.ndarray:
        """Return C x for columns (size, m); here block by block, at a cost of size squared."""
        every = np.arange(self.size)
        blocks = np.split(every, range(_ROWS, self.size, _ROWS))
        return np.concatenate([self.covariance(rows, every) @ columns for rows in blocks])

    def spread_of(self, functionals: Tensor) -> np.ndarray:
        """Return the covariance (size, k) of the signal with functionals (k, size) of it."""
        if self._functionals is None or not _same(self._functionals[0], functionals):
            kept = functionals.detach().cpu().clone()
            self._functionals = kept, self.covariance_apply(kept.double().numpy().T)
        return self._functionals[1]

    def spectrum(self, eigenvalues: np.ndarray) -> np.ndarray:
        """Return about the variance beyond the loadings, by eigenvalue of the Laplacian.

        That of coefficients of eigenfunctions that are orthonormal by area; it speeds up conjugate
        gradients and need not be exact; zero where it is not known.
        """
        return np.zeros_like(eigenvalues)

    def system(self, operator: LinearMap, observed: np.ndarray, noise_var: np.ndarray) -> System:
        """Return the system of an operator's observed values (observations,) and their noise."""
        if operator.is_identity:
            return self.make_system(observed, noise_var)
        return self.make_linear_system(operator, observed, noise_var)

    def make_linear_system(
        self, operator: LinearMap, observed: np.ndarray, noise_var: np.ndarray
    ) -> System:
        """Return the system of a general operator: direct, or by conjugate gradients."""
        count = int(observed.sum())
        if count * max(count, self.size) <= self.direct_entries:
            return DirectSystem(self, operator, observed, noise_var)
        return IterativeSystem(self, operator, observed, noise_var)

    @cached_property
    def _probe_draws(self) -> tuple[np.ndarray, dict[str, Any]]:
        """Fixed prior draws (size, 48), and the state of the generator after them."""
        rng = np.random.default_rng(_PROBE_SEED)
        draws = self.draw(rng.standard_normal((self.draw_dim, _PROBES)))
        return draws, dict(rng.bit_generator.state)

    def probes(self, observations: int) -> tuple[np.ndarray, np.ndarray]:
        """Return fixed prior draws (size, 48) and noise of their measurements, for spreads."""
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

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (count, channel, node) fields, float32."""
        noise = torch.randn(self.draw_dim, count, generator=generator, dtype=torch.float64)
        like = torch.empty(count, self.channels, self.domain.num_nodes)
        return _signal(self.draw(noise.numpy()), like)

    def precision_apply(self, signal: Tensor, noise_std: float = 0.0) -> Tensor:
        """Return (C + noise_std^2 I)^{-1} x for x (batch, channel, node); differentiable."""
        system = self._level(noise_std)
        return _symmetric(signal, lambda x: _signal(system.solve(_columns(x)), x))

    def log_prob(self, signal: Tensor, noise_std: float = 0.0) -> Tensor:
        """Return the exact log density (batch,) of x + noise_std n at (batch, channel, node)."""
        constant = self._level(noise_std).log_evidence(np.zeros((self.size, 1)))[0]
        quadratic = (signal * self.precision_apply(signal, noise_std)).flatten(1).sum(1)
        return float(constant) - 0.5 * quadratic

    def score(self, signal: Tensor, noise_std: float = 0.0) -> Tensor:
        """Return the gradient of `log_prob`, of the shape of the signal."""
        return -self.precision_apply(signal, noise_std)

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
        return GaussianPosterior([self] * len(measurement.values), measurement)


def each_prior(
    priors: Sequence[GaussianPrior],
    apply: Callable[[GaussianPrior, Tensor], Tensor],
    signal: Tensor,
) -> Tensor:
    """Apply a map of each field's own prior, all fields of a prior at once; differentiable."""
    where: dict[int, list[int]] = {}
    for index, prior in enumerate(priors):
        where.setdefault(id(prior), []).append(index)
    parts = [apply(priors[index[0]], signal[index]) for index in where.values()]
    order = torch.tensor([i for index in where.values() for i in index]).argsort()
    return torch.cat(parts)[order.to(signal.device)]


class GaussianPosterior:
    r"""The exact posteriors of Gaussian priors given linear measurements with Gaussian noise.

    Fields that share prior, mask and noise share one factorization. Operators that are not sparse
    are solved by conjugate gradients where there are many observations; see `IterativeSystem`.
    Draws are made by pathwise conditioning (Matheron's rule; Wilson et al. 2020, arXiv 2002.09309).

    Args:
        priors: The prior of each field of the batch.
        measurement: What was measured of them.
    """

    def __init__(self, priors: Sequence[GaussianPrior], measurement: Measurement) -> None:
        shape = (priors[0].channels, priors[0].domain.num_nodes)
        if measurement.shape[1:] != shape:
            given = measurement.shape[1:]
            raise InputError(
                f"the measurement has (channel, node) = {given}, the prior {shape}; "
                "measure on the prior's own domain."
            )
        self._priors, self.measurement = priors, measurement
        self._like = measurement.values.new_empty(measurement.shape)
        self._groups = list(_groups(priors, measurement))

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one draw."""
        prior = self._groups[0].prior
        return prior.draw_dim + self.measurement.values[0].numel()

    @cached_property
    def mean(self) -> Tensor:
        """Posterior mean (batch, channel, node)."""
        values = self.measurement.values
        out = torch.empty_like(self._like)
        for group in self._groups:
            part = values[group.index]
            out[group.index] = _signal(group.system.update(_columns(part)), self._like)
        return out

    def deviations(self, noise: Tensor) -> Tensor:
        """Map standard normal noise (members, batch, noise_dim) to draws minus the mean.

        Returns (members, batch, channel, node) in float32.
        """
        members = len(noise)
        like = self._like
        out = torch.empty(members, *like.shape, dtype=like.dtype)
        for group in self._groups:
            part = noise[:, group.index]
            fields = _signal(group.draw(part.reshape(-1, part.shape[-1])), like[:1])
            out[:, group.index] = fields.reshape(members, len(group.index), *like.shape[1:])
        return out

    def shared_deviations(self, noise: Tensor) -> Tensor:
        """Map noise (members, noise_dim) to deviations (members, channel, node) of any field.

        The fields must share prior, mask and noise.
        """
        (group,) = self._groups
        return _signal(group.draw(noise), self._like[:1])

    def std(self) -> Tensor:
        """Return the marginal standard deviation (batch, channel, node).

        From a fixed set of draws, with the prior's draws as control variate, so that it is
        exact far from observations and does not depend on the caller's seed.
        """
        like = self._like
        out = torch.empty_like(like)
        for group in self._groups:
            before, white = group.prior.probes(len(group.observed))
            truth = group.prior.variance.reshape(-1).numpy()
            after = group.deviations(before, white)
            var_after, var_before = (after**2).mean(1), (before**2).mean(1)
            shared = (after * before).mean(1) ** 2 / (var_after * var_before)
            scale = shared * truth / var_before + (1.0 - shared)
            out[group.index] = _signal((np.sqrt(var_after * scale))[:, None], like[:1])
        return out

    def marginals_at(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the exact mean and variance, each (batch, node), at some flattened nodes."""
        values = self.measurement.values
        mean = np.empty((len(values), len(nodes)))
        var = np.empty_like(mean)
        each = np.arange(len(nodes))
        for group in self._groups:
            columns = group.prior.covariance(np.arange(group.prior.size), nodes)
            index = group.index.numpy()
            mean[index] = group.system.update(_columns(values[group.index]), nodes).T
            seen = group.system.update(group.operator.forward(columns), nodes)
            var[index] = columns[nodes, each] - seen[each, each]
        return mean, var

    def functional_variance(self, functionals: Tensor) -> Tensor:
        """Return the exact variance (batch, k) of inner products with some fields.

        Args:
            functionals: (k, channel * node); work on the last ones is kept.
        """
        columns = functionals.detach().cpu().double().numpy().T
        out = torch.empty(len(self._like), len(functionals), dtype=torch.float64)
        for group in self._groups:
            spread = group.prior.spread_of(functionals)
            left = spread - group.system.update(group.operator.forward(spread))
            out[group.index] = torch.from_numpy((columns * left).sum(0))
        return out

    def precision_apply(self, signal: Tensor) -> Tensor:
        """Return (C^{-1} + A^T R^{-1} A) x; differentiable."""
        measured = self.measurement
        inverse = torch.where(measured.mask, measured.noise_std.pow(-2), 0.0)
        weighted = measured.adjoint(inverse * measured.apply(signal))
        return self._each(lambda prior, x: prior.precision_apply(x), signal) + weighted

    def energy(self, deviations: Tensor) -> Tensor:
        """Return half of d^T (C^{-1} + A^T R^{-1} A) d, (member, batch); differentiable.

        Args:
            deviations: d, (member, batch, channel, node).
        """
        shape, fields = deviations.shape[:2], deviations.flatten(0, 1)
        precise = each_prior(
            list(self._priors) * shape[0], lambda prior, x: prior.precision_apply(x), fields
        )
        prior = (fields * precise).flatten(1).sum(1)
        measured = self.measurement.repeat(shape[0])
        seen = torch.where(measured.mask, measured.apply(fields) / measured.noise_std, 0.0)
        return 0.5 * (prior + seen.square().flatten(1).sum(1)).unflatten(0, shape)

    def log_evidence(self) -> Tensor:
        """Return log p(y) of each field (batch,).

        Raises:
            InputError: If a system has no factorization; see `IterativeSystem`.
        """
        values = self.measurement.values
        out = torch.empty(len(values), dtype=torch.float64)
        for group in self._groups:
            columns = _columns(values[group.index])
            out[group.index] = torch.from_numpy(group.system.log_evidence(columns))
        return out

    def peak_log_prob(self) -> Tensor:
        """Return the log density at the mean (batch,), from which a quadratic form falls off."""
        return self.log_prob(self.mean)

    def log_prob(self, signal: Tensor) -> Tensor:
        """Return log p(x|y) = log p(x) + log N(y; A x, R) - log p(y), exactly, (batch,)."""
        likelihood = self.measurement.log_likelihood(signal)
        prior = self._each(lambda prior, x: prior.log_prob(x), signal)
        return prior + likelihood - self.log_evidence().to(likelihood)

    def _each(self, apply: Callable[[GaussianPrior, Tensor], Tensor], signal: Tensor) -> Tensor:
        """Apply a map of each field's own prior to (batch, channel, node); differentiable."""
        if len(signal) != len(self.measurement.values):
            raise InputError(
                f"{len(signal)} fields were given to the posterior of "
                f"{len(self.measurement.values)} measurements; give one a measurement."
            )
        return each_prior(self._priors, apply, signal)


@dataclass(frozen=True)
class _Group:
    """Fields that share prior, operator, mask and noise."""

    prior: GaussianPrior
    operator: LinearMap
    observed: np.ndarray
    noise_var: np.ndarray
    index: Tensor

    @cached_property
    def system(self) -> System:
        return self.prior.system(self.operator, self.observed, self.noise_var)

    def draw(self, noise: Tensor) -> np.ndarray:
        """Turn standard normal noise (m, noise_dim) into deviations from the mean (size, m)."""
        draws, white = np.split(noise.double().numpy().T, [self.prior.draw_dim])
        return self.deviations(self.prior.draw(draws), white)

    def deviations(self, draws: np.ndarray, white: np.ndarray) -> np.ndarray:
        """Turn prior draws (size, m) and standard normal noise into deviations from the mean."""
        seen = self.operator.forward(draws) + np.sqrt(self.noise_var)[:, None] * white
        return draws - self.system.update(seen)


def _groups(priors: Sequence[GaussianPrior], measurement: Measurement) -> Iterable[_Group]:
    """Yield a group for each distinct prior, mask, noise and scale."""
    count = len(measurement.values)
    observed = measurement.mask.reshape(count, -1).cpu().numpy()
    noise = measurement.noise_std.detach().double().reshape(count, -1).cpu().numpy()
    scale = measurement.scale
    scales = [b"" if scale is None else scale[i].cpu().numpy().tobytes() for i in range(count)]
    seen: dict[tuple[int, bytes, bytes, bytes], list[int]] = {}
    for i in range(count):
        key = (id(priors[i]), observed[i].tobytes(), noise[i].tobytes(), scales[i])
        seen.setdefault(key, []).append(i)
    for members in seen.values():
        first = members[0]
        operator = measurement.operator
        yield _Group(
            priors[first],
            operator if scale is None else operator.scaled(scale[first]),
            observed[first],
            noise[first] ** 2,
            torch.tensor(members),
        )
