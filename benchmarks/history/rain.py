"""Rain with its zeros: a latent threshold against kriging of the root and a plain Gaussian."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from apsgeo import datasets
from apsgeo.baselines.gaussian import kriging, local
from apsgeo.field_prior import FieldPrior
from apsgeo.gaussian.scales import HybridScales
from apsgeo.gaussian.vecchia import VecchiaPrior
from apsgeo.gaussian.vecchia.own_spread import OwnSpread
from apsgeo.labels.records import Records
from apsgeo.measurement import Measurement, Method
from apsgeo.metrics.scores import crps_ensemble
from apsgeo.metrics.table import Column, Row, Table, percent
from apsgeo.operators import Mask
from apsgeo.posterior import Posterior
from apsgeo.prior import fit_prior
from benchmarks.options import Option
from benchmarks.report import page, save, write

__all__ = ["DENSITIES", "OPTIONS", "Way", "fitted", "run", "scored", "split", "ways"]

OPTIONS = {
    "rain_step": Option(3, "take every N-th cell of nrcan along each side"),
    "rain_every": Option(3, "take every N-th of the test days"),
    "rain_members": Option(32, "size of the ensembles"),
}
DENSITIES = (0.05, 0.30)
NOISE = 0.1  # mm a day
_BLOCK, _EVERY = 10, 4  # days of a block, and of how many blocks the last is held out
_DRY = 1e-6  # mm a day below which it is dry

TABLE = Table(
    Column("observed", "density", percent("g")),
    Column("method", "method"),
    Column("CRPS [mm/day]", "crps", ".4f", best_among="density"),
    Column("over kriging of the root", "over_root", ".3f"),
    Column("over untransformed", "over_plain", ".3f"),
    Column("RMSE [mm/day]", "rmse", ".3f"),
    Column("dry", "dry", percent(".1f")),
    Column("dry in truth", "dry_truth", percent(".1f")),
    Column("mean", "mean", ".2f"),
    Column("mean of truth", "mean_truth", ".2f"),
    Column("least member", "least", ".2f"),
    Column("days", "records", ".0f"),
)


@dataclass(frozen=True)
class Way:
    """A way to fill rain.

    Attributes:
        prior: Prior of rain, or of its square root.
        method: Method on its standardized anomalies.
        root: Whether it is of the square root.
    """

    prior: FieldPrior
    method: Method
    root: bool = False

    def members(self, rain: Tensor, mask: Tensor, count: int, seed: int) -> Tensor:
        """Draw members (member, day, 1, node) given noisy rain (day, 1, node) under a mask."""
        noise, values = torch.full_like(rain, NOISE), rain
        if self.root:  # the error of a root by the slope of the root, and of one at zero
            values = rain.clamp(min=0.0).sqrt()
            noise = NOISE / (2.0 * rain.clamp(min=NOISE).sqrt())
        posterior = Posterior.of(self.prior, self.method, Mask(), NOISE)
        found = posterior.posterior(Measurement(values, mask, noise)).members(count, seed)
        return found.clamp(min=0.0).square() if self.root else found


def split(step: int, part: int = _EVERY - 1) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the days to learn from, and those of every fourth block of ten days."""
    rain = datasets.load("nrcan", "pr")[:, ::step, ::step].load()
    held = np.arange(len(rain)) // _BLOCK % _EVERY == part
    learned, later = rain[~held], rain[held]
    return learned.rename(time="sample").drop_vars("sample"), later


def fitted(history: xr.DataArray, seed: int, **options: Any) -> FieldPrior:
    """Fit a Gaussian prior, whose localised covariance is chosen by held-out days."""
    rough = HybridScales.start(Records.of(history).layout.domain)
    return fit_prior(history, scales=rough, steps=0, seed=seed, rank=200, **options)


def own_spread(prior: FieldPrior) -> VecchiaPrior:
    """Return the approximation by near observations, with a spread that each day tells."""
    return VecchiaPrior(prior.anchor, spread=OwnSpread())


def ways(history: xr.DataArray, seed: int) -> dict[str, Callable[[], Way]]:
    """Return what makes each row's way, the rival of each bar first."""

    @cache
    def prior(kind: str) -> FieldPrior:
        if kind == "root":
            root = (history**0.5).assign_attrs(units="sqrt(mm/day)")
            return fitted(root, seed, bounds=None)
        return fitted(history, seed, bounds=None if kind == "plain" else (0.0, None))

    return {
        "untransformed Gaussian": lambda: Way(prior("plain"), local(prior("plain"))),
        "kriging of the square root": lambda: Way(prior("root"), kriging(prior("root")), True),
        "Gaussian of the square root": lambda: Way(prior("root"), local(prior("root")), True),
        "latent threshold (`bounds`)": lambda: Way(prior("bounds"), local(prior("bounds"))),
        "latent threshold, own spread": lambda: Way(prior("bounds"), own_spread(prior("bounds"))),
    }


def scored(
    draw: Callable[[Tensor, Tensor], Tensor], days: xr.DataArray, way: Way, density: float
) -> dict[str, float]:
    """Score members on hidden land cells, weighted by area."""
    domain, valid = way.prior.domain, way.prior.normals.valid
    truth = torch.from_numpy(days.values.reshape(len(days), 1, -1)).double().nan_to_num()
    generator = torch.Generator().manual_seed(round(density * 1e6))
    masks = torch.stack([Mask.at_density(domain, density, generator) for _ in truth])[:, None]
    mask = masks & valid
    seen = truth + NOISE * torch.randn(truth.shape, generator=generator, dtype=torch.float64)
    parts = [draw(seen[k : k + 1], mask[k : k + 1]) for k in tqdm(range(len(truth)))]
    members = torch.cat(parts, 1)[:, :, 0].double().numpy()
    weight = np.where((valid & ~mask)[:, 0].numpy(), domain.areas.numpy(), 0.0)
    weight, true = weight / weight.sum(), truth[:, 0].numpy()
    members = np.nan_to_num(members)
    return {
        "crps": float((crps_ensemble(members, true) * weight).sum()),
        "rmse": float(np.sqrt(((members.mean(0) - true) ** 2 * weight).sum())),
        "dry": float(((members <= _DRY).mean(0) * weight).sum()),
        "dry_truth": float(((true <= _DRY) * weight).sum()),
        "mean": float((members.mean(0) * weight).sum()),
        "mean_truth": float((true * weight).sum()),
        "least": float(members[:, weight > 0].min()),
        "records": len(true),
    }


def run(options: argparse.Namespace, made: str) -> None:
    """Fit all, score them, and write the table."""
    history, later = split(options.rain_step)
    later = later[:: options.rain_every]
    keep = options.rows / made.split("commit ")[1].split(";")[0]
    found: dict[str, list[Row]] = {}
    for name, make in ways(history, options.seed).items():
        key = f"{options.rain_step} {options.rain_every} {options.rain_members} {options.seed}"
        file = keep / f"rain {key} {name}.json"
        if not file.exists():  # a run that was stopped goes on
            way = make()

            def draw(seen: Tensor, mask: Tensor, way: Way = way) -> Tensor:
                return way.members(seen, mask, options.rain_members, options.seed)

            rows = [
                {"density": d, "method": name, **scored(draw, later, way, d)} for d in DENSITIES
            ]
            write(file, json.dumps(rows))
        found[name] = json.loads(file.read_text(encoding="utf-8"))
        print(*found[name], sep="\n", flush=True)
    plain, root = list(found.values())[:2]
    rows = [
        {
            **row,
            "over_root": row["crps"] / root[k]["crps"],
            "over_plain": row["crps"] / plain[k]["crps"],
        }
        for k in range(len(DENSITIES))
        for row in (each[k] for each in found.values())
    ]
    about = (
        f"Daily precipitation of 1990 over eastern Canada (nrcan), every {options.rain_step}. cell "
        f"of 1/12 degree along each side. Days are in blocks of {_BLOCK}; the last of every "
        f"{_EVERY} blocks is held out, and every {options.rain_every}. day of these is scored over "
        f"hidden land cells, weighted by area. The noise is {NOISE} mm/day. All Gaussian rows but "
        "kriging have a localised covariance, chosen by held-out days of those learned from; own "
        "spread: what each day's observations tell of its roughness, here and there (`OwnSpread`)."
    )
    text = page("Rain with its zeros", about, TABLE.markdown(rows), made)
    save(options.output / "history" / "rain", rows, text)
    print(TABLE.markdown(rows))
