"""Linear systems behind the posterior of a Gaussian prior: direct and iterative."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

from apsgeo.errors import InputError
from apsgeo.operators.linear import LinearMap

if TYPE_CHECKING:
    from apsgeo.priors.gaussian import GaussianPrior

__all__ = ["TOLERANCE", "DirectSystem", "IterativeSystem", "System", "conjugate_gradients"]

TOLERANCE = 1e-9
"""Residual, relative to the right-hand side, at which conjugate gradients stop."""

_MOST_STEPS = 2000
_BLOCK = 256  # columns at once
_LOG_2PI = float(np.log(2.0 * np.pi))


class System(ABC):
    """(A C A^T + R)^{-1} for one operator, observed set and noise; the work is done when made.

    Data are values (observations, m); those that are not observed never matter.
    """

    @abstractmethod
    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} data, (nodes, m)."""

    @abstractmethod
    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} data at all or some nodes."""

    @abstractmethod
    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(data; 0, A C A^T + R) of what is observed, (m,)."""


class _Observed(System):
    """What is common to systems in the space of the observed values of an operator."""

    def __init__(
        self,
        prior: GaussianPrior,
        operator: LinearMap,
        observed: np.ndarray,
        noise_var: np.ndarray,
    ) -> None:
        self._prior, self._operator = prior, operator
        self._index, self._count = np.flatnonzero(observed), len(observed)
        self._noise_var = noise_var[self._index]

    def _there(self, columns: np.ndarray) -> np.ndarray:
        return self._operator.forward(columns)[self._index]

    def _back(self, columns: np.ndarray) -> np.ndarray:
        full = np.zeros((self._count, columns.shape[1]))
        full[self._index] = columns
        return self._operator.backward(full)

    @abstractmethod
    def _weights(self, data: np.ndarray) -> np.ndarray:
        """Return (A C A^T + R)^{-1} data, (observed, m)."""

    def solve(self, data: np.ndarray) -> np.ndarray:
        """Return A^T (A C A^T + R)^{-1} data, (nodes, m)."""
        return self._back(self._weights(data))

    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} data at all or some nodes."""
        mean = self._prior.covariance_apply(self.solve(data))
        return mean if nodes is None else mean[nodes]


class DirectSystem(_Observed):
    """Cholesky factorization of A C A^T + R, formed column by column."""

    def __init__(
        self,
        prior: GaussianPrior,
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
        self._factor = cholesky((gram + gram.T) / 2, lower=True, check_finite=False)

    def _weights(self, data: np.ndarray) -> np.ndarray:
        return cho_solve((self._factor, True), data[self._index], check_finite=False)

    def update(self, data: np.ndarray, nodes: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean C A^T (A C A^T + R)^{-1} data at all or some nodes."""
        cross = self._cross if nodes is None else self._cross[nodes]
        return cross @ self._weights(data)

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Return log N(data; 0, A C A^T + R) of what is observed, (m,)."""
        half = solve_triangular(self._factor, data[self._index], lower=True, check_finite=False)
        determinant = 2.0 * float(np.log(np.diag(self._factor)).sum())
        return -0.5 * ((half**2).sum(0) + determinant + len(self._index) * _LOG_2PI)


class IterativeSystem(_Observed):
    """Conjugate gradients on A C A^T + R, preconditioned by the loadings' part of it.

    Every right-hand side is solved until its residual is `TOLERANCE` of itself, all at once. The
    preconditioner A L L^T A^T + R takes the few large eigenvalues of the EOFs away. There is no
    factorization, hence no log-evidence.
    """

    def __init__(
        self,
        prior: GaussianPrior,
        operator: LinearMap,
        observed: np.ndarray,
        noise_var: np.ndarray,
    ) -> None:
        super().__init__(prior, operator, observed, noise_var)
        loadings = self._there(prior.loadings.detach().double().flatten(0, 1).numpy())
        self._scaled = loadings / self._noise_var[:, None]
        inner = np.eye(loadings.shape[1]) + loadings.T @ self._scaled
        self._capacitance = cholesky(inner, lower=True)

    def _apply(self, columns: np.ndarray) -> np.ndarray:
        seen = self._there(self._prior.covariance_apply(self._back(columns)))
        return seen + self._noise_var[:, None] * columns

    def _precondition(self, columns: np.ndarray) -> np.ndarray:
        inner = cho_solve((self._capacitance, True), self._scaled.T @ columns)
        return columns / self._noise_var[:, None] - self._scaled @ inner

    def _weights(self, data: np.ndarray) -> np.ndarray:
        parts = [
            conjugate_gradients(self._apply, self._precondition, block)
            for block in np.array_split(
                data[self._index], range(_BLOCK, data.shape[1], _BLOCK), axis=1
            )
        ]
        return np.concatenate(parts, axis=1)

    def log_evidence(self, data: np.ndarray) -> np.ndarray:
        """Refuse.

        Raises:
            InputError: Always; there is no determinant without a factorization.
        """
        raise InputError(
            f"the log-evidence of {len(self._index)} values observed through {self._operator!r} "
            "needs a factorization, which so many values of an operator that is not sparse do not "
            "have; observe fewer of them. Mean, draws and std do not need it."
        )


def conjugate_gradients(
    apply: Callable[[np.ndarray], np.ndarray],
    precondition: Callable[[np.ndarray], np.ndarray],
    right: np.ndarray,
) -> np.ndarray:
    """Solve symmetric positive definite systems for columns (n, m), each on its own.

    A column that has reached `TOLERANCE` is left as it is, so that it does not depend on the
    others.

    Raises:
        InputError: If a column has not got there after 2000 steps.
    """
    limit = TOLERANCE * np.linalg.norm(right, axis=0)
    out = np.zeros_like(right)
    todo = np.flatnonzero(limit > 0)
    residual = right[:, todo]
    better = precondition(residual)
    direction, product = better, (residual * better).sum(0)
    for _ in range(_MOST_STEPS):
        if not len(todo):
            return out
        image = apply(direction)
        step = product / (direction * image).sum(0)
        out[:, todo] += step * direction
        residual = residual - step * image
        going = np.linalg.norm(residual, axis=0) > limit[todo]
        todo, residual = todo[going], residual[:, going]
        better = precondition(residual)
        last, product = product[going], (residual * better).sum(0)
        direction = better + product / last * direction[:, going]
    raise InputError(
        f"conjugate gradients did not reach a residual of {TOLERANCE:g} in {_MOST_STEPS} steps; "
        "the noise is too small beside the signal: give a larger noise_std, or observe fewer "
        "values."
    )
