"""Train one flow in stages, with and without each, and see what each teacher is worth.

python -m benchmarks stages                     writes benchmarks/results/stages/*
python -m benchmarks stages --parts ncep-air    one data set

The stages: (i) draws of the Gaussian prior and (ii) of the diffusion prior, with simulated
measurements; (iii) the amortized KL with the diffusion prior's log-density, the paper's objective;
(iv) the history, cross-fitted. Every stage takes as many steps. The same held-out records of the
history choose the weights, but of stage (iii), which is returned as it ends. Priors and rows are
kept in build/stages, so that a run that was stopped goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import apsgeo
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.flow import FlowDraws
from apsgeo.measurement import Measurement, Normals
from apsgeo.metrics.predictions import EnsemblePrediction
from apsgeo.metrics.scoreboard import Tally
from apsgeo.metrics.table import Column, Row, Table, percent
from apsgeo.posterior import Posterior
from benchmarks.options import Option
from benchmarks.report import ROOT, page, save, write
from benchmarks.stages.cases import CASES, StagedCase
from benchmarks.tasks import Task

OPTIONS = {
    "parts": tuple(CASES),
    "members": 32,
    "threads": 1,
    "fields": Option(48, "test fields of each data set"),
    "share": Option(1.0, "of the steps of all trainings"),
    "cache": Option(ROOT / "build" / "stages", "folder of priors and rows"),
}
STAGES: dict[str, dict[str, Any]] = {
    "(i)": {"teacher": "gaussian"},
    "(ii)": {"teacher": "diffusion"},
    "(iii)": {"teacher": "history", "objective": "reverse"},
    "(iv)": {"teacher": "history"},
}
"""Options of `apsgeo.distill` by the stage's name."""
UNTRAINED = "none"
ROWS: dict[str, tuple[str, str]] = {
    "(i)": (UNTRAINED, "(i)"),
    "(ii)": (UNTRAINED, "(ii)"),
    "(iii)": (UNTRAINED, "(iii)"),
    "(iv)": (UNTRAINED, "(iv)"),
    "(i) (iv)": ("(i)", "(iv)"),
    "(ii) (iv)": ("(ii)", "(iv)"),
    "(iii) (iv)": ("(iii)", "(iv)"),
    "(i) (ii)": ("(i)", "(ii)"),
    "(i) (ii) (iii)": ("(i) (ii)", "(iii)"),
    "(i) (ii) (iii) (iv)": ("(i) (ii) (iii)", "(iv)"),
}
"""The stages that are compared: where each starts, and its last stage."""
TABLE = Table(
    Column("data set", "case"),
    Column("stages", "stages"),
    Column("observed", "observed"),
    Column("CRPS over untrained", "relative", ".4f", best_among="group"),
    Column("standard error", "error", ".4f"),
    Column("CRPS", "crps", ".4g"),
    Column("spread/skill", "spread_skill", ".2f"),
    Column("90 % coverage", "coverage90", percent()),
    Column("log q over untrained, nats a value", "log_gain", ".4f"),
    Column("training, s", "seconds", ".0f"),
)
"""Scores of a flow on the hidden nodes; the error is that of the mean over fields, paired."""
ABOUT = (
    "One flow from the local Gaussian posterior, trained by each teacher and by several one after "
    "the other: (i) draws of the Gaussian prior, (ii) draws of the diffusion prior, (iii) the "
    "amortized KL with the diffusion prior's log-density, (iv) the history, cross-fitted. Test "
    "fields that nothing has seen; same masks and noise for all. log q is the density of the true "
    "field under the posterior. What the diffusion prior is worth is the difference of rows with "
    "(ii) and (iii) from those without."
)


def fitted(case: StagedCase, folder: Path, share: float, seed: int) -> FieldPrior:
    """Fit the priors, or take up those of an earlier run."""
    if not folder.exists():
        prior = apsgeo.fit_prior(
            case.trained.train,
            case.trained.domain,
            scales=case.scales,
            anchor_scales=case.anchor_scales,
            seed=seed,
            steps=max(1, round(share * case.prior_steps)),
            trend=None,  # tables score tensors, whose dates nobody knows
            **case.options,
        )
        prior.save(folder)
    return FieldPrior.load(folder)


@dataclass(frozen=True)
class Measured:
    """Test fields and a measurement of them.

    Attributes:
        truth: Fields (field, 1, node) in their units.
        season: Their seasons (field,).
        given: The measurement.
        weights: Areas (field, node) where the fields are scored.
    """

    truth: Tensor
    season: Tensor
    given: Measurement
    weights: NDArray[np.float64]


def measured(case: StagedCase, normals: Normals, task: Task, fields: int, seed: int) -> Measured:
    """Measure test fields, evenly from first to last."""
    test = case.trained.test
    picked = torch.linspace(0, len(test) - 1, min(fields, len(test))).long()
    some = test.isel({test.dims[0]: picked.numpy()})
    truth = torch.from_numpy(some.values.reshape(len(some), 1, -1)).double()
    season = torch.zeros(len(some), dtype=torch.long)
    if normals.seasons > 1:
        season = torch.from_numpy(some["time"].dt.month.values.astype(np.int64) - 1)
    generator = torch.Generator().manual_seed(seed)
    key = torch.arange(len(truth))
    given = task.measure(case.trained.domain, truth, generator, season=season, key=key)
    weights = (case.trained.domain.areas * given.hidden * normals.valid).double().numpy()
    return Measured(truth, season, given, weights.reshape(len(truth), -1))


def score(
    case: StagedCase, posterior: Posterior, *, fields: int, members: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return the scores on test fields by the task's name, with CRPS and log q of each field."""
    normals, found = posterior.normals, {}
    for task in case.tasks:
        test = measured(case, normals, task, fields, seed)
        draws = posterior.method.posterior(normals.measure(test.given))
        assert isinstance(draws, FlowDraws)
        restored = normals.restore(draws.members(members, seed), test.season).double().numpy()
        log_q = draws.log_prob(normals.encode(test.truth, test.season).float())
        prediction = EnsemblePrediction(restored.reshape(members, len(test.truth), -1))
        flat, mass = test.truth.numpy().reshape(len(test.truth), -1), test.weights
        tally = Tally()
        tally.add(prediction, flat, mass, 0.0)
        scores = tally.scores()
        each = (prediction.crps(flat) * mass).sum(1) / mass.sum(1)
        found[task.name] = {
            "crps": scores.crps,
            "spread_skill": scores.spread_skill,
            "coverage90": scores.coverage90,
            "each": each.tolist(),
            "log_q": (log_q.double() / test.truth[0].numel()).tolist(),
        }
    return found


def trained(
    case: StagedCase, prior: FieldPrior, name: str, folder: Path, share: float, seed: int
) -> tuple[Posterior, float]:
    """Train the last stage of a row from where it starts; return it and its seconds."""
    if name == UNTRAINED:
        settings: dict[str, Any] = {"rounds": 1, "steps": 0}
    else:
        before, last = ROWS[name]
        start = None if before == UNTRAINED else Posterior.load(folder / before)
        steps = max(1, round(share * case.steps))
        settings = {"rounds": 2, "start": start, "steps": steps, "batch": 8, **STAGES[last]}
    begun = time.process_time()
    posterior = apsgeo.distill(
        prior,
        case.operator,
        case.noise_std,
        history=case.trained.train,
        spec=case.spec,
        seed=seed,
        **settings,
    )
    return posterior, 0.0 if name == UNTRAINED else time.process_time() - begun


def kept(path: Path, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Return what an earlier run kept at a path as JSON, or make and keep it."""
    if not path.exists():
        write(path, json.dumps(make()))
    found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    return found


def run_case(name: str, options: argparse.Namespace) -> list[Row]:
    """Train and score all rows of a data set; what an earlier run kept is taken up."""
    case, folder = CASES[name](), options.cache / name
    prior = fitted(case, folder / "prior", options.share, options.seed)
    budget = {"fields": options.fields, "members": options.members, "seed": options.seed + 1}

    def made(stages: str) -> dict[str, Any]:
        posterior, seconds = trained(case, prior, stages, folder, options.share, options.seed)
        if stages != UNTRAINED:
            posterior.save(folder / stages, overwrite=True)
        return {"seconds": seconds, "tasks": score(case, posterior, **budget)}

    rows: list[Row] = []
    base: dict[str, dict[str, Any]] = {}
    for stages in (UNTRAINED, *ROWS):
        found = kept(folder / f"{stages}.json", partial(made, stages))
        base = base or found["tasks"]
        for observed, scores in found["tasks"].items():
            rows.append(_row(name, stages, observed, scores, base[observed], found["seconds"]))
            print(rows[-1], flush=True)
    return rows


def _row(name: str, stages: str, observed: str, scores: Row, base: Row, seconds: float) -> Row:
    mine, theirs = torch.tensor(scores["each"]), torch.tensor(base["each"])
    ratio = float(mine.mean() / theirs.mean())
    error = float((mine - ratio * theirs).std() / theirs.mean() / len(mine) ** 0.5)
    gain = torch.tensor(scores["log_q"]) - torch.tensor(base["log_q"])
    return {
        "case": name,
        "stages": stages,
        "observed": observed,
        "group": f"{name} {observed}",
        "relative": ratio,
        "error": error,
        **{key: scores[key] for key in ("crps", "spread_skill", "coverage90")},
        "log_gain": float(gain.mean()),
        "seconds": seconds,
    }


def run(options: argparse.Namespace, made: str) -> None:
    """Run all data sets, and write a table of each."""
    for name in options.parts:
        rows = run_case(name, options)
        text = page("What each stage of training brings", ABOUT, TABLE.markdown(rows), made)
        save(options.output / "stages" / name, rows, text)
