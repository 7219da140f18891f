"""The figure of the benchmark of images: samples beside the truth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.images.cases import ImageCase

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Array = NDArray[np.float64]

_WIDTH = 0.95  # of a panel, in inches


Panels = Mapping[str, Array]
"""Pictures (image, y, x) of one task, NaN where not observed, by the titles of their columns."""


def draw(tasks: Mapping[str, Panels], case: ImageCase) -> Figure:
    """Draw for each task some images, a row each: truth, measured, members and mean."""
    from matplotlib.figure import Figure

    first = next(iter(tasks.values()))
    each = 2 if len(tasks) > 1 else len(first["truth"])
    rows = [(name, index) for name in tasks for index in range(each)]
    columns = len(first)
    figure = Figure(figsize=(_WIDTH * columns + 0.4, _WIDTH * len(rows) + 0.5), dpi=110)
    grid = figure.subplots(len(rows), columns, squeeze=False)
    figure.subplots_adjust(
        left=0.06, right=0.998, bottom=0.004, top=1 - 0.5 / (_WIDTH * len(rows) + 0.5)
    )
    for axes, (name, index) in zip(grid, rows, strict=True):
        low, high = _limits(tasks[name]["truth"][index], case)
        for place, images in zip(axes, tasks[name].values(), strict=True):
            shown = _coloured(images[index], case, low, high)
            place.imshow(shown, cmap=case.colours, vmin=low, vmax=high)
            place.set_facecolor("tab:blue")
            place.set(xticks=[], yticks=[])
        if index == 0:
            axes[0].set_ylabel(name, fontsize=7)
    for place, title in zip(grid[0], first, strict=True):
        place.set_title(title, fontsize=7)
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
