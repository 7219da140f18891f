"""Brownian motion on compact manifolds: its draws, its densities and their scores."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.heat import heat_pull, log_heat_kernel
from apsgeo.values.manifold import Manifold, length
from apsgeo.values.product import Product
from apsgeo.values.quotient import Axes, Rotations
from apsgeo.values.sphere import Circle, Sphere

__all__ = ["Brownian", "BrownianPart"]

Clock = float | Tensor

_RADII = 2049  # distances of the tables
_WIDE = 10.0  # standard deviations that they cover


@dataclass(frozen=True, eq=False)
class BrownianPart:
    """Brownian motion on a circle, a sphere or the rotations, of one turn of 2 pi.

    A quotient is walked on what it divides: there a start is any of the points that are the same,
    and a density that all of them share is as many times smaller.

    Attributes:
        cover: Manifold of the walk, of radius one (rotations: by their angles).
        images: Isometries (image, ambient, ambient) that take a point to those that are the same.
        scale: Unit of distances on the manifold, in that of the cover.
        log_volume: Logarithm of the cover's volume.
    """

    cover: Manifold
    images: Tensor
    scale: float
    log_volume: float

    @property
    def radius(self) -> float:
        """Length of a tangent vector that moves the numbers of a point at the speed of one."""
        return 2.0 if isinstance(self.cover, Rotations) else 1.0

    @property
    def log_measure(self) -> float:
        """What makes of a log-density on the cover one on the manifold, in its own units."""
        return math.log(len(self.images)) - self.cover.dim * math.log(self.scale)

    def log_density(self, start: Tensor, point: Tensor, clock: Clock) -> Tensor:
        """Return the log-density (...) of the walk on the cover."""
        distance = self.cover.distance(start, point).double()
        return log_heat_kernel(self.cover, distance, _time(clock, distance))

    def score(self, start: Tensor, point: Tensor, clock: Clock) -> Tensor:
        """Return the gradient (..., ambient) of `log_density` in the point."""
        vector = self.cover.log(point, start)
        distance = length(vector)[..., 0].double()
        pull = heat_pull(self.cover, distance, _time(clock, distance))
        return pull[..., None].to(vector) * vector

    def folded(self, start: Tensor, point: Tensor, clock: Clock) -> tuple[Tensor, Tensor]:
        """Return the log-density (...) of a walk from all images of a start, and its score."""
        starts = torch.einsum("gij,...j->g...i", self.images.to(point), start)
        log_each = self.log_density(starts, point, clock)
        share = torch.softmax(log_each, 0)[..., None]
        total = torch.logsumexp(log_each, 0) - math.log(len(self.images))
        return total, (share * self.score(starts, point, clock)).sum(0).to(point)

    def draw(self, start: Tensor, clock: float, generator: torch.Generator | None) -> Tensor:
        """Return where (..., ambient) walks are at a time, exactly."""
        radius, share, _ = self._radial(clock)
        uniform = torch.rand(start.shape[:-1], generator=generator, dtype=torch.float64)
        after = torch.searchsorted(share, uniform).clamp(1, _RADII - 1)
        low, high = share[after - 1], share[after]
        part = ((uniform - low) / (high - low).clamp(min=1e-300)).clamp(0.0, 1.0)
        away = radius[after - 1] + part * (radius[after] - radius[after - 1])
        return self.moved(start, away, generator)

    def moved(self, start: Tensor, away: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return points (..., ambient) so far away (...) in directions drawn at random."""
        shape = (*start.shape[:-1], self.cover.dim)
        normal = torch.randn(shape, generator=generator, dtype=torch.float64)
        vector = (away[..., None] * normal / length(normal)).to(start)
        frame = self.cover.frame(start)
        return self.cover.exp(start, torch.einsum("...ad,...d->...a", frame, vector))

    def uniform(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return points (..., ambient) of the uniform law on the cover."""
        normal = torch.randn(like.shape, generator=generator, dtype=torch.float64)
        return self.cover.project(normal).to(like)

    def information(self, clock: float) -> float:
        """Return E|score|^2 of the walk at a time, twice the growth of its entropy."""
        radius, _, weight = self._radial(clock)
        pull = heat_pull(self.cover, radius, torch.full_like(radius, clock))
        return float((weight * (pull * radius).square()).sum())

    def square(self, clock: float) -> float:
        """Return the mean squared distance of the walk from its start at a time."""
        radius, _, weight = self._radial(clock)
        return float((weight * radius.square()).sum())

    def divergence(self, clock: float) -> float:
        """Return the Kullback-Leibler divergence of the walk at a time from the uniform law."""
        radius, _, weight = self._radial(clock)
        log_density = log_heat_kernel(self.cover, radius, torch.full_like(radius, clock))
        return max(float((weight * log_density).sum()) + self.log_volume, 0.0)

    def _radial(self, clock: float) -> tuple[Tensor, Tensor, Tensor]:
        """Return distances, the share of the walk up to each, and quadrature weights of it."""
        return _table(self, clock)

    def _area(self, radius: Tensor) -> Tensor:
        """Return the volume (...) of the points at a distance."""
        if self.cover.dim == 1:
            return torch.full_like(radius, 2.0)
        if self.cover.dim == 2:
            return 2.0 * math.pi * torch.sin(radius)
        return 16.0 * math.pi * torch.sin(0.5 * radius).square()


@lru_cache(maxsize=256)
def _table(part: BrownianPart, clock: float) -> tuple[Tensor, Tensor, Tensor]:
    most = min(math.pi, _WIDE * math.sqrt(clock) * math.sqrt(part.cover.dim))
    radius = torch.linspace(0.0, most, _RADII, dtype=torch.float64)
    log_density = log_heat_kernel(part.cover, radius, torch.full_like(radius, clock))
    density = part._area(radius) * log_density.exp()
    steps = 0.5 * (density[1:] + density[:-1])
    share = torch.cat([torch.zeros(1, dtype=torch.float64), steps.cumsum(0)])
    weight = density.clone()
    weight[[0, -1]] *= 0.5
    return radius, share / share[-1], weight / weight.sum()


class Brownian:
    """Brownian motion on a compact manifold, from a point to the uniform law.

    Its time, the clock, is the variance of a coordinate in a flat space, where a turn around a
    circle or a sphere is 2 pi and rotations are measured by their angles.

    Args:
        manifold: Circle, S², axes, rotations with any symmetry, or a product of such.

    Attributes:
        parts: Walks on the factors of the manifold.

    Raises:
        InputError: If the manifold is another one.
    """

    def __init__(self, manifold: Manifold) -> None:
        self.manifold = manifold
        self.parts: Sequence[BrownianPart] = _parts(manifold)

    def split(self, numbers: Tensor) -> Sequence[Tensor]:
        """Return the numbers (..., ambient) of points or vectors of each part."""
        return numbers.split([part.cover.ambient for part in self.parts], -1)

    def each(self, apply: Callable[[BrownianPart, Tensor], Tensor], numbers: Tensor) -> Tensor:
        """Return the numbers (..., ambient) that a function makes of those of each part."""
        pairs = zip(self.parts, self.split(numbers), strict=True)
        return torch.cat([apply(part, own) for part, own in pairs], -1)

    def draw(self, start: Tensor, clock: float, generator: torch.Generator | None) -> Tensor:
        """Return where (..., ambient) walks from starts are at a time, from a CPU generator."""
        return self.each(lambda part, x: part.draw(x, clock, generator), start)

    def score(self, start: Tensor, point: Tensor, clock: float) -> Tensor:
        """Return the gradient (..., ambient) of the log-density of the walk, in the point."""
        triples = zip(self.parts, self.split(start), self.split(point), strict=True)
        return torch.cat([part.score(a, x, clock) for part, a, x in triples], -1)

    def exp(self, point: Tensor, vector: Tensor) -> Tensor:
        """Return the ends (..., ambient) of geodesics."""
        triples = zip(self.parts, self.split(point), self.split(vector), strict=True)
        return torch.cat([part.cover.exp(x, v) for part, x, v in triples], -1)

    def noise(self, point: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return tangent vectors (..., ambient) with standard normal coordinates."""

        def one(part: BrownianPart, x: Tensor) -> Tensor:
            shape = (*x.shape[:-1], part.cover.dim)
            normal = torch.randn(shape, generator=generator, dtype=torch.float64).to(x)
            return torch.einsum("...ad,...d->...a", part.cover.frame(x), normal)

        return self.each(one, point)

    def uniform(self, like: Tensor, generator: torch.Generator | None) -> Tensor:
        """Return points (..., ambient) of the uniform law."""
        return self.each(lambda part, x: part.uniform(x, generator), like)

    @property
    def origin(self) -> Tensor:
        """The point (ambient,) whose first number of each part is one."""
        first = torch.zeros(self.manifold.ambient, dtype=torch.float64)
        return self.each(lambda _, x: torch.eye(x.shape[-1]).double()[0], first)


def _parts(manifold: Manifold) -> Sequence[BrownianPart]:
    if isinstance(manifold, Product):
        return [part for each in manifold.parts for part in _parts(each)]
    if isinstance(manifold, Rotations):
        half = manifold.group[: len(manifold.group) // 2]  # a quaternion stands for its opposite
        return [BrownianPart(Rotations(), half, 1.0, math.log(8.0 * math.pi**2))]
    if isinstance(manifold, Axes | Sphere) and manifold.dim in (1, 2):
        eye = torch.eye(manifold.ambient, dtype=torch.float64)[None]
        same = manifold.group if isinstance(manifold, Axes) else eye
        scale = 1.0 if isinstance(manifold, Axes) else manifold.radius
        cover = Circle() if manifold.dim == 1 else Sphere(2)
        return [BrownianPart(cover, same, scale, math.log(2.0 * math.pi * manifold.dim))]
    raise InputError(
        f"{manifold!r} has no Brownian motion in closed form here; give a circle, a sphere of dim "
        "2, axes, rotations, or a torus of such"
    )


def _time(clock: Clock, like: Tensor) -> Tensor:
    return torch.as_tensor(clock, dtype=torch.float64).to(like.device).expand(like.shape)
