"""Products of manifolds, such as the torus: several angles at each node."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from apsgeo.values.manifold import Manifold
from apsgeo.values.sphere import Circle

__all__ = ["Product", "torus"]


class Product(Manifold):
    """Several manifolds at once; numbers and vectors of the parts follow each other.

    Args:
        parts: The manifolds.
    """

    kind: ClassVar[str] = "product"

    def __init__(self, parts: Sequence[Manifold]) -> None:
        self.parts = tuple(parts)
        self.dim = sum(part.dim for part in self.parts)
        self.ambient = sum(part.ambient for part in self.parts)
        self.cut = min(part.cut for part in self.parts)

    def _split(self, values: Tensor) -> tuple[Tensor, ...]:
        return values.split([part.ambient for part in self.parts], -1)

    def _each(self, name: str, *values: Tensor) -> list[Tensor]:
        split = zip(*map(self._split, values), strict=True)
        return [getattr(part, name)(*each) for part, each in zip(self.parts, split, strict=True)]

    def exp(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return the points of all parts."""
        return torch.cat(self._each("exp", base, vector), -1)

    def log(self, base: Tensor, point: Tensor) -> Tensor:
        """Return the vectors of all parts."""
        return torch.cat(self._each("log", base, point), -1)

    def transport(self, base: Tensor, to: Tensor, vector: Tensor) -> Tensor:
        """Return the vectors of all parts, each moved along its geodesic."""
        return torch.cat(self._each("transport", base, to, vector), -1)

    def frame(self, base: Tensor) -> Tensor:
        """Return the frames of all parts."""
        whole = base.new_zeros(*base.shape, self.dim)
        row = column = 0
        for part, frame in zip(self.parts, self._each("frame", base), strict=True):
            whole[..., row : row + part.ambient, column : column + part.dim] = frame
            row, column = row + part.ambient, column + part.dim
        return whole

    def log_volume(self, base: Tensor, vector: Tensor) -> Tensor:
        """Return the sum over the parts."""
        return torch.stack(self._each("log_volume", base, vector)).sum(0)

    def off(self, point: Tensor) -> Tensor:
        """Return the most of the parts."""
        return torch.stack(self._each("off", point)).amax(0)

    def project(self, point: Tensor) -> Tensor:
        """Return the points of all parts."""
        return torch.cat(self._each("project", point), -1)

    def align(self, base: Tensor, point: Tensor) -> Tensor:
        """Return the nearest numbers of all parts."""
        return torch.cat(self._each("align", base, point), -1)

    def why(self, off: float) -> str:
        """Return what `off` means in the first part."""
        return self.parts[0].why(off)

    def first_mean(self, points: Tensor, weights: Tensor) -> Tensor:
        """Return the first means of all parts."""
        split = self._split(points)
        means = [part.first_mean(x, weights) for part, x in zip(self.parts, split, strict=True)]
        return torch.cat(means, -1)

    def balance(self, points: Tensor, weights: Tensor) -> Tensor:
        """Return the least of the parts."""
        split = self._split(points)
        each = [part.balance(x, weights) for part, x in zip(self.parts, split, strict=True)]
        return torch.stack(each).amin(0)

    def to_config(self) -> dict[str, Any]:
        """Return the parts."""
        return {"kind": self.kind, "parts": [part.to_config() for part in self.parts]}


def torus(dim: int, period: float = 2.0 * math.pi) -> Product:
    """Return the torus of several angles of one period."""
    return Product([Circle(period)] * dim)
