"""Graphs: stations and point clouds; and what meshes share with them."""

import math
from functools import cached_property
from typing import Any, ClassVar, Self

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, nn

from apsgeo.domains.base import EARTH_RADIUS_KM, check_kernel_size
from apsgeo.domains.edges import EdgeDomain, Edges
from apsgeo.domains.graph.edges import checked_areas, coordinates, pairs, per_edge
from apsgeo.domains.graph.layers import (
    AggregatePool,
    AggregateUnpool,
    GraphConv,
    graph_operators,
)
from apsgeo.domains.graph.tools import aggregate, merge_edges, two_colours
from apsgeo.errors import GridError, InputError

__all__ = ["GraphDomain", "NodeDomain"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class NodeDomain(EdgeDomain):
    """Be a domain without rows and columns: layers, colours, coarser levels follow from edges."""

    is_spherical = False
    """Whether positions are unit vectors, and distances are arcs."""

    @property
    def num_nodes(self) -> int:
        """The number of nodes."""
        return len(self.positions)

    @cached_property
    def colouring(self) -> Tensor:
        """Two colours `(N,)` such that most neighbours differ (see `two_colours`)."""
        return torch.from_numpy(two_colours(*self._edges[:2], self.num_nodes))

    @cached_property
    def features(self) -> Tensor:
        """The positions `(d, N)`, moved and scaled to within -1 and 1."""
        low, high = self.positions.min(0).values, self.positions.max(0).values
        return (2 * (self.positions - (low + high) / 2) / (high - low).max()).T.float()

    @cached_property
    def _operators(self) -> Tensor:
        return graph_operators(self.positions, self.edge_index, self.edge_length)

    def conv(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> nn.Module:
        """Make a graph convolution that reaches `kernel_size // 2` edges far.

        Raises:
            InputError: If `kernel_size` is even or not positive.
        """
        check_kernel_size(kernel_size)
        return GraphConv(in_channels, out_channels, kernel_size // 2, self._operators)

    @cached_property
    def _parent(self) -> Index:
        low, high, length, _ = self._edges
        return aggregate(low, high, length, self.areas.numpy())

    @property
    def can_coarsen(self) -> bool:
        """Whether merging leaves less than half of the nodes, and at least two."""
        count = int(self._parent.max()) + 1
        return count >= 2 and 2 * count < self.num_nodes

    @cached_property
    def _coarse(self) -> "GraphDomain":
        if not self.can_coarsen:
            raise InputError(
                f"{self!r} cannot be coarsened: too few of its nodes have edges to merge over."
            )
        parent, areas = self._parent, self.areas.numpy()
        size = np.bincount(parent, weights=areas)
        total = np.zeros((len(size), self.positions.shape[1]))
        np.add.at(total, parent, self.positions.numpy() * areas[:, None])
        positions = self._onto(total / size[:, None])
        low, high, length, conductance = self._edges
        # a flux through the faces between two coarse nodes goes over the distance of these
        first, second, flux, least = merge_edges(parent, low, high, conductance * length, length)
        chord = np.linalg.norm(positions[second] - positions[first], axis=1)
        distance = np.maximum(self._length_of(chord), least)
        return GraphDomain(
            positions,
            np.stack([first, second]),
            areas=size,
            edge_length=distance,
            conductance=flux.clip(min=0) / distance,
            radius_km=self.radius_km,
            spherical=self.is_spherical,
        )

    def _onto(self, positions: Array) -> Array:
        """Bring the means of nodes to where nodes may be."""
        if not self.is_spherical:
            return positions
        norm = np.linalg.norm(positions, axis=1, keepdims=True)
        return np.where(norm > 1e-9, positions, [0.0, 0.0, 1.0]) / np.where(norm > 1e-9, norm, 1.0)

    def _length_of(self, chord: Array) -> Array:
        """Return the geodesic lengths that belong to straight ones."""
        return 2 * np.arcsin((chord / 2).clip(max=1.0)) if self.is_spherical else chord

    def coarse(self) -> "GraphDomain":
        """Return the graph of groups of near nodes, at their means: about a fourth as many.

        Raises:
            InputError: If merging over edges leaves not less than half of the nodes.
        """
        return self._coarse

    def pool(self) -> nn.Module:
        """Make the area-weighted mean onto `coarse()`."""
        areas, parent = self.areas, torch.from_numpy(self._parent)
        share = areas / self._coarse.areas[parent]
        return AggregatePool(parent, share.float(), self._coarse.num_nodes)

    def unpool(self) -> nn.Module:
        """Make the piecewise constant map from `coarse()`."""
        _ = self._coarse
        return AggregateUnpool(torch.from_numpy(self._parent))


class GraphDomain(NodeDomain):
    r"""Represent stations or a cloud of points on a surface, joined to those that are near.

    Areas and conductances that are not given are estimated: conductances are :math:`w_{ij} = 2 /
    n_i + 2 / n_j`, with the numbers of neighbours :math:`n_i`, and areas are :math:`\sum_j w_{ij}
    d_{ij}^2 / 4`, so that the Laplacian of :math:`|x - x_i|^2` at each node is 4, as in a plane. On
    a square lattice with four neighbours they are 1 and the square of the spacing.

    Args:
        positions: Coordinates `(N, d)`.
        edge_index: Edges `(2, E)` in one direction or both; by default each node and its `k`
            nearest are joined.
        k: Number of neighbours that each node chooses, where no edges are given.
        areas: Areas `(N,)` that the nodes stand for.
        edge_length: Lengths `(E,)` of the given edges, distances by default.
        conductance: Conductances `(E,)` of the given edges, not negative.
        radius_km: Kilometres per unit of the positions.
        spherical: Whether positions are unit vectors, and distances are arcs.

    Raises:
        GridError: If positions are not finite, or fewer than two; two joined nodes are at the same
            place; edges name nodes that are not there; areas or lengths are not positive.

    Example:
        >>> domain = GraphDomain.from_latlon([52.5, 48.9, 51.5, 40.4], [13.4, 2.4, -0.1, -3.7], k=2)
        >>> domain
        GraphDomain(4 nodes in 3 dimensions, 5 edges, spherical)
    """

    kind: ClassVar[str] = "graph"

    def __init__(
        self,
        positions: ArrayLike,
        edge_index: ArrayLike | None = None,
        k: int = 6,
        *,
        areas: ArrayLike | None = None,
        edge_length: ArrayLike | None = None,
        conductance: ArrayLike | None = None,
        radius_km: float = 1.0,
        spherical: bool = False,
    ) -> None:
        points = coordinates(positions, "positions")
        self._positions = torch.from_numpy(points)
        self.radius_km, self.is_spherical = float(radius_km), bool(spherical)
        if spherical and (
            points.shape[1] != 3 or abs(np.linalg.norm(points, axis=1) - 1).max() > 1e-6
        ):
            raise GridError(
                "spherical=True needs unit vectors (N, 3): see GraphDomain.from_latlon."
            )
        low, high, which = pairs(points, edge_index, k)
        chord = np.linalg.norm(points[high] - points[low], axis=1)
        length = self._length_of(chord)
        if edge_length is not None:
            length = per_edge(edge_length, which, len(low), "edge_length")
        if not (length > 0).all():
            worst = int(length.argmin())
            raise GridError(
                f"nodes {low[worst]} and {high[worst]} are joined and at the same place; merge "
                "them."
            )
        if conductance is None:
            degree = np.bincount(np.concatenate([low, high]), minlength=len(points))
            weight = 2 / degree[low] + 2 / degree[high]
        else:
            weight = per_edge(conductance, which, len(low), "conductance")
        self._all_edges = Edges(low, high, length, weight)
        self._areas = torch.from_numpy(checked_areas(areas, self._all_edges, len(points)))

    @classmethod
    def from_latlon(cls, lat: ArrayLike, lon: ArrayLike, k: int = 6, **options: Any) -> Self:
        """Join stations at latitudes and longitudes in degrees by great circles.

        Args:
            lat: Latitudes `(N,)`.
            lon: Longitudes `(N,)`.
            k: Number of neighbours that each station chooses.
            options: Further arguments, such as `areas` in steradians.

        Raises:
            GridError: If latitudes are beyond the poles, or `GraphDomain` refuses the positions.
        """
        phi, lam = (np.deg2rad(np.asarray(degrees, dtype=np.float64)) for degrees in (lat, lon))
        if not (np.abs(phi) <= math.pi / 2).all():
            raise GridError("a latitude is not from -90 to 90 degrees; latitude comes first.")
        points = np.stack([np.cos(phi) * np.cos(lam), np.cos(phi) * np.sin(lam), np.sin(phi)], -1)
        return cls(points, None, k, radius_km=EARTH_RADIUS_KM, spherical=True, **options)

    @property
    def positions(self) -> Tensor:
        """The positions `(N, d)`, float64."""
        return self._positions

    @property
    def areas(self) -> Tensor:
        """The areas `(N,)`, given or estimated, float64."""
        return self._areas

    @property
    def _edges(self) -> Edges:
        return self._all_edges

    def to_config(self) -> dict[str, Any]:
        """Return positions, areas and edges, exactly."""
        low, high, length, conductance = self._edges
        return {
            "kind": self.kind,
            "positions": self.positions.tolist(),
            "edge_index": [low.tolist(), high.tolist()],
            "areas": self.areas.tolist(),
            "edge_length": length.tolist(),
            "conductance": conductance.tolist(),
            "radius_km": self.radius_km,
            "spherical": self.is_spherical,
        }

    def _same(self, other: Any) -> bool:
        """Whether positions, areas and edges are the same."""
        return (
            (self.radius_km, self.is_spherical) == (other.radius_km, other.is_spherical)
            and torch.equal(self.positions, other.positions)
            and torch.equal(self.areas, other.areas)
            and all(map(np.array_equal, self._edges, other._edges))
        )

    def __repr__(self) -> str:
        """Show the numbers of nodes and edges."""
        nodes, axes = self.positions.shape
        extent = ", spherical" if self.is_spherical else ""
        edges = len(self._edges.low)
        return f"GraphDomain({nodes} nodes in {axes} dimensions, {edges} edges{extent})"
