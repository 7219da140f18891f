"""``apsgeo impute``: an ensemble of the complete fields behind observed ones."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from apsgeo.cli.options import (
    Group,
    Overwrite,
    QualityControl,
    Seed,
    Variable,
    number,
    open_posterior,
    refuse_existing,
)
from apsgeo.console import command_line
from apsgeo.errors import InputError

__all__ = ["EXAMPLE", "impute"]

EXAMPLE = "apsgeo impute gappy.nc ncep-air filled.nc --members 64"


def impute(
    context: typer.Context,
    obs: Annotated[
        Path,
        typer.Argument(
            metavar="OBS.nc", help="Observed fields, as the model was made for; NaN where missing."
        ),
    ],
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[POSTERIOR] OUTPUT.nc",
            help="A folder made by apsgeo distill, or ncep-air; and the file to make. Without a "
            "model, one is fitted to OBS.nc alone.",
        ),
    ],
    variable: Variable = None,
    group: Group = None,
    members: Annotated[int, typer.Option(help="Size of the ensemble.")] = 64,
    noise_std: Annotated[
        float | None,
        typer.Option(
            help="Standard deviation of the noise, in the data's units; else the posterior's.",
            show_default=False,
            parser=number,
            metavar="NUMBER",
        ),
    ] = None,
    noise_variable: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Variable of OBS.nc with the noise of each cell or observation.",
            show_default=False,
        ),
    ] = None,
    quality_control: QualityControl = "flag",
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Draw an ensemble of the complete fields behind observed ones.

    Without a model, apsgeo impute gappy.nc filled.nc, a random field is fitted to the observations
    alone.
    """
    if len(files) > 2:
        raise InputError(
            f"{len(files)} files given after {obs}: {', '.join(files)}; expected [POSTERIOR] "
            "OUTPUT.nc"
        )
    output = Path(files[-1])
    refuse_existing(output, overwrite)
    from apsgeo import __version__
    from apsgeo.files.netcdf import read_provenance
    from apsgeo.io import read_field
    from apsgeo.output.write import CONVENTIONS, write_ensemble
    from apsgeo.xarray import impute as fill

    model = open_posterior(files[0]) if len(files) == 2 else None
    if model is None:
        typer.echo(f"no model given: a random field is fitted to {obs} alone", err=True)
    field = read_field(obs, variable, group)
    noise: Any = noise_std
    if noise_variable is not None:
        if noise_std is not None:
            raise InputError("give the noise by --noise-std or by --noise-variable, not by both")
        noise = read_field(obs, noise_variable, group)
    ensemble = fill(field, model, members, seed, noise_std=noise, quality_control=quality_control)
    context.params["files"] = files[:-1]  # the name of the output changes nothing in it
    attrs, unlimited = read_provenance(obs, command_line(context, ("overwrite",)))
    attrs["title"] = f"{attrs.get('title', field.attrs.get('long_name', field.name))}, ensemble"
    attrs["source"] = "; ".join([*filter(None, [attrs.get("source")]), f"apsgeo {__version__}"])
    attrs["Conventions"] = CONVENTIONS
    write_ensemble(
        ensemble, output, overwrite=overwrite, attrs=attrs, unlimited_dims=sorted(unlimited)
    )
    if model is None:
        typer.echo(str(ensemble.attrs["model"]), err=True)
    typer.echo(f"{output}: {dict(ensemble.sizes)}")
