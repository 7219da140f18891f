"""The facts of graphs: stations and point clouds."""

import math

import numpy as np
import pytest
import torch

from apsgeo.domains import GraphDomain
from apsgeo.domains.graph.tools import aggregate, two_colours
from apsgeo.errors import GridError
from tests.cases import numpy_seeded, rounding, seeded


def lattice(count: int) -> GraphDomain:
    """Return a square lattice with the spacing 1/2, joined to four neighbours."""
    number = np.arange(count**2).reshape(count, count)
    edges = np.concatenate(
        [
            np.stack([number[:, :-1], number[:, 1:]]).reshape(2, -1),
            np.stack([number[1:], number[:-1]]).reshape(2, -1),
        ],
        axis=1,
    )
    return GraphDomain(np.argwhere(number >= 0) / 2, edges)


def test_estimates_on_a_square_lattice() -> None:
    domain = lattice(6)
    inner = ((domain.positions > 0.6) & (domain.positions < 1.9)).all(1).numpy()
    torch.testing.assert_close(domain.areas[inner], torch.full((inner.sum(),), 0.25).double())
    dense = domain.stiffness.toarray()[inner]
    assert set(dense.ravel().tolist()) == {4.0, -1.0, 0.0}


def test_estimates_on_a_path_by_hand() -> None:
    """The ends have one neighbour, the middle two: 2 / 1 + 2 / 2 = 3, and 3 d² / 4 at an end."""
    domain = GraphDomain([[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]], [[0, 1], [1, 2]])
    assert domain.stiffness.toarray().tolist() == [[3, -3, 0], [-3, 6, -3], [0, -3, 3]]
    assert domain.areas.tolist() == [0.75, 3.75, 3.0]


def test_the_laplacian_of_the_squared_distance_is_that_of_a_plane() -> None:
    domain = GraphDomain(numpy_seeded(0).random((50, 2)), k=5)
    for node in (0, 17):
        square = ((domain.positions - domain.positions[node]) ** 2).sum(1).numpy()
        laplacian = -(domain.stiffness @ square)[node] / domain.areas[node].item()
        assert laplacian == pytest.approx(4)


def test_each_node_is_joined_to_its_nearest_and_to_those_that_chose_it() -> None:
    points = numpy_seeded(0).random((30, 3))
    domain = GraphDomain(points, k=3)
    distance = np.linalg.norm(points[:, None] - points, axis=-1)
    chosen = distance <= np.sort(distance, axis=1)[:, 3:4]
    np.fill_diagonal(chosen, False)
    expected = set(map(tuple, np.argwhere(chosen | chosen.T).tolist()))
    assert set(map(tuple, domain.edge_index.T.tolist())) == expected


def test_edges_may_be_given_in_one_direction_or_both() -> None:
    points = [[0.0, 0.0], [1.0, 0.0], [1.0, 2.0]]
    one = GraphDomain(points, [[0, 2], [1, 1]], conductance=[3, 4], edge_length=[1, 5])
    both = GraphDomain(
        points, [[1, 1, 0, 2], [0, 2, 1, 1]], conductance=[3, 4, 3, 4], edge_length=[1, 5, 1, 5]
    )
    assert one == both
    assert one.stiffness.toarray().tolist() == [[3, -3, 0], [-3, 7, -4], [0, -4, 4]]
    assert one.edge_length.tolist() == [1, 5, 1, 5]
    assert one != GraphDomain(points, [[0, 2], [1, 1]])


def test_stations_are_joined_by_great_circles() -> None:
    domain = GraphDomain.from_latlon([0, 0, 90], [0, 90, 12], k=2)
    torch.testing.assert_close(domain.edge_length, torch.full((6,), math.pi / 2).double())
    assert domain.radius_km == 6371.0
    assert repr(domain) == "GraphDomain(3 nodes in 3 dimensions, 3 edges, spherical)"


def test_coarse_stations_stay_on_the_sphere() -> None:
    rng = numpy_seeded(0)
    lat, lon = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 300))), rng.uniform(0, 360, 300)
    coarse = GraphDomain.from_latlon(lat, lon).coarse()
    torch.testing.assert_close(coarse.positions.norm(dim=1), torch.ones(coarse.num_nodes).double())
    start, end = coarse.positions[coarse.edge_index]
    angle = torch.acos((start * end).sum(1))
    assert (coarse.edge_length >= angle - 1e-6).all()
    assert coarse.edge_length.max() < 1.3, "they join what is near"
    assert coarse.radius_km == 6371.0


def test_conv_commutes_with_relabelling() -> None:
    points = numpy_seeded(0).random((40, 2))
    order = numpy_seeded(1).permutation(40)
    conv, other = (GraphDomain(p, k=4).conv(2, 3).double() for p in (points, points[order]))
    other.load_state_dict(conv.state_dict())
    x = torch.randn(2, 2, 40, generator=seeded(0)).double()
    error = rounding(8 * 3, x)  # sums over up to eight neighbours, by operators kept in float32
    torch.testing.assert_close(other(x[..., order]), conv(x)[..., order], rtol=0.0, atol=error)


def test_a_graph_of_two_colours_gets_them() -> None:
    domain = lattice(7)
    start, end = domain.edge_index
    assert (domain.colouring[start] != domain.colouring[end]).all()
    assert domain.colouring.sum() in (24, 25)


def test_nodes_without_edges_are_coloured_in_turn() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert two_colours(none, none, 6).sum() == 3


def test_merging_prefers_what_is_near() -> None:
    domain = GraphDomain(numpy_seeded(0).random((400, 2)))
    low, high, length, _ = domain._edges
    # equal areas, small ones, so that lengths alone decide which pairs are made
    parent = aggregate(low, high, length, np.full(400, 1e-6))
    within = parent[low] == parent[high]
    assert length[within].mean() < 0.7 * length[~within].mean()


def test_merging_pairs_the_nearest_first_and_leaves_none_alone() -> None:
    """On a line with gaps 1, 2, 1, 9, 1: pairs 01, 23, 45; then 0123, and 45 with what is left."""
    length = np.array([1.0, 2.0, 1.0, 9.0, 1.0])
    low = np.arange(5)
    parent = aggregate(low, low + 1, length, np.ones(6))
    assert parent.tolist() == [0, 0, 0, 0, 0, 0]
    apart = np.delete(np.arange(5), 3)  # without the long edge there are two components
    parent = aggregate(low[apart], low[apart] + 1, length[apart], np.ones(6))
    assert parent.tolist() == [0, 0, 0, 0, 1, 1]


POINTS = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k": 3}, "choose k from 1 to 2"),
        ({"k": 0}, "choose k from 1 to 2"),
        ({"edge_index": [[0, 1], [1, 3]]}, "nodes 0 to 3, but there are the nodes 0 to 2"),
        ({"edge_index": [[0, 1], [1, 1]]}, "to itself"),
        ({"edge_index": [[0, 1, 2]]}, r"\(2, E\)"),
        ({"edge_index": [[0], [1]]}, "without an edge"),
        ({"k": 2, "areas": [1.0, 2.0]}, "3 finite numbers"),
        ({"k": 2, "areas": [1.0, 2.0, 0.0]}, "above zero"),
        ({"edge_index": [[0, 1], [1, 2]], "conductance": [1.0, -1.0]}, "not negative"),
        ({"edge_index": [[0, 1], [1, 2]], "edge_length": [1.0]}, "2 numbers"),
        ({"k": 2, "spherical": True}, "from_latlon"),
    ],
)
def test_impossible_graphs_are_refused(options: dict, message: str) -> None:
    with pytest.raises(GridError, match=message):
        GraphDomain(POINTS, **options)


def test_nodes_at_the_same_place_and_beyond_the_poles_are_refused() -> None:
    with pytest.raises(GridError, match="nodes 0 and 1 are joined and at the same place"):
        GraphDomain([[0.0], [0.0], [1.0]], k=1)
    with pytest.raises(GridError, match="latitude comes first"):
        GraphDomain.from_latlon([0.0, 100.0], [0.0, 50.0], k=1)
