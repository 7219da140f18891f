"""What a manifold gives: exp, log, transport, frames, and the volume of exp."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor

__all__ = ["Manifold", "length", "safe_ratio"]

_TINY = 1e-30


class Manifold(ABC):
    """A complete Riemannian manifold.

    A point is `ambient` numbers along the last axis; a tangent vector is `ambient` numbers in which
    the inner product of the manifold is the Euclidean one. All functions broadcast over the other
    axes, keep dtype and device, and are differentiable.

    The functions are written here in torch, and not those of geomstats: its backend is chosen once
    per process by an environment variable, and its torch backend sets torch's default dtype. Tests
    compare both.

    Attributes:
        kind: Name in configurations.
        dim: Dimension of the manifold.
        ambient: Number of numbers by which a point is given.
        cut: Distance up to which geodesics from any point are shortest, infinite if they all are.
    """

    kind: ClassVar[str]
    dim: int
    ambient: int
    cut: float

    @abstractmethod
    def exp(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return the point at the end of the geodesic from base along a tangent vector."""

    @abstractmethod
    def log(self, base: Tensor, point: Tensor) -> Tensor:
        """Return the shortest tangent vector at base whose geodesic ends at a point."""

    @abstractmethod
    def transport(self, base: Tensor, to: Tensor, vector: Tensor) -> Tensor:
        """Return a tangent vector at base, moved in parallel along the geodesic to a point."""

    @abstractmethod
    def frame(self, base: Tensor) -> Tensor:
        """Return an orthonormal basis (..., ambient, dim) of the tangent space."""

    @abstractmethod
    def log_volume(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return log |det| (...) of the differential of exp at a tangent vector.

        Of the coordinates in a frame to the Riemannian volume: a density p of tangent vectors
        becomes p / exp(log_volume) of points.
        """

    @abstractmethod
    def off(self, point: Tensor) -> Tensor:
        """Return how far (...) numbers are from being a point; zero on the manifold."""

    @abstractmethod
    def project(self, point: Tensor) -> Tensor:
        """Return the points that are nearest to numbers that are near to points."""

    @abstractmethod
    def why(self, off: float) -> str:
        """Return what `off` of the worst value means, and what to do, for a message."""

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the geodesic distance (...)."""
        return length(self.log(first, second))[..., 0]

    def align(self, base: Tensor, point: Tensor) -> Tensor:
        """Return of the numbers that give a point those that are nearest to base."""
        return point

    def preimages(self, base: Tensor, point: Tensor, turns: int = 2) -> Tensor:
        """Return tangent vectors (image, ..., ambient) whose geodesics end at a point.

        Args:
            base: Base points.
            point: Points.
            turns: Number of times around on either side, where geodesics close.
        """
        return self.log(base, point)[None]

    def first_mean(self, points: Tensor, weights: Tensor) -> Tensor:
        """Return a point (..., ambient) near to the mean of points (sample, ..., ambient).

        Args:
            points: Points.
            weights: Weights (sample, ...) that sum to one over the samples.
        """
        return self.project((weights[..., None] * points).sum(0))

    def balance(self, points: Tensor, weights: Tensor) -> Tensor:
        """Return how far (...) points are from being balanced, in which case there is no mean."""
        return torch.ones_like(weights[0])

    def to_config(self) -> dict[str, Any]:
        """Return the arguments that rebuild it, with its kind."""
        return {"kind": self.kind}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Manifold) and self.to_config() == other.to_config()

    def __hash__(self) -> int:
        return hash(repr(self))

    def __repr__(self) -> str:
        given = ", ".join(f"{k}={v!r}" for k, v in self.to_config().items() if k != "kind")
        return f"{self.kind}({given})"


def length(vector: Tensor) -> Tensor:
    """Return the norm (..., 1) of vectors, with a gradient of zero where it is zero."""
    return vector.square().sum(-1, keepdim=True).clamp(min=_TINY).sqrt()


def safe_ratio(value: Tensor, size: Tensor, limit: float = 1.0) -> Tensor:
    """Return value / size, and its limit where the size is next to nothing."""
    small = size <= 1e-14
    return torch.where(small, limit, value / torch.where(small, 1.0, size))
