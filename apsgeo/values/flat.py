"""Euclidean space, on which everything is as without a manifold."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from apsgeo.values.manifold import Manifold

__all__ = ["Euclidean"]


class Euclidean(Manifold):
    """Ordinary numbers, or vectors of some length."""

    kind: ClassVar[str] = "euclidean"

    def __init__(self, dim: int = 1) -> None:
        self.dim, self.ambient, self.cut = dim, dim, math.inf

    def exp(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return base + vector."""
        return base + vector

    def log(self, base: Tensor, point: Tensor) -> Tensor:
        """Return point - base."""
        return point - base

    def transport(self, base: Tensor, to: Tensor, vector: Tensor) -> Tensor:
        """Return the vector."""
        return vector.expand(torch.broadcast_shapes(vector.shape, base.shape, to.shape))

    def frame(self, base: Tensor) -> Tensor:
        """Return the axes."""
        return torch.eye(self.dim).to(base).expand(*base.shape, self.dim)

    def log_volume(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return zero."""
        return torch.zeros_like(vector[..., 0])

    def off(self, point: Tensor) -> Tensor:
        """Return zero."""
        return torch.zeros_like(point[..., 0])

    def project(self, point: Tensor) -> Tensor:
        """Return the numbers."""
        return point

    def why(self, off: float) -> str:
        """Return nothing: all numbers are points."""
        return ""

    def to_config(self) -> dict[str, Any]:
        """Return the dimension."""
        return {"kind": self.kind, "dim": self.dim}
