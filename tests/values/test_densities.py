"""Densities on manifolds integrate to one, and heat kernels are their series."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.heat import heat_pull, log_heat_kernel
from apsgeo.values.manifold import Manifold
from apsgeo.values.quotient import Rotations
from apsgeo.values.spd import SPD
from apsgeo.values.sphere import Circle, Sphere
from apsgeo.values.wrapped import beyond_cut, wrapped_log_prob
from tests.cases import noise


def gauss(count: int, low: float, high: float) -> tuple[Tensor, Tensor]:
    x, w = np.polynomial.legendre.leggauss(count)
    half = 0.5 * (high - low)
    return torch.from_numpy(low + half * (x + 1.0)), torch.from_numpy(half * w)


def circle_grid() -> tuple[Tensor, Tensor]:
    angle = torch.arange(400, dtype=torch.float64) * 2 * math.pi / 400
    return torch.stack([angle.cos(), angle.sin()], -1), torch.full_like(angle, 360.0 / 400)


def sphere_grid(count: int = 60) -> tuple[Tensor, Tensor]:
    z, w = gauss(count, -1.0, 1.0)
    lon = torch.arange(2 * count, dtype=torch.float64) * math.pi / count
    z, lon = torch.meshgrid(z, lon, indexing="ij")
    s = (1 - z**2).sqrt()
    weights = w[:, None].expand_as(lon) * math.pi / count
    return torch.stack([s * lon.cos(), s * lon.sin(), z], -1).reshape(-1, 3), weights.flatten()


def rotation_grid(count: int = 24) -> tuple[Tensor, Tensor]:
    """Axis and angle of rotation up to pi; the volume is 4 sin(angle / 2)^2 d(angle) d(axis)."""
    angle, w = gauss(count, 0.0, math.pi)
    axis, area = sphere_grid(count)
    half = 0.5 * angle
    q = torch.cat(
        [
            half.cos()[:, None, None].expand(-1, len(axis), 1),
            half.sin()[:, None, None] * axis,
        ],
        -1,
    )
    weights = (w * 4.0 * half.sin() ** 2)[:, None] * area
    return q.reshape(-1, 4), weights.flatten()


def test_grids_have_the_volume_of_their_manifolds() -> None:
    assert float(circle_grid()[1].sum()) == pytest.approx(360.0)
    assert float(sphere_grid()[1].sum()) == pytest.approx(4 * math.pi)
    assert float(rotation_grid()[1].sum()) == pytest.approx(8 * math.pi**2)


@pytest.mark.parametrize("spread", [0.4, 0.8])
def test_wrapped_normals_integrate_to_one(spread: float) -> None:
    for manifold, (grid, weights), size in (
        (Circle(360.0), circle_grid(), 57.0),
        (Sphere(2), sphere_grid(), 1.0),
        (Rotations(), rotation_grid(), 1.0),
    ):
        base = manifold.project(grid[137] + 0.3 * noise(manifold.ambient, seed=4))
        root = torch.eye(manifold.dim, dtype=torch.float64) * spread * size
        root = root + 0.1 * spread * size * noise(manifold.dim, manifold.dim)
        density = wrapped_log_prob(manifold, base, manifold.frame(base), root @ root.T, grid).exp()
        # Where geodesics meet the density of wide ones has a root of a singularity.
        exact = 1e-6 if isinstance(manifold, Circle) or spread < 0.5 else 5e-3
        assert float((weights * density).sum()) == pytest.approx(1.0, abs=exact)


def test_a_wrapped_normal_of_tensors_is_that_of_their_logarithms() -> None:
    manifold = SPD(3)
    base = manifold._flat(torch.eye(3, dtype=torch.float64))
    vector = noise(5, 6)
    covariance = torch.eye(6, dtype=torch.float64)
    found = wrapped_log_prob(
        manifold, base, manifold.frame(base), covariance, manifold.exp(base, vector)
    )
    expected = -0.5 * (vector.square().sum(-1) + 6 * math.log(2 * math.pi))
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("variance", [0.05, 0.5, 3.0])
def test_heat_kernels_integrate_to_one(variance: float) -> None:
    time = torch.tensor(variance, dtype=torch.float64)
    for manifold, (grid, weights), unit in (
        (Circle(360.0), circle_grid(), 360.0 / (2 * math.pi)),
        (Sphere(2), sphere_grid(), 1.0),
        (Rotations(), rotation_grid(), 1.0),
    ):
        distance = manifold.distance(grid[7], grid)
        density = log_heat_kernel(manifold, distance, (time * unit**2).expand(len(grid))).exp()
        assert float((weights * density).sum()) == pytest.approx(1.0, abs=1e-5)


def test_heat_kernels_are_their_series() -> None:
    variance = torch.tensor(0.4, dtype=torch.float64)
    angle = torch.linspace(0.05, 3.0, 20, dtype=torch.float64)
    wave = torch.arange(1, 40, dtype=torch.float64)
    decay = torch.exp(-0.5 * wave**2 * variance)
    circle = (1.0 + 2.0 * (decay * torch.cos(wave * angle[:, None])).sum(-1)) / (2.0 * math.pi)
    found = log_heat_kernel(Circle(), angle, variance.expand(20)).exp()
    torch.testing.assert_close(found, circle, rtol=0, atol=1e-12)
    degree = torch.arange(0, 40, dtype=torch.float64)
    decay = (2 * degree + 1) * torch.exp(-0.5 * degree * (degree + 1) * variance)
    character = torch.sin((degree + 0.5) * angle[:, None]) / torch.sin(0.5 * angle)[:, None]
    rotations = (decay * character).sum(-1) / (8.0 * math.pi**2)
    found = log_heat_kernel(Rotations(), angle, variance.expand(20)).exp()
    torch.testing.assert_close(found, rotations, rtol=0, atol=1e-12)
    weights = decay.numpy() / (4.0 * math.pi)
    legendre = np.polynomial.legendre.legval(np.cos(angle.numpy()), weights)
    found = log_heat_kernel(Sphere(2), angle, variance.expand(20)).exp()
    np.testing.assert_allclose(found.numpy(), legendre, atol=1e-12)


def test_the_short_kernel_of_the_sphere_meets_the_series() -> None:
    angle = torch.linspace(0.0, 1.8, 19, dtype=torch.float64)  # five standard deviations and more
    times = [torch.full_like(angle, 0.1 * factor) for factor in (1 - 1e-9, 1 + 1e-9)]
    short, long = (log_heat_kernel(Sphere(2), angle, time) for time in times)
    torch.testing.assert_close(short, long, rtol=0, atol=1e-4)
    short, long = (0.1 * heat_pull(Sphere(2), angle, time) for time in times)
    torch.testing.assert_close(short, long, rtol=0, atol=1e-4)


@pytest.mark.parametrize("variance", [1e-3, 0.05, 0.5, 3.0, 20.0])
def test_pulls_are_the_slopes_of_heat_kernels(variance: float) -> None:
    for manifold, unit in ((Circle(360.0), 360.0 / (2 * math.pi)), (Sphere(2), 1.0)):
        _check_pull(manifold, unit, variance)
    _check_pull(Rotations(), 1.0, variance)


def _check_pull(manifold: Manifold, unit: float, variance: float) -> None:
    most = min(3.0, 6.0 * math.sqrt(variance))  # farther away there is next to nothing
    distance = unit * torch.linspace(1e-2, most, 30, dtype=torch.float64)
    distance.requires_grad_()
    time = torch.full_like(distance, variance * unit**2)
    (slope,) = torch.autograd.grad(log_heat_kernel(manifold, distance, time).sum(), distance)
    pull = heat_pull(manifold, distance.detach(), time)
    # the expansion's slope leaves out that of its second order, the series what it is cut at
    torch.testing.assert_close(pull * time, -slope / distance.detach() * time, rtol=0, atol=1e-7)


def test_no_heat_kernel_of_tensors() -> None:
    with pytest.raises(InputError, match="no heat kernel"):
        log_heat_kernel(SPD(3), torch.zeros(1), torch.ones(1))


def test_the_cut_locus_is_bounded() -> None:
    std = torch.full((1, 1), 60.0, dtype=torch.float64)
    assert float(beyond_cut(Circle(360.0), std)) == pytest.approx(math.erfc(3 / math.sqrt(2)))
    assert float(beyond_cut(SPD(3), torch.ones(1, 6))) == 0.0
    draws = 0.8 * noise(20_000, 2)
    share = float((draws.norm(dim=-1) > math.pi).double().mean())
    assert share <= float(beyond_cut(Sphere(2), torch.full((2,), 0.8, dtype=torch.float64)))
