"""What each part of the method is worth, where the posterior is known.

python -m benchmarks ablations    writes benchmarks/results/truth/ablations_*.csv and .md

In the plane (benchmarks/truth/planar.py): base, objective, number and width of couplings, the
estimator of the prior's log-density, and how far a trained prior's own error goes on to the
posterior. On the mixture of two random fields (benchmarks/truth/mixture.py): the size of the
spectral flow, and measurements unlike those that were learned from.
"""

from __future__ import annotations

import argparse

from apsgeo.metrics.table import Row
from benchmarks.ablations.fields import size_rows, unlike_rows
from benchmarks.ablations.planar import coupling_rows, estimator_rows, objective_rows, prior_rows
from benchmarks.options import Option
from benchmarks.report import RESULTS, page, save
from benchmarks.truth.scores import TABLE
from benchmarks.truth.training import Recipe

TITLES = {"plane": "densities in the plane", "fields": "mixture of two random fields"}
"""Titles of the pages."""
OPTIONS = {
    "parts": tuple(TITLES),
    "threads": 1,
    "output": RESULTS / "truth",
    "planar_steps": Option(400, "of flows in the plane"),
    "steps": Option(300, "of each flow of fields"),
    "long_steps": Option(800, "of flows tried on the unlike"),
    "fields": Option(32, "measurements a density"),
    "planar_fields": Option(200, "measurements in the plane"),
}


def report(title: str, tables: dict[str, list[Row]], made: str) -> str:
    """Return the page of some tables."""
    about = (
        "Columns are those of truth_mixture.md: KL(q || p) in nats; CRPS and energy score relative "
        "to the exact posterior's, so that 1 is exact."
    )
    parts = [f"## {name}\n\n{TABLE.markdown(rows)}" for name, rows in tables.items()]
    return page(f"What each part is worth: {title}", about, *parts, made)


def run(options: argparse.Namespace, made: str) -> None:
    """Run the ablations and write their tables."""
    planar = {"steps": options.planar_steps, "fields": options.planar_fields, "seed": options.seed}
    fields = {"fields": options.fields, "seed": options.seed}
    parts = {
        "plane": {
            "Base and objective": lambda: objective_rows(**planar),
            "Number and width of couplings": lambda: coupling_rows(**planar),
            "Estimator of the prior's log-density": lambda: estimator_rows(**planar),
            "Error of a trained prior, and of the posterior": lambda: prior_rows(**planar),
        },
        "fields": {
            "Size of the spectral flow": lambda: size_rows(Recipe(steps=options.steps), **fields),
            "Unlike what was learned from": lambda: unlike_rows(
                Recipe(steps=options.long_steps), **fields
            ),
        },
    }
    for part in options.parts:
        tables = {name: make() for name, make in parts[part].items()}
        rows = [row for table in tables.values() for row in table]
        save(options.output / f"ablations_{part}", rows, report(TITLES[part], tables, made))
