"""Train the models that are shipped: ncep-air (anchored) and ncep-air-paper (the paper's form).

python -m benchmarks train-demo      an hour on 2 cores; writes apsgeo/models/
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Literal

import xarray as xr

import apsgeo
from apsgeo import datasets
from apsgeo.distillation.distill import distill
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import (
    HybridScales,
    LocalisedScales,
    Scales,
    TwoRangeScales,
    from_config,
    to_config,
)
from apsgeo.metrics.scoreboard import Scoreboard
from apsgeo.operators import Gaps, Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from apsgeo.prior import fit_prior
from apsgeo.protocol import DENSITIES, NOISE_STD, NcepProtocol
from benchmarks.amortized.suite import former
from benchmarks.options import Option
from benchmarks.report import RESULTS, command, write

MODELS = Path(apsgeo.__file__).parent / "models"
HISTORY = slice(None, "2009")
HELD_OUT_FROM = "2005-01-01"
BASELINE = ("1961", "2000")
# Months before satellites and the warming differ from those to come: without them the anchor's
# predictions of 2005-2009 are better at all densities.
RECENT = slice("1972", "2009")
RECENT_BASELINE = ("1972", "2004")
TREND: Literal["linear"] = "linear"  # of the anchored form: held-out months of 2005-2009 prefer it
STARTS = Path("build/ncep/start")
FOLDS = 8
NOISE = (0.05, 1.25)  # K; their geometric mean is the protocol's noise
ANCHORED = CouplingSpec(base="adaptive", width=16, depth=4, context=16, local=0, patterns=0)
MONTHS = {"ncep-air": "from 1972 to 2004", "ncep-air-paper": "before 2005"}
LEVELS = {"ncep-air": f"{NOISE[0]} to {NOISE[1]}", "ncep-air-paper": str(NOISE_STD)}
FLOW_STEPS = {"ncep-air": 3000, "ncep-air-paper": 240}
PAPER = CouplingSpec(base="white", width=16, depth=4, context=16, local=8, patterns=0)


def scales(history: xr.DataArray, file: Path) -> tuple[Scales, Scales]:
    """Return the scales of both Gaussian priors, chosen by held-out scores or kept from a file."""
    if not file.exists():
        protocol = NcepProtocol(history)
        starts = TwoRangeScales.start(protocol.domain), LocalisedScales.start(protocol.domain)
        chosen = [to_config(protocol.select_scales(start)) for start in starts]
        file.write_text(json.dumps(chosen, indent=2) + "\n", encoding="utf-8")
    hybrid, anchor = json.loads(file.read_text(encoding="utf-8"))
    return from_config(hybrid), from_config(anchor)


def anchored(history: xr.DataArray, options: argparse.Namespace) -> Posterior:
    """The flow on the local Gaussian posterior, by the score of its members on pairs."""
    hybrid, anchor = scales(history, options.scales)
    prior = fit_prior(
        history.sel(time=RECENT),
        baseline=RECENT_BASELINE,
        held_out_from=HELD_OUT_FROM,
        scales=hybrid,
        anchor_scales=anchor,
        trend=TREND,
        training=Training(steps=0),
        seed=options.seed,
    )
    start = None if options.start is None else former(options.start, STARTS / options.start)
    return distill(
        prior,
        Gaps(),
        NOISE,
        spec=ANCHORED,
        start=start,
        objective="score",
        training=Training(steps=options.flow_steps, checkpoint=options.checkpoint),
        folds=FOLDS,
        rounds=options.rounds,
        seed=options.seed,
    )


def paper(history: xr.DataArray, options: argparse.Namespace) -> Posterior:
    """A RealNVP on N(0, I), by the reverse KL to a plain diffusion prior's lower bound."""
    prior = fit_prior(
        history,
        baseline=BASELINE,
        held_out_from=HELD_OUT_FROM,
        scales=HybridScales(),
        anchor_scales=HybridScales(),
        trend=None,
        skip="none",
        training=Training(steps=options.prior_steps),
        seed=options.seed,
    )
    return distill(
        prior,
        Mask(),
        NOISE_STD,
        spec=PAPER,
        objective="reverse",
        training=Training(steps=options.flow_steps),
        rounds=options.rounds,
        seed=options.seed,
    )


TRAINERS = {"ncep-air": anchored, "ncep-air-paper": paper}
OPTIONS = {
    "parts": tuple(TRAINERS),
    "prior_steps": Option(500, "of the diffusion prior"),
    "flow_steps": Option(int, f"of the flow; by default {FLOW_STEPS}"),
    "scales": Option(RESULTS / "ncep_scales.json", "chosen anew if absent"),
    "rounds": Option(12, "measurements of each month"),
    "start": Option(str, "commit whose shipped ncep-air it starts from; by default none"),
    "checkpoint": Option(Path, "folder that keeps the state of the training of ncep-air"),
    "output": Option(MODELS, "folder of the model folders"),
}


def card(name: str, posterior: Posterior, options: argparse.Namespace, seconds: float) -> str:
    """Return the model's card: data, command, seed, and scores on the months held out."""
    arguments = ["train-demo", "--parts", name]
    for option in ("prior_steps", "flow_steps", "rounds", "seed"):
        arguments += [f"--{option.replace('_', '-')}", str(getattr(options, option))]
    if options.start is not None:
        arguments += ["--start", options.start]
    protocol = NcepProtocol(datasets.load("ncep-air"))
    board = Scoreboard()
    windows = {name: 0}
    if posterior.window:
        windows[f"{name}, with neighbours"] = posterior.window
    for density in DENSITIES:
        for row, window in windows.items():
            months = protocol.validation
            board.add(row, density, protocol.evaluate(posterior, months, density, window=window))
    made = posterior.provenance
    return (
        f"# {name}\n\n"
        "Posterior of monthly near-surface air temperature (NCEP/NCAR R1, 73 x 144) given point "
        f"observations with noise; see `config.json` for every setting.\n\n"
        f"- data: ncep-air (`datasets/ncep_air/README.md`), months {MONTHS[name]}; 2005-2009 only "
        "decided when to stop; no month from 2010 on was used\n"
        f"- command: `{command(arguments)}` ({seconds / 60:.0f} minutes)\n"
        f"- objective: {made['objective']}; steps: {made['steps']}; seed: {made['seed']}\n"
        f"- trend: {made['prior'].get('trend')}; {posterior.memory or 'no memory'}\n"
        f"- measured by {posterior.operator}, noise {LEVELS[name]} K\n\n"
        "Scores on the months 2005-2009, over unobserved cells (`apsgeo/protocol.py`):\n\n"
        f"{board.to_markdown()}"
    )


def run(options: argparse.Namespace, made: str) -> None:
    """Train, score, save."""
    history = datasets.load("ncep-air").sel(time=HISTORY)
    asked = options.flow_steps
    for name in options.parts:
        options.flow_steps = FLOW_STEPS[name] if asked is None else asked
        begun = time.perf_counter()
        posterior = TRAINERS[name](history, options)
        seconds = time.perf_counter() - begun
        folder = posterior.save(options.output / name, overwrite=True)
        write(folder / "README.md", card(name, posterior, options, seconds))
