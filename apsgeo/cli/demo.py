"""``apsgeo demo``: methods compared on real fields."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apsgeo.cli.options import Seed

__all__ = ["EXAMPLE", "demo"]

EXAMPLE = "apsgeo demo --output demo --every 6 --members 32 --density 0.05"


def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for ensemble.nc, maps.png and scores.csv, made anew.")
    ] = Path("demo"),
    every: Annotated[int, typer.Option(min=1, help="Take every N-th test month.")] = 6,
    members: Annotated[int, typer.Option(min=2, help="Size of the ensembles.")] = 32,
    density: Annotated[float, typer.Option(max=1.0, help="Observed fraction of the area.")] = 0.05,
    seed: Seed = 0,
) -> None:
    """Hide most of real temperature fields, fill them, and compare methods."""
    from apsgeo.demo import run_demo

    run_demo(output, every=every, members=members, density=density, seed=seed)
