"""The facts of HEALPix spheres."""

import math

import healpy
import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo.domains import Domain, HEALPixDomain
from apsgeo.domains.harmonics import real_harmonics
from apsgeo.errors import GridError, InputError
from tests.cases import noise, numpy_seeded

# the offset along (x, y) of each of healpy's directions: SW, W, NW, N, NE, E, SE, S
OFFSETS = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]


def quarter_turn(domain: HEALPixDomain) -> Tensor:
    """Return the node that a rotation by 90 degrees about the axis brings each node to."""
    x, y, z = domain.positions.T.numpy()
    pixel = healpy.vec2pix(domain.nside, -y, x, z, nest=domain.nest)
    node = np.empty(domain.num_nodes, dtype=np.int64)
    node[domain.pixels] = np.arange(domain.num_nodes)
    return torch.from_numpy(node[pixel])


def test_eigenvalues_of_the_stiffness_converge_to_those_of_the_sphere() -> None:
    """L (l + 1), each 2 l + 1 times; the error falls with the square of the spacing."""
    exact = torch.tensor([l * (l + 1) for l in range(5) for _ in range(2 * l + 1)]).double()
    errors = []
    for nside in (8, 16, 32):
        values, _ = Domain._compute_eigenbasis(HEALPixDomain(nside), 25)
        errors.append(((values - exact).abs() / exact.clamp(min=1)).max().item())
    assert errors[-1] < 0.002
    assert errors[0] / errors[1] == pytest.approx(4, abs=0.3)
    assert errors[1] / errors[2] == pytest.approx(4, abs=0.1)


@pytest.mark.parametrize("nside", [1, 2, 4, 8])
def test_conductances_are_not_negative(nside: int) -> None:
    dense = HEALPixDomain(nside).stiffness.toarray()
    assert (dense - np.diag(np.diag(dense))).max() <= 0


def test_stiffness_is_the_same_after_quarter_turns() -> None:
    domain = HEALPixDomain(2)
    turned = quarter_turn(domain).numpy()
    dense = domain.stiffness.toarray()
    np.testing.assert_allclose(dense[np.ix_(turned, turned)], dense, atol=1e-13)


def test_eigenbasis_holds_real_harmonics() -> None:
    domain = HEALPixDomain(16, nest=False)
    values, vectors = domain.eigenbasis(9)
    assert values.tolist() == [0, 2, 2, 2, 6, 6, 6, 6, 6]
    x, y, z = domain.positions.T
    # the quadrature errs by less than one per cent in the low degrees at nside 16
    for column, expected in ((1, z), (2, x), (3, y), (4, 1.5 * z * z - 0.5)):
        expected = expected * math.sqrt((2 * values[column].sqrt().floor() + 1) / (4 * math.pi))
        got = vectors[:, column]
        torch.testing.assert_close(got * (got @ expected).sign(), expected, atol=0.002, rtol=0)


def test_harmonics_obey_the_addition_theorem_and_are_orthonormal() -> None:
    nodes, weights = np.polynomial.legendre.leggauss(10)
    azimuth = np.arange(20) * math.pi / 10
    z = np.repeat(nodes, 20)
    circle = np.sqrt(1 - z**2)
    points = np.stack(
        [circle * np.tile(np.cos(azimuth), 10), circle * np.tile(np.sin(azimuth), 10)]
    )
    harmonics = real_harmonics(np.concatenate([points, z[None]]).T, 9)
    area = np.repeat(weights, 20) * math.pi / 10
    np.testing.assert_allclose(harmonics.T @ (area[:, None] * harmonics), np.eye(100), atol=1e-13)
    for l in range(10):
        squares = (harmonics[:, l * l : (l + 1) ** 2] ** 2).sum(1)
        np.testing.assert_allclose(squares, (2 * l + 1) / (4 * math.pi), rtol=1e-12)


def test_eigenbasis_ends_where_pixels_tell_harmonics_apart_no_more() -> None:
    domain = HEALPixDomain(2)
    _, vectors = domain.eigenbasis(36)
    torch.testing.assert_close(
        vectors.T @ (domain.areas[:, None] * vectors), torch.eye(36).double()
    )
    with pytest.raises(InputError, match=r"degree 5: choose k from 1 to 36"):
        domain.eigenbasis(37)


@pytest.mark.parametrize("nest", [True, False])
@pytest.mark.parametrize("nside", [1, 2, 8])
def test_conv_meets_the_eight_neighbours(nside: int, nest: bool) -> None:
    """Where there are seven, the mean of the two beside the gap stands for the eighth."""
    domain = HEALPixDomain(nside, nest)
    table = healpy.get_all_neighbours(nside, np.arange(domain.num_nodes), nest=nest)
    gaps = (table < 0).sum()
    assert gaps == {1: 24, 2: 24, 8: 24}[nside]
    conv = domain.conv(1, 1).double()
    x = noise(1, 1, domain.num_nodes)
    for direction, (dx, dy) in enumerate(OFFSETS):
        weight = torch.zeros(1, 1, 3, 3).double()
        weight[0, 0, dx + 1, dy + 1] = 1
        conv.load_state_dict({"conv.weight": weight, "conv.bias": torch.zeros(1)})
        beside = table[direction - 1], table[(direction + 1) % 8]
        first = np.where(table[direction] < 0, beside[0], table[direction])
        second = np.where(table[direction] < 0, beside[1], table[direction])
        torch.testing.assert_close(conv(x)[0, 0], (x[0, 0, first] + x[0, 0, second]) / 2)


@pytest.mark.parametrize("nest", [True, False])
@pytest.mark.parametrize("size", [3, 5])
def test_conv_commutes_with_quarter_turns(nest: bool, size: int) -> None:
    domain = HEALPixDomain(4, nest)
    turned = quarter_turn(domain)
    conv = domain.conv(2, 3, size).double()
    x = noise(2, 2, domain.num_nodes)
    torch.testing.assert_close(conv(x[..., turned]), conv(x)[..., turned], atol=1e-12, rtol=0)


@pytest.mark.parametrize("size", [3, 5])
def test_a_part_of_the_sky_is_convolved_like_the_whole_away_from_its_border(size: int) -> None:
    whole = HEALPixDomain(4, nest=False)
    missing = 17
    pixels = numpy_seeded(0).permutation(np.delete(np.arange(192), missing))
    part = HEALPixDomain(4, False, pixels)
    conv, other = whole.conv(2, 3, size).double(), part.conv(2, 3, size).double()
    other.load_state_dict(conv.state_dict())
    x = noise(2, 2, 192)
    near = torch.zeros(192).bool()
    near[missing] = True
    table = healpy.get_all_neighbours(4, np.arange(192))
    for _ in range(size // 2):
        near = near | (near[table] & torch.from_numpy(table >= 0)).any(0)
    far = ~near[pixels]
    assert far.sum() >= 192 - 26
    expected = conv(x)[..., pixels]
    got = other(x[..., pixels])
    torch.testing.assert_close(got[..., far], expected[..., far])
    assert (got - expected)[..., ~far].abs().max() > 1e-3


@pytest.mark.parametrize("pixels", [None, np.arange(40, 100)])
def test_conv_keeps_constants(pixels: np.ndarray | None) -> None:
    domain = HEALPixDomain(4, True, pixels)
    constant = domain.conv(1, 1, 5).double()(torch.ones(1, 1, domain.num_nodes).double())
    torch.testing.assert_close(constant, constant[..., :1].expand_as(constant))


def test_pool_takes_four_nested_pixels() -> None:
    nested, rings = HEALPixDomain(4), HEALPixDomain(4, nest=False)
    x = noise(1, 1, 192)
    pooled = nested.pool().double()(x)
    torch.testing.assert_close(pooled, x.unflatten(-1, (48, 4)).mean(-1))
    order = healpy.ring2nest(4, np.arange(192))
    expected = pooled[..., healpy.ring2nest(2, np.arange(48))]
    torch.testing.assert_close(rings.pool().double()(x[..., order]), expected)
    assert rings.coarse() == HEALPixDomain(2, nest=False)
    assert nested.coarse() == HEALPixDomain(2)


def test_pool_of_a_part_weighs_by_coverage() -> None:
    domain = HEALPixDomain(2, True, [5, 0, 1, 2, 4], [1, 1, 0.5, 1, 0.25])
    x = torch.tensor([[[7.0, 1.0, 2.0, 3.0, 5.0]]])
    torch.testing.assert_close(domain.pool()(x), torch.tensor([[[5 / 2.5, 8.25 / 1.25]]]))
    assert domain.coarse() == HEALPixDomain(1, True, [0, 1], [2.5 / 4, 1.25 / 4])


def test_like_colours_touch_along_the_sides_of_polar_base_pixels_only() -> None:
    for nside in (2, 8):
        domain = HEALPixDomain(nside)
        sides = healpy.get_all_neighbours(nside, np.arange(12 * nside**2), nest=True)[::2]
        alike = domain.colouring[sides] == domain.colouring
        assert alike.sum() / 2 == 8 * nside
        assert domain.colouring.sum() == 6 * nside**2
    assert HEALPixDomain(1).colouring.sum() == 6


def test_areas_and_names() -> None:
    domain = HEALPixDomain(8, False, np.arange(96))
    assert domain.level == 3
    assert domain.radius_km == 6371.0
    assert repr(domain) == "HEALPixDomain(nside 8, ring, 96 pixels, 12.5% of the sky)"
    assert repr(HEALPixDomain(2)) == "HEALPixDomain(nside 2, nest, 48 pixels, full sky)"
    assert HEALPixDomain(2) != HEALPixDomain(2, nest=False)
    assert domain.to_config()["pixels"] == list(range(96))
    assert HEALPixDomain(8).to_config()["pixels"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((3,), "power of two"),
        ((0,), "power of two"),
        ((2, True, [0, 48]), "numbers 0 to 47: check nside"),
        ((2, True, [-1, 4]), "run from -1"),
        ((2, True, [3, 3]), "twice"),
        ((2, True, []), "at least one"),
        ((2, True, np.ones(48, dtype=bool)), "flatnonzero"),
        ((2, True, [1, 2], [1.0]), "2 shares"),
        ((2, True, [1, 2], [1.0, 0.0]), "above 0"),
    ],
)
def test_impossible_spheres_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(GridError, match=message):
        HEALPixDomain(*arguments)
