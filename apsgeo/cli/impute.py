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
    Variables,
    number,
    open_posterior,
    refuse_existing,
    refuse_input,
)
from apsgeo.cli.outputs import (
    Append,
    DryRun,
    Regions,
    Statistics,
    identity,
    plan_of,
    say_plan,
    statistics_asked,
)
from apsgeo.console import command_line, report
from apsgeo.errors import InputError

__all__ = ["EXAMPLE", "impute"]

EXAMPLE = "apsgeo impute gappy.nc ncep-air filled.nc --members 64"


def impute(
    context: typer.Context,
    obs: Annotated[
        Path,
        typer.Argument(
            metavar="OBS.nc",
            help="Observed fields, as the model was made for; NaN where missing. Zarr, or "
            "several files by a pattern, 'obs_*.nc', too. Or a table of points, .csv, .txt or "
            ".parquet, with columns such as time,lat,lon,value,error.",
        ),
    ],
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="[POSTERIOR] OUTPUT.nc",
            help="A folder made by apsgeo distill, or ncep-air; and the file to make, netCDF or, "
            "with the suffix .zarr, a Zarr store. Without a "
            "model, one is fitted to OBS.nc alone.",
        ),
    ],
    variable: Variables = None,
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
    noise_of: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=NUMBER",
            help="Noise of a variable, or of an instrument of a table; may be repeated.",
            show_default=False,
        ),
    ] = None,
    noise_variable: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Variable of OBS.nc with the noise of each cell or observation; for several "
            "variables NAME=VARIABLE,NAME=VARIABLE.",
            show_default=False,
        ),
    ] = None,
    cell_means: Annotated[
        bool,
        typer.Option(
            "--cell-means",
            help="The observations are means over the cells of their own grid, which is another "
            "than the model's.",
        ),
    ] = False,
    shared_error: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=STD[@KM]",
            help="Error that all observations with one label have in common, such as the bias of "
            "an instrument: a column of the table, or a variable of OBS.nc; may be repeated. @KM: "
            "along a track, correlated over so many km.",
            show_default=False,
        ),
    ] = None,
    quality_control: QualityControl = "flag",
    window: Annotated[
        int | None,
        typer.Option(
            help="Records on either side that each is drawn given, too; 0 for none, the model's by "
            "default.",
            show_default=False,
        ),
    ] = None,
    freq: Annotated[
        str | None,
        typer.Option(
            help="Step of the records of a table: MS for months, D, 5D, 6h; by default that of the "
            "model's history.",
            show_default=False,
        ),
    ] = None,
    statistics: Statistics = None,
    region: Regions = None,
    append: Append = False,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
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
    if not append:
        refuse_existing(output, overwrite or dry_run)
    asked = statistics_asked(statistics, region)
    from apsgeo.files.stores import matching, read_provenance

    refuse_input(output, [*matching(obs), *map(Path, files[:-1])])
    from apsgeo import __version__
    from apsgeo.cli.inputs import noise_of_options, observations, shared_errors
    from apsgeo.operators import CellMeans
    from apsgeo.output.write import CONVENTIONS, write_ensemble
    from apsgeo.progress import say
    from apsgeo.table.read import is_table_path
    from apsgeo.xarray import impute as fill

    model = open_posterior(files[0]) if len(files) == 2 else None
    if model is None:
        say(f"no model given: a random field is fitted to {obs} alone")
    field = observations(obs, variable or [], group, model)
    noise = noise_of_options(obs, group, noise_std, noise_of or [], noise_variable)
    options: dict[str, Any] = {
        "noise_std": noise,
        "quality_control": quality_control,
        "window": window,
        "operator": CellMeans() if cell_means else None,
        "freq": freq,
        "shared_error": shared_errors(obs, group, field, shared_error or []),
    }
    ensemble: Any = fill(field, model, members, seed, statistics=asked, **options)
    if dry_run:
        first = _first_record(field)
        say_plan(
            plan_of(ensemble, lambda count: fill(first, model, count, seed, **options), members)
        )
        return
    context.params["files"] = files[:-1]  # the name of the output changes nothing in it
    source = None if is_table_path(obs) else obs
    command = command_line(context, ("overwrite", "append"))
    attrs, unlimited = read_provenance(source, command)
    variables = [ensemble] if "name" in dir(ensemble) else [*ensemble.data_vars.values()]
    name = ", ".join(str(each.name) for each in variables)
    attrs["title"] = f"{attrs.get('title', field.attrs.get('long_name', name))}, ensemble"
    attrs["source"] = "; ".join([*filter(None, [attrs.get("source")]), f"apsgeo {__version__}"])
    attrs["Conventions"] = CONVENTIONS
    write_ensemble(
        ensemble,
        output,
        overwrite=overwrite,
        append=append,
        attrs=attrs,
        unlimited_dims=sorted(unlimited),
        resume=identity(command, matching(obs), None if model is None else model.digest),
    )
    for each in variables if model is None and asked is None else ():
        say(str(each.attrs["model"]))
    sizes = {str(dim): size for dim, size in ensemble.sizes.items()}
    report(f"{output}: {sizes}", event="done", output=str(output), sizes=sizes)


def _first_record(field: Any) -> Any:
    """Return the first record of fields, or a table as it is."""
    from apsgeo.labels.times import record_dims

    arrays = [*field.data_vars.values()] if "data_vars" in dir(field) else [field]
    dims = record_dims(arrays[0]) if "dims" in dir(arrays[0]) else ()
    return field.isel({dim: slice(1) for dim in dims}) if dims else field
