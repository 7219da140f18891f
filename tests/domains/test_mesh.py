"""The facts of triangle meshes."""

import math

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.csgraph import connected_components

from apsgeo.domains import MeshDomain
from apsgeo.errors import GridError
from tests.cases import noise, numpy_seeded, rounding


def icosphere(splits: int) -> MeshDomain:
    """Return an icosahedron whose sides are halved and pushed out to the unit sphere."""
    golden = (1 + math.sqrt(5)) / 2
    rectangle = np.array([[a, b * golden] for a in (-1, 1) for b in (-1, 1)])
    vertices = np.concatenate(
        [np.roll(np.insert(rectangle, 0, 0, axis=1), shift, axis=1) for shift in range(3)]
    )
    vertices /= np.linalg.norm(vertices[0])
    distance = np.linalg.norm(vertices[:, None] - vertices, axis=-1)
    near = (distance > 0) & (distance < 1.1)
    faces = np.array(
        [
            (a, b, c)
            for a in range(12)
            for b in range(a)
            for c in range(b)
            if near[a, b] and near[b, c] and near[c, a]
        ]
    )
    for _ in range(splits):
        sides = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], -1), -1).reshape(-1, 2)
        unique, which = np.unique(sides, axis=0, return_inverse=True)
        (a, b, c), (ab, bc, ca) = faces.T, (len(vertices) + which.ravel()).reshape(-1, 3).T
        parts = [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]
        faces = np.concatenate([np.stack(part, 1) for part in parts])
        middle = vertices[unique].sum(1)
        middle /= np.linalg.norm(middle, axis=1, keepdims=True)
        vertices = np.concatenate([vertices, middle])
    return MeshDomain(vertices, faces)


def grid(rows: int, columns: int, periodic: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return the row and column of each vertex, and faces; squares are halved."""
    row, column = (i.ravel() for i in np.indices((rows, columns)))
    number = np.arange(rows * columns).reshape(rows, columns)
    last = None if periodic else -1
    a, b, c, d = (
        np.roll(number, (-i, -j), (0, 1))[:last, :last].ravel() for i in (0, 1) for j in (0, 1)
    )
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    return np.stack([row, column], 1), faces


def flat_torus(count: int) -> MeshDomain:
    """Return the square of side 2π with opposite sides joined, which lies in four dimensions."""
    index, faces = grid(count, count, periodic=True)
    angle = 2 * math.pi * index / count
    circles = np.stack([np.cos(angle), np.sin(angle)], -1).reshape(-1, 4)
    return MeshDomain(circles, faces)


def test_an_equilateral_triangle_by_hand() -> None:
    corners = np.array([[0, 0, 0], [1, 0, 0], [0.5, math.sqrt(0.75), 0]])
    domain = MeshDomain(corners, [[2, 1, 0]])
    # cot 60 degrees = 1 / sqrt 3, of one triangle, halved
    weight = 0.5 / math.sqrt(3)
    expected = weight * (3 * np.eye(3) - np.ones((3, 3)))
    np.testing.assert_allclose(domain.stiffness.toarray(), expected, atol=1e-15)
    torch.testing.assert_close(domain.areas, torch.full((3,), math.sqrt(3) / 12).double())
    torch.testing.assert_close(domain.edge_length, torch.ones(6).double())
    assert not domain.is_closed


def test_the_stiffness_is_the_dirichlet_energy_of_linear_functions() -> None:
    """Of x in the plane, where |grad x| = 1, it is the area, however obtuse the triangles."""
    index, faces = grid(5, 6, periodic=False)
    vertices = index + numpy_seeded(0).uniform(-0.4, 0.4, index.shape)
    domain = MeshDomain(vertices, faces)
    low, high, _, conductance = domain._edges
    assert conductance.min() < 0, "some angles are obtuse"
    assert len(low) == len(set(zip(low.tolist(), high.tolist(), strict=True)))
    for axis in vertices.T:
        assert axis @ (domain.stiffness @ axis) == pytest.approx(domain.areas.sum().item())


def test_eigenvalues_converge_to_those_of_the_sphere() -> None:
    """L (l + 1), each 2 l + 1 times; the error falls with the square of the spacing."""
    exact = torch.tensor([l * (l + 1) for l in range(5) for _ in range(2 * l + 1)]).double()
    errors = [(icosphere(n).eigenbasis(25)[0] - exact).abs().max().item() for n in (2, 3, 4)]
    assert errors[-1] < 0.15
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.4)
    assert errors[1] / errors[2] == pytest.approx(4, abs=0.1)


def test_eigenvalues_converge_to_those_of_the_flat_torus() -> None:
    """i² + j²; the error falls with the square of the spacing."""
    exact = np.sort([i * i + j * j for i in range(-3, 4) for j in range(-3, 4)])[:21]
    errors = []
    for count in (16, 32):
        domain = flat_torus(count)
        assert domain.is_closed
        errors.append(np.abs(domain.eigenbasis(21)[0].numpy() - exact).max())
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.2)


def test_eigenvalues_of_an_open_square_are_those_without_flux_at_its_border() -> None:
    """π² (i² + j²) on the unit square."""
    exact = np.sort([math.pi**2 * (i * i + j * j) for i in range(5) for j in range(5)])[:8]
    errors = []
    for count in (9, 17):
        index, faces = grid(count, count, periodic=False)
        values, _ = MeshDomain(index / (count - 1), faces).eigenbasis(8)
        errors.append(np.abs(values.numpy() - exact).max())
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.3)


def test_the_unit_of_length_changes_eigenvalues_by_its_square() -> None:
    mesh = icosphere(2)
    small = MeshDomain(1e-3 * mesh.vertices, mesh.faces)
    torch.testing.assert_close(
        small.eigenbasis(9)[0][1:] * 1e-6, mesh.eigenbasis(9)[0][1:], rtol=1e-9, atol=0
    )


@pytest.mark.parametrize("size", [1, 3, 5])
def test_conv_commutes_with_relabelling(size: int) -> None:
    mesh = icosphere(1)
    order = numpy_seeded(0).permutation(mesh.num_nodes)  # new node i is old order[i]
    relabelled = MeshDomain(mesh.vertices[order], np.argsort(order)[mesh.faces])
    conv, other = (domain.conv(2, 3, size).double() for domain in (mesh, relabelled))
    other.load_state_dict(conv.state_dict())
    x = noise(2, 2, mesh.num_nodes)
    # means over six neighbours, of them again, and so on, by operators kept in float32
    error = rounding(6 * size, x)
    torch.testing.assert_close(other(x[..., order]), conv(x)[..., order], rtol=0.0, atol=error)
    dense = relabelled.stiffness.toarray()
    np.testing.assert_allclose(dense, mesh.stiffness.toarray()[np.ix_(order, order)], atol=1e-14)


def test_conv_reaches_one_or_two_edges_far() -> None:
    mesh = icosphere(2)
    adjacent = torch.eye(mesh.num_nodes).bool()
    adjacent[tuple(mesh.edge_index)] = True
    for size, reach in ((3, adjacent), (5, (adjacent.float() @ adjacent.float()) > 0)):
        x = noise(1, 1, mesh.num_nodes).requires_grad_()
        conv = mesh.conv(1, 1, size).double()
        for node in (0, 30):
            (gradient,) = torch.autograd.grad(conv(x)[0, 0, node], x)
            assert torch.equal(gradient[0, 0] != 0, reach[node])


def test_conv_over_two_edges_has_the_second_chebyshev_polynomial_of_the_mean() -> None:
    mesh = icosphere(1)
    x = noise(1, 1, mesh.num_nodes)
    mean = np.zeros((mesh.num_nodes, mesh.num_nodes))
    mean[tuple(mesh.edge_index.numpy())] = 1 / mesh.edge_length
    mean /= mean.sum(1, keepdims=True)
    conv = mesh.conv(1, 1, 5).double()
    weight = torch.zeros(1, 6, 1).double()
    weight[0, 5] = 1
    conv.load_state_dict({"mix.weight": weight, "mix.bias": torch.zeros(1)})
    expected = 2 * torch.from_numpy(mean @ mean) @ x[0, 0] - x[0, 0]
    # two means over six neighbours, by operators kept in float32
    torch.testing.assert_close(conv(x)[0, 0], expected, rtol=0.0, atol=rounding(12, x))


def test_conv_knows_directions() -> None:
    """Means over neighbours alone could not tell east from west."""
    index, faces = grid(5, 5, periodic=False)
    domain = MeshDomain(index.astype(float), faces)
    conv = domain.conv(1, 1).double()
    weight = torch.zeros(1, 4, 1).double()
    weight[0, 3] = 1  # x, the mean, and the differences along rows and along columns
    conv.load_state_dict({"mix.weight": weight, "mix.bias": torch.zeros(1)})
    column = domain.positions[:, 1].expand(1, 1, -1)
    inner = ((domain.positions > 0) & (domain.positions < 4)).all(1)
    slope = conv(column)[0, 0, inner]
    assert (slope > 0.1).all()
    torch.testing.assert_close(conv(-column)[0, 0, inner], -slope)
    flat, error = torch.ones_like(column), rounding(6)  # neighbours, by an operator in float32
    torch.testing.assert_close(conv(flat), torch.zeros_like(flat), rtol=0.0, atol=error)


def test_pool_takes_connected_groups_of_about_four() -> None:
    mesh = icosphere(3)
    parent = mesh._parent
    low, high = mesh._edges[:2]
    inside = parent[low] == parent[high]
    sizes = np.bincount(parent)
    assert sizes.min() >= 2
    assert sizes.max() <= 16
    assert 3.5 < mesh.num_nodes / mesh.coarse().num_nodes < 6
    within = scipy.sparse.coo_array(
        (np.ones(inside.sum()), (low[inside], high[inside])), shape=(len(parent),) * 2
    )
    assert connected_components(within)[0] == len(sizes)
    np.testing.assert_array_equal(icosphere(3)._parent, parent)
    x = noise(1, 1, mesh.num_nodes)
    group = parent == 7
    expected = (x[0, 0, group] * mesh.areas[group]).sum() / mesh.areas[group].sum()
    found = mesh.pool().double()(x)[0, 0, 7]  # by weights kept in float32
    torch.testing.assert_close(found, expected, rtol=0.0, atol=rounding(1, x[0, 0, group]))


def test_coarse_levels_keep_the_low_eigenvalues_roughly() -> None:
    values, _ = icosphere(3).coarse().eigenbasis(4)
    assert values[1:].min() > 1.2
    assert values[1:].max() < 2.8


def test_colours_are_balanced_and_differ_along_most_edges() -> None:
    """Two edges of a triangle at most can have ends that differ."""
    for mesh in (icosphere(3), flat_torus(12)):
        start, end = mesh.edge_index
        differ = (mesh.colouring[start] != mesh.colouring[end]).double().mean().item()
        assert 0.6 < differ <= 2 / 3
        assert abs(mesh.colouring.double().mean().item() - 0.5) < 0.05


def test_names() -> None:
    assert repr(icosphere(1)) == "MeshDomain(42 vertices in 3 dimensions, 80 faces, closed)"
    mesh = icosphere(0)
    assert mesh.is_closed
    assert mesh.radius_km == 1
    assert mesh != MeshDomain(mesh.vertices, mesh.faces, radius_km=2)
    assert mesh == MeshDomain(mesh.vertices.copy(), mesh.faces.copy())


CORNERS = [[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]


@pytest.mark.parametrize(
    ("vertices", "faces", "message"),
    [
        (CORNERS, [[0, 1, 2, 0]], "split faces"),
        (CORNERS, [[0.0, 1.0, 2.0]], "float64"),
        (CORNERS, [[1, 2, 3]], "count from 0"),
        (CORNERS, [[0, 1, 1]], "in no face, the first being 2"),
        ([*CORNERS, [5.0, 5.0]], [[0, 1, 2]], "in no face, the first being 3"),
        ([*CORNERS[:2], [0.5, 0.0]], [[0, 1, 2]], "1 faces have no area"),
        ([*CORNERS[:2], [np.nan, 0.0]], [[0, 1, 2]], "not finite"),
        ([0.0, 1.0, 2.0], [[0, 1, 2]], r"\(N, d\)"),
    ],
)
def test_impossible_meshes_are_refused(vertices: list, faces: list, message: str) -> None:
    with pytest.raises(GridError, match=message):
        MeshDomain(vertices, faces)
