"""Draws from a Vecchia approximation of a Gaussian posterior: linear in the number of nodes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from apsgeo.gaussian.draws import GaussianDraws
from apsgeo.gaussian.time.memory import Memory
from apsgeo.gaussian.vecchia.factor import Factor
from apsgeo.gaussian.vecchia.ordering import Blocks, Ordering
from apsgeo.measurement import Measurement
from apsgeo.measurement.draws import PROBE_SEED

__all__ = ["Laws", "VecchiaPosterior"]

_PROBES = 128  # draws behind the variance of functionals


@dataclass(frozen=True)
class Laws:
    """The conditional laws of all blocks, for fields that share prior, mask, noise and scale.

    Attributes:
        factors: One for each of the ordering's parts.
        observed: Observed observations, flattened.
        index: Fields (field,) of the batch that share them.
        around: For each record around them, its observed observations, flattened, and the places
            (field,) that it has among the measurements around them.
    """

    factors: tuple[Factor, ...]
    observed: Tensor
    index: Tensor
    around: tuple[tuple[Tensor, Tensor], ...] = ()


class VecchiaPosterior(GaussianDraws):
    r"""A Gaussian q(x | y) whose blocks of values are each drawn given a few others.

    A block x_i is drawn from the exact conditional law p(x_i | y_i, x_b), where y_i are the
    observations nearest to it and x_b the values nearest to it among those drawn before. The
    product of these laws is a Gaussian with an exact log density, and every operation is linear in
    the number of values (Vecchia 1988; Katzfuss & Guinness 2021, "A general framework for Vecchia
    approximations of Gaussian processes", arXiv 1708.06302, "response first" ordering; Datta et al.
    2016, arXiv 1406.7343).

    Args:
        ordering: The blocks, of values (channel * node).
        laws: The conditional laws of groups of fields.
        measurement: The measurements.
        memory: Memory in time, by which members of neighbouring records go on into each other.
        sizes: Factors (batch, value) of the deviations from the mean, if the records tell them; see
            `OwnSpread`.
    """

    def __init__(
        self,
        ordering: Ordering,
        laws: Sequence[Laws],
        measurement: Measurement,
        memory: Memory | None = None,
        sizes: Tensor | None = None,
    ) -> None:
        self.ordering, self.laws, self.measurement = ordering, tuple(laws), measurement
        self.memory = memory
        self._like = measurement.values.new_empty(measurement.shape)
        if sizes is not None:
            self.sizes = sizes.reshape(measurement.shape).to(self._like)

    @property
    def noise_dim(self) -> int:
        """Length of the standard normal vector behind one draw: one number for each value."""
        return self._like[0].numel()

    def noise_batches(self, count: int, seed: int, size: int, first: int = 0) -> Iterator[Tensor]:
        """Yield the noise (member, batch, noise_dim) behind members; see `Memory.noise_batches`.

        Without a memory, or where times are not known, that of a record is of itself alone.
        """
        if self.memory is None or self.measurement.time is None:
            return super().noise_batches(count, seed, size, first)
        return self.memory.noise_batches(seed, self.measurement.time, count, size, first)

    def _signal(self, columns: Tensor) -> Tensor:
        """Return columns (value, m) as (m, channel, node)."""
        return columns.T.reshape(-1, *self._like.shape[1:]).to(self._like)

    @cached_property
    def mean(self) -> Tensor:
        """Mean (batch, channel, node) of the draws."""
        out = torch.empty_like(self._like)
        for law in self.laws:
            seen = self._seen(law)
            each = [f.gain @ seen[f.index] for f in law.factors]
            out[law.index] = self._signal(self._forward(law, each))
        return out

    @cached_property
    def local_mean(self) -> Tensor:
        """Mean (batch, channel, node) given the nearest observations of each block alone."""
        out = torch.empty_like(self._like)
        for law in self.laws:
            seen = self._seen(law)
            each = [f.local_gain @ seen[f.index] for f in law.factors]
            out[law.index] = self._signal(self._gathered(each, seen.shape[1]))
        return out

    def std(self) -> Tensor:
        """Return the marginal standard deviation (batch, channel, node) given near observations.

        That of the draws is smaller where farther ones tell more.
        """
        out = torch.empty_like(self._like)
        for law in self.laws:
            each = [f.variance[..., None].sqrt() for f in law.factors]
            out[law.index] = self._signal(self._gathered(each, 1))
        return self.sized(out)

    def deviations(self, noise: Tensor) -> Tensor:
        """Map noise (member, batch, noise_dim) to deviations (member, batch, channel, node)."""
        members = len(noise)
        out = self._like.new_empty(members, *self._like.shape)
        for law in self.laws:
            part = self._drawn(law, noise[:, law.index].flatten(0, 1))
            out[:, law.index] = part.unflatten(0, (members, -1))
        return self.sized(out)

    def shared_deviations(self, noise: Tensor) -> Tensor:
        """Map noise (member, noise_dim) to deviations (member, channel, node) of any field."""
        (law,) = self.laws
        return self._drawn(law, noise)

    def functional_variance(self, functionals: Tensor) -> Tensor:
        """Return the variance (batch, k) of inner products, from draws with fixed noise."""
        generator = torch.Generator().manual_seed(PROBE_SEED)
        noise = torch.randn(_PROBES, self.noise_dim, generator=generator)
        out = self._like.new_empty(len(self._like), len(functionals))
        for law in self.laws:
            draws = self._drawn(law, noise).flatten(1)
            if self.sizes is None:
                out[law.index] = (draws @ functionals.to(draws).T).square().mean(0)
            else:
                for field in law.index.tolist():
                    each = functionals.to(draws) * self.sizes[field].flatten()
                    out[field] = (draws @ each.T).square().mean(0)
        return out

    def energy(self, deviations: Tensor) -> Tensor:
        """Return d^T C^{-1} d / 2 (member, batch) of deviations (member, batch, channel, node)."""
        shape = deviations.shape[:2]
        if self.sizes is not None:
            deviations = deviations / self.sizes
        out = deviations.new_empty(shape)
        for law in self.laws:
            columns = deviations[:, law.index].flatten(0, 1).flatten(1).T
            total = columns.new_zeros(columns.shape[1])
            for blocks, factor in self._parts(law):
                left = columns[blocks.nodes] - _given(blocks, factor, columns, slice(None))
                left = torch.where(blocks.real[..., None], left, 0.0)
                white = torch.linalg.solve_triangular(factor.root.to(left), left, upper=False)
                total = total + white.square().sum((0, 1))
            out[:, law.index] = 0.5 * total.unflatten(0, (shape[0], -1))
        return out

    def peak_log_prob(self) -> Tensor:
        """Return the log density at the mean, (batch,)."""
        out = self._like.new_empty(len(self._like))
        for law in self.laws:
            diagonals = [f.root.diagonal(dim1=1, dim2=2).log().double().sum() for f in law.factors]
            out[law.index] = -float(sum(diagonals)) - 0.5 * self.noise_dim * math.log(2 * math.pi)
        return out if self.sizes is None else out - self.sizes.log().flatten(1).sum(1)

    def _seen(self, law: Laws) -> Tensor:
        """Return what was observed, (observation, field): of the records, then around them."""
        parts = [self.measurement.values[law.index].flatten(1)[:, law.observed]]
        for observed, places in law.around:
            assert self.measurement.around is not None
            parts.append(self.measurement.around.values[places].flatten(1)[:, observed])
        return torch.cat(parts, 1).float().T

    def _parts(self, law: Laws) -> zip[tuple[Blocks, Factor]]:
        return zip(self.ordering.parts, law.factors, strict=True)

    def _drawn(self, law: Laws, noise: Tensor) -> Tensor:
        white = noise.float().T
        each = [f.root @ white[blocks.nodes] for blocks, f in self._parts(law)]
        return self._signal(self._forward(law, each))

    def _forward(self, law: Laws, added: list[Tensor]) -> Tensor:
        """Run x_i = earlier_i x_b + added_i (block, t, m) through all blocks: (value, m)."""
        out = added[0].new_zeros(self.noise_dim, added[0].shape[2])
        for (blocks, factor), each in zip(self._parts(law), added, strict=True):
            for step in blocks.steps:
                values = each[step] + _given(blocks, factor, out, step)
                real = blocks.real[step]
                out[blocks.nodes[step][real]] = values[real]
        return out

    def _gathered(self, parts: list[Tensor], count: int) -> Tensor:
        """Return values (block, t, m) of the parts as (value, m)."""
        out = parts[0].new_empty(self.noise_dim, count)
        for blocks, values in zip(self.ordering.parts, parts, strict=True):
            out[blocks.nodes[blocks.real]] = values[blocks.real]
        return out


def _given(blocks: Blocks, factor: Factor, columns: Tensor, step: slice) -> Tensor:
    """Return the part (block, t, m) that values drawn before, of all (value, m), have in blocks.

    Padding has zero weight.
    """
    return factor.earlier[step].to(columns) @ columns[blocks.before[step]]
