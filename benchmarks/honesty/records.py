"""Histories to learn from, and later fields with holes cut into them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import xarray as xr

from apsgeo import datasets

__all__ = ["RECORDS", "Record", "gappy"]

_THIN = 2  # every second cell along each side: 5 degrees
_DAYS, _EVERY = 10, 4  # days of a block, and of how many blocks the last is for testing
_MOST = 12  # fields for testing
_NOISE = 0.1  # standard deviation of the noise, in those of the anomalies


@dataclass(frozen=True)
class Record:
    """A record of fields, split by time.

    Attributes:
        history: Fields to learn from.
        later: Fields that nothing has seen, without holes.
        noise_std: Standard deviation of the noise of the observations, in the units of the data.
    """

    history: xr.DataArray
    later: xr.DataArray
    noise_std: float


def gappy(record: Record, density: float, seed: int) -> xr.DataArray:
    """Return the later fields as they were measured: noisy, at some of the cells of each."""
    generator = np.random.default_rng([seed, round(density * 1e6)])
    later = record.later
    area = (
        np.cos(np.deg2rad(later["lat"])).clip(0.0, None) / np.cos(np.deg2rad(later["lat"])).mean()
    )
    seen = generator.random(later.shape) < (density * area).broadcast_like(later).values
    noise = generator.standard_normal(later.shape, dtype=np.float32)
    return later.where(seen) + record.noise_std * noise


def _split(field: xr.DataArray, last: str, first: str, years: str | None = None) -> Record:
    """Learn from the months until one, and test on some from another on."""
    thin = field[:, ::_THIN, ::_THIN].load()
    history, later = thin.sel(time=slice(years, last)), thin.sel(time=slice(first, None))
    return _record(history, later, "time.month")


def _record(history: xr.DataArray, later: xr.DataArray, season: str | None) -> Record:
    if season is None:
        anomalies = history - history.mean("time")
    else:
        anomalies = history.groupby(season) - history.groupby(season).mean()
    noise = _NOISE * float(anomalies.std())
    places = np.linspace(0, len(later) - 1, min(_MOST, len(later))).round().astype(int)
    return Record(history, later[places], noise)


def _days(name: str) -> Record:
    """Learn from days of a year, but for those of every fourth block of ten."""
    field = datasets.load("nrcan", name)[:, ::3, ::3].load()
    held = np.arange(len(field)) // _DAYS % _EVERY == _EVERY - 1
    return _record(field[~held], field[held], None)


RECORDS: dict[str, Callable[[], Record]] = {
    "surface winds, 8 years": lambda: _split(datasets.load("navy-winds"), "1989", "1990"),
    "air temperature, 10 years": lambda: _split(datasets.load("ncep-air"), "2004", "2010", "1995"),
    "height of 500 hPa, 30 years": lambda: _split(datasets.load("z500"), "2010", "2012"),
    "sea surface temperature, 31 years": lambda: _split(datasets.load("oisst"), "2012", "2014"),
    "daily rain, 9 months": lambda: _days("pr"),
}
"""What loads each record, by its name."""
