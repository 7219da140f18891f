"""Scores by geodesic distances are those of numbers where the manifold is a line."""

import math

import numpy as np
import pytest
import torch

from apsgeo.errors import InputError
from apsgeo.metrics.geodesic import (
    circular_variance,
    depth_rank,
    geodesic_coverage,
    geodesic_crps,
    geodesic_rmse,
)
from apsgeo.metrics.scores import crps_ensemble
from apsgeo.values.flat import Euclidean
from apsgeo.values.sphere import Circle
from tests.cases import noise

LINE, CIRCLE = Euclidean(1).distance, Circle(360.0).distance


def on_circle(degrees: torch.Tensor) -> torch.Tensor:
    angle = degrees.deg2rad()
    return torch.stack([angle.cos(), angle.sin()], -1)


def test_on_a_line_and_on_a_short_arc_it_is_the_crps() -> None:
    members, truth = 20.0 * noise(9, 50), 20.0 * noise(50, seed=1)
    expected = crps_ensemble(members.numpy(), truth.numpy())
    found = geodesic_crps(members[..., None], truth[..., None], LINE)
    np.testing.assert_allclose(found, expected, atol=1e-10)
    near = geodesic_crps(on_circle(0.3 * members), on_circle(0.3 * truth), CIRCLE)
    np.testing.assert_allclose(near, 0.3 * expected, atol=1e-9)
    with pytest.raises(InputError, match="at least two"):
        geodesic_crps(members[:1, :, None], truth[:, None], LINE)


def test_a_uniform_forecast_has_the_score_of_ignorance() -> None:
    """Of the uniform law on a circle of length L it is L / 4 - L / 8."""
    grid = on_circle(torch.arange(0.0, 360.0, 0.25, dtype=torch.float64))
    count = len(grid)
    found = geodesic_crps(grid[:, None], grid[:1], CIRCLE)
    assert float(found) == pytest.approx(90.0 - 45.0 * count / (count - 1))


def test_calibrated_members_are_covered_and_rank_alike() -> None:
    size = 4000
    members, truth = on_circle(40.0 * noise(19, size)), on_circle(40.0 * noise(size, seed=2))
    centre = on_circle(torch.zeros(size, dtype=torch.float64))
    rank = depth_rank(members, centre, truth, CIRCLE)
    counts = torch.bincount(rank, minlength=20).double() / size
    assert float((counts - 0.05).abs().max()) < 5 * math.sqrt(0.05 / size)
    found = float(geodesic_coverage(members, centre, truth, CIRCLE, 0.9))
    assert abs(found - 0.9) < 5 * math.sqrt(0.09 / size)


def test_errors_and_spread_of_directions() -> None:
    there, here = on_circle(torch.tensor([350.0, 20.0])), on_circle(torch.tensor([0.0, 0.0]))
    expected = math.sqrt((10.0**2 + 20.0**2) / 2)
    assert float(geodesic_rmse(here, there, CIRCLE)) == pytest.approx(expected, rel=1e-5)
    assert float(circular_variance(on_circle(torch.tensor([0.0, 180.0])))) == pytest.approx(1.0)
    assert float(circular_variance(on_circle(torch.tensor([7.0, 7.0])))) == pytest.approx(
        0.0, abs=1e-6
    )
