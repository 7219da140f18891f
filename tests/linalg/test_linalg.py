"""Sparse factorizations against dense linear algebra, and what they cost."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch

from apsgeo.domains import HEALPixDomain
from apsgeo.errors import InputError
from apsgeo.gaussian.hybrid import HybridPrior
from apsgeo.gaussian.matern import MaternField
from apsgeo.linalg.cholesky import Cholesky
from apsgeo.linalg.dissection import Dissection
from apsgeo.operators import Downsample
from tests.cases import numpy_seeded

RANGE_KM = 3000.0


def posterior_precision(nside: int) -> tuple[sp.csc_array, np.ndarray]:
    """That of a Matern field observed with noise here and there, and its nodes' positions."""
    domain = HEALPixDomain(nside)
    seen = numpy_seeded(0).random(domain.num_nodes) < 0.3
    precision = MaternField(domain, RANGE_KM).precision + sp.diags(25.0 * seen)
    return sp.csc_array(precision), domain.positions.numpy()


def random_sparse(size: int, density: float) -> tuple[sp.csc_array, np.ndarray]:
    """A matrix whose entries have nothing to do with the positions."""
    rng = numpy_seeded(1)
    half = sp.random_array((size, size), density=density, rng=rng)
    matrix = half @ half.T + sp.eye_array(size)
    return sp.csc_array(matrix), rng.random((size, 2))


def two_fields() -> tuple[sp.csc_array, np.ndarray]:
    """Two fields that are independent, at the same positions."""
    matrix, positions = posterior_precision(4)
    return sp.block_diag([matrix, 2.0 * matrix], format="csc"), np.tile(positions, (2, 1))


MATRICES = {
    "sphere": posterior_precision(8),
    "two fields": two_fields(),
    "long links": random_sparse(500, 0.002),
    "everything joined": random_sparse(300, 0.2),
    "nothing joined": (sp.eye_array(300, format="csc") * 3.0, np.zeros((300, 3))),
    "one node": (sp.csc_array([[4.0]]), np.zeros((1, 2))),
}


@pytest.mark.parametrize("name", MATRICES)
def test_factor_agrees_with_dense_algebra(name: str) -> None:
    matrix, positions = MATRICES[name]
    full = matrix.toarray()
    factor = Cholesky(matrix, Dissection(matrix, positions))
    columns = numpy_seeded(2).standard_normal((len(full), 7))
    inverse = np.linalg.inv(full)
    # Either way of solving errs by the condition number times the rounding of one operation.
    error = 10 * np.linalg.cond(full) * np.finfo(float).eps
    np.testing.assert_allclose(
        factor.solve(columns), inverse @ columns, atol=error * np.abs(inverse @ columns).max()
    )
    np.testing.assert_allclose(factor.inverse_diagonal(), np.diag(inverse), rtol=error)
    assert factor.log_determinant == pytest.approx(np.linalg.slogdet(full)[1], rel=1e-12, abs=1e-12)


def test_dissection_decides_the_cost_and_not_the_answer() -> None:
    matrix, positions = posterior_precision(16)
    shuffled = numpy_seeded(0).permutation(positions)
    good, bad = (Cholesky(matrix, Dissection(matrix, where)) for where in (positions, shuffled))
    ones = np.ones((matrix.shape[0], 1))
    np.testing.assert_allclose(bad.solve(ones), good.solve(ones), rtol=1e-9)
    assert bad.entries > 5 * good.entries
    another = Dissection(sp.eye_array(matrix.shape[0]), shuffled)  # which knows none of the links
    np.testing.assert_allclose(Cholesky(matrix, another).solve(ones), good.solve(ones), rtol=1e-9)


def test_every_node_is_eliminated_once() -> None:
    matrix, positions = posterior_precision(8)
    once = Dissection(matrix, positions)
    for dissection, nodes in ((once, len(positions)), (once.repeated(3), 3 * len(positions))):
        assert np.array_equal(np.sort(dissection.order), np.arange(nodes))
        assert dissection.ends[-1] == nodes
        assert (np.diff(dissection.ends) > 0).all()


def test_fill_grows_hardly_faster_than_the_nodes() -> None:
    """Of the order of N log N on a surface; it is N^{3/2} in the order of a band, N^2 in none."""
    nodes, entries = [], []
    for nside in (8, 16, 32):
        matrix, positions = posterior_precision(nside)
        nodes.append(len(positions))
        entries.append(Cholesky(matrix, Dissection(matrix, positions)).entries)
    slope = np.polyfit(np.log(nodes), np.log(entries), 1)[0]
    assert slope < 1.2


def test_superresolution_costs_no_more_than_denoising() -> None:
    """Averages over cells apart from each other join no nodes that the field has not joined."""
    domain = HEALPixDomain(16)
    nodes = domain.num_nodes
    prior = HybridPrior(
        MaternField(domain, RANGE_KM),
        torch.zeros(1, nodes, 2),
        torch.ones(1, nodes),
        torch.full((1, nodes), 0.1),
    )
    everywhere = prior.make_system(np.ones(nodes, dtype=bool), np.ones(nodes))
    operator = Downsample(2).on(domain)
    coarse = nodes // 4
    averaged = prior.make_linear_system(operator, np.ones(coarse, dtype=bool), np.ones(coarse))
    assert averaged._factor.entries == everywhere._factor.entries  # type: ignore[attr-defined]


def test_indefinite_matrices_are_refused() -> None:
    matrix = sp.csc_array(np.array([[1.0, 2.0], [2.0, 1.0]]))
    with pytest.raises(InputError, match="not positive definite"):
        Cholesky(matrix, Dissection(matrix, np.zeros((2, 1))))
