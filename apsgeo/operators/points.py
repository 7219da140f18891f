"""Values between nodes: stations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from apsgeo.domains.base import Domain
from apsgeo.domains.interpolation import interpolation
from apsgeo.errors import InputError
from apsgeo.operators.base import Operator
from apsgeo.operators.linear import LinearMap, SparseMap

__all__ = ["PointSample"]


@dataclass(frozen=True)
class PointSample(Operator):
    """Observe the signal at points, interpolated between the nodes about each.

    See `apsgeo.domains.interpolation.interpolation` for what is between nodes.

    Attributes:
        points: Coordinates of each point: (latitude, longitude) in degrees on
            latitude-longitude grids, HEALPix and stations on the sphere; (row, column) of images,
            0 to 1 being the first pixel; positions on meshes and graphs.
    """

    points: tuple[tuple[float, ...], ...]
    kind: ClassVar[str] = "point-sample"

    def __post_init__(self) -> None:
        points = tuple(tuple(float(value) for value in point) for point in self.points)
        object.__setattr__(self, "points", points)
        if not points or len({len(point) for point in points}) > 1:
            raise InputError("PointSample: give one point or more, of as many coordinates each.")

    def __repr__(self) -> str:
        return f"PointSample({len(self.points)} points)"

    def on(self, domain: Domain) -> LinearMap:
        """Return the interpolation.

        Raises:
            InputError: If a point is off the domain, or has not its coordinates.
        """
        return SparseMap(interpolation(domain, self.points))
