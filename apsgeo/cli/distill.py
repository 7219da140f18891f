"""``apsgeo distill``: a posterior of any observations, from a prior."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from apsgeo.cli.options import Overwrite, Seed, Variable, open_prior, refuse_existing
from apsgeo.cli.outputs import DryRun, foretold, forget_beside, kept_beside
from apsgeo.console import command_line, report

__all__ = ["EXAMPLE", "distill"]

EXAMPLE = "apsgeo distill air-prior air-model --history air.nc --noise-std 0.25"
Teacher = Literal["history", "diffusion", "gaussian"]
Objective = Literal["mixed", "score", "reverse", "forward"]
Base = Literal["adaptive", "local", "anchor", "white"]

_COUPLINGS = 8  # of white noise, which has no correlations of its own


def distill(
    context: typer.Context,
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
            help="Fields to simulate observations of; without them draws of the prior, with a "
            "warning.",
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
    teacher: Annotated[
        Teacher | None,
        typer.Option(
            help="What to learn from: the history, or draws of one of the priors; by default the "
            "history.",
            show_default=False,
        ),
    ] = None,
    density: Annotated[
        tuple[float, float],
        typer.Option(metavar="LEAST MOST", help="Observed fractions of the area to train for."),
    ] = (0.005, 0.5),
    objective: Annotated[Objective, typer.Option(help="reverse is the paper's.")] = "score",
    base: Annotated[
        Base,
        typer.Option(
            help="What the flow starts from: the anchor's posterior by near observations, with a "
            "spread that each record tells (adaptive) or without, its exact posterior, or the "
            "paper's white noise."
        ),
    ] = "adaptive",
    steps: Annotated[int, typer.Option(min=0, help="Training steps.")] = 2000,
    seed: Seed = 0,
    overwrite: Overwrite = False,
    dry_run: DryRun = False,
) -> None:
    """Train a model that samples the posterior of any observations in one evaluation."""
    refuse_existing(posterior, overwrite or dry_run)
    from apsgeo.distillation.distill import distill as train
    from apsgeo.flows.build import CouplingSpec
    from apsgeo.io import read_field
    from apsgeo.operators import Mask
    from apsgeo.optim.training import Training

    command = command_line(context, ("overwrite",))
    kept = kept_beside(posterior, command, [*filter(None, [prior, history, measurements])])
    with foretold("distill", dry_run):
        trained = train(
            open_prior(prior),
            Mask(*density),
            noise_std,
            history=None if history is None else read_field(history, variable),
            measurements=None if measurements is None else read_field(measurements, variable),
            teacher=teacher,
            objective=objective,
            spec=CouplingSpec(base=base, local=_COUPLINGS if base == "white" else 0),
            seed=seed,
            training=Training(steps=steps, checkpoint=kept),
        )
    trained.save(posterior, overwrite=overwrite)
    forget_beside(posterior)
    report(f"{posterior}: {trained!r}", output=str(posterior))
