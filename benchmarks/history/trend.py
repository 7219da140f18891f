"""A climate that moves on: normals with and without a trend, on months after the history."""

from __future__ import annotations

import argparse

import numpy as np
import torch
from tqdm import tqdm

from apsgeo import datasets
from apsgeo.metrics.predictions import EnsemblePrediction
from apsgeo.metrics.scores import mse, weighted_mean
from apsgeo.metrics.table import Column, Row, Table, percent
from apsgeo.posterior import Posterior
from apsgeo.protocol import DENSITIES, NcepProtocol
from benchmarks.history.recipe import area_means, fitted, history, posterior_of
from benchmarks.options import Option
from benchmarks.report import page, save

__all__ = ["OPTIONS", "run"]

OPTIONS = {"trends": Option(("none", "linear"), "of the normals, each a row")}

_BATCH = 8
_SPARSE = 0.01  # density at which all months are scored

TABLE = Table(
    Column("observed", "density", percent("g")),
    Column("months", "when"),
    Column("trend", "trend"),
    Column("CRPS [K]", "crps", ".4f", best_among="compared"),
    Column("spread/skill", "spread_skill", ".3f"),
    Column("bias of the global mean [K]", "bias", ".3f"),
    Column("its RMSE [K]", "rmse", ".3f"),
    Column("its 90 % interval covers", "coverage90", percent()),
    Column("months scored", "records", ".0f"),
)


def score(
    model: Posterior, protocol: NcepProtocol, months: np.ndarray, density: float, members: int
) -> dict[str, float]:
    """Score the members of a model, and their global means."""
    rows: list[np.ndarray] = []
    for start in tqdm(range(0, len(months), _BATCH), desc=f"{100 * density:g} %"):
        index = months[start : start + _BATCH]
        seen = protocol.observe(index, density)
        drawn = model.posterior(seen).members(members, protocol.seed)[:, :, 0]
        truth, weights = protocol.truth(index), protocol.score_weights(seen)
        prediction = EnsemblePrediction(drawn.double().numpy())
        means = area_means(protocol, drawn)
        true = area_means(protocol, torch.from_numpy(truth))
        low, high = np.quantile(means, [0.05, 0.95], axis=0)
        columns = [
            weighted_mean(prediction.crps(truth), weights),
            mse(prediction.mean(), truth, weights),
            weighted_mean(prediction.variance(), weights),
            means.mean(0) - true,
            (low <= true) & (true <= high),
        ]
        rows.append(np.stack(columns, -1))
    table = np.concatenate(rows).astype(float)
    crps, square, variance, bias, covered = table.mean(0)
    return {
        "crps": crps,
        "spread_skill": float(np.sqrt(variance / square)),
        "bias": bias,
        "rmse": float(np.sqrt((table[:, 3] ** 2).mean())),
        "coverage90": covered,
        "records": len(table),
    }


def run(options: argparse.Namespace, made: str) -> None:
    """Fit a model with each trend, score it, and write the table."""
    protocol = NcepProtocol(datasets.load("ncep-air"), seed=options.seed)
    months = history()
    models = {
        name: posterior_of(fitted(months, options.seed, trend=None if name == "none" else name))
        for name in options.trends
    }
    rows: list[Row] = []
    for when, index in (("2005-2009", protocol.validation), ("2010-2026", protocol.test)):
        for density in DENSITIES:
            every = 1 if density == _SPARSE else options.every
            for name, model in models.items():
                found = score(model, protocol, index[::every], density, options.members)
                compared = f"{when} {density}"
                labels = {"when": when, "density": density, "trend": name, "compared": compared}
                rows.append({**labels, **found})
                print(rows[-1], flush=True)
    about = (
        "ncep-air, fitted to the months from 1972 to 2004 by the recipe of the shipped model "
        "(local Gaussian posterior, its untrained start); noise 0.25 K. The years 2005 to 2009 "
        "are held out: they decide how much the slopes are shrunk, and whether a trend is the "
        "default. CRPS and spread/skill are over unobserved cells, weighted by cos(latitude), "
        f"of {options.members} members. The global mean is that of the members, over all cells."
    )
    save(
        options.output / "history" / "trend",
        rows,
        page("A climate that moves on", about, TABLE.markdown(rows), made),
    )
    print(TABLE.markdown(rows))
