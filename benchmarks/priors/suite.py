"""Compare the log-densities of diffusion priors, with exact scores, with the truth.

python -m benchmarks priors    writes benchmarks/results/priors.md, priors.csv and
                               prior_gradients.csv, and docs/figures/priors.png

The priors are Gaussians and mixtures of random fields on images, HEALPix and a latitude-longitude
grid, whose log-density is known (benchmarks/priors/cases.py). The estimates run on their exact
denoisers. What is reported is the error of the mean over a few fields, with its standard error, so
that a bias shows.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from apsgeo.diffusion.analytic import AnalyticDiffusion
from apsgeo.diffusion.estimate import Estimate
from apsgeo.diffusion.schedule import VPSchedule
from apsgeo.metrics.table import Row, write_rows
from benchmarks.options import Option
from benchmarks.priors.cases import DOMAINS, SHAPES, Case, make_case
from benchmarks.priors.report import draw, report
from benchmarks.report import save

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


OPTIONS = {
    "parts": tuple(DOMAINS),
    "threads": 1,
    "share": Option(1.0, "of the passes"),
}


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


def _about(case: Case) -> dict[str, float]:
    return {"dims": case.dims, "components": case.components, "mean_rms": case.mean_rms}


def measure(case: Case, generator: torch.Generator, share: float) -> list[Row]:
    """Run all methods on one prior, in nats.

    Of a row, ``log_density`` is the truth, averaged over the fields; ``anchor_gap`` the truth less
    that of the moment-matched Gaussian, likewise; ``bias`` the error of the average; ``pass_std``
    is of one pass, or one probe, for one field, and ``seconds`` of all passes for a field.
    """
    x = case.prior.sample(FIELDS, generator).double()
    truth = case.prior.log_prob(x)
    gap = float((truth - case.anchor.log_prob(x)).mean())
    about = {**_about(case), "log_density": float(truth.mean()), "anchor_gap": gap}
    rows: list[Row] = []

    def add(method: str, *found: float) -> None:
        keys = ("bias", "standard_error", "pass_std", "seconds")
        rows.append({**about, "method": method, **dict(zip(keys, found, strict=True))})

    for name, estimate in estimators(case, generator).items():
        start = time.perf_counter()
        with torch.no_grad():
            count = max(2, round(share * PASSES[case.dims]))
            errors = torch.stack([estimate(x).value for _ in range(count)]) - truth
        seconds = (time.perf_counter() - start) / FIELDS
        # Fields of a pass share its levels: the error is that of their average.
        mean = Estimate.of(errors.mean(1, keepdim=True))
        spread = float(errors.var(0).mean().sqrt())
        add(name, float(mean.value), float(mean.standard_error), spread, seconds)
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
        add(name, float((flow.value - truth[:few]).mean()), error, spread, seconds)
    return rows


def measure_gradients(case: Case, generator: torch.Generator, share: float) -> list[Row]:
    """Compare gradients with the exact score, at one field, with and without the Jacobian.

    Errors are relative to the score's norm; ``noise`` is the root mean square error of one pass.
    """
    x = case.prior.sample(1, generator).double()
    truth = case.prior.score(x)[0]
    rows: list[Row] = []
    for differentiate in (True, False):
        for name, method in estimators(case, generator, differentiate).items():
            each = []
            for _ in range(max(2, round(share * GRADIENT_PASSES))):
                copies = x.expand(COPIES, -1, -1).clone().requires_grad_()
                value = method(copies).value.sum()
                each.append(torch.autograd.grad(value, copies)[0])
            labels = {"method": name, "differentiate_network": differentiate}
            rows.append({**_about(case), **labels, **_compare(each, truth)})
    return rows


def _compare(each: Sequence[Tensor], truth: Tensor) -> dict[str, float]:
    """Return bias, its standard error, and noise of gradients (copy, ...) of each pass."""
    norm = float(truth.norm())
    passes = torch.stack([part.mean(0) for part in each]) - truth
    # |mean error|^2 less what chance adds to it.
    chance = float(passes.var(0).sum()) / len(passes)
    square = float(passes.mean(0).square().sum())
    bias = max(square - chance, 0.0) ** 0.5
    noise = float((torch.stack(list(each)) - truth).square().flatten(2).sum(2).mean().sqrt())
    return {"bias": bias / norm, "standard_error": chance**0.5 / norm, "noise": noise / norm}


def run(options: argparse.Namespace, made: str) -> None:
    """Run the benchmark and write its results."""
    start = time.perf_counter()
    rows: list[Row] = []
    gradients: list[Row] = []
    for dims in options.parts:
        for index, (components, mean_rms) in enumerate(SHAPES):
            # Of its own for each prior, so that their errors are independent.
            seed = 1000 * options.seed + len(SHAPES) * list(DOMAINS).index(dims) + index
            generator = torch.Generator().manual_seed(seed)
            case = make_case(dims, components, mean_rms, generator)
            found = measure(case, generator, options.share)
            print(*found, sep="\n", flush=True)
            rows += found
            if (dims, (components, mean_rms)) in GRADIENTS:
                gradients += measure_gradients(case, generator, options.share)
                print(*gradients[-6:], sep="\n", flush=True)
    if gradients:
        write_rows(options.output / "prior_gradients.csv", gradients)
    made += f"- seconds: {time.perf_counter() - start:.0f}\n"
    save(options.output / "priors", rows, report(rows, gradients, made))
    draw(rows, options.figures / "priors.png")
