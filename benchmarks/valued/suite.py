"""Values on manifolds: wind directions, orientations of crystals, synthetic fields.

Directions (S1): months of navy winds from 1990 on, one cell in twenty seen with an error of 0.2
rad. Orientations (SO(3), cubic): a tenth of an EBSD map hidden. Synthetic: S2 and SPD(3), whose
posterior is known.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from apsgeo.metrics.table import Column, Row, Table, percent
from apsgeo.plotting.maps import save_figure
from apsgeo.plotting.tensors import plot_tensors
from benchmarks.options import Option
from benchmarks.report import page, save
from benchmarks.valued import figures, orientations, synthetic, winds

OPTIONS = {
    "members": 24,
    "parts": ("winds", "orientations", "synthetic"),
    "every": Option(9, "months between those of the winds that are filled"),
}


def _milliseconds(seconds: float) -> str:
    return f"{1000.0 * seconds:.1f}"


TABLES = {
    "winds": Table(
        Column("method", "method"),
        Column("CRPS [rad]", "crps", ".4f", best_among="part"),
        Column("RMSE [rad]", "rmse", ".3f"),
        Column("in the 90 % ball", "coverage", percent()),
        Column("circular variance", "variance", ".3f"),
        Column("seconds a field", "seconds", ".2f"),
        Column("of those of (u, v)", "ratio", ".2f"),
        Column("months", "records", ".0f"),
    ),
    "modes": Table(
        Column("half of the members in the greater mode", "share"),
        Column("other half in it", "members", percent()),
        Column("truths in it", "truth", percent()),
        Column("cells", "cells", ".0f"),
        Column("months", "records", ".0f"),
    ),
    "orientations": Table(
        Column("method", "method"),
        Column("median error [degree]", "median", ".3f", best_among="part"),
        Column("RMSE [degree]", "rmse", ".2f"),
        Column("CRPS [degree]", "crps", ".3f"),
        Column("in the 90 % ball", "coverage", percent()),
        Column("points", "records", ".0f"),
    ),
    "synthetic": Table(
        Column("method", "method"),
        Column("CRPS", "crps", ".4f"),
        Column("of the exact", "of_exact", ".3f"),
        Column("RMSE", "rmse", ".4f"),
        Column("in the 90 % ball", "coverage", percent()),
        Column("ms a field", "seconds", _milliseconds),
        Column("of those of numbers", "ratio", ".2f"),
        Column("fields", "records", ".0f"),
    ),
}

TITLES = {
    "winds": "Directions of winds",
    "modes": "Cells with two modes of the wind",
    "orientations": "Orientations of crystals",
    "synthetic": "Fields whose posterior is known",
}


def run(options: argparse.Namespace, made: str) -> None:
    """Run the parts that are asked for; each has a table of its own."""
    folder: Path = options.output / "valued"
    folder.mkdir(parents=True, exist_ok=True)
    for part in options.parts:
        for name, rows in _rows(part, options).items():
            save(folder / name, rows, text(name, rows, made))


def text(part: str, rows: list[Row], made: str) -> str:
    """Return the page of one part."""
    return page(TITLES[part], TABLES[part].markdown(rows), made)


def _rows(part: str, options: argparse.Namespace) -> dict[str, list[Row]]:
    """Return the rows of a part, by the name of their table."""
    if part == "synthetic":
        rows, panels = synthetic.run(options.members, options.seed)
        save_figure(plot_tensors(panels), options.figures / "valued_tensors.png", overwrite=True)
        return {part: rows}
    if part == "orientations":
        rows, maps = orientations.run(options.members, options.seed)
        figures.draw_orientations(maps, options.figures / "valued_orientations.png")
        return {part: rows}
    wind = winds.history()
    prior, methods = winds.methods(wind, options.members, options.seed)
    some = winds.cases(wind, prior, options.every, options.seed)
    drawn = {name: winds.drawn_by(draw, some) for name, draw in methods.items()}
    ours = drawn[winds.OURS]
    figures.draw_winds(ours[0], options.figures / "valued_winds.png")
    rows = [winds.score(name, each) for name, each in drawn.items()]
    seconds = {row["method"]: float(row["seconds"]) for row in rows}
    rows = [{**row, "ratio": seconds[row["method"]] / seconds[winds.PLAIN]} for row in rows]
    return {part: rows, "modes": winds.modes(ours)}
