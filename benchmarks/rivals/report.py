"""The page of a contest: its table, paired differences with intervals, and two figures."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import chisquare

from apsgeo.metrics.table import Column, Row, Table, percent
from apsgeo.plotting.maps import save_figure
from benchmarks.options import Option
from benchmarks.report import FIGURES, RESULTS, ROOT, page, save
from benchmarks.rivals.contest import Case, Contest, Job, run_job
from benchmarks.rivals.harness import Run, picture_name, run_jobs
from benchmarks.views import bare, seen

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["OPTIONS", "TABLE", "contend", "pareto_figure", "side_by_side", "summary"]

Array = NDArray[np.float64]

OPTIONS: dict[str, Any] = {
    "members": 16,
    "threads": 1,
    "output": RESULTS / "rivals",
    "figures": FIGURES / "rivals",
    "device": Option("auto", "of the networks: auto, cpu or cuda"),
    "scheduler": Option(str, "address of a dask scheduler; by default a cluster of this machine"),
    "workers": Option(1, "workers of this machine; of GPUs there is one for each"),
    "first": Option(int, "number of fields, the first ones, that are tried"),
    "zarr": Option(Path, "Zarr store that all members are kept in"),
    "only": Option(("",), "make one row again: case, method, number of the field"),
    "build": Option(ROOT / "build" / "rivals", "folder of models and rows, by suite"),
}
"""Options of all suites."""

_RESAMPLES, _SEED, _INTERVAL = 2000, 0, (2.5, 97.5)
_RANK_BINS = 5

TABLE = Table(
    Column("case", "case"),
    Column("method", "method"),
    Column("fields", "fields"),
    Column("members", "members"),
    Column("CRPS", "crps", ".4g", best_among="comparable"),
    Column("CRPS against APS, %", "crps_against"),
    Column("energy score", "energy", ".4g"),
    Column("energy against APS, %", "energy_against"),
    Column("RMSE, mean", "rmse", ".4g"),
    Column("RMSE, one", "rmse_one", ".4g"),
    Column("spread/skill", "spread_skill", ".2f"),
    Column("in 50 %", "covered50", percent()),
    Column("in 90 %", "covered90", percent()),
    Column("p of ranks", "rank_p", ".2g"),
    Column("off in the mean", "off_in_mean", ".2g"),
    Column("PSNR", "psnr", ".2f"),
    Column("SSIM", "ssim", ".3f"),
    Column("evaluations", "evaluations"),
    Column("s a field", "seconds", ".3g"),
    Column("processor s", "cpu_seconds", ".3g"),
    Column("MB", "peak_mb", ".0f"),
    Column("training, s", "train_seconds", ".0f"),
)
"""A row for each method on each case; differences are over the fields that both have."""

ABOUT = (
    "Each row is the mean over its fields, which have the same measurements for all. Differences "
    "are relative to the reference, over the fields that both have, with the 95 % interval of a "
    "bootstrap over fields: below zero is better. CRPS and energy score are fair and of members, "
    "for every method. RMSE is of the mean of all members and of one. The p-value is that of equal "
    "frequencies of the rank of one random value a field. Off in the mean is the absolute error of "
    "the weighted mean of all scored values. Evaluations are those of a network for one field, "
    "gradients among them. Seconds are all that a measurement costs, on the clock and of the "
    "processor; the clock also counts what else the machine did."
)


def summary(rows: Sequence[Row], reference: str) -> list[Row]:
    """Return a row for each case and method, in the order of the first appearance."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["method"]), []).append(row)
    found: list[Row] = []
    for (case, method), group in groups.items():

        def mean(key: str, group: list[Row] = group) -> float:
            return float(np.mean([row[key] for row in group]))

        square = mean("square_of_mean")
        made: dict[str, Any] = {
            "case": case,
            "method": method,
            "fields": len(group),
            "members": group[0]["members"],
            # Rows of other fields are means of something else.
            "comparable": f"{case}, {len(group)} fields",
            "rmse": square**0.5,
            "rmse_one": mean("square_of_one") ** 0.5,
            "spread_skill": (mean("variance") / square) ** 0.5 if square else float("nan"),
            "rank_p": _rank_p(group),
            "evaluations": group[0]["evaluations"],
        }
        same = ("crps", "energy", "covered50", "covered90", "off_in_mean", "psnr", "ssim")
        made |= {key: mean(key) for key in (*same, "seconds", "cpu_seconds", "train_seconds")}
        made["peak_mb"] = max(row["peak_mb"] for row in group)
        if method != reference and (case, reference) in groups:
            for key in ("crps", "energy"):
                made[f"{key}_against"] = _against(group, groups[case, reference], key)
        found.append(made)
    return found


def _rank_p(group: Sequence[Row]) -> float:
    """Return the p-value of equal frequencies of ranks, in bins of at least five fields."""
    members, count = int(group[0]["members"]), len(group)
    bins = min(_RANK_BINS, count // 5)
    if bins < 2:
        return float("nan")
    edges = np.linspace(0, members + 1, bins + 1).round()
    observed = np.histogram([row["rank"] for row in group], edges)[0]
    return float(chisquare(observed, count * np.diff(edges) / (members + 1)).pvalue)


def _against(group: Sequence[Row], others: Sequence[Row], key: str) -> str:
    """Return the relative difference of means in per cent, and its bootstrap interval."""
    theirs = {row["field"]: row[key] for row in others}
    pairs = np.array([(row[key], theirs[row["field"]]) for row in group if row["field"] in theirs])
    if not len(pairs):
        return ""
    picked = np.random.default_rng(_SEED).integers(len(pairs), size=(_RESAMPLES, len(pairs)))
    mine, other = np.moveaxis(pairs[picked].mean(1), -1, 0)
    low, high = np.percentile(100.0 * (mine / other - 1.0), _INTERVAL)
    value = 100.0 * (pairs[:, 0].mean() / pairs[:, 1].mean() - 1.0)
    interval = f" [{low:+.1f}, {high:+.1f}]" if len(pairs) > 1 else ""
    return f"{value:+.1f}{interval}"


def contend(
    name: str,
    title: str,
    about: str,
    prepare: Callable[[Path], None],
    opened: Callable[[Mapping[str, Any], Path], Contest],
    settings: Mapping[str, Any],
    options: argparse.Namespace,
    made: str,
) -> list[Row]:
    """Run a suite, and write its rows, page and figures.

    Args:
        name: Name of the suite, and of its files.
        title: Title of the page.
        about: What is tried, below the title.
        prepare: Function that makes the models in a folder, if they are not there.
        opened: Function that opens the contest of settings and that folder; importable.
        settings: What the rows depend on, beside members and seed. Rows of other settings are kept
            apart.
        options: Options of the command line.
        made: How the page was made.
    """
    folder = options.build / name
    prepare(folder / "models")
    open = partial(opened, settings)
    contest = replace(open(folder / "models"), first=options.first)
    if any(options.only):
        case, method, number = options.only
        row = run_job(
            contest, Job(case, method, int(number)), members=options.members, seed=options.seed
        ).row
        print(row)
        return [row]
    run = Run(
        models=folder / "models",
        folder=folder / f"members-{options.members}-{_digest(settings)}",
        members=options.members,
        seed=options.seed,
        device=options.device,
        scheduler=options.scheduler,
        workers=options.workers,
        threads=options.threads or 1,
        zarr=options.zarr,
    )
    rows = run_jobs(contest, open, run)
    table = summary(rows, contest.reference)
    figures = options.figures
    pictures = side_by_side(contest.cases[0], contest, run.folder / "pictures")
    save_figure(pictures, figures / f"{name}-fields.png", overwrite=True)
    save_figure(pareto_figure(table), figures / f"{name}-pareto.png", overwrite=True)
    shown = (
        f"![All methods on one field](../../../docs/figures/rivals/{name}-fields.png)\n\n"
        f"![Score against seconds](../../../docs/figures/rivals/{name}-pareto.png)"
    )
    text = page(title, about, ABOUT, TABLE.markdown(table), shown, made)
    save(options.output / name, rows, text)
    return table


def _digest(settings: Mapping[str, Any]) -> str:
    return sha256(json.dumps(dict(settings), sort_keys=True).encode()).hexdigest()[:12]


def side_by_side(case: Case, contest: Contest, folder: Path) -> Figure:
    """Draw the first field of a case: the truth, what was seen, and of each method a member."""
    from matplotlib.figure import Figure

    names = [n for n in contest.methods if (folder / f"{picture_name(case.name, n)}.npy").exists()]
    pictures = {n: np.load(folder / f"{picture_name(case.name, n)}.npy") for n in names}
    truth = case.picture(case.truth[0, 0].numpy(), 0)
    given = case.given
    measured = np.full_like(truth, np.nan)
    if given.operator.is_identity:
        values = np.where(given.mask[0, 0], given.values[0, 0], np.nan)
        measured = case.picture(values, 0)
    low, high = np.nanpercentile(truth, [1, 99])
    if case.normal is not None:
        high = max(high, -low)
        low = -high
    columns = 1 + len(names)
    aspect = truth.shape[0] / truth.shape[1]
    figure = Figure(figsize=(1.5 * columns, 1.1 + 2.6 * aspect * 1.5))
    axes = figure.subplots(3, columns, squeeze=False)
    spread = max((float(np.nanpercentile(p[2, 0], 99)) for p in pictures.values()), default=1.0)
    panels: list[tuple[str, list[Array]]] = [("truth, measured", [truth, measured, truth * np.nan])]
    for name, (member, mean, std) in ((name, pictures[name][:, 0]) for name in names):
        shown = [case.picture(each, 0) for each in (member, mean)]
        panels.append((name, [*shown, seen(case.view, std)]))
    for column, (name, images) in enumerate(panels):
        for row, image in enumerate(images):
            axis = axes[row, column]
            limits = (0.0, spread) if row == 2 else (low, high)
            colours = "viridis" if row == 2 else case.colours
            axis.imshow(image, vmin=limits[0], vmax=limits[1], cmap=colours)
            bare(axis)
        axes[0, column].set_title(name.replace(" ", "\n", 1), fontsize=7)
    for row, label in enumerate(("truth; one member", "measured; mean", "standard deviation")):
        axes[row, 0].set_ylabel(label, fontsize=6)
    figure.tight_layout(pad=0.3)
    return figure


def pareto_figure(table: Sequence[Row]) -> Figure:
    """Draw the CRPS relative to the reference against processor seconds, and the Pareto front."""
    from matplotlib.figure import Figure

    cases = list(dict.fromkeys(row["case"] for row in table))
    figure = Figure(figsize=(4.0 * len(cases), 3.6))
    for axis, case in zip(figure.subplots(1, len(cases), squeeze=False)[0], cases, strict=True):
        rows = [row for row in table if row["case"] == case]
        at = [(row["cpu_seconds"], _relative(row), row["method"]) for row in rows]
        axis.set(xscale="log", yscale="log", title=case, xlabel="processor seconds a field")
        for seconds, score, name in at:
            axis.plot(seconds, score, "o", color="C3" if name.startswith("APS") else "C0", ms=4)
            axis.annotate(
                name, (seconds, score), fontsize=6, xytext=(3, 2), textcoords="offset points"
            )
        front = _front([(seconds, score) for seconds, score, _ in at])
        axis.step(*np.array(front).T, where="post", color="0.6", lw=1, zorder=0)
        axis.tick_params(which="both", labelsize=7)
    figure.axes[0].set_ylabel("CRPS over that of APS, same fields")
    figure.tight_layout()
    return figure


def _relative(row: Mapping[str, Any]) -> float:
    text = str(row.get("crps_against", "") or "+0")
    return 1.0 + float(text.split(" ")[0]) / 100.0


def _front(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the points that no other is both quicker and better than."""
    front: list[tuple[float, float]] = []
    for point in sorted(points):
        if not front or point[1] < front[-1][1]:
            front.append(point)
    return front
