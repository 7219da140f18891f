"""What regridding keeps, and how fast it converges."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo.domains import (
    Domain,
    GraphDomain,
    HEALPixDomain,
    ImageDomain,
    LatLonDomain,
    MeshDomain,
)
from apsgeo.domains.regrid import bilinear, conservative
from apsgeo.errors import InputError
from tests.cases import noise


def grid(rows: int, columns: int, *, poles: bool = True) -> LatLonDomain:
    edge = 90.0 if poles else 90.0 - 90.0 / rows
    return LatLonDomain(np.linspace(edge, -edge, rows), np.arange(columns) * 360 / columns - 180)


def smooth(domain: Domain) -> Tensor:
    x, y, z = domain.positions.T
    return 1 + x * y + z**3 + 0.5 * torch.sin(3 * x)


SOURCES = {
    "poles": grid(19, 36),
    "no-poles": grid(18, 36, poles=False),
    "ascending": LatLonDomain(np.arange(-87.0, 88.0, 6.0), np.arange(3.0, 360.0, 6.0)),
    "healpix": HEALPixDomain(8),
    "healpix-ring": HEALPixDomain(8, nest=False),
}


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_bilinear_gives_the_nodes_their_own_values(source: Domain) -> None:
    regridder = bilinear(source, source)
    signal = smooth(source)
    torch.testing.assert_close(regridder.apply(signal), signal, atol=1e-12, rtol=0)
    if isinstance(source, HEALPixDomain):
        np.testing.assert_allclose(regridder.matrix.toarray(), np.eye(768), atol=1e-9)


@pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)
def test_bilinear_weights_are_positive_and_sum_to_one(source: Domain) -> None:
    points = noise(500, 3)
    points[:2] = torch.tensor([[0.0, 0, 2], [0, 0, -1]])
    matrix = bilinear(source, points).matrix
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    assert matrix.min() >= 0
    assert (np.diff(matrix.indptr)[2:] <= 60 + 2).all()


@pytest.mark.parametrize("poles", [True, False])
def test_bilinear_from_a_grid_converges_with_the_square_of_the_spacing(poles: bool) -> None:
    target = HEALPixDomain(16)
    errors = []
    for n in (1, 2):
        source = grid(18 * n + poles, 36 * n, poles=poles)
        errors.append((bilinear(source, target).apply(smooth(source)) - smooth(target)).square())
    ratio = (errors[0].mean() / errors[1].mean()).sqrt().item()
    assert ratio == pytest.approx(4, abs=0.4)
    assert errors[1].max().sqrt() < 0.01


def test_bilinear_from_healpix_converges() -> None:
    target = grid(37, 72)
    errors = []
    for nside in (8, 16, 32):
        source = HEALPixDomain(nside)
        errors.append((bilinear(source, target).apply(smooth(source)) - smooth(target)).square())
    rms = [error.mean().sqrt().item() for error in errors]
    assert rms[0] / rms[1] > 3
    assert rms[1] / rms[2] > 3


def test_bilinear_from_a_grid_is_exact_for_fields_linear_in_latitude_or_longitude() -> None:
    source = LatLonDomain([10.0, 14, 20, 28], [350.0, 355, 365, 380])
    lat, lon = torch.tensor([[12.0, 14, 27.5, 17], [352, 360.5 - 360, 379 - 360, 5]]).double()
    phi, lam = lat.deg2rad(), lon.deg2rad()
    points = torch.stack([phi.cos() * lam.cos(), phi.cos() * lam.sin(), phi.sin()], 1)
    regridder = bilinear(source, points)
    rows = torch.from_numpy(np.repeat(source.lat, 4))
    columns = torch.from_numpy(np.tile(source.lon, 4))
    torch.testing.assert_close(regridder.apply(rows), lat)
    expected = torch.where(lon < 300, lon + 360, lon)
    torch.testing.assert_close(regridder.apply(columns), expected)


@pytest.mark.parametrize("name", ["no-poles", "ascending"])
def test_beyond_the_last_row_at_a_pole_stands_its_mean(name: str) -> None:
    source = SOURCES[name]
    assert isinstance(source, LatLonDomain)
    signal = noise(source.num_nodes)
    south_row, north_row = signal.unflatten(-1, source.shape)[[0, -1]]
    if source.lat[0] > source.lat[-1]:
        south_row, north_row = north_row, south_row
    between = (90 + source.lat.max()) / 2
    points = GraphDomain.from_latlon([-90, 90, between], [0, 0, source.lon[3]], k=1).positions
    south, north, near = bilinear(source, points).apply(signal)
    torch.testing.assert_close(south, south_row.mean())
    torch.testing.assert_close(north, north_row.mean())
    torch.testing.assert_close(near, (north_row.mean() + north_row[3]) / 2)


def test_beyond_a_region_there_is_nothing() -> None:
    source = LatLonDomain([10.0, 20], [0.0, 10])
    points = GraphDomain.from_latlon([15, 4.9, 15, 24, 5.1], [5, 5, 16, -4, 14.9], k=1).positions
    result = bilinear(source, points).apply(torch.arange(4.0))
    assert result.isnan().tolist() == [False, True, True, False, False]
    part = HEALPixDomain(4, True, np.arange(16))
    result = bilinear(part, HEALPixDomain(4)).apply(torch.ones(16))
    assert (~result.isnan()).nonzero().flatten().tolist() == list(range(16))


def test_a_function_on_the_sphere_at_the_nodes_of_a_mesh() -> None:
    corners = np.concatenate([np.eye(3), -np.eye(3)]) * 2.0
    faces = [[x, y, z] for x in (0, 3) for y in (1, 4) for z in (2, 5)]
    mesh = MeshDomain(corners, faces)
    x, y, z = HEALPixDomain(64).positions.T
    result = bilinear(HEALPixDomain(64), mesh).apply(torch.stack([x, y, z]))
    torch.testing.assert_close(result, mesh.positions.T / 2, atol=1e-3, rtol=0)


GRIDS = {
    "poles": grid(19, 36),
    "no-poles": grid(30, 60, poles=False),
    "fine": grid(91, 180),
    "ascending": LatLonDomain(np.arange(-87.0, 88.0, 6.0), np.arange(3.0, 360.0, 6.0)),
}


@pytest.mark.parametrize("cells", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("sphere", [HEALPixDomain(8), HEALPixDomain(16, nest=False)])
def test_conservative_keeps_constants_and_the_integral(
    cells: LatLonDomain, sphere: HEALPixDomain
) -> None:
    for source, target in ((cells, sphere), (sphere, cells)):
        matrix = conservative(source, target).matrix
        np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
        assert matrix.data.min() > 0
        share = matrix.T @ target.areas.numpy()
        np.testing.assert_allclose(share, source.areas, rtol=1e-4)


@pytest.mark.parametrize("source", GRIDS.values(), ids=GRIDS)
@pytest.mark.parametrize("target", GRIDS.values(), ids=GRIDS)
def test_conservative_between_grids_keeps_each_share(
    source: LatLonDomain, target: LatLonDomain
) -> None:
    matrix = conservative(source, target).matrix
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    np.testing.assert_allclose(matrix.T @ target.areas.numpy(), source.areas, rtol=1e-10)


@pytest.mark.parametrize("nest", [True, False])
def test_conservative_between_pixels_averages_those_within(nest: bool) -> None:
    fine, coarse = HEALPixDomain(8), HEALPixDomain(2, nest=nest)
    values = noise(fine.num_nodes)
    found = conservative(fine, coarse).apply(values)
    order = torch.from_numpy(coarse.node_at(HEALPixDomain(2).positions.numpy()))
    torch.testing.assert_close(found[order], values.reshape(-1, 16).mean(1))
    back = conservative(coarse, fine).apply(found)
    torch.testing.assert_close(back.reshape(-1, 16), found[order][:, None].expand(-1, 16))


def test_conservative_between_grids_by_hand() -> None:
    source = LatLonDomain([-45.0, 45.0], [0.0, 90.0, 180.0, 270.0])
    # cells from 45 to 135 and so on; a band from 30 to the pole has half the hemisphere's area
    target = LatLonDomain([60.0, 0.0, -60.0], [90.0, 270.0], [90, 30, -30, -90], [0, 180, 360])
    expected = np.zeros((3, 2, 2, 4))
    expected[0, :, 1], expected[2, :, 0] = np.array([[1, 2, 1, 0], [1, 0, 1, 2]]) / 4, 0
    expected[2, :, 0] = expected[0, :, 1]
    expected[1, :, 0] = expected[1, :, 1] = expected[0, :, 1] / 2
    found = conservative(source, target).matrix.toarray()
    np.testing.assert_allclose(found, expected.reshape(6, 8), atol=1e-12)


def test_conservative_onto_a_part_and_beyond() -> None:
    source = LatLonDomain(np.arange(45.0, 61.0, 1), np.arange(350.0, 371.0, 1))
    inside = LatLonDomain([50.0, 54.0], [-4.0, 0.0, 4.0])
    matrix = conservative(source, inside).matrix
    np.testing.assert_allclose(matrix.sum(axis=1), 1, atol=1e-12)
    share = matrix.T @ inside.areas.numpy()
    assert (share <= source.areas.numpy() * (1 + 1e-12)).all()
    beyond = LatLonDomain([52.0, 56.0, 60.0, 64.0], [-4.0, 0.0, 4.0])
    found = conservative(source, beyond).apply(torch.ones(source.num_nodes)).reshape(4, 3)
    assert torch.isnan(found[3]).all()
    np.testing.assert_allclose(found[:3], 1, atol=1e-6)


def test_conservative_by_hand() -> None:
    """Base pixel 0 is a quarter of the cap with sin(latitude) > 2/3, and a tongue below it."""
    edge = math.degrees(math.asin(2 / 3))
    cells = LatLonDomain(
        [60.0, 20, -45], [45.0, 135, 225, 315], [90, edge, 0, -90], [0, 90, 180, 270, 360]
    )
    to_cells = conservative(HEALPixDomain(1), cells).matrix.toarray()
    np.testing.assert_array_equal(to_cells[:4, :4], np.eye(4))
    to_pixels = conservative(cells, HEALPixDomain(1)).matrix.toarray()
    # the cap's quarter is 2 pi / 4 (1 - 2/3) = pi / 6 of the pixel's area, pi / 3
    np.testing.assert_allclose(to_pixels[0, [0, 4]], 0.5, atol=1e-3)
    np.testing.assert_allclose(to_pixels[0, [1, 5, 8]], 0, atol=1e-3)


def test_conservative_agrees_with_finer_cells_within_what_it_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from apsgeo.domains import regrid

    cells, sphere = grid(37, 72), HEALPixDomain(8)
    for source, target in ((cells, sphere), (sphere, cells)):
        coarse = conservative(source, target)
        with monkeypatch.context() as patch:
            patch.setattr(regrid, "_SAMPLES", 48)
            fine = conservative(source, target)
        for signal, limit in ((noise(source.num_nodes), 0.03), (smooth(source), 0.003)):
            error = (coarse.apply(signal) - fine.apply(signal)).square().mean().sqrt()
            assert error < limit * signal.std()


def test_conservative_averages_smooth_fields() -> None:
    """The mean over a cell differs from the value at its centre by the square of its size."""
    fine = grid(91, 180)
    errors = []
    for nside in (4, 8):
        sphere = HEALPixDomain(nside)
        difference = conservative(fine, sphere).apply(smooth(fine)) - smooth(sphere)
        errors.append(difference.square().mean().sqrt().item())
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(4, abs=1)


def test_conservative_over_a_part_says_nothing_of_cells_less_than_half_covered() -> None:
    region = LatLonDomain(np.arange(2.5, 40, 5), np.arange(2.5, 40, 5))
    sphere = HEALPixDomain(8)
    onto = conservative(region, sphere).apply(torch.ones(region.num_nodes).double())
    there = ~onto.isnan()
    count = (region.areas.sum() / sphere.areas[0]).item()
    assert there.sum().item() == pytest.approx(count, rel=0.15)
    torch.testing.assert_close(onto[there], torch.ones(int(there.sum())).double())
    back = conservative(HEALPixDomain(8, True, np.flatnonzero(there)), region)
    assert 0 < back.apply(torch.ones(int(there.sum()))).isnan().sum() < region.num_nodes / 2


def test_missing_values_are_left_out() -> None:
    source = LatLonDomain([-30.0, 30], [0.0, 10])
    regridder = bilinear(source, GraphDomain.from_latlon([0, 15], [5, 5], k=1))
    signal = torch.tensor([[1.0, 2, 3, 4], [math.nan, 2, 3, 4], [math.nan, math.nan, 3, 4]])
    result = regridder.apply(signal)
    assert result.dtype == torch.float32
    torch.testing.assert_close(
        result,
        torch.tensor([[2.5, 3.0], [3.0, 23 / 7], [3.5, 3.5]]),
    )
    assert regridder.apply(signal, min_weight=0.8).isnan().tolist() == [
        [False, False],
        [True, False],
        [True, True],
    ]


def test_what_cannot_be_regridded_is_refused() -> None:
    with pytest.raises(InputError, match="must be a LatLonDomain"):
        bilinear(ImageDomain(3, 3), HEALPixDomain(1))
    with pytest.raises(InputError, match=r"\(N, 3\)"):
        bilinear(HEALPixDomain(1), ImageDomain(3, 3))
    with pytest.raises(InputError, match="centre"):
        bilinear(HEALPixDomain(1), torch.zeros(1, 3))
    with pytest.raises(InputError, match="must be a LatLonDomain or a HEALPix"):
        conservative(HEALPixDomain(1), ImageDomain(3, 3))
    with pytest.raises(InputError, match="12 source nodes"):
        bilinear(HEALPixDomain(1), HEALPixDomain(2)).apply(torch.zeros(11))
