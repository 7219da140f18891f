"""What a block is drawn by: weights of what it is given, and a factor of its own covariance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.time.memory import Memory
from apsgeo.gaussian.vecchia.ordering import Blocks, nearest_of, rank_within

__all__ = ["Factor", "Seen", "Within", "factorize"]

_ENTRIES = 2**18  # entries of covariance blocks at once, so that they stay in the cache
_COLUMNS = 64  # of a covariance that are computed at once, of which the lower triangle is needed
_JITTER = 1e-5  # share of the variance that is white, for single precision
_MORE_WHITE = (2e-6, 1e-4)  # shares that are added where a block is not positive definite


@dataclass(frozen=True)
class Seen:
    """The observations of a group of fields: rows of a sparse matrix, and their noise.

    Attributes:
        values: Values (observation, p) of the signal that each observation is a sum of.
        weights: Their weights (observation, p), zero where it has fewer.
        noise_var: Variance (observation,) of the noise.
        place: Positions (observation, d).
        main: The value (observation,) that weighs most.
        lag: Time of the record that was observed, in steps from that of the fields.
    """

    values: Tensor
    weights: Tensor
    noise_var: Tensor
    place: np.ndarray
    main: np.ndarray
    lag: float = 0.0

    def __len__(self) -> int:
        return len(self.noise_var)

    @property
    def width(self) -> int:
        """Most values of an observation."""
        return self.values.shape[1]

    @classmethod
    def of(
        cls,
        matrix: sp.csr_array,
        observed: np.ndarray,
        noise_var: np.ndarray,
        positions: np.ndarray,
        lag: float = 0.0,
    ) -> Seen:
        """Take the observed rows of a matrix (observation, value).

        Args:
            matrix: The operator.
            observed: Which of its rows are observed.
            noise_var: Variance of every row's noise.
            positions: Positions (value, d).
            lag: Time of the record.
        """
        rows = sp.csr_array(matrix[observed])
        counts = np.diff(rows.indptr)
        real = np.arange(max(1, counts.max(initial=0))) < counts[:, None]
        values, weights = np.zeros(real.shape, dtype=np.int64), np.zeros(real.shape)
        values[real], weights[real] = rows.indices, rows.data
        share = np.abs(weights) + 1e-30
        place = (share[:, :, None] * positions[values]).sum(1) / share.sum(1)[:, None]
        var = torch.from_numpy(noise_var[observed]).float()
        main = np.take_along_axis(values, share.argmax(1)[:, None], 1)[:, 0]
        terms = torch.from_numpy(values), torch.from_numpy(weights).float()
        return cls(*terms, var, place, main, lag)


@dataclass(frozen=True)
class Factor:
    """The conditional law of blocks: N(gain y + earlier x_before, root root^T).

    Attributes:
        index: Observations (block, k) that a block is drawn given.
        gain: Weights (block, t, k) of their values.
        earlier: Weights (block, t, p) of the values drawn before.
        root: Lower factor (block, t, t); one on the diagonal where there is padding.
        local_gain: Weights (block, t, k) of the observations, for the mean given them alone.
        variance: Variance (block, t) given the observations alone.
    """

    index: Tensor
    gain: Tensor
    earlier: Tensor
    root: Tensor
    local_gain: Tensor
    variance: Tensor


class Within:
    """The covariance of each block's earlier and own values, which no mask changes.

    It is kept as long as the prior is.

    Args:
        memory: Memory in time, if any.
    """

    def __init__(self, memory: Memory | None = None) -> None:
        self.memory = memory
        self._kept: WeakKeyDictionary[Covariance, tuple[Tensor, ...]] = WeakKeyDictionary()

    def __reduce__(self) -> tuple[type[Within], tuple[Memory | None]]:
        """Pickle nothing of what is kept."""
        return Within, (self.memory,)

    def of(self, prior: Covariance, parts: Sequence[Blocks]) -> tuple[Tensor, ...]:
        """Return the blocks (block, p + t, p + t) of each part of an ordering, float32."""
        found = self._kept.get(prior)
        if found is None:
            found = self._kept[prior] = tuple(
                _within(prior, self.memory, blocks) for blocks in parts
            )
        return found


def _within(prior: Covariance, memory: Memory | None, blocks: Blocks) -> Tensor:
    values, used = _values(blocks)
    parts = []
    for each in _chunks(len(values), values.shape[1]):
        own = prior.covariance_blocks(values[each])
        if memory is not None:
            own = memory.covariance(prior, own, values[each], values[each], own.new_zeros(()))
        own = torch.where(used[each, :, None] & used[each, None], own, 0.0)
        own.diagonal(dim1=1, dim2=2).mul_(1.0 + _JITTER).add_(~used[each])
        parts.append(own)
    return torch.cat(parts)


def _values(blocks: Blocks) -> tuple[Tensor, Tensor]:
    """Return the earlier and own values (block, p + t) of blocks, and which of them are real."""
    return torch.cat([blocks.before, blocks.nodes], 1), torch.cat([blocks.known, blocks.real], 1)


def factorize(
    prior: Covariance,
    memory: Memory | None,
    blocks: Blocks,
    within: Tensor,
    seen: Sequence[Seen],
    counts: Sequence[int],
) -> Factor:
    """Return the conditional law of blocks given some observations: their own, then near ones.

    Args:
        prior: The covariance.
        memory: Its memory in time, if any.
        blocks: The blocks.
        within: Their `Within` covariance.
        seen: The observations of the record itself, and of others around it.
        counts: Number of observations of each record; all, if there are fewer.
    """
    chosen = _Chosen.of(blocks, seen, counts)
    width = chosen.values[0].numel() + within.shape[1]
    values, used = _values(blocks)
    given = chosen.index.shape[1] + blocks.before.shape[1]
    parts = []
    for each in _chunks(len(blocks), width):
        matrix = _joint(prior, memory, values[each], used[each], within[each], chosen.at(each))
        parts.append(_conditional(_cholesky(matrix), chosen.index.shape[1], given))
    return Factor(chosen.index, *(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


@dataclass(frozen=True)
class _Chosen:
    """The observations that each block is drawn given.

    Attributes:
        index: Places (block, k) among all observations.
        values: Values (block, k, p) that each is a sum of.
        weights: Their weights (block, k, p).
        noise_var: Variances (block, k) of their noise.
        lag: Times (k,) of their records.
    """

    index: Tensor
    values: Tensor
    weights: Tensor
    noise_var: Tensor
    lag: Tensor

    @classmethod
    def of(cls, blocks: Blocks, seen: Sequence[Seen], counts: Sequence[int]) -> _Chosen:
        """Choose so many observations of each record for each block."""
        width = max(part.width for part in seen)
        start, found = 0, []
        for part, count in zip(seen, counts, strict=True):
            index = torch.from_numpy(_observations(blocks, part, count))
            values, weights = (
                torch.nn.functional.pad(each, (0, width - part.width))[index]
                for each in (part.values, part.weights)
            )
            lag = torch.full((index.shape[1],), part.lag)
            found.append((start + index, values, weights, part.noise_var[index], lag))
            start += len(part)
        *blocked, lags = zip(*found, strict=True)
        each = [torch.cat(tensors, 1) for tensors in blocked]
        return cls(each[0], each[1], each[2], each[3], torch.cat(lags))

    def at(self, blocks: slice) -> _Chosen:
        """Return those of some blocks."""
        return _Chosen(
            self.index[blocks],
            self.values[blocks],
            self.weights[blocks],
            self.noise_var[blocks],
            self.lag,
        )


def _observations(blocks: Blocks, seen: Seen, most: int) -> np.ndarray:
    """Return the observations (block, most) of each block's own values, and those nearest to it."""
    near = nearest_of(seen.place, blocks.centre, most)[0]
    real = blocks.real.numpy()
    owner = np.full(int(blocks.nodes.max()) + 1, -1)
    owner[blocks.nodes.numpy()[real]] = np.nonzero(real)[0]
    block = np.where(seen.main < len(owner), owner[np.minimum(seen.main, len(owner) - 1)], -1)
    order = np.argsort(block, kind="stable")
    order = order[block[order] >= 0]
    counts = np.bincount(block[order], minlength=len(blocks))
    rank = rank_within(counts)
    own = np.full((len(blocks), min(most, counts.max(initial=0))), -1)
    fits = rank < own.shape[1]
    own[block[order][fits], rank[fits]] = order[fits]
    every = np.concatenate([own, near], 1)
    again = np.concatenate([own < 0, block[near] == np.arange(len(blocks))[:, None]], 1)
    first = np.argsort(again, axis=1, kind="stable")[:, : near.shape[1]]
    return np.take_along_axis(every, first, 1)


def _chunks(count: int, width: int) -> Iterator[slice]:
    step = max(1, _ENTRIES // width**2)
    for start in range(0, count, step):
        yield slice(start, start + step)


def _joint(
    prior: Covariance,
    memory: Memory | None,
    values: Tensor,
    used: Tensor,
    within: Tensor,
    seen: _Chosen,
) -> Tensor:
    """Return the lower triangle of the covariance of observations, earlier and own values."""
    count = seen.index.shape[1]
    total = count + values.shape[1]
    matrix = within.new_zeros(len(values), total, total)
    matrix[:, count:, count:] = within
    if count == 0:
        return matrix
    width = seen.weights.shape[2]
    every = torch.cat([seen.values.flatten(1), values], 1)
    lag = torch.cat([seen.lag.repeat_interleave(width), seen.lag.new_zeros(values.shape[1])])
    for start in range(0, count, _COLUMNS):  # what is above them is below other columns
        weights, first = seen.weights[:, start : start + _COLUMNS], start * width
        leading = weights.shape[1] * width
        found = _summed(_crossed(prior, memory, every[:, first:], leading, lag[first:]), weights)
        rest, columns = found.shape[1] - values.shape[1], slice(start, start + weights.shape[1])
        summed = _summed(found[:, :rest].mT, seen.weights[:, start:]).mT
        matrix[:, start:count, columns] = summed
        matrix[:, count:, columns] = torch.where(used[:, :, None], found[:, rest:], 0.0)
    matrix.diagonal(dim1=1, dim2=2)[:, :count].add_(seen.noise_var)
    return matrix


def _crossed(
    prior: Covariance, memory: Memory | None, values: Tensor, leading: int, lag: Tensor
) -> Tensor:
    """Return the covariance (block, i, leading) of values (block, i) with the first of them.

    They are those of records at some lags (i,).
    """
    found = prior.covariance_blocks(values, leading)
    # The part of the diagonal that is white is that of one value at one time.
    same = values[:, :, None] == values[:, None, :leading]
    if memory is not None:
        away = lag[:leading] - lag[:, None]
        found = memory.covariance(prior, found, values, values[:, :leading], away)
        same &= away == 0.0
    found[same.nonzero(as_tuple=True)] *= 1.0 + _JITTER
    return found


def _summed(matrix: Tensor, weights: Tensor) -> Tensor:
    """Sum the columns of blocks (block, i, k * p) with weights (block, k, p)."""
    if weights.shape[2] == 1:
        return matrix * weights.mT
    return (matrix.unflatten(2, weights.shape[1:]) * weights[:, None]).sum(3)


def _conditional(root: Tensor, count: int, given: int) -> tuple[Tensor, ...]:
    """Return the weights and roots of `Factor` by the root of the joint covariance."""
    cross = root[:, given:, :given]
    both = torch.linalg.solve_triangular(root[:, :given, :given], cross, upper=False, left=False)
    local = torch.linalg.solve_triangular(
        root[:, :count, :count], cross[..., :count], upper=False, left=False
    )
    variance = root[:, given:, count:].square().sum(2)
    own = root[:, given:, given:].clone()
    return both[..., :count].clone(), both[..., count:].clone(), own, local, variance


def _cholesky(matrix: Tensor) -> Tensor:
    """Return the lower factors of blocks; double precision helps those that single one fails."""
    root, info = torch.linalg.cholesky_ex(matrix)
    for white in _MORE_WHITE:
        failed = (info != 0).nonzero()[:, 0]
        if not len(failed):
            return root
        again = matrix[failed].double()
        again.diagonal(dim1=1, dim2=2).mul_(1.0 + white)
        better, found = torch.linalg.cholesky_ex(again)
        root[failed], info[failed] = better.to(root), found
    if bool((info != 0).any()):
        raise InputError(
            "the covariance of some neighbouring nodes is not positive definite; give the prior a "
            "larger nugget."
        )
    return root
