"""The mixture's rows of the truth suite: methods, and their scores at each density."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from apsgeo.flows.flow import Flow
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.gaussian.mixture import GaussianMixturePrior
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.regimes import fit_regimes
from apsgeo.measurement import Measurement
from apsgeo.metrics.table import Row
from benchmarks.truth.chains import HMC, hmc
from benchmarks.truth.mixture import DENSITIES, MixtureProblem, Pairs
from benchmarks.truth.scores import excess_scores, mode_errors, weight_scores
from benchmarks.truth.training import (
    Recipe,
    base_log_prob,
    paper_given,
    train_paper,
    train_spectral,
)

_REGIME_DRAWS = 6000

Draws = Callable[[Measurement, int, torch.Generator], tuple[Tensor, Tensor | None]]
"""Return members (member, batch, channel, node) and log q of them (member, batch), if known."""


@dataclass(frozen=True)
class Sampler:
    """A method: its name, how it draws, the seconds of its training, and its most members."""

    name: str
    draw: Draws
    train_seconds: float = 0.0
    most_members: int = 10**6


def of_mixture(name: str, prior: GaussianMixturePrior, seconds: float = 0.0) -> Sampler:
    """Return the exact posterior of a mixture as a method."""

    def draw(given: Measurement, members: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        posterior = prior.posterior(given)
        fields = posterior.sample(members, generator)
        return fields, torch.stack([posterior.log_prob(each) for each in fields])

    return Sampler(name, draw, seconds)


def of_gaussian(name: str, prior: GaussianPrior) -> Sampler:
    """Return the exact posterior of a Gaussian prior as a method: an untrained flow."""

    def draw(given: Measurement, members: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        posterior = prior.posterior(given)
        noise = torch.randn(members, len(given), posterior.noise_dim, generator=generator)
        deviation = posterior.deviations(noise)
        return posterior.mean + deviation, base_log_prob(posterior, deviation)

    return Sampler(name, draw)


def of_flow(name: str, prior: GaussianPrior, flow: SpectralFlow, seconds: float) -> Sampler:
    """Return a trained flow as a method."""

    @torch.no_grad()
    def draw(given: Measurement, members: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        posterior = prior.posterior(given)
        noise = torch.randn(members, len(given), posterior.noise_dim, generator=generator)
        deviation = posterior.deviations(noise)
        fields, log_det = flow.push(deviation, flow.condition(posterior))
        return fields, base_log_prob(posterior, deviation) - log_det

    return Sampler(name, draw, seconds)


def of_paper(name: str, flow: Flow, seconds: float) -> Sampler:
    """Return a flow from N(0, I) as a method."""

    @torch.no_grad()
    def draw(given: Measurement, members: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        noise = torch.randn(members, *given.shape, generator=generator)
        fields, log_det = flow.push(noise, paper_given(flow, given))
        energy = 0.5 * (noise**2 + math.log(2.0 * math.pi)).flatten(2).sum(2)
        return fields, -energy - log_det

    return Sampler(name, draw, seconds)


def of_chains(name: str, problem: MixtureProblem, plan: HMC, chains: int) -> Sampler:
    """Return chains from the anchor's posterior as a method: so many for each measurement."""

    def draw(given: Measurement, members: int, generator: torch.Generator) -> tuple[Tensor, None]:
        found = hmc(problem.anchor, problem.log_target, given, members, plan, generator)
        return found.fields, None

    return Sampler(name, draw, most_members=chains)


def mixture_samplers(problem: MixtureProblem, recipe: Recipe, seed: int) -> list[Sampler]:
    """Return all methods, trained; what is learned is learned from draws of the prior."""
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    fields = problem.mixture.sample(_REGIME_DRAWS, generator)
    regimes = fit_regimes(problem.domain, fields, patterns=problem.patterns)
    fitting = time.process_time() - start
    samplers = [
        of_mixture("exact posterior", problem.mixture),
        of_gaussian("Gaussian anchor, untrained", problem.anchor),
        of_mixture("mixture fitted to draws", regimes, fitting),
        of_chains("HMC, 32 chains", problem, HMC(), 32),
    ]
    short = replace(recipe, steps=recipe.steps // 4)
    paper, seconds = train_paper(problem, short, seed)
    samplers.append(of_paper("paper's form", paper, seconds))
    print(f"paper's form: {short.steps} steps, {seconds:.0f} s of CPU", flush=True)
    trained = {
        "anchored, reverse": (None, replace(short, mode="reverse")),
        "anchored, forward": (None, replace(short, mode="forward")),
        "anchored, mixed": (None, recipe),
        "anchored, mixed, sees fitted regimes": (regimes, recipe),
    }
    for name, (seen, plan) in trained.items():
        torch.manual_seed(seed)
        flow = SpectralFlow(problem.anchor, problem.patterns, regimes=seen)
        seconds = train_spectral(problem, flow, plan, seed)
        print(f"{name}: {plan.steps} steps, {seconds:.0f} s of CPU", flush=True)
        more = fitting if seen is not None else 0.0
        samplers.append(of_flow(name, problem.anchor, flow, seconds + more))
    return samplers


def score(
    problem: MixtureProblem, sampler: Sampler, density: float, fields: int, members: int, seed: int
) -> Row:
    """Score a method on measurements of unseen fields at one density."""
    generator = torch.Generator().manual_seed(seed)
    pairs = problem.draw(fields, generator, density=density)
    row = score_pairs(
        problem, sampler, pairs, f"mixture, {density:.1%} observed", members, generator
    )
    one = problem.draw(1, generator, density=density).measurement
    sampler.draw(one, 2, generator)
    start = time.perf_counter()
    sampler.draw(one, 64, generator)
    return {**row, "sample_ms": 1e3 * (time.perf_counter() - start)}


def score_pairs(
    problem: MixtureProblem,
    sampler: Sampler,
    pairs: Pairs,
    name: str,
    members: int,
    generator: torch.Generator,
) -> Row:
    """Score a method on given measurements of unseen fields."""
    members = min(members, sampler.most_members)
    exact = problem.mixture.posterior(pairs.measurement)
    reference = exact.sample(members, generator).flatten(2)
    drawn, log_q = sampler.draw(pairs.measurement, members, generator)
    weights = {}
    if log_q is not None:
        log_p = torch.stack([exact.log_prob(each) for each in drawn])
        weights = weight_scores(log_q, log_p)
    shares = torch.stack([problem.mixture.responsibilities(each) for each in drawn]).mean(0)
    crps, energy = excess_scores(drawn.flatten(2), reference)
    error, collapsed = mode_errors(shares, exact.weights)
    return {
        "problem": name,
        "method": sampler.name,
        **weights,
        "crps": crps,
        "energy": energy,
        "mode_error": error,
        "collapsed": collapsed,
        "train_seconds": sampler.train_seconds,
    }


def mixture_rows(
    problem: MixtureProblem, recipe: Recipe, *, fields: int, members: int, seed: int
) -> list[Row]:
    """Train all methods and score them at all densities, on measurements that none has seen."""
    samplers = mixture_samplers(problem, recipe, seed)
    rows = []
    for density in DENSITIES:
        for sampler in samplers:
            rows.append(score(problem, sampler, density, fields, members, seed + 1))
            print(rows[-1], flush=True)
    return rows
