"""Time one measurement by the amortized flow, by DPS and by a flow optimized for it alone.

python -m benchmarks speed     writes benchmarks/results/rivals/speed.csv and .md
python -m benchmarks speed --parts fields     writes speed-fields.csv and .md

The paper's claim, on 32 × 32 images (Fashion-MNIST) and on 73 × 144 fields (air temperature): the
same denoiser, 16 members a field, and everything that a measurement costs is counted, a factor for
its mask included. DPS has 1000 steps. The Score-Prior (Feng & Bouman 2023, arXiv 2309.01949) is a
flow from white noise, optimized for one measurement alone by the evidence lower bound.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr

import apsgeo
from apsgeo import datasets
from apsgeo.baselines.dps import DPS
from apsgeo.distillation.distill import distill
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.measurement import Measurement
from apsgeo.metrics.table import Column, Row, Table
from apsgeo.operators import Mask
from apsgeo.optim.training import Training
from apsgeo.posterior import Posterior
from benchmarks.images.cases import fashion
from benchmarks.options import Option
from benchmarks.report import RESULTS, ROOT, page, save

OPTIONS: dict[str, Any] = {
    "members": 16,
    "threads": 1,
    "output": RESULTS / "rivals",
    "parts": ("images", "fields"),
    "steps": Option(1000, "of DPS"),
    "timed": Option(10, "of these that are timed with all members"),
    "timed_one": Option(1000, "of these that are timed with one member"),
    "optimize_steps": Option(10_000, "of the Score-Prior"),
    "optimize_timed": Option(10, "of these that are timed"),
    "training_steps": Option(20, "of the denoiser and of the flow; times do not depend on weights"),
    "build": Option(ROOT / "build" / "rivals" / "speed", "folder of the models"),
}
NOISE = {"images": 0.05, "fields": 0.25}
DENSITY = 0.05
FIELDS = 5
"""Measurements that the flow is timed on, each with a mask of its own."""
SCORE_PRIOR = CouplingSpec(base="white", local=8, patterns=0)
"""The paper's form: RealNVP from white noise."""

TABLE = Table(
    Column("fields", "part"),
    Column("method", "method"),
    Column("members", "members", "g"),
    Column("steps", "steps", "g"),
    Column("steps timed", "timed", "g"),
    Column("processor s timed", "spent", ".4g"),
    Column("processor s a field", "seconds", ".4g"),
    Column("times APS", "ratio", ".0f"),
)
ABOUT = (
    "Processor seconds of one thread for one measurement of 5 % of the nodes. APS is the median of "
    f"{FIELDS} measurements, each of another mask, whose factors are included. Where fewer steps "
    "were timed than a method has, its seconds are those of a step times their number: a step "
    "costs the same from the first to the last. The seconds of a step are those of some, less what "
    "one takes alone with all before and after it. Not included is training: of the denoiser, "
    "which all share, and of APS, once for all measurements. Networks are those of the library's "
    "defaults, trained a few steps only, since times do not depend on weights. The number of steps "
    "of the Score-Prior is an assumption."
)


def _history(part: str) -> xr.DataArray:
    if part == "images":
        return fashion(400).train
    return datasets.load("ncep-air").sel(time=slice("1990", "2009"))


def _prior(options: argparse.Namespace, part: str) -> FieldPrior:
    """Return the prior with its denoiser; it is made, if it is not there."""
    folder = options.build / f"{part}-prior"
    if not folder.exists():
        training = Training(steps=options.training_steps, batch=4)
        settings: dict[str, Any] = {"bounds": None, "quality_control": "off", "memory": False}
        settings |= {"scales": HybridScales(), "anchor_scales": HybridScales(), "rank": 100}
        apsgeo.fit_prior(_history(part), training=training, **settings).save(folder)
    return FieldPrior.load(folder)


def _flow(options: argparse.Namespace, part: str, prior: FieldPrior) -> Posterior:
    """Return the flow of the library's default architecture."""
    folder = options.build / f"{part}-flow"
    if not folder.exists():
        training = Training(steps=options.training_steps, batch=4)
        settings: dict[str, Any] = {"history": _history(part), "folds": 1, "rounds": 1}
        distill(prior, Mask(), NOISE[part], training=training, **settings).save(folder)
    return Posterior.load(folder)


def measured(prior: FieldPrior, part: str, count: int, seed: int) -> Measurement:
    """Return measurements of 5 % of the nodes of draws of the prior, each with its own mask."""
    generator = torch.Generator().manual_seed(seed)
    season = torch.arange(count) % prior.normals.seasons
    truth = prior.normals.restore(prior.gaussian.sample(season, generator).float(), season)
    mask = torch.rand(truth.shape, generator=generator) < DENSITY
    values = truth + NOISE[part] * torch.randn(truth.shape, generator=generator)
    return Measurement(values, mask, torch.tensor(NOISE[part]), season=season)


def processor_seconds(work: Callable[[], Any]) -> float:
    """Return the processor seconds that some work takes."""
    begun = time.process_time()
    work()
    return time.process_time() - begun


def optimization_seconds(
    prior: FieldPrior, part: str, history: xr.DataArray, steps: int, seed: int
) -> float:
    """Return the processor seconds of some steps of a flow's optimization for one measurement."""
    seen = history[:1].where(np.random.default_rng(seed).random(history[:1].shape) < DENSITY)

    def optimize(steps: int) -> float:
        training = Training(steps=steps, batch=1, progress=False)
        settings: dict[str, Any] = {"history": history, "folds": 1, "rounds": 1}
        return processor_seconds(
            lambda: distill(
                prior,
                Mask(),
                NOISE[part],
                measurements=seen,
                objective="reverse",
                spec=SCORE_PRIOR,
                training=training,
                **settings,
            )
        )

    return optimize(1 + steps) - optimize(1)  # without what comes before the first step


def rows_of(options: argparse.Namespace, part: str) -> list[Row]:
    """Time the methods on one kind of fields."""
    prior = _prior(options, part)
    flow, members = _flow(options, part, prior), options.members
    given = measured(prior, part, FIELDS, options.seed)

    def drawn(posterior: Posterior, number: int, count: int) -> float:
        one = given[number : number + 1]
        return processor_seconds(lambda: posterior.posterior(one).members(count, options.seed))

    drawn(flow, 0, 2)  # whatever is made at the first use
    amortized = [drawn(flow, number, members) for number in range(FIELDS)]
    rows: list[dict[str, Any]] = [
        {
            **{"method": "APS", "members": members, "steps": 1, "timed": 1},
            "spent": sum(amortized) / FIELDS,
            "seconds": float(np.median(amortized)),
        }
    ]
    diffusion = prior.denoiser

    def sampled(count: int, steps: int) -> float:
        dps = DPS(diffusion, steps=steps)
        return drawn(Posterior.of(prior, dps, Mask(), NOISE[part]), 0, count)

    for count, timed in ((members, options.timed), (1, options.timed_one)):
        whole = timed == options.steps
        spent = sampled(count, timed) if whole else sampled(count, 1 + timed) - sampled(count, 1)
        made = {"method": "DPS", "members": count, "steps": options.steps, "timed": timed}
        rows.append({**made, "spent": spent, "seconds": spent * options.steps / timed})
        print(part, rows[-1], flush=True)
    steps, timed = options.optimize_steps, options.optimize_timed
    spent = optimization_seconds(prior, part, _history(part), timed, options.seed)
    made = {"method": "Score-Prior", "members": members, "steps": steps, "timed": timed}
    rows.append({**made, "spent": spent, "seconds": spent * steps / timed})
    print(part, rows[-1], flush=True)
    return [{"part": part, **row, "ratio": row["seconds"] / rows[0]["seconds"]} for row in rows]


def run(options: argparse.Namespace, made: str) -> None:
    """Time all methods, and write the table."""
    rows = [row for part in options.parts for row in rows_of(options, part)]
    parts = [] if len(options.parts) == len(NOISE) else options.parts
    save(
        options.output / "-".join(["speed", *parts]),
        rows,
        page("Speed", ABOUT, TABLE.markdown(rows), made),
    )
