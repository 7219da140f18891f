"""The facts of latitude-longitude grids."""

import itertools
import math

import numpy as np
import pytest
import scipy.sparse
import scipy.sparse.linalg
import torch
from torch import Tensor

from apsgeo.domains import LatLonDomain
from apsgeo.domains.interpolation import interpolation
from apsgeo.errors import GridError, InputError
from tests.cases import alike, noise


def global_grid(rows: int, columns: int, *, poles: bool = True) -> LatLonDomain:
    edge = 90.0 if poles else 90.0 - 90.0 / rows
    return LatLonDomain(np.linspace(edge, -edge, rows), np.arange(columns) * 360 / columns)


def gaussian_grid(rows: int, columns: int) -> LatLonDomain:
    nodes, _ = np.polynomial.legendre.leggauss(rows)
    return LatLonDomain(np.rad2deg(np.arcsin(nodes)), np.arange(columns) * 360 / columns - 180)


GRIDS = {
    "poles": global_grid(13, 24),
    "no-poles": global_grid(12, 24, poles=False),
    "gaussian-ascending": gaussian_grid(10, 20),
    "odd-columns": global_grid(11, 15),
    "regional": LatLonDomain(np.arange(60.0, 32.0, -2.5), np.arange(-10.0, 16.0, 2.5)),
}


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


def test_edges_are_the_couples_that_the_stiffness_joins() -> None:
    for domain in GRIDS.values():
        edges = set(map(tuple, domain.edge_index.T.tolist()))
        row, column = (index.tolist() for index in domain.stiffness.nonzero())
        assert edges == {(i, j) for i, j in zip(row, column, strict=True) if i != j}


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


@pytest.mark.parametrize("name", GRIDS)
def test_descending_and_ascending_latitudes_agree(name: str) -> None:
    domain = GRIDS[name]
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
    domain = GRIDS[name]
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
    domain = GRIDS["regional"]
    x = noise(1, domain.num_nodes)
    grid = x.unflatten(1, domain.shape)
    for rows, columns in itertools.product([-1, 0, 2], [-2, 0, 1]):
        i = (torch.arange(domain.shape[0]) + rows).clamp(0, domain.shape[0] - 1)
        j = (torch.arange(domain.shape[1]) + columns).clamp(0, domain.shape[1] - 1)
        alike(shifted(domain, x, rows, columns), grid[:, i][:, :, j].flatten(1))


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


def test_uneven_columns_close_round_the_globe() -> None:
    domain = LatLonDomain([-30.0, 30.0], [0.0, 100.0, 200.0, 300.0])
    assert domain.is_global
    assert domain.lon_bounds.tolist() == [-30, 50, 150, 250, 330]
    # across the seam the nodes of a row are 60 degrees apart, elsewhere 100
    conductance = -domain.stiffness.toarray()[0, [1, 3]]
    assert conductance[1] / conductance[0] == pytest.approx(100 / 60)
    wide_seam = LatLonDomain([-30.0, 30.0], [0.0, 60.0, 160.0, 260.0])
    assert wide_seam.lon_bounds.tolist() == [-50, 30, 110, 210, 310]


def test_grids_are_equal_up_to_single_precision() -> None:
    lat, lon = np.linspace(-89.3, 89.3, 19), np.arange(0, 360, 360 / 37)
    domain = LatLonDomain(lat, lon)
    assert domain == LatLonDomain(lat.astype(np.float32), lon.astype(np.float32))
    assert domain != LatLonDomain(lat, lon - 180)
    assert domain != LatLonDomain(lat[::-1], lon)
    assert domain != LatLonDomain(lat + 0.01, lon)
    assert domain != LatLonDomain(lat, lon, [-90, *domain.lat_bounds[1:-1] + 0.1, 90])
    assert domain != LatLonDomain(lat, lon, None, domain.lon_bounds + 1)
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


def test_reduced_grid_has_the_eigenvalues_of_the_sphere() -> None:
    """l(l + 1), each 2 l + 1 times, although the cells near the poles are merged."""
    grid = LatLonDomain(np.linspace(90, -90, 73), np.arange(0, 360, 2.5))
    cells = grid.reduced
    assert cells.membership.shape == (73 * 144, len(cells.areas))
    assert len(cells.areas) < 0.95 * grid.num_nodes
    inverse_root = scipy.sparse.diags_array(cells.areas**-0.5)
    scaled = inverse_root @ cells.stiffness @ inverse_root
    values = scipy.sparse.linalg.eigsh(scaled, 25, sigma=-1.0, return_eigenvectors=False)
    degree = np.repeat(np.arange(5), 2 * np.arange(5) + 1)
    np.testing.assert_allclose(np.sort(values), degree * (degree + 1), rtol=0.004, atol=1e-9)


def test_reduced_grid_has_no_cells_narrower_than_half_the_spacing() -> None:
    grid = LatLonDomain(np.linspace(89.5, -89.5, 180), np.arange(0.5, 360, 1.0))
    width = grid.reduced.areas / np.deg2rad(1.0)
    assert width.min() > 0.499 * np.deg2rad(1.0)
    assert len(LatLonDomain(np.linspace(50, 40, 11), np.arange(30.0)).reduced.areas) == 330


def test_reduced_grid_holds_a_pole_as_one_cell() -> None:
    grid = LatLonDomain(np.linspace(90, -90, 19), np.arange(0, 360, 10.0))
    membership = grid.reduced.membership
    assert set(membership[:36].indices) == {0}
    assert len(set(membership[-36:].indices)) == 1


@pytest.mark.parametrize("turn", [0.0, 360.0, -360.0])
def test_interpolation_at_a_node_is_its_value_alone(turn: float) -> None:
    domain = GRIDS["no-poles"]
    lat, lon = np.meshgrid(domain.lat, domain.lon, indexing="ij")
    matrix = interpolation(domain, np.stack([lat.ravel(), lon.ravel() + turn], 1))
    assert matrix.nnz == domain.num_nodes
    assert (matrix.diagonal() == 1.0).all()  # rounding of the direction is no weight
