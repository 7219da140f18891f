"""Fit a Gaussian prior on every kind of domain, and fill, denoise and refine held-out real fields.

python -m benchmarks.domains.suite                     writes benchmarks/results/domains.* and the figure
python -m benchmarks.domains.suite --cases ncep-air    one data set, in minutes
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from apsgeo.atomic import write_csv
from apsgeo.gaussian.fit import fit_gaussian, select_scales
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.seasonal import SeasonalPrior
from apsgeo.measurement import Measurement, Normals
from apsgeo.metrics.predictions import EnsemblePrediction, NormalPrediction
from apsgeo.metrics.scoreboard import Scores, Tally
from apsgeo.operators import Downsample, Identity, Mask, Operator
from apsgeo.plotting import save_figure
from apsgeo.posterior import members_noise
from benchmarks.domains.cases import CASES, Case
from benchmarks.domains.figure import Panels, draw
from benchmarks.report import FIGURES, RESULTS, commit, provenance, write

__all__ = ["TASKS", "Fitted", "Row", "Task", "evaluate", "fit"]

TARGETS = 64  # nodes by whose score scales are chosen: a third of the time of the usual 200
FIGURE = FIGURES / "domains.png"


@dataclass(frozen=True)
class Task:
    """A way of measuring the test fields.

    Attributes:
        name: in the table.
        operator: what is observed.
        noise: the noise's standard deviation, in that of an ordinary observation of the case.
        density: observed fraction of the area, for masks.
        hidden_only: whether scores are over the nodes that were not observed, or over all.
    """

    name: str
    operator: Operator
    noise: float = 1.0
    density: float = 1.0
    hidden_only: bool = False


TASKS = (
    Task("imputation", Mask(), density=0.05, hidden_only=True),
    Task("denoising", Identity(), noise=10.0),
    Task("super-resolution", Downsample(2)),
)


@dataclass(frozen=True)
class Fitted:
    """A prior of standardized anomalies, and what made them so."""

    normals: Normals
    prior: SeasonalPrior
    seconds: float


@dataclass(frozen=True)
class Row:
    """The scores of one task on one case, and the CRPS of the normals alone."""

    case: str
    task: str
    units: str
    noise_std: float
    climatology_crps: float
    scores: Scores


def fit(case: Case, *, rank: int, evaluations: int, seed: int, progress: bool = True) -> Fitted:
    """Fit normals and a hybrid Gaussian prior to the fields for training.

    Args:
        case: whose ``train`` is used, and nothing else.
        rank: the most EOFs.
        evaluations: of the score that the scales are chosen by.
        seed: of the measurements that are simulated for it.
        progress: whether to show a bar.
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
        case: the data.
        fitted: the prior.
        task: how they are measured.
        index: (record,) which test fields.
        members: of the ensembles.
        seed: of masks, noise and members.

    Returns:
        The scores, the CRPS of the normals alone at the same nodes, and what is drawn of the
        middle record.
    """
    generator = torch.Generator().manual_seed(seed)
    truth, season = case.test[index].double(), case.test_season[index]
    values, noise_std = measure(case, task, truth, generator)
    linear = task.operator.on(case.domain)
    begun = time.perf_counter()
    measurement = fitted.normals.measure(values, noise_std, season, linear)
    draws = sample(fitted.prior, measurement, season, case.test_key[index], members, seed)
    restored = fitted.normals.restore(draws, season).numpy()
    seconds = time.perf_counter() - begun

    mean, std = fitted.normals.mean[season], fitted.normals.std[season]
    scored = measurement.hidden | (not task.hidden_only)
    weights = _flat((case.domain.areas * scored).numpy())
    guess = NormalPrediction(_flat(mean.double().numpy()), _flat(std.double().numpy()))
    ensemble = EnsemblePrediction(restored.reshape(members, len(index), -1))
    scores, climatology = Tally(), Tally()
    scores.add(ensemble, _flat(truth.numpy()), weights, seconds)
    climatology.add(guess, _flat(truth.numpy()), weights, 0.0)
    shown = len(index) // 2
    base = mean[shown, 0].numpy() * case.anomalies
    seen = linear.apply(mean[shown : shown + 1].double() * case.anomalies)
    panels = Panels(
        truth=truth[shown, 0].numpy() - base,
        measured=(values[shown, 0] - seen[0, 0]).numpy(),
        measured_on=linear.codomain or case.domain,
        mean=restored[:, shown, 0].mean(0) - base,
        spread=restored[:, shown, 0].std(0, ddof=1),
    )
    return scores.scores(), climatology.scores().crps, panels


def measure(
    case: Case, task: Task, truth: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return values (record, 1, observation), NaN where not observed, and their noise's std."""
    values = task.operator.on(case.domain).apply(truth)
    seen = torch.stack(
        [task.operator.at_density(case.domain, task.density, generator) for _ in truth]
    )
    noise_std = torch.full_like(values, task.noise * case.noise_std)
    white = torch.randn(values.shape, generator=generator, dtype=values.dtype)
    return torch.where(seen[:, None], values + noise_std * white, torch.nan), noise_std


def sample(
    prior: SeasonalPrior,
    measurement: Measurement,
    season: Tensor,
    keys: Tensor,
    members: int,
    seed: int,
) -> Tensor:
    """Draw (member, record, 1, node) of the exact posterior of standardized anomalies."""
    posterior = prior.posterior(measurement, season)
    noise = members_noise(seed, keys.tolist(), members, posterior.noise_dim)
    return posterior.mean + posterior.deviations(noise)


def _flat(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return values.reshape(len(values), -1)


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.domains.suite",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES), metavar="NAME")
    parser.add_argument("--fields", type=int, default=12, help="test fields of each data set")
    parser.add_argument("--members", type=int, default=32, help="size of the ensembles")
    parser.add_argument("--rank", type=int, default=150, help="the most EOFs")
    parser.add_argument("--evaluations", type=int, default=16, help="in the choice of scales")
    parser.add_argument("--seed", type=int, default=0, help="of masks, noise and ensembles")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder for the tables")
    parser.add_argument("--figure", type=Path, default=FIGURE, help="the picture")
    return parser.parse_args(arguments)


def run(options: argparse.Namespace) -> tuple[list[Row], dict[str, tuple[Case, list[Panels]]]]:
    """Run every task on every case."""
    rows, drawn = [], {}
    for name in options.cases:
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
            noise_std = task.noise * case.noise_std
            rows.append(Row(name, task.name, case.units, noise_std, climatology, scores))
            panels.append(shown)
            print("| " + " | ".join(_cells(rows[-1])) + " |", flush=True)
        drawn[name] = case, panels
    return rows, drawn


_HEADINGS = (
    "data set",
    "task",
    "unit",
    "noise",
    "climatology CRPS",
    "CRPS",
    "RMSE",
    "spread/skill",
    "90 % coverage",
    "seconds a field",
)


def _cells(row: Row) -> list[str]:
    scores = row.scores
    return [
        row.case,
        row.task,
        row.units,
        f"{row.noise_std:g}",
        f"{row.climatology_crps:.3g}",
        f"{scores.crps:.3g}",
        f"{scores.rmse:.3g}",
        f"{scores.spread_skill:.2f}",
        f"{100 * scores.coverage90:.1f} %",
        f"{scores.seconds_per_field:.2g}",
    ]


def to_markdown(rows: Sequence[Row]) -> str:
    """Return the table."""
    lines = [list(_HEADINGS), ["---"] * 3 + ["---:"] * (len(_HEADINGS) - 3), *map(_cells, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def to_records(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return rows with six digits of all numbers, as columns of a CSV file."""
    flat = [{**vars(row), **vars(row.scores)} for row in rows]
    return [
        {
            name: value if isinstance(value, str) else f"{value:.6g}"
            for name, value in each.items()
            if name != "scores"
        }
        for each in flat
    ]


def report(rows: Sequence[Row], options: argparse.Namespace, said: str) -> str:
    """Return the table with what it says and what made it."""
    records = rows[0].scores.records
    return (
        "# Every domain, by the same code\n\n"
        f"{records} held-out fields a row, {options.members} members, at most {options.rank} EOFs. "
        "Climatology is the normal distribution that mean and standard deviation of the training "
        "fields make at each node. Scores are weighted by area: imputation (5 % of the area "
        "observed) over the nodes that were not observed, the other tasks over all nodes.\n\n"
        f"{to_markdown(rows)}\n{said}"
    )


def main() -> None:
    """Run the benchmark, write its tables and draw its figure."""
    arguments = sys.argv[1:]
    options = parse(arguments)
    made_by = commit()
    rows, drawn = run(options)
    said = provenance("benchmarks.domains.suite", arguments, options.seed, made_by)
    write_csv(options.output / "domains.csv", to_records(rows))
    write(options.output / "domains.md", report(rows, options, said))
    save_figure(draw(drawn, [task.name for task in TASKS]), options.figure, overwrite=True)
    print(to_markdown(rows))


if __name__ == "__main__":
    main()
