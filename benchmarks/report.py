"""What every benchmark writes: its rows, its page, and the command that makes both again."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

import apsgeo
from apsgeo.atomic import atomic_file
from apsgeo.metrics.table import Row, write_rows

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
"""Where tables are kept."""
FIGURES = ROOT / "docs" / "figures"
"""Where figures are kept."""

_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "xarray", "healpy")


def command(arguments: Sequence[str]) -> str:
    """Return the command line that runs a benchmark."""
    return shlex.join(["python", "-m", "benchmarks", *arguments])


def provenance(arguments: Sequence[str], seed: int) -> str:
    """Return what is needed to make a table again, as a Markdown list; to be called at the start.

    Args:
        arguments: Those of the command line, the suite's name among them.
        seed: Seed of all random draws.
    """
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return (
        f"- command: `{command(arguments)}`\n"
        f"- seed: {seed}\n"
        f"- apsgeo {apsgeo.__version__}, commit {commit()}; {versions}; "
        f"Python {platform.python_version()}\n"
        f"- machine: {_machine()}\n"
    )


def page(title: str, *parts: str) -> str:
    """Return a Markdown page: its title, then its parts, an empty line before each."""
    return "\n\n".join([f"# {title}", *(part.rstrip("\n") for part in parts if part)]) + "\n"


def save(stem: Path, rows: Sequence[Row], text: str) -> None:
    """Write rows to STEM.csv and the page about them to STEM.md."""
    write_rows(stem.with_suffix(".csv"), rows)
    write(stem.with_suffix(".md"), text)


def save_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write arrays to a file of numpy's npz format, by their names."""
    with atomic_file(path, overwrite=True) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its last keyword is a flag


def write(path: Path, text: str) -> None:
    """Write a text, in place of that of an earlier run."""
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def commit() -> str:
    """Return the commit that runs, marked if files that git tracks were changed."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(git, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _machine() -> str:
    """Return the processor and the number of threads."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"
