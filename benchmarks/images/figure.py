"""The figure of the benchmark of images: samples beside the truth."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from apsgeo.domains import Domain
from benchmarks.images.cases import ImageCase

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Panels", "draw"]

Array = NDArray[np.float64]

_WIDTH = 0.95  # of a panel, in inches


@dataclass(frozen=True)
class Panels:
    """What is drawn of one task, in the units of the data.

    Attributes:
        task: Its name.
        truth: (image, y, x).
        measured: (image, observation), NaN where not observed.
        measured_on: The domain whose nodes the observations are.
        domain: Of the images.
        shown: For each method the first members and, last, the mean of all: (member, image, y, x).
    """

    task: str
    truth: Array
    measured: Array
    measured_on: Domain
    domain: Domain
    shown: Mapping[str, Array]

    def pictures(self, index: int) -> dict[str, Array]:
        """Return the row of one image, by its column's title."""
        _, nearest = cKDTree(self.measured_on.positions.numpy()).query(self.domain.positions)
        shape = self.truth.shape[1:]
        row = {
            "truth": self.truth[index],
            "measured": self.measured[index][nearest].reshape(shape),
        }
        for method, images in self.shown.items():
            names = [f"member {k + 1}" for k in range(len(images) - 1)] + ["mean"]
            for name, image in zip(names, images[:, index], strict=True):
                row[f"{textwrap.fill(method, 16)}\n{name}"] = image
        return row


def draw(tasks: Sequence[Panels], case: ImageCase) -> Figure:
    """Draw for each task some images, a row each: truth, measured, members and mean."""
    from matplotlib.figure import Figure

    each = 2 if len(tasks) > 1 else len(tasks[0].truth)
    rows = [(panels, index) for panels in tasks for index in range(each)]
    columns = len(tasks[0].pictures(0))
    figure = Figure(figsize=(_WIDTH * columns + 0.4, _WIDTH * len(rows) + 0.5), dpi=110)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(
        left=0.06, right=0.998, bottom=0.004, top=1 - 0.5 / (_WIDTH * len(rows) + 0.5)
    )
    for row, (axes, (panels, index)) in enumerate(zip(grid, rows, strict=True)):
        low, high = _limits(panels.truth[index], case)
        for place, (name, image) in zip(axes, panels.pictures(index).items(), strict=True):
            place.imshow(_coloured(image, case, low, high), cmap=case.colours, vmin=low, vmax=high)
            place.set_facecolor("tab:blue")
            place.set_xticks([])
            place.set_yticks([])
            if row == 0:
                place.set_title(name, fontsize=7)
        if index == 0:
            axes[0].set_ylabel(panels.task, fontsize=7)
    return figure


def _coloured(image: Array, case: ImageCase, low: float, high: float) -> Array:
    """Return an image, NaN where it was not measured, or the colours of a shaded relief."""
    from matplotlib import colormaps
    from matplotlib.colors import LightSource

    if not case.shading:
        return image
    colours: Array = LightSource().shade(
        image,
        colormaps[case.colours],
        vmin=low,
        vmax=high,
        blend_mode="soft",
        vert_exag=case.shading,
    )
    return colours


def _limits(truth: Array, case: ImageCase) -> tuple[float, float]:
    if not case.shading:
        return 0.0, case.data_range
    low, high = np.quantile(truth, [0.005, 0.995])
    return float(low), float(high)
