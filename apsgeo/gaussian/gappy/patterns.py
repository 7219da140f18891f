"""Leading patterns of fields with gaps: probabilistic principal components by EM."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from apsgeo.errors import InputError

__all__ = ["GappyFields", "Patterns", "fit_patterns"]

_ENTRIES = 2**25  # numbers of the products of patterns that are held at once
_COUNT = 4.0  # observations that the first guess of a value's own variance counts for
_LEAST = 1e-4  # least own variance of a value, in variances of the observations


@dataclass(frozen=True)
class GappyFields:
    """Anomalies of which some are observed, as matrices of records and values.

    Attributes:
        values: Anomalies (record, value), float64; zero replaces whatever is not observed.
        mask: Mask (record, value), true where observed.
        noise_var: Variance of the observations' error, which broadcasts to (record, value).
        regressors: Known functions of the record (record, q), such as indicators of the season,
            each in units in which its coefficients are about standard normal.
    """

    values: Tensor
    mask: Tensor
    noise_var: Tensor
    regressors: Tensor

    def __post_init__(self) -> None:
        if self.values.shape != self.mask.shape or self.values.ndim != 2:
            raise InputError(
                f"values {tuple(self.values.shape)} and mask {tuple(self.mask.shape)} must both be "
                "(record, value)."
            )
        cleared = torch.where(self.mask, self.values.double(), 0.0)
        object.__setattr__(self, "values", cleared)
        object.__setattr__(self, "noise_var", torch.as_tensor(self.noise_var).double())
        object.__setattr__(self, "regressors", self.regressors.double())

    @classmethod
    def of(cls, fields: Tensor, noise_std: Tensor | float, regressors: Tensor) -> GappyFields:
        """Flatten fields (record, channel, node), NaN where not observed; noise broadcasts."""
        noise = torch.as_tensor(noise_std, dtype=torch.float64)
        flat = fields.double().flatten(1)
        mask = ~flat.isnan()
        each = noise.expand_as(fields).flatten(1) if noise.ndim else noise
        return cls(flat, mask, torch.where(mask, each, 0.0) ** 2, regressors)


@dataclass(frozen=True)
class Patterns:
    r"""A model of fields with gaps, x_t = B b_t + W a_t + e_t, with the moments of its amplitudes.

    The amplitudes a_t and the values' own parts e_t are independent, N(0, I) and N(0, diag(psi)).
    b_t are the regressors. It is factor analysis, or probabilistic principal components with a
    variance of its own for each value (Tipping & Bishop 1999,
    https://doi.org/10.1111/1467-9868.00196; with missing values Ilin & Raiko 2010, JMLR 11).

    Attributes:
        loadings: Coefficients (value, q + rank): B, then W.
        variance: Own variances psi (value,).
        count: Number q of regressors.
        objective: Log-likelihood plus the log density of the parameters' prior, up to a constant,
            at the start and after each iteration.
    """

    loadings: Tensor
    variance: Tensor
    count: int
    objective: tuple[float, ...] = ()

    @property
    def rank(self) -> int:
        """Number of patterns."""
        return self.loadings.shape[1] - self.count

    def moments(self, data: GappyFields) -> tuple[Tensor, Tensor, Tensor]:
        """Return the amplitudes' posterior means (record, rank) and factors, and log-likelihoods.

        The factors (record, rank, rank) are lower, of the posterior precisions.
        """
        fixed, patterns = self.loadings.split([self.count, self.rank], 1)
        weights, total = _weights(data, self.variance)
        left = torch.where(data.mask, data.values - data.regressors @ fixed.T, 0.0)
        precision = _expand(_gram(weights, patterns), self.rank)
        precision.diagonal(dim1=1, dim2=2).add_(1.0)
        factor = torch.linalg.cholesky(precision)
        projected = (weights * left) @ patterns
        mean = torch.cholesky_solve(projected[..., None], factor)[..., 0]
        determinant = torch.where(data.mask, total.log(), 0.0).sum(1)
        determinant = determinant + 2.0 * factor.diagonal(dim1=1, dim2=2).log().sum(1)
        square = (weights * left**2).sum(1) - (projected * mean).sum(1)
        constant = math.log(2.0 * math.pi) * data.mask.sum(1).double()
        return mean, factor, -0.5 * (square + determinant + constant)

    def log_likelihood(self, data: GappyFields) -> Tensor:
        """Return the log density (record,) of what was observed."""
        return self.moments(data)[2]

    def predict(self, data: GappyFields) -> tuple[Tensor, Tensor]:
        """Return the posterior mean and variance (record, value) of the fields behind the data."""
        amplitudes, factor, _ = self.moments(data)
        mean, gain = self._conditional(data, amplitudes)
        covariance = torch.cholesky_inverse(factor)
        spread = _quadratic(self.loadings[:, self.count :], covariance)
        return mean, (1.0 - gain) ** 2 * spread + (1.0 - gain) * self.variance

    def draw_amplitudes(self, data: GappyFields, generator: torch.Generator) -> Tensor:
        """Draw amplitudes (record, rank) of the posterior."""
        mean, factor, _ = self.moments(data)
        noise = torch.randn(*mean.shape, 1, generator=generator, dtype=torch.float64)
        return mean + torch.linalg.solve_triangular(factor.mT, noise, upper=True)[..., 0]

    @property
    def total(self) -> Tensor:
        """Variance (value,) of the fields about the regressors."""
        return (self.loadings[:, self.count :] ** 2).sum(1) + self.variance

    def _conditional(self, data: GappyFields, amplitudes: Tensor) -> tuple[Tensor, Tensor]:
        """Return the means given amplitudes, and the gains of the observations there."""
        gain = self.variance * _weights(data, self.variance)[0]
        fitted = torch.cat([data.regressors, amplitudes], 1) @ self.loadings.T
        return fitted + gain * (data.values - fitted), gain


def fit_patterns(
    data: GappyFields, rank: int, *, iterations: int = 30, tolerance: float = 1e-4
) -> Patterns:
    """Fit patterns to fields with gaps by expectation and conditional maximization.

    The coefficients of a value have the prior N(0, I / rank) (of the regressors N(0, I)), so that
    the patterns have about the variance of the data, and a value that was seldom observed keeps
    small ones. Its own variance has an inverse gamma prior at the mean square, worth four
    observations. Patterns and own variances are maximized in turn, given the moments of the
    amplitudes (Meng & Rubin 1993, https://doi.org/10.1093/biomet/80.2.267), so that the objective
    never falls. The start is the principal components of the fields with zeros in the gaps.

    Args:
        data: The fields.
        rank: Number of patterns, below that of the records.
        iterations: Most iterations.
        tolerance: Gain of the objective, in nats an observation, at which they end.
    """
    seen = int(data.mask.sum())
    typical = float((data.values**2).sum() / seen)
    found = _start(data, rank, typical)
    objective: list[float] = []
    for _ in range(iterations):
        moments = found.moments(data)
        objective.append(float(moments[2].sum()) + _log_prior(found, typical))
        if len(objective) > 1 and objective[-1] - objective[-2] < tolerance * seen:
            break
        found = _maximize(data, found, moments, typical)
    objective.append(float(found.log_likelihood(data).sum()) + _log_prior(found, typical))
    return replace(found, objective=tuple(objective))


def _start(data: GappyFields, rank: int, typical: float) -> Patterns:
    """Return the principal components of the fields with zeros in the gaps."""
    records, values = data.values.shape
    if not 0 <= rank < records:
        raise InputError(f"rank={rank} of {records} records; give at least 0 and fewer than those.")
    _, vectors = torch.linalg.eigh(data.values @ data.values.T / records)
    components = vectors.flip(1)[:, :rank] * math.sqrt(records)
    share = data.mask.double().mean(0).clamp(min=1.0 / records)
    patterns = (data.values.T @ components) / records / share[:, None].sqrt()
    fixed = patterns.new_zeros(values, data.regressors.shape[1])
    variance = torch.full((values,), 0.5 * typical, dtype=torch.float64)
    return Patterns(torch.cat([fixed, patterns], 1), variance, fixed.shape[1])


def _maximize(
    data: GappyFields,
    found: Patterns,
    moments: tuple[Tensor, Tensor, Tensor],
    typical: float,
) -> Patterns:
    """Return the patterns, then the own variances, that maximize the expected objective."""
    amplitudes, factor, _ = moments
    covariance = torch.cholesky_inverse(factor)
    first = torch.cat([data.regressors, amplitudes], 1)
    q, size = found.count, first.shape[1]
    second = first[:, :, None] * first[:, None]
    second[:, q:, q:] += covariance
    weights, _ = _weights(data, found.variance)
    prior = _precision(found)
    target = (weights * data.values).T @ first
    packed = _pack(second)
    loadings = torch.empty_like(found.loadings)
    for part in _chunks(len(loadings), packed.shape[1]):
        normal = _expand(weights[:, part].T @ packed, size) + torch.diag(prior)
        root = torch.linalg.cholesky(normal)
        loadings[part] = torch.cholesky_solve(target[part][..., None], root)[..., 0]
    gain = found.variance * weights
    residual = (data.values - first @ loadings.T) ** 2
    residual += _quadratic(loadings[:, q:], covariance)
    own = torch.where(data.mask, gain**2 * residual + (1.0 - gain) * found.variance, 0.0)
    count = data.mask.sum(0) + _COUNT
    variance = (own.sum(0) + _COUNT * typical) / count
    return replace(found, loadings=loadings, variance=variance.clamp(min=_LEAST * typical))


def _precision(found: Patterns) -> Tensor:
    """Return the prior precision of each coefficient of a value, (q + rank,)."""
    ones = found.loadings.new_ones(found.loadings.shape[1])
    ones[found.count :] = max(1, found.rank)
    return ones


def _log_prior(found: Patterns, typical: float) -> float:
    """Return the log density of the parameters' prior, up to a constant."""
    square = (found.loadings**2 @ _precision(found)).sum()
    own = _COUNT * (found.variance.log() + typical / found.variance).sum()
    return -0.5 * float(square + own)


def _weights(data: GappyFields, variance: Tensor) -> tuple[Tensor, Tensor]:
    """Return the precision of each observation given the amplitudes, and its variance."""
    total = (data.noise_var + variance).expand_as(data.values)
    return torch.where(data.mask, 1.0 / total, 0.0), total


def _pack(matrices: Tensor) -> Tensor:
    """Return the lower triangles (..., k (k + 1) / 2) of symmetric matrices (..., k, k)."""
    row, column = torch.tril_indices(matrices.shape[-1], matrices.shape[-1])
    return matrices[..., row, column]


def _expand(packed: Tensor, size: int) -> Tensor:
    """Undo `_pack`."""
    row, column = torch.tril_indices(size, size)
    out = packed.new_empty(*packed.shape[:-1], size, size)
    out[..., row, column] = packed
    out[..., column, row] = packed
    return out


def _chunks(values: int, width: int) -> Iterator[slice]:
    step = max(1, _ENTRIES // max(1, width))
    return (slice(start, start + step) for start in range(0, values, step))


def _gram(weights: Tensor, patterns: Tensor) -> Tensor:
    """Return the packed sums over values of weight w w^T, one for each record."""
    rank = patterns.shape[1]
    out = patterns.new_zeros(len(weights), rank * (rank + 1) // 2)
    row, column = torch.tril_indices(rank, rank)
    for part in _chunks(len(patterns), out.shape[1]):
        out += weights[:, part] @ (patterns[part][:, row] * patterns[part][:, column])
    return out


def _quadratic(patterns: Tensor, covariance: Tensor) -> Tensor:
    """Return w^T V w (record, value) of patterns (value, rank) and V (record, rank, rank)."""
    rank = patterns.shape[1]
    row, column = torch.tril_indices(rank, rank)
    twice = torch.where(row == column, 1.0, 2.0).double()
    packed = _pack(covariance) * twice
    out = patterns.new_empty(len(covariance), len(patterns))
    for part in _chunks(len(patterns), packed.shape[1]):
        out[:, part] = packed @ (patterns[part][:, row] * patterns[part][:, column]).T
    return out
