"""Options and checks that several verbs share."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from apsgeo.errors import InputError, OutputExistsError

if TYPE_CHECKING:
    from apsgeo.posterior import Posterior
    from apsgeo.prior import FieldPrior

__all__ = [
    "Group",
    "Overwrite",
    "QualityControl",
    "Seed",
    "Variable",
    "Variables",
    "number",
    "open_posterior",
    "open_prior",
    "refuse_existing",
]

Variable = Annotated[
    str | None,
    typer.Option(help="The variable to use, where a file holds several.", show_default=False),
]
Variables = Annotated[
    list[str] | None,
    typer.Option(
        "--variable",
        help="The variable to use, where a file holds several; repeated for a model of several.",
        show_default=False,
    ),
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


def number(text: str | float) -> float:
    """Return the number that an option gives.

    Raises:
        BadParameter: If it is none.
    """
    try:
        return float(text)
    except ValueError as error:
        raise typer.BadParameter(
            f"{text!r} is no number; name a variable of the file by --noise-variable {text}"
        ) from error


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Refuse before the work what writing would refuse after it.

    Raises:
        OutputExistsError: If there is something at the path, and it is not to be replaced.
    """
    if path.exists() and not overwrite:
        raise OutputExistsError(f"{path} exists; give another name, or --overwrite to replace it")
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OutputExistsError(f"{path} is a device or a pipe; give the path of a file")


def refuse_input(output: Path, inputs: Iterable[Path]) -> None:
    """Refuse to put what is made in the place of what it is made of.

    Raises:
        OutputExistsError: If the output is one of the inputs, whatever either is called.
    """
    for path in inputs:
        if output.exists() and path.exists() and output.samefile(path):
            raise OutputExistsError(
                f"{output} is what is read, and would be lost; give the output another name"
            )


def open_prior(path: Path) -> FieldPrior:
    """Open the folder of a prior.

    Raises:
        InputError: If it holds a posterior.
        ModelError: If it holds no model.
    """
    from apsgeo.models import load
    from apsgeo.prior import FieldPrior

    model = load(path)
    if not isinstance(model, FieldPrior):
        raise InputError(f"{path} is a posterior; give a prior, made by apsgeo fit")
    return model


def open_posterior(name: str) -> Posterior:
    """Open the folder of a posterior, or one that comes with the package.

    Raises:
        InputError: If it holds a prior.
        ModelError: If it holds no model.
    """
    from apsgeo.models import load
    from apsgeo.posterior import Posterior

    model = load(name)
    if not isinstance(model, Posterior):
        raise InputError(f"{name} is a prior; make a posterior of it with apsgeo distill")
    return model
