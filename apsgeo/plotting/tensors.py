"""Maps of tensors as ellipses; needs the extra ``apsgeo[plot]``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.errors import InputError
from apsgeo.labels.forms.form import CHANNEL
from apsgeo.labels.forms.reading import form_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["anisotropy", "plot_tensors"]

Array = NDArray[np.float64]

_FILLS = 0.9  # of the distance between places that the longest of most ellipses takes
_MOST = 0.95  # share of the ellipses that do not overlap
_ROUND = 1e-12


def plot_tensors(panels: Mapping[str, xr.DataArray], *, title: str | None = None) -> Figure:
    """Draw maps of tensors, one a panel, as ellipses coloured by their anisotropy.

    A tensor T is the ellipsoid x^T T^-1 x = 1, whose half axes are the roots of its eigenvalues. It
    is seen along the third axis, where its outline is the ellipse of the first two rows and
    columns of T: the first axis of the tensors is to the right, and the second one up. All panels
    have one scale.

    Args:
        panels: Tensors by the titles of their panels: arrays with two dims of places, rows before
            columns, as (lat, lon), and those of a tensor as `apsgeo.fit_prior` takes them; NaN
            where there is none.
        title: Title above the whole figure.

    Returns:
        A figure that belongs to no window; keep it with `apsgeo.plotting.maps.save_figure`.

    Raises:
        InputError: If an array is no map of tensors, or there is none.
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.collections import EllipseCollection
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("maps need matplotlib: pip install 'apsgeo[plot]'") from error
    if not panels:
        raise InputError("no panel was given; give {'truth': tensors}, say")
    maps = {name: _tensors(array, name) for name, array in panels.items()}
    figure = Figure(figsize=(4.6 * len(maps) + 0.8, 3.8), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(maps), squeeze=False)[0])
    figure.suptitle(title or "")
    outlines = {name: _ellipses(tensors) for name, (tensors, _, _) in maps.items()}
    longest = np.concatenate([each[0][..., 0].ravel() for each in outlines.values()])
    known = longest[~np.isnan(longest)]
    usual = float(np.quantile(known, _MOST)) if known.size else 1.0
    shown: Any = None
    for axis, (name, (tensors, rows, columns)) in zip(axes, maps.items(), strict=True):
        lengths, angle = outlines[name]
        size = _FILLS * min(_step(rows), _step(columns)) / usual
        there = ~np.isnan(angle)
        x, y = np.meshgrid(columns, rows)
        shown = EllipseCollection(
            size * lengths[there][:, 0],
            size * lengths[there][:, 1],
            np.rad2deg(angle[there]),
            units="xy",
            offsets=np.stack([x[there], y[there]], -1),
            offset_transform=axis.transData,
            cmap="viridis",
            clim=(0.0, 1.0),
        )
        shown.set_array(anisotropy(tensors[there]))
        axis.add_collection(shown)
        for set_limits, places in ((axis.set_xlim, columns), (axis.set_ylim, rows)):
            set_limits(places.min() - _step(places), places.max() + _step(places))
        axis.set_aspect("equal")
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
    figure.colorbar(shown, ax=list(axes), label="fractional anisotropy", shrink=0.8)
    return figure


def anisotropy(tensors: Array) -> Array:
    """Return the fractional anisotropy (...) of tensors (..., n, n).

    It is zero of a ball and one of a needle: the root of n / (n - 1) times the norm of the
    departures of the eigenvalues from their mean, over the norm of the eigenvalues (Basser &
    Pierpaoli 1996, "Microstructural and physiological features of tissues", J. Magn. Reson. B 111).

    Examples:
        >>> round(float(anisotropy(np.diag([1.0, 1.0, 1.0]))), 3)
        0.0
        >>> round(float(anisotropy(np.diag([1.0, 0.0, 0.0]))), 3)
        1.0
    """
    values = np.linalg.eigvalsh(tensors)
    count = values.shape[-1]
    departures = np.linalg.norm(values - values.mean(-1, keepdims=True), axis=-1)
    share = departures / np.linalg.norm(values, axis=-1).clip(min=_ROUND)
    return np.sqrt(count / (count - 1)) * share


def _tensors(array: xr.DataArray, name: str) -> tuple[Array, Array, Array]:
    """Return tensors (row, column, n, n) and the places of rows and columns."""
    form = form_of(array, "spd", given=name)
    points = form.encode(array, name).transpose(..., CHANNEL)
    if points.ndim != 3:
        raise InputError(
            f"{name!r} has the dims {dict(array.sizes)}; two dims of places and those of a tensor "
            "were expected: select one record and one member"
        )
    size = int((8 * points.shape[-1] + 1) ** 0.5) // 2
    i, j = np.triu_indices(size)
    matrices = np.empty((*points.shape[:-1], size, size))
    matrices[..., i, j] = matrices[..., j, i] = points.values
    rows, columns = (_places(points, dim) for dim in points.dims[:2])
    return matrices, rows, columns


def _places(array: xr.DataArray, dim: Any) -> Array:
    known = dim in array.coords and array[dim].dtype.kind in "fiu"
    return np.asarray(array[dim] if known else np.arange(array.sizes[dim]), dtype=np.float64)


def _step(places: Array) -> float:
    return float(np.abs(np.diff(places)).min()) if len(places) > 1 else 1.0


def _ellipses(tensors: Array) -> tuple[Array, Array]:
    """Return axes (row, column, 2), the longer one first, and the angle (row, column) of it."""
    outline = tensors[..., :2, :2]
    known: NDArray[np.bool_] = np.asarray(~np.isnan(outline).any((-1, -2)))
    values, vectors = np.linalg.eigh(np.where(known[..., None, None], outline, np.eye(2)))
    lengths = 2.0 * np.sqrt(values[..., ::-1].clip(min=0.0))
    angle = np.arctan2(vectors[..., 1, 1], vectors[..., 0, 1])
    return np.where(known[..., None], lengths, np.nan), np.where(known, angle, np.nan)
