"""Local, anisotropic ranges learned from a history."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from apsgeo.domains import Domain, HEALPixDomain, LatLonDomain, MeshDomain
from apsgeo.gaussian.anisotropy import conducting, face_reach
from apsgeo.gaussian.fit import fit_gaussian
from apsgeo.gaussian.matern import MaternField
from apsgeo.gaussian.scales import HybridScales, TwoRangeScales
from apsgeo.measurement import Measurement
from apsgeo.metrics.scores import crps_normal
from apsgeo.operators import Mask
from tests.cases import numpy_seeded, rounding, seeded

RECORDS = 400


@pytest.fixture(scope="module", params=["lat-lon", "healpix"])
def domain(request: pytest.FixtureRequest) -> Domain:
    if request.param == "healpix":
        return HEALPixDomain(8)
    return LatLonDomain(np.linspace(85, -85, 18), np.arange(0, 360, 10.0))


def faces(domain: Domain) -> tuple[np.ndarray, np.ndarray]:
    start, end = sp.coo_array(sp.triu(domain.reduced.stiffness, 1)).coords
    return start, end


def further_in_the_east(domain: Domain) -> np.ndarray:
    """Four times the conductance where y > 0, (face,)."""
    start, end = faces(domain)
    y = domain.reduced.positions[:, 1]
    return np.where((y[start] + y[end]) > 0, 4.0, 1.0)


def draws(field: MaternField, records: int) -> torch.Tensor:
    white = numpy_seeded(0).standard_normal((field.basis.shape[1], records))
    return torch.from_numpy(field.sample(white).T[:, None] / np.sqrt(field.variance))


@pytest.mark.parametrize("smoothness", [1, 2])
def test_a_field_of_varying_range_has_the_covariance_of_its_precision(
    domain: Domain, smoothness: int
) -> None:
    field = MaternField(domain, 6000.0, smoothness, reach=further_in_the_east(domain))
    basis = field.basis.toarray()
    expected = basis @ np.linalg.inv(field.precision.toarray()) @ basis.T
    every = np.eye(domain.num_nodes)
    np.testing.assert_allclose(field.covariance_apply(every), expected, atol=1e-9)
    # kept in float32
    np.testing.assert_allclose(field.variance, np.diag(expected), rtol=rounding(1))
    root = field.sample(np.eye(field.basis.shape[1]))
    np.testing.assert_allclose(root @ root.T, expected, atol=1e-9)


def test_conductances_are_multiplied_and_constants_stay_in_the_kernel(domain: Domain) -> None:
    whole, factor = domain.reduced.stiffness, further_in_the_east(domain)
    changed = conducting(whole, factor)
    start, end = faces(domain)
    assert set(factor) == {1.0, 4.0}
    np.testing.assert_allclose(changed[start, end], factor * whole[start, end])
    np.testing.assert_allclose(changed.sum(axis=1), 0.0, atol=1e-9)
    assert abs(changed - changed.T).max() == 0.0
    np.testing.assert_allclose((conducting(whole, 1 + 0 * factor) - whole).toarray(), 0, atol=1e-12)


def test_the_reach_is_found_from_draws(domain: Domain) -> None:
    """A smooth field varies across a face by its gradient, which is as 1 / range."""
    factor = further_in_the_east(domain)
    field = MaternField(domain, 8000.0, 2, reach=factor)
    found = face_reach(domain, draws(field, RECORDS))
    start, end = faces(domain)
    y = domain.reduced.positions[:, 1]
    east = (y[start] > 0.4) & (y[end] > 0.4)
    west = (y[start] < -0.4) & (y[end] < -0.4)
    log = np.log(found)
    # Each face scatters by sqrt(2 / 400) = 7 %, their mean far less; what remains is the
    # curvature of the correlation between cells that are not close.
    assert log[east].mean() - log[west].mean() == pytest.approx(np.log(4.0), abs=0.35)
    assert log[east].std() < 0.35


def test_the_reach_of_like_faces_is_one_but_for_scatter() -> None:
    domain = HEALPixDomain(8)
    found = face_reach(domain, draws(MaternField(domain, 8000.0, 2), RECORDS))
    assert np.abs(np.log(found)).mean() < 0.12
    few = face_reach(domain, draws(MaternField(domain, 8000.0, 2), 5))
    assert np.log(few).std() < 0.35  # alone, five records scatter by sqrt(2 / 5) = 63 %


def test_cells_that_never_vary_are_left_as_they_are(domain: Domain) -> None:
    fields = draws(MaternField(domain, 8000.0, 2), 50)
    start, end = faces(domain)
    land = domain.positions[:, 2] > 0.5
    dry = np.asarray(domain.reduced.membership.T @ land.numpy()).ravel() > 0
    found = face_reach(domain, torch.where(land, 0.0, fields))
    assert np.all(found[dry[start] | dry[end]] == 1.0)
    assert not np.any(found[~dry[start] & ~dry[end]] == 1.0)
    assert np.all(face_reach(domain, torch.zeros_like(fields)) == 1.0)


@pytest.mark.parametrize("kind", [HybridScales, TwoRangeScales])
def test_ranges_that_follow_the_place_predict_better(
    kind: type[HybridScales] | type[TwoRangeScales],
) -> None:
    """Fields reach four times as far in the east: a prior that learns it has the lower CRPS.

    From few observations, some 15 of 768 nodes; where they are dense, no range matters.
    """
    domain = HEALPixDomain(8)
    field = MaternField(domain, 5000.0, 2, reach=further_in_the_east(domain) ** 2)
    fields = draws(field, RECORDS)
    history, truth = fields[: RECORDS - 20], fields[RECORDS - 20 :]
    generator = seeded(0)
    mask = Mask.at_density(domain, 0.02, generator).expand_as(truth)
    noisy = truth + 0.1 * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    measured = Measurement(noisy, mask, torch.full_like(truth, 0.1))
    scores = []
    for scales in (kind(eof_weight=0.05, adaptivity=0.8), kind(eof_weight=0.05, adaptivity=1e-9)):
        local = scales.field(domain, history)
        posterior = fit_gaussian(local, history, scales, rank=5).annual.posterior(measured)
        scores.append(crps_normal(posterior.mean, posterior.std(), truth)[~mask].mean())
    assert scores[0] < 0.98 * scores[1]


def test_a_fold_learns_its_own_reach(domain: Domain) -> None:
    fields = draws(MaternField(domain, 8000.0, 2), 60)
    scales = HybridScales()
    whole, stationary = scales.field(domain, fields), scales.field(domain)
    part = scales.relearn(whole, fields[:30])
    assert part.reach is not None
    assert whole.reach is not None
    # kept in float32
    reach = face_reach(domain, fields[:30]) ** 0.6
    np.testing.assert_allclose(part.reach, reach, rtol=rounding(1))
    assert not np.allclose(part.reach, whole.reach)
    assert scales.relearn(stationary, fields) is stationary


def test_a_mesh_of_obtuse_triangles_keeps_its_stiffness() -> None:
    vertices = [[0.0, 0.0], [4.0, 0.0], [2.0, 0.5], [2.0, -0.5]]
    mesh = MeshDomain(vertices, [[0, 1, 2], [1, 0, 3]])
    fields = torch.randn(50, 1, 4, generator=seeded(0))
    assert mesh.stiffness[0, 1] > 0  # a negative conductance
    assert np.all(face_reach(mesh, fields) == 1.0)
