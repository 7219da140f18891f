"""Score amortized posteriors where the exact one is known.

python -m benchmarks.truth.suite                    writes benchmarks/results/truth_*.md and .csv
python -m benchmarks.truth.suite --parts mixture    one of them; "plane" and "digits" also draw a figure

Five kinds of problems: linear-Gaussian on each domain (benchmarks/truth/gaussian.py), densities in
the plane (truth_planar.py), a log-normal field (truth_lognormal.py), the mixture of two random
fields on HEALPix (truth_mixture.py), and digits on a mesh with a trained prior (truth_digits.py),
whose posterior is known by long chains.
Flows learn from draws that are made on the fly, and are scored on others.
"""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from pathlib import Path

import torch

from apsgeo.atomic import write_csv
from benchmarks.report import FIGURES, RESULTS, commit, provenance, write
from benchmarks.truth.digits import Budget, digits_rows, trained_prior
from benchmarks.truth.digits_figure import draw as draw_digits
from benchmarks.truth.fields import mixture_rows
from benchmarks.truth.figure import draw
from benchmarks.truth.gaussian import gaussian_rows
from benchmarks.truth.lognormal import lognormal_rows
from benchmarks.truth.mixture import MixtureProblem
from benchmarks.truth.planar_rows import planar_rows
from benchmarks.truth.scores import Row
from benchmarks.truth.training import Recipe

__all__ = ["main", "parse", "report", "table"]

TITLES = {
    "gaussian": "linear-Gaussian, on every domain",
    "plane": "densities in the plane",
    "lognormal": "a log-normal field without noise",
    "mixture": "mixture of two random fields, HEALPix nside 8",
    "digits": "digits on a mesh, with a trained prior",
}
_ROOT = Path(__file__).parents[2]
FIGURE = FIGURES / "truth.png"
DIGITS_FIGURE = FIGURES / "truth_digits.png"
PRIORS = _ROOT / "build" / "truth"
_HEADINGS = {
    "kl": "KL, nats",
    "kl_greatest": "greatest",
    "mean_error": "mean error, std",
    "crps": "CRPS",
    "energy": "energy score",
    "crps_at_truth": "CRPS at the truth",
    "mode_error": "mode error",
    "collapsed": "collapsed",
    "impossible": "impossible values",
    "ess": "ESS",
    "pareto_k": "Pareto k",
    "sbc": "SBC p",
    "tarp": "TARP p",
    "train_seconds": "training, CPU s",
    "sample_ms": "64 members, ms",
}


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.truth.suite", description=__doc__)
    parser.add_argument("--parts", nargs="+", choices=TITLES, default=list(TITLES))
    parser.add_argument("--steps", type=int, default=2500, help="of the mixture's main flow")
    parser.add_argument("--planar-steps", type=int, default=1000)
    parser.add_argument("--lognormal-steps", type=int, default=1000)
    parser.add_argument("--fields", type=int, default=64, help="measurements a density")
    parser.add_argument("--planar-fields", type=int, default=500)
    parser.add_argument("--simulations", type=int, default=200, help="linear-Gaussian, a domain")
    parser.add_argument("--members", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the tables")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    parser.add_argument("--digits-steps", type=int, default=300, help="of each flow")
    parser.add_argument("--digits-figure", type=Path, default=DIGITS_FIGURE)
    parser.add_argument("--priors", type=Path, default=PRIORS, help="folder of prior and chains")
    return parser.parse_args(arguments)


def _cell(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.4g}"


def table(rows: list[Row]) -> str:
    """Return the rows, with the columns that any of them has."""
    kept = [name for name in _HEADINGS if any(not math.isnan(getattr(row, name)) for row in rows)]
    head = "| problem | method | " + " | ".join(_HEADINGS[name] for name in kept) + " |\n"
    line = "| --- | --- |" + " ---: |" * len(kept) + "\n"
    body = "\n".join(
        f"| {row.problem} | {row.method} | "
        + " | ".join(_cell(getattr(row, name)) for name in kept)
        + " |"
        for row in rows
    )
    return head + line + body + "\n"


def report(title: str, rows: list[Row], made_with: str) -> str:
    """Return the table of a part, with what is needed to make it again."""
    return (
        f"# Posteriors that are known exactly: {title}\n\n"
        "KL(q || p) by the members' log q - log p, with the exact normalizer; the greatest is over "
        "measurements. CRPS and energy score are expected scores relative to the exact "
        "posterior's, so that 1 is exact; the CRPS at the truth is relative to the same. Where the "
        "exact posterior is known by chains alone, these stand for it, and how far a second run of "
        "them is from 1 is what the table can tell apart. The mode error is that of a mode's "
        "weight, on average; a mode is collapsed where its weight is above 0.1 and no member is in "
        "it. Impossible values of a log-normal field are those not above zero. ESS is a share of "
        "the members. The figures are docs/figures/truth.png and docs/figures/truth_digits.png; docs/truth.md says "
        "what the methods are.\n\n"
        f"{table(rows)}\n{made_with}"
    )


def save(folder: Path, part: str, rows: list[Row], made_with: str) -> None:
    """Write truth_PART.csv and truth_PART.md."""
    write_csv(folder / f"truth_{part}.csv", [asdict(row) for row in rows])
    write(folder / f"truth_{part}.md", report(TITLES[part], rows, made_with))


def rows_of(part: str, options: argparse.Namespace) -> list[Row]:
    """Train and score all methods on the problems of a part; draw the figure of the plane."""
    seed = options.seed
    if part == "gaussian":
        return gaussian_rows(simulations=options.simulations, members=39, seed=seed)
    if part == "plane":
        rows, panels = planar_rows(
            options.planar_steps, fields=options.planar_fields, members=63, seed=seed
        )
        draw(panels, options.figure)
        return rows
    if part == "lognormal":
        return lognormal_rows(
            options.lognormal_steps,
            history=2000,
            fields=options.planar_fields,
            members=63,
            seed=seed,
        )
    if part == "digits":
        prior = trained_prior(options.priors / "digits-on-bunny")
        budget = Budget(steps=options.digits_steps)
        rows, shown = digits_rows(prior, budget, options.priors, seed=seed)
        draw_digits(shown, prior.domain, options.digits_figure)
        return rows
    recipe = Recipe(steps=options.steps)
    return mixture_rows(
        MixtureProblem(), recipe, fields=options.fields, members=options.members, seed=seed
    )


def main() -> None:
    """Run the parts and write their results."""
    arguments = sys.argv[1:]
    options = parse(arguments)
    made_with = provenance("benchmarks.truth.suite", arguments, options.seed, commit())
    torch.set_num_threads(options.threads)
    for part in options.parts:
        save(options.output, part, rows_of(part, options), made_with)


if __name__ == "__main__":
    main()
