"""Score every method under protocol NCEP, in one run, on the same masks and noise.

python -m benchmarks ncep            writes benchmarks/results/ncep.csv and ncep.md
python -m benchmarks ncep --every 6  a sixth of the test months, in minutes
"""

from __future__ import annotations

import argparse

from apsgeo import datasets
from apsgeo.metrics.scoreboard import Scoreboard
from apsgeo.models import load
from apsgeo.posterior import Posterior
from apsgeo.protocol import DENSITIES, NOISE_STD, NcepProtocol, compared_methods
from benchmarks.options import Option
from benchmarks.report import page, save

OPTIONS = {
    "members": 32,
    "every": Option(1, "take every N-th test month"),
    "densities": Option(DENSITIES, "observed shares of the area"),
    "methods": Option(("",), "names of rows; all by default"),
    "anchored": Option("ncep-air", "model: name or folder"),
    "paper": Option("ncep-air-paper", "model in the paper's form"),
}


def posterior(name: str) -> Posterior:
    """Open a model that must be a posterior."""
    model = load(name)
    if not isinstance(model, Posterior):
        raise SystemExit(f"error: {name} is a prior; give a posterior")
    return model


def score(options: argparse.Namespace) -> Scoreboard:
    """Score every method at every density."""
    protocol = NcepProtocol(datasets.load("ncep-air"), seed=options.seed)
    methods = compared_methods(
        protocol,
        posterior(options.anchored),
        posterior(options.paper),
        members=options.members,
        seed=options.seed,
    )
    if any(options.methods):
        methods = [method for method in methods if method.name in options.methods]
    months = protocol.test[:: options.every]
    board = Scoreboard()
    for density in options.densities:
        for method in methods:
            board.add(method.name, density, protocol.evaluate(method, months, density))
    return board


def run(options: argparse.Namespace, made: str) -> None:
    """Run the benchmark and write its results."""
    board = score(options)
    about = (
        f"{board.rows[0]['records']} test months from 2010 on, noise {NOISE_STD} K, scores over "
        "unobserved cells weighted by cos(latitude). The protocol is described in "
        "`apsgeo/protocol.py`."
    )
    text = page("Protocol NCEP", about, board.to_markdown(), made)
    save(options.output / "ncep", board.rows, text)
    print(board.to_markdown())
