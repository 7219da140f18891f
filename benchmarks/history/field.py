"""One gappy field and no history: land surface temperatures of a public competition.

The file heaton_modis.nc has 500 x 300 temperatures as seen from space, `observed`, with gaps as
clouds make them, and the `truth` of those that were held back (Heaton et al. 2019, doi
10.1007/s13253-018-00348-w). It is not in the project: --heaton gives its path. GPBoost has a row if
it is installed (the extra `rivals`).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial import cKDTree

from apsgeo.gaussian.random_field.coordinates import coordinates_of
from apsgeo.labels.records import Records
from apsgeo.metrics.scores import crps_normal
from apsgeo.metrics.table import Column, Row, Table
from apsgeo.plotting.maps import save_figure
from apsgeo.random_field.fit import fit_random_field, random_field_posterior
from benchmarks.options import Option
from benchmarks.report import page, save
from benchmarks.scaling.suite import alone, peak_mib

OPTIONS = {"heaton": Option("", "path of heaton_modis.nc, for the part field")}
TABLE = Table(
    Column("method", "method"),
    Column("MAE (K)", "mae", ".3f"),
    Column("RMSE (K)", "rmse", ".3f"),
    Column("CRPS (K)", "crps", ".3f"),
    Column("95 % covers", "coverage", ".3f"),
    Column("seconds", "seconds", ".0f"),
    Column("peak MiB", "peak_mib", ".0f"),
)
MEMBERS = 100
_NEAR, _TRAINED, _FIRST = 120, 30, 2500
_LOCAL = 20  # neighbours of GPBoost's Vecchia approximation

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Prediction:
    """What a method says of each node: mean and standard deviation, and a member to look at."""

    mean: Array
    std: Array
    member: Array | None = None


def random_field(observed: xr.DataArray, seed: int) -> Prediction:
    """Fit a random field to the observations, and draw members."""
    records = Records.of(observed)
    prior = fit_random_field(records, seed=seed, progress=False)
    print(repr(prior.anchor.annual), flush=True)
    draws = random_field_posterior(prior)(records.values.float())
    members = draws.members(MEMBERS, seed)[:, 0, 0]
    mean, std = draws.mean[0, 0], members.std(0)
    return Prediction(mean.double().numpy(), std.double().numpy(), members[0].double().numpy())


def nearest_neighbours(observed: xr.DataArray, seed: int) -> Prediction:
    """Krige from the nearest observations, with an exponential covariance and a linear mean."""
    records = Records.of(observed)
    place, values = coordinates_of(records.layout.domain), records.values[0, 0].numpy()
    seen = np.isfinite(values)
    regressors = np.c_[np.ones(len(place)), place]
    slope = np.linalg.lstsq(regressors[seen], values[seen], rcond=None)[0]
    left, tree = (values - regressors @ slope)[seen], cKDTree(place[seen])
    rng = np.random.default_rng(seed)
    train = rng.choice(seen.sum(), _FIRST, replace=False)
    near = tree.query(place[seen][train], k=_TRAINED + 1)[1][:, 1:]

    def krige(point: Array, asked: Array, index: NDArray[np.int64]) -> tuple[Array, Array]:
        variance, length, white = np.exp(point)
        others = place[seen][index]
        distance = np.linalg.norm(others[:, :, None] - others[:, None], axis=-1)
        matrix = variance * np.exp(-distance / length) + white * np.eye(index.shape[1])
        cross = variance * np.exp(-np.linalg.norm(others - asked[:, None], axis=-1) / length)
        weight = np.linalg.solve(matrix, cross[..., None])[..., 0]
        return (weight * left[index]).sum(1), variance + white - (weight * cross).sum(1)

    def loss(point: Array) -> float:
        mean, var = krige(point, place[seen][train], near)
        return float(np.mean(np.log(var) + (left[train] - mean) ** 2 / var))

    tried = [
        minimize(loss, np.log([left.var(), km, 0.1]), method="Nelder-Mead", options={"maxfev": 150})
        for km in (10.0, 50.0, 200.0)  # the likelihood has several maxima
    ]
    found = min(tried, key=lambda each: float(each.fun)).x
    mean, std = values.copy(), np.zeros(len(values))
    for part in np.array_split(np.flatnonzero(~seen), 200):
        index = tree.query(place[part], k=_NEAR)[1]
        each, var = krige(found, place[part], index)
        mean[part], std[part] = each + regressors[part] @ slope, np.sqrt(var)
    return Prediction(mean, std)


def gpboost(observed: xr.DataArray, seed: int) -> Prediction:
    """Fit GPBoost's Vecchia approximation, an exponential one with a range by axis."""
    import gpboost as gpb

    records = Records.of(observed)
    place, values = coordinates_of(records.layout.domain), records.values[0, 0].numpy()
    seen = np.isfinite(values)
    regressors = np.c_[np.ones(len(place)), place / place.std(0)]
    model = gpb.GPModel(
        gp_coords=place[seen],
        cov_function="matern_ard",
        cov_fct_shape=0.5,
        gp_approx="vecchia",
        num_neighbors=_LOCAL,
        seed=seed,
        likelihood="gaussian",
    )
    model.fit(y=values[seen], X=regressors[seen])
    found = model.predict(
        gp_coords_pred=place[~seen],
        X_pred=regressors[~seen],
        predict_var=True,
        predict_response=True,
    )
    mean, std = values.copy(), np.zeros(len(values))
    mean[~seen], std[~seen] = found["mu"], np.sqrt(found["var"])
    return Prediction(mean, std)


def _methods() -> dict[str, Callable[[xr.DataArray, int], Prediction]]:
    """Return the methods by name; those of packages that are not installed are left out."""
    found: dict[str, Callable[[xr.DataArray, int], Prediction]] = {
        "random field (ours)": random_field,
        "nearest-neighbour kriging": nearest_neighbours,
    }
    if find_spec("gpboost"):
        found["GPBoost, Vecchia"] = gpboost
    return found


def score(name: str, path: str, seed: int, threads: int) -> tuple[Row, Prediction]:
    """Predict what was held back, by one method."""
    torch.set_num_threads(threads)
    with xr.open_dataset(path) as dataset:
        observed, truth = dataset["observed"].load(), dataset["truth"].load()
    start = time.perf_counter()
    predicted = _methods()[name](observed, seed)
    seconds = time.perf_counter() - start
    held = Records.of(truth.where(observed.isnull())).values[0, 0].numpy()
    scored = np.isfinite(held)
    mean, std, held = predicted.mean[scored], predicted.std[scored], held[scored]
    error = np.abs(mean - held)
    row = {
        "method": name,
        "cells": int(scored.sum()),
        "mae": float(error.mean()),
        "rmse": float(np.sqrt(np.mean(error**2))),
        "crps": float(crps_normal(mean, std, held).mean()),
        "coverage": float(np.mean(error < 1.959964 * std)),
        "seconds": seconds,
        "peak_mib": peak_mib(),
    }
    return row, predicted


def draw(path: Path, predicted: Prediction, figure_path: Path) -> None:
    """Draw truth, observations, mean, a member and the standard deviation."""
    from matplotlib.figure import Figure

    with xr.open_dataset(path) as dataset:
        observed, truth = dataset["observed"].load(), dataset["truth"].load()
    layout = Records.of(observed).layout
    assert predicted.member is not None
    values = {
        "all that was seen": truth.fillna(observed).values,
        "observed": observed.values,
        "mean": layout.places(predicted.mean),
        "one member": layout.places(predicted.member),
        "standard deviation (K)": layout.places(predicted.std),
    }
    figure = Figure(figsize=(11.0, 5.2), dpi=150, layout="constrained")
    least, most = np.nanquantile(values["all that was seen"], [0.002, 0.998])
    for axes, (name, each) in zip(figure.subplots(2, 3).flat, values.items(), strict=False):
        limits = {} if "deviation" in name else {"vmin": least, "vmax": most}
        image = axes.pcolormesh(observed.lon, observed.lat, each, rasterized=True, **limits)
        axes.set_title(name)
        axes.set_aspect(1 / np.cos(np.deg2rad(float(observed.lat.mean()))))
        figure.colorbar(image, ax=axes)
    figure.axes[5].remove()
    save_figure(figure, figure_path, overwrite=True)


def report(rows: list[Row], made: str) -> str:
    """Return the page: what was done, the table, and how to make it again."""
    about = (
        f"Land surface temperatures on 500 x 300 cells, of which {rows[0]['cells']} were held back "
        "under gaps as clouds make them (Heaton et al. 2019, doi 10.1007/s13253-018-00348-w). "
        "Nothing but the observed cells was used. CRPS and coverage are those of normal "
        f"distributions; of the random field, by its mean and the spread of {MEMBERS} members. "
        "Seconds and memory are those of the fit and the prediction, each row in a process of its "
        "own. The best published in the competition: MAE 1.10, RMSE 1.53, CRPS 0.83, coverage "
        "0.97. The figure is `docs/figures/history_field.png`."
    )
    return page("One gappy field, without a history", about, TABLE.markdown(rows), made)


def run(options: argparse.Namespace, made: str) -> None:
    """Run the benchmark and write its results."""
    path = Path(options.heaton)
    if not path.is_file():
        given = f"{path} is no file" if options.heaton else "no --heaton was given"
        print(f"history, part field: skipped, since {given}; give the path of heaton_modis.nc")
        return
    rows: list[Row] = []
    threads = options.threads or torch.get_num_threads()
    with alone(threads) as pool:
        for name in _methods():
            row, predicted = pool.submit(score, name, str(path), options.seed, threads).result()
            rows.append(row)
            print(row, flush=True)
            text = report(rows, made)  # the rows so far: a rival may take long
            save(options.output / "history" / "field", rows, text)
            if predicted.member is not None:
                draw(path, predicted, options.figures / "history_field.png")
    print(text)
