"""Train diffusion priors on real data of five domains, and score them on fields never seen.

python -m benchmarks.trained_priors.suite                    trains, scores, writes tables and figures
python -m benchmarks.trained_priors.suite train ncep-air     trains one prior, or goes on with it
python -m benchmarks.trained_priors.suite score ncep-air     scores it
python -m benchmarks.trained_priors.suite report             writes what was scored

A prior is trained in about ten minutes on one core, and kept with its scores in build/, from where
a run that was stopped goes on. The report is benchmarks/results/trained_priors.md (and .csv), the
figures are docs/figures/trained_priors.png and docs/figures/trained_priors_spectra.png.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor

from apsgeo.field_prior import FieldPrior
from benchmarks.report import RESULTS, commit, provenance
from benchmarks.trained_priors.cases import CASES, TrainedCase
from benchmarks.trained_priors.figure import DOCS
from benchmarks.trained_priors.fit import train
from benchmarks.trained_priors.report import Shown, keep, write_report
from benchmarks.trained_priors.scores import (
    Budget,
    Score,
    denoising,
    densities,
    draw,
    memorization,
    spectra,
)

__all__ = ["main", "parse", "score"]

CACHE = Path(__file__).parents[1] / "build" / "trained_priors"
SHOWN = 8  # fields, and samples, in the figure
MONTHS = 12  # in a block of the sampling error of data


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.trained_priors.suite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="?", choices=["all", "train", "score", "report"])
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], metavar="NAME")
    parser.add_argument("--share", type=float, default=1.0, help="of the steps of training")
    parser.add_argument("--evaluations", type=int, default=20, help="in the choice of scales")
    parser.add_argument("--fields", type=int, default=64, help="for the densities (a) and (b)")
    parser.add_argument("--flow-fields", type=int, default=8, help="for the density (c)")
    parser.add_argument("--samples", type=int, default=256, help="unconditional, of each prior")
    parser.add_argument("--seed", type=int, default=0, help="of weights, noise and samples")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of priors and scores")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--figures", type=Path, default=DOCS, help="folder of the figures")
    options = parser.parse_args(arguments)
    options.what = options.what or "all"
    options.cases = options.cases or list(CASES)
    return options


def spread(fields: Tensor, count: int) -> Tensor:
    """Return so many fields, or all, evenly from first to last."""
    return fields[torch.linspace(0, len(fields) - 1, min(count, len(fields))).long()]


def score(
    case: TrainedCase, prior: FieldPrior, budget: Budget, seed: int
) -> tuple[list[Score], Shown]:
    """Measure a trained prior on the test fields and by its samples.

    Returns:
        The scores, and the real fields and samples that are drawn, in the units of the data.
    """
    diffusion = prior.diffusion
    assert diffusion is not None
    generator = torch.Generator().manual_seed(seed)
    learned = prior.encode(prior.split(case.train)[0])
    test = prior.encode(case.test)
    rows = denoising(diffusion, spread(test, budget.denoised), generator)
    samples, gaussian = draw(diffusion, budget.samples, budget.steps, generator)
    sets = {"train": learned, "test": test, "samples": samples, "gaussian": gaussian}
    block = MONTHS if prior.normals.seasons > 1 else 1
    rows += spectra(case.domain, sets, budget.eigenfunctions, block)
    rows += memorization(case.domain, samples, spread(test, budget.samples), learned)
    # in a random order, so that the first few are like the rest
    order = torch.randperm(len(test), generator=generator)
    rows += densities(diffusion, test[order], budget, generator)
    shown = [spread(test, SHOWN), samples[:SHOWN]]
    season = torch.linspace(0, len(test) - 1, SHOWN).long()
    season = prior.season_of(case.test)[season]
    normals = prior.normals
    drawn = [normals.restore(each, season[: len(each)]) for each in shown]
    if case.anomalies:
        drawn = [x - normals.mean[season[: len(x)]] for x in drawn]
    return rows, Shown(*(x[:, 0].numpy() for x in drawn))


def main() -> None:
    """Do what the command line asks for."""
    arguments = sys.argv[1:]
    options, made_by = parse(arguments), commit()
    torch.set_num_threads(1)
    budget = Budget(fields=options.fields, flow_fields=options.flow_fields, samples=options.samples)
    for name in options.cases:
        folder = options.cache / name
        if options.what == "train" or (options.what == "all" and not folder.exists()):
            case = CASES[name]()
            train(
                case,
                folder,
                share=options.share,
                evaluations=options.evaluations,
                seed=options.seed,
            )
        if options.what in ("all", "score"):
            begun = time.perf_counter()
            case, prior = CASES[name](), FieldPrior.load(folder)
            rows, shown = score(case, prior, budget, options.seed)
            seconds = round(time.perf_counter() - begun)
            about = {"training": prior.provenance, "seconds": seconds, "budget": asdict(budget)}
            keep(options.cache, name, about, rows, shown)
            print(f"{name}: scored in {seconds} s", flush=True)
    if options.what in ("all", "report"):
        said = provenance("benchmarks.trained_priors.suite", arguments, options.seed, made_by)
        write_report(options.cache, options.cases, said, options.output, options.figures)


if __name__ == "__main__":
    main()
