"""What is said beside every table: the command, the versions, the commit and the machine."""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import torch

import apsgeo
from apsgeo.atomic import atomic_file

__all__ = ["RESULTS", "commit", "provenance", "write"]

RESULTS = Path(__file__).parent / "results"
FIGURES = Path(__file__).parents[1] / "docs" / "figures"
"""Where tables are kept."""

_PACKAGES = ("numpy", "scipy", "scikit-learn", "torch", "xarray", "healpy")


def provenance(module: str, arguments: Sequence[str], seed: int, made_by: str) -> str:
    """Return what is needed to make a table again, as a Markdown list.

    Args:
        module: that was run, such as ``"benchmarks.ncep.suite"``.
        arguments: of the command line.
        seed: of all random draws.
        made_by: the commit, taken when the run began; see `commit`.
    """
    command = shlex.join(["python", "-m", module, *arguments])
    versions = ", ".join(f"{name} {version(name)}" for name in _PACKAGES)
    return (
        f"- command: `{command}`\n"
        f"- seed: {seed}\n"
        f"- apsgeo {apsgeo.__version__}, commit {made_by}; {versions}; "
        f"Python {platform.python_version()}\n"
        f"- machine: {_machine()}\n"
    )


def write(path: Path, text: str) -> None:
    """Write a report, in place of that of an earlier run."""
    with atomic_file(path, overwrite=True) as temporary:
        temporary.write_text(text, encoding="utf-8")


def commit() -> str:
    """Return the commit that ran, marked if files that git tracks were changed."""
    folder = str(Path(__file__).parent)
    git = ["git", "-C", folder, "describe", "--always", "--dirty", "--abbrev=12"]
    found = subprocess.run(git, capture_output=True, text=True, check=False)
    return found.stdout.strip() or "unknown"


def _machine() -> str:
    """Return the processor and the number of threads."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.get_num_threads()} threads"
