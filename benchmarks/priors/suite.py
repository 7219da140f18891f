"""Compare the log-densities of diffusion priors, with exact scores, with the truth.

python -m benchmarks.priors.suite    writes benchmarks/results/priors.md, priors.csv and
                               prior_gradients.csv, and docs/figures/priors.png

The priors are Gaussians and mixtures of random fields on images, HEALPix and a latitude-longitude
grid, whose log-density is known (benchmarks/priors/cases.py). The estimates run on their exact
denoisers. What is reported is the error of the mean over a few fields, with its standard error, so
that a bias shows.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from apsgeo.atomic import write_csv
from apsgeo.diffusion.analytic import AnalyticDiffusion
from apsgeo.diffusion.estimate import Estimate
from apsgeo.diffusion.schedule import VPSchedule
from benchmarks.priors.cases import DOMAINS, SHAPES, Case, make_case
from benchmarks.priors.report import FIGURE, draw, report
from benchmarks.report import RESULTS, commit, provenance, write

# So wide that its ends do not matter beside the standard errors.
SCHEDULE = VPSchedule(beta_max=30.0, eps=1e-4)
EVALUATIONS = 9  # of the denoiser, in a pass of (a) and of (b)
PASSES = {2: 150, 64: 120, 768: 50, 10512: 32}
FIELDS = 8
PROBES = 16
TOLERANCE = 1e-9
ODE_FIELDS = {2: 8, 64: 8, 768: 1, 10512: 1}
MOST_EXACT = 1600  # values times components, up to which the trace is exact
GRADIENTS = [(dims, shape) for dims in (64, 768) for shape in ((2, 0.7), (5, 3.0))]
GRADIENT_PASSES = 25
COPIES = 25


@dataclass(frozen=True)
class Row:
    """One method on one prior; in nats."""

    dims: int
    components: int
    mean_rms: float
    method: str
    log_density: float  # the truth, averaged over the fields
    anchor_gap: float  # the truth less that of the moment-matched Gaussian, likewise
    bias: float  # of the average over the fields
    standard_error: float
    pass_std: float  # of one pass, or one probe, for one field
    seconds: float  # a field, all passes together


@dataclass(frozen=True)
class GradientRow:
    """The gradient with respect to the field by one method, relative to the score's norm."""

    dims: int
    components: int
    mean_rms: float
    method: str
    differentiate_network: bool
    bias: float
    standard_error: float
    noise: float  # root mean square error of one pass


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.priors.suite", description=__doc__)
    parser.add_argument("--dims", type=int, nargs="+", default=list(DOMAINS), choices=DOMAINS)
    parser.add_argument("--share", type=float, default=1.0, help="of the passes")
    parser.add_argument("--seed", type=int, default=0, help="of priors, fields and noise")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the tables")
    parser.add_argument("--figure", type=Path, default=FIGURE)
    return parser.parse_args(arguments)


def estimators(
    case: Case, generator: torch.Generator, differentiate_network: bool = True
) -> dict[str, Callable[[Tensor], Estimate]]:
    """Return the passes of (a), without and with the anchor's control variate, and of (b)."""
    plain = AnalyticDiffusion(case.prior, SCHEDULE)
    anchored = AnalyticDiffusion(case.prior, SCHEDULE, case.anchor)
    options: dict[str, Any] = {
        "generator": generator,
        "differentiate_network": differentiate_network,
    }
    points = EVALUATIONS - 1  # the reconstruction is one more
    return {
        "elbo": partial(plain.elbo, points=points, **options),
        "elbo-anchored": partial(anchored.elbo, points=points, **options),
        "anchored": partial(anchored.anchored_log_prob, points=EVALUATIONS, **options),
    }


def measure(case: Case, generator: torch.Generator, share: float) -> list[Row]:
    """Run all methods on one prior."""
    x = case.prior.sample(FIELDS, generator).double()
    truth = case.prior.log_prob(x)
    gap = float((truth - case.anchor.log_prob(x)).mean())
    about = (case.dims, case.components, case.mean_rms)
    rows = []
    for name, estimate in estimators(case, generator).items():
        start = time.perf_counter()
        with torch.no_grad():
            count = max(2, round(share * PASSES[case.dims]))
            errors = torch.stack([estimate(x).value for _ in range(count)]) - truth
        seconds = (time.perf_counter() - start) / FIELDS
        # Fields of a pass share its levels: the error is that of their average.
        mean = Estimate.of(errors.mean(1, keepdim=True))
        spread = float(errors.var(0).mean().sqrt())
        found = (float(mean.value), float(mean.standard_error), spread, seconds)
        rows.append(Row(*about, name, float(truth.mean()), gap, *found))
    denoiser = AnalyticDiffusion(case.prior, SCHEDULE, case.anchor)
    few = ODE_FIELDS[case.dims]
    for name, probes in (("ode-exact", None), ("ode-hutchinson", PROBES)):
        if probes is None and case.dims * case.components > MOST_EXACT:
            continue
        start = time.perf_counter()
        flow = denoiser.ode_log_prob(
            x[:few], probes=probes, tolerance=TOLERANCE, generator=generator
        )
        seconds = (time.perf_counter() - start) / few
        # Fields share the probes: the error of their average is at most the average error.
        error = float(flow.standard_error.mean())
        spread = error * (probes or 1) ** 0.5
        found = (float((flow.value - truth[:few]).mean()), error, spread, seconds)
        rows.append(Row(*about, name, float(truth.mean()), gap, *found))
    return rows


def measure_gradients(case: Case, generator: torch.Generator, share: float) -> list[GradientRow]:
    """Compare gradients with the exact score, at one field, with and without the Jacobian."""
    x = case.prior.sample(1, generator).double()
    truth = case.prior.score(x)[0]
    about, rows = (case.dims, case.components, case.mean_rms), []
    for differentiate in (True, False):
        for name, method in estimators(case, generator, differentiate).items():
            each = []
            for _ in range(max(2, round(share * GRADIENT_PASSES))):
                copies = x.expand(COPIES, -1, -1).clone().requires_grad_()
                value = method(copies).value.sum()
                each.append(torch.autograd.grad(value, copies)[0])
            rows.append(GradientRow(*about, name, differentiate, *_compare(each, truth)))
    return rows


def _compare(each: Sequence[Tensor], truth: Tensor) -> tuple[float, float, float]:
    """Return bias, its standard error, and noise of gradients (copy, ...) of each pass."""
    norm = float(truth.norm())
    passes = torch.stack([part.mean(0) for part in each]) - truth
    # |mean error|^2 less what chance adds to it.
    chance = float(passes.var(0).sum()) / len(passes)
    square = float(passes.mean(0).square().sum())
    bias = max(square - chance, 0.0) ** 0.5
    noise = float((torch.stack(list(each)) - truth).square().flatten(2).sum(2).mean().sqrt())
    return bias / norm, chance**0.5 / norm, noise / norm


def main() -> None:
    """Run the benchmark and write its results."""
    arguments = sys.argv[1:]
    options, made_by, start = parse(arguments), commit(), time.perf_counter()
    torch.set_num_threads(1)
    rows: list[Row] = []
    gradients: list[GradientRow] = []
    for dims in options.dims:
        for index, (components, mean_rms) in enumerate(SHAPES):
            # Of its own for each prior, so that their errors are independent.
            seed = 1000 * options.seed + len(SHAPES) * list(DOMAINS).index(dims) + index
            generator = torch.Generator().manual_seed(seed)
            case = make_case(dims, components, mean_rms, generator)
            found = measure(case, generator, options.share)
            for row in found:
                print(row, flush=True)
            rows += found
            if (dims, (components, mean_rms)) in GRADIENTS:
                gradients += measure_gradients(case, generator, options.share)
                print(*gradients[-6:], sep="\n", flush=True)
    write_csv(options.output / "priors.csv", [asdict(row) for row in rows])
    if gradients:
        write_csv(options.output / "prior_gradients.csv", [asdict(row) for row in gradients])
    made = provenance("benchmarks.priors.suite", arguments, options.seed, made_by)
    seconds = time.perf_counter() - start
    write(options.output / "priors.md", report(rows, gradients, made, seconds))
    draw(rows, options.figure)


if __name__ == "__main__":
    main()
