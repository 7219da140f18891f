"""Neighbouring months as measurements of each one: what every method gains by them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from apsgeo import datasets
from apsgeo.baselines.gaussian import kriging
from apsgeo.errors import InputError
from apsgeo.gaussian.scales import from_config
from apsgeo.gaussian.time.memory import Memory
from apsgeo.gaussian.time.series import SeriesPrior
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Method, Normals
from apsgeo.metrics.scoreboard import Scores
from apsgeo.metrics.table import Column, Table, percent
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from apsgeo.protocol import DENSITIES, NcepProtocol
from benchmarks.amortized.suite import former
from benchmarks.ncep.suite import posterior
from benchmarks.ncep.train_demo import RECENT
from benchmarks.options import Option
from benchmarks.report import page, save, write

__all__ = ["OPTIONS", "run"]

OPTIONS = {
    "time_every": Option(13, "take every N-th test month, so that all seasons are among them"),
    "time_members": Option(32, "size of the ensembles of methods without exact marginals"),
    "time_methods": Option(("",), "names of rows; all by default"),
    "time_model": Option("ncep-air", "model that knows neighbouring months: name or folder"),
    "time_without": Option("7feb66a", "commit whose shipped model knows none"),
    "time_rows": Option(Path("build/history/time"), "folder that keeps what is scored already"),
}

_DENSE_WINDOW = 2  # months on either side that a dense posterior is given
_LONG = 0.3  # density at which it is given the nearest only
APS, APS_TIME = "APS", "APS, with neighbours"

TABLE = Table(
    Column("observed", "density", percent("g")),
    Column("method", "method"),
    Column("months on either side", "window"),
    Column("CRPS [K]", "crps", ".4f", best_among="density"),
    Column("over best without", "ratio", ".3f"),
    Column("RMSE [K]", "rmse", ".4f"),
    Column("spread/skill", "spread_skill", ".3f"),
    Column("90 % coverage", "coverage90", percent()),
    Column("seconds a field", "seconds_per_field", ".3g"),
    Column("months", "records"),
)


@dataclass(frozen=True)
class Case:
    """A method, and the number of months on either side that it is given.

    Attributes:
        method: The method, in the units of the data.
        window: Number of months.
        dense: Whether it is exact, and costs the cube of the observations.
    """

    method: Method
    window: int = 0
    dense: bool = False


def memory_of(protocol: NcepProtocol, normals: Normals) -> Memory:
    """Fit the memory to the months that the shipped model is fitted to.

    Raises:
        InputError: If they have none.
    """
    years = (int(RECENT.start), 2004)
    index = np.flatnonzero((protocol.year >= years[0]) & (protocol.year <= years[1]))
    values = torch.from_numpy(protocol.values[index])[:, None]
    fields = normals.encode(values, torch.from_numpy(protocol.season[index]))
    found = Memory.fit(protocol.domain, fields, np.arange(len(index), dtype=np.float64))
    if found is None:
        raise InputError("the months hardly remember those before; give other data.")
    return found


def cases(protocol: NcepProtocol, options: argparse.Namespace) -> dict[str, Case]:
    """Return all rows: each method on its own, and given the months beside each."""
    model = posterior(options.time_model)
    without = former(options.time_without, options.time_rows / options.time_without)
    anchor = without.flow.anchor
    assert anchor is not None
    prior = protocol.prior(from_config(without.provenance["prior"]["scales"]), anchor=anchor)
    memory = memory_of(protocol, protocol.normals)
    mean = float(memory.correlation.mean())
    # Kriging forgets at one rate everywhere: its covariance is a product of space and time.
    constant = replace(memory, rate=torch.full_like(memory.rate, -float(np.log(mean))))
    kriged, hybrid = kriging(prior), prior.gaussian

    def own(method: Method) -> Posterior:
        return Posterior.of(prior, method, Mask(), protocol.noise_std)

    window, start = memory.window, replace(model, method=model.flow.base)
    return {
        "kriging": Case(own(kriged)),
        "kriging, with neighbours": Case(own(SeriesPrior(kriged, constant)), window, True),
        "hybrid Gaussian": Case(own(hybrid)),
        "hybrid Gaussian, with neighbours": Case(own(SeriesPrior(hybrid, memory)), window, True),
        "local Gaussian": Case(replace(without, method=VecchiaPrior(anchor))),
        "local Gaussian, with neighbours": Case(start, model.window),
        APS: Case(without),
        "APS, with neighbours, given none": Case(model),
        APS_TIME: Case(model, model.window),
    }


def run(options: argparse.Namespace, made: str) -> None:
    """Score all rows, keep each, and write the table."""
    protocol = NcepProtocol(datasets.load("ncep-air"), seed=options.seed)
    months = protocol.test[:: options.time_every]
    every = cases(protocol, options)
    asked = options.time_methods if any(options.time_methods) else tuple(every)
    rows: list[dict[str, Any]] = []
    for density in DENSITIES:
        for name in asked:
            case = every[name]
            window = case.window
            if case.dense:
                window = 1 if density >= _LONG else _DENSE_WINDOW
            key = f"{name} {density} {len(months)} {options.time_members} {options.seed}"
            file = options.time_rows / f"{key}.json"
            if file.exists():  # a run that was stopped goes on
                found = Scores(**json.loads(file.read_text(encoding="utf-8")))
            else:
                found = protocol.evaluate(
                    case.method,
                    months,
                    density,
                    members=options.time_members,
                    name=name,
                    batch=1,
                    window=window,
                )
                write(file, json.dumps(asdict(found)))
            rows.append({"density": density, "method": name, "window": window, **vars(found)})
            print(rows[-1], flush=True)
    for density in DENSITIES:
        here = [row for row in rows if row["density"] == density]
        alone = [row["crps"] for row in here if row["window"] == 0]
        for row in here:
            row["ratio"] = row["crps"] / min(alone) if alone else float("nan")
    about = (
        f"Every {options.time_every}th month from 2010 on of ncep-air, noise 0.25 K. A month is "
        "filled given its own observations, or those of the months before and after it too, which "
        "are observed alike: at the same density, each with a mask and noise of its own. The "
        "column `over best without` is the CRPS over that of the best row that is given no "
        "neighbours, at the same density. Kriging and the hybrid covariance are exact here, by "
        "factorizations of all observations, with two months on either side (at 30 %: one). "
        f"`{APS}` is the model that {options.time_without} shipped, which knows no neighbours, and "
        f"`local Gaussian` its untrained start. `{APS_TIME}` is {options.time_model}, which has a "
        "trend as well, and `local Gaussian, with neighbours` its untrained start."
    )
    text = page("Neighbouring months", about, TABLE.markdown(rows), made)
    save(options.output / "history" / "time", rows, text)
    print(TABLE.markdown(rows))
