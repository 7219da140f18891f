"""Ablations in the plane, where the posterior is known by quadrature."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Literal, get_args

import torch
from torch import Tensor

from apsgeo.diffusion.analytic import AnalyticDiffusion
from apsgeo.diffusion.density import DiffusionDensity
from apsgeo.diffusion.fit import train_diffusion
from apsgeo.diffusion.spec import DenoiserSpec
from apsgeo.distillation.objective import LogDensity
from apsgeo.distillation.pairs import Batch
from apsgeo.flows.elementwise import Affine, Spline
from apsgeo.gaussian.dense import DensePrior
from apsgeo.gaussian.mixture import GaussianMixturePrior
from apsgeo.metrics.table import Row
from apsgeo.optim.training import Training
from benchmarks.truth.planar import EightGaussians, Planar, Ring
from benchmarks.truth.planar_rows import BaseName, Plan, score, train

_MEMBERS = 63
_SPLINE = Spline(8, 4.0)
_REFERENCE = Plan("", "anchor", _SPLINE, "mixed")
_ANNEALING = 20.0  # temperature at the start
_ELBO_POINTS = 2  # times in one estimate in training, as in `apsgeo.distill`
_PRIOR_FIELDS = 4096
_PRIOR_STEPS = (50, 200, 800)


def _row(
    density: Planar,
    plan: Plan,
    log_density: LogDensity | None,
    *,
    steps: int,
    fields: int,
    seed: int,
) -> Row:
    made, seconds = train(density, plan, steps, seed, log_density)
    scores = score(density, made, fields=fields, members=_MEMBERS, seed=seed + 1)
    row = {"problem": density.name, "method": plan.name, **scores, "train_seconds": seconds}
    print(row, flush=True)
    return row


def objective_rows(**budget: int) -> list[Row]:
    """Cross both bases with all objectives; the reverse ones with and without annealing."""
    methods = [
        replace(
            _REFERENCE,
            name=f"{base} base, {name}",
            base=base,
            objective=objective,
            annealing=annealing,
        )
        for base in get_args(BaseName)
        for name, objective, annealing in (
            ("reverse", "reverse", 1.0),
            ("reverse, annealed", "reverse", _ANNEALING),
            ("reverse by paths", "path", 1.0),
            ("reverse by paths, annealed", "path", _ANNEALING),
            ("forward", "forward", 1.0),
            ("mixed", "mixed", 1.0),
        )
    ]
    return _all((Ring(), EightGaussians()), methods, **budget)


def coupling_rows(**budget: int) -> list[Row]:
    """Vary the number of couplings, the width of their networks, and their maps."""
    methods = [
        replace(_REFERENCE, name=f"{count} of width {width}", couplings=count, width=width)
        for count in (1, 2, 4, 8)
        for width in (16, 64)
    ]
    methods.append(replace(_REFERENCE, name="8 of width 64, affine", maps=Affine(), couplings=8))
    return _all((Ring(), EightGaussians()), methods, **budget)


def _all(densities: Iterable[Planar], methods: Iterable[Plan], **budget: int) -> list[Row]:
    return [_row(density, method, None, **budget) for density in densities for method in methods]


def exact_diffusion(density: EightGaussians) -> AnalyticDiffusion:
    """Return the diffusion of eight Gaussians, perfectly trained."""
    domain = density.anchor.domain
    small = DensePrior(domain, density.std**2 * torch.eye(2, dtype=torch.float64))
    prior = GaussianMixturePrior([small] * 8, [1 / 8] * 8, density.centres()[:, None].double())
    return AnalyticDiffusion(prior, anchor=density.anchor)


def _estimate(diffusion: DiffusionDensity, method: Literal["elbo", "anchored"]) -> LogDensity:
    def log_density(points: Tensor, batch: Batch, generator: torch.Generator) -> Tensor:
        options = {"generator": generator, "points": _ELBO_POINTS}
        return diffusion.estimate_log_prob(points, method=method, **options).value

    return log_density


def estimator_rows(**budget: int) -> list[Row]:
    """Train by the exact log-density, and by both estimates of it with the exact denoiser."""
    density = EightGaussians()
    diffusion = exact_diffusion(density)
    method = replace(_REFERENCE, objective="path")
    sources = {
        "exact": None,
        "(a) evidence lower bound": _estimate(diffusion, "elbo"),
        "(b) anchored": _estimate(diffusion, "anchored"),
    }
    return [
        _row(density, replace(method, name=f"reverse by paths, {name}"), source, **budget)
        for name, source in sources.items()
    ]


def prior_rows(**budget: int) -> list[Row]:
    """Train diffusion priors for longer and longer, and a flow by the bound of each.

    The name of a row's method has the prior's own errors on held-out points: the true log p less
    the model's log p by the probability flow, and the latter less the bound.
    """
    rows = []
    for kind in (Ring, EightGaussians):
        density = kind()
        for count in _PRIOR_STEPS:
            diffusion, model_error, gap = trained_prior(density, count, budget["seed"])
            name = f"prior of {count} steps: log p short by {model_error:.3f}, bound by {gap:.3f}"
            method = replace(_REFERENCE, name=name)
            rows.append(_row(density, method, _estimate(diffusion, "elbo"), **budget))
    return rows


def trained_prior(
    density: Planar, steps: int, seed: int, points: int = 400
) -> tuple[DiffusionDensity, float, float]:
    """Train a diffusion prior on points; return it, KL(p || model) and its bound's gap in nats."""
    generator = torch.Generator().manual_seed(seed)
    learned, held = density.sample(_PRIOR_FIELDS, generator), density.sample(1000, generator)
    torch.manual_seed(seed)
    domain = density.anchor.domain
    diffusion = DenoiserSpec().build(domain, 1, None, torch.zeros(0, domain.num_nodes))
    train_diffusion(
        diffusion,
        learned,
        held,
        Training(steps=steps, batch=128, lr=2e-3, progress=False),
        seed=seed,
    )
    unseen = density.sample(points, generator)
    truth = float(density.log_prob(unseen[:, 0]).mean())
    with torch.no_grad():
        exact = diffusion.estimate_log_prob(unseen, method="ode", tolerance=1e-4).value
        bound = diffusion.estimate_log_prob(
            unseen, method="elbo", samples=16, points=8, generator=generator
        ).value
    if not math.isfinite(float(exact.mean())):
        raise AssertionError("the probability flow left the real numbers")
    return diffusion, truth - float(exact.mean()), float((exact - bound).mean())
