"""Merging the nodes of a graph, and colouring them, by rules without chance."""

import numpy as np
import scipy.sparse
from numpy.typing import NDArray
from scipy.sparse.csgraph import breadth_first_order

__all__ = ["aggregate", "merge_edges", "two_colours"]

Array = NDArray[np.float64]
Index = NDArray[np.int64]


def aggregate(low: Index, high: Index, length: Array, areas: Array) -> Index:
    """Join nodes twice with what is nearest, so that about four become one.

    Args:
        low: One node `(E,)` of each edge; an edge stands once.
        high: The other node `(E,)` of each edge.
        length: The edges' lengths `(E,)`.
        areas: The nodes' areas `(N,)`.

    Returns:
        The coarse node `(N,)` of each node, counted in the order of their first nodes.
    """
    parent = np.arange(len(areas))
    for _ in range(2):
        first, second = parent[low], parent[high]
        apart = first != second
        size = np.bincount(parent, weights=areas)
        # the nearest first, and the small before the large: both are areas
        cost = length[apart] ** 2 + size[first[apart]] + size[second[apart]]
        joined = _match(first[apart], second[apart], cost, len(size))
        parent = joined[parent]
    return parent


def _match(first: Index, second: Index, cost: Array, num_nodes: int) -> Index:
    """Pair nodes over edges that are the cheapest at both ends, until none is left.

    The result is the greedy matching, whatever the order of the steps (Preis 1999, *Linear time
    1/2-approximation algorithm for maximum weighted matching*). A node that finds no partner joins
    the pair that its cheapest edge leads to.
    """
    order = np.lexsort((np.maximum(first, second), np.minimum(first, second), cost))
    first, second = first[order], second[order]
    partner = np.full(num_nodes, -1)
    edge = np.arange(len(first))
    while len(edge):
        # edges are in the order of their cost, so that the least index is the cheapest
        best = np.full(num_nodes, len(first))
        np.minimum.at(best, first[edge], edge)
        np.minimum.at(best, second[edge], edge)
        chosen = edge[(best[first[edge]] == edge) & (best[second[edge]] == edge)]
        partner[first[chosen]], partner[second[chosen]] = second[chosen], first[chosen]
        edge = edge[(partner[first[edge]] < 0) & (partner[second[edge]] < 0)]
    leader = np.arange(num_nodes)
    paired = partner >= 0
    leader[paired] = np.minimum(leader, partner)[paired]
    best = np.full(num_nodes, len(first))
    np.minimum.at(best, first, np.arange(len(first)))
    np.minimum.at(best, second, np.arange(len(first)))
    single = np.flatnonzero(~paired & (best < len(first)))
    over = best[single]
    leader[single] = leader[np.where(first[over] == single, second[over], first[over])]
    return np.unique(leader, return_inverse=True)[1].ravel()


def merge_edges(
    parent: Index, low: Index, high: Index, flux: Array, length: Array
) -> tuple[Index, Index, Array, Array]:
    """Join the edges between the same two coarse nodes.

    Args:
        parent: The coarse node `(N,)` of each node.
        low: One node `(E,)` of each edge; an edge stands once.
        high: The other node `(E,)` of each edge.
        flux: Fluxes `(E,)` of the edges, which are added up.
        length: Lengths `(E,)` of the edges, of which the least is taken.

    Returns:
        Both nodes, the lower first, the sum of `flux` and the least `length` of each coarse edge.
    """
    first, second = parent[low], parent[high]
    apart = first != second
    pairs = np.sort(np.stack([first[apart], second[apart]]), axis=0)
    edges, which = np.unique(pairs, axis=1, return_inverse=True)
    total: Array = np.zeros(edges.shape[1])
    np.add.at(total, which.ravel(), flux[apart])
    least = np.full(edges.shape[1], np.inf)
    np.minimum.at(least, which.ravel(), length[apart])
    return edges[0], edges[1], total, least


def two_colours(low: Index, high: Index, num_nodes: int) -> NDArray[np.bool_]:
    """Colour nodes so that most neighbours differ and both colours are about as frequent.

    Breadth first, each node takes the colour that fewer of its coloured neighbours have, or, at a
    tie, the colour that is rarer so far. Two sweeps then turn the nodes that most of their
    neighbours are like. A graph that two colours can colour perfectly is coloured so.
    """
    ones = np.ones(2 * len(low))
    ends = np.concatenate([low, high]), np.concatenate([high, low])
    graph = scipy.sparse.coo_array((ones, ends), shape=(num_nodes, num_nodes)).tocsr()
    neighbours = np.split(graph.indices, graph.indptr[1:-1])
    colour = np.zeros(num_nodes, dtype=np.int64)  # 0 is none yet, else 1 and -1
    order: list[int] = []
    balance = 0
    for start in range(num_nodes):
        if colour[start]:
            continue
        component = breadth_first_order(graph, start, directed=False, return_predecessors=False)
        order.extend(component.tolist())
        for node in component:
            excess = int(colour[neighbours[node]].sum()) or balance
            colour[node] = -1 if excess > 0 else 1
            balance += int(colour[node])
    for _ in range(2):
        for node in order:
            alike = int(colour[neighbours[node]].sum()) * int(colour[node])
            # a tie is turned if that brings the two colours closer
            if alike > 0 or (alike == 0 and balance * colour[node] > 1):
                balance -= 2 * int(colour[node])
                colour[node] = -colour[node]
    return colour > 0
