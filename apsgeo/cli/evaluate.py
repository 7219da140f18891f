"""``apsgeo evaluate``: scores of an ensemble against the truth."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apsgeo.cli.options import Variable, open_posterior
from apsgeo.console import print_scores

__all__ = ["EXAMPLE", "evaluate"]

EXAMPLE = "apsgeo evaluate truth.nc filled.nc --observed gappy.nc"


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
        None if model is None else open_posterior(model).domain,
    )
    print_scores(scores, str(drawn.attrs.get("units", "")))
