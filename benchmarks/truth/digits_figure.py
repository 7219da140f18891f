"""The figure of digits on a mesh: what was seen, and members and means of each method."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from apsgeo.domains import Domain
from apsgeo.plotting import save_figure
from benchmarks.views import along_z

__all__ = ["Panel", "draw"]

Array = NDArray[Any]

_MEMBERS = 3  # of each method
_WIDTH = 1.0  # of a picture, in inches


@dataclass(frozen=True)
class Panel:
    """One measurement: truth and what was seen (node,), and members (member, node) of methods."""

    title: str
    truth: Array
    seen: Array
    members: dict[str, Array]


def draw(panels: list[Panel], domain: Domain, path: Path) -> None:
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
            shown = np.where(view >= 0, values[view], np.nan)
            axes.imshow(shown, cmap="gray", vmin=0.0, vmax=1.0, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        row[0].set_ylabel(panel.title, fontsize=7)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title.replace(", ", ",\n"), fontsize=6)
    save_figure(figure, path, overwrite=True)
