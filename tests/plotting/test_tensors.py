"""Maps of tensors: ellipses are the outlines of the ellipsoids."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from apsgeo.errors import InputError
from apsgeo.plotting.tensors import anisotropy, plot_tensors
from tests.cases import numpy_seeded


def tensors() -> xr.DataArray:
    root = numpy_seeded(0).normal(size=(3, 4, 3, 3))
    values = root @ root.swapaxes(-1, -2) + 0.2 * np.eye(3)
    places = {"lat": [20.0, 10.0, 0.0], "lon": [0.0, 10.0, 20.0, 30.0]}
    return xr.DataArray(values, places, ("lat", "lon", "i", "j"), "diffusion")


def test_ellipses_are_outlines_of_the_ellipsoids() -> None:
    """Points of an ellipse p have p^T S^-1 p = 1, with the first two rows and columns S of T."""
    given = tensors()
    given[1, 2] = np.nan
    figure = plot_tensors({"truth": given, "again": given}, title="tensors")
    figure.draw_without_rendering()
    assert [axes.get_title() for axes in figure.axes[:2]] == ["truth", "again"]
    drawn: Any = figure.axes[0].collections[0]
    assert len(drawn.get_offsets()) == 11
    np.testing.assert_allclose(drawn.get_offsets()[0], (0.0, 20.0))
    known = given.values.reshape(12, 3, 3)[[k for k in range(12) if k != 6]]
    angle = drawn._angles
    axis = np.stack([np.cos(angle), np.sin(angle)], -1) * (drawn._widths / 2.0)[:, None]
    inverse = np.linalg.inv(known[:, :2, :2])
    along = np.einsum("ni,nij,nj->n", axis, inverse, axis)
    # All ellipses have one scale.
    np.testing.assert_allclose(along, along[0], rtol=1e-9)
    across = np.stack([-np.sin(angle), np.cos(angle)], -1) * (drawn._heights / 2.0)[:, None]
    np.testing.assert_allclose(np.einsum("ni,nij,nj->n", across, inverse, across), along[0])


def test_anisotropy_does_not_change_with_size_or_axes() -> None:
    values = tensors().values
    turn = np.linalg.qr(numpy_seeded(1).normal(size=(3, 3)))[0]
    np.testing.assert_allclose(anisotropy(3.0 * turn @ values @ turn.T), anisotropy(values))


def test_what_is_no_map_is_told() -> None:
    with pytest.raises(InputError, match="two dims of places"):
        plot_tensors({"all": tensors().expand_dims(member=2)})
    with pytest.raises(InputError, match="no panel was given"):
        plot_tensors({})
