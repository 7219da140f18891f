"""Hand damaged and hostile files to every reader, and count what becomes of them.

python -m benchmarks fuzz --count 300    writes benchmarks/results/fuzz/fuzz.*

Valid files of every kind are damaged at random: cut off, bytes changed, numbers made huge, words
put in place of numbers, links and archives that lead out of the folder. They are read in a process
apart, with a limit of time and of memory for each; one that dies is followed by another. A file may
be read all the same, where the damage does not matter, or be refused by an error of apsgeo in one
line. Nothing may be written on failure, and nothing outside at all. Whatever else happens is
printed with its number, and `--first NUMBER --count 1` makes it again.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import signal
import tempfile
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import xarray as xr

import apsgeo
from apsgeo.errors import ApsgeoError
from apsgeo.flows.build import CouplingSpec
from apsgeo.gaussian.scales import HybridScales
from apsgeo.io import write_netcdf
from apsgeo.metrics.table import Column, Row, Table
from benchmarks.fuzz.damage import damaged
from benchmarks.options import Option
from benchmarks.report import page, save

OPTIONS = {
    "count": Option(300, "number of files"),
    "first": Option(0, "number of the first one"),
    "threads": 1,
}
SECONDS = 60  # of the processor
_WAIT = 600  # seconds in all
_AT_ONCE = 100  # cases to a process
_BETWEEN_TABLES = 500  # cases
MEMORY = 2**30  # bytes above those of the process that starts

OUTCOMES = ("refused", "read", "raw error", "crash", "hang", "memory", "written")
"""What may become of a file; only the first two are right."""

TABLE = Table(
    Column("kind", "kind"),
    *(Column(name, name, ".0f") for name in ("files", *OUTCOMES)),
)

Read = Callable[[Path, Path], Any]


def _history() -> xr.DataArray:
    rng = np.random.default_rng(0)
    lat, lon = np.linspace(75, -75, 6), np.arange(0, 360, 36.0)
    waves = np.cos(np.deg2rad(lon)) * np.cos(np.deg2rad(lat))[:, None]
    values = 15 + rng.standard_normal((120, 1, 1)) * waves + rng.standard_normal((120, 6, 10))
    coords = {"time": xr.date_range("2000-01-01", periods=120, freq="MS"), "lat": lat, "lon": lon}
    return xr.DataArray(
        values.astype("f4"), coords, ("time", "lat", "lon"), "air", {"units": "degC"}
    )


def make_sources(folder: Path) -> dict[str, Path]:
    """Write a valid file of every kind, and return its path."""
    import healpy

    history = _history()
    scales = HybridScales(0.5, 3000.0, 0.05)
    prior = apsgeo.fit_prior(
        history, scales=scales, anchor_scales=scales, rank=4, memory=False, steps=0, progress=False
    )
    spec = CouplingSpec(width=4, depth=1, context=4)
    model = apsgeo.distill(
        prior, apsgeo.Mask(), 0.3, spec=spec, steps=0, folds=2, rounds=1, progress=False
    )
    obs = history[:3].where(np.random.default_rng(1).random((3, 6, 10)) < 0.4)
    frame = obs.to_series().dropna().reset_index().assign(error=0.3, instrument="ship")
    found = {
        name: folder / f"source.{end}"
        for name, end in (
            ("netCDF-4", "nc"), ("netCDF-3", "3.nc"), ("Zarr 2", "2.zarr"), ("Zarr 3", "3.zarr"),
            ("CSV", "csv"), ("Parquet", "parquet"), ("FITS", "fits"), ("PLY", "ply"),
            ("OBJ", "obj"), ("OFF", "off"), ("STL", "stl"), ("model", "model"),
        )
    }  # fmt: skip
    write_netcdf(obs, found["netCDF-4"])
    obs.to_netcdf(found["netCDF-3"], format="NETCDF3_64BIT", engine="netcdf4")
    obs.to_dataset().to_zarr(found["Zarr 2"], zarr_format=2, consolidated=True)
    obs.to_dataset().to_zarr(found["Zarr 3"], zarr_format=3, consolidated=False)
    frame.to_csv(found["CSV"], index=False)
    frame.to_parquet(found["Parquet"])
    healpy.write_map(str(found["FITS"]), np.arange(48.0), dtype=np.float64)
    import trimesh

    sphere = trimesh.creation.icosphere(subdivisions=1)
    for kind in ("PLY", "OBJ", "OFF", "STL"):
        sphere.export(found[kind])
    model.save(found["model"])
    return found


def readers(sources: Mapping[str, Path]) -> dict[str, Read]:
    """Return what reads each kind of file, and writes to a path."""

    def command(obs: Path, model: Path, out: Path) -> Any:
        from typer.testing import CliRunner

        from apsgeo.cli import app

        done = CliRunner().invoke(app, ["impute", str(obs), str(model), str(out), "--members", "1"])
        if done.exit_code == 2 and "error: " in done.stderr.splitlines()[-1]:
            raise ApsgeoError(done.stderr.splitlines()[-1])
        if done.exception is not None:
            raise done.exception
        return done

    def observed(path: Path, out: Path) -> Any:
        return command(path, sources["model"], out)

    found: dict[str, Read] = dict.fromkeys(sources, observed)
    found["FITS"] = lambda path, out: apsgeo.read_healpix(path)
    for kind in ("PLY", "OBJ", "OFF", "STL"):
        found[kind] = lambda path, out: apsgeo.read_mesh(path)
    found["model"] = lambda path, out: command(sources["netCDF-4"], path, out)
    return found


def outcomes_of(
    numbers: Sequence[int], seed: int, sources: Mapping[str, Path], work: Path
) -> Iterator[tuple[int, str, str]]:
    """Yield the number of each case, what became of it, and what was said.

    Cases are handled by one process after another, many by each. One that dies says what became of
    its case. A case that runs out of memory after others is tried once more, alone.
    """
    left = list(numbers)
    alone = False
    while left:
        now = left[:1] if alone else left[:_AT_ONCE]
        done, status = _in_a_process(now, seed, sources, work)
        for number, outcome, said in done:
            alone = outcome == "memory" and number != now[0]
            if alone:
                break
            left.remove(number)
            yield number, outcome, said
        if os.WIFSIGNALED(status) or os.WEXITSTATUS(status):
            number = left.pop(0)
            died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
            timed_out = died in (signal.SIGALRM, signal.SIGPROF, signal.SIGKILL)
            yield number, "hang" if timed_out else "crash", f"signal {died}"


def _in_a_process(
    numbers: Sequence[int], seed: int, sources: Mapping[str, Path], work: Path
) -> tuple[list[tuple[int, str, str]], int]:
    """Handle cases in a process, and return what it said of those it came to, and its status."""
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(told)
        _handle(numbers, seed, sources, work, tell)
    os.close(tell)
    with os.fdopen(told, encoding="utf-8", errors="replace") as lines:
        done = [tuple(json.loads(line)) for line in lines]
    _, status = os.waitpid(child, 0)
    return done, status


def _handle(
    numbers: Sequence[int], seed: int, sources: Mapping[str, Path], work: Path, tell: int
) -> NoReturn:
    """Handle cases, tell what became of each, and end the process."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    for each in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(each, signal.SIG_DFL)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, used + MEMORY))
    for number in numbers:
        signal.alarm(_WAIT)
        signal.setitimer(signal.ITIMER_PROF, SECONDS)
        outcome, said = fuzz(number, seed, sources, work)
        os.write(tell, (json.dumps([number, outcome, said[-4000:]]) + "\n").encode())
        if outcome == "memory":
            break
    os._exit(0)


def outcome_of(read: Read, path: Path, out: Path) -> tuple[str, str]:
    """Read a file, and return what became of it, and what was said."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read(path, out)
    except ApsgeoError as error:
        return "refused", str(error)
    except MemoryError:
        return "memory", traceback.format_exc(limit=-4)
    except BaseException:
        return "raw error", traceback.format_exc(limit=-6)
    return "read", ""


def check_whole(sources: Mapping[str, Path], work: Path) -> None:
    """Read files that are not damaged, which must do, or nothing is tested; and import modules."""
    for kind, read in readers(sources).items():
        read(sources[kind], work / f"{kind}.nc")


def kind_of(number: int, sources: Mapping[str, Path]) -> str:
    """Return the kind of the file of a number."""
    return sorted(sources)[number % len(sources)]


def fuzz(number: int, seed: int, sources: Mapping[str, Path], work: Path) -> tuple[str, str]:
    """Damage the file of a number, read it, and return what became of it, and how."""
    random = np.random.default_rng([seed, number])
    kind = kind_of(number, sources)
    folder = Path(tempfile.mkdtemp(dir=work))
    path = folder / "in" / sources[kind].name
    (folder / "out").mkdir()
    if sources[kind].is_dir():
        shutil.copytree(sources[kind], path)
    else:
        path.parent.mkdir()
        shutil.copy(sources[kind], path)
    how = damaged(path, random)
    before = _everything(folder)
    outcome, said = outcome_of(readers(sources)[kind], path, folder / "out" / "out.nc")
    left = _everything(folder) - before
    allowed = {folder / "out" / "out.nc"} if outcome == "read" else set()
    if left - allowed:
        outcome, said = "written", f"{sorted(map(str, left))}\n{said}"
    shutil.rmtree(folder, ignore_errors=True)
    return outcome, f"{how}: {said}"


def _everything(folder: Path) -> set[Path]:
    """Return all paths below a folder, and those beside it that archives may lead to."""
    outside = {Path("/tmp/outside.txt"), folder.parent / "outside.txt", folder / "outside.txt"}
    return {*folder.rglob("*"), *(each for each in outside if each.exists())}


def run(options: argparse.Namespace, made: str) -> None:
    """Damage and read so many files, print what went wrong, and write the table now and then."""
    counts: dict[str, Counter[str]] = {}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        sources = make_sources(work)
        check_whole(sources, work)
        numbers = range(options.first, options.first + options.count)
        for number, outcome, said in outcomes_of(numbers, options.seed, sources, work):
            kind = kind_of(number, sources)
            counts.setdefault(kind, Counter())[outcome] += 1
            if outcome not in ("refused", "read"):
                print(f"--- number {number}, {kind}: {outcome}\n{said}", flush=True)
            if number % _BETWEEN_TABLES == 0 or number == numbers[-1]:
                print(f"{number}", flush=True)
                _save(counts, options, made)


def _save(counts: Mapping[str, Counter[str]], options: argparse.Namespace, made: str) -> None:
    rows: list[Row] = [
        {"kind": kind, "files": sum(found.values())} | {each: found[each] for each in OUTCOMES}
        for kind, found in sorted(counts.items())
    ]
    note = f"{sum(row['files'] for row in rows)} files from number {options.first} on.\n\n{__doc__}"
    text = page("Damaged files", note, TABLE.markdown(rows), made)
    save(options.output / "fuzz" / "fuzz", rows, text)
