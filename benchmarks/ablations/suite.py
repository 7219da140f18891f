"""What each part of the method is worth, where the posterior is known.

python -m benchmarks.ablations.suite    writes benchmarks/results/ablations_*.csv, .md

In the plane (truth_planar.py): base, objective, number and width of couplings, the estimator of the
prior's log-density, and how far a trained prior's own error goes on to the posterior. On the
mixture of two random fields (truth_mixture.py): the size of the spectral flow, and measurements
unlike those that were learned from.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from apsgeo.atomic import write_csv
from benchmarks.ablations.fields import size_rows, unlike_rows
from benchmarks.ablations.planar import coupling_rows, estimator_rows, objective_rows, prior_rows
from benchmarks.report import RESULTS, commit, provenance, write
from benchmarks.truth.scores import Row
from benchmarks.truth.suite import table
from benchmarks.truth.training import Recipe

__all__ = ["TITLES", "main", "parse", "report"]

TITLES = {"plane": "densities in the plane", "fields": "mixture of two random fields"}
"""Of the groups of tables."""


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations.suite")
    parser.add_argument("--groups", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--planar-steps", type=int, default=400)
    parser.add_argument("--steps", type=int, default=300, help="of each flow of fields")
    parser.add_argument("--long-steps", type=int, default=800, help="of flows tried on the unlike")
    parser.add_argument("--fields", type=int, default=32, help="measurements a density")
    parser.add_argument("--planar-fields", type=int, default=200)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser.parse_args(arguments)


def report(title: str, parts: dict[str, list[Row]], made_with: str) -> str:
    """Return the tables, with what is needed to make them again."""
    tables = "\n".join(f"## {name}\n\n{table(rows)}" for name, rows in parts.items())
    return (
        f"# What each part is worth: {title}\n\n"
        "Columns are those of truth_mixture.md: KL(q || p) in nats; CRPS and energy score relative "
        "to the exact posterior's, so that 1 is exact.\n\n"
        f"{tables}\n{made_with}"
    )


def main() -> None:
    """Run the ablations and write their tables."""
    arguments = sys.argv[1:]
    options = parse(arguments)
    made_with = provenance("benchmarks.ablations.suite", arguments, options.seed, commit())
    torch.set_num_threads(options.threads)
    planar = {"steps": options.planar_steps, "fields": options.planar_fields, "seed": options.seed}
    fields = {"fields": options.fields, "seed": options.seed}
    groups = {
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
    for group in options.groups:
        parts = {name: make() for name, make in groups[group].items()}
        path = options.output / f"ablations_{group}"
        rows = [asdict(row) for part in parts.values() for row in part]
        write_csv(path.with_suffix(".csv"), rows)
        write(path.with_suffix(".md"), report(TITLES[group], parts, made_with))


if __name__ == "__main__":
    main()
