"""Every manifold: exp and log, volume, frames, transport, means, against geomstats."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from apsgeo.errors import InputError
from apsgeo.values.catalogue import NAMES, manifold_from_config, manifold_of
from apsgeo.values.flat import Euclidean
from apsgeo.values.hyperbolic import Hyperbolic
from apsgeo.values.manifold import Manifold
from apsgeo.values.mean import dispersion, frechet_mean
from apsgeo.values.product import torus
from apsgeo.values.quotient import Axes, Rotations, quaternion_product
from apsgeo.values.spd import SPD, from_vector, to_vector
from apsgeo.values.sphere import Circle, Sphere
from apsgeo.values.values import Values
from tests.cases import noise

MANIFOLDS = [
    Euclidean(3),
    Circle(360.0),
    Sphere(2),
    Sphere(3, radius=0.5),
    Axes(2),
    Rotations(),
    Rotations("cubic"),
    SPD(3),
    SPD(3, "affine-invariant"),
    torus(2),
    Hyperbolic(3),
]

every = pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)


def points(manifold: Manifold, count: int, seed: int = 0) -> Tensor:
    """Draw points all over a manifold."""
    if isinstance(manifold, SPD):
        return manifold.exp(_identity(manifold), 0.7 * noise(count, manifold.dim, seed=seed))
    if isinstance(manifold, Hyperbolic):
        return manifold.exp(torch.zeros(3, dtype=torch.float64), noise(count, 3, seed=seed))
    return manifold.project(noise(count, manifold.ambient, seed=seed))


def _identity(manifold: SPD) -> Tensor:
    return manifold._flat(torch.eye(manifold.size, dtype=torch.float64))


def vectors(manifold: Manifold, base: Tensor, size: float, seed: int = 1) -> Tensor:
    """Draw tangent vectors of a length, as a share of the distance up to which log undoes exp."""
    coordinates = noise(len(base), manifold.dim, seed=seed)
    coordinates = coordinates / coordinates.norm(dim=-1, keepdim=True)
    reach = min(manifold.cut, 2.0)
    return torch.einsum("...ad,...d->...a", manifold.frame(base), size * reach * coordinates)


@every
def test_log_undoes_exp(manifold: Manifold) -> None:
    base = points(manifold, 50)
    there = vectors(manifold, base, 0.9)
    point = manifold.exp(base, there)
    torch.testing.assert_close(manifold.log(base, point), there, rtol=0, atol=1e-9)
    again = manifold.exp(base, manifold.log(base, point))
    torch.testing.assert_close(manifold.align(base, again), manifold.align(base, point))
    assert float(manifold.off(point).max()) < 1e-12
    torch.testing.assert_close(manifold.distance(base, point), there.norm(dim=-1))


@every
def test_frames_are_orthonormal_and_transport_keeps_lengths(manifold: Manifold) -> None:
    base = points(manifold, 20)
    to = manifold.exp(base, vectors(manifold, base, 0.5))
    frame = manifold.frame(base)
    eye = torch.eye(manifold.dim, dtype=torch.float64).expand(20, -1, -1)
    torch.testing.assert_close(frame.mT @ frame, eye)
    moved = torch.stack([manifold.transport(base, to, each) for each in frame.unbind(-1)], -1)
    exact = 1e-7 if isinstance(manifold, SPD) else 1e-10  # eigenvalues span three decades
    torch.testing.assert_close(moved.mT @ moved, eye, rtol=0, atol=exact)
    # Moved vectors are tangent: in the span of the frame there.
    there = manifold.frame(to)
    torch.testing.assert_close(there @ (there.mT @ moved), moved, rtol=0, atol=exact)
    # The geodesic's own direction stays its own direction.
    ahead = manifold.log(base, to)
    back = manifold.transport(base, to, ahead)
    torch.testing.assert_close(-manifold.log(to, base), back, rtol=0, atol=10 * exact)


@every
def test_volume_is_that_of_the_differential_of_exp(manifold: Manifold) -> None:
    base = points(manifold, 6)
    frame = manifold.frame(base)
    start = torch.einsum("...ad,...a->...d", frame, vectors(manifold, base, 0.6))
    end = manifold.exp(base, torch.einsum("...ad,...d->...a", frame, start))
    local = manifold.frame(end)

    def move(coordinates: Tensor) -> Tensor:
        # log at the end has the identity for a differential there
        vector = torch.einsum("...ad,...d->...a", frame, coordinates)
        logs = manifold.log(end, manifold.exp(base, vector))
        return torch.einsum("...ad,...a->...d", local, logs)

    if isinstance(manifold, SPD):  # eigenvalues that are equal have no derivatives of their own
        eye = 1e-5 * torch.eye(manifold.dim, dtype=torch.float64)
        jacobian = torch.stack([(move(start + e) - move(start - e)) / 2e-5 for e in eye], -1)
    else:
        whole = torch.autograd.functional.jacobian(move, start)
        jacobian = torch.stack([whole[i, :, i] for i in range(len(start))])
    expected = torch.linalg.slogdet(jacobian).logabsdet
    coordinates = torch.einsum("...ad,...d->...a", frame, start)
    torch.testing.assert_close(manifold.log_volume(base, coordinates), expected, rtol=0, atol=1e-7)


@every
def test_the_mean_of_few_points_is_where_their_logarithms_cancel(manifold: Manifold) -> None:
    centre = points(manifold, 4)
    some = torch.stack([manifold.exp(centre, vectors(manifold, centre, 0.3, s)) for s in range(7)])
    weights = torch.rand(7, 4, dtype=torch.float64)
    mean = frechet_mean(manifold, some, weights)
    logs = (weights[..., None] * manifold.log(mean, some)).sum(0)
    assert float(logs.abs().max()) < 1e-7 * min(manifold.cut, 2.0)
    least = dispersion(manifold, some, frechet_mean(manifold, some))
    assert bool((least <= dispersion(manifold, some, centre) + 1e-12).all())


@every
def test_configuration_rebuilds_it(manifold: Manifold) -> None:
    assert manifold_from_config(manifold.to_config()) == manifold
    values = Values(manifold)
    assert Values.from_config(values.to_config()) == values


@pytest.mark.parametrize("name", NAMES)
def test_names_give_manifolds(name: str) -> None:
    assert manifold_of(name).dim > 0


def test_unknown_manifolds_are_refused() -> None:
    with pytest.raises(InputError, match="'klein bottle'; give one of euclidean|circle"):
        manifold_of("klein bottle")
    with pytest.raises(InputError, match="symmetry='cubical'"):
        Rotations("cubical")
    with pytest.raises(InputError, match="embedded"):
        Values(SPD(3), "embedded")


def test_a_parallel_frame_field_has_coordinates_that_go_back() -> None:
    values, manifold = Values(Sphere(2)), Sphere(2)
    mean = points(manifold, 12).T
    centre = points(manifold, 1, seed=5)[0]
    frames = values.frames(mean, centre, manifold.frame(centre))
    assert frames.shape == (3, 2, 12)
    fields = points(manifold, 12, seed=3).T
    coordinates = values.coordinates(mean, frames, fields)
    torch.testing.assert_close(values.fields(mean, frames, coordinates), fields)
    many = values.fields(mean, frames, coordinates.expand(5, 2, 2, 12))
    assert many.shape == (5, 2, 3, 12)


def test_values_off_the_manifold_are_told_by_how_much() -> None:
    fields = points(Sphere(2), 5).T.clone()
    Values(Sphere(2)).check(fields)
    fields[:, 2] *= 1.25
    fields[:, 4] = torch.nan
    with pytest.raises(InputError, match="1 of 4 values .* differs from 1 by 0.25"):
        Values(Sphere(2)).check(fields, "obs")
    expected = points(Sphere(2), 5).T.where(~fields.isnan(), torch.nan)
    torch.testing.assert_close(Values(Sphere(2)).project(fields), expected, equal_nan=True)
    matrix = torch.tensor([1.0, 2.0, 0.0, 1.0, 0.0, 1.0])[:, None]
    with pytest.raises(InputError, match="not positive definite: its least eigenvalue is -0.333"):
        Values(SPD(3)).check(matrix)
    Values(SPD(3)).check(Values(SPD(3)).project(matrix))


def test_balanced_values_have_no_mean() -> None:
    opposite = torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64)
    with pytest.raises(InputError, match="no mean at 1 places: they are balanced"):
        frechet_mean(Circle(), opposite)


def test_crystal_symmetries_are_groups_that_keep_distances() -> None:
    for name, count in {"orthorhombic": 4, "tetragonal": 8, "hexagonal": 12, "cubic": 24}.items():
        manifold = Rotations(name)
        assert len(manifold.group) == 2 * count
        some, others = points(manifold, 9), points(manifold, 9, seed=2)
        for image in manifold.images(some):
            torch.testing.assert_close(
                manifold.distance(image, others), manifold.distance(some, others)
            )
    # No two orientations of cubic crystals are more than 62.8 degrees apart (Mackenzie 1958).
    away = Rotations("cubic").distance(points(Rotations(), 4000), points(Rotations(), 4000, seed=9))
    limit = 2.0 * math.degrees(math.acos((2.0 + math.sqrt(2.0)) / 4.0 * math.sqrt(1.0)))
    assert 55.0 < math.degrees(float(away.max())) <= limit
    assert limit == pytest.approx(62.8, abs=0.05)


def test_isometries_move_means_alike() -> None:
    turn = points(Rotations(), 1, seed=8)[0]
    centre = points(Rotations(), 3)
    manifold = Rotations("cubic")
    some = torch.stack([manifold.exp(centre, vectors(manifold, centre, 0.4, s)) for s in range(5)])
    moved = frechet_mean(manifold, quaternion_product(turn, some))
    expected = quaternion_product(turn, frechet_mean(manifold, some))
    assert float(manifold.distance(moved, expected).max()) < 1e-7


def test_symmetric_matrices_keep_their_norm_as_vectors() -> None:
    matrix = noise(5, 3, 3)
    matrix = matrix + matrix.mT
    torch.testing.assert_close(to_vector(matrix).norm(dim=-1), matrix.flatten(1).norm(dim=1))
    torch.testing.assert_close(from_vector(to_vector(matrix), 3), matrix)


@pytest.fixture(scope="module")
def geomstats() -> Any:
    pytest.importorskip("geomstats")
    from geomstats.geometry import hypersphere, spd_matrices, special_orthogonal

    return hypersphere, spd_matrices, special_orthogonal


def test_spheres_are_those_of_geomstats(geomstats: Any) -> None:
    theirs, ours = geomstats[0].Hypersphere(2), manifold_of(geomstats[0].Hypersphere(2))
    a, b = points(ours, 8), points(ours, 8, seed=1)
    vector = ours.log(a, b)
    metric = theirs.metric
    np.testing.assert_allclose(vector, metric.log(b.numpy(), a.numpy()), atol=1e-9)
    np.testing.assert_allclose(
        ours.exp(a, vector), metric.exp(vector.numpy(), a.numpy()), atol=1e-9
    )
    tangent = vectors(ours, a, 0.3)
    moved = metric.parallel_transport(tangent.numpy(), a.numpy(), direction=vector.numpy())
    np.testing.assert_allclose(ours.transport(a, b, tangent), moved, atol=1e-9)


@pytest.mark.parametrize("metric", ["log-euclidean", "affine-invariant"])
def test_tensors_are_those_of_geomstats(geomstats: Any, metric: Any) -> None:
    ours = SPD(3, metric)
    name = {"log-euclidean": "SPDLogEuclideanMetric", "affine-invariant": "SPDAffineMetric"}[metric]
    space = geomstats[1].SPDMatrices(3, equip=False)
    space.equip_with_metric(getattr(geomstats[1], name))
    assert manifold_of(space) == ours
    a, b = points(ours, 6), points(ours, 6, seed=1)
    start, end = ours._matrix(a).numpy(), ours._matrix(b).numpy()
    np.testing.assert_allclose(ours.distance(a, b), space.metric.dist(start, end), atol=1e-9)
    half = ours._matrix(ours.exp(a, 0.5 * ours.log(a, b)))
    theirs = space.metric.exp(0.5 * space.metric.log(end, start), start)
    np.testing.assert_allclose(half, theirs, atol=1e-9)


def test_rotations_are_those_of_geomstats(geomstats: Any) -> None:
    space = geomstats[2].SpecialOrthogonal(3, point_type="vector")
    assert manifold_of(geomstats[2].SpecialOrthogonal(3)) == Rotations()
    a, b = points(Rotations(), 8), points(Rotations(), 8, seed=1)
    first, second = (space.rotation_vector_from_quaternion(each.numpy()) for each in (a, b))
    theirs = space.metric.dist(first, second)
    np.testing.assert_allclose(Rotations().distance(a, b), theirs, atol=1e-7)


def test_hyperbolic_space_is_that_of_geomstats() -> None:
    module = pytest.importorskip("geomstats.geometry.poincare_ball")
    space, ours = module.PoincareBall(3), Hyperbolic(3)
    assert manifold_of(space) == ours
    a, b = points(ours, 8), points(ours, 8, seed=1)
    vector = ours.log(a, b)
    # Ours are longer by the conformal factor.
    factor = (2.0 / (1.0 - a.square().sum(-1, keepdim=True))).numpy()
    metric = space.metric
    np.testing.assert_allclose(
        vector / factor, metric.log(b.numpy(), a.numpy()), rtol=1e-6, atol=1e-8
    )
    np.testing.assert_allclose(
        ours.exp(a, 0.5 * vector), metric.exp(0.5 * vector.numpy() / factor, a.numpy()), atol=1e-7
    )
    np.testing.assert_allclose(ours.distance(a, b), metric.dist(a.numpy(), b.numpy()), atol=1e-7)


def test_points_outside_of_the_ball_are_told() -> None:
    values = Values(Hyperbolic(2))
    fields = torch.tensor([[0.6, 3.0], [0.0, 4.0]])
    with pytest.raises(InputError, match=r"has 1 of 2 values.*length 5; take points"):
        values.check(fields)
    values.check(values.project(fields))


def test_torus_parts_are_circles() -> None:
    manifold, circle = torus(2, 24.0), Circle(24.0)
    a, b = points(manifold, 5), points(manifold, 5, seed=1)
    parts = [circle.distance(x, y) for x, y in zip(a.split(2, -1), b.split(2, -1), strict=True)]
    torch.testing.assert_close(manifold.distance(a, b), torch.hypot(*parts))
    for first, second in itertools.pairwise(parts):
        assert float(torch.maximum(first, second).max()) <= 12.0
