"""The figure of the benchmark of domains: a row a data set, the tasks side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from apsgeo.domains import Domain
from benchmarks.domains.cases import Case
from benchmarks.views import bare, nearest, seen

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.cm import ScalarMappable
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_GROUND = (0.9, 0.9, 0.9)  # nodes that were not observed
_WIDTH = 1.7  # width of a panel, in inches
_GAP = 0.12  # gap between tasks, in panels
_TALLEST = 0.8  # height over width of a panel


@dataclass(frozen=True)
class Panels:
    """The fields that are drawn of one record and task, in the units of the data.

    Attributes:
        truth, mean, spread: True field, ensemble mean and spread (node,).
        measured: Values (observation,), NaN where not observed.
        measured_on: Domain whose nodes the observations are.
    """

    truth: Array
    measured: Array
    measured_on: Domain
    mean: Array
    spread: Array


def draw(rows: Mapping[str, tuple[Case, Sequence[Panels]]], tasks: Sequence[str]) -> Figure:
    """Draw for each data set the truth, and for each task the measured values, mean and spread.

    Returns:
        A figure that belongs to no window; keep it with `apsgeo.plotting.maps.save_figure`.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    views = [case.view(case.domain) for case, _ in rows.values()]
    aspects = [min(view.shape[0] / view.shape[1], _TALLEST) for view in views]
    widths = [1.0, *len(tasks) * [_GAP, 1.0, 1.0, 1.0]]
    size = (_WIDTH * sum(widths) + 1.8, _WIDTH * sum(aspects) + 0.2 * len(rows) + 0.6)
    layout = ConstrainedLayoutEngine(
        w_pad=0.02, h_pad=0.04, wspace=0.0, hspace=0.0, rect=(0.015, 0.0, 0.975, 1.0)
    )
    figure = Figure(figsize=size, dpi=110, layout=layout)
    grid = figure.subplots(
        len(rows), len(widths), squeeze=False, height_ratios=aspects, width_ratios=widths
    )
    for gap in grid[:, 1::4].flat:
        gap.remove()
    axes = np.delete(grid, np.s_[1::4], axis=1)
    for row, view, (name, (case, panels)) in zip(axes, views, rows.items(), strict=True):
        _draw_row(figure, row, view, case, panels)
        row[0].set_ylabel(name.replace("-", "\n", 1), fontsize=11)
    for place, what in enumerate(["truth"] + len(tasks) * ["measured", "posterior mean", "spread"]):
        axes[0, place].set_title(what, fontsize=11)
    for place, task in enumerate(tasks):
        middle = axes[0, 3 * place + 2]
        middle.set_title(f"{task}\n{middle.get_title()}", fontsize=11)
    return figure


def _draw_row(
    figure: Figure, axes: Array, view: NDArray[np.int64], case: Case, panels: Sequence[Panels]
) -> None:
    """Draw one data set with one colour scale for fields and one for spreads."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    truth = panels[0].truth
    if case.anomalies:
        bound = float(np.quantile(np.abs(truth), 0.98))
        signal = ScalarMappable(Normalize(-bound, bound), "RdBu_r")
    else:
        signal = ScalarMappable(Normalize(0.0, float(np.quantile(truth, 0.99))), "gray")
    largest = float(np.quantile([shown.spread for shown in panels], 0.98))
    spread = ScalarMappable(Normalize(0.0, largest), "YlGnBu")
    fields = [(truth, signal)]
    for shown in panels:
        measured = shown.measured[nearest(case.domain, shown.measured_on)]
        fields += [(measured, signal), (shown.mean, signal), (shown.spread, spread)]
    for place, (values, style) in zip(axes, fields, strict=True):
        _paint(place, view, values, style)
    unit = "" if case.units == "1" else f" [{case.units}]"
    for style, label in ((spread, "spread"), (signal, "field")):
        bar = figure.colorbar(style, ax=list(axes), label=label + unit, pad=0.005, aspect=12)
        bar.ax.tick_params(labelsize=8)


def _paint(axes: Axes, view: NDArray[np.int64], values: Array, style: ScalarMappable) -> None:
    """Colour what the view shows: grey without a value, nothing where no node is."""
    shown = seen(view, values)
    colours = style.to_rgba(np.ma.masked_invalid(shown))
    colours[np.isnan(shown)] = (*_GROUND, 1.0)
    colours[view < 0] = 0.0
    axes.imshow(colours)
    bare(axes)
