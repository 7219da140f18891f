"""One real task from end to end: months of ncep-air under the masks of COADS, quantiles to Zarr.

Where ships have measured the sea surface in a calendar month, the month's air temperature is
observed, with noise of 0.25 K. All methods are given the same anomalies, standardized with the
climatology of the shipped model, and those that learn have the complete months of 1971 to 2000.
DINEOF is that of Beckers & Rixen 2003 (doi:10.1175/1520-0426(2003)020<1839:ECADFF>2.0.CO;2), its
rank chosen by cells that are hidden from it; kriging is ordinary kriging on the sphere by gstools,
from at most 2000 of the observations.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from apsgeo import datasets
from apsgeo.domains import LatLonDomain
from apsgeo.metrics.table import Column, Row, Table
from apsgeo.models import load
from apsgeo.output.write import write_ensemble
from apsgeo.posterior import Posterior
from apsgeo.xarray import impute
from benchmarks.amortized.cases import ships

Array = NDArray[np.float64]

MEMBERS, NOISE_STD = 64, 0.25
TITLE = "A real task: months under the masks of ships"
NOTE = __doc__.split("\n\n", 1)[1].strip()
TABLE = Table(
    Column("method", "method"),
    Column("seconds a month", "seconds", ".3g"),
    Column("RMSE [K]", "rmse", ".3f"),
    Column("90 % coverage [%]", "coverage", ".1f"),
)
_RANKS = (2, 3, 5, 10, 20, 40, 80)  # one after the other, from the last one's fields
_ROUNDS = 15
_MOST = 2000
_NORMAL_95 = 1.6449

Filled = tuple[Array, Array | None, Array | None]
"""Filled anomalies (month, node), and the ends of their 90 % intervals, if the method has any."""


def rows(months: int, seed: int) -> list[Row]:
    """Fill so many months of 2012 by each method, and score what was hidden."""
    posterior = load("ncep-air")
    assert isinstance(posterior, Posterior)
    air = datasets.load("ncep-air").load()
    test = air.sel(time="2012")[:: 12 // months][:months]
    domain = posterior.domain
    assert isinstance(domain, LatLonDomain)
    seen = ships(domain).numpy()[test.time.dt.month.values - 1].reshape(test.shape)
    rng = np.random.default_rng(seed)
    noise = NOISE_STD * rng.standard_normal(test.shape).astype(np.float32)
    obs = (test + noise).where(seen)
    past = air.sel(time=slice("1971", "2000"))
    y, history = _anomalies(obs, posterior), _anomalies(past, posterior)
    methods: dict[str, Callable[[], Filled]] = {
        f"apsgeo, {MEMBERS} members, quantiles to Zarr": lambda: _apsgeo(obs, posterior),
        "xarray `interpolate_na`": lambda: _interpolated(obs, y, posterior),
        "DINEOF": lambda: _dineof(y, history, seed),
    }
    if find_spec("gstools") is not None:
        methods["ordinary kriging, gstools"] = lambda: _kriging(y, domain, seed)
    truth, mean, std = test.values.reshape(len(test), -1), *_climatology(obs, posterior)
    hidden = np.where(seen.reshape(truth.shape), 0.0, domain.areas.numpy())
    found: list[Row] = []
    for name, fill in methods.items():
        begun = time.perf_counter()
        filled, low, high = (None if each is None else mean + std * each for each in fill())
        seconds = (time.perf_counter() - begun) / months
        assert filled is not None
        error = np.sqrt((hidden * (filled - truth) ** 2).sum() / hidden.sum())
        coverage = np.nan
        if low is not None and high is not None:
            inside = (truth >= low) & (truth <= high)
            coverage = float(100 * (hidden * inside).sum() / hidden.sum())
        row = {"method": name, "seconds": seconds, "rmse": float(error), "coverage": coverage}
        found.append(row)
        print(row, flush=True)
    return found


def _climatology(fields: xr.DataArray, posterior: Posterior) -> tuple[Array, Array]:
    month = torch.from_numpy(fields.time.dt.month.values - 1)
    normals = posterior.normals
    return normals.mean[month, 0].numpy().astype(float), normals.std[month, 0].numpy().astype(float)


def _anomalies(fields: xr.DataArray, posterior: Posterior) -> Array:
    mean, std = _climatology(fields, posterior)
    return (fields.values.reshape(len(fields), -1) - mean) / std


def _apsgeo(obs: xr.DataArray, posterior: Posterior) -> Filled:
    with tempfile.TemporaryDirectory() as folder:
        statistics = ["mean", "std", "q05", "q95"]
        made = impute(obs, posterior, MEMBERS, noise_std=NOISE_STD, statistics=statistics)
        path = write_ensemble(made, Path(folder) / "filled.zarr")
        with xr.open_zarr(path, consolidated=False) as written:
            mean = _anomalies(written["air_mean"].load(), posterior)
            low, high = (
                _anomalies(written["air_quantile"].sel(quantile=q).load(), posterior)
                for q in (0.05, 0.95)
            )
    return mean, low, high


def _interpolated(obs: xr.DataArray, y: Array, posterior: Posterior) -> Filled:
    """Interpolate along longitude, then along latitude, then take the nearest."""
    fields = obs.copy(data=y.reshape(obs.shape))
    around = fields.pad(lon=len(fields.lon) // 2, mode="wrap")
    around = around.assign_coords(lon=np.arange(around.sizes["lon"]))
    for dim in ("lon", "lat"):
        around = around.interpolate_na(dim, method="linear", use_coordinate=False)
    for dim in ("lat", "lon"):
        around = around.interpolate_na(
            dim, method="nearest", fill_value="extrapolate", use_coordinate=False
        )
    half = len(fields.lon) // 2
    inner = around.isel(lon=slice(half, half + len(fields.lon)))
    return inner.values.reshape(y.shape), None, None


def _dineof(y: Array, history: Array, seed: int) -> Filled:
    """Fill by truncated SVDs, again and again, of the rank that predicts hidden cells best."""
    whole = np.concatenate([history, y])
    missing = np.isnan(whole)
    tested = np.zeros_like(missing)
    known = np.flatnonzero(~missing[len(history) :].ravel())
    chosen = np.random.default_rng(seed).choice(known, len(known) // 30, replace=False)
    tested[len(history) :].ravel()[chosen] = True
    errors, filled = [], np.where(missing | tested, 0.0, whole)
    for rank in _RANKS:
        filled = _rounds(filled, whole, missing | tested, rank)
        errors.append(float(np.square(filled - whole)[tested].mean()))
    filled = np.where(missing, 0.0, whole)
    for rank in _RANKS[: int(np.argmin(errors)) + 1]:
        filled = _rounds(filled, whole, missing, rank)
    return filled[len(history) :], None, None


def _rounds(filled: Array, whole: Array, missing: NDArray[np.bool_], rank: int) -> Array:
    for _ in range(_ROUNDS):
        _, vectors = np.linalg.eigh(filled @ filled.T)
        leading = vectors[:, -rank:]
        filled = np.where(missing, leading @ (leading.T @ filled), whole)
    return filled


def _kriging(y: Array, domain: LatLonDomain, seed: int) -> Filled:
    import gstools

    lat, lon = (each.ravel() for each in np.meshgrid(domain.lat, domain.lon, indexing="ij"))
    rng = np.random.default_rng(seed)
    means, spreads = np.empty_like(y), np.empty_like(y)
    for number, values in enumerate(y):
        known = np.flatnonzero(~np.isnan(values))
        some = rng.choice(known, min(_MOST, len(known)), replace=False)
        bins, gamma = gstools.vario_estimate(
            (lat[some], lon[some]),
            values[some],
            latlon=True,
            geo_scale=gstools.KM_SCALE,
            sampling_size=1000,
            sampling_seed=seed,
        )
        model = gstools.Exponential(latlon=True, geo_scale=gstools.KM_SCALE)
        model.fit_variogram(bins, gamma, nugget=True)
        place = (lat[some], lon[some])
        krige = gstools.krige.Ordinary(model, place, values[some], exact=False, pseudo_inv=False)
        means[number], variance = krige((lat, lon))
        spreads[number] = np.sqrt(np.maximum(variance, 0.0))
    return means, means - _NORMAL_95 * spreads, means + _NORMAL_95 * spreads
