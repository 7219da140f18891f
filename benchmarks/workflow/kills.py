"""Kill every verb at random points and run it again: the result has the same bytes.

python -m benchmarks kills --times 20    prints a line for each kill, and fails at the first loss

Each verb is run whole once, which also tells how long it takes; then it is started, killed by
SIGKILL after a random part of that time, and run again to its end.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import xarray as xr

from benchmarks.options import Option

OPTIONS = {
    "times": Option(20, "number of kills of each verb"),
    "parts": ("impute", "fit", "distill"),
}


def run(options: argparse.Namespace, made: str) -> None:
    """Kill the verbs that were asked for."""
    rng = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _data(folder, rng)
        _apsgeo(*VERBS["fit"], "prior", folder=folder)
        _apsgeo(*VERBS["distill"], "model", folder=folder)
        for verb in options.parts:
            begun = time.perf_counter()
            whole = _output(verb, "whole")
            _apsgeo(*VERBS[verb], whole, folder=folder)
            seconds = time.perf_counter() - begun
            expected = _digest(folder / whole)
            for number in range(options.times):
                delay = float(rng.uniform(0.0, seconds))
                output = _output(verb, f"killed{number}")
                _killed(VERBS[verb], output, delay, folder)
                if not (folder / output).exists():  # else it was there, and whole, before the kill
                    _apsgeo(*VERBS[verb], output, folder=folder)
                left = [each.name for each in folder.iterdir() if each.name.startswith(".")]
                same = _digest(folder / output) == expected
                print(f"{verb}: killed after {delay:.2f} of {seconds:.2f} s, same bytes: {same}")
                if not same or left:
                    raise SystemExit(f"{verb} lost something; left behind: {left}")
    print(made)


QUICK = ("--steps", "20", "--seed", "1")
VERBS: dict[str, Sequence[str]] = {
    "fit": ("fit", "history.nc", *QUICK, "--rank", "3"),
    "distill": ("distill", "prior", *QUICK, "--history", "history.nc", "--noise-std", "0.3"),
    "impute": (
        "impute",
        "gappy.nc",
        "model",
        "--members",
        "20000",
        "--statistics",
        "mean,q05",
    ),
}


def _output(verb: str, name: str) -> str:
    return f"{name}.nc" if verb == "impute" else f"{verb}-{name}"


def _data(folder: Path, rng: np.random.Generator) -> None:
    time = xr.date_range("2000-01-01", periods=60, freq="MS")
    lat, lon = np.linspace(75, -75, 6), np.arange(0, 360, 45.0)
    values = rng.standard_normal((60, 6, 1)) + 0.5 * rng.standard_normal((60, 6, 8))
    history = xr.DataArray(
        values.astype("f4"),
        {"time": time, "lat": lat, "lon": lon},
        ("time", "lat", "lon"),
        "air",
        {"units": "degC"},
    )
    history.to_netcdf(folder / "history.nc")
    history[-12:].where(rng.random((12, 6, 8)) < 0.3).to_netcdf(folder / "gappy.nc")


def _start(arguments: Sequence[str], folder: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "apsgeo", *arguments]
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def _apsgeo(*arguments: str, folder: Path) -> None:
    verb, first, *rest = arguments
    output = rest.pop()
    process = _start(_ordered(verb, first, output, rest), folder)
    _, errors = process.communicate()
    if process.returncode:
        raise SystemExit(f"apsgeo {' '.join(arguments)} failed: {errors.decode()}")


def _ordered(verb: str, first: str, output: str, rest: Sequence[str]) -> list[str]:
    """Put the output behind the other arguments, before the options."""
    arguments = [each for each in rest[:1] if not each.startswith("--")]
    return [verb, first, *arguments, output, *rest[len(arguments) :]]


def _killed(arguments: Sequence[str], output: str, delay: float, folder: Path) -> None:
    verb, first, *rest = arguments
    process = _start(_ordered(verb, first, output, rest), folder)
    try:
        process.wait(delay)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
    process.communicate()


def _digest(path: Path) -> str:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()
