"""The posterior given observations whose errors are correlated."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.gaussian.covariance import Covariance
from apsgeo.gaussian.draws import GaussianDraws
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Draws, Measurement, Method, noise_batches

__all__ = ["SharedDraws", "WithSharedErrors"]

Array = NDArray[np.float64]

_MOST = 1024  # observations of a record that tell its shared errors
_TOGETHER = 64  # responses that are computed at once
_STREAM = 2  # of the noise behind shared errors
_JITTER = 1e-10


class Gaussian(Protocol):
    """A Gaussian method, whose posterior mean is linear in the observations."""

    def posterior(self, measurement: Measurement) -> GaussianDraws:
        """Return the Gaussians of a batch of measurements."""
        ...


class WithSharedErrors:
    r"""A method for observations y = A x + B b + n, where b ~ N(0, I) is shared and n is not.

    The state is augmented by the shared errors b of each record (Derber & Wu 1998, "The use of TOVS
    cloud-cleared radiances", https://doi.org/10.1175/1520-0493(1998)126%3C2287:TUOTCC%3E2.0.CO;2,
    do so with biases of channels). Their posterior p(b | y), with x integrated out, is computed
    first, exactly, from at most 1024 observations of the record, spread over all that share
    different errors. Each member of it is then taken off the observations, and the method draws
    p(x | y - B b), so that its cost and its approximations stay what they were. For an exact
    Gaussian method and so many observations, the members are those of the exact posterior with the
    noise covariance B B^T + R.

    A method that is not Gaussian itself, such as a flow, is evaluated once, at the mean of b; the
    rest of b moves its members as it moves those of the Gaussian method.

    Args:
        method: Method that samples p(x | y) without shared errors.
        gaussian: Gaussian method on the prior that tells them, such as the one that a flow starts
            from.
    """

    def __init__(
        self, method: Method, gaussian: VecchiaPrior | SeasonalPrior | GaussianPrior
    ) -> None:
        self.method, self.gaussian = method, gaussian

    @property
    def name(self) -> str:
        """Name of the method in tables."""
        return self.method.name

    def posterior(self, measurement: Measurement) -> SharedDraws:
        """Return the draws of the fields behind measurements with `Measurement.shared`."""
        return SharedDraws(self.method, self.gaussian, measurement)


@dataclass(frozen=True)
class _Errors:
    """The posterior of the shared errors of a record.

    Attributes:
        loadings: Loadings B (observation, k) of those that some observation shares.
        mean: Mean (k,).
        root: Lower factor (k, k) of the covariance.
    """

    loadings: sp.csr_array
    mean: Array
    root: Array


class SharedDraws(Draws):
    """p(x | y) of records whose observations share errors.

    Attributes:
        base: Draws given observations without the mean of the shared errors.
    """

    def __init__(
        self,
        method: Method,
        gaussian: VecchiaPrior | SeasonalPrior | GaussianPrior,
        measurement: Measurement,
    ) -> None:
        if measurement.shared is None:
            raise InputError("the measurement has no shared errors; use the method itself")
        # Errors are those of the record itself: records around have others.
        self._measured = replace(measurement, shared=None, around=None)
        self._gaussian = gaussian
        self._errors = [
            _posterior_of(prior, self._measured[i : i + 1], measurement.shared[i])
            for i, prior in enumerate(_priors(gaussian, measurement))
        ]
        means = [each.loadings @ each.mean for each in self._errors]
        off = torch.from_numpy(np.stack(means)).to(measurement.values)
        values = torch.where(
            measurement.mask, measurement.values - off.reshape(measurement.values.shape), 0.0
        )
        self.base = method.posterior(replace(self._measured, values=values))
        self.measurement = self.base.measurement

    @property
    def mean(self) -> Tensor:
        """Mean (batch, channel, node)."""
        return self.base.mean

    @property
    def marginal_std(self) -> Tensor | None:
        """Exact standard deviation (batch, channel, node), if that of the method is known."""
        std = self.base.marginal_std
        if std is None:
            return None
        added = torch.stack([each.square().sum(0) for each in self.responses])
        return (std.square() + added.to(std)).sqrt()

    @property
    def variance(self) -> Tensor:
        """Variance (batch, channel, node), as far as that of the method is known."""
        added = torch.stack([each.square().sum(0) for each in self.responses])
        found = self.base.variance
        return found + added.to(found)

    @cached_property
    def responses(self) -> list[Tensor]:
        """What one standard deviation of each shared error takes off the fields of each record.

        They are (k, channel, node), along the axes of the posterior covariance of the errors.
        """
        return [self._response(i, each) for i, each in enumerate(self._errors)]

    def _response(self, record: int, errors: _Errors) -> Tensor:
        one = self._measured[record : record + 1]
        if not len(errors.mean):
            return one.values.new_zeros(0, *one.shape[1:])
        columns = torch.from_numpy((errors.loadings @ errors.root).T.copy()).to(one.values)
        parts = []
        for values in columns.reshape(-1, *one.values.shape[1:]).split(_TOGETHER):
            repeated = replace(one.repeat(len(values)), values=torch.where(one.mask, values, 0.0))
            parts.append(self._gaussian.posterior(repeated).mean)
        return torch.cat(parts)

    def members(self, count: int, seed: int) -> Tensor:
        """Return reproducible members (member, batch, channel, node); see `Draws.members`."""
        return next(self.batches(count, seed, count))

    def batches(self, count: int, seed: int, size: int, first: int = 0) -> Iterator[Tensor]:
        """Yield `members` in batches; see `Draws.batches`."""
        width = max(len(each.mean) for each in self._errors)
        keys = self._measured.key
        noise = noise_batches(seed, keys, count, max(1, width), size, first, stream=_STREAM)
        for fields, white in zip(self.base.batches(count, seed, size, first), noise, strict=True):
            off = [
                torch.einsum("mk,kcn->mcn", white[:, i, : len(each)].to(each), each)
                for i, each in enumerate(self.responses)
            ]
            yield fields - torch.stack(off, 1).to(fields)


def _priors(
    gaussian: VecchiaPrior | SeasonalPrior | GaussianPrior, measurement: Measurement
) -> list[Covariance]:
    if isinstance(gaussian, VecchiaPrior):
        return gaussian.priors(measurement)
    if isinstance(gaussian, SeasonalPrior):
        return list(gaussian.of(measurement))
    return [gaussian] * len(measurement)


def _posterior_of(prior: Covariance, one: Measurement, loadings: sp.csr_array) -> _Errors:
    """Return the posterior of the errors that some observation of a record shares.

    With K = A C A^T + R + B B^T it is N(B^T K^{-1} y, I - B^T K^{-1} B).
    """
    channels = one.shape[1]
    operator = one.operator if one.scale is None else one.operator.scaled(one.scale[0])
    matrix = operator.to_matrix(channels)
    if matrix is None:
        raise InputError(
            f"{one.operator!r} observes all nodes at once, and shared errors need an operator that "
            "observes a few at a time, such as a mask, points or cell means"
        )
    observed = np.flatnonzero(one.mask.reshape(-1).cpu().numpy())
    loadings = sp.csr_array(loadings, dtype=np.float64)
    used = np.unique(loadings[observed].indices)
    loadings = sp.csr_array(loadings[:, used])
    rows = observed[_chosen(loadings[observed])]
    own, shared = sp.csr_array(matrix[rows]), loadings[rows].toarray()
    nodes, place = np.unique(own.indices, return_inverse=True)
    weights = sp.csr_array((own.data, place.ravel(), own.indptr), shape=(len(rows), len(nodes)))
    covariance = weights @ (weights @ prior.covariance(nodes, nodes)).T
    noise = one.noise_std.double().reshape(-1).cpu().numpy()[rows] ** 2
    values = one.values.double().reshape(-1).cpu().numpy()[rows]
    total = covariance + np.diag(noise) + shared @ shared.T
    solved = cho_solve(cho_factor((total + total.T) / 2, lower=True), np.c_[shared, values])
    left = np.eye(len(used)) - shared.T @ solved[:, :-1]
    root = np.linalg.cholesky((left + left.T) / 2 + _JITTER * np.eye(len(used)))
    return _Errors(loadings, shared.T @ solved[:, -1], root)


def _chosen(loadings: sp.csr_array) -> NDArray[np.int64]:
    """Return the rows that tell the errors: all, or as many as can be handled, of every kind.

    A kind shares the same errors, or none; a rare one is kept whole.
    """
    count = loadings.shape[0]
    if count <= _MOST:
        return np.arange(count)
    largest = np.full(count, -1)
    there = np.diff(loadings.indptr) > 0
    order = np.argsort(-abs(loadings).toarray(), axis=1)[:, 0] if loadings.shape[1] else largest
    largest[there] = order[there]
    shuffled = np.random.default_rng(0).permutation(count)
    by_kind = shuffled[np.argsort(largest[shuffled], kind="stable")]
    sizes = np.unique(largest, return_counts=True)[1]
    rank = np.concatenate([np.arange(size) for size in sizes])
    return np.sort(by_kind[np.argsort(rank, kind="stable")[:_MOST]])
