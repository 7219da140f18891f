"""The data sets of the benchmark of domains: one short description each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from apsgeo import datasets
from apsgeo.domains import Domain, ImageDomain
from apsgeo.labels.layout import domain_of
from apsgeo.labels.mesh import from_ugrid
from benchmarks.views import View, along_z, globe, picture

TRAIN_YEARS = (1979, 2014)  # from the first year with satellites; tested after the last
TRAIN_SAMPLES = 3000
MESHES = {"digits-on-bunny": ("image", along_z), "oisst-ocean-mesh": ("sst", globe)}


@dataclass(frozen=True)
class Case:
    """Fields of one channel on their domain, some to fit a prior to, some to try it on.

    Attributes:
        domain: where they live.
        units: of all values.
        noise_std: of an ordinary observation, in ``units``.
        train: (time or sample, 1, node).
        train_season: (time,) index of the season of each, below ``seasons``.
        test: (time or sample, 1, node), later months or other samples.
        test_season: likewise.
        test_key: (time,) int64, naming each record of the test.
        seasons: twelve for months; one where there are none.
        view: how the domain is drawn.
        anomalies: whether fields are drawn without their normal.
    """

    domain: Domain
    units: str
    noise_std: float
    train: Tensor
    train_season: Tensor
    test: Tensor
    test_season: Tensor
    test_key: Tensor
    seasons: int
    view: View
    anomalies: bool


def opened(name: str) -> tuple[xr.DataArray, Domain, View]:
    """Return a data set's field, the domain it lives on, and how that is drawn."""
    if name in MESHES:
        dataset = datasets.load_dataset(name)
        variable, view = MESHES[name]
        return dataset[variable], from_ugrid(dataset).domain, view
    field = datasets.load(name)
    if "sample" in field.dims:
        return field, ImageDomain(*field.shape[1:]), picture
    return field, domain_of(field), globe


def halves(images: xr.DataArray, most: int) -> tuple[xr.DataArray, xr.DataArray]:
    """Return the first samples for training, and those that the data set has for testing."""
    train, test = (np.flatnonzero(images["split"] == part) for part in ("train", "test"))
    return images.isel(sample=train[:most]), images.isel(sample=test)


def monthly(
    field: xr.DataArray,
    domain: Domain,
    view: View,
    units: str,
    noise_std: float,
    years: tuple[int, int] = TRAIN_YEARS,
) -> Case:
    """Split months (time, ...) by time, with a normal for each month of the year."""
    values = torch.from_numpy(field.values.reshape(len(field), 1, -1))
    year = field["time"].dt.year.values
    season = torch.from_numpy(field["time"].dt.month.values.astype(np.int64) - 1)
    key = torch.from_numpy(field["time"].values.astype("datetime64[ns]").astype(np.int64))
    train = torch.from_numpy((year >= years[0]) & (year <= years[1]))
    test = torch.from_numpy(year > years[1])
    return Case(
        domain,
        units,
        noise_std,
        train=values[train],
        train_season=season[train],
        test=values[test],
        test_season=season[test],
        test_key=key[test],
        seasons=12,
        view=view,
        anomalies=True,
    )


def samples(
    field: xr.DataArray,
    domain: Domain,
    view: View,
    noise_std: float,
    most: int = TRAIN_SAMPLES,
) -> Case:
    """Split samples (sample, ...) as `halves` does."""
    train, test = halves(field, most)
    values = [torch.from_numpy(part.values.reshape(len(part), 1, -1)) for part in (train, test)]
    return Case(
        domain,
        "1",
        noise_std,
        train=values[0],
        train_season=torch.zeros(len(train), dtype=torch.long),
        test=values[1],
        test_season=torch.zeros(len(test), dtype=torch.long),
        test_key=torch.arange(len(test)),
        seasons=1,
        view=view,
        anomalies=False,
    )


CASES: dict[str, Callable[[], Case]] = {
    "fashion-mnist": lambda: samples(*opened("fashion-mnist"), 0.05),
    "z500-healpix": lambda: monthly(*opened("z500-healpix"), "m", 5.0),
    "ncep-air": lambda: monthly(*opened("ncep-air"), "K", 0.25),
    "digits-on-bunny": lambda: samples(*opened("digits-on-bunny"), 0.05),
    "oisst-ocean-mesh": lambda: monthly(*opened("oisst-ocean-mesh"), "K", 0.1),
}
"""The data sets by name, opened when called."""
