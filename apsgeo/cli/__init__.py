"""The command ``apsgeo``: a module for each verb, which imports late, so that help is quick."""

from __future__ import annotations

from typing import Annotated

import typer

from apsgeo.cli import bench, data, demo, distill, era5, evaluate, fit, impute
from apsgeo.console import Commands

__all__ = ["app"]

app = typer.Typer(
    cls=Commands,
    help="Fill the gaps of geophysical fields with ensembles, in one network evaluation a field.",
    epilog=f"Example: {impute.EXAMPLE}",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
    as_json: Annotated[
        bool,
        typer.Option("--json", help="Log progress, warnings, errors and results as lines of JSON."),
    ] = False,
) -> None:
    """Show the version, if asked for."""
    if version:
        import apsgeo

        typer.echo(f"apsgeo {apsgeo.__version__}")
        raise typer.Exit


app.command(epilog=f"Example: {fit.EXAMPLE}")(fit.fit)
app.command(epilog=f"Example: {distill.EXAMPLE}")(distill.distill)
app.command(epilog=f"Example: {impute.EXAMPLE}")(impute.impute)
app.command(epilog=f"Example: {evaluate.EXAMPLE}")(evaluate.evaluate)
app.command(epilog=f"Example: {demo.EXAMPLE}")(demo.demo)
app.command(epilog=f"Example: {data.EXAMPLE}")(data.data)
app.command(epilog=f"Example: {era5.EXAMPLE}")(era5.era5)
app.command(
    epilog=f"Example: {bench.EXAMPLE}",
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)(bench.bench)
