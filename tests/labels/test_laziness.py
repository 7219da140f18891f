"""What is lazy stays so: memory does not grow with fields or members, nor a model's journeys."""

import os
import weakref
from collections.abc import Callable
from dataclasses import fields as attributes
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from apsgeo.labels import lazy
from apsgeo.posterior import Posterior
from apsgeo.xarray import impute
from tests.cases import alike
from tests.statistics.test_statistics import CountedPrior, fields, model


class Travelling(Posterior):
    """A posterior that leaves a mark in a folder for each process in which it arrives."""

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        with Path(state["folder"], str(os.getpid())).open("a") as mark:
            mark.write("x")


def travelling(folder: Path) -> Travelling:
    each = model()
    found = Travelling(**{a.name: getattr(each, a.name) for a in attributes(each)})
    vars(found)["folder"] = str(folder)
    assert isinstance(found.method, CountedPrior)
    found.method = found.method.prior
    return found


def test_a_model_is_sent_once_to_each_worker(tmp_path: Path) -> None:
    from distributed import Client, LocalCluster

    posterior = travelling(tmp_path)
    obs = fields(posterior, 24)
    options: Any = {"processes": True, "threads_per_worker": 1, "dashboard_address": None}
    # A scheduler may give a task to another worker, or drop a copy and send it again, when it takes
    # seconds; what is promised is that tasks do not bring the model with them.
    switches = ("work-stealing", "active-memory-manager.start")
    quiet = {f"distributed.scheduler.{switch}": False for switch in switches}
    with dask.config.set(quiet), LocalCluster(n_workers=2, **options) as cluster, Client(cluster):
        ensemble = impute(obs.chunk(time=2), posterior, 4).compute()
    arrivals = {int(mark.name): len(mark.read_text()) for mark in tmp_path.iterdir()}
    workers = arrivals.keys() - {os.getpid()}
    assert workers
    assert {arrivals[each] for each in workers} == {1}
    alike(ensemble.values, impute(obs, posterior, 4).values)


@pytest.mark.parametrize("statistics", [None, ["mean", "std", "p>9", "area"]])
def test_one_record_s_members_are_several_blocks(
    statistics: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    posterior = model()
    obs = fields(posterior, 3)
    whole = impute(obs, posterior, 20, statistics=statistics).compute()
    monkeypatch.setattr(lazy, "_RECORD_BYTES", 7 * obs[0].nbytes)
    monkeypatch.setattr(lazy, "_BLOCK_BYTES", 2 * obs[0].nbytes)
    parts: Any = impute(obs, posterior, 20, statistics=statistics)
    if statistics is None:
        assert parts.chunks[:2] == ((7, 7, 6), (1, 1, 1))
        alike(parts.values, whole.values)
    else:
        for name in whole:
            alike(parts[name].values, whole[name].values)


def archive(records: int, read: Callable[[np.ndarray], None]) -> xr.DataArray:
    """Gappy fields that are made when they are read, four days at a time, and are nowhere kept."""
    like = fields(model(), 1)

    def block(block_info: Any = None) -> np.ndarray:
        (start, stop), *_ = block_info[None]["array-location"]
        values = np.repeat(like.values, stop - start, axis=0)
        read(values)
        return values

    chunks = ((4,) * (records // 4), *((size,) for size in like.shape[1:]))
    values = da.map_blocks(block, chunks=chunks, dtype=np.float32, meta=np.empty((0, 0, 0), "f4"))
    time = xr.date_range("1900-01-01", periods=records, freq="D")
    coords = {"time": time, "lat": like.lat, "lon": like.lon}
    return xr.DataArray(values, coords, like.dims, "air", like.attrs)


def test_records_that_were_read_are_dropped(tmp_path: Path) -> None:
    """However long an archive is, hardly more than a block of it is in memory."""
    alive, most = set[int](), list[int]()

    def read(values: np.ndarray) -> None:
        alive.add(id(values))
        weakref.finalize(values, alive.discard, id(values))
        most.append(len(alive))

    found = impute(archive(80, read), model(), 4, statistics=["mean", "q05"])
    with dask.config.set(scheduler="synchronous"):
        found.to_netcdf(tmp_path / "found.nc")
    assert len(most) == 20  # each block is read once
    assert max(most) <= 3


def test_only_what_is_asked_for_is_read() -> None:
    read: list[np.ndarray] = []
    ensemble = impute(archive(40, read.append), model(), 3)
    assert read == []
    with dask.config.set(scheduler="synchronous"):
        ensemble.isel(time=17).compute()
    assert [len(each) for each in read] == [4]
