"""Hyperbolic space, in the ball of Poincaré: hierarchies, and shapes of normal densities."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from apsgeo.values.manifold import Manifold, length, safe_ratio

__all__ = ["Hyperbolic"]

_EDGE = 1e-5  # of the radius of the ball, which points keep away from its boundary


class Hyperbolic(Manifold):
    """Hyperbolic space of curvature -1.

    A point is a vector shorter than one, in the ball of Poincaré. A tangent vector is one of the
    ball times the conformal factor 2 / (1 - |x|^2), by which its Euclidean length is its length.
    The formulas are those of gyrovectors (Ungar 2008, doi 10.2200/S00175ED1V01Y200901MAS004).

    Args:
        dim: Dimension.

    Examples:
        >>> centre, point = torch.zeros(2), torch.tensor([0.5, 0.0])
        >>> round(float(Hyperbolic(2).distance(centre, point)), 4)  # log 3
        1.0986
    """

    kind: ClassVar[str] = "hyperbolic"

    def __init__(self, dim: int = 2) -> None:
        self.dim = self.ambient = dim
        self.cut = math.inf

    def exp(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return base (+) tanh(|v| / 2) v / |v|."""
        size = length(vector)
        return _added(base, torch.tanh(0.5 * size) / size * vector)

    def log(self, base: Tensor, point: Tensor) -> Tensor:
        """Return 2 artanh(|m|) m / |m| of m = -base (+) point."""
        moved = _added(-base, point)
        size = length(moved)
        return 2.0 * safe_ratio(torch.atanh(size), size) * moved

    def transport(self, base: Tensor, to: Tensor, vector: Tensor) -> Tensor:
        """Return the vector turned by the gyration of to and -base."""
        a, b = to, -base
        aa, bb, ab = _dot(a, a), _dot(b, b), _dot(a, b)
        av, bv = _dot(a, vector), _dot(b, vector)
        first = bv - av * bb + 2.0 * ab * bv
        second = -bv * aa - av
        return vector + 2.0 * (first * a + second * b) / (1.0 + 2.0 * ab + aa * bb)

    def frame(self, base: Tensor) -> Tensor:
        """Return the axes."""
        return torch.eye(self.dim).to(base).expand(*base.shape, self.dim)

    def log_volume(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return (dim - 1) log(sinh r / r) with r = |v|."""
        size = length(vector)[..., 0]
        small = size < 1e-4
        some = torch.where(small, 1.0, size)
        far = some + torch.log1p(-torch.exp(-2.0 * some)) - torch.log(2.0 * some)
        return (self.dim - 1) * torch.where(small, size.square() / 6.0, far)

    def off(self, point: Tensor) -> Tensor:
        """Return the length of a point that is outside of the ball, and zero inside."""
        size = point.norm(dim=-1)
        return torch.where(size < 1.0, 0.0, size)

    def project(self, point: Tensor) -> Tensor:
        """Return the points, those outside of the ball or at its edge moved into it."""
        size = length(point)
        return torch.where(size > 1.0 - _EDGE, (1.0 - _EDGE) / size, 1.0) * point

    def why(self, off: float) -> str:
        """Return what `off` means."""
        return (
            f"a point of the ball of Poincaré is shorter than 1, and one has length {off:.6g}; "
            "take points (t, x) of the hyperboloid to x / (1 + t), or project by Values.project"
        )

    def to_config(self) -> dict[str, Any]:
        """Return the dimension."""
        return {"kind": self.kind, "dim": self.dim}


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum(-1, keepdim=True)


def _added(a: Tensor, b: Tensor) -> Tensor:
    """Return Möbius' sum of points of the ball."""
    ab, aa, bb = _dot(a, b), _dot(a, a), _dot(b, b)
    return ((1.0 + 2.0 * ab + bb) * a + (1.0 - aa) * b) / (1.0 + 2.0 * ab + aa * bb)
