"""Domains whose neighbours and Laplacian are given by one list of edges."""

from abc import abstractmethod
from functools import cached_property
from typing import NamedTuple

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains.base import Domain

__all__ = ["EdgeDomain", "Edges", "arcs", "laplacian_of"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


class Edges(NamedTuple):
    """The edges of a domain, each once."""

    low: Index
    """One node `(E,)` of each edge: the lower one, in a graph or a mesh."""
    high: Index
    """The other node `(E,)`."""
    length: Array
    """The geodesic length `(E,)`."""
    conductance: Array
    """The conductance `(E,)`: what the stiffness has, negated, off its diagonal."""


class EdgeDomain(Domain):
    """Be a domain of nodes and edges, from which neighbours and stiffness follow."""

    @property
    @abstractmethod
    def _edges(self) -> Edges:
        """The edges, each once."""

    @cached_property
    def stiffness(self) -> scipy.sparse.csc_array:
        """The stiffness `(N, N)`; no flux leaves the domain (Neumann condition)."""
        low, high, _, conductance = self._edges
        return laplacian_of(conductance, low, high, self.num_nodes)

    @cached_property
    def edge_index(self) -> Tensor:
        """The edges `(2, E)`, in both directions."""
        one_way = torch.from_numpy(np.stack(self._edges[:2]))
        return torch.cat([one_way, one_way.flip(0)], 1)

    @cached_property
    def edge_length(self) -> Tensor:
        """The geodesic lengths `(E,)` of the edges, in the units of the positions."""
        return torch.from_numpy(self._edges.length).repeat(2)


def laplacian_of(
    conductance: Array, start: Index, end: Index, num_nodes: int
) -> scipy.sparse.csc_array:
    """Return the stiffness of edges that each stand once, with their conductances `(E,)`."""
    shape = (num_nodes, num_nodes)
    half = scipy.sparse.coo_array((conductance, (start, end)), shape=shape).tocsr()
    weights = half + half.T
    weights.eliminate_zeros()
    return (scipy.sparse.diags_array(weights.sum(axis=1)) - weights).tocsc()


def arcs(positions: Tensor, edge_index: Tensor) -> Tensor:
    """Return the great-circle lengths `(E,)` in radians of edges between unit vectors `(N, 3)`."""
    start, end = positions[edge_index]
    return 2 * torch.asin(((end - start).norm(dim=1) / 2).clamp(max=1.0))
