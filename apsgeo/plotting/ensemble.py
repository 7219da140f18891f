"""Figures of one ensemble: its maps, the plume of a mean, and how well it is calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from apsgeo.errors import InputError
from apsgeo.labels.labels import without_grid_mapping
from apsgeo.labels.layout import Layout, layout_of
from apsgeo.labels.times import record_dims
from apsgeo.plotting.canvas import Array, add_colorbar
from apsgeo.plotting.nodes import canvas_of
from apsgeo.statistics.areas import AreaMean, Region

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from apsgeo.domains import Domain

__all__ = ["plot_ensemble", "plot_plume", "plot_rank_histogram", "plot_reliability"]

_BANDS = (0.9, 0.5)
_BLUE = "#2166ac"


def _figure(**options: Any) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("figures need matplotlib: pip install 'apsgeo[plot]'") from error
    return Figure(dpi=140, layout="constrained", **options)


def plot_ensemble(
    ensemble: xr.DataArray | xr.Dataset,
    observed: xr.DataArray | None = None,
    *,
    record: int = 0,
    members: int = 2,
    domain: Domain | None = None,
    title: str | None = None,
    projection: Any = None,
) -> Figure:
    """Draw one record: what was observed, mean, spread, and some members.

    Args:
        ensemble: Members (member, ...) on any domain, or statistics with ``_mean`` and ``_std``.
        observed: Observations on the same domain, NaN where nothing was observed.
        record: Number of the record.
        members: Number of members that are drawn.
        domain: Domain of the fields, if labels do not say it.
        title: Title; by default the name of the variable and the date.
        projection: Projection of the maps, one of ``cartopy.crs``, such as ``NorthPolarStereo()``;
            by default Equal Earth for a globe and degrees for a region.

    Returns:
        A figure that belongs to no window; see `apsgeo.plotting.maps.save_figure`.

    Raises:
        InputError: If there are no members and no such statistics, or several channels; or if there
            is a projection of what does not lie on the sphere.
        ImportError: If matplotlib is not installed.
    """
    fields, name, like = _shown(ensemble, record, members)
    layout = layout_of(like, domain, given="the ensemble", wanted="the figure")
    seen = None
    if observed is not None:
        there = record_dims(observed)
        part = observed.isel({there[0]: record}) if there else observed
        seen = _nodes(part, layout_of(part, layout.domain, given="what was observed"))
    canvas = canvas_of(layout.domain, projection)
    values = {panel: _nodes(each, layout) for panel, each in fields.items()}
    signal = canvas.style(values["Ensemble mean"][None])
    panels = ([] if seen is None else ["Observed"]) + list(values)
    columns = 2 if len(panels) == 4 else min(len(panels), 3)
    rows = -(-len(panels) // columns)
    figure = _figure(figsize=(4.0 * columns, 4.0 / canvas.aspect * rows + 1.3))
    axes = figure.subplots(rows, columns, squeeze=False)
    spread = None
    for panel, each in zip(panels, axes.flat, strict=False):
        each.set_title(panel, fontsize=11)
        if panel == "Observed":
            assert seen is not None
            canvas.draw_points(each, seen, signal)
            each.set_title(f"Observed ({100 * np.isfinite(seen).mean():.2g} % of nodes)")
        elif panel.startswith("Spread"):
            spread = canvas.style(values[panel][None], spread=True), each
            canvas.draw_cells(each, values[panel], spread[0])
        else:
            canvas.draw_cells(each, values[panel], signal)
    for each in axes.flat[len(panels) :]:
        each.set_axis_off()
    units = str(like.attrs.get("units", "")) or "1"
    add_colorbar(figure, axes, signal, f"{name} [{units}]", 40)
    if spread is not None:
        add_colorbar(figure, np.array([spread[1]]), spread[0], f"spread [{units}]", 20)
    figure.suptitle(title or _titled(name, like))
    return figure


def _shown(
    ensemble: xr.DataArray | xr.Dataset, record: int, members: int
) -> tuple[dict[str, xr.DataArray], str, xr.DataArray]:
    """Return the fields of each panel, the name of the variable, and one field."""
    if isinstance(ensemble, xr.Dataset):
        stems = [
            str(name).removesuffix("_mean") for name in ensemble if str(name).endswith("_mean")
        ]
        stems = [stem for stem in stems if not stem.endswith("_area")]
        if not stems:
            raise InputError(
                f"the data set has {', '.join(map(str, ensemble.data_vars))}; expected statistics "
                "with 'mean', or give an array of members"
            )
        stem = stems[0]
        mean = _one(ensemble[f"{stem}_mean"], record)
        panels = {"Ensemble mean": mean}
        if f"{stem}_std" in ensemble:
            panels["Spread (standard deviation)"] = _one(ensemble[f"{stem}_std"], record)
        for each in ensemble.get(f"{stem}_quantile", xr.DataArray([])).transpose(...)[:members]:
            if "quantile" in each.coords:
                panels[f"Quantile {float(each['quantile']):g}"] = _one(each, record)
        return panels, stem, mean
    if "member" not in ensemble.dims:
        raise InputError(f"the ensemble has dims {ensemble.dims}, and 'member' is not among them")
    one = _one(ensemble, record).transpose("member", ...).load()
    mean = one.mean("member", keep_attrs=True)
    panels = {"Ensemble mean": mean}
    if one.sizes["member"] > 1:
        panels["Spread (standard deviation)"] = one.std("member", ddof=1)
    for number in range(min(members, one.sizes["member"])):
        panels[f"Member {number + 1}"] = one[number]
    return panels, str(ensemble.name or "value"), mean


def _one(array: xr.DataArray, record: int) -> xr.DataArray:
    dims = record_dims(array)
    return array.isel({dims[0]: record}) if dims else array


def _nodes(array: xr.DataArray, layout: Layout) -> Array:
    """Return values (node,) of one field.

    Raises:
        InputError: If there are other dims.
    """
    if set(array.dims) != set(layout.dims):
        raise InputError(
            f"the field has dims {array.dims}, and a figure shows one of {layout.dims}; select a "
            "channel and a record first"
        )
    values = array.transpose(*layout.dims).values.astype(np.float64)
    return layout.nodes(values)


def _titled(name: str, like: xr.DataArray) -> str:
    date = next((each for each in like.coords.values() if each.dtype.kind in "M"), None)
    named = str(like.attrs.get("long_name", name))
    return named if date is None or date.ndim else f"{named}, {str(date.values)[:10]}"


def plot_plume(
    ensemble: xr.DataArray | xr.Dataset,
    regions: Mapping[str, Region] | None = None,
    *,
    truth: xr.DataArray | None = None,
    domain: Domain | None = None,
    members: int = 5,
) -> Figure:
    """Draw means by area over time, for each region: bands of 50 and 90 %, median, some members.

    Args:
        ensemble: Members (member, time, ...), or statistics with "area".
        regions: Regions of an ensemble of members; see `apsgeo.statistics.AreaMean`.
        truth: True fields (time, ...), whose means are drawn too.
        domain: Domain of the fields, if labels do not say it.
        members: Number of single members that are drawn.

    Raises:
        InputError: If there are neither members nor such statistics, or no times.
        ImportError: If matplotlib is not installed.
    """
    means = _area_means(ensemble, regions, domain)
    dims = record_dims(means)
    if len(dims) != 1:
        raise InputError(f"a plume is drawn over time, and the fields have dims {means.dims}")
    known = None if truth is None else _area_means(truth.expand_dims("member"), regions, domain)
    time, names = means[dims[0]].values, [str(name) for name in means["region"].values]
    figure = _figure(figsize=(8.0, 2.4 * len(names) + 0.6))
    axes = figure.subplots(len(names), 1, squeeze=False, sharex=True)
    for name, each in zip(names, axes.flat, strict=True):
        values = means.sel(region=name).transpose("member", dims[0]).values.astype(np.float64)
        for level, strength in zip(_BANDS, (0.18, 0.35), strict=True):
            low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0)
            label = f"{100 * level:g} %"
            each.fill_between(time, low, high, color=_BLUE, alpha=strength, lw=0, label=label)
        each.plot(time, values[:members].T, color=_BLUE, lw=0.5, alpha=0.5)
        each.plot(time, np.median(values, 0), color=_BLUE, lw=1.6, label="median")
        if known is not None:
            own = known.sel(region=name).isel(member=0)
            each.plot(own[dims[0]].values, own.values, color="0.1", lw=1.0, label="truth")
        each.set_title(name, fontsize=10, loc="left")
        each.set_ylabel(str(means.attrs.get("units", "")))
        each.margins(x=0)
        each.spines[["top", "right"]].set_visible(False)
    axes[0, 0].legend(ncols=4, fontsize=8, frameon=False, loc="best")
    return figure


def _area_means(
    ensemble: xr.DataArray | xr.Dataset,
    regions: Mapping[str, Region] | None,
    domain: Domain | None,
) -> xr.DataArray:
    """Return means by area (member, region, ...) of members, or those that statistics have."""
    if isinstance(ensemble, xr.Dataset):
        names = [name for name in ensemble if str(name).endswith("_area_mean")]
        if not names:
            raise InputError(
                f"the data set has {', '.join(map(str, ensemble.data_vars))}; expected statistics "
                "with 'area', or give an array of members"
            )
        return ensemble[names[0]]
    if "member" not in ensemble.dims:
        raise InputError(f"the ensemble has dims {ensemble.dims}, and 'member' is not among them")
    layout = layout_of(ensemble, domain, given="the ensemble", wanted="the figure")
    values = layout.nodes(ensemble.transpose(..., *layout.dims).values)
    valid = np.isfinite(values).all(axis=tuple(range(values.ndim - 1)))
    asked = AreaMean(regions or {})
    weights = asked.weights(layout.domain, valid)
    inside = np.where(valid, values, 0.0).astype(np.float64) @ weights.T
    kept = [str(dim) for dim in ensemble.dims if dim not in layout.dims]
    means = xr.DataArray(inside, dims=(*kept, "region"), attrs=ensemble.attrs)
    coords = {name: each for name, each in ensemble.coords.items() if set(each.dims) <= {*kept}}
    return means.assign_coords({**coords, "region": list(regions or ["all"])})


def plot_rank_histogram(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    observed: xr.DataArray | None = None,
    *,
    domain: Domain | None = None,
) -> Figure:
    """Draw how often the truth has each rank among the members, by area.

    It is flat for a calibrated ensemble; a U is overconfidence, an arch underconfidence, a slope a
    bias.

    Args:
        ensemble: Members (member, ...).
        truth: Fields on the same domain.
        observed: Fields that the ensemble was drawn from: only what is NaN there counts.
        domain: Domain of the fields, if labels do not say it.

    Raises:
        InputError: If the fields do not fit.
        ImportError: If matplotlib is not installed.
    """
    from apsgeo.diagnostics.calibration import rank_histogram

    members, values, weights = _hidden(ensemble, truth, observed, domain)
    shares = rank_histogram(members, values, weights)
    count = len(shares)
    figure = _figure(figsize=(5.0, 3.2))
    axes = figure.subplots()
    axes.bar(np.arange(count), shares * count, width=0.9, color=_BLUE, alpha=0.7)
    axes.axhline(1.0, color="0.2", lw=1.0)
    axes.set_xlabel("members below the truth")
    axes.set_ylabel("frequency, 1 if calibrated")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def plot_reliability(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    observed: xr.DataArray | None = None,
    *,
    domain: Domain | None = None,
) -> Figure:
    """Draw the share of the truth that central intervals of each level cover, by area.

    A calibrated ensemble is on the diagonal, an overconfident one below. See `plot_rank_histogram`
    for arguments and errors.
    """
    from apsgeo.diagnostics.calibration import reliability

    levels = np.linspace(0.1, 0.9, 9)
    members, values, weights = _hidden(ensemble, truth, observed, domain)
    found = reliability(members, values, weights, levels=[float(level) for level in levels])
    figure = _figure(figsize=(3.8, 3.8))
    axes = figure.subplots()
    axes.plot([0, 1], [0, 1], color="0.2", lw=1.0)
    axes.plot(levels, found, "o-", color=_BLUE)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    axes.set_aspect("equal")
    axes.set_xlabel("level of the interval")
    axes.set_ylabel("share of the truth within")
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def _hidden(
    ensemble: xr.DataArray,
    truth: xr.DataArray,
    observed: xr.DataArray | None,
    domain: Domain | None,
) -> tuple[Array, Array, Array]:
    """Return members (member, value), truth and weights (value,) of all that was not observed."""
    if "member" not in ensemble.dims:
        raise InputError(f"the ensemble has dims {ensemble.dims}, and 'member' is not among them")
    layout = layout_of(ensemble, domain, given="the ensemble", wanted="the figure")
    rest = [str(dim) for dim in ensemble.dims if dim not in ("member", *layout.dims)]
    order = (*rest, *layout.dims)
    each = [ensemble.transpose("member", *order)]
    for name, fields in (("the truth", truth), ("what was observed", observed)):
        if fields is None:
            continue
        if set(fields.dims) != {*order}:
            raise InputError(f"{name} has dims {fields.dims}; expected {order}")
        fields = without_grid_mapping(fields).transpose(*order)
        if fields.shape != each[0].shape[1:]:
            raise InputError(
                f"{name} has the sizes {dict(fields.sizes)}, and the ensemble "
                f"{dict(ensemble.sizes)}; give the same records"
            )
        each.append(fields)
    members, values, *seen = (layout.nodes(one.values.astype(np.float64)) for one in each)
    if seen:
        values = np.where(np.isnan(seen[0]), values, np.nan)
    weights = np.broadcast_to(layout.weights, values.shape).ravel()
    return members.reshape(len(members), -1), values.ravel(), weights
