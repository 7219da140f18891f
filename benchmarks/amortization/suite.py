"""The price of amortization: one flow for all measurements against one optimized for each.

python -m benchmarks amortization    writes benchmarks/results/truth/amortization.* and the figure

On the mixture of two random fields (benchmarks/truth/mixture.py). Amortized flows are trained on
few or many measurements. The rival is variational inference of each measurement (Feng & Bouman
2023, *Efficient Bayesian computational imaging with a surrogate score-based prior*): the same flow,
optimized for that measurement alone by path gradients, from the untrained flow and from the
amortized one; the better of the two counts.
"""

from __future__ import annotations

import argparse
import copy
import math
import time
from collections.abc import Sequence
from math import inf
from pathlib import Path

import torch
from torch import Tensor

from apsgeo.flows.spectral import SpectralFlow
from apsgeo.measurement import Measurement
from apsgeo.metrics.table import Column, Row, Table
from apsgeo.optim.loop import fit_loop
from apsgeo.optim.training import Training
from apsgeo.plotting.maps import save_figure
from benchmarks.options import Option
from benchmarks.report import RESULTS, page, save
from benchmarks.truth.mixture import DENSITIES, NOISE_STD, MixtureProblem, Pairs
from benchmarks.truth.training import Recipe, path_divergence, train_spectral

OPTIONS = {
    "threads": 1,
    "output": RESULTS / "truth",
    "counts": Option((16.0, 128.0, 1024.0, inf), "numbers of measurements learned from"),
    "steps": Option(1500, "of the amortized training"),
    "optimize_steps": Option(300, "for each measurement"),
    "fields": Option(12, "unseen measurements a density"),
}
ENDLESS = "without end"
SETTING = (8, 12)
"""Resolution and degree of the problem."""
_SHARING = 4


class FixedPairs(MixtureProblem):
    """The problem with a fixed set of measurements to learn from, drawn again and again."""

    def __init__(self, count: int, seed: int, nside: int = 8, degree: int = 12) -> None:
        super().__init__(nside, degree)
        generator = torch.Generator().manual_seed(seed)
        draw = super().draw
        groups = [draw(_SHARING, generator) for _ in range(-(-count // _SHARING))]
        self.truth = torch.cat([pairs.truth for pairs in groups])[:count]
        measured = [pairs.measurement for pairs in groups]
        self.values = torch.cat([each.values for each in measured])[:count]
        self.mask = torch.cat([each.mask for each in measured])[:count]

    def draw(
        self,
        batch: int,
        generator: torch.Generator,
        density: float | None = None,
        sharing: int = 1,
    ) -> Pairs:
        """Draw some of the pairs; those of one mask stay together where there are enough."""
        together = min(sharing, _SHARING, len(self.truth))
        starts = torch.randint(
            len(self.truth) // together, (batch // together,), generator=generator
        )
        picked = (together * starts[:, None] + torch.arange(together)).flatten()
        measured = Measurement(self.values[picked], self.mask[picked], torch.tensor(NOISE_STD))
        return Pairs(self.truth[picked], measured)


TABLE = Table(
    Column("measurements learned from", "measurements", lambda n: f"{n:g}" if n < inf else ENDLESS),
    Column("observed", "density", ".1%"),
    # mean KL(q || p) in nats on unseen measurements
    Column("amortized", "amortized", ".2f"),
    Column("optimized from the start", "from_start", ".2f"),
    Column("optimized from the amortized", "from_amortized", ".2f"),
    # mean of the amortized flow less the better of the two, and its standard error
    Column("gap, nats a value", "gap", ".5f", error="error"),
    Column("training, s", "train_seconds", ".0f"),
    Column("each, s", "optimize_seconds", ".1f"),
)
ABOUT = (
    "Mixture of two random fields, HEALPix nside 8, 768 values. KL(q || p) in nats, averaged "
    "over unseen measurements: of the amortized flow, and of the same flow optimized for each "
    "measurement alone, from the untrained and from the amortized one. The gap is the mean of "
    "amortized less the better of the two, in nats a value, ± its standard error. Seconds are "
    "the processor's, of the amortized training and of one optimization from the start. The "
    "figure is `docs/figures/amortization.png`."
)


def amortized(
    count: float, recipe: Recipe, seed: int, setting: tuple[int, int] = SETTING
) -> tuple[SpectralFlow, float]:
    """Train a flow on so many measurements; return it, and the processor's seconds."""
    source = MixtureProblem(*setting)
    if not math.isinf(count):
        source = FixedPairs(int(count), seed + 1, *setting)
    torch.manual_seed(seed)
    flow = SpectralFlow(source.anchor, source.patterns)
    return flow, train_spectral(source, flow, recipe, seed)


def optimized(
    problem: MixtureProblem, flow: SpectralFlow, measured: Measurement, *, steps: int, seed: int
) -> SpectralFlow:
    """Return a copy of a flow optimized for one measurement by the reverse divergence."""
    flow = copy.deepcopy(flow)
    posterior = problem.anchor.posterior(measured)
    size = math.prod(measured.shape)

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        loss = path_divergence(
            flow,
            posterior,
            flow.condition(posterior),
            lambda fields: _log_joint(problem, measured, fields[:, 0])[:, None],
            members=16,
            generator=generator,
        )
        return loss / size

    fit_loop(
        flow, step_fn, Training(steps=steps, lr=2e-3, ema_decay=0.98, progress=False), seed=seed
    )
    return flow


def _log_joint(problem: MixtureProblem, measured: Measurement, fields: Tensor) -> Tensor:
    """Return log p(x) + log p(y | x) of one measurement and many fields (member, channel, node)."""
    shape = fields.shape
    each = [value.expand(shape) for value in (measured.values, measured.mask, measured.noise_std)]
    return problem.log_target(fields, Measurement(*each))


def kl_of(problem: MixtureProblem, flow: SpectralFlow, measured: Measurement, seed: int) -> float:
    """Return KL(q || p) of one measurement, from 256 members."""
    evidence = problem.mixture.posterior(measured).log_evidence()
    draws = flow.posterior(measured)
    fields = draws.members(256, seed)
    log_p = _log_joint(problem, measured, fields[:, 0]) - evidence
    with torch.no_grad():
        return float((draws.log_prob(fields)[:, 0] - log_p).double().mean())


def gaps(
    counts: Sequence[float],
    recipe: Recipe,
    *,
    fields: int,
    steps: int,
    seed: int,
    setting: tuple[int, int] = SETTING,
) -> list[Row]:
    """Train a flow on each number of measurements; optimize for each of the unseen ones."""
    problem = MixtureProblem(*setting)
    generator = torch.Generator().manual_seed(seed + 2)
    unseen = [
        problem.draw(1, generator, density=density).measurement
        for density in DENSITIES
        for _ in range(fields)
    ]

    def best_of_each(flow: SpectralFlow) -> Tensor:
        each = [optimized(problem, flow, measured, steps=steps, seed=seed) for measured in unseen]
        pairs = zip(each, unseen, strict=True)
        return torch.tensor([kl_of(problem, one, measured, seed) for one, measured in pairs])

    torch.manual_seed(seed)
    start = time.process_time()
    fresh = best_of_each(SpectralFlow(problem.anchor, problem.patterns))
    seconds = (time.process_time() - start) / len(unseen)
    rows: list[Row] = []
    for count in counts:
        flow, train_seconds = amortized(count, recipe, seed, setting)
        kl = torch.tensor([kl_of(problem, flow, measured, seed) for measured in unseen])
        tuned = best_of_each(flow)
        for index, density in enumerate(DENSITIES):
            part = slice(index * fields, (index + 1) * fields)
            each = kl[part] - torch.minimum(fresh[part], tuned[part])
            each = each / problem.domain.num_nodes
            row = {
                "measurements": count,
                "density": density,
                "amortized": float(kl[part].mean()),
                "from_start": float(fresh[part].mean()),
                "from_amortized": float(tuned[part].mean()),
                "gap": float(each.mean()),
                "error": float(each.std(correction=0) / math.sqrt(max(1, fields - 1))),
                "train_seconds": train_seconds,
                "optimize_seconds": seconds,
            }
            print(row, flush=True)
            rows.append(row)
    return rows


def draw(rows: Sequence[Row], path: Path) -> None:
    """Draw the gap against the number of measurements, a line a density."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    largest = max(row["measurements"] for row in rows if row["measurements"] < inf)
    for density in DENSITIES:
        line = [row for row in rows if row["density"] == density]
        x = [min(row["measurements"], 8.0 * largest) for row in line]
        y, error = [row["gap"] for row in line], [row["error"] for row in line]
        axes.errorbar(x, y, error, marker="o", capsize=2, label=f"{density:.1%} observed")
    axes.axhline(0.02, color="0.5", linestyle="--", label="0.02")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measurements learned from (rightmost: without end)")
    axes.set_ylabel("KL above optimization for each,\nnats a value")
    axes.legend()
    save_figure(figure, path, overwrite=True)


def run(options: argparse.Namespace, made: str) -> None:
    """Measure the gaps and write them."""
    rows = gaps(
        options.counts,
        Recipe(steps=options.steps),
        fields=options.fields,
        steps=options.optimize_steps,
        seed=options.seed,
    )
    text = page("The price of amortization", ABOUT, TABLE.markdown(rows), made)
    save(options.output / "amortization", rows, text)
    draw(rows, options.figures / "amortization.png")
