"""What every domain promises."""

import copy
import doctest
import itertools
import json
import math
import sys
from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.sparse.csgraph import connected_components
from torch import nn

from apsgeo import domains
from apsgeo.domains import (
    Domain,
    GraphDomain,
    HEALPixDomain,
    ImageDomain,
    LatLonDomain,
    MeshDomain,
)
from apsgeo.errors import InputError, ModelError
from apsgeo.nn.function_space import FunctionSpaceNet
from apsgeo.nn.unet import UNet
from tests.cases import alike, noise, numpy_seeded, rounding, seed_weights, seeded

SPHERE = 4 * math.pi


def global_grid(rows: int, columns: int, *, poles: bool = True) -> LatLonDomain:
    edge = 90.0 if poles else 90.0 - 90.0 / rows
    return LatLonDomain(np.linspace(edge, -edge, rows), np.arange(columns) * 360 / columns)


def gaussian_grid(rows: int, columns: int) -> LatLonDomain:
    nodes, _ = np.polynomial.legendre.leggauss(rows)
    return LatLonDomain(np.rad2deg(np.arcsin(nodes)), np.arange(columns) * 360 / columns - 180)


def box_area(south: float, north: float, width: float) -> float:
    return math.radians(width) * (math.sin(math.radians(north)) - math.sin(math.radians(south)))


def sheet(rows: int, columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and faces of a plane sheet of squares of side one, each halved."""
    index = np.arange((rows + 1) * (columns + 1)).reshape(rows + 1, columns + 1)
    a, b, c, d = (index[i : rows + i, j : columns + j].ravel() for i in (0, 1) for j in (0, 1))
    faces = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    return np.argwhere(index >= 0).astype(float), faces


def two_sheets() -> MeshDomain:
    (first, faces), (second, more) = sheet(5, 6), sheet(4, 3)
    second += [0.3, 20.0]
    return MeshDomain(np.concatenate([first, second]), np.concatenate([faces, more + len(first)]))


def bent_sheet() -> MeshDomain:
    """A sheet wound round a cylinder's quarter, as a polygon: each strip keeps its area."""
    vertices, faces = sheet(6, 7)
    angle = vertices[:, 0] * math.pi / 12
    radius = 0.5 / math.sin(math.pi / 24)  # the chords are of length one
    wound = np.stack([radius * np.cos(angle), radius * np.sin(angle), vertices[:, 1]], 1)
    return MeshDomain(wound, faces, radius_km=2.0)


def octahedron() -> MeshDomain:
    """The sides halved twice: 66 vertices, on eight planes of area √3 / 2 each."""
    vertices = np.concatenate([np.eye(3), -np.eye(3)])
    faces = np.array([[x, y, z] for x in (0, 3) for y in (1, 4) for z in (2, 5)])
    for _ in range(2):
        vertices, faces = halved(vertices, faces)
    return MeshDomain(vertices, faces)


def halved(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Split each triangle into four at the middles of its sides."""
    sides = np.sort(np.stack([faces, np.roll(faces, -1, axis=1)], -1), axis=-1).reshape(-1, 2)
    unique, which = np.unique(sides, axis=0, return_inverse=True)
    middle = (len(vertices) + which.ravel()).reshape(-1, 3)
    (a, b, c), (ab, bc, ca) = faces.T, middle.T
    parts = [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]
    split = np.concatenate([np.stack(part, 1) for part in parts])
    return np.concatenate([vertices, vertices[unique].mean(1)]), split


def cloud() -> GraphDomain:
    rng = numpy_seeded(3)
    return GraphDomain(rng.random((60, 2)), k=4, areas=np.linspace(0.5, 1.5, 60))


def stations() -> GraphDomain:
    rng = numpy_seeded(4)
    lat = np.rad2deg(np.arcsin(rng.uniform(-1, 1, 80)))
    return GraphDomain.from_latlon(lat, rng.uniform(-180, 180, 80), areas=np.full(80, SPHERE / 80))


# connected nested pixels of nside 8, in no order
PART = numpy_seeded(0).permutation(np.arange(40, 240))

# every domain of the shared suite, with its exact area
CASES: dict[str, tuple[Domain, float]] = {
    "poles": (global_grid(13, 24), SPHERE),
    "no-poles": (global_grid(12, 24, poles=False), SPHERE),
    "gaussian-ascending": (gaussian_grid(10, 20), SPHERE),
    "odd-columns": (global_grid(11, 15), SPHERE),
    "regional": (
        LatLonDomain(np.arange(60.0, 32.0, -2.5), np.arange(-10.0, 16.0, 2.5)),
        box_area(31.25, 61.25, 27.5),
    ),
    "polar-cap": (
        LatLonDomain(np.arange(90.0, 59.0, -5.0), np.arange(0.0, 360.0, 30.0)),
        box_area(57.5, 90, 360),
    ),
    "image": (ImageDomain(12, 15), 180.0),
    "image-uneven": (ImageDomain(6, 5, [0, 1, 3, 4, 6, 7, 9], [-1, 0, 0.5, 1, 4, 5]), 54.0),
    "healpix": (HEALPixDomain(4), SPHERE),
    "healpix-ring": (HEALPixDomain(4, nest=False), SPHERE),
    "healpix-part": (HEALPixDomain(8, True, PART), SPHERE * 200 / 768),
    "healpix-part-ring": (HEALPixDomain(8, False, np.arange(144)), SPHERE * 144 / 768),
    "mesh-closed": (octahedron(), 4 * math.sqrt(3)),
    "mesh-open": (bent_sheet(), 42.0),
    "mesh-of-two": (two_sheets(), 42.0),
    "graph": (cloud(), 60.0),
    "stations": (stations(), SPHERE),
}

# those whose nodes are unit vectors and whose lengths are arcs
SPHERES = {"poles", "no-poles", "gaussian-ascending", "odd-columns", "regional", "polar-cap"}
SPHERES |= {"healpix", "healpix-ring", "healpix-part", "healpix-part-ring", "stations"}

# those whose eigenbasis is that of the continuous Laplacian
CONTINUOUS = {"healpix", "healpix-ring"}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Domain, float]:
    return CASES[request.param]


@pytest.fixture
def domain(case: tuple[Domain, float]) -> Domain:
    return case[0]


def test_areas_are_positive_and_sum_to_the_domain(case: tuple[Domain, float]) -> None:
    domain, area = case
    assert domain.areas.shape == (domain.num_nodes,)
    assert (domain.areas > 0).all()
    assert domain.areas.sum().item() == pytest.approx(area, rel=1e-13)


def test_stiffness_is_symmetric_semidefinite_with_constants_in_its_kernel(domain: Domain) -> None:
    dense = domain.stiffness.toarray()
    np.testing.assert_array_equal(dense, dense.T)
    scale = np.abs(dense).max()
    np.testing.assert_allclose(dense.sum(1), 0, atol=1e-13 * scale)
    eigenvalues = np.linalg.eigvalsh(dense)
    assert eigenvalues[0] > -1e-12 * scale
    graph = scipy.sparse.coo_array(
        (np.ones(domain.edge_index.shape[1]), domain.edge_index.numpy()), shape=dense.shape
    )
    components = connected_components(graph)[0]
    assert eigenvalues[components - 1] < 1e-12 * scale
    assert eigenvalues[components] > 1e-6 * scale, (
        "only what is constant on each component is in the kernel"
    )


def test_reduced_cells_are_unions_and_keep_the_laplacian(domain: Domain) -> None:
    cells = domain.reduced
    np.testing.assert_array_equal(cells.membership.sum(axis=1), 1.0)
    np.testing.assert_allclose(cells.areas.sum(), float(domain.areas.sum()))
    dense = cells.stiffness.toarray()
    np.testing.assert_allclose(dense, dense.T)
    np.testing.assert_allclose(dense.sum(0), 0.0, atol=1e-9 * np.abs(dense).max())
    assert np.linalg.eigvalsh(dense).min() > -1e-9 * np.abs(dense).max()


def test_edges_are_symmetric_and_hold_what_the_stiffness_joins(domain: Domain) -> None:
    edges = set(map(tuple, domain.edge_index.T.tolist()))
    assert len(edges) == domain.edge_index.shape[1], "no edge stands twice"
    assert edges == {(j, i) for i, j in edges}
    assert not any(i == j for i, j in edges)
    row, column = domain.stiffness.nonzero()
    joined = {(i, j) for i, j in zip(row.tolist(), column.tolist(), strict=True) if i != j}
    assert joined <= edges
    assert domain.edge_length.shape == (domain.edge_index.shape[1],)


@pytest.mark.parametrize("name", sorted(set(CASES) - SPHERES))
def test_edge_lengths_are_distances(name: str) -> None:
    domain = CASES[name][0]
    start, end = domain.positions[domain.edge_index]
    torch.testing.assert_close(domain.edge_length, (end - start).norm(dim=1))


@pytest.mark.parametrize("name", sorted(SPHERES))
def test_edge_lengths_are_great_circle_distances(name: str) -> None:
    domain = CASES[name][0]
    start, end = domain.positions[domain.edge_index]
    torch.testing.assert_close(domain.positions.norm(dim=1), torch.ones(domain.num_nodes).double())
    # the sine of the angle from the cross product, accurate where the angle is small
    sine = torch.linalg.cross(start, end).norm(dim=1)
    torch.testing.assert_close(domain.edge_length.sin(), sine, atol=1e-14, rtol=1e-12)


@pytest.mark.parametrize("name", CASES)
def test_eigenbasis_solves_the_eigenproblem_and_is_orthonormal_by_area(name: str) -> None:
    domain = CASES[name][0]
    for k in (6, domain.num_nodes // 2):  # by Lanczos and densely
        values, vectors = domain.eigenbasis(k)
        assert (values.diff() >= 0).all()
        areas = domain.areas[:, None]
        torch.testing.assert_close(vectors.T @ (areas * vectors), torch.eye(k).double())
        residual = torch.from_numpy(domain.stiffness @ vectors.numpy()) - areas * vectors * values
        assert name in CONTINUOUS or residual.abs().max() < 1e-9 * values.max()
        assert (vectors.gather(0, vectors.abs().argmax(0)[None]) > 0).all()
        assert domain.eigenbasis(k)[1] is vectors, "it is computed once"
    few, many = domain.eigenbasis(6)[0], domain.eigenbasis(domain.num_nodes // 2)[0]
    torch.testing.assert_close(few, many[:6], atol=1e-9, rtol=1e-9)


@pytest.mark.parametrize("k", [0, 10**6])
def test_eigenbasis_refuses_what_does_not_exist(domain: Domain, k: int) -> None:
    with pytest.raises(InputError, match="choose k from 1"):
        domain.eigenbasis(k)


def test_pool_keeps_the_integral(domain: Domain) -> None:
    x = noise(2, 3, domain.num_nodes)
    pooled = domain.pool().double()(x)
    error = rounding(1, x.abs() @ domain.areas)  # the weights are kept in float32
    torch.testing.assert_close(
        pooled @ domain.coarse().areas, x @ domain.areas, rtol=0.0, atol=error
    )


def test_pool_inverts_unpool(domain: Domain) -> None:
    x = noise(2, 3, domain.coarse().num_nodes)
    error = rounding(4, x)  # shares are quotients of sums, kept in float32
    torch.testing.assert_close(domain.pool()(domain.unpool()(x)), x, rtol=0.0, atol=error)


def test_coarse_domains_cover_the_same_area_down_to_the_smallest(
    case: tuple[Domain, float],
) -> None:
    domain, area = case
    while domain.can_coarsen:
        coarse = domain.coarse()
        assert coarse.num_nodes < domain.num_nodes / 2
        assert coarse.areas.sum().item() == pytest.approx(area, rel=1e-13)
        domain = coarse
    with pytest.raises(InputError, match="cannot be coarsened"):
        domain.coarse()


@pytest.mark.parametrize("size", [3, 5])
def test_conv_has_an_exact_gradient_and_second_derivative(domain: Domain, size: int) -> None:
    """It is affine: <grad <y, conv(x)>, v> = <y, conv(v) - conv(0)>, linear in y and in v."""
    conv = domain.conv(2, 3, size).double()
    x, v = noise(2, 2, 2, domain.num_nodes)
    y = noise(2, 3, domain.num_nodes).requires_grad_()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad((y * conv(x)).sum(), x, create_graph=True)
    expected = conv(v) - conv(torch.zeros_like(v))
    torch.testing.assert_close((gradient * v).sum(), (y * expected).sum())
    (derivative,) = torch.autograd.grad((gradient * v).sum(), y)
    torch.testing.assert_close(derivative, expected)


def test_conv_with_kernel_size_one_acts_on_each_node(domain: Domain) -> None:
    conv = domain.conv(2, 3, kernel_size=1).double()
    x = noise(2, 2, domain.num_nodes)
    order = torch.randperm(domain.num_nodes, generator=seeded(0))
    torch.testing.assert_close(conv(x[..., order]), conv(x)[..., order])


def test_layers_keep_nothing_but_weights_in_their_state(domain: Domain) -> None:
    """And the weights fit any domain of the kind, so that they can be trained on a small one."""
    conv = domain.conv(2, 3)
    state = conv.state_dict()
    assert set(state) == {name for name, _ in conv.named_parameters()}
    domain.coarse().conv(2, 3).load_state_dict(state)
    x = noise(1, 2, domain.num_nodes).float()
    alike(copy.deepcopy(conv)(x), conv(x))
    assert not domain.pool().state_dict()
    assert not domain.unpool().state_dict()


def test_configuration_survives_json(domain: Domain) -> None:
    config = json.loads(json.dumps(domain.to_config()))
    again = domains.from_config(config)
    assert again == domain
    assert hash(again) == hash(domain)
    torch.testing.assert_close(again.areas, domain.areas, atol=0, rtol=0)


def test_cases_differ_from_each_other() -> None:
    for (a, _), (b, _) in itertools.combinations(CASES.values(), 2):
        assert a != b
        assert a.coarse() != a


@pytest.mark.parametrize("domain_class", domains.DOMAINS)
def test_examples_in_the_docstrings(domain_class: type[Domain]) -> None:
    failed, attempted = doctest.testmod(sys.modules[domain_class.__module__])
    assert not failed
    assert attempted


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ModelError, match="'moebius'.*knows: latlon, image, healpix, mesh, graph"):
        domains.from_config({"kind": "moebius"})


def test_signals_survive_the_graph_library(domain: Domain) -> None:
    signal = noise(2, domain.num_nodes)
    data = domain.to_data(signal)
    assert data.validate()
    assert data.num_nodes == domain.num_nodes
    assert not data.is_directed()
    torch.testing.assert_close(domain.from_data(data), signal, atol=0, rtol=0)


def test_signals_survive_the_batches_of_the_graph_library(domain: Domain) -> None:
    from torch_geometric.loader import DataLoader

    signals = noise(3, 2, domain.num_nodes)
    loader = DataLoader([domain.to_data(signal) for signal in signals], batch_size=2)
    batches = [domain.from_batch(batch) for batch in loader]
    assert [len(batch) for batch in batches] == [2, 1]
    torch.testing.assert_close(torch.cat(batches), signals, atol=0, rtol=0)
    batch = next(iter(loader))
    batch.x = batch.x[1:]
    with pytest.raises(InputError, match="batch of 2 graphs"):
        domain.from_batch(batch)


def test_tensors_go_to_a_device_and_the_domain_stays(domain: Domain) -> None:
    there = domain.to("meta", torch.float32)
    for name, tensor in there._asdict().items():
        own = getattr(domain, name)
        assert (tensor.device.type, tensor.shape) == ("meta", own.shape), name
        assert tensor.dtype == (torch.float32 if own.is_floating_point() else own.dtype), name
    assert torch.equal(domain.to("cpu").areas, domain.areas)
    assert domain.areas.device.type == "cpu"
    data = domain.to_data(torch.zeros(2, domain.num_nodes, device="meta"))
    assert all(data[name].device.type == "meta" for name in ("x", "pos", "edge_index", "edge_attr"))


def test_graph_conversion_refuses_other_shapes(domain: Domain) -> None:
    with pytest.raises(InputError, match=r"\(channel, node\)"):
        domain.to_data(noise(1, 2, domain.num_nodes))
    data = domain.to_data(noise(2, domain.num_nodes))
    assert data.x is not None
    data.x = data.x[1:]
    with pytest.raises(InputError, match="to_data"):
        domain.from_data(data)


NETWORKS: dict[str, Callable[[Domain], nn.Module]] = {
    "unet": lambda domain: UNet(domain, 2, 1, width=8, depth=2, zero_init=False),
    "function-space": lambda domain: FunctionSpaceNet(
        domain, 2, 1, width=16, modes=9, latents=8, layers=1, zero_init=False
    ),
}


@pytest.mark.parametrize("network", NETWORKS)
def test_a_network_learns_on_every_domain(domain: Domain, network: str) -> None:
    """A step along the gradient lowers the loss, by what the gradient's length says it will."""
    seed_weights(0)
    unet = NETWORKS[network](domain).double()
    x, target = noise(2, 2, domain.num_nodes), noise(2, 1, domain.num_nodes)
    loss = (unet(x) - target).square().mean()
    loss.backward()
    square = 0.0
    for parameter in unet.parameters():
        assert parameter.grad is not None
        square += parameter.grad.square().sum().item()
        parameter.data -= 1e-5 * parameter.grad
    fall = loss - (unet(x) - target).square().mean()
    assert fall.item() == pytest.approx(1e-5 * square, rel=0.05)


@pytest.mark.parametrize("size", [0, 2, -3])
def test_conv_refuses_kernels_without_a_middle(domain: Domain, size: int) -> None:
    with pytest.raises(InputError, match=f"kernel_size {size}"):
        domain.conv(1, 1, size)


def test_colours_are_balanced_and_touch_each_other(domain: Domain) -> None:
    """Either colour has half of the nodes, give or take a tenth, and tells of the other's."""
    colouring = domain.colouring
    assert colouring.dtype == torch.bool
    assert abs(colouring.double().mean().item() - 0.5) < 0.1
    start, end = domain.edge_index
    unlike = torch.zeros(domain.num_nodes).index_add_(
        0, start, (colouring[start] != colouring[end]).float()
    )
    assert (unlike > 0).all()


def test_features_are_of_order_one(domain: Domain) -> None:
    assert domain.features.dtype == torch.float32
    assert domain.features.shape[1] == domain.num_nodes
    assert 0.1 < domain.features.abs().max() <= 1
