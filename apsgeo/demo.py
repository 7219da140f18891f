"""The demonstration: most of real temperature fields hidden, filled again, and scored."""

from __future__ import annotations

import os
import textwrap
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from apsgeo import datasets, models
from apsgeo.errors import InputError, ModelError
from apsgeo.io import read_field
from apsgeo.labels.checks import integer
from apsgeo.metrics.scoreboard import Scoreboard
from apsgeo.output.write import write_ensemble
from apsgeo.plotting.maps import ensemble_maps, save_figure
from apsgeo.posterior import Posterior
from apsgeo.protocol import NcepProtocol, compared_methods
from apsgeo.xarray import impute

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["run_demo"]

ANCHORED, PAPER = "ncep-air", "ncep-air-paper"
_EXTRAS = {"sklearn": "bench", "matplotlib": "plot"}
_MAPPED = 2  # months in the figure


def run_demo(
    output: str | os.PathLike[str] = "demo",
    *,
    every: int = 6,
    members: int = 32,
    density: float = 0.05,
    seed: int = 0,
) -> Scoreboard:
    """Fill test months of ncep-air with the shipped models, and compare methods.

    Args:
        output: Folder for the results.
        every: Distance of the test months that are taken: every N-th.
        members: Size of the ensembles, two or more.
        density: Observed fraction of the area.
        seed: Seed of masks, noise and ensembles.

    Returns:
        The scores.

    Raises:
        InputError: If an argument cannot be used, or an optional package is not installed.
        DatasetError: If the data cannot be fetched.
        ModelError: If a shipped model is missing or damaged.
    """
    seed = integer(seed, "seed", least=0)
    if absent := [name for name in _EXTRAS if find_spec(name) is None]:
        extras = ",".join(sorted({_EXTRAS[name] for name in absent}))
        raise InputError(
            f"the demo needs {', '.join(absent)}, not installed here: pip install "
            f"'apsgeo[{extras}]'"
        )
    anchored, paper = (_shipped(name) for name in (ANCHORED, PAPER))
    protocol = NcepProtocol(datasets.load("ncep-air").load(), seed=seed)
    return _demonstrate(
        protocol, anchored, paper, output, every=every, members=members, density=density
    )


def _demonstrate(
    protocol: NcepProtocol,
    anchored: Posterior,
    paper: Posterior,
    output: str | os.PathLike[str],
    *,
    every: int = 6,
    members: int = 32,
    density: float = 0.05,
) -> Scoreboard:
    """Fill test months of a protocol, and score all methods on them.

    It prints the scores, and writes to the folder ``output``, in place of files of an earlier run,
    ``ensemble.nc`` (member, time, lat, lon) by the anchored posterior, ``maps.png`` and
    ``scores.csv``.

    Args:
        protocol: Protocol whose months are filled; its seed is that of the ensembles, too.
        anchored: Posterior with a Gaussian anchor.
        paper: Posterior in the paper's form.
        output: Folder for the results.
        every: Distance of the test months that are taken: every N-th.
        members: Size of the ensembles, two or more.
        density: Observed fraction of the area.

    Returns:
        The scores, one row a method.

    Raises:
        InputError: If an argument cannot be used.
    """
    every, members = integer(every, "every", least=1), integer(members, "members", least=2)
    output = Path(output)
    months = protocol.test[::every]
    observed = protocol.labelled(protocol.observe(months, density), months)
    console = Console()
    console.print(
        f"Filling {len(months)} months of which {100 * density:g} % of the area is observed, with "
        f"{members} members each.",
        highlight=False,
    )
    ensemble = impute(
        observed, anchored, members=members, seed=protocol.seed, noise_std=protocol.noise_std
    )
    title = f"ncep-air, filled from observations of {100 * density:g} % of the area"
    file = write_ensemble(ensemble, output / "ensemble.nc", overwrite=True, attrs={"title": title})
    maps = _draw(protocol, months, observed, read_field(file), title)
    save_figure(maps, output / "maps.png", overwrite=True)
    console.print("Fitting the baselines, and scoring all methods on the same months.")
    board = _compare(protocol, anchored, paper, months, density, members)
    board.write_csv(output / "scores.csv", overwrite=True)
    console.print(_table(board))
    console.print(f"Left in {output}/: ensemble.nc, maps.png, scores.csv", highlight=False)
    return board


def _shipped(name: str) -> Posterior:
    model = models.load(Path(models.__file__).parent / name)
    if not isinstance(model, Posterior):
        raise ModelError(f"the shipped model {name} is no posterior; install apsgeo again")
    return model


def _draw(
    protocol: NcepProtocol,
    months: NDArray[np.int64],
    observed: xr.DataArray,
    ensemble: xr.DataArray,
    title: str,
) -> Figure:
    """Draw two months from the middle of the record."""
    first = max(0, len(months) // 2 - 1)
    part = slice(first, first + _MAPPED)
    return ensemble_maps(
        protocol.field.isel(time=months[part]),
        observed.isel(time=part),
        ensemble.isel(time=part).load(),
        climatology=protocol.climatological_mean(months[part]),
        title=title,
    )


def _compare(
    protocol: NcepProtocol,
    anchored: Posterior,
    paper: Posterior,
    months: NDArray[np.int64],
    density: float,
    members: int,
) -> Scoreboard:
    board = Scoreboard()
    for name, method in compared_methods(protocol, anchored, paper).items():
        board.add(
            name, density, protocol.evaluate(method, months, density, members=members, name=name)
        )
    return board


def _table(board: Scoreboard) -> Table:
    """Return the table for the screen, the least CRPS in bold."""
    name, *numbers = (column for column in board.table.columns if column.key != "density")
    table = Table(title="Over the cells that were hidden", box=box.SIMPLE_HEAD)
    table.add_column(name.heading)
    for column in numbers:
        heading = textwrap.fill(column.heading, 8, break_long_words=False)
        table.add_column(heading, justify="right", no_wrap=True)
    best = min(row["crps"] for row in board.rows)
    for row in board.rows:
        style = "bold" if row["crps"] == best else None
        table.add_row(name.cell(row), *(column.cell(row) for column in numbers), style=style)
    return table
