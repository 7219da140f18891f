"""Score every posterior of ncep-air on eight ways of measuring, members and seconds alike.

python -m benchmarks amortized             writes benchmarks/results/amortized.csv and .md
python -m benchmarks amortized --every 24  an eighth of the months
"""

from __future__ import annotations

import argparse
import io
import json
import subprocess
import tarfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from apsgeo import datasets
from apsgeo.baselines.gaussian import hybrid, kriging
from apsgeo.gaussian.scales import from_config
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.measurement import Method
from apsgeo.metrics.table import Column, Row, Table, percent
from apsgeo.models import load
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from apsgeo.protocol import NcepProtocol
from benchmarks.amortized.cases import CASES, observe
from benchmarks.amortized.figure import draw
from benchmarks.amortized.scores import BANDS, FieldScores
from benchmarks.options import Option
from benchmarks.report import ROOT, page, save, write

OPTIONS = {
    "members": 32,
    "every": Option(3, "take every N-th test month"),
    "rarely": Option(24, "take every N-th test month where an exact posterior takes long"),
    "model": Option("ncep-air", "the model: name or folder"),
    "former": Option("v0.2.0", "commit whose shipped model is compared with"),
    "methods": Option(("",), "names of rows; all by default"),
    "cases": Option(tuple(CASES), "ways of measuring", tuple(CASES)),
    "rows": Option(Path("build/amortized"), "folder that keeps what is scored already"),
}

_BESIDE = ", with neighbours"
_DENSE = ("kriging", "localised, exact", "APS 0.2", "anchor, exact")
_LONG = ("80 %", "block", "ships")  # cases in which a dense posterior takes half a minute


def former(commit: str, folder: Path) -> Posterior:
    """Return the model that a commit shipped."""
    if not folder.exists():
        git = ["git", "-C", str(ROOT), "archive", commit, "apsgeo/models/ncep-air"]
        packed = subprocess.run(git, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(folder, filter="data")
    model = load(folder / "apsgeo" / "models" / "ncep-air")
    assert isinstance(model, Posterior)
    return model


def methods(protocol: NcepProtocol, options: argparse.Namespace) -> dict[str, tuple[Method, int]]:
    """Return all posteriors, in the units of the data, and the months on either side they get."""
    model, before = load(options.model), former(options.former, options.rows / options.former)
    assert isinstance(model, Posterior)
    anchor, old = model.flow.anchor, before.flow.anchor
    assert anchor is not None
    assert old is not None
    prior = protocol.prior(from_config(before.provenance["prior"]["scales"]), anchor=old)
    noise = protocol.noise_std

    def of(posterior: Posterior, method: Method) -> Posterior:
        return Posterior(posterior.domain, posterior.normals, Mask(), method, torch.tensor(noise))

    alone: dict[str, Method] = {
        "kriging": Posterior.of(prior, kriging(prior), Mask(), noise),
        "hybrid Gaussian": Posterior.of(prior, hybrid(prior), Mask(), noise),
        "localised, exact": of(before, old),
        "localised, local gain": of(before, VecchiaPrior(old)),
        "APS 0.2": before,
        "anchor, exact": of(model, anchor),
        "anchor, local gain": replace(model, method=model.flow.base),
        "APS": model,
    }
    found = {name: (method, 0) for name, method in alone.items()}
    if model.window:
        for name in ("anchor, local gain", "APS"):
            found[f"{name}{_BESIDE}"] = alone[name], model.window
    return found


def score(
    method: Method,
    protocol: NcepProtocol,
    months: Any,
    case: str,
    window: int,
    members: int,
    name: str,
) -> dict[str, Any]:
    """Score one method in one case, month by month, and count all that a user waits for."""
    scores = FieldScores(protocol.domain, protocol.weights)
    observed = [observe(protocol, int(month), case, window) for month in months]
    method.posterior(observed[0]).members(2, 0)  # what is prepared once is not a field's cost
    records, seconds = [], []
    for month, measurement in zip(tqdm(months, desc=f"{name}, {case}"), observed, strict=True):
        begun = time.perf_counter()
        drawn = method.posterior(measurement).members(members, protocol.seed)
        seconds.append(time.perf_counter() - begun)
        index = np.array([month])
        records.append(
            scores.record(
                drawn[:, 0, 0].double().cpu().numpy(),
                protocol.truth(index)[0],
                measurement.mask[0, 0].numpy(),
                protocol.climatological_mean(index).values.ravel(),
            )
        )
    found = FieldScores.pooled(records)
    by_month = {"crps_by_month": [each["crps"] for each in records]}
    return found | by_month | {"seconds": float(np.median(seconds)), "records": len(records)}


def against_start(rows: Sequence[Row]) -> list[Row]:
    """Return rows with a flow's CRPS over that of its untrained start, month by month.

    The standard error is that of the mean difference of the same months.
    """
    found = {(row["case"], row["method"]): row["crps_by_month"] for row in rows}
    compared: list[Row] = []
    for row in rows:
        kept = {name: value for name, value in row.items() if name != "crps_by_month"}
        own = np.array(row["crps_by_month"])
        start = found.get((row["case"], row["method"].replace("APS", "anchor, local gain")))
        if row["method"].startswith("APS") and start is not None:
            error = (own - start).std(ddof=1) / len(own) ** 0.5 if len(own) > 1 else np.nan
            kept["start_ratio"] = float(own.mean() / np.mean(start))
            kept["start_error"] = float(error / np.mean(start))
        compared.append(kept)
    return compared


TABLE = Table(
    Column("measured", "case"),
    Column("method", "method"),
    Column("CRPS [K]", "crps", ".4f", best_among="compared"),
    Column("over its start", "start_ratio", ".4f"),
    Column("± (standard error)", "start_error", ".4f"),
    Column("spread/skill", "spread_skill", ".3f"),
    Column("90 % coverage", "coverage90", percent()),
    Column("energy score [K]", "energy", ".4f"),
    Column("variogram score", "variogram", ".4f"),
    Column("seconds a field", "seconds", ".3g"),
    *(
        Column(f"power {first}-{last}", f"power_{k}", ".2f")
        for k, (first, last) in enumerate(BANDS)
    ),
    Column("months", "records"),
)


def run(options: argparse.Namespace, made: str) -> None:
    """Score all rows, keep each, and write the table and the figure."""
    protocol = NcepProtocol(datasets.load("ncep-air"), seed=options.seed)
    every = methods(protocol, options)
    chosen = {name: every[name] for name in options.methods} if any(options.methods) else every
    rows: list[Row] = []
    for case in options.cases:
        for name, (method, window) in chosen.items():
            rare = case in _LONG and name in _DENSE
            months = protocol.test[:: options.rarely if rare else options.every]
            key = f"{name} {case} {len(months)} {options.members} {options.seed}".replace("%", "pc")
            file = options.rows / made.split("commit ")[1].split(";")[0] / f"{key}.json"
            if file.exists():  # a run that was stopped goes on
                found = json.loads(file.read_text(encoding="utf-8"))
            else:
                found = score(method, protocol, months, case, window, options.members, name)
                write(file, json.dumps(found))
            # scores are comparable where the months are the same
            compared = f"{case}, {len(months)} months"
            rows.append({"case": case, "method": name, "compared": compared, **found})
            print(rows[-1], flush=True)
    rows = against_start(rows)
    figure = draw(rows, options.figures)
    about = (
        "Test months from 2010 on of ncep-air, noise 0.25 K; scores over unobserved cells, "
        f"weighted by cos(latitude), of {options.members} members. Seconds are the median over "
        "months of all that a user waits for: the posterior of one field and its members. Power is "
        "that of the members over the truth's, by degree of the spherical harmonics. A block hides "
        "a quarter of the area, swaths see 15 % of it, and ships see where the COADS climatology "
        "of that calendar month has a sea surface temperature. Where exact dense posteriors take "
        f"half a minute a field they have every {options.rarely}th month only, and are not to be "
        "compared with rows of more months; the best of the same months is in bold.\n\n"
        "APS 0.2 is the model that version 0.2 shipped, a flow on the exact posterior of "
        "`localised`. `anchor` is the Gaussian prior of the present model, and its local gain the "
        "untrained start of it. Rows with neighbours are given the months on either side too, "
        "which are observed alike. `over its start` compares the same months, one by one."
    )
    text = page("One network evaluation", about, TABLE.markdown(rows), f"![]({figure})", made)
    save(options.output / "amortized", rows, text)
    print(TABLE.markdown(rows))
