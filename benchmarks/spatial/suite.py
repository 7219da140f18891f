"""One gappy field and no history: a public competition, and a satellite's orbits.

python -m benchmarks spatial --parts co2                    table spatial/co2.* and figure
python -m benchmarks spatial --parts heaton --heaton PATH   table spatial/heaton.* and figure

co2 has observations along orbits on 288 x 181 cells of the globe, whose complete truth is known
(the data set `co2`). The file heaton_modis.nc has 500 x 300 land surface temperatures as seen from
space, `observed`, with gaps as clouds make them, and the `truth` of those that were held back
(Heaton et al. 2019, doi 10.1007/s13253-018-00348-w). It is not in the project: --heaton gives its
path. GPBoost has a row if it is installed (the extra `rivals`).
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from apsgeo import datasets
from apsgeo.labels.records import Records
from apsgeo.metrics.scores import crps_normal, weighted_mean
from apsgeo.metrics.table import Column, Row, Table
from apsgeo.plotting.maps import save_figure
from benchmarks.options import Option
from benchmarks.report import page, save
from benchmarks.scaling.suite import alone, peak_mib
from benchmarks.spatial.methods import MEMBERS, Prediction, methods


@dataclass(frozen=True)
class SpatialCase:
    """A field with gaps, and how its page speaks of it.

    Attributes:
        title: Title of the page.
        about: What the data are.
        units: Units of the table and the figure.
        noise_std: Known standard deviation of the observations' noise, which the truth lacks; zero
            where the truth was measured as the observations were.
    """

    title: str
    about: str
    units: str
    noise_std: float = 0.0


CASES = {
    "co2": SpatialCase(
        "One field along a satellite's orbits, without a history",
        "Simulated carbon dioxide on 288 x 181 cells of the globe, seen at 26 633 of them along "
        "orbits, with a noise of 0.5 ppm that all methods are told of. Scored are the others, "
        "weighted by their area, against the truth without noise.",
        "ppm",
        0.5,
    ),
    "heaton": SpatialCase(
        "One gappy field, without a history",
        "Land surface temperatures on 500 x 300 cells, of which 42740 were held back under gaps as "
        "clouds make them (Heaton et al. 2019, doi 10.1007/s13253-018-00348-w). The best published "
        "in the competition: MAE 1.10, RMSE 1.53, CRPS 0.83, coverage 0.97.",
        "K",
    ),
}
OPTIONS = {
    "parts": tuple(CASES),
    "heaton": Option("", "path of heaton_modis.nc"),
}
_ABOUT = (
    "Nothing but the observed cells was used. CRPS and coverage are those of normal distributions; "
    f"of the random field, by its mean and the spread of {MEMBERS} members. Seconds and memory are "
    "those of the fit and the prediction, each row in a process of its own."
)


def table(units: str) -> Table:
    """Return the table of scores in some units."""
    return Table(
        Column("method", "method"),
        Column(f"MAE ({units})", "mae", ".3f"),
        Column(f"RMSE ({units})", "rmse", ".3f"),
        Column(f"CRPS ({units})", "crps", ".3f", best_among="cells"),
        Column("95 % covers", "coverage", ".3f"),
        Column("seconds", "seconds", ".0f"),
        Column("peak MiB", "peak_mib", ".0f"),
    )


def opened(path: str) -> tuple[xr.DataArray, xr.DataArray]:
    """Return what was observed, and the truth."""
    with xr.open_dataset(path) as dataset:
        return dataset["observed"].load(), dataset["truth"].load()


def score(
    name: str, path: str, noise_std: float, seed: int, threads: int
) -> tuple[Row, Prediction]:
    """Predict what was held back, by one method."""
    torch.set_num_threads(threads)
    observed, truth = opened(path)
    start = time.perf_counter()
    predicted = methods()[name](observed, noise_std, seed)
    seconds = time.perf_counter() - start
    records = Records.of(truth.where(observed.isnull()))
    held = records.values[0, 0].double().numpy()
    weights = np.where(np.isfinite(held), records.layout.domain.areas.numpy(), 0.0)
    error = np.where(weights > 0, predicted.mean - held, 0.0)
    std = np.where(weights > 0, predicted.std, 1.0)

    def mean(values: np.ndarray) -> float:
        return float(weighted_mean(values[None], weights[None])[0])

    row = {
        "method": name,
        "cells": int((weights > 0).sum()),
        "mae": mean(np.abs(error)),
        "rmse": mean(error**2) ** 0.5,
        "crps": mean(crps_normal(error, std, np.zeros_like(error))),
        "coverage": mean((np.abs(error) < 1.959964 * std).astype(float)),
        "seconds": seconds,
        "peak_mib": peak_mib(),
    }
    return row, predicted


def draw(path: str, units: str, predicted: Prediction, figure_path: Path) -> None:
    """Draw truth, observations, mean, a member and the standard deviation."""
    from matplotlib.figure import Figure

    observed, truth = opened(path)
    layout = Records.of(observed).layout
    assert predicted.member is not None
    values = {
        "truth": truth.fillna(observed).values,
        "observed": observed.values,
        "mean": layout.places(predicted.mean),
        "one member": layout.places(predicted.member),
        f"standard deviation ({units})": layout.places(predicted.std),
    }
    figure = Figure(figsize=(11.0, 5.2), dpi=150, layout="constrained")
    least, most = np.nanquantile(values["truth"], [0.002, 0.998])
    middle = min(abs(float(observed.lat.mean())), 60.0)
    for axes, (name, each) in zip(figure.subplots(2, 3).flat, values.items(), strict=False):
        limits = {} if "deviation" in name else {"vmin": least, "vmax": most}
        image = axes.pcolormesh(observed.lon, observed.lat, each, rasterized=True, **limits)
        axes.set_title(name)
        axes.set_aspect(1 / np.cos(np.deg2rad(middle)))
        figure.colorbar(image, ax=axes)
    figure.axes[5].remove()
    save_figure(figure, figure_path, overwrite=True)


def _path(part: str, options: argparse.Namespace) -> str | None:
    """Return the path of a part's file, or say why there is none."""
    if part != "heaton":
        return str(datasets.path(part))
    path = Path(options.heaton)
    if path.is_file():
        return str(path)
    given = f"{path} is no file" if options.heaton else "no --heaton was given"
    print(f"spatial, part heaton: skipped, since {given}; give the path of heaton_modis.nc")
    return None


def run(options: argparse.Namespace, made: str) -> None:
    """Run the benchmark and write its results."""
    threads = options.threads or torch.get_num_threads()
    for part in options.parts:
        case, path, rows = CASES[part], _path(part, options), list[Row]()
        if path is None:
            continue
        figure = options.figures / f"spatial_{part}.png"
        about = f"{case.about} {_ABOUT} The figure is `docs/figures/{figure.name}`."
        with alone(threads) as pool:
            for name in methods():
                asked = name, path, case.noise_std, options.seed, threads
                row, predicted = pool.submit(score, *asked).result()
                rows.append(row)
                print(row, flush=True)
                text = page(case.title, about, table(case.units).markdown(rows), made)
                # the rows so far: a rival may take long
                save(options.output / "spatial" / part, rows, text)
                if predicted.member is not None:
                    draw(path, case.units, predicted, figure)
        print(text)
