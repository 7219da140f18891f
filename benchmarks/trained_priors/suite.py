"""Train diffusion priors on real data of five domains, and score them on fields never seen.

python -m benchmarks trained-priors            trains, scores, writes tables and figures
python -m benchmarks trained-priors --stage train --parts ncep-air
                                               trains one prior, or goes on with it

The stages are train, score, and report, which writes all scores. A prior is trained in about ten
minutes on one core, and kept with its scores in build/, so that a run that was stopped goes on. The
report is benchmarks/results/trained_priors.md (and .csv), the figures are
docs/figures/trained_priors.png and docs/figures/trained_priors_spectra.png.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict

import torch
from torch import Tensor

from apsgeo.field_prior import FieldPrior
from benchmarks.options import Option
from benchmarks.report import ROOT
from benchmarks.trained_priors.cases import CASES, TrainedCase
from benchmarks.trained_priors.figure import Shown
from benchmarks.trained_priors.fit import train
from benchmarks.trained_priors.report import keep, write_report
from benchmarks.trained_priors.scores import (
    Budget,
    Score,
    denoising,
    densities,
    draw,
    memorization,
    spectra,
)

OPTIONS = {
    "parts": tuple(CASES),
    "threads": 1,
    "stage": Option("all", "what is done", ("all", "train", "score", "report")),
    "share": Option(1.0, "of the steps of training"),
    "evaluations": Option(20, "in the choice of scales"),
    "fields": Option(64, "for the densities (a) and (b)"),
    "flow_fields": Option(8, "for the density (c)"),
    "samples": Option(256, "unconditional, of each prior"),
    "cache": Option(ROOT / "build" / "trained_priors", "folder of priors and scores"),
}
SHOWN = 8  # fields, and samples, in the figure
MONTHS = 12  # in a block of the sampling error of data


def evenly(fields: Tensor, count: int) -> Tensor:
    """Return `count` fields, or all, evenly from first to last."""
    return fields[torch.linspace(0, len(fields) - 1, min(count, len(fields))).long()]


def score(
    case: TrainedCase, prior: FieldPrior, budget: Budget, seed: int
) -> tuple[list[Score], Shown]:
    """Measure a trained prior on the test fields and by its samples.

    Returns:
        The scores, and the real fields and samples that are drawn, in the units of the data.
    """
    diffusion = prior.denoiser
    generator = torch.Generator().manual_seed(seed)
    learned = prior.encode(prior.split(case.train)[0])
    test = prior.encode(case.test)
    rows = denoising(diffusion, evenly(test, budget.denoised), generator)
    samples, gaussian = draw(diffusion, budget.samples, budget.steps, generator)
    sets = {"train": learned, "test": test, "samples": samples, "gaussian": gaussian}
    block = MONTHS if prior.normals.seasons > 1 else 1
    rows += spectra(case.domain, sets, budget.eigenfunctions, block)
    rows += memorization(case.domain, samples, evenly(test, budget.samples), learned)
    # in a random order, so that the first few are like the rest
    order = torch.randperm(len(test), generator=generator)
    rows += densities(diffusion, test[order], budget, generator)
    shown = [evenly(test, SHOWN), samples[:SHOWN]]
    season = torch.linspace(0, len(test) - 1, SHOWN).long()
    season = prior.season_of(case.test)[season]
    normals = prior.normals
    drawn = [normals.restore(each, season[: len(each)]) for each in shown]
    if case.anomalies:
        drawn = [x - normals.mean[season[: len(x)]] for x in drawn]
    return rows, Shown(*(x[:, 0].numpy() for x in drawn))


def run(options: argparse.Namespace, made: str) -> None:
    """Do what the command line asks for."""
    budget = Budget(fields=options.fields, flow_fields=options.flow_fields, samples=options.samples)
    for name in options.parts:
        folder = options.cache / name
        if options.stage == "train" or (options.stage == "all" and not folder.exists()):
            case = CASES[name]()
            train(
                case,
                folder,
                share=options.share,
                evaluations=options.evaluations,
                seed=options.seed,
            )
        if options.stage in ("all", "score"):
            begun = time.perf_counter()
            case, prior = CASES[name](), FieldPrior.load(folder)
            rows, shown = score(case, prior, budget, options.seed)
            seconds = round(time.perf_counter() - begun)
            about = {"training": prior.provenance, "seconds": seconds, "budget": asdict(budget)}
            keep(options.cache, name, about, rows, shown)
            print(f"{name}: scored in {seconds} s", flush=True)
    if options.stage in ("all", "report"):
        write_report(options.cache, options.parts, made, options.output, options.figures)
