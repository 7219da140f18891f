"""The figure of the truth suite: exact posteriors in the plane, and samples of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from apsgeo.plotting import save_figure
from benchmarks.truth.planar import EXTENT, Quadrature

__all__ = ["Panel", "draw"]


@dataclass(frozen=True)
class Panel:
    """One measurement: its exact posterior, and the members of each method (member, 2)."""

    title: str
    value: float
    exact: Quadrature
    members: dict[str, Tensor]


def draw(panels: list[Panel], path: Path) -> None:
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
