"""Orientations in grains: smooth within, sharp between, in whatever form they come."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.spatial.transform import Rotation

import apsgeo
from apsgeo.errors import InputError
from apsgeo.labels.forms.reading import form_of
from apsgeo.random_field.grains import Grains
from apsgeo.values.quotient import Rotations
from tests.cases import numpy_seeded

MANIFOLD = Rotations("cubic")


def crystals(noise: float = 0.3) -> xr.DataArray:
    """Make two grains side by side, 30 degrees apart, with noise [degree], as Bunge's angles."""
    rng = numpy_seeded(0)
    grain = np.where(np.arange(36) < 18, 0.0, 30.0)
    angle = np.broadcast_to(grain, (16, 36)).reshape(-1)
    turned = Rotation.from_rotvec(np.stack([0 * angle, 0 * angle, angle], 1), degrees=True)
    jitter = Rotation.from_rotvec(noise * rng.standard_normal((angle.size, 3)), degrees=True)
    euler = np.mod((turned * jitter).as_euler("ZXZ"), 2 * np.pi).reshape(16, 36, 3)
    attrs = {"manifold": "rotations/cubic", "convention": "bunge", "units": "radian"}
    return xr.DataArray(euler, dims=("y", "x", "angle"), name="euler", attrs=attrs)


def test_members_are_in_one_grain_or_the_other() -> None:
    whole = crystals()
    seen = xr.DataArray(numpy_seeded(1).random((16, 36)) < 0.7, dims=("y", "x"))
    drawn = apsgeo.impute(whole.where(seen), members=8, seed=3)
    assert drawn.dims == ("member", "y", "x", "angle")
    assert drawn.attrs["units"] == "radian"
    form = form_of(whole)
    points, truth = (
        torch.from_numpy(form.encode(each, "it").transpose(..., "channel").values)
        for each in (drawn, whole)
    )
    error = torch.rad2deg(MANIFOLD.distance(truth, points))
    assert float(error[:, torch.from_numpy(seen.values)].max()) < 1e-2
    hidden = error[:, torch.from_numpy(~seen.values)]
    # Never between the grains: near to the truth, or in the other grain 30 degrees away.
    assert bool(((hidden < 3.0) | ((hidden - 30.0).abs() < 3.0)).all())
    assert float((hidden > 15.0).double().mean()) < 0.1
    inner = torch.from_numpy(~seen.values & (np.abs(np.arange(36) - 17.5) > 4))
    assert float(error[:, inner].max()) < 3.0
    again = apsgeo.impute(whole.where(seen), members=8, seed=3)
    np.testing.assert_array_equal(again.values, drawn.values)


def test_within_a_grain_neighbours_are_averaged() -> None:
    whole = crystals()
    form = form_of(whole)
    points = torch.from_numpy(form.encode(whole, "it").transpose(..., "channel").values)
    y, x = np.meshgrid(np.arange(16.0), np.arange(36.0), indexing="ij")
    positions, flat = np.stack([y.ravel(), x.ravel()], 1), points.reshape(-1, 4)
    hidden = torch.from_numpy(numpy_seeded(2).random(len(flat)) < 0.3)
    given = torch.where(hidden[:, None], torch.nan, flat)
    grains = Grains(MANIFOLD, positions, given, np.radians(5.0))
    error = MANIFOLD.distance(grains.estimate(positions[hidden.numpy()]), flat[hidden])
    # The noise of the hidden point remains: the norm of three coordinates of 0.3 degrees.
    assert float(torch.rad2deg(error.median())) < 0.3 * 1.54 * 1.25
    assert np.rad2deg(grains.nugget**0.5) == pytest.approx(0.3, rel=0.2)
    with pytest.raises(InputError, match="grains need 100"):
        Grains(MANIFOLD, positions[:50], flat[:50], np.radians(5.0))
