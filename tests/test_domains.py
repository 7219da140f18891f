"""What every domain promises, and the facts of latitude-longitude grids."""

import itertools
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo import domains
from apsgeo.domains import Domain, LatLonDomain
from apsgeo.errors import GridError, InputError, ModelError

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


# ---------------------------------------------------------------- every domain


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


# ---------------------------------------------------------------- latitude-longitude grids


def test_two_by_four_grid_by_hand() -> None:
    domain = LatLonDomain([45.0, -45.0], [0.0, 90.0, 180.0, 270.0])
    torch.testing.assert_close(domain.areas, torch.full((8,), math.pi / 2).double())
    dense = domain.stiffness.toarray()
    # equator: face pi/2 long, nodes pi/2 apart. Meridian: face pi/2 long, and the mean of
    # cos(latitude) over the row, 2/pi, times pi/2 apart: pi/2.
    assert dense[0, 4] == pytest.approx(-1)
    assert dense[0, 1] == dense[0, 3] == pytest.approx(-math.pi / 2)
    assert dense[0, 2] == dense[0, 5] == 0
    torch.testing.assert_close(domain.edge_length[:4], torch.full((4,), math.pi / 3).double())
    assert domain.colouring.tolist() == [True, False, True, False, False, True, False, True]
    assert domain.radius_km == 6371.0


def test_laplacian_eigenvalues_converge_to_those_of_the_sphere() -> None:
    """They are l (l + 1), 2 l + 1 times each; the error falls with the square of the spacing."""
    exact = torch.tensor([l * (l + 1) for l in range(4) for _ in range(2 * l + 1)]).double()
    errors = [
        (global_grid(rows, columns).eigenbasis(16)[0] - exact).abs().max().item()
        for rows, columns in ((19, 36), (37, 72))
    ]
    assert errors[1] < 0.12
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.2)


def test_laplacian_of_a_linear_function_on_a_gaussian_grid() -> None:
    """Coordinates are eigenfunctions on the sphere: the Laplacian of z is -2 z."""
    errors = []
    for rows in (16, 32):
        domain = gaussian_grid(rows, 2 * rows)
        z = domain.positions[:, 2].numpy()
        laplacian = -(domain.stiffness @ z) / domain.areas.numpy()
        errors.append(math.sqrt((domain.areas.numpy() * (laplacian + 2 * z) ** 2).sum()))
    assert errors[1] < 0.1
    assert errors[1] < errors[0] / 1.8


def test_ncep_pyramid_is_symmetric_about_the_equator() -> None:
    domain = global_grid(73, 144)
    shapes = []
    while domain.can_coarsen and domain.shape[0] > 9:
        domain = domain.coarse()
        shapes.append(domain.shape)
        np.testing.assert_allclose(domain.lat, -domain.lat[::-1], atol=1e-12)
        np.testing.assert_allclose(domain.lat_bounds[[0, -1]], [90, -90])
    assert shapes == [(37, 72), (19, 36), (9, 18)]


@pytest.mark.parametrize("name", CASES)
def test_descending_and_ascending_latitudes_agree(name: str) -> None:
    domain = CASES[name][0]
    assert isinstance(domain, LatLonDomain)
    flipped = LatLonDomain(domain.lat[::-1], domain.lon)

    def flip(x: Tensor, shape: tuple[int, int]) -> Tensor:
        return x.unflatten(-1, shape).flip(-2).flatten(-2)

    torch.testing.assert_close(flip(domain.areas, domain.shape), flipped.areas)
    torch.testing.assert_close(domain.eigenbasis(6)[0], flipped.eigenbasis(6)[0])
    np.testing.assert_allclose(domain.coarse().lat[::-1], flipped.coarse().lat, atol=1e-12)

    x = noise(2, 3, domain.num_nodes)
    pooled = domain.pool()(x)
    torch.testing.assert_close(
        flip(pooled, domain.coarse().shape), flipped.pool()(flip(x, domain.shape))
    )
    torch.testing.assert_close(
        flip(domain.unpool()(pooled), domain.shape),
        flipped.unpool()(flip(pooled, domain.coarse().shape)),
    )
    conv, mirrored = domain.conv(3, 2, 5).double(), flipped.conv(3, 2, 5).double()
    weight, bias = conv.parameters()
    mirrored.load_state_dict(dict(zip(mirrored.state_dict(), (weight.flip(2), bias), strict=True)))
    torch.testing.assert_close(flip(conv(x), domain.shape), mirrored(flip(x, domain.shape)))


@pytest.mark.parametrize("name", ["poles", "no-poles", "gaussian-ascending", "odd-columns"])
def test_layers_commute_with_rotation_in_longitude(name: str) -> None:
    domain = CASES[name][0]
    assert isinstance(domain, LatLonDomain)
    x = noise(2, 3, domain.num_nodes)

    def roll(x: Tensor, shape: tuple[int, int], shift: int) -> Tensor:
        return x.unflatten(-1, shape).roll(shift, -1).flatten(-2)

    conv = domain.conv(3, 2, 5).double()
    for shift in (1, 2, 7):
        torch.testing.assert_close(
            conv(roll(x, domain.shape, shift)),
            roll(conv(x), domain.shape, shift),
            atol=1e-13,
            rtol=1e-13,
        )
    if domain.shape[1] % 2 == 0:
        coarse = domain.coarse()
        pooled = domain.pool()(x)
        rolled = roll(pooled, coarse.shape, 1)
        torch.testing.assert_close(domain.pool()(roll(x, domain.shape, 2)), rolled)
        torch.testing.assert_close(
            domain.unpool()(rolled), roll(domain.unpool()(pooled), domain.shape, 2)
        )


def shifted(domain: LatLonDomain, signal: Tensor, rows: int, columns: int) -> Tensor:
    """Read each node's neighbour so many rows and columns on, with a convolution."""
    size = 2 * max(abs(rows), abs(columns)) + 1
    conv = domain.conv(1, 1, size).double()
    weight = torch.zeros(1, 1, size, size).double()
    weight[0, 0, size // 2 + rows, size // 2 + columns] = 1
    names = list(conv.state_dict())
    conv.load_state_dict(dict(zip(names, (weight, torch.zeros(1).double()), strict=True)))
    return conv(signal[:, None])[:, 0]


@pytest.mark.parametrize("poles", [True, False])
@pytest.mark.parametrize("offset", list(itertools.product([-2, -1, 0, 2], [-1, 0, 2])))
def test_convolution_goes_over_the_poles(poles: bool, offset: tuple[int, int]) -> None:
    """Beyond 90 degrees, cos(latitude) is negative: the same formula gives the point across."""
    domain = global_grid(9, 12, poles=poles)
    rows, columns = offset
    step = domain.lat[1] - domain.lat[0]
    lat = torch.from_numpy(np.deg2rad(domain.lat + rows * step))[:, None]
    lon = torch.from_numpy(np.deg2rad(domain.lon + columns * 30.0))
    expected = torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin() + 0 * lon])
    actual = shifted(domain, domain.positions.T, rows, columns)
    torch.testing.assert_close(actual, expected.flatten(1), atol=1e-13, rtol=0)


def test_convolution_over_the_poles_of_an_odd_grid_takes_the_mean_of_the_two_nearest() -> None:
    domain = global_grid(8, 9, poles=False)
    x = noise(1, domain.num_nodes)
    grid = x.unflatten(1, domain.shape)
    north = shifted(domain, x, -1, 0).unflatten(1, domain.shape)[0, 0]
    for j in range(9):
        assert north[j].item() == pytest.approx(
            grid[0, 0, [(j + 4) % 9, (j + 5) % 9]].mean().item()
        )


def test_convolution_repeats_the_border_of_a_region() -> None:
    domain = CASES["regional"][0]
    assert isinstance(domain, LatLonDomain)
    x = noise(1, domain.num_nodes)
    grid = x.unflatten(1, domain.shape)
    for rows, columns in itertools.product([-1, 0, 2], [-2, 0, 1]):
        i = (torch.arange(domain.shape[0]) + rows).clamp(0, domain.shape[0] - 1)
        j = (torch.arange(domain.shape[1]) + columns).clamp(0, domain.shape[1] - 1)
        torch.testing.assert_close(
            shifted(domain, x, rows, columns), grid[:, i][:, :, j].flatten(1), atol=0, rtol=0
        )


@pytest.mark.parametrize("size", [2, 0, -1, 15])
def test_convolution_refuses_sizes_that_do_not_fit(size: int) -> None:
    with pytest.raises(InputError, match="odd and at most 13"):
        global_grid(13, 24).conv(1, 1, size)


def test_cells_reach_the_pole_only_where_no_row_fits_before_it() -> None:
    lon = np.arange(0, 360, 30.0)
    assert LatLonDomain([87.5, 85.0, 82.5], lon).lat_bounds[0] == 88.75
    assert LatLonDomain([88.75, 86.25, 83.75], lon).lat_bounds[0] == 90
    assert LatLonDomain([90.0, 87.5, 85.0], lon).lat_bounds[0] == 90
    assert gaussian_grid(8, 16).lat_bounds[[0, -1]].tolist() == [-90, 90]


@pytest.mark.parametrize(
    ("lon", "is_global"),
    [
        (np.arange(0, 360, 2.5), True),
        (np.arange(-180, 180, 2.5), True),
        (np.arange(0, 360, 0.1).astype(np.float32), True),
        (np.arange(0, 357.5, 2.5), False),
        (np.arange(-30, 60, 2.5), False),
    ],
)
def test_a_grid_is_global_if_its_columns_go_round(lon: np.ndarray, is_global: bool) -> None:
    domain = LatLonDomain(np.arange(-60, 61, 20.0), lon)
    assert domain.is_global == is_global
    assert repr(domain).endswith("global)" if is_global else "regional)")


def test_grids_are_equal_up_to_single_precision() -> None:
    lat, lon = np.linspace(-89.3, 89.3, 19), np.arange(0, 360, 360 / 37)
    domain = LatLonDomain(lat, lon)
    assert domain == LatLonDomain(lat.astype(np.float32), lon.astype(np.float32))
    assert domain != LatLonDomain(lat, lon - 180)
    assert domain != LatLonDomain(lat[::-1], lon)
    assert domain != LatLonDomain(lat + 0.01, lon)
    assert domain != "LatLonDomain"


LAT, LON = np.linspace(-60, 60, 5), np.arange(0, 360, 60.0)


@pytest.mark.parametrize(
    ("lat", "lon", "message"),
    [
        ([0.0, 30.0, 20.0], LON, "latitude neither ascends nor descends"),
        ([0.0, 30.0, 30.0], LON, "latitude 30 is given twice"),
        ([0.0, np.nan, 30.0], LON, "latitude has 1 non-finite"),
        ([60.0, 90.0, 120.0], LON, "latitude runs from 60 to 120"),
        ([0.0], LON, r"latitude has shape \(1,\)"),
        (np.zeros((2, 2)), LON, r"latitude has shape \(2, 2\)"),
        (LAT, [0.0, 90.0, 180.0, -90.0], "longitude neither ascends nor descends"),
        (LAT, LON[::-1], "longitude descends from 300 to 0"),
        (LAT, np.arange(0, 361, 60.0), "columns that are given twice"),
        (LAT, np.arange(0, 421, 60.0), "columns that are given twice"),
        (LAT, [0.0, np.inf], "longitude has 1 non-finite"),
        (LAT, [0.0, 1000.0], "longitude runs from 0 to 1000"),
    ],
)
def test_bad_coordinates_are_refused(lat: np.ndarray, lon: np.ndarray, message: str) -> None:
    with pytest.raises(GridError, match=message):
        LatLonDomain(lat, lon)


@pytest.mark.parametrize(
    ("lat_bounds", "lon_bounds", "message"),
    [
        ([-75.0, 75.0], None, "latitude bounds: 2 edges were given, 6 are needed"),
        (np.linspace(75, -75, 6), None, "latitude bounds do not enclose"),
        (None, np.arange(0, 361, 60.0) + 10, "longitude bounds do not enclose"),
        (None, [-30, 30, 90, 150, 210, 270, 340], "the columns span 370 degrees"),
    ],
)
def test_bad_bounds_are_refused(
    lat_bounds: np.ndarray | None, lon_bounds: np.ndarray | None, message: str
) -> None:
    with pytest.raises(GridError, match=message):
        LatLonDomain(LAT, LON, lat_bounds, lon_bounds)
