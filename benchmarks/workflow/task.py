"""One real task from end to end: months of ncep-air under the masks of COADS, quantiles to Zarr.

Where ships have measured the sea surface in a calendar month, the month's air temperature is
observed, with noise of 0.25 K. All methods are given the same anomalies, standardized with the
climatology of the shipped model, and those that learn have the complete months of 1971 to 2000.
DINEOF is that of Beckers & Rixen 2003 (doi:10.1175/1520-0426(2003)020<1839:ECADFF>2.0.CO;2), on
anomalies weighted by area; its rank is the one that fills the months of 2000 best, observed with
the same noise under the masks of the same calendar months. Its patterns are those of xeofs (Rieger
& Levang 2024, doi:10.21105/joss.06060) where that is installed, else numpy's. Kriging is ordinary
kriging on the sphere by gstools, from at most 2000 of the observations. Climatology is the mean of
the shipped model's normals.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
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
_RANKS = (2, 5, 10, 20, 40, 80)  # one after the other, from the last one's fields
_ROUNDS = 15
_STILL = 1e-3  # change of the filled values from round to round, in standard deviations
_MOST = 2000
_NORMAL_95 = 1.6449

Leading = Callable[[Array, int], Array]
"""What the leading patterns of so many explain of fields (month, node)."""

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
    last = past[-12:]  # of 2000, observed as the test months are
    noise = NOISE_STD * rng.standard_normal(last.shape).astype(np.float32)
    seen_then = ships(domain).numpy()[last.time.dt.month.values - 1].reshape(last.shape)
    trial = _anomalies((last + noise).where(seen_then), posterior)
    weight = np.sqrt(domain.areas.numpy() / domain.areas.numpy().mean())
    dineof = Dineof(history, trial, weight)
    methods: dict[str, Callable[[], Filled]] = {
        f"apsgeo, {MEMBERS} members, quantiles to Zarr": lambda: _apsgeo(obs, posterior),
        "xarray `interpolate_na`": lambda: _interpolated(obs, y, posterior),
        "climatology": lambda: (np.zeros_like(y), None, None),
    }
    if find_spec("xeofs") is not None:
        methods["DINEOF, patterns by xeofs"] = lambda: (dineof(y, _leading_of_xeofs), None, None)
    else:
        methods["DINEOF"] = lambda: (dineof(y, _leading), None, None)
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


@dataclass(frozen=True)
class Dineof:
    """Fill by truncated SVDs, again and again, of the rank that fills months like those best.

    Attributes:
        history: Complete anomalies (month, node).
        trial: Its last months (month, node) with gaps, by which the rank is chosen.
        weight: Weight (node,), the root of the area.
    """

    history: Array
    trial: Array
    weight: Array

    def __call__(self, y: Array, leading: Leading) -> Array:
        """Return filled anomalies (month, node), by the patterns of a function."""
        whole = np.concatenate([self.history, y]) * self.weight
        missing = np.isnan(whole)
        filled = np.where(missing, 0.0, whole)
        for rank in _RANKS[: self.chosen + 1]:
            filled = _rounds(filled, missing, rank, leading)
        return filled[len(self.history) :] / self.weight

    @cached_property
    def chosen(self) -> int:
        """Place of the best rank."""
        truth = self.history * self.weight
        whole = np.concatenate([truth[: -len(self.trial)], self.trial * self.weight])
        missing = np.isnan(whole)
        filled, errors = np.where(missing, 0.0, whole), []
        for rank in _RANKS:
            filled = _rounds(filled, missing, rank, _leading)
            errors.append(float(np.square(filled - truth)[missing].mean()))
        print(f"rank {_RANKS[int(np.argmin(errors))]} of {dict(zip(_RANKS, errors, strict=True))}")
        return int(np.argmin(errors))


def _rounds(filled: Array, missing: NDArray[np.bool_], rank: int, leading: Leading) -> Array:
    for _ in range(_ROUNDS):
        before = filled[missing]
        filled = np.where(missing, leading(filled, rank), filled)
        if np.sqrt(np.square(filled[missing] - before).mean()) < _STILL:
            break
    return filled


def _leading(fields: Array, rank: int) -> Array:
    """Return what the leading patterns explain of fields (month, node)."""
    _, vectors = np.linalg.eigh(fields @ fields.T)
    vectors = vectors[:, -rank:]
    return vectors @ (vectors.T @ fields)


def _leading_of_xeofs(fields: Array, rank: int) -> Array:
    import xeofs

    model = xeofs.single.EOF(n_modes=rank, center=False, random_state=0)
    places = {"time": np.arange(len(fields)), "node": np.arange(fields.shape[1])}
    model.fit(xr.DataArray(fields, places, dims=("time", "node")), "time")
    explained = model.inverse_transform(model.scores(normalized=False), normalized=False)
    return np.asarray(explained.transpose("time", "node").values, dtype=np.float64)


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
