"""What a block is drawn by: weights of what it is given, and a factor of its own covariance."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.vecchia.ordering import Blocks, nearest_of

__all__ = ["Factor", "Seen", "factorize"]

_ENTRIES = 2**18  # entries of covariance blocks at once, so that they stay in the cache
_JITTER = 1e-5  # share of the variance that is white, for single precision


@dataclass(frozen=True)
class Seen:
    """The observations of a group of fields: rows of a sparse matrix, and their noise.

    Attributes:
        values: Values (observation, p) of the signal that each observation is a sum of.
        weights: Their weights (observation, p), zero where it has fewer.
        noise_var: Variance (observation,) of the noise.
        place: Positions (observation, d).
    """

    values: Tensor
    weights: Tensor
    noise_var: Tensor
    place: np.ndarray

    @classmethod
    def of(
        cls, matrix: sp.csr_array, observed: np.ndarray, noise_var: np.ndarray, positions: np.ndarray
    ) -> Seen:
        """Take the observed rows of a matrix (observation, value).

        Args:
            matrix: The operator.
            observed: Which of its rows are observed.
            noise_var: Variance of every row's noise.
            positions: Positions (value, d).
        """
        rows = sp.csr_array(matrix[observed])
        counts = np.diff(rows.indptr)
        real = np.arange(max(1, counts.max(initial=0))) < counts[:, None]
        values, weights = np.zeros(real.shape, dtype=np.int64), np.zeros(real.shape)
        values[real], weights[real] = rows.indices, rows.data
        share = np.abs(weights) + 1e-30
        place = (share[:, :, None] * positions[values]).sum(1) / share.sum(1)[:, None]
        var = torch.from_numpy(noise_var[observed]).float()
        return cls(torch.from_numpy(values), torch.from_numpy(weights).float(), var, place)


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


def factorize(prior: Covariance, blocks: Blocks, seen: Seen, count: int) -> Factor:
    """Return the conditional law of blocks given the `count` nearest observations of each."""
    observations = np.arange(len(seen.noise_var))
    count = min(count, len(observations))
    found, exists = nearest_of(seen.place, observations, blocks.centre, count)
    index, exist = torch.from_numpy(found), torch.from_numpy(exists)
    parts = [
        _factorize(prior, blocks, seen, index[each], exist[each], each)
        for each in _chunks(len(blocks), count * seen.values.shape[1] + _width(blocks))
    ]
    return Factor(index, *(torch.cat(tensors) for tensors in zip(*parts, strict=True)))


def _width(blocks: Blocks) -> int:
    return blocks.before.shape[1] + blocks.nodes.shape[1]


def _chunks(count: int, width: int) -> Iterator[slice]:
    step = max(1, _ENTRIES // width**2)
    for start in range(0, count, step):
        yield slice(start, start + step)


def _factorize(
    prior: Covariance, blocks: Blocks, seen: Seen, index: Tensor, exist: Tensor, each: slice
) -> tuple[Tensor, ...]:
    k, p = index.shape[1], blocks.before.shape[1]
    matrix = _covariance(prior, blocks, seen, index, each)
    used = torch.cat([exist, blocks.known[each], blocks.real[each]], 1)
    matrix = torch.where(used[:, :, None] & used[:, None], matrix, 0.0)
    diagonal = matrix.diagonal(dim1=1, dim2=2)
    diagonal.mul_(1.0 + _JITTER).add_(~used)
    diagonal[:, :k] += torch.where(exist, seen.noise_var[index], 0.0)
    root = _cholesky(matrix)
    both = torch.linalg.solve_triangular(
        root[:, : k + p, : k + p], root[:, k + p :, : k + p], upper=False, left=False
    )
    local = torch.linalg.solve_triangular(
        root[:, :k, :k], root[:, k + p :, :k], upper=False, left=False
    )
    variance = root[:, k + p :, k:].square().sum(2)
    own = root[:, k + p :, k + p :].clone()
    return both[..., :k].clone(), both[..., k:].clone(), own, local, variance


def _covariance(
    prior: Covariance, blocks: Blocks, seen: Seen, index: Tensor, each: slice
) -> Tensor:
    """Return the covariance of a block's observations, earlier values and own ones together."""
    values = torch.cat([blocks.before[each], blocks.nodes[each]], 1)
    entries, weights = seen.values[index], seen.weights[index]
    every = torch.cat([entries.flatten(1), values], 1)
    matrix = prior.covariance_blocks(every, every)
    if entries.shape[2] == 1:
        scale = torch.cat([weights[..., 0], weights.new_ones(values.shape)], 1)
        return matrix.mul_(scale[:, :, None]).mul_(scale[:, None])
    spread = _contracted(matrix, weights)
    return _contracted(spread.mT, weights).mT


def _contracted(matrix: Tensor, weights: Tensor) -> Tensor:
    """Sum the leading rows of blocks (block, k * p + v, j) with weights (block, k, p)."""
    count = weights[0].numel()
    leading = matrix[:, :count].unflatten(1, weights.shape[1:])
    summed = (weights[:, :, None] @ leading)[:, :, 0]
    return torch.cat([summed, matrix[:, count:]], 1)


def _cholesky(matrix: Tensor) -> Tensor:
    """Return the lower factors of blocks; double precision helps those that single one fails."""
    root, info = torch.linalg.cholesky_ex(matrix)
    failed = info != 0
    if bool(failed.any()):
        again = matrix[failed].double()
        again.diagonal(dim1=1, dim2=2).mul_(1.0 + 10 * _JITTER)
        better, info = torch.linalg.cholesky_ex(again)
        if bool((info != 0).any()):
            raise InputError(
                "the covariance of some neighbouring nodes is not positive definite; give the "
                "prior a larger nugget."
            )
        root[failed] = better.to(root)
    return root
