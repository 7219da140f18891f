"""Digits on a mesh with a trained diffusion prior: flows against long chains.

The true fields are draws of the trained prior itself (`digits-on-bunny` of
benchmarks/trained_priors/cases.py) that have settled at the noise of the measurement, so that its
posterior is what a method should sample, however good the prior is. Some percent of the nodes are
measured, with a noise in proportion to a node's standard deviation. The reference is the sampler of
benchmarks/truth/gibbs.py, which is run twice.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch
import xarray as xr
from safetensors.torch import load, save
from torch import Tensor

import apsgeo
from apsgeo.atomic import atomic_file
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.build import CouplingSpec
from apsgeo.measurement import Measurement
from apsgeo.metrics.table import Row
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from benchmarks.trained_priors.cases import CASES
from benchmarks.trained_priors.fit import train
from benchmarks.truth.figures import DigitsPanel
from benchmarks.truth.gibbs import Plan, Process, chains
from benchmarks.truth.scores import calibration, crps_at_truth, excess_scores

NOISE_STD = 0.5  # noise in standard deviations of a node
DENSITIES = (0.05, 0.2)  # densities that the measurements have in turn
_LEARNED = (0.04, 0.25)
_CASE = "digits-on-bunny"
_SPEC = CouplingSpec(
    base="anchor",
    width=24,
    depth=3,
    local=4,
    patterns=32,
    coupling_width=12,
    elementwise="spline",
    roughness=3,
)
_PART = 32  # draws of the prior at once
_SHOWN = 4  # measurements in the figure

Objective = Literal["score", "forward"]


@dataclass(frozen=True)
class Budget:
    """The effort that is spent.

    Attributes:
        draws: Number of draws of the prior, which flows learn from and chains begin at.
        measurements, members: Number of measurements to score on, and of members for each.
        simulations: Number of further measurements, for the calibration of flows alone.
        steps, rounds: Number of steps and of masks in the training of flows.
        plan: Plan of the chains.
    """

    draws: int = 400
    measurements: int = 6
    members: int = 24
    simulations: int = 40
    steps: int = 300
    rounds: int = 16
    plan: Plan = field(default_factory=lambda: Plan(rest=NOISE_STD))


def trained_prior(folder: Path) -> FieldPrior:
    """Load the prior, or train it; a run that was stopped goes on.

    The gain of its samples is left out, so that its law is that of its denoiser.
    """
    if not folder.exists():
        train(CASES[_CASE](), folder, share=1.0, evaluations=20, seed=0)
    prior = FieldPrior.load(folder)
    prior.denoiser.gain = None
    return prior


@dataclass(frozen=True)
class Observed:
    """Measured fields: standardized anomalies (field, 1, node), NaN in `seen` where hidden."""

    truth: Tensor
    seen: Tensor

    @property
    def measurement(self) -> Measurement:
        """The measurement that chains take."""
        return Measurement.of(self.seen, NOISE_STD)


class DigitsProblem:
    """A prior as the law of the truth, and its draws.

    Args:
        prior: Prior with a diffusion.
        budget: Budget of the draws.
        generator: Generator of all noise.
    """

    def __init__(self, prior: FieldPrior, budget: Budget, generator: torch.Generator) -> None:
        self.prior, self.budget, self._generator = prior, budget, generator
        self.process = Process(prior.denoiser, budget.plan, generator)

    def restore(self, fields: Tensor) -> Tensor:
        """Return standardized anomalies (..., field, 1, node) in the units of the data."""
        return self.prior.normals.restore(fields, torch.zeros(fields.shape[-3], dtype=torch.long))

    def observe(self, truth: Tensor) -> Observed:
        """Measure fields, at each of the densities in turn."""
        masks = [
            Mask.at_density(self.prior.domain, DENSITIES[i % len(DENSITIES)], self._generator)
            for i in range(len(truth))
        ]
        noisy = truth + NOISE_STD * self.process.white(truth)
        return Observed(truth, torch.where(torch.stack(masks)[:, None], noisy, torch.nan))

    def distill(self, learned: Tensor, objective: Objective, steps: int, seed: int) -> Posterior:
        """Train a flow on draws of the prior (draw, 1, node), the last tenth held out."""
        values = self.restore(learned)[:, 0].numpy()
        history = xr.DataArray(values, dims=("sample", "node"), name=self.prior.variable)
        return apsgeo.distill(
            replace(self.prior, held_out_from=len(values) * 9 // 10),
            Mask(*_LEARNED),
            NOISE_STD * self.prior.normals.std[0, 0],
            history=history,
            objective=objective,
            spec=_SPEC,
            training=apsgeo.Training(steps=steps, device="cpu", progress=False),
            folds=1,  # the anchor has seen none of these draws
            rounds=self.budget.rounds,
            seed=seed,
        )

    def members(self, posterior: Posterior, observed: Observed, members: int, seed: int) -> Tensor:
        """Draw members (member, field, 1, node) of a flow, standardized."""
        found = posterior(self.restore(observed.seen)).members(members, seed)
        season = torch.zeros(len(observed.seen), dtype=torch.long)
        return self.prior.normals.standardize(found, season)


def kept(path: Path, make: Callable[[], Tensor]) -> tuple[Tensor, float]:
    """Return a tensor and the seconds that it took, from a file if it was made before."""
    if not path.exists():
        start = time.process_time()
        made = {"fields": make(), "seconds": torch.tensor(time.process_time() - start)}
        with atomic_file(path, overwrite=True) as temporary:
            temporary.write_bytes(save(made))
        print(f"{path.name}: {float(made['seconds']):.0f} s of the processor", flush=True)
    found = load(path.read_bytes())
    return found["fields"], float(found["seconds"])


def digits_rows(
    prior: FieldPrior, budget: Budget, cache: Path, *, seed: int
) -> tuple[list[Row], list[DigitsPanel]]:
    """Score flows, and a second run of the chains, against a first one.

    Args:
        prior: Prior from `trained_prior`.
        budget: Budget of the computation.
        cache: Folder of draws and chains, with which a run that was stopped goes on.
        seed: Seed of all noise and weights.

    Returns:
        The rows, and the panels of the figure.
    """
    key = hashlib.sha256(repr((budget, seed)).encode()).hexdigest()[:8]
    problem = DigitsProblem(prior, budget, torch.Generator().manual_seed(seed))
    sizes = [budget.draws, budget.measurements, budget.simulations]
    drawn, _ = kept(
        cache / f"draws-{key}.safetensors",
        lambda: torch.cat([problem.process.prior(n) for n in _parts(sum(sizes))]),
    )
    learned, scored, others = drawn.split(sizes)
    problem = DigitsProblem(prior, budget, torch.Generator().manual_seed(seed + 1))
    observed, more = problem.observe(scored), problem.observe(others)

    def chained(run: int) -> tuple[Tensor, float]:
        again = DigitsProblem(prior, budget, torch.Generator().manual_seed(seed + 2 + run))
        return kept(
            cache / f"chains-{run}-{key}.safetensors",
            # each run begins at draws of its own
            lambda: chains(
                again.process, observed.measurement, learned[run::2], budget.members, budget.plan
            ),
        )

    reference, _ = chained(0)
    rows: list[Row] = []
    shown = {"chains": reference}

    def add(name: str, found: Tensor, **more: float) -> None:
        pair = [x.flatten(2).double() for x in (found, reference)]
        crps, energy = excess_scores(*pair)
        at = crps_at_truth(pair[0], observed.truth.flatten(1).double(), pair[1])
        scores = {"crps": crps, "energy": energy, "crps_at_truth": at}
        rows.append({"problem": "digits on a mesh", "method": name, **scores, **more})
        print(rows[-1], flush=True)

    found, seconds = chained(1)
    add("chains, again", found, sample_ms=64e3 * seconds / (len(found) * len(observed.truth)))
    for name, objective, steps in _methods(budget.steps):
        start = time.process_time()
        posterior = problem.distill(learned, objective, steps, seed)
        trained = time.process_time() - start
        found = problem.members(posterior, observed, budget.members, seed)
        start = time.process_time()
        ranked = problem.members(posterior, more, budget.members, seed + 1)
        spent = 64e3 * (time.process_time() - start) / (len(more.seen) * budget.members)
        drawn, true = ranked.flatten(2).double(), more.truth.flatten(1).double()
        more_of = calibration(drawn.mean(2), true.mean(1), drawn, true)
        add(name, found, train_seconds=trained, sample_ms=spent, **more_of)
        shown[name] = found
    return rows, _panels(problem, observed, shown)


def _parts(count: int) -> list[int]:
    return [min(_PART, count - start) for start in range(0, count, _PART)]


def _methods(steps: int) -> tuple[tuple[str, Objective, int], ...]:
    return (
        ("Gaussian anchor, untrained", "forward", 0),
        ("anchored, score", "score", steps),
        ("anchored, forward", "forward", steps),
    )


def _panels(
    problem: DigitsProblem, observed: Observed, shown: dict[str, Tensor]
) -> list[DigitsPanel]:
    """Return the panels of the first measurements, in the units of the data."""
    truth, seen = problem.restore(observed.truth), problem.restore(observed.seen)
    members = {name: problem.restore(fields) for name, fields in shown.items()}
    return [
        DigitsPanel(
            f"{float((~seen[i].isnan()).double().mean()):.0%} seen",
            truth[i, 0].numpy(),
            seen[i, 0].numpy(),
            {name: fields[:, i, 0].numpy() for name, fields in members.items()},
        )
        for i in range(min(_SHOWN, len(truth)))
    ]
