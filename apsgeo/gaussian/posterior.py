"""The exact posterior of Gaussian priors, by a factorization for each way of measuring."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.draws import GaussianDraws
from apsgeo.gaussian.systems import System
from apsgeo.gaussian.time.memory import Memory
from apsgeo.linalg.columns import columns_of, signal_of
from apsgeo.measurement import Measurement
from apsgeo.operators.linear import LinearMap

__all__ = ["Alike", "GaussianPosterior", "each_prior", "fields_alike", "series_alike"]


def each_prior(
    priors: Sequence[Covariance],
    apply: Callable[[Covariance, Tensor], Tensor],
    signal: Tensor,
) -> Tensor:
    """Apply the map of its own prior to each field, all of a prior at once; differentiable."""
    where: dict[int, list[int]] = {}
    for index, prior in enumerate(priors):
        where.setdefault(id(prior), []).append(index)
    parts = [apply(priors[index[0]], signal[index]) for index in where.values()]
    order = torch.tensor([i for index in where.values() for i in index]).argsort()
    return torch.cat(parts)[order.to(signal.device)]


class GaussianPosterior(GaussianDraws):
    r"""The exact posteriors of Gaussian priors given linear measurements with Gaussian noise.

    Fields that share prior, mask and noise share one factorization. Operators that are not sparse
    are solved by conjugate gradients where there are many observations; see `IterativeSystem`.
    Draws are made by pathwise conditioning (Matheron's rule; Wilson et al. 2020, arXiv 2002.09309).

    Args:
        priors: The prior of each field in the batch.
        measurement: The measurements.
    """

    def __init__(self, priors: Sequence[Covariance], measurement: Measurement) -> None:
        shape = (priors[0].channels, priors[0].domain.num_nodes)
        if measurement.shape[1:] != shape:
            measured = measurement.shape[1:]
            raise InputError(
                f"the measurement has (channel, node) = {measured}, the prior {shape}; "
                "measure on the prior's own domain."
            )
        self._priors, self.measurement = priors, measurement
        self._like = measurement.values.new_empty(measurement.shape)
        self._groups = list(fields_alike(priors, measurement))

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
            out[group.index] = signal_of(group.system.update(columns_of(part)), self._like)
        return out

    def deviations(self, noise: Tensor) -> Tensor:
        """Map standard normal noise (member, batch, noise_dim) to draws minus the mean.

        They are (member, batch, channel, node), float32.
        """
        members = len(noise)
        like = self._like
        out = like.new_empty(members, *like.shape)
        for group in self._groups:
            part = noise[:, group.index]
            fields = signal_of(group.draw(part.reshape(-1, part.shape[-1])), like[:1])
            out[:, group.index] = fields.reshape(members, len(group.index), *like.shape[1:])
        return out

    def shared_deviations(self, noise: Tensor) -> Tensor:
        """Map noise (member, noise_dim) to deviations (member, channel, node) of any field.

        The fields must share prior, mask and noise.
        """
        (group,) = self._groups
        return signal_of(group.draw(noise), self._like[:1])

    def std(self) -> Tensor:
        """Return the marginal standard deviation (batch, channel, node).

        It is estimated from a fixed set of draws, so that it depends on no seed. The prior's
        draws are a control variate, so that it is exact far from observations.
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
            out[group.index] = signal_of((np.sqrt(var_after * scale))[:, None], like[:1])
        return out

    @property
    def marginal_std(self) -> Tensor | None:
        """Exact standard deviation (batch, channel, node) where the prior has it cheaply."""
        if not all(group.prior.exact_marginals for group in self._groups):
            return None
        out = torch.empty_like(self._like)
        for group in self._groups:
            var = group.system.posterior_variance(group.prior.variance.reshape(-1).numpy())
            if var is None:
                return None
            out[group.index] = signal_of(np.sqrt(np.maximum(var, 0.0))[:, None], self._like[:1])
        return out

    def marginals_at(self, nodes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the exact mean and variance at some flattened nodes, each (batch, node)."""
        values = self.measurement.values
        mean = np.empty((len(values), len(nodes)))
        var = np.empty_like(mean)
        each = np.arange(len(nodes))
        for group in self._groups:
            columns = group.prior.covariance(np.arange(group.prior.size), nodes)
            index = group.index.numpy()
            mean[index] = group.system.update(columns_of(values[group.index]), nodes).T
            seen = group.system.update(group.operator.forward(columns), nodes)
            var[index] = columns[nodes, each] - seen[each, each]
        return mean, var

    def functional_variance(self, functionals: Tensor) -> Tensor:
        """Return the exact variance (batch, k) of inner products with some fields.

        Args:
            functionals: Fields (k, channel * node); the work on the last ones is kept.
        """
        columns = functionals.detach().cpu().double().numpy().T
        out = torch.empty(len(self._like), len(functionals), dtype=torch.float64)
        for group in self._groups:
            crossed = group.prior.covariance_with(functionals)
            left = crossed - group.system.update(group.operator.forward(crossed))
            out[group.index] = torch.from_numpy((columns * left).sum(0))
        return out

    def precision_apply(self, signal: Tensor) -> Tensor:
        """Return (C^{-1} + A^T R^{-1} A) x; differentiable."""
        measured = self.measurement
        inverse = torch.where(measured.mask, measured.noise_std.pow(-2), 0.0)
        weighted = measured.adjoint(inverse * measured.apply(signal))
        return self._each(lambda prior, x: prior.precision_apply(x), signal) + weighted

    def energy(self, deviations: Tensor) -> Tensor:
        """Return d^T (C^{-1} + A^T R^{-1} A) d / 2, (member, batch); differentiable.

        Args:
            deviations: Deviations d (member, batch, channel, node).
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
            columns = columns_of(values[group.index])
            out[group.index] = torch.from_numpy(group.system.log_evidence(columns))
        return out

    def peak_log_prob(self) -> Tensor:
        """Return log p(x) + log N(y; A x, R) - log p(y) at the mean x, exactly, (batch,)."""
        likelihood = self.measurement.log_likelihood(self.mean)
        prior = self._each(lambda prior, x: prior.log_prob(x), self.mean)
        return prior + likelihood - self.log_evidence().to(likelihood)

    def _each(self, apply: Callable[[Covariance, Tensor], Tensor], signal: Tensor) -> Tensor:
        """Apply the map of its own prior to each of (batch, channel, node); differentiable."""
        if len(signal) != len(self.measurement.values):
            raise InputError(
                f"{len(signal)} fields were given to the posterior of "
                f"{len(self.measurement.values)} measurements; give one a measurement."
            )
        return each_prior(self._priors, apply, signal)


@dataclass(frozen=True)
class Alike:
    """Fields that share prior, operator, mask and noise."""

    prior: Covariance
    operator: LinearMap
    observed: np.ndarray
    noise_var: np.ndarray
    index: Tensor

    @cached_property
    def system(self) -> System:
        """The system, factorized when it is first asked for."""
        return self.prior.system(self.operator, self.observed, self.noise_var)

    def draw(self, noise: Tensor) -> np.ndarray:
        """Turn standard normal noise (m, noise_dim) into deviations from the mean (size, m)."""
        draws, white = np.split(noise.cpu().double().numpy().T, [self.prior.draw_dim])
        return self.deviations(self.prior.draw(draws), white)

    def deviations(self, draws: np.ndarray, white: np.ndarray) -> np.ndarray:
        """Turn prior draws (size, m) and standard normal noise into deviations from the mean."""
        seen = self.operator.forward(draws) + np.sqrt(self.noise_var)[:, None] * white
        return draws - self.system.update(seen)


def fields_alike(priors: Sequence[Covariance], measurement: Measurement) -> Iterable[Alike]:
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
        yield Alike(
            priors[first],
            operator if scale is None else operator.scaled(scale[first]),
            observed[first],
            noise[first] ** 2,
            torch.tensor(members),
        )


def series_alike(
    priors: Sequence[Covariance], measurement: Measurement, memory: Memory | None
) -> Iterable[tuple[Alike, tuple[tuple[float, Alike], ...]]]:
    """Yield the groups of `fields_alike` whose neighbours in time are measured alike, too.

    With each group come its neighbours' lags, in ascending order, and how these were measured; the
    index of a neighbour is that of its records among those around.

    Args:
        priors: The prior of each field.
        measurement: The measurements; without a memory, what is around them does not matter.
        memory: The memory in time, if any.
    """
    around = measurement.around
    if memory is None or around is None or measurement.time is None or around.time is None:
        yield from ((group, ()) for group in fields_alike(priors, measurement))
        return
    kinds = list(fields_alike([priors[0]] * len(around), around))
    kind = torch.empty(len(around), dtype=torch.long)
    for number, each in enumerate(kinds):
        kind[each.index] = number
    near = memory.neighbours(measurement.time, around.time)
    for group in fields_alike(priors, measurement):
        found: dict[tuple[tuple[float, int], ...], list[int]] = {}
        for field in group.index.tolist():
            signature = tuple((lag, int(kind[place])) for lag, place in near[field])
            found.setdefault(signature, []).append(field)
        for signature, fields in found.items():
            places = zip(*([place for _, place in near[field]] for field in fields), strict=True)
            neighbours = tuple(
                (lag, replace(kinds[number], prior=group.prior, index=torch.tensor(where)))
                for (lag, number), where in zip(signature, places, strict=True)
            )
            yield replace(group, index=torch.tensor(fields)), neighbours
