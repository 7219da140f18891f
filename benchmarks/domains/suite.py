"""Fit a Gaussian prior on every kind of domain, and fill, denoise and refine held-out real fields.

python -m benchmarks domains                     writes benchmarks/results/domains.* and the figure
python -m benchmarks domains --parts ncep-air    one data set, in minutes
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.gaussian.fit import fit_gaussian, select_scales
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.measurement import Normals
from apsgeo.metrics.predictions import EnsemblePrediction, NormalPrediction
from apsgeo.metrics.scoreboard import Scores, Tally
from apsgeo.metrics.table import Column, Row, Table, percent
from apsgeo.operators import Downsample, Identity, Mask
from apsgeo.plotting.maps import save_figure
from benchmarks.domains.cases import CASES, Case
from benchmarks.domains.figure import Panels, draw
from benchmarks.options import Option
from benchmarks.report import page, save
from benchmarks.tasks import Task

OPTIONS = {
    "parts": tuple(CASES),
    "members": 32,
    "fields": Option(12, "test fields of each data set"),
    "rank": Option(150, "the most EOFs"),
    "evaluations": Option(16, "in the choice of scales"),
}
TARGETS = 64  # nodes whose score chooses scales, in a third of the time of the usual 200


TASKS = (  # noise is in units of an ordinary observation's
    Task("imputation", Mask(), density=0.05, hidden_only=True),
    Task("denoising", Identity(), noise_std=10.0),
    Task("super-resolution", Downsample(2)),
)


@dataclass(frozen=True)
class Fitted:
    """A prior of standardized anomalies, and the normals that standardize them."""

    normals: Normals
    prior: SeasonalPrior
    seconds: float


TABLE = Table(
    Column("data set", "case"),
    Column("task", "task"),
    Column("unit", "units"),
    Column("noise", "noise_std", "g"),
    Column("climatology CRPS", "climatology_crps", ".3g"),
    Column("CRPS", "crps", ".3g"),
    Column("RMSE", "rmse", ".3g"),
    Column("spread/skill", "spread_skill", ".2f"),
    Column("90 % coverage", "coverage90", percent()),
    Column("seconds a field", "seconds_per_field", ".2g"),
)
"""The scores of one task on one case, and the CRPS of the normals alone."""


def fit(case: Case, *, rank: int, evaluations: int, seed: int, progress: bool = True) -> Fitted:
    """Fit normals and a hybrid Gaussian prior to the fields for training.

    Args:
        case: Data, of which ``train`` alone is used.
        rank: Most EOFs.
        evaluations: Number of evaluations of the score that chooses the scales.
        seed: Seed of the measurements that are simulated for it.
        progress: Whether to show a bar.
    """
    begun = time.perf_counter()
    season, seasons = case.train_season, case.seasons
    normals = Normals.fit(case.train, season, seasons)
    anomalies = normals.standardize(case.train.double(), season)
    scales = select_scales(
        case.domain,
        anomalies,
        HybridScales.start(case.domain),
        season=season,
        seasons=seasons,
        rank=rank,
        max_evaluations=evaluations,
        targets=TARGETS,
        seed=seed,
        progress=progress,
    )
    field = scales.field(case.domain, anomalies)
    prior = fit_gaussian(field, anomalies, scales, rank=rank, season=season, seasons=seasons)
    return Fitted(normals, prior, time.perf_counter() - begun)


def evaluate(
    case: Case, fitted: Fitted, task: Task, index: Tensor, *, members: int, seed: int
) -> tuple[Scores, float, Panels]:
    """Measure test fields, draw members of their posterior, and score all at once.

    Args:
        case: Data.
        fitted: Prior and normals.
        task: Way of measuring the fields.
        index: Numbers (record,) of the test fields.
        members: Number of members of the ensembles.
        seed: Seed of masks, noise and members.

    Returns:
        The scores, the CRPS of the normals alone at the same nodes, and the panels of the middle
        record.
    """
    generator = torch.Generator().manual_seed(seed)
    truth, season = case.test[index].double(), case.test_season[index]
    given = task.measure(
        case.domain, truth, generator, case.noise_std, season=season, key=case.test_key[index]
    )
    begun = time.perf_counter()
    draws = fitted.prior.posterior(fitted.normals.measure(given)).members(members, seed)
    restored = fitted.normals.restore(draws, season).numpy()
    seconds = time.perf_counter() - begun

    mean, std = fitted.normals.mean[season], fitted.normals.std[season]
    scored = given.hidden | (not task.hidden_only)
    weights = _flat((case.domain.areas * scored).numpy())
    guess = NormalPrediction(_flat(mean.double().numpy()), _flat(std.double().numpy()))
    ensemble = EnsemblePrediction(restored.reshape(members, len(index), -1))
    scores, climatology = Tally(), Tally()
    scores.add(ensemble, _flat(truth.numpy()), weights, seconds)
    climatology.add(guess, _flat(truth.numpy()), weights, 0.0)
    shown = len(index) // 2
    base = mean[shown, 0].numpy() * case.anomalies
    seen = given.operator.apply(mean[shown : shown + 1].double() * case.anomalies)
    panels = Panels(
        truth=truth[shown, 0].numpy() - base,
        measured=torch.where(given.mask, given.values - seen, torch.nan)[shown, 0].numpy(),
        measured_on=given.operator.codomain or case.domain,
        mean=restored[:, shown, 0].mean(0) - base,
        spread=restored[:, shown, 0].std(0, ddof=1),
    )
    return scores.scores(), climatology.scores().crps, panels


def _flat(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values.reshape(len(values), -1)


def row_of(name: str, case: Case, task: Task, scores: Scores, climatology: float) -> Row:
    """Return a row of the table."""
    return {
        "case": name,
        "task": task.name,
        "units": case.units,
        "noise_std": task.noise_std * case.noise_std,
        "climatology_crps": climatology,
        **asdict(scores),
    }


def measured(
    options: argparse.Namespace,
) -> tuple[list[Row], dict[str, tuple[Case, list[Panels]]]]:
    """Run every task on every case."""
    rows: list[Row] = []
    drawn = {}
    for name in options.parts:
        case = CASES[name]()
        fitted = fit(case, rank=options.rank, evaluations=options.evaluations, seed=options.seed)
        print(f"{name}: {case.domain!r}, {fitted.prior.scales!r}, {fitted.seconds:.0f} s")
        count = min(options.fields, len(case.test))
        index = torch.linspace(0, len(case.test) - 1, count).long()
        panels = []
        for task in TASKS:
            scores, climatology, shown = evaluate(
                case, fitted, task, index, members=options.members, seed=options.seed
            )
            rows.append(row_of(name, case, task, scores, climatology))
            panels.append(shown)
            print(rows[-1], flush=True)
        drawn[name] = case, panels
    return rows, drawn


def report(rows: Sequence[Row], options: argparse.Namespace, made: str) -> str:
    """Return the page."""
    about = (
        f"{rows[0]['records']} held-out fields a row, {options.members} members, at most "
        f"{options.rank} EOFs. Climatology is the normal distribution that mean and standard "
        "deviation of the training fields make at each node. Scores are weighted by area: "
        "imputation (5 % of the area observed) over the nodes that were not observed, the other "
        "tasks over all nodes."
    )
    return page("Every domain, by the same code", about, TABLE.markdown(rows), made)


def run(options: argparse.Namespace, made: str) -> None:
    """Run the benchmark, write its table and draw its figure."""
    rows, drawn = measured(options)
    save(options.output / "domains", rows, report(rows, options, made))
    figure = draw(drawn, [task.name for task in TASKS])
    save_figure(figure, options.figures / "domains.png", overwrite=True)
    print(TABLE.markdown(rows))
