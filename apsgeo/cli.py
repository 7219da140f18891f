"""The command ``apsgeo``; each verb imports what it needs, so that ``--help`` is quick."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from apsgeo.console import Commands, command_line, print_scores
from apsgeo.errors import InputError, OutputExistsError

if TYPE_CHECKING:
    from apsgeo.posterior import Posterior
    from apsgeo.prior import FieldPrior

__all__ = ["app"]


app = typer.Typer(
    cls=Commands,
    help="Fill the gaps of geophysical fields with ensembles, in one network evaluation a field.",
    epilog="Example: apsgeo impute gappy.nc ncep-air filled.nc --members 64",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Variable = Annotated[
    str | None,
    typer.Option(help="The variable to use, where a file holds several.", show_default=False),
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Seed = Annotated[int, typer.Option(help="Of all random draws; the same seed, the same result.")]


Group = Annotated[
    str | None,
    typer.Option(
        help="The group that holds the variable, in a file of groups.", show_default=False
    ),
]
QualityControl = Annotated[
    Literal["flag", "reject", "off"],
    typer.Option(
        help="Values far from all that is known: flag warns and uses them, reject leaves them out. "
        "Either leaves out fill values."
    ),
]
Trend = Literal["linear"]
Skip = Literal["gaussian", "none"]
Size = Literal["tiny", "small", "medium", "large", "huge"]
Network = Literal["unet", "function-space"]
Objective = Literal["mixed", "score", "reverse", "forward"]
Base = Literal["local", "anchor", "white"]

_ARCHITECTURE: dict[Base, dict[str, Any]] = {
    "local": {},
    "anchor": {"local": 2, "patterns": 32},
    "white": {"local": 8},  # the paper's: affine couplings only
}


def _number(text: str | float) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no number; name a variable of the file by --noise-variable {text}"
        ) from error


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False,
) -> None:
    """Show the version, if asked for."""
    if version:
        import apsgeo

        typer.echo(f"apsgeo {apsgeo.__version__}")
        raise typer.Exit


@app.command(epilog="Example: apsgeo fit air.nc air-prior --baseline 1961 2000")
def fit(
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
        Trend | None,
        typer.Option(help="Normals move on in a straight line.", show_default=False),
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
            help="Keeps the state of the training; given again after a kill, it goes on there.",
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
) -> None:
    """Learn from fields of the past, or one gappy field, what a variable looks like."""
    _refuse_existing(prior, overwrite)
    from apsgeo.diffusion.spec import DenoiserSpec
    from apsgeo.io import read_field
    from apsgeo.labels.mesh import read_mesh
    from apsgeo.optim.distributed import data_parallel, is_first
    from apsgeo.optim.training import Training
    from apsgeo.prior import fit_prior

    with data_parallel():
        fitted = fit_prior(
            read_field(history, variable, group),
            None if mesh is None else read_mesh(mesh).domain,
            baseline=baseline,
            held_out_from=held_out_from,
            quality_control=quality_control,
            seasons=seasons,
            noise_std=noise_std,
            trend=trend,
            rank=rank,
            skip=skip,
            spec=DenoiserSpec(size=size, network=network),
            seed=seed,
            training=Training(steps=steps, patience=patience, checkpoint=checkpoint, log=log),
        )
        if is_first():
            fitted.save(prior, overwrite=overwrite)
            typer.echo(f"{prior}: {fitted!r}")


@app.command(epilog="Example: apsgeo distill air-prior air-model --history air.nc --noise-std 0.25")
def distill(
    prior: Annotated[Path, typer.Argument(metavar="PRIOR", help="A folder made by apsgeo fit.")],
    posterior: Annotated[Path, typer.Argument(metavar="POSTERIOR", help="The folder to make.")],
    noise_std: Annotated[
        float,
        typer.Option(
            help="Standard deviation of the noise, in the units of the data.", show_default=False
        ),
    ],
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="HISTORY.nc",
            help="Complete fields to simulate observations of; by default draws of the prior.",
            show_default=False,
        ),
    ] = None,
    measurements: Annotated[
        Path | None,
        typer.Option(
            metavar="OBS.nc",
            help="Real observations to learn from, with --objective reverse: no truth is needed.",
            show_default=False,
        ),
    ] = None,
    variable: Variable = None,
    density: Annotated[
        tuple[float, float],
        typer.Option(metavar="LEAST MOST", help="Observed fractions of the area to train for."),
    ] = (0.005, 0.5),
    objective: Annotated[Objective, typer.Option(help="reverse is the paper's.")] = "score",
    base: Annotated[
        Base,
        typer.Option(
            help="What the flow starts from: the anchor's posterior by near observations, its "
            "exact posterior, or the paper's white noise."
        ),
    ] = "local",
    steps: Annotated[int, typer.Option(min=0, help="Training steps.")] = 2000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
) -> None:
    """Train a model that samples the posterior of any observations in one evaluation."""
    _refuse_existing(posterior, overwrite)
    from apsgeo.distillation.distill import distill as train
    from apsgeo.flows.build import CouplingSpec
    from apsgeo.io import read_field
    from apsgeo.operators import Mask
    from apsgeo.optim.training import Training

    trained = train(
        _open_prior(prior),
        Mask(*density),
        noise_std,
        history=None if history is None else read_field(history, variable),
        measurements=None if measurements is None else read_field(measurements, variable),
        objective=objective,
        spec=CouplingSpec(base=base, **_ARCHITECTURE[base]),
        seed=seed,
        training=Training(steps=steps),
    )
    trained.save(posterior, overwrite=overwrite)
    typer.echo(f"{posterior}: {trained!r}")


@app.command(epilog="Example: apsgeo impute gappy.nc ncep-air filled.nc --members 64")
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
            parser=_number,
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
    _refuse_existing(output, overwrite)
    from apsgeo import __version__
    from apsgeo.files.netcdf import read_provenance
    from apsgeo.io import read_field
    from apsgeo.xarray import CONVENTIONS, write_ensemble
    from apsgeo.xarray import impute as fill

    model = _open_posterior(files[0]) if len(files) == 2 else None
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


@app.command(epilog="Example: apsgeo evaluate truth.nc filled.nc --observed gappy.nc")
def evaluate(
    truth: Annotated[Path, typer.Argument(metavar="TRUTH.nc", help="Complete fields.")],
    ensemble: Annotated[
        Path, typer.Argument(metavar="ENSEMBLE.nc", help="A file made by apsgeo impute.")
    ],
    observed: Annotated[
        Path | None,
        typer.Option(
            metavar="OBS.nc",
            help="What was observed: only the other cells count.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            metavar="POSTERIOR",
            help="Model whose domain the fields are on, if their labels do not say it.",
            show_default=False,
        ),
    ] = None,
    variable: Variable = None,
) -> None:
    """Score an ensemble against the truth, by area."""
    from apsgeo.evaluation import score_ensemble
    from apsgeo.io import read_field

    drawn = read_field(ensemble, variable)
    scores = score_ensemble(
        drawn,
        read_field(truth, variable),
        None if observed is None else read_field(observed, variable),
        None if model is None else _open_posterior(model).domain,
    )
    print_scores(scores, str(drawn.attrs.get("units", "")))


@app.command(epilog="Example: apsgeo demo --output demo --every 6 --members 32 --density 0.05")
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


@app.command(epilog="Example: apsgeo data ncep-air")
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


@app.command(epilog="Example: apsgeo era5 t2m-1979.nc t2m-1980.nc era5.nc --coarsen 4")
def era5(
    sources: Annotated[
        list[str],
        typer.Argument(metavar="SOURCE...", help="CDS netCDF files, folders of them, or Zarr."),
    ],
    output: Annotated[Path, typer.Argument(metavar="OUTPUT.nc", help="The file to make.")],
    variable: Annotated[
        list[str] | None,
        typer.Option(help="One to take; may be repeated. All by default.", show_default=False),
    ] = None,
    years: Annotated[
        tuple[int, int] | None,
        typer.Option(metavar="FIRST LAST", help="All by default.", show_default=False),
    ] = None,
    coarsen: Annotated[int, typer.Option(help="Cells to average along each side.")] = 1,
    healpix_level: Annotated[
        int | None,
        typer.Option(help="Average onto HEALPix pixels of this order.", show_default=False),
    ] = None,
    overwrite: Overwrite = False,
) -> None:
    """Make one analysis-ready file of ERA5 that you have, on its own grid or a coarser one."""
    _refuse_existing(output, overwrite)
    from apsgeo.datasets.era5 import open_era5
    from apsgeo.io import write_netcdf

    dataset = open_era5(sources, variable, years, coarsen, healpix_level)
    write_netcdf(dataset, output, overwrite=overwrite)
    typer.echo(f"{output}: {', '.join(map(str, dataset))} {dict(dataset.sizes)}")


def _refuse_existing(path: Path, overwrite: bool) -> None:
    """Refuse before the work what writing would refuse after it."""
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists; give another name, or --overwrite to replace it")


def _open_prior(path: Path) -> FieldPrior:
    from apsgeo.models import load
    from apsgeo.prior import FieldPrior

    model = load(path)
    if not isinstance(model, FieldPrior):
        raise InputError(f"{path} is a posterior; give a prior, made by apsgeo fit")
    return model


def _open_posterior(name: str) -> Posterior:
    from apsgeo.models import load
    from apsgeo.posterior import Posterior

    model = load(name)
    if not isinstance(model, Posterior):
        raise InputError(f"{name} is a prior; make a posterior of it with apsgeo distill")
    return model
