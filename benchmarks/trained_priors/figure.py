"""The figures of trained priors: real fields above samples, and curves by scale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.trained_priors.cases import TrainedCase
from benchmarks.trained_priors.scores import Score
from benchmarks.views import bare, seen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_WIDTH = 1.25  # of a panel, in inches


@dataclass(frozen=True)
class Shown:
    """Real fields of the test, and samples, each (record, node), in the units of the data."""

    real: NDArray[np.float32]
    samples: NDArray[np.float32]


def draw_fields(rows: Mapping[str, tuple[TrainedCase, Shown]]) -> Figure:
    """Draw for each data set real fields above samples, with the same colours."""
    from matplotlib.figure import Figure

    views = {name: case.view(case.domain) for name, (case, _) in rows.items()}
    columns = max(len(shown.real) for _, shown in rows.values())
    aspects = [min(view.shape[0] / view.shape[1], 1.0) for view in views.values()]
    height = _WIDTH * (2 * sum(aspects) + 0.3 * len(rows))
    figure = Figure(figsize=(_WIDTH * columns + 0.9, height), dpi=110)
    blocks = figure.subfigures(len(rows), 1, height_ratios=aspects, squeeze=False)[:, 0]
    for block, (name, (case, shown)) in zip(blocks, rows.items(), strict=True):
        grid = block.subplots(2, columns, squeeze=False)
        block.subplots_adjust(0.09, 0.02, 0.995, 0.96, wspace=0.04, hspace=0.04)
        low, high = np.quantile(shown.real, [0.01, 0.99])
        if case.anomalies:
            high = max(-low, high)
            low = -high
        style = {"vmin": low, "vmax": high, "cmap": "RdBu_r" if case.anomalies else "gray"}
        for axes, fields, label in zip(
            grid, (shown.real, shown.samples), ("real", "samples"), strict=True
        ):
            axes[0].set_ylabel(f"{name}\n{label}" if label == "real" else label, fontsize=8)
            for place in axes:
                bare(place)
            for place, values in zip(axes, fields, strict=False):
                place.imshow(seen(views[name], values), interpolation="nearest", **style)
    return figure


def draw_spectra(scores: Mapping[str, Sequence[Score]]) -> Figure:
    """Draw denoising by level of noise above the power of samples by wavelength."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2.5 * len(scores), 4.8), dpi=130, layout="constrained")
    top, bottom = figure.subplots(2, len(scores), squeeze=False)
    for above, below, (name, rows) in zip(top, bottom, scores.items(), strict=True):
        _line(above, rows, "denoising", "ratio", "C0", "network / Gaussian")
        above.set(xscale="log", xlabel="noise (sigma / alpha)", title=name, ylim=(0, 1.08))
        below.axhspan(0.9, 1.1, color="0.9")
        for index, pair in enumerate(("samples / train", "test / train", "gaussian / train")):
            _line(below, rows, "spectrum", pair, f"C{index}", pair.replace("train", "training"))
        below.set(xscale="log", xlabel="wavelength", ylim=(0.5, 1.5))
        waves = [float(row.key) for row in rows if row.name == "samples / train"]
        below.set_xticks(waves, labels=[f"{wave:.2g}" for wave in waves])
        below.minorticks_off()
        below.invert_xaxis()
        for axes in (above, below):
            axes.axhline(1.0, color="0.5", lw=0.7)
            axes.grid(alpha=0.3)
    top[0].set_ylabel("ratio of mean square errors")
    bottom[0].set_ylabel("ratio of power")
    bottom[0].legend(fontsize=7)
    return figure


def _line(
    axes: object, rows: Sequence[Score], table: str, name: str, colour: str, label: str
) -> None:
    found = [row for row in rows if (row.table, row.name) == (table, name)]
    axes.errorbar(  # type: ignore[attr-defined]  # matplotlib is imported where it is used
        [float(row.key) for row in found],
        [row.value for row in found],
        [row.standard_error for row in found],
        color=colour,
        label=label,
        marker="o",
        ms=3,
        lw=1,
    )
