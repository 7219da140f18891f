"""Measure how the cost of a field grows with the nodes of a HEALPix sphere.

python -m benchmarks scaling    writes benchmarks/results/scaling.* and docs/figures/scaling.png

The prior is hybrid, 50 smooth patterns and a Matern residual, and the truth is drawn from it. The
cost of a field is the time for the exact posterior's mean and ensemble, with the factorization for
its own mask, once the prior is made. The cost of making the prior has a column of its own. Each row
is measured in a process of its own, so that the peak of its memory is known.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch

from apsgeo.domains import Domain, HEALPixDomain
from apsgeo.gaussian.matern import MaternField
from apsgeo.gaussian.prior import GaussianPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Measurement
from apsgeo.metrics.table import Column, Row, Table
from apsgeo.operators import Downsample, Identity, Mask
from apsgeo.plotting.maps import save_figure
from benchmarks.options import Option
from benchmarks.report import page, save

TASKS = ("imputation", "denoising", "super-resolution")
RANK = 50
RANGE_KM = 2250.0
PATTERN_KM = 8000.0
DENSITY = 0.1
NOISE_STD = 0.2
BAR = 1.2  # slope that is promised


OPTIONS = {
    "members": 32,
    "threads": 1,
    "nsides": Option((16, 32, 64, 128), "resolutions of the sphere"),
    "fields": Option(5, "of which the quickest counts"),
}
TABLE = Table(
    Column("task", "task"),
    Column("nside", "nside", ".0f"),
    Column("nodes", "nodes", ".0f"),
    Column("seconds a field", "seconds", ".3g"),
    Column("seconds for the prior, once", "prior_seconds", ".3g"),
    Column("peak MiB", "peak_mib", ".0f"),
)
SLOPES = Table(Column("task", "task"), Column("slope", "slope", ".2f"))


def make_prior(domain: Domain, generator: torch.Generator) -> GaussianPrior:
    """Return a prior of unit variance, half of it in smooth random patterns."""
    white = torch.randn(domain.num_nodes, RANK, generator=generator, dtype=torch.float64)
    patterns = torch.from_numpy(MaternField(domain, PATTERN_KM).sample(white.numpy()))
    patterns /= patterns.square().sum(1, keepdim=True).sqrt()
    field = MaternField(domain, RANGE_KM)
    prior = HybridScales(eof_weight=0.5).build(
        field, patterns[None], torch.ones(1, domain.num_nodes, dtype=torch.float64)
    )
    measured = measure("denoising", domain, prior.sample(1, generator), generator)
    prior.posterior(measured).log_evidence()  # finds the order of elimination
    return prior


def measure(
    task: str, domain: Domain, truth: torch.Tensor, generator: torch.Generator
) -> Measurement:
    """Measure fields (batch, channel, node) as a task does."""
    operator = (Downsample(2) if task == "super-resolution" else Identity()).on(domain)
    clean = operator.apply(truth.double())
    mask = torch.ones(clean.shape, dtype=torch.bool)
    if task == "imputation":
        mask = Mask.at_density(domain, DENSITY, generator).expand(clean.shape)
    noise = torch.randn(clean.shape, generator=generator, dtype=torch.float64)
    noise_std = torch.full_like(clean, NOISE_STD)
    return Measurement(clean + noise_std * noise, mask, noise_std, operator=operator)


def seconds_of(work: Callable[[], object]) -> float:
    """Return the seconds that some work takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def peak_mib() -> float:
    """Return the most memory that this process has held, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def alone(threads: int) -> ProcessPoolExecutor:
    """Return a pool that runs each piece of work in a fresh process, one at a time."""
    os.environ["OMP_NUM_THREADS"] = str(threads)  # for the processes that measure
    fresh = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(1, mp_context=fresh, max_tasks_per_child=1)


def cost(task: str, nside: int, options: argparse.Namespace) -> Row:
    """Measure one task at one resolution."""
    torch.set_num_threads(options.threads)
    generator = torch.Generator().manual_seed(options.seed)
    domain = HEALPixDomain(nside)
    start = time.perf_counter()
    prior = make_prior(domain, generator)
    prior_seconds = time.perf_counter() - start

    def field() -> float:
        measurement = measure(task, domain, prior.sample(1, generator), generator)

        def posterior() -> torch.Tensor:
            found = prior.posterior(measurement)
            noise = torch.randn(options.members, 1, found.noise_dim, generator=generator)
            return found.mean + found.deviations(noise)

        return seconds_of(posterior)

    seconds = min(field() for _ in range(options.fields))
    return {
        "task": task,
        "nside": nside,
        "nodes": domain.num_nodes,
        "prior_seconds": prior_seconds,
        "seconds": seconds,
        "peak_mib": peak_mib(),
    }


def slope_of(rows: list[Row]) -> tuple[float, float]:
    """Return the slope and intercept of log seconds over log nodes, by least squares."""
    slope, intercept = np.polyfit(
        np.log([row["nodes"] for row in rows]), np.log([row["seconds"] for row in rows]), 1
    )
    return float(slope), float(intercept)


def by_task(rows: list[Row]) -> dict[str, list[Row]]:
    """Return the rows of each task."""
    return {task: [row for row in rows if row["task"] == task] for task in TASKS}


def draw(rows: list[Row], path: Path) -> None:
    """Draw the cost over the number of nodes, with the fitted lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.4), dpi=150, layout="constrained")
    axes = figure.subplots()
    for (task, found), colour in zip(by_task(rows).items(), ("C0", "C1", "C2"), strict=True):
        nodes = np.array([row["nodes"] for row in found])
        slope, intercept = slope_of(found)
        axes.plot(nodes, [row["seconds"] for row in found], "o", color=colour)
        label = f"{task}: $N^{{{slope:.2f}}}$"
        axes.plot(nodes, np.exp(intercept) * nodes**slope, color=colour, label=label)
    nodes = np.array(sorted({row["nodes"] for row in rows}))
    least = min(row["seconds"] for row in rows)
    axes.plot(nodes, 0.6 * least * (nodes / nodes[0]) ** BAR, "k:", label=f"$N^{{{BAR}}}$")
    axes.set(xscale="log", yscale="log", xlabel="nodes N", ylabel="seconds a field")
    axes.set_xticks(nodes, [f"{node}\nnside {round((node / 12) ** 0.5)}" for node in nodes])
    axes.minorticks_off()
    axes.legend()
    axes.grid(alpha=0.3)
    save_figure(figure, path, overwrite=True)


def report(rows: list[Row], options: argparse.Namespace, made: str) -> str:
    """Return the page: the table and the slopes."""
    about = (
        f"Exact posterior mean and {options.members} members of one field on HEALPix, its own mask "
        f"included, given the hybrid prior ({RANK} patterns, Matérn range {RANGE_KM:.0f} km). "
        f"Imputation observes {DENSITY:.0%} of the nodes, denoising all, super-resolution the "
        f"means of four; noise {NOISE_STD} of a standard deviation. Least of {options.fields} "
        "fields; the peak of memory is that of the whole process. The figure is "
        "`docs/figures/scaling.png`."
    )
    grows = (
        f"Seconds grow as nodes to the power (least squares in log-log; at most {BAR} is promised):"
    )
    slopes = [{"task": task, "slope": slope_of(found)[0]} for task, found in by_task(rows).items()]
    tables = TABLE.markdown(rows), grows, SLOPES.markdown(slopes)
    return page("Cost of a field by number of nodes", about, *tables, made)


def run(options: argparse.Namespace, made: str) -> None:
    """Run the benchmark and write its results."""
    rows = []
    with alone(options.threads) as pool:
        for task in TASKS:
            for nside in options.nsides:
                rows.append(pool.submit(cost, task, nside, options).result())
                print(rows[-1], flush=True)
    text = report(rows, options, made)
    save(options.output / "scaling", rows, text)
    draw(rows, options.figures / "scaling.png")
    print(text)
