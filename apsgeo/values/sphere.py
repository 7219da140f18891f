"""Spheres of any dimension: directions in the plane and in space."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from apsgeo.values.manifold import Manifold, length, safe_ratio

__all__ = ["Circle", "Sphere"]

_APART = 1e-12  # 1 + cos of the angle between points that count as opposite


class Sphere(Manifold):
    """The sphere of some dimension and radius; points are unit vectors.

    The geodesic distance is the angle times the radius, so that noise, spread and distances have
    the unit of the radius.

    Args:
        dim: Dimension: 1 for directions in the plane, 2 for those in space.
        radius: Radius, in the unit in which distances are to be.

    Examples:
        >>> sphere = Sphere(2)
        >>> north, east = torch.tensor([0.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
        >>> round(float(sphere.distance(north, east)), 4)
        1.5708
    """

    kind: ClassVar[str] = "sphere"

    def __init__(self, dim: int, radius: float = 1.0) -> None:
        self.dim, self.ambient, self.radius = dim, dim + 1, radius
        self.cut = math.pi * radius

    def exp(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return cos(t) base + sin(t) vector / |vector| with t = |vector| / radius."""
        size = length(vector)
        angle = size / self.radius
        return torch.cos(angle) * base + torch.sin(angle) / size * vector

    def log(self, base: Tensor, point: Tensor) -> Tensor:
        """Return the shortest tangent vector; of the opposite point, an arbitrary one."""
        cosine = (base * point).sum(-1, keepdim=True)
        across = point - cosine * base
        sine = length(across)
        vector = self.radius * safe_ratio(torch.atan2(sine, cosine), sine) * across
        opposite = (sine <= 1e-14) & (cosine < 0.0)
        if bool(opposite.any()):
            vector = torch.where(opposite, self.cut * self.frame(base)[..., 0], vector)
        return vector

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the angle times the radius, accurate for near and for opposite points."""
        cosine = (first * second).sum(-1, keepdim=True)
        return self.radius * torch.atan2(length(second - cosine * first), cosine)[..., 0]

    def transport(self, base: Tensor, to: Tensor, vector: Tensor) -> Tensor:
        """Return v - (to . v) / (1 + base . to) (base + to)."""
        apart = (1.0 + (base * to).sum(-1, keepdim=True)).clamp(min=_APART)
        return vector - (to * vector).sum(-1, keepdim=True) / apart * (base + to)

    def frame(self, base: Tensor) -> Tensor:
        """Return the last columns of the reflection that takes the first axis to +-base."""
        sign = torch.where(base[..., :1] < 0.0, 1.0, -1.0)
        first = torch.zeros_like(base)
        first[..., 0] = 1.0
        across = first + sign * base
        across = torch.where(length(across) < 1e-7, first - sign * base, across)
        across = across / length(across)
        eye = torch.eye(self.ambient).to(base)
        return (eye - 2.0 * across[..., :, None] * across[..., None, :])[..., 1:]

    def log_volume(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return (dim - 1) log |sin t / t| with t = |vector| / radius."""
        angle = length(vector)[..., 0] / self.radius
        return (self.dim - 1) * safe_ratio(torch.sin(angle).abs(), angle).log()

    def off(self, point: Tensor) -> Tensor:
        """Return | |point| - 1 |."""
        return (point.norm(dim=-1) - 1.0).abs()

    def project(self, point: Tensor) -> Tensor:
        """Return point / |point|."""
        return point / length(point)

    def why(self, off: float) -> str:
        """Return what `off` means."""
        return (
            f"a direction's length differs from 1 by {off:.3g}; divide by the length, or project "
            "by Values.project"
        )

    def preimages(self, base: Tensor, point: Tensor, turns: int = 2) -> Tensor:
        """Return the shortest vector and those that go around more often, either way."""
        shortest = self.log(base, point)
        size = length(shortest)
        around = torch.arange(-turns, turns + 1).to(point) * (2.0 * self.cut)
        around = around.reshape(-1, *[1] * point.ndim)
        return shortest * (size + around) / size

    def balance(self, points: Tensor, weights: Tensor) -> Tensor:
        """Return the length of the mean vector: one for equal points, zero for balanced ones."""
        return (weights[..., None] * points).sum(0).norm(dim=-1)

    def to_config(self) -> dict[str, Any]:
        """Return dimension and radius."""
        return {"kind": self.kind, "dim": self.dim, "radius": self.radius}


class Circle(Sphere):
    """The circle of some circumference; points are (cos, sin).

    Args:
        period: Circumference, such as 360 for angles in degrees: the unit of all distances.
    """

    kind: ClassVar[str] = "circle"

    def __init__(self, period: float = 2.0 * math.pi) -> None:
        super().__init__(1, period / (2.0 * math.pi))
        self.period = period

    def frame(self, base: Tensor) -> Tensor:
        """Return the unit vector counterclockwise, parallel everywhere."""
        return torch.stack([-base[..., 1], base[..., 0]], -1)[..., None]

    def log(self, base: Tensor, point: Tensor) -> Tensor:
        """Return the shortest tangent vector; of the opposite point, that counterclockwise."""
        ahead = self.frame(base)[..., 0]
        sine, cosine = (ahead * point).sum(-1), (base * point).sum(-1)
        return self.radius * torch.atan2(sine, cosine)[..., None] * ahead

    def preimages(self, base: Tensor, point: Tensor, turns: int = 2) -> Tensor:
        """Return the vectors that go around so many times, either way."""
        ahead = self.frame(base)[..., 0]
        around = torch.arange(-turns, turns + 1).to(point) * self.period
        return self.log(base, point) + around.reshape(-1, *[1] * point.ndim) * ahead

    def transport(self, base: Tensor, to: Tensor, vector: Tensor) -> Tensor:
        """Return the vector of the same length and sense at another point."""
        size = (self.frame(base)[..., 0] * vector).sum(-1, keepdim=True)
        return size * self.frame(to)[..., 0]

    def to_config(self) -> dict[str, Any]:
        """Return the period."""
        return {"kind": self.kind, "period": self.period}
