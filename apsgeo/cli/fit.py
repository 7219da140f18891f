"""``apsgeo fit``: a prior of a variable, from fields of the past."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from apsgeo.cli.options import Group, Overwrite, QualityControl, Seed, Variable, refuse_existing
from apsgeo.cli.outputs import DryRun, foretold, forget_beside, kept_beside
from apsgeo.console import command_line, report

__all__ = ["EXAMPLE", "fit"]

EXAMPLE = "apsgeo fit air.nc air-prior --baseline 1961 2000"
Trend = Literal["auto", "linear", "none"]
Skip = Literal["gaussian", "none"]
Size = Literal["tiny", "small", "medium", "large", "huge"]
Network = Literal["unet", "function-space"]


def fit(
    context: typer.Context,
    history: Annotated[
        Path,
        typer.Argument(
            metavar="HISTORY.nc", help="Fields (time, lat, lon) or the like, NaN in gaps."
        ),
    ],
    prior: Annotated[Path, typer.Argument(metavar="PRIOR", help="The model folder to make.")],
    variable: Variable = None,
    group: Group = None,
    baseline: Annotated[
        tuple[str, str] | None,
        typer.Option(
            metavar="FIRST LAST",
            help="Dates between which the climatological mean is taken; all by default.",
            show_default=False,
        ),
    ] = None,
    held_out_from: Annotated[
        str | None,
        typer.Option(
            metavar="DATE",
            help="From then on, records only decide when to stop; the last tenth by default.",
            show_default=False,
        ),
    ] = None,
    noise_std: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Error of the history's observations; none by default.",
            show_default=False,
        ),
    ] = None,
    trend: Annotated[
        Trend,
        typer.Option(help="Normals that move on in a straight line; auto: if held-out years ask."),
    ] = "auto",
    manifold: Annotated[
        str | None,
        typer.Option(
            help="What values lie on: circle, sphere, axes, rotations, rotations/cubic, spd; by "
            "default what their attributes say, else numbers.",
            show_default=False,
        ),
    ] = None,
    mesh: Annotated[
        Path | None,
        typer.Option(
            metavar="MESH",
            help="Mesh of fields (time, node): UGRID netCDF, or PLY, OBJ, STL, OFF.",
            show_default=False,
        ),
    ] = None,
    quality_control: QualityControl = "flag",
    seasons: Annotated[
        int | None,
        typer.Option(
            help="Of the normals: 1, 12 (months), 36 or 73 a year; by the steps of the records.",
            show_default=False,
        ),
    ] = None,
    rank: Annotated[int, typer.Option(min=1, help="Number of EOFs.")] = 400,
    skip: Annotated[
        Skip, typer.Option(help="The denoiser's skip connection; none is the paper's form.")
    ] = "gaussian",
    size: Annotated[
        Size, typer.Option(help="Size of the denoiser: 0.3, 1, 3, 10 or 30 million parameters.")
    ] = "tiny",
    network: Annotated[
        Network, typer.Option(help="Kind of denoiser; function-space serves other resolutions.")
    ] = "unet",
    steps: Annotated[
        int, typer.Option(min=0, help="Training steps of the diffusion prior.")
    ] = 1500,
    patience: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Stop after so many tenths of the steps without improvement; never by default.",
            show_default=False,
        ),
    ] = None,
    checkpoint: Annotated[
        Path | None,
        typer.Option(
            metavar="FOLDER",
            help="Keeps the state of the training; a hidden one beside PRIOR by default, from "
            "which the same command goes on after a kill.",
            show_default=False,
        ),
    ] = None,
    log: Annotated[
        Path | None,
        typer.Option(
            "--log-file", metavar="LOG.csv", help="Steps, losses, validations.", show_default=False
        ),
    ] = None,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Learn from fields of the past, or one gappy field, what a variable looks like."""
    refuse_existing(prior, overwrite or dry_run)
    from apsgeo.diffusion.spec import DenoiserSpec
    from apsgeo.io import read_field
    from apsgeo.labels.mesh import read_mesh
    from apsgeo.optim.distributed import data_parallel, is_first
    from apsgeo.optim.training import Training
    from apsgeo.prior import fit_prior

    kept = checkpoint or kept_beside(prior, command_line(context, ("overwrite",)), [history])
    with data_parallel(), foretold("fit", dry_run):
        fitted = fit_prior(
            read_field(history, variable, group),
            None if mesh is None else read_mesh(mesh).domain,
            manifold=manifold,
            baseline=baseline,
            held_out_from=held_out_from,
            quality_control=quality_control,
            seasons=seasons,
            noise_std=noise_std,
            trend=None if trend == "none" else trend,
            rank=rank,
            skip=skip,
            spec=DenoiserSpec(size=size, network=network),
            seed=seed,
            training=Training(steps=steps, patience=patience, checkpoint=kept, log=log),
        )
        if is_first():
            fitted.save(prior, overwrite=overwrite)
            forget_beside(prior)
            report(f"{prior}: {fitted!r}", output=str(prior))
