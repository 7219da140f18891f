"""An archive of 20 GB, hourly fields in a Zarr store, of which growing parts are streamed.

Chunks that hold no observation are not stored, so that the store is small and what is read of it is
large. The whole archive is opened each time; statistics of its first records go to another store.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import dask
import numpy as np
import torch
import xarray as xr

from apsgeo.domains import LatLonDomain
from apsgeo.files.stores import open_store
from apsgeo.gaussian.low_rank import LowRankPrior
from apsgeo.measurement import Normals
from apsgeo.metrics.table import Column, Row, Table
from apsgeo.operators import Mask
from apsgeo.output.write import write_ensemble
from apsgeo.posterior import Posterior
from apsgeo.xarray import impute
from benchmarks.scaling.suite import alone, peak_mib

TITLE = "An archive that is larger than memory"
TABLE = Table(
    Column("records", "records", ".0f"),
    Column("GB read", "gigabytes", ".3g"),
    Column("GB of the archive", "archive", ".3g"),
    Column("records a second", "rate", ".3g"),
    Column("peak MiB", "peak_mib", ".0f"),
)
ARCHIVE_BYTES, CHUNK, MEMBERS, PATTERNS, SEEN = 20e9, 64, 2, 8, 100
_LAT, _LON = np.linspace(90.0, -90.0, 73), np.arange(0.0, 360.0, 2.5)
_RECORD_BYTES = 4 * len(_LAT) * len(_LON)
NOTE = (
    f"{__doc__.split(chr(10) * 2, 1)[1].strip()}\n\n{MEMBERS} members of an exact posterior of "
    f"{PATTERNS} patterns on {len(_LAT)} x {len(_LON)} cells, {SEEN} of them observed, in chunks "
    f"of {CHUNK} records; mean and standard deviation to Zarr."
)


def rows(counts: tuple[int, ...], seed: int) -> list[Row]:
    """Stream so many records, each number in a process of its own, so that its peak is known."""
    found: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "archive.zarr"
        _make(path, max(counts), seed)
        for count in counts:
            with alone(1) as pool:
                found.append(pool.submit(_stream, path, count, seed).result())
            print(found[-1], flush=True)
    return found


def _make(path: Path, stored: int, seed: int) -> None:
    """Write an archive whose first records hold observations."""
    import dask.array as da

    total = int(np.ceil(ARCHIVE_BYTES / _RECORD_BYTES))
    shape = total, len(_LAT), len(_LON)
    chunks = CHUNK, *shape[1:]
    times = xr.date_range("1950-01-01", periods=total, freq="h")
    coords = {"time": times, "lat": _LAT, "lon": _LON}
    empty = da.full(shape, np.nan, dtype=np.float32, chunks=chunks)
    whole = xr.DataArray(empty, coords, ("time", "lat", "lon"), "air").to_dataset()
    whole.to_zarr(path, compute=False, zarr_format=2, consolidated=True)
    for start in range(0, stored, CHUNK):
        rng = np.random.default_rng([seed, start])
        values = np.full((CHUNK, len(_LAT) * len(_LON)), np.nan, np.float32)
        at = rng.integers(0, values.shape[1], (CHUNK, SEEN))
        values[np.arange(CHUNK)[:, None], at] = rng.standard_normal(at.shape)
        part = xr.DataArray(values.reshape(CHUNK, *shape[1:]), dims=("time", "lat", "lon"))
        part.to_dataset(name="air").to_zarr(path, region={"time": slice(start, start + CHUNK)})


def _stream(path: Path, count: int, seed: int) -> Row:
    torch.set_num_threads(1)
    domain = LatLonDomain(_LAT, _LON)
    nodes = domain.num_nodes
    generator = torch.Generator().manual_seed(seed)
    loadings = torch.randn(1, nodes, PATTERNS, generator=generator) / PATTERNS**0.5
    zero = torch.zeros(1, 1, nodes)
    normals = Normals(zero, zero + 1.0, torch.ones(nodes, dtype=torch.bool))
    method = LowRankPrior(domain, loadings, white_std=0.3)
    posterior = Posterior(domain, normals, Mask(), method, torch.tensor(0.2))
    archive = open_store(path)["air"]
    begun = time.perf_counter()
    made = impute(archive, posterior, MEMBERS, statistics=["mean", "std"])
    with dask.config.set(scheduler="synchronous"):
        write_ensemble(made.isel(time=slice(count)), path.with_name(f"{count}.zarr"))
    seconds = time.perf_counter() - begun
    return {
        "records": count,
        "gigabytes": count * _RECORD_BYTES / 1e9,
        "archive": archive.nbytes / 1e9,
        "rate": count / seconds,
        "peak_mib": peak_mib(),
    }
