"""Linear systems behind the posterior of a Gaussian prior: direct and iterative."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Protocol

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.linalg.constants import LOG_2PI
from apsgeo.operators.laplacian import LaplacianFunction, series_of
from apsgeo.operators.linear import LinearMap

__all__ = ["TOLERANCE", "DirectSystem", "Gram", "IterativeSystem", "System"]

TOLERANCE = 1e-9
"""Residual, relative to the right-hand side, at which conjugate gradients stop."""

_MOST_STEPS = 2000
_BLOCK = 256  # columns solved at once
_SHIFTS = 10.0 ** np.arange(-1.5, 1.6, 0.25)  # factors of the middle eigenvalue, to try


class CovarianceMap(Protocol):
    """A covariance C, as far as systems in the space of the observations need it."""

    @property
    def size(self) -> int:
        """Number of values of a signal."""
        ...

    @property
    def loadings(self) -> Tensor:
        """Leading patterns (channel, node, rank)."""
        ...

    def covariance_apply(self, columns: np.ndarray) -> np.ndarray:
        """Return C times columns (size, m)."""
        ...

    def spectrum(self, eigenvalues: np.ndarray) -> np.ndarray:
        """Return about the variance that the loadings leave; see `Covariance.spectrum`."""
        ...


class System(ABC):
    """(A C A^T + R)^{-1} for one operator, observed set and noise, factorized when it is made.

    Data are values (observations, m); those that are not observed never matter. A signal has
    `size` values, channels times nodes.
    """

    @abstractmethod
    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} data, (size, m)."""

    @abstractmethod
    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} data at all or some values."""

    def posterior_variance(self, variance: np.ndarray) -> np.ndarray | None:
        """Return the posterior variance (size,), given the prior's variance (size,).

        None where it would cost more than the posterior mean.
        """
        return None

    @abstractmethod
    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(data; 0, A C A^T + R) of what is observed, (m,)."""


class Gram:
    """The Cholesky factor of A C A^T + R, a matrix (observed, observed) that is overwritten."""

    def __init__(self, matrix: np.ndarray) -> None:
        try:
            self._factor = cholesky(matrix, lower=True, overwrite_a=True, check_finite=False)
        except np.linalg.LinAlgError as error:
            raise InputError(
                "the covariance of what was observed is singular: nodes coincide (poles), or the "
                "noise is too small; there is no density without noise."
            ) from error

    def _half(self, values: np.ndarray) -> np.ndarray:
        return solve_triangular(self._factor, values, lower=True, check_finite=False)

    def explained(self, cross: np.ndarray) -> np.ndarray:
        """Return the diagonal (m,) of K^T (A C A^T + R)^{-1} K, K = cross (observed, m)."""
        return (self._half(cross) ** 2).sum(0)

    def solve(self, values: np.ndarray) -> np.ndarray:
        """Return the inverse times observed values (observed, m)."""
        half = self._half(values)
        return solve_triangular(self._factor, half, lower=True, trans="T", check_finite=False)

    def log_density(self, values: np.ndarray) -> np.ndarray:
        """Return log N(values; 0, A C A^T + R), (m,)."""
        determinant = 2.0 * float(np.log(np.diag(self._factor)).sum())
        constant = determinant + len(self._factor) * LOG_2PI
        return -0.5 * ((self._half(values) ** 2).sum(0) + constant)


class _Observed(System):
    """A system in the space of the observed values of an operator."""

    def __init__(
        self,
        prior: CovarianceMap,
        operator: LinearMap,
        observed: np.ndarray,
        noise_var: np.ndarray,
    ) -> None:
        self._prior, self._operator = prior, operator
        self._index, self._count = np.flatnonzero(observed), len(observed)
        self._noise_var = noise_var[self._index]

    def _there(self, columns: np.ndarray) -> np.ndarray:
        return self._operator.forward(columns)[self._index]

    def _among_all(self, columns: np.ndarray) -> np.ndarray:
        """Put observed values among zeros, which stand for those that were not observed."""
        full = np.zeros((self._count, columns.shape[1]))
        full[self._index] = columns
        return full

    def _back(self, columns: np.ndarray) -> np.ndarray:
        return self._operator.backward(self._among_all(columns))

    @abstractmethod
    def _weights(self, data: np.ndarray) -> np.ndarray:
        """Return (A C A^T + R)^{-1} data, (observed, m)."""

    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} data, (size, m)."""
        return self._back(self._weights(data))

    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} data at all or some values."""
        mean = self._prior.covariance_apply(self.solve(data))
        return mean if nodes is None else mean[nodes]


class DirectSystem(_Observed):
    """Cholesky factorization of A C A^T + R, formed column by column."""

    def __init__(
        self,
        prior: CovarianceMap,
        operator: LinearMap,
        observed: np.ndarray,
        noise_var: np.ndarray,
    ) -> None:
        super().__init__(prior, operator, observed, noise_var)
        size = len(self._index)
        self._cross = np.empty((prior.size, size))
        gram = np.empty((size, size))
        for start in range(0, size, _BLOCK):
            end = min(start + _BLOCK, size)
            rows = self._back(np.eye(size, end - start, -start))
            self._cross[:, start:end] = prior.covariance_apply(rows)
            gram[:, start:end] = self._there(self._cross[:, start:end])
        gram[np.diag_indices_from(gram)] += self._noise_var
        self._gram = Gram((gram + gram.T) / 2)

    def _weights(self, data: np.ndarray) -> np.ndarray:
        return self._gram.solve(data[self._index])

    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} data at all or some values."""
        cross = self._cross if nodes is None else self._cross[nodes]
        return cross @ self._weights(data)

    def posterior_variance(self, variance: np.ndarray) -> np.ndarray:
        """Return the posterior variance (size,), given the prior's variance (size,)."""
        return variance - self._gram.explained(self._cross.T)

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(data; 0, A C A^T + R) of what is observed, (m,)."""
        return self._gram.log_density(data[self._index])


class IterativeSystem(_Observed):
    """Conjugate gradients on A C A^T + R, with a preconditioner made of what is known of C and A.

    All right-hand sides are solved together, each until its residual is `TOLERANCE` of its norm.
    The preconditioner is A L L^T A^T + N with the loadings L. N is the covariance that the noise
    and the rest of the signal would have if they were the same everywhere, a function of the
    Laplacian (see `_Stationary`), or else R. There is no factorization, hence no log-evidence.
    """

    def __init__(
        self,
        prior: CovarianceMap,
        operator: LinearMap,
        observed: np.ndarray,
        noise_var: np.ndarray,
    ) -> None:
        super().__init__(prior, operator, observed, noise_var)
        self._stationary = _Stationary.of(prior, operator, float(self._noise_var.mean()))
        loadings = self._there(prior.loadings.detach().double().flatten(0, 1).numpy())
        self._scaled = self._rest(loadings)
        inner = np.eye(loadings.shape[1]) + loadings.T @ self._scaled
        self._capacitance = cholesky((inner + inner.T) / 2, lower=True)

    def _apply(self, columns: np.ndarray) -> np.ndarray:
        seen = self._there(self._prior.covariance_apply(self._back(columns)))
        return seen + self._noise_var[:, None] * columns

    def _rest(self, columns: np.ndarray) -> np.ndarray:
        """Return N^{-1} columns, (observed, m)."""
        if self._stationary is None:
            return columns / self._noise_var[:, None]
        return self._stationary.solve(self._among_all(columns))[self._index]

    def _precondition(self, columns: np.ndarray) -> np.ndarray:
        inner = cho_solve((self._capacitance, True), self._scaled.T @ columns)
        return self._rest(columns) - self._scaled @ inner

    def _weights(self, data: np.ndarray) -> np.ndarray:
        parts = [
            _conjugate_gradients(self._apply, self._precondition, block)
            for block in np.array_split(
                data[self._index], range(_BLOCK, data.shape[1], _BLOCK), axis=1
            )
        ]
        return np.concatenate(parts, axis=1)

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Refuse: there is no determinant without a factorization.

        Raises:
            InputError: If it is called at all.
        """
        raise InputError(
            f"the log-evidence of {len(self._index)} values observed through {self._operator!r} "
            "needs a factorization, which so many values of an operator that is not sparse do not "
            "have; observe fewer of them. Mean, draws and std do not need it."
        )


class _Stationary:
    """The inverse of a covariance M^{-1/2} q(M^{-1/2} S M^{-1/2}) M^{-1/2}, to about a tenth.

    The square root of 1 / q is applied twice, so that it is positive definite whatever its error.
    """

    def __init__(self, root: LaplacianFunction) -> None:
        self._root = root

    @classmethod
    def of(cls, prior: CovarianceMap, operator: LinearMap, noise_var: float) -> _Stationary | None:
        """Return the inverse for an operator's values on its codomain, None where it is no use."""
        if operator.codomain is None:
            return None
        noise = noise_var * float(operator.codomain.areas.mean())

        def root(eigenvalues: np.ndarray) -> np.ndarray:
            signal = operator.response(eigenvalues) ** 2 * prior.spectrum(eigenvalues)
            return np.sqrt(noise / (signal + noise))

        least = float(root(np.zeros(1))[0])
        if least > 0.5:  # noise prevails
            return None
        grid = np.logspace(-6, 6, 400) / float(operator.codomain.areas.sum())
        middle = grid[np.argmin(np.abs(root(grid) - np.sqrt(least)))]
        found = [(series_of(root, middle * f, 0.1 * least), middle * f) for f in _SHIFTS]
        usable = [(series, shift) for series, shift in found if series is not None]
        if not usable:
            return None
        series, shift = min(usable, key=lambda pair: len(pair[0]))
        return cls(LaplacianFunction(operator.codomain, series / np.sqrt(noise), float(shift)))

    def solve(self, columns: np.ndarray) -> np.ndarray:
        """Return about the inverse times columns (channel * node, m)."""
        parts = columns.reshape(-1, len(self._root.areas), columns.shape[1])
        solved = [self._root.areas * self._root(self._root(part)) for part in parts]
        return np.concatenate(solved)


def _conjugate_gradients(
    apply: Callable[[np.ndarray], np.ndarray],
    precondition: Callable[[np.ndarray], np.ndarray],
    right: np.ndarray,
) -> np.ndarray:
    """Solve symmetric positive definite systems for columns (n, m), each on its own.

    A column that has reached `TOLERANCE` is left as it is, so that its solution does not depend on
    the other columns.

    Raises:
        InputError: If a column has not reached it after 2000 steps.
    """
    limit = TOLERANCE * np.linalg.norm(right, axis=0)
    out = np.zeros_like(right)
    todo = np.flatnonzero(limit > 0)
    if not len(todo):
        return out
    residual = right[:, todo]
    better = precondition(residual)
    direction, product = better, (residual * better).sum(0)
    for _ in range(_MOST_STEPS):
        image = apply(direction)
        step = product / (direction * image).sum(0)
        out[:, todo] += step * direction
        residual = residual - step * image
        going = np.linalg.norm(residual, axis=0) > limit[todo]
        todo, residual = todo[going], residual[:, going]
        if not len(todo):
            return out
        better = precondition(residual)
        last, product = product[going], (residual * better).sum(0)
        direction = better + product / last * direction[:, going]
    raise InputError(
        f"conjugate gradients did not reach a residual of {TOLERANCE:g} in {_MOST_STEPS} steps; "
        "the noise is too small beside the signal: give a larger noise_std, or observe fewer "
        "values."
    )
