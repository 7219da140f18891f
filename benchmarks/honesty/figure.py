"""The figure of honesty: coverage and spread/skill against the share that was observed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure

from apsgeo.metrics.table import Row
from apsgeo.plotting.maps import save_figure

__all__ = ["draw"]

_BANDS = {"coverage90": (0.87, 0.93), "spread_skill": (0.9, 1.1)}
_TITLES = {"coverage90": "coverage of the 90 % interval", "spread_skill": "spread/skill"}


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw each record's line, the untrained start dashed, and the band that is asked for."""
    figure = Figure(figsize=(9.0, 4.0), layout="constrained")
    for axes, (key, (low, high)) in zip(figure.subplots(1, 2), _BANDS.items(), strict=True):
        axes.axhspan(low, high, color="0.9", zorder=0)
        for k, name in enumerate(dict.fromkeys(row["record"] for row in rows)):
            for method, style in (("untrained start", "--"), ("APS", "-")):
                own = [row for row in rows if (row["record"], row["method"]) == (name, method)]
                axes.plot(
                    [row["density"] for row in own],
                    [row[key] for row in own],
                    style,
                    marker="o",
                    markersize=3,
                    color=f"C{k}",
                    label=name if style == "-" else None,
                )
        axes.set(xscale="log", xlabel="observed share of the area", title=_TITLES[key])
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save_figure(figure, path, overwrite=True)
