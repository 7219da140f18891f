"""The mixture's rows of the truth suite: methods, and their scores at each density."""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass, replace

import torch

from apsgeo.flows.spectral import SpectralFlow
from apsgeo.gaussian.regimes import fit_regimes
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Method
from apsgeo.metrics.table import Row
from benchmarks.truth.chains import HMC
from benchmarks.truth.mixture import DENSITIES, MixtureProblem, Pairs
from benchmarks.truth.scores import excess_scores, mode_errors, weight_scores
from benchmarks.truth.training import Recipe, train_paper, train_spectral

_REGIME_DRAWS = 6000


@dataclass(frozen=True)
class Entry:
    """A method of the table, its name, the seconds of its training, and its most members."""

    name: str
    method: Method
    train_seconds: float = 0.0
    most_members: int = 10**6


def mixture_entries(problem: MixtureProblem, recipe: Recipe, seed: int) -> list[Entry]:
    """Return all methods, trained on draws of the prior."""
    generator = torch.Generator().manual_seed(seed)
    start = time.process_time()
    fields = problem.mixture.sample(_REGIME_DRAWS, generator)
    regimes = fit_regimes(problem.domain, fields, patterns=problem.patterns)
    fitting = time.process_time() - start
    chains = HMC(problem.anchor, problem.log_target)
    entries = [
        Entry("exact posterior", problem.mixture),
        Entry("Gaussian anchor, untrained", problem.anchor),
        Entry("local start, untrained", VecchiaPrior(problem.anchor)),
        Entry("mixture fitted to draws", regimes, fitting),
        Entry("HMC, 32 chains", chains, most_members=32),
    ]
    short = replace(recipe, steps=recipe.steps // 4)
    paper, seconds = train_paper(problem, short, seed)
    entries.append(Entry("paper's form", paper, seconds))
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
        entries.append(Entry(name, flow, seconds + more))
        if seen is not None:  # the same weights from the start that needs no solve
            local = copy.copy(flow)
            local.base = VecchiaPrior(problem.anchor)
            entries.append(Entry(f"{name}, local start", local, seconds + more))
    return entries


def score(
    problem: MixtureProblem, entry: Entry, density: float, fields: int, members: int, seed: int
) -> Row:
    """Score a method on measurements of unseen fields at one density."""
    generator = torch.Generator().manual_seed(seed)
    pairs = problem.draw(fields, generator, density=density)
    row = score_pairs(problem, entry, pairs, f"mixture, {density:.1%} observed", members, seed)
    one = problem.draw(1, generator, density=density).measurement
    entry.method.posterior(one).members(2, seed)
    start = time.perf_counter()
    entry.method.posterior(one).members(64, seed)
    return {**row, "sample_ms": 1e3 * (time.perf_counter() - start)}


def score_pairs(
    problem: MixtureProblem,
    entry: Entry,
    pairs: Pairs,
    name: str,
    members: int,
    seed: int,
) -> Row:
    """Score a method on measurements of unseen fields."""
    members = min(members, entry.most_members)
    exact = problem.mixture.posterior(pairs.measurement)
    reference = exact.members(members, seed + 1).flatten(2)
    draws = entry.method.posterior(pairs.measurement)
    drawn, weights = draws.members(members, seed), {}
    if not isinstance(entry.method, HMC):  # which has no density
        with torch.no_grad():
            weights = weight_scores(draws.log_prob(drawn), exact.log_prob(drawn))
    shares = torch.stack([problem.mixture.responsibilities(each) for each in drawn]).mean(0)
    crps, energy = excess_scores(drawn.flatten(2), reference)
    error, collapsed = mode_errors(shares, exact.weights)
    return {
        "problem": name,
        "method": entry.name,
        **weights,
        "crps": crps,
        "energy": energy,
        "mode_error": error,
        "collapsed": collapsed,
        "train_seconds": entry.train_seconds,
    }


def mixture_rows(
    problem: MixtureProblem, recipe: Recipe, *, fields: int, members: int, seed: int
) -> list[Row]:
    """Train all methods, and score them at all densities on measurements that none has seen."""
    entries = mixture_entries(problem, recipe, seed)
    rows = []
    for density in DENSITIES:
        for entry in entries:
            rows.append(score(problem, entry, density, fields, members, seed + 1))
            print(rows[-1], flush=True)
    return rows
