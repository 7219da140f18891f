"""The figures of the truth suite: posteriors in the plane, and digits on a mesh."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.domains import Domain
from apsgeo.plotting.maps import save_figure
from benchmarks.truth.planar import EXTENT, Quadrature
from benchmarks.views import along_z, bare, seen

Array = NDArray[Any]

_MEMBERS = 3  # members of each method
_WIDTH = 1.0  # width of a picture, in inches


@dataclass(frozen=True)
class PlanePanel:
    """One measurement: its exact posterior, and the members of each method (member, 2)."""

    title: str
    value: float
    exact: Quadrature
    members: dict[str, Tensor]


def draw_plane(panels: list[PlanePanel], path: Path) -> None:
    """Draw a row for each measurement: the exact density, then the members of each method."""
    from matplotlib.figure import Figure

    names = list(panels[0].members)
    size = (2.3 * (1 + len(names)), 2.3 * len(panels) + 0.3)
    figure = Figure(figsize=size, dpi=130, layout="constrained")
    grid = figure.subplots(len(panels), 1 + len(names), squeeze=False, sharex=True, sharey=True)
    window = (-EXTENT * 0.75, EXTENT * 0.75)
    for axes, panel in zip(grid, panels, strict=True):
        density = panel.exact.log_density[0].exp().T
        prior = panel.exact.density.log_prob(panel.exact.grid).exp().T
        axis = panel.exact.grid[:, 0, 0]
        for column, axis_of in enumerate(axes):
            axis_of.contour(axis, axis, prior, levels=4, colors="0.75", linewidths=0.6)
            axis_of.axvline(panel.value, color="C3", linewidth=0.8, linestyle=":")
            axis_of.set(xlim=window, ylim=window, aspect="equal")
            axis_of.tick_params(labelsize=7)
            if column:
                points = panel.members[names[column - 1]]
                axis_of.plot(*points.T, ".", markersize=1.5, color="C0", alpha=0.6)
        extent = (-EXTENT, EXTENT, -EXTENT, EXTENT)
        shown = torch.where(density > 1e-3 * density.max(), density, torch.nan)
        axes[0].imshow(shown, origin="lower", extent=extent, cmap="Blues")
        axes[0].set(xlim=window, ylim=window)
        axes[0].set_ylabel(f"{panel.title}, $x_2$", fontsize=8)
    for axis_of, name in zip(grid[0], ["exact posterior", *names], strict=True):
        axis_of.set_title(name, fontsize=8)
    for axis_of in grid[-1]:
        axis_of.set_xlabel("$x_1$ (dotted: measured)", fontsize=8)
    save_figure(figure, path, overwrite=True)


@dataclass(frozen=True)
class DigitsPanel:
    """One measurement: truth and observed values (node,), and members (member, node) of methods."""

    title: str
    truth: Array
    seen: Array
    members: dict[str, Array]


def draw_digits(panels: list[DigitsPanel], domain: Domain, path: Path) -> None:
    """Draw a row for each measurement: truth, seen, members of each method, then their means."""
    from matplotlib.figure import Figure

    view = along_z(domain)
    names = list(panels[0].members)
    titles = ["truth", "seen"]
    titles += [f"{name} {k + 1}" for name in names for k in range(_MEMBERS)]
    titles += [f"mean of\n{name}" for name in names]
    height = _WIDTH * view.shape[0] / view.shape[1]
    size = (_WIDTH * len(titles) + 0.2, height * len(panels) + 0.6)
    figure = Figure(figsize=size, dpi=130)
    grid = figure.subplots(len(panels), len(titles), squeeze=False)
    figure.subplots_adjust(0.02, 0.01, 0.998, 1.0 - 0.55 / size[1], wspace=0.04, hspace=0.04)
    for row, panel in zip(grid, panels, strict=True):
        fields = [panel.truth, panel.seen]
        fields += [panel.members[name][k] for name in names for k in range(_MEMBERS)]
        fields += [panel.members[name].mean(0) for name in names]
        for axes, values in zip(row, fields, strict=True):
            surface = np.where(view >= 0, 1.0, np.nan)  # shows where nothing is seen
            axes.imshow(surface, cmap="Blues", vmin=0.0, vmax=4.0, interpolation="nearest")
            style = {"cmap": "gray", "vmin": 0.0, "vmax": 1.0}
            axes.imshow(seen(view, values), interpolation="nearest", **style)
            bare(axes)
        row[0].set_ylabel(panel.title, fontsize=7)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title.replace(", ", ",\n"), fontsize=6)
    save_figure(figure, path, overwrite=True)
