"""Maps of gap-filled ensembles; needs the extra ``apsgeo[plot]``."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo.atomic import atomic_file
from apsgeo.domains import LatLonDomain
from apsgeo.errors import InputError
from apsgeo.plotting.canvas import Globe, add_colorbar

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["ensemble_maps", "save_figure"]

Array = NDArray[np.float64]


def ensemble_maps(
    truth: xr.DataArray,
    observed: xr.DataArray,
    ensemble: xr.DataArray,
    *,
    climatology: xr.DataArray | None = None,
    title: str | None = None,
) -> Figure:
    """Draw each month as a row: truth, what was observed, ensemble mean, spread, two members.

    Args:
        truth: True fields (time, lat, lon) of a few months.
        observed: Observations (time, lat, lon), NaN where nothing was observed.
        ensemble: Members (member, time, lat, lon), two or more.
        climatology: Climatology (time, lat, lon), which is subtracted from all but the spread, so
            that anomalies are shown; by default the fields themselves are.
        title: Title above the whole figure.

    Returns:
        A figure that belongs to no window; keep it with `save_figure`.

    Raises:
        InputError: If the arrays do not belong together, or the ensemble has one member.
        ImportError: If matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("maps need matplotlib: pip install 'apsgeo[plot]'") from error
    _check(truth, observed, ensemble)
    base = 0.0 if climatology is None else climatology.values
    members = ensemble.transpose("member", "time", "lat", "lon").values
    percent = 100 * float(observed.notnull().mean())
    panels = {
        "Truth": truth.values - base,
        f"Observed ({percent:.2g} % of cells)": observed.values - base,
        "Ensemble mean": members.mean(0) - base,
        "Spread (standard deviation)": members.std(0, ddof=1),
        "Member 1": members[0] - base,
        "Member 2": members[1] - base,
    }
    canvas = Globe(LatLonDomain(truth["lat"].values, truth["lon"].values))
    signal = canvas.signal_style(panels["Truth"], anomalies=climatology is not None)
    spread = canvas.spread_style(panels["Spread (standard deviation)"])
    rows = len(truth)
    size = (2.6 * len(panels), 2.6 / canvas.aspect * rows + (1.4 if title else 1.1))
    figure = Figure(figsize=size, dpi=140, layout="constrained")
    axes = figure.subplots(rows, len(panels), squeeze=False)
    for j, (name, fields) in enumerate(panels.items()):
        for t in range(rows):
            draw = canvas.draw_points if j == 1 else canvas.draw_cells
            draw(axes[t, j], fields[t], spread if j == 3 else signal)
        axes[0, j].set_title(name, fontsize=11)
    for t in range(rows):
        axes[t, 0].set_ylabel(truth["time"].dt.strftime("%B %Y").values[t], fontsize=12)
    label = _signal_label(truth, climatology is not None)
    add_colorbar(figure, axes[:, :3], signal, label, 36)
    add_colorbar(figure, axes[:, 3:4], spread, f"spread [{_difference_unit(truth)}]", 14)
    add_colorbar(figure, axes[:, 4:], signal, label, 26)
    if title:
        figure.suptitle(title, fontsize=14)
    return figure


def save_figure(figure: Figure, path: str | os.PathLike[str], overwrite: bool = False) -> None:
    """Write a figure as PNG.

    Raises:
        OutputExistsError: If ``path`` exists and ``overwrite`` is false.
    """
    with atomic_file(path, overwrite) as temporary:
        figure.savefig(temporary, format="png")


def _difference_unit(field: xr.DataArray) -> str:
    """Return the unit of a difference: kelvin for temperatures in degrees Celsius."""
    units = str(field.attrs.get("units", "1"))
    return "K" if units in {"degC", "°C", "C", "celsius", "degree_Celsius", "deg C"} else units


def _signal_label(field: xr.DataArray, anomalies: bool) -> str:
    if anomalies:
        return f"anomaly [{_difference_unit(field)}]"
    name = field.attrs.get("long_name", field.name or "value")
    return f"{name} [{field.attrs.get('units', '1')}]"


def _check(truth: xr.DataArray, observed: xr.DataArray, ensemble: xr.DataArray) -> None:
    dims = ("time", "lat", "lon")
    if truth.dims != dims or observed.dims != dims or set(ensemble.dims) != {"member", *dims}:
        raise InputError(
            f"truth {truth.dims}, observed {observed.dims}, ensemble {ensemble.dims} given; "
            f"expected {dims} and for the ensemble also 'member'"
        )
    sizes = {k: v for k, v in ensemble.sizes.items() if k != "member"}
    if dict(truth.sizes) != sizes or truth.shape != observed.shape:
        raise InputError(
            f"sizes of truth {dict(truth.sizes)}, observed {dict(observed.sizes)} and ensemble "
            f"{sizes} differ: give the same months and grid"
        )
    if ensemble.sizes["member"] < 2:
        raise InputError("one member given, but two are drawn: draw more members")
