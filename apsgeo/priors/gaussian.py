"""The Gaussian prior of a signal: EOF loadings plus a Matern residual, and its exact posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from scipy.linalg import cho_solve
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.operators.measurement import Measurement
from apsgeo.priors.matern import MaternField, factorize, log_determinant

__all__ = ["GaussianPosterior", "GaussianPrior"]

_LOG_2PI = float(np.log(2.0 * np.pi))
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


class _System:
    r"""(A C A^T + R)^{-1} for one observed set and one noise, without forming C.

    With x = U a + v + d e (a, e white; v of sparse precision Q), what is observed has
    E = U a + v + noise of variance R = d^2 + r^2, so that the latent (a, v) has a sparse plus
    low-rank posterior precision: one sparse factorization and a capacitance matrix of the
    number of EOFs serve every right-hand side (Woodbury).
    """

    def __init__(self, prior: GaussianPrior, observed: np.ndarray, noise_var: np.ndarray) -> None:
        self._loadings = prior._loadings
        total = prior._nugget_var + noise_var
        self.weights = np.where(observed, 1.0 / total, 0.0)
        self._factor = factorize(prior._precision + sp.diags(self.weights))
        weighted = self.weights[:, None] * self._loadings
        inner = weighted.T @ (self._loadings - self._factor.solve(weighted))
        self._capacitance = np.linalg.cholesky(np.eye(inner.shape[0]) + (inner + inner.T) / 2)
        self._prior = prior
        self._log_total = float(np.log(total[observed]).sum())
        self._count = int(observed.sum())

    def _latent(self, data: np.ndarray) -> np.ndarray:
        """Return the posterior mean of L a + v given data = A (L a + v) + noise, (nodes, m)."""
        rhs = self.weights[:, None] * data
        local = self._factor.solve(rhs)
        projected = self._loadings.T @ (rhs - self.weights[:, None] * local)
        loads = self._loadings @ cho_solve((self._capacitance, True), projected)
        return loads + local - self._factor.solve(self.weights[:, None] * loads)

    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} A data, (nodes, m); zero where nothing is observed."""
        return self.weights[:, None] * (data - self._latent(data))

    def update(self, data: np.ndarray) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} A data, (nodes, m)."""
        latent = self._latent(data)
        nugget = (self._prior._nugget_var * self.weights)[:, None]
        return latent + nugget * (data - latent)

    def log_evidence(self, data: np.ndarray, solved: np.ndarray) -> np.ndarray:
        """Return log N(A data; 0, A C A^T + R), (m,), given `solved` = solve(data)."""
        determinant = (
            self._log_total
            + log_determinant(self._factor)
            - self._prior._log_det_precision
            + 2.0 * float(np.log(np.diag(self._capacitance)).sum())
        )
        return -0.5 * ((data * solved).sum(0) + determinant + self._count * _LOG_2PI)


class GaussianPrior:
    r"""A zero-mean Gaussian prior with the hybrid covariance of EOFs and a Matern residual.

    C = L L^T + S C_local S + diag(d^2): loadings L (`rank` leading EOFs, shrunk), a Matern
    field scaled at each node by S so that the variance that the EOFs leave is local rather
    than white, and a small nugget d. A hybrid covariance in the sense of Hamill & Snyder (2000,
    https://doi.org/10.1175/1520-0493(2000)128<2905:AHEKFV>2.0.CO;2).

    Args:
        matern: The Matern field of the residual, on the domain of the signal.
        loadings: (channel, node, rank), in the units of the signal.
        local_scale: (channel, node), multiplies the Matern field.
        nugget_std: (channel, node), positive.
    """

    def __init__(
        self,
        matern: MaternField,
        loadings: Tensor,
        local_scale: Tensor,
        nugget_std: Tensor,
    ) -> None:
        self.domain = matern.domain
        self.channels = int(loadings.shape[0])
        self.loadings, self.local_scale, self.nugget_std = loadings, local_scale, nugget_std
        self.range_km = matern.range_km
        self._loadings = loadings.double().reshape(-1, loadings.shape[-1]).numpy()
        self._scale = local_scale.double().reshape(-1).numpy()
        self._nugget_var = nugget_std.double().reshape(-1).numpy() ** 2
        self.matern = matern
        inverse = sp.diags(1.0 / self._scale)
        blocks = sp.block_diag([self.matern.precision] * self.channels)
        self._precision = (inverse @ blocks @ inverse).tocsc()
        self._log_det_precision = log_determinant(factorize(self._precision))
        self._levels: dict[float, _System] = {}
        self.system = lru_cache(_KEPT_SYSTEMS)(self._make_system)

    def __repr__(self) -> str:
        return (
            f"GaussianPrior({self.domain!r}, channels={self.channels}, rank={self.rank}, "
            f"range_km={self.range_km:.0f})"
        )

    @property
    def rank(self) -> int:
        """Number of EOFs."""
        return self._loadings.shape[1]

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one prior or posterior draw."""
        return self.rank + 3 * len(self._scale)

    @property
    def variance(self) -> Tensor:
        """Marginal variance (channel, node)."""
        unit = np.tile(self.matern.variance, self.channels)
        total = (self._loadings**2).sum(1) + unit * self._scale**2 + self._nugget_var
        return torch.from_numpy(total).reshape(self.channels, -1)

    def _draw(self, noise: np.ndarray) -> np.ndarray:
        """Map noise (rank + 2 nodes.., m) to prior draws (nodes, m)."""
        nodes = len(self._scale)
        first, white, nugget = np.split(noise, [self.rank, self.rank + nodes])
        per_channel = white.reshape(self.channels, -1, noise.shape[1])
        local = np.concatenate([self.matern.sample(block) for block in per_channel])
        return (
            self._loadings @ first
            + self._scale[:, None] * local
            + np.sqrt(self._nugget_var)[:, None] * nugget
        )

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (count, channel, node) fields, float32."""
        nodes = len(self._scale)
        noise = torch.randn(self.rank + 2 * nodes, count, generator=generator, dtype=torch.float64)
        like = torch.empty(count, self.channels, nodes // self.channels)
        return _signal(self._draw(noise.numpy()), like)

    def _make_system(self, observed: bytes, noise_var: bytes) -> _System:
        return _System(self, np.frombuffer(observed, dtype=bool), np.frombuffer(noise_var))

    def _level(self, noise_std: float) -> _System:
        """Return the cached system in which every node is observed with one noise."""
        key = float(noise_std)
        if key not in self._levels:
            everywhere = np.ones(len(self._scale), dtype=bool)
            self._levels[key] = _System(self, everywhere, np.full(len(self._scale), key**2))
        return self._levels[key]

    def precision_apply(self, signal: Tensor) -> Tensor:
        """Return C^{-1} x for x (batch, channel, node); differentiable."""
        system = self._level(0.0)
        return _symmetric(signal, lambda x: _signal(system.solve(_columns(x)), x))

    def log_prob(self, signal: Tensor) -> Tensor:
        """Return the exact log density (batch,) of signals (batch, channel, node)."""
        zero = np.zeros((len(self._scale), 1))
        constant = self._level(0.0).log_evidence(zero, zero)[0]
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
        signs = rng.choice([-1.0, 1.0], size=(len(self._scale), 16))
        # Posterior covariance of x under white noise is sigma^2 - sigma^4 (C + sigma^2)^{-1}.
        inverse_trace = (signs * self._level(noise_std).solve(signs)).mean()
        var = noise_std**2
        return float(np.sqrt(max(var - var**2 * inverse_trace, 0.0)))

    def posterior(self, measurement: Measurement) -> GaussianPosterior:
        """Return the exact posterior of the field behind a measurement."""
        return GaussianPosterior(self, measurement)

    def to_state(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        """Return a JSON-able configuration and the tensors (loadings as float16)."""
        tensors = {
            "loadings": self.loadings.half(),
            "local_scale": self.local_scale.float(),
            "matern_variance": torch.from_numpy(self.matern.variance).float(),
            "nugget_std": self.nugget_std.float(),
        }
        return {"range_km": self.range_km}, tensors

    @classmethod
    def from_state(
        cls, config: dict[str, Any], tensors: dict[str, Tensor], domain: Domain
    ) -> GaussianPrior:
        """Rebuild a prior from `to_state`."""
        names = ("loadings", "local_scale", "nugget_std")
        parts = [tensors[name].float() for name in names]
        variance = tensors["matern_variance"].double().numpy()
        return cls(MaternField(domain, float(config["range_km"]), variance), *parts)


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
    def _systems(self) -> list[_System]:
        return [
            self.prior.system(observed.tobytes(), noise_var.tobytes())
            for observed, noise_var, _ in self._groups
        ]

    def _each(self, apply: Callable[[_System, np.ndarray], np.ndarray], signal: Tensor) -> Tensor:
        """Apply a map of each field's own system to (batch, channel, node)."""
        out = torch.empty_like(signal)
        for system, (_, _, index) in zip(self._systems, self._groups, strict=True):
            part = signal[index]
            out[index] = _signal(apply(system, _columns(part)), part)
        return out

    @cached_property
    def mean(self) -> Tensor:
        """Posterior mean (batch, channel, node)."""
        return self._each(_System.update, self.measurement.values)

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
            fields, _ = self._conditioned(system, noise_var, columns)
            out[:, index] = _signal(fields, like[:1]).reshape(members, len(index), *like.shape[1:])
        return out

    def _conditioned(
        self, system: _System, noise_var: np.ndarray, columns: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return posterior draws minus the mean and the prior draws that they came from."""
        split = len(columns) - len(noise_var)
        prior_draw = self.prior._draw(columns[:split])
        data = prior_draw + np.sqrt(noise_var)[:, None] * columns[split:]
        return prior_draw - system.update(data), prior_draw

    def std(self) -> Tensor:
        """Return the marginal standard deviation (batch, channel, node).

        From a fixed set of draws, with the prior's draws as control variate, so that it is
        exact far from observations and does not depend on the caller's seed.
        """
        like = self.measurement.values
        out = torch.empty_like(like)
        noise = np.random.default_rng(_PROBE_SEED).standard_normal((self.prior.noise_dim, _PROBES))
        truth = self.prior.variance.reshape(-1).numpy()
        for system, (_, noise_var, index) in zip(self._systems, self._groups, strict=True):
            after, before = self._conditioned(system, noise_var, noise)
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
            data = _columns(values[index])
            out[index] = torch.from_numpy(system.log_evidence(data, system.solve(data)))
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
