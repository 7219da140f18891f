"""Quotients by finite groups: axes, rotations, and orientations of crystals."""

from __future__ import annotations

import itertools
import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.manifold import Manifold
from apsgeo.values.sphere import Sphere

__all__ = ["SYMMETRIES", "Axes", "Quotient", "Rotations", "quaternion_product"]

_CANDIDATES = 16  # points of which the most central starts the mean


class Quotient(Manifold):
    """A manifold with points that isometries take to each other taken for one.

    Args:
        cover: Manifold that is divided.
        group: Isometries (element, ambient, ambient), linear in the numbers of a point; the
            identity is the first.
    """

    def __init__(self, cover: Manifold, group: Tensor) -> None:
        self.cover, self.group = cover, group.double()
        self.dim, self.ambient = cover.dim, cover.ambient
        self.cut = 0.5 * self._least_move()

    def images(self, point: Tensor) -> Tensor:
        """Return all (element, ..., ambient) numbers that give a point."""
        group = self.group.to(point)
        return torch.einsum("gij,...j->g...i", group, point)

    def align(self, base: Tensor, point: Tensor) -> Tensor:
        """Return of the numbers that give a point those that are nearest to base."""
        shape = torch.broadcast_shapes(base.shape, point.shape)
        start, end = base.expand(shape), point.expand(shape)
        nearness = torch.einsum("...i,gij,...j->...g", start, self.group.to(point), end)
        chosen = self.group.to(point)[nearness.argmax(-1)]
        return (chosen @ end[..., None])[..., 0]

    def distance(self, first: Tensor, second: Tensor) -> Tensor:
        """Return the least distance of the numbers that give the points."""
        return self.cover.distance(first, self.align(first, second))

    def exp(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return exp of the cover."""
        return self.cover.exp(base, vector)

    def log(self, base: Tensor, point: Tensor) -> Tensor:
        """Return the shortest of the vectors to all numbers that give a point."""
        return self.cover.log(base, self.align(base, point))

    def transport(self, base: Tensor, to: Tensor, vector: Tensor) -> Tensor:
        """Return the vector moved to the numbers of the point that are given."""
        return self.cover.transport(base, to, vector)

    def frame(self, base: Tensor) -> Tensor:
        """Return the frame of the cover."""
        return self.cover.frame(base)

    def log_volume(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return that of the cover."""
        return self.cover.log_volume(base, vector)

    def off(self, point: Tensor) -> Tensor:
        """Return that of the cover."""
        return self.cover.off(point)

    def project(self, point: Tensor) -> Tensor:
        """Return the points of the cover."""
        return self.cover.project(point)

    def why(self, off: float) -> str:
        """Return what `off` means in the cover."""
        return self.cover.why(off)

    def preimages(self, base: Tensor, point: Tensor, turns: int = 2) -> Tensor:
        """Return those of all numbers that give a point."""
        return torch.cat([self.cover.preimages(base, each, turns) for each in self.images(point)])

    def first_mean(self, points: Tensor, weights: Tensor) -> Tensor:
        """Return the mean of the numbers that are nearest to the most central of some points."""
        step = max(1, len(points) // _CANDIDATES)
        some = points[::step][:_CANDIDATES]
        seen = weights[::step][:_CANDIDATES] > 0
        cost = torch.stack(
            [(weights * self.distance(each, points).square()).sum(0) for each in some]
        )
        best = cost.where(seen, torch.inf).argmin(0)
        start = some.gather(0, best[None, ..., None].expand(1, *some.shape[1:]))[0]
        for _ in range(3):
            start = self.cover.first_mean(self.align(start, points), weights)
        return start

    def _least_move(self) -> float:
        """Return the least distance by which the group moves a point, of many points."""
        generator = torch.Generator().manual_seed(0)
        some = torch.randn(256, self.ambient, generator=generator, dtype=torch.float64)
        some = self.cover.project(some)
        moves = [self.cover.distance(some, each).min() for each in self.images(some)[1:]]
        return float(torch.stack(moves).min())


class Axes(Quotient):
    """Directions without a sense: a vector and its opposite are the same.

    Args:
        dim: Dimension: 1 for axes in the plane, 2 for those in space.
    """

    kind: ClassVar[str] = "axes"

    def __init__(self, dim: int = 2) -> None:
        eye = torch.eye(dim + 1, dtype=torch.float64)
        super().__init__(Sphere(dim), torch.stack([eye, -eye]))

    def to_config(self) -> dict[str, Any]:
        """Return the dimension."""
        return {"kind": self.kind, "dim": self.dim}


class Rotations(Quotient):
    """Rotations of space, by unit quaternions (w, x, y, z); distances are angles of rotation.

    A quaternion and its negative are the same rotation, and with a symmetry so are its products
    with the rotations of a crystal from the right, as of orientations that take crystal to specimen
    coordinates.

    Args:
        symmetry: "none", or the rotations of a crystal: "cubic" (24), "hexagonal" (12),
            "tetragonal" (8), "orthorhombic" (4).
    """

    kind: ClassVar[str] = "rotations"

    def __init__(self, symmetry: str = "none") -> None:
        if symmetry not in SYMMETRIES:
            raise InputError(f"symmetry={symmetry!r}; give one of {', '.join(SYMMETRIES)}")
        self.symmetry = symmetry
        rotations = _closed(SYMMETRIES[symmetry])
        eye = torch.eye(4, dtype=torch.float64)
        right = torch.stack([quaternion_product(eye, each).mT for each in rotations])
        super().__init__(Sphere(3, radius=2.0), torch.cat([right, -right]))

    def why(self, off: float) -> str:
        """Return what `off` means."""
        return (
            f"a quaternion's length differs from 1 by {off:.3g}, so it is no rotation; divide by "
            "the length, or project by Values.project"
        )

    def to_config(self) -> dict[str, Any]:
        """Return the symmetry."""
        return {"kind": self.kind, "symmetry": self.symmetry}


def quaternion_product(first: Tensor, second: Tensor) -> Tensor:
    """Return the product of quaternions (..., 4), (w, x, y, z): the second rotation comes first."""
    a, b, c, d = first.unbind(-1)
    w, x, y, z = second.unbind(-1)
    return torch.stack(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ],
        -1,
    )


def _turn(axis: tuple[float, float, float], parts: int) -> Tensor:
    """Return the quaternion of the rotation about an axis by one part of a whole turn."""
    direction = torch.tensor(axis, dtype=torch.float64)
    half = math.pi / parts
    return torch.cat(
        [torch.tensor([math.cos(half)]), math.sin(half) * direction / direction.norm()]
    ).double()


_X, _Z = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
SYMMETRIES: dict[str, list[Tensor]] = {
    "none": [],
    "orthorhombic": [_turn(_Z, 2), _turn(_X, 2)],
    "tetragonal": [_turn(_Z, 4), _turn(_X, 2)],
    "hexagonal": [_turn(_Z, 6), _turn(_X, 2)],
    "cubic": [_turn(_Z, 4), _turn((1.0, 1.0, 1.0), 3)],
}
"""Rotations that make up the symmetries of a crystal."""


def _closed(generators: list[Tensor]) -> Tensor:
    """Return all rotations (element, 4) that are products of some, the identity first."""
    found = [torch.tensor([1.0, 0.0, 0.0, 0.0], dtype=torch.float64)]
    grown = True
    while grown:
        grown = False
        for a, b in itertools.product(list(found), generators):
            new = quaternion_product(a, b)
            if all(float((new @ each).abs()) < 1.0 - 1e-6 for each in found):
                found.append(new)
                grown = True
    return torch.stack(found)
