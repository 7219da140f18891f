"""Measure `impute` from labels to disk by cells, members and workers, and one real task.

python -m benchmarks workflow    writes benchmarks/results/workflow/* and docs/figures/workflow.png

The part "cost" fills images of up to a million cells with an exact posterior of 30 patterns, whose
own cost is linear in all three, so that what is measured is the work around a model: labels,
checks, blocks, members, statistics. Each row is measured in a process of its own, so that the peak
of its memory is known. The part "task" fills months of ncep-air under the masks of COADS with the
shipped model, 64 members, quantiles to Zarr; see `benchmarks.workflow.task`. The part "archive"
streams records of an archive of 20 GB; see `benchmarks.workflow.archive`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dask
import numpy as np
import torch
import xarray as xr

from apsgeo.domains import ImageDomain
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.measurement import Normals
from apsgeo.metrics.table import Column, Row, Table
from apsgeo.operators import Mask
from apsgeo.plotting.maps import save_figure
from apsgeo.posterior import Posterior
from apsgeo.xarray import impute
from benchmarks.options import Option
from benchmarks.report import page, save
from benchmarks.scaling.suite import alone, peak_mib
from benchmarks.workflow import archive, task

PATTERNS = 30
RECORDS, BASE_CELLS, BASE_MEMBERS = 8, 10_000, 16
STATISTICS = ("mean", "q05", "q95", "std")
OPTIONS = {
    "parts": ("cost", "task", "archive"),
    "cells": Option((1_000, 10_000, 100_000, 1_000_000), "numbers of cells"),
    "members": Option((1, 8, 64, 512), "sizes of the ensemble"),
    "workers": Option((1, 2), "numbers of dask's workers"),
    "months": Option(4, "number of months of the task"),
    "records": Option((512, 2048, 6144), "numbers of records that are streamed of the archive"),
}
TABLE = Table(
    Column("varied", "varied"),
    Column("cells", "cells", ".0f"),
    Column("members", "members", ".0f"),
    Column("workers", "workers", ".0f"),
    Column("fields a second", "rate", ".3g"),
    Column("peak MiB", "peak_mib", ".0f"),
)


def run(options: argparse.Namespace, made: str) -> None:
    """Measure the parts that were asked for, and write their tables."""
    output = options.output / "workflow"
    if "cost" in options.parts:
        rows = _costs(options)
        slopes = {varied: _slope(rows, varied) for varied in ("cells", "members")}
        text = "; ".join(
            f"seconds grow as {name} to the power {slope:.2f}" for name, slope in slopes.items()
        )
        note = (
            f"{RECORDS} records, a tenth of the cells observed, statistics {', '.join(STATISTICS)} "
            f"computed from lazy input; a field is one record. {text} (least squares in log-log, "
            "from the second point on)."
        )
        save(output / "cost", rows, page("Cost of a fill", note, TABLE.markdown(rows), made))
        save_figure(_figure(rows), options.figures / "workflow.png", overwrite=True)
    if "task" in options.parts:
        rows = task.rows(options.months, options.seed)
        save(output / "task", rows, page(task.TITLE, task.NOTE, task.TABLE.markdown(rows), made))
    if "archive" in options.parts:
        rows = archive.rows(tuple(options.records), options.seed)
        text = archive.TABLE.markdown(rows)
        save(output / "archive", rows, page(archive.TITLE, archive.NOTE, text, made))


def _costs(options: argparse.Namespace) -> list[Row]:
    cases = [("cells", cells, BASE_MEMBERS, 1) for cells in options.cells]
    cases += [("members", BASE_CELLS, members, 1) for members in options.members]
    cases += [("workers", 100_000, BASE_MEMBERS, workers) for workers in options.workers]
    rows: list[Row] = []
    for varied, cells, members, workers in cases:
        with alone(1) as pool:
            row = pool.submit(_cost, cells, members, workers, options.seed).result()
        rows.append({"varied": varied, **row})
        print(rows[-1], flush=True)
    return rows


def _cost(cells: int, members: int, workers: int, seed: int) -> Row:
    """Fill lazy images with statistics, and say how long it took and in what memory."""
    torch.set_num_threads(1)
    posterior, obs = _model(cells, seed), _observed(cells, seed)
    asked = STATISTICS if members > 1 else STATISTICS[:-1]  # one member has no spread
    with dask.config.set(scheduler="threads", pool=ThreadPoolExecutor(workers)):
        impute(obs[:1], posterior, members, statistics=asked).compute()  # prepared once
        begun = time.perf_counter()
        impute(obs, posterior, members, statistics=asked).compute()
        seconds = time.perf_counter() - begun
    return {
        "cells": cells,
        "members": members,
        "workers": workers,
        "seconds": seconds,
        "rate": RECORDS / seconds,
        "peak_mib": peak_mib(),
    }


def _model(cells: int, seed: int) -> Posterior:
    side = round(cells**0.5)
    domain = ImageDomain(side, cells // side)
    nodes = domain.num_nodes
    generator = torch.Generator().manual_seed(seed)
    loadings = torch.randn(1, nodes, PATTERNS, generator=generator) / PATTERNS**0.5
    normals = Normals(
        torch.zeros(1, 1, nodes), torch.ones(1, 1, nodes), torch.ones(nodes, dtype=torch.bool)
    )
    method = LowRankPrior(domain, loadings, white_std=0.3)
    return Posterior(domain, normals, Mask(), method, torch.tensor(0.2))


def _observed(cells: int, seed: int) -> xr.DataArray:
    import dask.array as da

    side = round(cells**0.5)
    shape = side, cells // side

    def block(block_info: Any = None) -> np.ndarray:
        rng = np.random.default_rng([seed, block_info[None]["chunk-location"][0]])
        values = rng.standard_normal((1, *shape), dtype=np.float32)
        return np.where(rng.random((1, *shape)) < 0.1, values, np.nan).astype(np.float32)

    values = da.map_blocks(
        block,
        chunks=((1,) * RECORDS, (shape[0],), (shape[1],)),
        dtype=np.float32,
        meta=np.empty((0, 0, 0), np.float32),
    )
    return xr.DataArray(values, dims=("sample", "y", "x"), name="image")


def _slope(rows: Sequence[Row], varied: str) -> float:
    chosen = [row for row in rows if row["varied"] == varied][1:]
    return float(
        np.polyfit(
            np.log([row[varied] for row in chosen]), np.log([row["seconds"] for row in chosen]), 1
        )[0]
    )


def _figure(rows: Sequence[Row]) -> Any:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 3.2), dpi=140, layout="constrained")
    speed, memory = figure.subplots(1, 2)
    for varied, marker in (("cells", "o"), ("members", "s")):
        chosen = [row for row in rows if row["varied"] == varied]
        axis = [row[varied] for row in chosen]
        label = f"by {varied}"
        speed.loglog(axis, [row["rate"] for row in chosen], marker + "-", label=label)
        memory.loglog(axis, [row["peak_mib"] for row in chosen], marker + "-", label=label)
    speed.set_ylabel("fields a second")
    memory.set_ylabel("peak memory [MiB]")
    for axes in (speed, memory):
        axes.set_xlabel("cells, or members of 10 000 cells")
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    return figure
