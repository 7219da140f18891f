"""What every domain promises."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo import domains
from apsgeo.domains import Domain, LatLonDomain
from apsgeo.errors import InputError, ModelError

SPHERE = 4 * math.pi


def global_grid(rows: int, columns: int, *, poles: bool = True) -> LatLonDomain:
    edge = 90.0 if poles else 90.0 - 90.0 / rows
    return LatLonDomain(np.linspace(edge, -edge, rows), np.arange(columns) * 360 / columns)


def gaussian_grid(rows: int, columns: int) -> LatLonDomain:
    nodes, _ = np.polynomial.legendre.leggauss(rows)
    return LatLonDomain(np.rad2deg(np.arcsin(nodes)), np.arange(columns) * 360 / columns - 180)


def box_area(south: float, north: float, width: float) -> float:
    return math.radians(width) * (math.sin(math.radians(north)) - math.sin(math.radians(south)))


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
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> tuple[Domain, float]:
    return CASES[request.param]


@pytest.fixture
def domain(case: tuple[Domain, float]) -> Domain:
    return case[0]


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


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
    assert eigenvalues[1] > 1e-6 * scale, (
        "the domain is connected: only constants are in the kernel"
    )


def test_edges_are_the_couples_that_the_stiffness_joins(domain: Domain) -> None:
    edges = set(map(tuple, domain.edge_index.T.tolist()))
    row, column = domain.stiffness.nonzero()
    assert len(edges) == domain.edge_index.shape[1], "no edge stands twice"
    assert edges == {(i, j) for i, j in zip(row.tolist(), column.tolist(), strict=True) if i != j}


def test_edge_lengths_are_great_circle_distances(domain: Domain) -> None:
    start, end = domain.positions[domain.edge_index]
    torch.testing.assert_close(domain.positions.norm(dim=1), torch.ones(domain.num_nodes).double())
    # the sine of the angle from the cross product, accurate where the angle is small
    sine = torch.linalg.cross(start, end).norm(dim=1)
    torch.testing.assert_close(domain.edge_length.sin(), sine, atol=1e-14, rtol=1e-12)


def test_eigenbasis_solves_the_eigenproblem_and_is_orthonormal_by_area(domain: Domain) -> None:
    for k in (6, domain.num_nodes // 2):  # by Lanczos and densely
        values, vectors = domain.eigenbasis(k)
        assert (values.diff() >= 0).all()
        areas = domain.areas[:, None]
        torch.testing.assert_close(vectors.T @ (areas * vectors), torch.eye(k).double())
        residual = torch.from_numpy(domain.stiffness @ vectors.numpy()) - areas * vectors * values
        assert residual.abs().max() < 1e-9 * values.max()
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
    torch.testing.assert_close(
        pooled @ domain.coarse().areas, x @ domain.areas, atol=1e-6, rtol=1e-6
    )


def test_pool_inverts_unpool(domain: Domain) -> None:
    x = noise(2, 3, domain.coarse().num_nodes)
    torch.testing.assert_close(domain.pool()(domain.unpool()(x)), x, atol=1e-6, rtol=0)


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
    order = torch.randperm(domain.num_nodes, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(conv(x[..., order]), conv(x)[..., order])


def test_layers_keep_nothing_but_weights_in_their_state(domain: Domain) -> None:
    shapes = [tuple(v.shape) for v in domain.conv(2, 3).state_dict().values()]
    assert sorted(map(len, shapes)) == [1, 4]
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


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ModelError, match="'moebius'.*knows: latlon"):
        domains.from_config({"kind": "moebius"})


def test_signals_survive_the_graph_library(domain: Domain) -> None:
    signal = noise(2, domain.num_nodes)
    data = domain.to_data(signal)
    assert data.validate()
    assert data.num_nodes == domain.num_nodes
    assert not data.is_directed()
    torch.testing.assert_close(domain.from_data(data), signal, atol=0, rtol=0)


def test_graph_conversion_refuses_other_shapes(domain: Domain) -> None:
    with pytest.raises(InputError, match=r"\(channel, node\)"):
        domain.to_data(noise(1, 2, domain.num_nodes))
    data = domain.to_data(noise(2, domain.num_nodes))
    assert data.x is not None
    data.x = data.x[1:]
    with pytest.raises(InputError, match="to_data"):
        domain.from_data(data)


def test_features_are_of_order_one(domain: Domain) -> None:
    assert domain.features.dtype == torch.float32
    assert domain.features.shape[1] == domain.num_nodes
    assert 0.1 < domain.features.abs().max() <= 1
