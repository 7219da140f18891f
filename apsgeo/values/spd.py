"""Symmetric positive definite matrices: diffusion tensors, covariances."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.manifold import Manifold

__all__ = ["SPD", "from_vector", "to_vector"]

Metric = Literal["log-euclidean", "affine-invariant"]


class SPD(Manifold):
    """Symmetric positive definite matrices of some size.

    A point is the n (n + 1) / 2 numbers of its upper triangle, row by row. A tangent vector is a
    symmetric matrix as `to_vector` has it: with the log-Euclidean metric (Arsigny et al. 2006, doi
    10.1002/mrm.20965) a difference of matrix logarithms, by which the manifold is flat; with the
    affine-invariant one (Pennec et al. 2006, doi 10.1007/s11263-005-3222-z) P^(-1/2) V P^(-1/2),
    which any change of coordinates A P A^T leaves as it is.

    Args:
        size: Number n of rows.
        metric: "log-euclidean" or "affine-invariant".
    """

    kind: ClassVar[str] = "spd"

    def __init__(self, size: int, metric: Metric = "log-euclidean") -> None:
        if metric not in ("log-euclidean", "affine-invariant"):
            raise InputError(f"metric={metric!r}; give 'log-euclidean' or 'affine-invariant'")
        self.size, self.metric = size, metric
        self.dim = self.ambient = size * (size + 1) // 2
        self.cut = math.inf

    def exp(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return the exponential of log P + V, or P^(1/2) times that of V times P^(1/2)."""
        step = from_vector(vector, self.size)
        if self.metric == "log-euclidean":
            return self._flat(_function(_function(self._matrix(base), torch.log) + step, torch.exp))
        root = _function(self._matrix(base), torch.sqrt)
        return self._flat(root @ _function(step, torch.exp) @ root)

    def log(self, base: Tensor, point: Tensor) -> Tensor:
        """Return the difference of the logarithms, or the logarithm of P^(-1/2) X P^(-1/2)."""
        start, end = self._matrix(base), self._matrix(point)
        if self.metric == "log-euclidean":
            return to_vector(_function(end, torch.log) - _function(start, torch.log))
        root = _function(start, torch.rsqrt)
        return to_vector(_function(root @ end @ root, torch.log))

    def transport(self, base: Tensor, to: Tensor, vector: Tensor) -> Tensor:
        """Return the vector; with the affine-invariant metric turned by an orthogonal matrix."""
        if self.metric == "log-euclidean":
            return vector.expand(torch.broadcast_shapes(vector.shape, base.shape, to.shape))
        start, end = self._matrix(base), self._matrix(to)
        root, back = _function(start, torch.sqrt), _function(start, torch.rsqrt)
        half = root @ _function(back @ end @ back, torch.sqrt)  # of (to base^-1)^(1/2), at base
        turn = _function(end, torch.rsqrt) @ half
        return to_vector(turn @ from_vector(vector, self.size) @ turn.mT)

    def frame(self, base: Tensor) -> Tensor:
        """Return the axes of `to_vector`."""
        return torch.eye(self.dim).to(base).expand(*base.shape, self.dim)

    def log_volume(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return zero, or the sum of log(sinh(d) / d) over half differences d of eigenvalues."""
        if self.metric == "log-euclidean":
            return torch.zeros_like(vector[..., 0])
        eigen = torch.linalg.eigvalsh(from_vector(vector, self.size))
        i, j = torch.triu_indices(self.size, self.size, 1)
        half = (0.5 * (eigen[..., i] - eigen[..., j])).abs()
        small = half < 1e-4
        some = torch.where(small, 1.0, half)
        far = some + torch.log1p(-torch.exp(-2.0 * some)) - torch.log(2.0 * some)
        return torch.where(small, half.square() / 6.0, far).sum(-1)

    def off(self, point: Tensor) -> Tensor:
        """Return how far the least eigenvalue is below a millionth of the largest, relative."""
        eigen = torch.linalg.eigvalsh(self._matrix(point))
        size = eigen.abs().amax(-1).clamp(min=1e-300)
        return (1e-6 - eigen[..., 0] / size).clamp(min=0.0)

    def project(self, point: Tensor) -> Tensor:
        """Return the matrices with eigenvalues of at least a hundred-thousandth of the largest."""

        def lifted(eigen: Tensor) -> Tensor:
            return torch.maximum(eigen, 1e-5 * eigen.abs().amax(-1, keepdim=True))

        return self._flat(_function(self._matrix(point), lifted))

    def why(self, off: float) -> str:
        """Return what `off` means."""
        return (
            f"a matrix is not positive definite: its least eigenvalue is {1e-6 - off:.3g} times "
            "its largest in size; set it to NaN, or lift its eigenvalues by Values.project"
        )

    def first_mean(self, points: Tensor, weights: Tensor) -> Tensor:
        """Return the log-Euclidean mean."""
        logs = _function(self._matrix(points), torch.log)
        return self._flat(_function((weights[..., None, None] * logs).sum(0), torch.exp))

    def _matrix(self, point: Tensor) -> Tensor:
        i, j = torch.triu_indices(self.size, self.size)
        matrix = point.new_zeros(*point.shape[:-1], self.size, self.size)
        matrix[..., i, j] = point
        matrix[..., j, i] = point
        return matrix

    def _flat(self, matrix: Tensor) -> Tensor:
        i, j = torch.triu_indices(self.size, self.size)
        return matrix[..., i, j]

    def to_config(self) -> dict[str, Any]:
        """Return size and metric."""
        return {"kind": self.kind, "size": self.size, "metric": self.metric}


def to_vector(matrix: Tensor) -> Tensor:
    """Return symmetric matrices (..., n, n) as vectors of the same norm (..., n (n + 1) / 2)."""
    size = matrix.shape[-1]
    i, j = torch.triu_indices(size, size)
    return matrix[..., i, j] * torch.where(i == j, 1.0, math.sqrt(2.0)).to(matrix)


def from_vector(vector: Tensor, size: int) -> Tensor:
    """Undo `to_vector`."""
    i, j = torch.triu_indices(size, size)
    scaled = vector / torch.where(i == j, 1.0, math.sqrt(2.0)).to(vector)
    matrix = vector.new_zeros(*vector.shape[:-1], size, size)
    matrix[..., i, j] = scaled
    matrix[..., j, i] = scaled
    return matrix


def _function(matrix: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply a function to the eigenvalues of symmetric matrices."""
    eigen, vectors = torch.linalg.eigh(matrix)
    return (vectors * function(eigen)[..., None, :]) @ vectors.mT
