"""The facts of images."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from apsgeo.domains import ImageDomain
from apsgeo.errors import GridError
from tests.cases import noise, rounding


def test_two_by_three_image_by_hand() -> None:
    domain = ImageDomain(2, 3)
    assert domain.positions.tolist()[:4] == [[0.5, 0.5], [0.5, 1.5], [0.5, 2.5], [1.5, 0.5]]
    assert domain.stiffness.toarray()[0].tolist() == [2, -1, 0, -1, 0, 0]
    assert domain.colouring.tolist() == [True, False, True, False, True, False]
    assert not domain.can_coarsen


def test_eigenvalues_are_those_of_the_cosine_transform() -> None:
    values, vectors = ImageDomain(3, 5).eigenbasis(15)
    expected = sorted(
        4 * math.sin(math.pi * i / 6) ** 2 + 4 * math.sin(math.pi * j / 10) ** 2
        for i in range(3)
        for j in range(5)
    )
    np.testing.assert_allclose(values, expected, atol=1e-14)
    torch.testing.assert_close(vectors[:, 0], torch.full((15,), 15**-0.5).double())


def test_eigenvalues_converge_to_those_of_the_continuous_rectangle() -> None:
    """π² (i²/a² + j²/b²) on a rectangle a x b; the error falls with the square of the spacing."""
    exact = np.sort(
        [(math.pi * i / 6) ** 2 + (math.pi * j / 9) ** 2 for i in range(6) for j in range(9)]
    )
    errors = []
    for n in (2, 4):
        edges = np.linspace(0, 6, 6 * n + 1), np.linspace(0, 9, 9 * n + 1)
        values, _ = ImageDomain(6 * n, 9 * n, *edges).eigenbasis(6)
        errors.append(np.abs(values.numpy() - exact[:6]).max())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.02)


def test_conv_is_an_ordinary_convolution() -> None:
    domain = ImageDomain(6, 7)
    conv = domain.conv(2, 3, 3).double()
    weight, bias = conv.state_dict().values()
    x = noise(2, 2, 42)
    expected = F.conv2d(x.unflatten(-1, (6, 7)), weight, bias, padding=1)
    got = conv(x).unflatten(-1, (6, 7))
    torch.testing.assert_close(got[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    constant = conv(torch.ones(1, 2, 42).double())
    torch.testing.assert_close(constant, constant[..., :1].expand_as(constant))


def test_conv_commutes_with_shifts_away_from_the_border() -> None:
    domain = ImageDomain(8, 9)
    conv = domain.conv(1, 1, 5).double()
    x = noise(1, 1, 8, 9)
    shifted = conv(x.roll((1, 2), (2, 3)).flatten(2)).unflatten(-1, (8, 9))
    plain = conv(x.flatten(2)).unflatten(-1, (8, 9)).roll((1, 2), (2, 3))
    torch.testing.assert_close(shifted[..., 3:-2, 4:-2], plain[..., 3:-2, 4:-2])
    assert (shifted - plain).abs().max() > 0.01


def test_pool_takes_blocks_of_two_and_three_at_an_odd_end() -> None:
    domain = ImageDomain(4, 5)
    x = noise(1, 1, 20)
    image = x.unflatten(-1, (4, 5))
    expected = torch.stack(
        [
            image[..., :2, :2].mean(),
            image[..., :2, 2:].mean(),
            image[..., 2:, :2].mean(),
            image[..., 2:, 2:].mean(),
        ]
    )
    found = domain.pool().double()(x).flatten()  # by weights kept in float32
    torch.testing.assert_close(found, expected, rtol=0.0, atol=rounding(1, x))
    assert repr(domain.coarse()) == "ImageDomain(2 x 2, rows 0..4, columns 0..5)"
    assert domain.coarse().areas.tolist() == [4, 6, 4, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 3), "0 rows"),
        ((3, -1), "-1 columns"),
        ((2, 3, [0, 1]), "row_edges has shape"),
        ((2, 3, [0, 1, 1]), "ascending"),
        ((2, 1, None, [0, np.nan]), "column_edges"),
    ],
)
def test_impossible_images_are_refused(arguments: tuple, message: str) -> None:
    with pytest.raises(GridError, match=message):
        ImageDomain(*arguments)
