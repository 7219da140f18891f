"""Score every method under protocol NCEP, in one run, on the same masks and noise.

python -m benchmarks.ncep.suite            writes benchmarks/results/ncep.csv and ncep.md
python -m benchmarks.ncep.suite --every 6  a sixth of the test months, in minutes
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from apsgeo import datasets
from apsgeo.metrics.scoreboard import Scoreboard
from apsgeo.models import load
from apsgeo.posterior import Posterior
from apsgeo.protocol import DENSITIES, NOISE_STD, NcepProtocol, compared_methods
from benchmarks.report import RESULTS, commit, provenance, write


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ncep.suite", description=__doc__)
    parser.add_argument("--every", type=int, default=1, help="take every N-th test month")
    parser.add_argument("--densities", type=float, nargs="+", default=list(DENSITIES))
    parser.add_argument("--members", type=int, default=32, help="size of the ensembles")
    parser.add_argument("--seed", type=int, default=0, help="of masks, noise and ensembles")
    parser.add_argument("--methods", nargs="+", help="names of rows; all by default")
    parser.add_argument("--anchored", default="ncep-air", help="model: name or folder")
    parser.add_argument("--paper", default="ncep-air-paper", help="model in the paper's form")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for ncep.csv, ncep.md")
    return parser.parse_args(arguments)


def posterior(name: str) -> Posterior:
    """Open a model that must be a posterior."""
    model = load(name)
    if not isinstance(model, Posterior):
        raise SystemExit(f"error: {name} is a prior; give a posterior")
    return model


def run(options: argparse.Namespace) -> Scoreboard:
    """Score every method at every density."""
    protocol = NcepProtocol(datasets.load("ncep-air"), seed=options.seed)
    methods = compared_methods(
        protocol,
        posterior(options.anchored),
        posterior(options.paper),
        members=options.members,
        seed=options.seed,
    )
    if options.methods:
        methods = [method for method in methods if method.name in options.methods]
    months = protocol.test[:: options.every]
    board = Scoreboard()
    for density in options.densities:
        for method in methods:
            board.add(method.name, density, protocol.evaluate(method, months, density))
    return board


def report(board: Scoreboard, arguments: list[str], seed: int, made_by: str) -> str:
    """Return the table with what is needed to make it again."""
    records = board.rows[0].scores.records
    return (
        "# Protocol NCEP\n\n"
        f"{records} test months from 2010 on, noise {NOISE_STD} K, scores over unobserved cells "
        "weighted by cos(latitude). The protocol is described in `apsgeo/protocol.py`.\n\n"
        f"{board.to_markdown()}\n"
        f"{provenance('benchmarks.ncep.suite', arguments, seed, made_by)}"
    )


def main() -> None:
    """Run the benchmark and write its results."""
    arguments = sys.argv[1:]
    options = parse(arguments)
    made_by = commit()
    board = run(options)
    board.write_csv(options.output / "ncep.csv", overwrite=True)
    write(options.output / "ncep.md", report(board, arguments, options.seed, made_by))
    print(board.to_markdown())


if __name__ == "__main__":
    main()
