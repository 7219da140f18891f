"""Score amortized posteriors where the exact one is known.

python -m benchmarks truth                    writes benchmarks/results/truth/truth_*.md and .csv
python -m benchmarks truth --parts mixture    one of them; "plane" and "digits" also draw a figure

Five kinds of problems: linear-Gaussian on each domain (benchmarks/truth/gaussian.py), densities in
the plane (planar.py), a log-normal field (lognormal.py), the mixture of two random fields on
HEALPix (mixture.py), and digits on a mesh with a trained prior (digits.py), whose posterior is
known by long chains. Flows learn from draws that are made on the fly, and are scored on others.
"""

from __future__ import annotations

import argparse

from apsgeo.metrics.table import Row
from benchmarks.options import Option
from benchmarks.report import RESULTS, ROOT, page, save
from benchmarks.truth.digits import Budget, digits_rows, trained_prior
from benchmarks.truth.fields import mixture_rows
from benchmarks.truth.figures import draw_digits, draw_plane
from benchmarks.truth.gaussian import gaussian_rows
from benchmarks.truth.lognormal import lognormal_rows
from benchmarks.truth.mixture import MixtureProblem
from benchmarks.truth.planar_rows import planar_rows
from benchmarks.truth.scores import TABLE
from benchmarks.truth.training import Recipe

TITLES = {
    "gaussian": "linear-Gaussian, on every domain",
    "plane": "densities in the plane",
    "lognormal": "a log-normal field without noise",
    "mixture": "mixture of two random fields, HEALPix nside 8",
    "digits": "digits on a mesh, with a trained prior",
}
ABOUT = (
    "KL(q || p) by the members' log q - log p, with the exact normalizer; the greatest is over "
    "measurements. CRPS and energy score are expected scores relative to the exact "
    "posterior's, so that 1 is exact; the CRPS at the truth is relative to the same. Where the "
    "exact posterior is known by chains alone, these stand for it, and how far a second run of "
    "them is from 1 is what the table can tell apart. The mode error is that of a mode's "
    "weight, on average; a mode is collapsed where its weight is above 0.1 and no member is in "
    "it. Impossible values of a log-normal field are those not above zero. ESS is a share of "
    "the members. The figures are docs/figures/truth.png and docs/figures/truth_digits.png; "
    "docs/truth.md says what the methods are."
)
OPTIONS = {
    "parts": tuple(TITLES),
    "members": 128,
    "threads": 2,
    "output": RESULTS / "truth",
    "steps": Option(2500, "of the mixture's main flow"),
    "planar_steps": Option(1000, "of flows in the plane"),
    "lognormal_steps": Option(1000, "of flows of the log-normal field"),
    "digits_steps": Option(300, "of each flow of digits"),
    "fields": Option(64, "measurements a density"),
    "planar_fields": Option(500, "measurements in the plane, and of the log-normal field"),
    "simulations": Option(200, "linear-Gaussian, a domain"),
    "priors": Option(ROOT / "build" / "truth", "folder of the digits' prior and chains"),
}


def rows_of(part: str, options: argparse.Namespace) -> list[Row]:
    """Train and score all methods on the problems of a part, and draw its figure if it has one."""
    seed = options.seed
    if part == "gaussian":
        rows = gaussian_rows(simulations=options.simulations, members=39, seed=seed)
        return rows + gaussian_rows(simulations=options.simulations, members=39, seed=seed, finer=2)
    if part == "plane":
        rows, panels = planar_rows(
            options.planar_steps, fields=options.planar_fields, members=63, seed=seed
        )
        draw_plane(panels, options.figures / "truth.png")
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
        draw_digits(shown, prior.domain, options.figures / "truth_digits.png")
        return rows
    recipe = Recipe(steps=options.steps)
    return mixture_rows(
        MixtureProblem(), recipe, fields=options.fields, members=options.members, seed=seed
    )


def run(options: argparse.Namespace, made: str) -> None:
    """Run the parts and write their results."""
    for part in options.parts:
        rows = rows_of(part, options)
        title = f"Posteriors that are known exactly: {TITLES[part]}"
        text = page(title, ABOUT, TABLE.markdown(rows), made)
        save(options.output / f"truth_{part}", rows, text)
