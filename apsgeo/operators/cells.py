"""Averages over the cells of another grid: observations of another resolution."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from apsgeo import domains
from apsgeo.domains.base import Domain
from apsgeo.domains.regrid import conservative
from apsgeo.errors import InputError
from apsgeo.operators.base import Operator
from apsgeo.operators.linear import LinearMap, SparseMap

__all__ = ["CellMeans"]


@dataclass(frozen=True)
class CellMeans(Operator):
    """Observe the mean over each cell of another domain, coarser or finer, by shared areas.

    Overlaps are those of `apsgeo.domains.regrid.conservative`, between grids of latitudes and
    longitudes, and between these and HEALPix. A cell of which less than half is on the domain
    measures nothing.

    Attributes:
        target: Domain whose cells are averaged over; None for that of the labelled observations
            which `apsgeo.impute` is given.

    Examples:
        >>> from apsgeo import LatLonDomain
        >>> fine = LatLonDomain([60.0, 20.0, -20.0, -60.0], [0.0, 90.0, 180.0, 270.0])
        >>> coarse = LatLonDomain([40.0, -40.0], [45.0, 225.0])
        >>> CellMeans(coarse).on(fine)
        SparseMap(16 nodes to 4)
    """

    target: Domain | None = None
    kind: ClassVar[str] = "cell-means"

    def __post_init__(self) -> None:
        target: Any = self.target
        if isinstance(target, Mapping):
            object.__setattr__(self, "target", domains.from_config(dict(target)))

    def on(self, domain: Domain) -> LinearMap:
        """Return the means by area, whose codomain is the target.

        Raises:
            InputError: If the target is not known, or regridding to it is not.
        """
        if self.target is None:
            raise InputError(
                "CellMeans() takes its cells from labelled observations, in apsgeo.impute; give "
                "their domain: CellMeans(apsgeo.domain_of(obs))."
            )
        return SparseMap(conservative(domain, self.target).matrix, self.target)

    def to_config(self) -> dict[str, Any]:
        """Return the description of the target."""
        return {"kind": self.kind, "target": self.target and self.target.to_config()}
