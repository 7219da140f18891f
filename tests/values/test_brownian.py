"""Brownian motion on compact manifolds: draws, scores, entropy; isometries to one origin."""

import math

import pytest
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.brownian import Brownian
from apsgeo.values.catalogue import manifold_of
from apsgeo.values.hyperbolic import Hyperbolic
from apsgeo.values.manifold import Manifold
from apsgeo.values.origin import to_origin
from apsgeo.values.quotient import Rotations, quaternion_product
from apsgeo.values.sphere import Circle, Sphere
from tests.cases import noise, seeded

MANIFOLDS: list[Manifold] = [
    Circle(360.0),
    Sphere(2),
    Rotations(),
    Rotations("cubic"),
    manifold_of("axes"),
    manifold_of("torus"),
]
every = pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)


def some(manifold: Manifold, count: int, seed: int = 0) -> Tensor:
    like = torch.zeros(count, manifold.ambient, dtype=torch.float64)
    return Brownian(manifold).uniform(like, seeded(seed))


@every
def test_scores_are_gradients_of_densities(manifold: Manifold) -> None:
    for part in Brownian(manifold).parts:
        generator = seeded(1)
        start = part.uniform(torch.zeros(20, part.cover.ambient).double(), generator)
        point = part.draw(start, 0.3, generator)
        frame = part.cover.frame(point)
        step = torch.zeros(20, part.cover.dim, dtype=torch.float64, requires_grad=True)
        moved = part.cover.exp(point, torch.einsum("nad,nd->na", frame, step))
        for log_density, score in (
            (part.log_density(start, moved, 0.3), part.score(start, point, 0.3)),
            (part.folded(start, moved, 0.3)[0], part.folded(start, point, 0.3)[1]),
        ):
            (slope,) = torch.autograd.grad(log_density.sum(), step, retain_graph=True)
            along = torch.einsum("nad,na->nd", frame, score)
            torch.testing.assert_close(along, slope, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("clock", [0.02, 0.7])
def test_draws_have_the_means_of_the_heat_equation(clock: float) -> None:
    count, generator = 20_000, seeded(2)
    for manifold, decay in ((Circle(360.0), 0.5), (Sphere(2), 1.0), (Rotations(), 1.0)):
        start = some(manifold, 1)[0]
        end = Brownian(manifold).draw(start.expand(count, -1), clock, generator)
        cosine = (start * end).sum(-1)
        if isinstance(manifold, Rotations):
            cosine = (4.0 * cosine.square() - 1.0) / 3.0  # (1 + 2 cos) / 3 of the angle
        error = float(cosine.std()) / math.sqrt(count)
        assert abs(float(cosine.mean()) - math.exp(-decay * clock)) < 5.0 * error


@pytest.mark.parametrize("clock", [0.01, 0.5, 4.0])
def test_entropy_grows_by_half_the_information(clock: float) -> None:
    for manifold in (Circle(), Sphere(2), Rotations()):
        (part,) = Brownian(manifold).parts
        h = 1e-3 * clock
        growth = (part.divergence(clock - h) - part.divergence(clock + h)) / (2.0 * h)
        assert growth == pytest.approx(0.5 * part.information(clock), rel=2e-4)


@every
def test_isometries_take_means_to_the_origin(manifold: Manifold) -> None:
    walk, generator = Brownian(manifold), seeded(3)
    means = walk.draw(some(manifold, 1)[0].expand(2, 5, -1), 0.2, generator)
    season = torch.arange(12) % 2
    points = walk.draw(means[season], 0.05, generator)
    moves = to_origin(manifold, means, points, season)
    origin = walk.origin
    moved = torch.einsum("snij,snj->sni", moves, means)
    assert float(manifold.distance(origin.expand_as(moved), moved).max()) < 1e-6
    relative = torch.einsum("rnij,rnj->rni", moves[season], points)
    before = manifold.distance(means[season], points)
    after = manifold.distance(origin.expand_as(relative), relative)
    torch.testing.assert_close(after, before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("manifold", [Sphere(2), Rotations("cubic")], ids=repr)
def test_an_isometry_of_values_leaves_them_where_they_are(manifold: Manifold) -> None:
    walk, generator = Brownian(manifold), seeded(4)
    means = walk.draw(some(manifold, 1)[0].expand(1, 5, -1), 0.2, generator)
    season = torch.zeros(12, dtype=torch.long)
    points = walk.draw(means[season], 0.05, generator)
    if isinstance(manifold, Rotations):
        turn = manifold.project(noise(4))
        turned = [quaternion_product(turn, each) for each in (means, points)]
    else:
        turn = torch.linalg.qr(noise(3, 3)).Q
        turned = [each @ turn.mT for each in (means, points)]
    first, second = (
        torch.einsum("rnij,rnj->rni", to_origin(manifold, *pair, season)[season], pair[1])
        for pair in ((means, points), (turned[0], turned[1]))
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-9)


def test_no_brownian_motion_of_what_is_not_compact() -> None:
    with pytest.raises(InputError, match="no Brownian motion"):
        Brownian(Hyperbolic(2))
    with pytest.raises(InputError, match="no origin"):
        to_origin(Hyperbolic(2), torch.zeros(1, 1, 2), torch.zeros(1, 1, 2), torch.zeros(1).long())
