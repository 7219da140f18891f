"""Area-weighted means of regions, of every member, with the interval that they make."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr

from apsgeo.domains.base import Domain
from apsgeo.errors import GridError, InputError
from apsgeo.labels.labels import degrees_of
from apsgeo.labels.layout import layout_of
from apsgeo.measurement import Draws
from apsgeo.statistics.statistic import Array, Output, Site, Statistic

__all__ = ["AreaMean", "Box"]


@dataclass(frozen=True)
class Box:
    """The nodes between two latitudes and two longitudes, in degrees, ends included.

    Attributes:
        south: Least latitude.
        north: Greatest latitude.
        west: Longitude from which the box goes eastwards, in -180 to 180 or 0 to 360.
        east: Longitude up to which it goes; below ``west`` if it crosses the cut.

    Raises:
        InputError: If the latitudes are not ascending, or not between the poles.
    """

    south: float
    north: float
    west: float = -180.0
    east: float = 180.0

    def __post_init__(self) -> None:
        if not -90.0 <= self.south < self.north <= 90.0:
            raise InputError(
                f"{self} given; expected south < north, in degrees from -90 to 90, and then west "
                "and east: Box(35, 70, -10, 40)"
            )

    def weights(self, domain: Domain) -> Array:
        """Return one for nodes inside, else zero, (node,).

        Raises:
            GridError: If the domain has no latitudes and longitudes.
        """
        if (found := degrees_of(domain)) is None:
            raise GridError(
                f"{domain!r} has no latitudes and longitudes; give a region as an array of its "
                "nodes, true inside"
            )
        lat, lon = (each.round(6) for each in found)
        width = (self.east - self.west) % 360.0 or 360.0
        inside = (lat >= self.south) & (lat <= self.north) & ((lon - self.west) % 360.0 <= width)
        return inside.astype(np.float64)


Region = Box | xr.DataArray


@dataclass(frozen=True, eq=False)
class AreaMean(Statistic):
    """The mean of regions by area, of each member, and the central interval of all members.

    Only nodes with values count (no land, say). The members of a mean are few numbers, and are
    kept: any other statistic follows from them, or a plume (`ensemble.aps.plume`).

    Attributes:
        regions: Regions by name: a `Box`, or an array on the domain, true inside, or the share of
            each node. By default all there is, under the name "all".
        level: Probability of the interval.

    Raises:
        InputError: If the level is not between 0 and 1.
    """

    regions: Mapping[str, Region] = field(default_factory=dict)
    level: float = 0.9

    def __post_init__(self) -> None:
        if not 0.0 < self.level < 1.0:
            raise InputError(f"level={self.level} given; expected a probability, such as 0.9")

    def weights(self, domain: Domain, valid: Array) -> Array:
        """Return the weight (region, node) of each node, which sum to one.

        Args:
            domain: Domain of the nodes.
            valid: Mask (node,) of those with values.

        Raises:
            InputError: If a region has no node with values.
            GridError: If a region is on another domain.
        """
        areas = domain.areas.numpy() * valid
        each = []
        regions: Mapping[str, Any] = self.regions or {"all": None}
        for name, region in regions.items():
            share = np.ones(domain.num_nodes)
            if isinstance(region, Box):
                share = region.weights(domain)
            elif isinstance(region, xr.DataArray):
                layout = layout_of(region, domain, given=f"the region {name!r}", wanted="the model")
                ordered = layout.ordered(region)
                if ordered.ndim != len(layout.dims):
                    raise GridError(
                        f"the region {name!r} has dims {region.dims}; expected {layout.dims}"
                    )
                share = layout.nodes(np.nan_to_num(ordered.values.astype(np.float64)))
            elif region is not None:
                raise InputError(
                    f"the region {name!r} is a {type(region).__name__}; expected a Box or a "
                    "DataArray on the domain"
                )
            weight = areas * share
            if (share < 0.0).any() or not weight.sum() > 0.0:
                raise InputError(
                    f"the region {name!r} has no node with values, or weights below zero; give "
                    "another"
                )
            each.append(weight / weight.sum())
        return np.stack(each)

    def _of(self, site: Site) -> Array:
        return self.weights(site.layout.domain, site.normals.valid.numpy())

    def check(self, site: Site) -> None:
        """Check that every region has nodes; see `weights` for what is raised."""
        self._of(site)

    def outputs(self, site: Site) -> Sequence[Output]:
        """Return ``NAME_area_mean`` (member, region) and ``NAME_area_mean_interval`` (bound, …)."""
        region = {"region": xr.Variable("region", list(self.regions) or ["all"])}
        member = {"member": xr.Variable("member", np.arange(site.members))}
        bound = {"bound": xr.Variable("bound", ["lower", "upper"])}
        of = {"long_name": "area-weighted mean of {}", "cell_methods": "area: mean"}
        central = f"central {100 * self.level:g} % interval of the area-weighted mean of {{}}"
        interval = {"long_name": central}
        return (
            Output("area_mean", member | region, nodes=False, attrs=of),
            Output("area_mean_interval", bound | region, nodes=False, attrs=interval),
        )

    def start(self, site: Site) -> _Means:
        """Return the state before the first member."""
        return _Means(self._of(site), self.level)


class _Means:
    def __init__(self, weights: Array, level: float) -> None:
        self._nodes = np.flatnonzero(weights.any(0))
        self._weights, self._level = weights[:, self._nodes], level
        self._parts: list[Array] = []

    def add(self, fields: Array, draws: Draws) -> None:
        """Take in members; see `Accumulator`."""
        inside = fields[..., self._nodes].astype(np.float64)
        self._parts.append(inside @ self._weights.T)  # (member, record, channel, region)

    def values(self) -> Sequence[Array]:
        """Return the means of the members, and their interval."""
        means = np.concatenate(self._parts).transpose(1, 0, 3, 2)  # (record, member, region, ch.)
        tail = (1.0 - self._level) / 2.0
        interval = np.quantile(means, [tail, 1.0 - tail], axis=1).swapaxes(0, 1)
        return means, interval
