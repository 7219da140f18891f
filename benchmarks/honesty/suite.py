"""Are the error bars true? The default path on records of many kinds, later fields held out.

python -m benchmarks honesty      table in benchmarks/results/honesty, figure in docs/figures

Each record is learned from as a user would: `fit_prior(history)`, `distill`, `impute`, with the
defaults but for the steps of training. A run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import warnings
from dataclasses import asdict
from pathlib import Path

import xarray as xr

import apsgeo
from apsgeo.evaluation import area_weights, coverage, score_ensemble
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.own_spread import OwnSpread
from apsgeo.metrics.table import Column, Row, Table, percent
from apsgeo.operators import Mask
from benchmarks.honesty.figure import draw
from benchmarks.honesty.records import RECORDS, Record, gappy
from benchmarks.options import Option
from benchmarks.report import ROOT, page, save, write

__all__ = ["BANDS", "OPTIONS", "filled", "run"]

OPTIONS = {
    "parts": tuple(RECORDS),
    "members": Option(64, "size of the ensembles"),
    "steps": Option(300, "of the training of each flow"),
    "densities": Option((0.01, 0.05, 0.30, 0.80), "observed shares of the area"),
    "rows": Option(ROOT / "build" / "honesty", "folder that keeps the rows of a commit"),
}
BANDS = {"tropics": (0.0, 23.5), "mid-latitudes": (23.5, 60.0), "polar": (60.0, 90.0)}
"""Bounds of the absolute latitude, in degrees."""

TABLE = Table(
    Column("record", "record"),
    Column("observed", "density", percent("g")),
    Column("method", "method"),
    Column("CRPS", "crps", ".4g", best_among="case"),
    Column("RMSE", "rmse", ".4g"),
    Column("spread/skill", "spread_skill", ".2f"),
    Column("90 % coverage", "coverage90", percent(".1f")),
    *(Column(name, name, percent(".1f")) for name in BANDS),
    Column("seconds a field", "seconds_per_field", ".3g"),
)
ABOUT = (
    "Later fields of records of many kinds, filled by the default path of a user: "
    "`fit_prior(history)`, `distill`, `impute`. The untrained start is the local Gaussian whose "
    "spread each record tells. Scores are over hidden cells, weighted by area; the last columns "
    "are the 90 % coverage by latitude. The noise is a tenth of the anomalies' standard "
    "deviation. True error bars have a spread/skill of 1 and a coverage of 90 %."
)


def filled(
    name: str, record: Record, steps: int, members: int, densities: tuple[float, ...], seed: int
) -> list[Row]:
    """Learn from a record's history; fill and score its later fields at each density."""
    prior = apsgeo.fit_prior(record.history, training=apsgeo.Training(steps=0), seed=seed)
    start = VecchiaPrior(prior.anchor, prior.memory, spread=OwnSpread())
    ways = {
        "untrained start": apsgeo.Posterior.of(prior, start, Mask(), record.noise_std),
        "APS": apsgeo.distill(prior, Mask(), record.noise_std, steps=steps, seed=seed),
    }
    rows: list[Row] = []
    for density in densities:
        observed = gappy(record, density, seed)
        for method, posterior in ways.items():
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", apsgeo.errors.ApsgeoWarning)
                found = apsgeo.impute(observed, posterior, members=members, seed=seed).compute()
            scores = asdict(score_ensemble(found, record.later, observed, progress=False))
            rows.append(
                {
                    "record": name,
                    "density": density,
                    "case": f"{name} {density}",
                    "method": method,
                    **scores,
                    **_by_latitude(found, record.later, observed),
                }
            )
            print(rows[-1], flush=True)
    return rows


def _by_latitude(
    ensemble: xr.DataArray, truth: xr.DataArray, observed: xr.DataArray
) -> dict[str, float]:
    """Return the coverage of hidden cells in each band of latitude that the record has."""
    hidden = truth.notnull() & observed.isnull() & ensemble.notnull().all("member")
    weights = area_weights(truth) * hidden
    found = {}
    for name, (low, high) in BANDS.items():
        within = weights.where((abs(truth["lat"]) >= low) & (abs(truth["lat"]) < high), 0.0)
        if float(within.sum()) > 0.0:
            full = ensemble.fillna(0.0), truth.fillna(0.0)
            found[name] = float(coverage(*full, weights=within))
    return found


def _kept(path: Path, name: str, options: argparse.Namespace) -> list[Row]:
    """Return the rows of a record that an earlier run kept, or make and keep them."""
    if not path.exists():
        given = options.steps, options.members, tuple(options.densities), options.seed
        write(path, json.dumps(filled(name, RECORDS[name](), *given)))
    rows: list[Row] = json.loads(path.read_text(encoding="utf-8"))
    return rows


def run(options: argparse.Namespace, made: str) -> None:
    """Run the records, and write the table and the figure."""
    settings = f"{options.steps} {options.members} {options.seed}"
    keep = options.rows / made.split("commit ")[1].split(";")[0]
    rows: list[Row] = []
    for name in options.parts:
        rows += _kept(keep / f"{name} {settings}.json", name, options)
        save(
            options.output / "honesty" / "records",
            rows,
            page("Honesty", ABOUT, TABLE.markdown(rows), made),
        )
    draw(rows, options.figures / "honesty.png")
    print(TABLE.markdown(rows))
