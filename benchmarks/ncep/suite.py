"""Score every method under protocol NCEP, in one run, on the same masks and noise.

python -m benchmarks ncep            writes benchmarks/results/ncep.csv and ncep.md
python -m benchmarks ncep --every 6  a sixth of the test months, in minutes
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from apsgeo import datasets
from apsgeo.baselines import SAMPLERS
from apsgeo.diffusion.prior import DiffusionPrior
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.metrics.scoreboard import Scoreboard, Scores
from apsgeo.models import load
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import fit_prior
from apsgeo.protocol import DENSITIES, NOISE_STD, NcepProtocol, compared_methods
from benchmarks.ncep.train_demo import BASELINE, HELD_OUT_FROM, HISTORY
from benchmarks.options import Option
from benchmarks.report import page, save, write

OPTIONS = {
    "members": 32,
    "every": Option(1, "take every N-th test month"),
    "densities": Option(DENSITIES, "observed shares of the area"),
    "methods": Option(("",), "names of rows; all by default"),
    "anchored": Option("ncep-air", "model: name or folder"),
    "paper": Option("ncep-air-paper", "model in the paper's form"),
    "prior": Option(Path("build/ncep/prior"), "diffusion prior of the iterative samplers"),
    "iterative_every": Option(97, "take every N-th test month for iterative samplers"),
    "iterative_members": Option(8, "size of their ensembles"),
    "prior_steps": Option(150, "training steps of their prior, if it is not there"),
}


def posterior(name: str) -> Posterior:
    """Open a model that must be a posterior."""
    model = load(name)
    if not isinstance(model, Posterior):
        raise SystemExit(f"error: {name} is a prior; give a posterior")
    return model


def diffusion_prior(folder: Path, steps: int, seed: int) -> DiffusionPrior:
    """Return the diffusion prior of a folder; it is trained, if it is not there."""
    if not folder.exists():
        history = datasets.load("ncep-air").sel(time=HISTORY)
        fit_prior(
            history,
            baseline=BASELINE,
            held_out_from=HELD_OUT_FROM,
            scales=HybridScales(),
            anchor_scales=HybridScales(),
            trend=None,
            training=Training(steps=steps),
            seed=seed,
        ).save(folder)
    prior = FieldPrior.load(folder)
    if prior.diffusion is None:
        raise SystemExit(f"error: {folder} has no diffusion prior; remove it, or give another")
    return prior.denoiser


def score(options: argparse.Namespace, made: str) -> Scoreboard:
    """Score every method at every density, and keep each row until all are there."""
    protocol = NcepProtocol(datasets.load("ncep-air"), seed=options.seed)
    diffusion = None
    if not any(options.methods) or SAMPLERS.keys() & set(options.methods):
        diffusion = diffusion_prior(options.prior, options.prior_steps, options.seed)
    shipped = posterior(options.anchored), posterior(options.paper)
    methods = compared_methods(protocol, *shipped, diffusion)
    if any(options.methods):
        methods = {name: methods[name] for name in options.methods}
    months = dict.fromkeys(methods, protocol.test[:: options.every])
    months |= dict.fromkeys(SAMPLERS, protocol.test[:: options.iterative_every])
    board = Scoreboard()
    for density in options.densities:
        for name, method in methods.items():
            members = options.iterative_members if name in SAMPLERS else options.members
            key = f"{name} {density} {len(months[name])} {members} {options.seed}"
            file = (
                options.prior.parent
                / "rows"
                / made.split("commit ")[1].split(";")[0]
                / f"{key}.json"
            )
            if file.exists():  # a run that was stopped goes on
                found = Scores(**json.loads(file.read_text(encoding="utf-8")))
            else:
                found = protocol.evaluate(method, months[name], density, members=members, name=name)
                write(file, json.dumps(asdict(found)))
            board.add(name, density, found)
            print(board.rows[-1], flush=True)
    return board


def run(options: argparse.Namespace, made: str) -> None:
    """Run the benchmark and write its results."""
    board = score(options, made)
    about = (
        f"{board.rows[0]['records']} test months from 2010 on, noise {NOISE_STD} K, scores over "
        "unobserved cells weighted by cos(latitude). The protocol is described in "
        f"`apsgeo/protocol.py`. Iterative samplers ({', '.join(SAMPLERS)}) take minutes a field: "
        f"they have every {options.iterative_every}th month and {options.iterative_members} "
        "members only, and their diffusion prior, on the hybrid one, "
        f"{options.prior_steps} steps of training."
    )
    text = page("Protocol NCEP", about, board.to_markdown(), made)
    save(options.output / "ncep", board.rows, text)
    print(board.to_markdown())
