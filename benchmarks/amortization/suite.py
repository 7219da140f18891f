"""The price of amortization: one flow for all measurements against one optimized for each.

python -m benchmarks.amortization.suite    writes benchmarks/results/amortization.* and the figure

On the mixture of two random fields (truth_mixture.py). Amortized flows are trained on few or many
measurements. The rival is variational inference of each measurement (Feng & Bouman 2023, *Efficient
Bayesian computational imaging with a surrogate score-based prior*): the same flow, optimized for
that measurement alone by path gradients, from the untrained flow and from the amortized one; the
better of the two counts.
"""

from __future__ import annotations

import argparse
import copy
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from apsgeo.atomic import write_csv
from apsgeo.flows.spectral import SpectralFlow
from apsgeo.measurement import Measurement
from apsgeo.optim.loop import fit_loop
from apsgeo.optim.training import Training
from apsgeo.plotting import save_figure
from benchmarks.report import FIGURES, RESULTS, commit, provenance, write
from benchmarks.truth.fields import of_flow
from benchmarks.truth.mixture import DENSITIES, NOISE_STD, MixtureProblem, Pairs
from benchmarks.truth.training import Recipe, path_divergence, train_spectral

__all__ = ["FixedPairs", "Gap", "amortized", "gaps", "kl_of", "main", "optimized", "report"]

FIGURE = FIGURES / "amortization.png"
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
        given = [pairs.measurement for pairs in groups]
        self.values = torch.cat([each.values for each in given])[:count]
        self.mask = torch.cat([each.mask for each in given])[:count]

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
        given = Measurement(self.values[picked], self.mask[picked], torch.tensor(NOISE_STD))
        return Pairs(self.truth[picked], given)


@dataclass(frozen=True)
class Gap:
    """KL(q || p) in nats on unseen measurements, amortized and optimized for each.

    Attributes:
        measurements: That the amortized flow learned from; infinite if they never repeat.
        density: Observed share.
        amortized: Mean KL.
        from_start, from_amortized: Mean KL of flows optimized for each measurement.
        gap: Mean of amortized less the better of the two, in nats a dimension.
        error: Standard error of the gap.
        train_seconds: Of the processor, for the amortized flow.
        optimize_seconds: Of the processor, for each measurement.
    """

    measurements: float
    density: float
    amortized: float
    from_start: float
    from_amortized: float
    gap: float
    error: float
    train_seconds: float
    optimize_seconds: float


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
    problem: MixtureProblem, flow: SpectralFlow, given: Measurement, *, steps: int, seed: int
) -> SpectralFlow:
    """Return a copy of a flow optimized for one measurement by the reverse divergence."""
    flow = copy.deepcopy(flow)
    posterior = problem.anchor.posterior(given)
    size = math.prod(given.shape)

    def step_fn(step: int, generator: torch.Generator) -> Tensor:
        loss = path_divergence(
            flow,
            posterior,
            flow.condition(posterior),
            lambda fields: _log_joint(problem, given, fields[:, 0])[:, None],
            members=16,
            generator=generator,
        )
        return loss / size

    fit_loop(
        flow, step_fn, Training(steps=steps, lr=2e-3, ema_decay=0.98, progress=False), seed=seed
    )
    return flow


def _log_joint(problem: MixtureProblem, given: Measurement, fields: Tensor) -> Tensor:
    """Return log p(x) + log p(y | x) of one measurement and many fields (member, channel, node)."""
    shape = fields.shape
    each = [value.expand(shape) for value in (given.values, given.mask, given.noise_std)]
    return problem.log_target(fields, Measurement(*each))


def kl_of(problem: MixtureProblem, flow: SpectralFlow, given: Measurement, seed: int) -> float:
    """Return KL(q || p) of one measurement, from 256 members."""
    generator = torch.Generator().manual_seed(seed)
    evidence = problem.mixture.posterior(given).log_evidence()
    fields, log_q = of_flow("", problem.anchor, flow, 0.0).draw(given, 256, generator)
    log_p = _log_joint(problem, given, fields[:, 0]) - evidence
    assert log_q is not None
    return float((log_q[:, 0] - log_p).double().mean())


def gaps(
    counts: Sequence[float],
    recipe: Recipe,
    *,
    fields: int,
    steps: int,
    seed: int,
    setting: tuple[int, int] = SETTING,
) -> list[Gap]:
    """Train a flow on each number of measurements; optimize for each of the unseen ones."""
    problem = MixtureProblem(*setting)
    generator = torch.Generator().manual_seed(seed + 2)
    unseen = [
        problem.draw(1, generator, density=density).measurement
        for density in DENSITIES
        for _ in range(fields)
    ]

    def best_of_each(flow: SpectralFlow) -> Tensor:
        each = [optimized(problem, flow, given, steps=steps, seed=seed) for given in unseen]
        pairs = zip(each, unseen, strict=True)
        return torch.tensor([kl_of(problem, one, given, seed) for one, given in pairs])

    torch.manual_seed(seed)
    start = time.process_time()
    fresh = best_of_each(SpectralFlow(problem.anchor, problem.patterns))
    seconds = (time.process_time() - start) / len(unseen)
    rows = []
    for count in counts:
        flow, train_seconds = amortized(count, recipe, seed, setting)
        kl = torch.tensor([kl_of(problem, flow, given, seed) for given in unseen])
        tuned = best_of_each(flow)
        for index, density in enumerate(DENSITIES):
            part = slice(index * fields, (index + 1) * fields)
            each = kl[part] - torch.minimum(fresh[part], tuned[part])
            each = each / problem.domain.num_nodes
            row = Gap(
                measurements=count,
                density=density,
                amortized=float(kl[part].mean()),
                from_start=float(fresh[part].mean()),
                from_amortized=float(tuned[part].mean()),
                gap=float(each.mean()),
                error=float(each.std(correction=0) / math.sqrt(max(1, fields - 1))),
                train_seconds=train_seconds,
                optimize_seconds=seconds,
            )
            print(row, flush=True)
            rows.append(row)
    return rows


def report(rows: Sequence[Gap], made_with: str) -> str:
    """Return the table, with what is needed to make it again."""
    body = "\n".join(
        f"| {'without end' if math.isinf(row.measurements) else f'{row.measurements:g}'} "
        f"| {row.density:.1%} | {row.amortized:.2f} | {row.from_start:.2f} "
        f"| {row.from_amortized:.2f} | {row.gap:.5f} ± {row.error:.5f} "
        f"| {row.train_seconds:.0f} | {row.optimize_seconds:.1f} |"
        for row in rows
    )
    return (
        "# The price of amortization\n\n"
        "Mixture of two random fields, HEALPix nside 8, 768 values. KL(q || p) in nats, averaged "
        "over unseen measurements: of the amortized flow, and of the same flow optimized for each "
        "measurement alone, from the untrained and from the amortized one. The gap is the mean of "
        "amortized less the better of the two, in nats a value, ± its standard error. Seconds are "
        "the processor's, of the amortized training and of one optimization from the start. The "
        "figure is `docs/figures/amortization.png`.\n\n"
        "| measurements learned from | observed | amortized | optimized from the start "
        "| optimized from the amortized | gap, nats a value | training, s | each, s |\n"
        "| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n"
        f"{body}\n\n{made_with}"
    )


def draw(rows: Sequence[Gap], path: Path) -> None:
    """Draw the gap against the number of measurements, a line a density."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5.5, 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    largest = max(row.measurements for row in rows if math.isfinite(row.measurements))
    for density in DENSITIES:
        line = [row for row in rows if row.density == density]
        x = [min(row.measurements, 8.0 * largest) for row in line]
        y, error = [row.gap for row in line], [row.error for row in line]
        axes.errorbar(x, y, error, marker="o", capsize=2, label=f"{density:.1%} observed")
    axes.axhline(0.02, color="0.5", linestyle="--", label="0.02")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("measurements learned from (rightmost: without end)")
    axes.set_ylabel("KL above optimization for each,\nnats a value")
    axes.legend()
    save_figure(figure, path, overwrite=True)


def parse(arguments: list[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.amortization.suite")
    parser.add_argument("--counts", type=float, nargs="+", default=[16, 128, 1024, math.inf])
    parser.add_argument("--steps", type=int, default=1500, help="of the amortized training")
    parser.add_argument("--optimize-steps", type=int, default=300, help="for each measurement")
    parser.add_argument("--fields", type=int, default=12, help="unseen measurements a density")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--figure", type=Path, default=FIGURE)
    return parser.parse_args(arguments)


def main() -> None:
    """Measure the gaps and write them."""
    arguments = sys.argv[1:]
    options = parse(arguments)
    made_with = provenance("benchmarks.amortization.suite", arguments, options.seed, commit())
    torch.set_num_threads(options.threads)
    rows = gaps(
        options.counts,
        Recipe(steps=options.steps),
        fields=options.fields,
        steps=options.optimize_steps,
        seed=options.seed,
    )
    write_csv(options.output / "amortization.csv", [asdict(row) for row in rows])
    write(options.output / "amortization.md", report(rows, made_with))
    draw(rows, options.figure)


if __name__ == "__main__":
    main()
