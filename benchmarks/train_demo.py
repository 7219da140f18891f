"""Train the models that are shipped: ncep-air (anchored) and ncep-air-paper (the paper's form).

python -m benchmarks.train_demo      an hour on 2 cores; writes apsgeo/models/
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

import apsgeo
from apsgeo import datasets
from apsgeo.distillation import distill
from apsgeo.flows.build import FlowSpec
from apsgeo.metrics import Scoreboard
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from apsgeo.prior import fit_prior
from apsgeo.protocol import (
    DENSITIES,
    NOISE_STD,
    AmortizedPosterior,
    NcepProtocol,
)

MODELS = Path(apsgeo.__file__).parent / "models"
HISTORY = slice(None, "2009")
HELD_OUT_FROM = "2005-01-01"
BASELINE = ("1961", "2000")
ANCHORED = FlowSpec(base="gaussian", width=16, depth=4, context=16, local=2, patterns=32)
PAPER = FlowSpec(base="normal", width=16, depth=4, context=16, local=8, patterns=0)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_demo", description=__doc__)
    parser.add_argument("--prior-steps", type=int, default=600, help="of each diffusion prior")
    parser.add_argument("--flow-steps", type=int, default=1500, help="of each flow")
    parser.add_argument("--rounds", type=int, default=8, help="measurements of each month")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=MODELS, help="folder of the model folders")
    return parser.parse_args(arguments)


def train(options: argparse.Namespace) -> dict[str, Posterior]:
    """Fit both priors and distill both posteriors, with the same budget of steps."""
    history = datasets.load("ncep-air").sel(time=HISTORY)
    shared = {"seed": options.seed}
    prior = fit_prior(
        history,
        baseline=BASELINE,
        held_out_from=HELD_OUT_FROM,
        steps=options.prior_steps,
        **shared,
    )
    plain = fit_prior(
        history,
        baseline=BASELINE,
        held_out_from=HELD_OUT_FROM,
        scales=prior.scales,
        skip="none",
        steps=options.prior_steps,
        **shared,
    )
    budget = {"steps": options.flow_steps, "rounds": options.rounds, **shared}
    return {
        "ncep-air": distill(prior, Mask(), NOISE_STD, spec=ANCHORED, objective="mixed", **budget),
        "ncep-air-paper": distill(
            plain, Mask(), NOISE_STD, spec=PAPER, objective="reverse", **budget
        ),
    }


def card(name: str, posterior: Posterior, arguments: list[str], seconds: float) -> str:
    """Return the model's card: data, command, seed, and scores on the months held out."""
    protocol = NcepProtocol(datasets.load("ncep-air"))
    board = Scoreboard()
    method = AmortizedPosterior(posterior, name=name)
    for density in DENSITIES:
        board.add(name, density, protocol.evaluate(method, protocol.validation, density))
    command = shlex.join(["python", "-m", "benchmarks.train_demo", *arguments])
    made = posterior.provenance
    return (
        f"# {name}\n\n"
        "Posterior of monthly near-surface air temperature (NCEP/NCAR R1, 73 x 144) given point "
        f"observations with noise; see `config.json` for every setting.\n\n"
        "- data: ncep-air (`datasets/ncep_air/README.md`), months before 2005; 2005-2009 only "
        "decided when to stop; no month from 2010 on was used\n"
        f"- command: `{command}` ({seconds / 60:.0f} minutes for all models)\n"
        f"- objective: {made['objective']}; steps: {made['steps']}; seed: {made['seed']}\n"
        f"- noise: {NOISE_STD} K\n\n"
        "Scores on the months 2005-2009, over unobserved cells (`apsgeo/protocol.py`):\n\n"
        f"{board.to_markdown()}"
    )


def main() -> None:
    """Train, score, save."""
    arguments = sys.argv[1:]
    options = parse(arguments)
    begun = time.perf_counter()
    models = train(options)
    seconds = time.perf_counter() - begun
    for name, posterior in models.items():
        folder = posterior.save(options.output / name, overwrite=True)
        (folder / "README.md").write_text(card(name, posterior, arguments, seconds), "utf-8")


if __name__ == "__main__":
    main()
