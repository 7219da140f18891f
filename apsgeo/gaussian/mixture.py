"""Mixtures of Gaussian priors, whose scores, denoisers and posteriors are in closed form."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from apsgeo.domains.base import Domain
from apsgeo.errors import InputError
from apsgeo.gaussian.posterior import GaussianPosterior
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.measurement import Measurement, NoiseDraws

__all__ = ["GaussianMixturePosterior", "GaussianMixturePrior"]

_NODES = 1024  # nodes whose posterior variance is computed at once


class GaussianMixturePrior:
    r"""The prior p(x) = sum_k w_k N(x; m_k, C_k) of signals (channel, node).

    Everything is exact, since the noisy density is again a mixture: x + s n, with white n, is
    sum_k w_k N(m_k, C_k + s^2 I). With the responsibilities r_k(x) of its components,

        score = -sum_k r_k (C_k + s^2 I)^{-1} (x - m_k),   E[x | x + s n] = sum_k r_k D_k

    where D_k is the denoiser of component k, m_k + C_k (C_k + s^2 I)^{-1} (x - m_k). A diffused
    x_t = alpha x + sigma n is the case s = sigma / alpha at x_t / alpha. One component is a
    Gaussian with a mean.

    Signals are (batch, channel, node) in standardized anomalies; the algebra is in float64, the
    result of the signal's dtype.

    Args:
        components: Gaussian priors of mean zero on one domain, which give the C_k.
        weights: Weights (component,), positive; they are divided by their sum.
        means: Means m_k (component, channel, node); zero by default.

    Raises:
        InputError: If there is no component, they differ in shape, or weights or means do not fit.
    """

    def __init__(
        self,
        components: Sequence[GaussianPrior],
        weights: Sequence[float] | Tensor,
        means: Tensor | None = None,
    ) -> None:
        self.components = list(components)
        if not self.components:
            raise InputError("a mixture of no components was asked for; give at least one.")
        shapes = {(each.channels, each.domain.num_nodes) for each in self.components}
        if len(shapes) > 1:
            raise InputError(
                f"the components have (channel, node) = {sorted(shapes)}; give one shape."
            )
        (shape,) = shapes
        count = len(self.components)
        weights = torch.as_tensor(weights, dtype=torch.float64)
        if weights.shape != (count,) or not bool((torch.isfinite(weights) & (weights > 0)).all()):
            raise InputError(
                f"the weights are {weights.tolist()}; give a positive number for each of the "
                f"{count} components."
            )
        means = torch.zeros(count, *shape) if means is None else means
        if tuple(means.shape) != (count, *shape):
            raise InputError(
                f"the means have shape {tuple(means.shape)}; (component, channel, node) = "
                f"{(count, *shape)} was expected."
            )
        self.weights, self.means = weights / weights.sum(), means.double()

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        return f"mixture of {len(self.components)} Gaussians"

    def __repr__(self) -> str:
        weights = ", ".join(f"{weight:.3g}" for weight in self.weights.tolist())
        return f"GaussianMixturePrior({self.components!r}, weights=[{weights}])"

    @property
    def domain(self) -> Domain:
        """Domain of the signal."""
        return self.components[0].domain

    @property
    def channels(self) -> int:
        """Number of channels of the signal."""
        return self.components[0].channels

    @property
    def size(self) -> int:
        """Number of values of a signal, channels times nodes."""
        return self.components[0].size

    @property
    def mean(self) -> Tensor:
        """Mean (channel, node), float64."""
        return torch.einsum("k,kcn->cn", self.weights, self.means)

    @property
    def variance(self) -> Tensor:
        """Marginal variance (channel, node), float64."""
        each = torch.stack([component.variance for component in self.components]).double()
        return torch.einsum("k,kcn->cn", self.weights, each + (self.means - self.mean) ** 2)

    def sample(self, count: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw (count, channel, node) fields, float32."""
        which = torch.multinomial(self.weights, count, replacement=True, generator=generator)
        out = torch.empty(count, *self.means.shape[1:])
        for index in which.unique().tolist():
            rows = which == index
            draws = self.components[index].sample(int(rows.sum()), generator)
            out[rows] = draws + self.means[index].float()
        return out

    def _joint(self, signal: Tensor, noise_std: float) -> Tensor:
        """Return log(w_k N(signal; m_k, C_k + noise_std^2 I)), (batch, component)."""
        each = [
            component.log_prob(signal - mean.to(signal), noise_std)
            for component, mean in zip(self.components, self.means, strict=True)
        ]
        return torch.stack(each, dim=1) + self.weights.log().to(signal)

    def responsibilities(self, signal: Tensor, noise_std: float = 0.0) -> Tensor:
        """Return the probability of each component given x + noise_std n = signal.

        They are (batch, component), float64, and differentiable.
        """
        return torch.softmax(self._joint(signal.double(), noise_std), dim=1)

    def log_prob(self, signal: Tensor, noise_std: float = 0.0) -> Tensor:
        """Return the exact log density (batch,) of x + noise_std n at (batch, channel, node)."""
        return torch.logsumexp(self._joint(signal.double(), noise_std), dim=1).to(signal.dtype)

    def score(self, signal: Tensor, noise_std: float = 0.0) -> Tensor:
        """Return the gradient of `log_prob`, of the shape of the signal; differentiable."""
        each = [
            component.score(signal.double() - mean.to(signal.device), noise_std)
            for component, mean in zip(self.components, self.means, strict=True)
        ]
        return self._average(each, signal, noise_std)

    def denoise(self, signal: Tensor, noise_std: float) -> Tensor:
        """Return E[x | x + noise_std n = signal], of the shape of the signal; differentiable."""
        each = [
            mean.to(signal.device)
            + component.denoise(signal.double() - mean.to(signal.device), noise_std)
            for component, mean in zip(self.components, self.means, strict=True)
        ]
        return self._average(each, signal, noise_std)

    def _average(self, each: list[Tensor], signal: Tensor, noise_std: float) -> Tensor:
        shares = self.responsibilities(signal, noise_std)
        return torch.einsum("bk,kbcn->bcn", shares, torch.stack(each)).to(signal.dtype)

    def posterior(self, measurement: Measurement) -> GaussianMixturePosterior:
        """Return the exact posterior of the field behind a measurement."""
        return GaussianMixturePosterior(self, measurement)


class GaussianMixturePosterior(NoiseDraws):
    r"""The exact posterior of a mixture given linear measurements y = A x + n, n ~ N(0, R).

    It is the mixture of the components' posteriors, with the weights

        w_k(y) = w_k N(y; A m_k, A C_k A^T + R) / p(y) .

    Args:
        prior: The mixture.
        measurement: Measurements of one field or a batch.

    Raises:
        InputError: If the measurement is of other fields than the prior's.
    """

    def __init__(self, prior: GaussianMixturePrior, measurement: Measurement) -> None:
        self.prior, self.measurement = prior, measurement
        count = len(measurement)
        self._means = prior.means.to(measurement.values)
        self.components = [
            GaussianPosterior([component] * count, self._about(mean))
            for component, mean in zip(prior.components, self._means, strict=True)
        ]

    def _about(self, mean: Tensor) -> Measurement:
        """Return the measurement of x - mean instead of x."""
        measured = self.measurement
        if tuple(mean.shape) != measured.shape[1:]:
            raise InputError(
                f"the measurement has (channel, node) = {measured.shape[1:]}, the prior "
                f"{tuple(mean.shape)}; measure on the prior's own domain."
            )
        seen = measured.apply(mean.expand(measured.shape))
        return replace(measured, values=measured.values - seen)

    @cached_property
    def _joint(self) -> Tensor:
        """log(w_k p(y | k)), (batch, component), float64."""
        evidence = torch.stack([each.log_evidence() for each in self.components], dim=1)
        return evidence + self.prior.weights.log()

    @property
    def log_weights(self) -> Tensor:
        """Log posterior probability of each component (batch, component), float64.

        Raises:
            InputError: If a system has no factorization; see `IterativeSystem`.
        """
        return torch.log_softmax(self._joint, dim=1)

    @property
    def weights(self) -> Tensor:
        """Posterior probability of each component (batch, component), float64."""
        return self.log_weights.exp()

    def log_evidence(self) -> Tensor:
        """Return log p(y) of each field (batch,), float64."""
        return torch.logsumexp(self._joint, dim=1)

    @cached_property
    def component_means(self) -> Tensor:
        """Posterior mean of each component (component, batch, channel, node)."""
        return torch.stack([each.mean for each in self.components]) + self._means[:, None]

    @property
    def mean(self) -> Tensor:
        """Posterior mean (batch, channel, node)."""
        means = self.component_means
        return torch.einsum("bk,kbcn->bcn", self.weights.to(means), means)

    @cached_property
    def variance(self) -> Tensor:
        """Exact marginal posterior variance (batch, channel, node), float64.

        Each node takes a column of the covariance and a solve.
        """
        size = self.prior.size
        blocks = np.split(np.arange(size), range(_NODES, size, _NODES))
        each = [
            np.concatenate([part.marginals_at(nodes)[1] for nodes in blocks], axis=1)
            for part in self.components
        ]
        within = torch.from_numpy(np.stack(each)).reshape(self.component_means.shape)
        between = (self.component_means - self.mean).double().cpu() ** 2
        return torch.einsum("bk,kbcn->bcn", self.weights, within + between)

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one draw."""
        return 1 + max(part.noise_dim for part in self.components)

    def from_noise(self, noise: Tensor) -> Tensor:
        """Map noise (member, batch, noise_dim) to fields (member, batch, channel, node).

        The first number of a member decides its component, the others make the field.
        """
        means, edges = self.component_means, self.weights.cumsum(1)[:, :-1].contiguous()
        which = torch.searchsorted(edges, torch.special.ndtr(noise[..., 0].double()).T.contiguous())
        out = means.new_empty(len(noise), *means.shape[1:])
        for index, (part, mean) in enumerate(zip(self.components, means, strict=True)):
            draws = mean + part.deviations(noise[..., 1 : 1 + part.noise_dim]).to(mean.device)
            out = torch.where(torch.eq(which.T, index)[..., None, None].to(mean.device), draws, out)
        return out

    def log_prob(self, signal: Tensor) -> Tensor:
        """Return log p(x|y) = log p(x) + log N(y; A x, R) - log p(y), exactly, (..., batch)."""
        members = self.as_members(signal)
        joint = torch.stack(
            [self.prior.log_prob(each) + self.measurement.log_likelihood(each) for each in members]
        )
        return (joint - self.log_evidence().to(joint)).reshape(signal.shape[:-2])
