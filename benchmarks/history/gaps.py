"""A history with gaps: what a prior loses that saw each month through a mask of ships' tracks."""

from __future__ import annotations

import argparse
import json

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from apsgeo import datasets
from apsgeo.domains import LatLonDomain
from apsgeo.metrics.table import Column, Row, Table, percent
from apsgeo.protocol import DENSITIES, NcepProtocol
from benchmarks.amortized.cases import ships
from benchmarks.history.recipe import fitted, history, posterior_of
from benchmarks.options import Option
from benchmarks.report import ROOT, page, save, write

__all__ = ["OPTIONS", "hide", "run"]

OPTIONS = {
    "hidden": Option((0.0, 0.3, 0.7), "shares of the cells that each month lacks, 0 the first"),
    "rows": Option(ROOT / "build" / "history", "folder that keeps the rows of a commit"),
}

_DEGREE = 12  # of the spherical harmonics that a mask is thinned or widened by
_STRENGTH = 6.0  # of the ships' mask, in standard deviations of those
_TWO_MASKS = 0.5  # share above which two masks of ships are combined

TABLE = Table(
    Column("observed", "density", percent("g")),
    Column("hidden of each month", "hidden", percent("g")),
    Column("CRPS [K]", "crps", ".4f"),
    Column("over complete", "ratio", ".3f"),
    Column("RMSE [K]", "rmse", ".4f"),
    Column("spread/skill", "spread_skill", ".3f"),
    Column("90 % coverage", "coverage90", percent()),
    Column("months", "records", ".0f"),
)


def hide(months: xr.DataArray, share: float, seed: int) -> xr.DataArray:
    """Hide a share of the cells of each month where ships did not go.

    A month has the COADS mask of a random month, which lacks 43 to 48 % of the cells, shifted at
    random along longitude and, from pole to pole and round again, along latitude; from half of the
    cells on, what either of two such masks lacks. Cells are ranked by whether it lacks them, and
    among these by a random smooth field (spherical harmonics up to degree 12); exactly the share
    that ranks first is hidden. So each cell is seen about equally often.
    """
    domain = LatLonDomain(months["lat"].values, months["lon"].values)
    found = domain.continuous_eigenbasis((_DEGREE + 1) ** 2)
    assert found is not None
    basis = found[1].numpy()
    basis = basis / np.linalg.norm(basis, axis=1, keepdims=True)
    lacking = ~ships(domain).numpy().reshape(-1, *domain.shape)
    rng = np.random.default_rng(seed)
    hidden: NDArray[np.bool_] = np.zeros((len(months), domain.num_nodes), dtype=bool)
    for month in hidden:
        mask = np.zeros(domain.shape, dtype=bool)
        for _ in range(2 if share > _TWO_MASKS else 1):
            shift = tuple(int(rng.integers(size)) for size in domain.shape)
            mask |= np.roll(lacking[rng.integers(len(lacking))], shift, axis=(0, 1))
        rank = basis @ rng.standard_normal(basis.shape[1]) + _STRENGTH * mask.ravel()
        month[np.argsort(-rank)[: round(share * domain.num_nodes)]] = True
    return months.where(~hidden.reshape(months.shape))


def score(share: float, protocol: NcepProtocol, options: argparse.Namespace) -> list[Row]:
    """Fit a prior to the months without a share of the cells, and score its local posterior."""
    months = history()
    given = months if share == 0.0 else hide(months, share, options.seed)
    model, index = posterior_of(fitted(given, options.seed)), protocol.test[:: options.every]
    found = [
        protocol.evaluate(model, index, density, members=options.members) for density in DENSITIES
    ]
    labels = [{"hidden": share, "density": density} for density in DENSITIES]
    return [{**label, **vars(each)} for label, each in zip(labels, found, strict=True)]


def run(options: argparse.Namespace, made: str) -> None:
    """Score each history, keep its rows, and write the table."""
    protocol = NcepProtocol(datasets.load("ncep-air"), seed=options.seed)
    rows: list[Row] = []
    for share in options.hidden:
        key = f"{share} {options.every} {options.members} {options.seed}.json"
        file = options.rows / made.split("commit ")[1].split(";")[0] / key
        if file.exists():  # a run that was stopped goes on
            found = json.loads(file.read_text(encoding="utf-8"))
        else:
            found = score(share, protocol, options)
            write(file, json.dumps(found))
        rows += found
        print(*found, sep="\n", flush=True)
    complete = {row["density"]: row["crps"] for row in rows if row["hidden"] == 0.0}
    rows = [{**row, "ratio": row["crps"] / complete[row["density"]]} for row in rows]
    rows.sort(key=lambda row: row["density"])
    about = (
        "ncep-air, fitted to the months from 1972 to 2004 by the recipe of the shipped model, "
        "with its scales; local Gaussian posterior, its untrained start. Each month of the "
        "history lacks a share of its cells: where the mask of ships of a random month of the "
        "COADS climatology, shifted at random along longitude and latitude, has no value "
        "(above a half: where either of two such masks has none), thinned or widened to "
        "exactly that share of the cells by the rank of a random smooth field. Every "
        f"{options.every}th month from 2010 on is tested, noise 0.25 K, complete truth."
    )
    text = page("A history with gaps", about, TABLE.markdown(rows), made)
    save(options.output / "history" / "gaps", rows, text)
    print(TABLE.markdown(rows))
