"""Change the paper's form one thing at a time: its source, its flow, its objective.

python -m benchmarks paper-form    writes benchmarks/results/paper_form.csv and .md

The paper's form is a flow of local couplings from N(0, I), trained by the amortized KL alone. Its
prior, noise and masks are as in the benchmark of stages, on every second latitude and longitude of
ncep-air, so that trainings are four times as cheap. Rows are kept in build/stages.
"""

from __future__ import annotations

import argparse
import time
from functools import partial
from typing import Any

import apsgeo
from apsgeo.field_prior import FieldPrior
from apsgeo.flows.build import CouplingSpec, MultiscaleSpec
from apsgeo.flows.spec import FlowSpec
from apsgeo.metrics.predictions import NormalPrediction
from apsgeo.metrics.scoreboard import Tally
from apsgeo.metrics.table import Column, Row, Table, percent
from apsgeo.optim.training import Training
from benchmarks.options import Option
from benchmarks.report import ROOT, page, save
from benchmarks.stages.cases import StagedCase, coarse_months
from benchmarks.stages.suite import fitted, kept, measured, score

OPTIONS = {
    "members": 32,
    "threads": 1,
    "fields": Option(48, "test months"),
    "share": Option(1.0, "of the steps of all trainings"),
    "cache": Option(ROOT / "build" / "stages", "folder of priors and rows"),
}
_CASE = "ncep-air-5-degrees"
_COUPLINGS = {"width": 16, "depth": 3, "local": 8, "coupling_width": 12}
_LEVELS = {"width": 16, "depth": 3, "context": 24, "level_width": 16}

FORMS: dict[str, tuple[str, str, str]] = {
    "the paper's form": ("white", "couplings", "reverse"),
    "objective changed": ("white", "couplings", "mixed"),
    "flow changed": ("white", "multiscale", "reverse"),
    "flow and objective": ("white", "multiscale", "mixed"),
    "source changed": ("local", "couplings", "reverse"),
    "source and objective": ("local", "couplings", "mixed"),
    "source, flow and objective": ("local", "multiscale", "mixed"),
}
"""Source, flow and objective, by what was changed."""
TABLE = Table(
    Column("what", "what"),
    Column("source", "base"),
    Column("flow", "flow"),
    Column("objective", "objective"),
    Column("observed", "observed"),
    Column("CRPS [K]", "crps", ".3f", best_among="observed"),
    Column("spread/skill", "spread_skill", ".2f"),
    Column("90 % coverage", "coverage90", percent()),
    Column("log q, nats a value", "log_q", ".2f"),
    Column("training, s", "seconds", ".0f"),
)
ABOUT = (
    "Test months of ncep-air, 5 degrees apart, that nothing has seen, over the cells that were not "
    "observed. The source is what the flow transforms: N(0, I), or the local Gaussian posterior. "
    "The flow is of local couplings, as in the paper, or from coarse to fine. The objective is the "
    "amortized KL ('reverse'), or that with likelihood and CRPS on simulated measurements of the "
    "history ('mixed'). log q is the density of the true field under the posterior, per value."
)


def spec_of(base: Any, flow: str) -> FlowSpec:
    """Return the architecture of a form."""
    if flow == "multiscale":
        return MultiscaleSpec(base=base, **_LEVELS)
    return CouplingSpec(base=base, **_COUPLINGS)  # type: ignore[arg-type]


def trained(
    case: StagedCase, prior: FieldPrior, form: str, options: argparse.Namespace
) -> dict[str, Any]:
    """Train a form and score it."""
    base, flow, objective = FORMS[form]
    begun = time.process_time()
    posterior = apsgeo.distill(
        prior,
        case.operator,
        case.noise_std,
        history=case.trained.train,
        spec=spec_of(base, flow),
        objective=objective,  # type: ignore[arg-type]
        rounds=2,
        seed=options.seed,
        training=Training(steps=max(1, round(2 * options.share * case.steps)), batch=8),
    )
    seconds = time.process_time() - begun
    budget = {"fields": options.fields, "members": options.members, "seed": options.seed + 1}
    return {"seconds": seconds, "tasks": score(case, posterior, **budget)}


def references(case: StagedCase, prior: FieldPrior, options: argparse.Namespace) -> list[Row]:
    """Return the rows of climatology."""
    rows: list[Row] = []
    for task in case.tasks:
        found = measured(case, prior.normals, task, options.fields, options.seed + 1)
        normals = prior.normals
        mean, std = (each[found.season].double().numpy() for each in (normals.mean, normals.std))
        flat = (len(found.truth), -1)
        tally = Tally()
        guess = NormalPrediction(mean.reshape(flat), std.reshape(flat))
        tally.add(guess, found.truth.numpy().reshape(flat), found.weights, 0.0)
        scores = tally.scores()
        rows.append(
            {
                "what": "climatology",
                "observed": task.name,
                "crps": scores.crps,
                "spread_skill": scores.spread_skill,
                "coverage90": scores.coverage90,
            }
        )
    return rows


def run(options: argparse.Namespace, made: str) -> None:
    """Train and score all forms, and write the table."""
    case, folder = coarse_months(), options.cache / _CASE
    prior = fitted(case, folder / "prior", options.share, options.seed)
    rows = references(case, prior, options)
    for form, (base, flow, objective) in FORMS.items():
        path = folder / f"form, {base} {flow} {objective}.json"
        found = kept(path, partial(trained, case, prior, form, options))
        for observed, scores in found["tasks"].items():
            log_q = sum(scores["log_q"]) / len(scores["log_q"])
            rows.append(
                {
                    "what": form,
                    "base": base,
                    "flow": flow,
                    "objective": objective,
                    "observed": observed,
                    **{key: scores[key] for key in ("crps", "spread_skill", "coverage90")},
                    "log_q": log_q,
                    "seconds": found["seconds"],
                }
            )
            print(rows[-1], flush=True)
        text = page("The paper's form, changed one thing at a time", ABOUT, TABLE.markdown(rows))
        save(options.output / "paper_form", rows, f"{text}\n{made}")
