"""``apsgeo data``: data sets, by name."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["EXAMPLE", "data"]

EXAMPLE = "apsgeo data ncep-air"


def data(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="The data set.", show_default=False)
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the data sets and exit.")] = False,
) -> None:
    """Fetch a data set and print its file's path; without a name, list the data sets."""
    from apsgeo import datasets

    if name is None or listed:
        width = max(map(len, datasets.names())) + 2
        for recipe in datasets.RECIPES:
            typer.echo(f"{recipe.name:{width}}{recipe.title}")
    else:
        typer.echo(datasets.path(name, report=lambda line: typer.echo(line, err=True)))
