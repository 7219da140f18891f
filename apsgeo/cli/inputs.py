"""What the command reads: fields or tables, and their noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apsgeo.errors import InputError
from apsgeo.io import read_field, read_fields
from apsgeo.progress import say
from apsgeo.table.read import is_table_path, read_table

if TYPE_CHECKING:
    from apsgeo.posterior import Posterior

__all__ = ["noise_of_options", "observations", "shared_errors"]


def observations(
    path: Path, variables: Sequence[str], group: str | None, model: Posterior | None
) -> Any:
    """Read a table, or the fields of a file: by default the variables that the model is of.

    Raises:
        InputError: If the file cannot be read, or it is not clear which variables are meant.
    """
    if is_table_path(path):
        if variables or group:
            raise InputError(
                f"--variable and --group are for files of fields, and {path} is a table"
            )
        if model is not None:
            say(f"{path} is a table: members are drawn by {model.linear_method.name}")
        return read_table(path)
    if not variables and model is not None and model.normals.data_channels > 1:
        variables = [each.strip() for each in (model.variable or "").split(",")]
        if len(variables) != model.normals.data_channels:
            variables = []
    return read_fields(path, variables, group)


def noise_of_options(
    path: Path,
    group: str | None,
    noise_std: float | None,
    noise_of: Sequence[str],
    noise_variable: str | None,
) -> Any:
    """Return the noise by one of the options that tell it; None where none is given.

    Raises:
        InputError: If several are given, or one cannot be read.
    """
    given = [noise_std is not None, bool(noise_of), noise_variable is not None]
    if sum(given) > 1:
        raise InputError(
            "give the noise by one of --noise-std, --noise-of and --noise-variable, not by several"
        )
    if noise_variable is not None:
        if is_table_path(path):
            raise InputError(f"{path} is a table; name its column of noise 'error'")
        names = noise_variable.split(",")
        if len(names) == 1 and "=" not in noise_variable:
            return read_field(path, noise_variable, group)
        pairs = [_pair(each, "NAME=VARIABLE", "--noise-variable") for each in names]
        return {name: read_field(path, variable, group) for name, variable in pairs}
    if not noise_of:
        return noise_std
    found = {}
    for each in noise_of:
        name, number = _pair(each, "NAME=NUMBER", "--noise-of")
        try:
            found[name] = float(number)
        except ValueError as error:
            raise InputError(f"--noise-of {each} given; {number!r} is no number") from error
    return found


def shared_errors(path: Path, group: str | None, field: Any, given: Sequence[str]) -> Any:
    """Return the errors that observations share, by the options that tell them; None for none.

    Raises:
        InputError: If one cannot be read, or names nothing of the file.
    """
    from apsgeo.labels.shared import SharedError

    found = []
    for each in given:
        by, value = _pair(each, "NAME=STD, or NAME=STD@KM", "--shared-error")
        std, _, length = value.partition("@")
        try:
            numbers = float(std), float(length) if length else None
        except ValueError as error:
            raise InputError(
                f"--shared-error {each} given; expected NAME=STD, or NAME=STD@KM, with numbers"
            ) from error
        inside = is_table_path(path) or by in field.coords
        found.append(
            SharedError(numbers[0], by if inside else read_field(path, by, group), numbers[1])
        )
    return found or None


def _pair(text: str, form: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not (name and sign and value):
        raise InputError(f"{option} {text} given; expected {form}")
    return name, value
