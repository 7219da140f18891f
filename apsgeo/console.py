"""How the command speaks: errors in one line, scores in a table."""

from __future__ import annotations

import json
import re
import shlex
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager, nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from apsgeo.errors import ApsgeoError, ApsgeoWarning

if TYPE_CHECKING:
    from apsgeo.metrics.scoreboard import Scores

__all__ = ["Commands", "command_line", "print_scores", "report"]


_INTERRUPTED = 130  # exit status of a program that Ctrl-C ended

_as_json: ContextVar[bool] = ContextVar("as_json", default=False)


def report(text: str, *, event: str = "done", **facts: Any) -> None:
    """Print a result on stdout, or with --json the facts of it as one line."""
    typer.echo(json.dumps({"event": event, **facts}) if _as_json.get() else text)


def _log(level: str, message: str) -> None:
    """Print a line on stderr, or with --json a record."""
    record = {"event": level, "message": message}
    typer.echo(json.dumps(record) if _as_json.get() else f"{level}: {message}", err=True)


def _reported(as_json: bool) -> AbstractContextManager[None]:
    """Return a context in which progress is records on stderr, if all is to be JSON."""
    if not as_json:
        return nullcontext()
    from apsgeo.progress import reported

    return reported(lambda record: typer.echo(json.dumps(dict(record)), err=True))


class Commands(TyperGroup):
    """Commands whose expected errors are one line on stderr and the exit status 2.

    Ctrl-C ends them with 130, and a fault of apsgeo with a traceback and 1.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        _as_json.set(bool(ctx.params.get("as_json")))
        with warnings.catch_warnings(), _reported(_as_json.get()):
            options = self._options(ctx)
            warnings.showwarning = _one_line(warnings.showwarning, options)
            try:
                return super().invoke(ctx)
            except (ApsgeoError, OSError) as error:
                message = " ".join(str(error).split())
                if shell := getattr(error, "shell", None):
                    message = f"{_without_python(message)}; in the shell: {shell}"
                message = _for_shell(message, options)
                _log("error", message)
                raise typer.Exit(2) from error
            except KeyboardInterrupt as error:
                _log("error", "interrupted; the same command again goes on where it was")
                raise typer.Exit(_INTERRUPTED) from error

    def _options(self, ctx: Any) -> dict[str, str]:
        """Return the options of all commands by the names of their arguments in Python."""
        return {
            str(parameter.name): parameter.opts[0]
            for command in self.commands.values()
            for parameter in command.params
            if parameter.param_type_name == "option"
        }


def _for_shell(message: str, options: Mapping[str, str]) -> str:
    """Write arguments such as group='a' and seed=1 as the options --group a and --seed 1."""

    def written(match: re.Match[str]) -> str:
        name, value = match["name"], match["value"]
        return f"{options[name]} {value}".rstrip() if name in options else match[0]

    message = re.sub(
        r"\b(?P<name>[a-z]\w*)=(?P<quote>['\"]?)(?P<value>(?:[-+\w]|\.\w)*)(?P=quote)",
        written,
        message,
    )
    return re.sub(r"\b(?P<name>[a-z]+_\w+)\b(?P<value>)(?!/)", written, message)


def _without_python(message: str) -> str:
    """Leave out the clauses that say what to write in Python, but for the first clause."""
    first, *others = re.split(r"(?<=[.;]) ", message)
    kept = [first, *(each for each in others if not re.search(r"\w\(|\w=\S", each))]
    return re.sub(r"[.;]$", "", " ".join(kept))


def command_line(context: typer.Context, without: Collection[str] = ()) -> str:
    """Return the command of a context with what changes its result, quoted as a shell wants it.

    Options that have their defaults are left out.

    Args:
        context: Context of the command.
        without: Names of parameters to leave out, such as the output.
    """
    words = ["apsgeo", str(context.info_name)]
    for parameter in context.command.params:
        value = context.params.get(str(parameter.name))
        several = bool(getattr(parameter, "multiple", False))
        if parameter.name in without or value is None or (several and not value):
            continue
        if parameter.param_type_name == "argument":
            words += map(str, value if isinstance(value, list) else [value])
        elif value != parameter.get_default(context):
            for each in value if several else [value]:
                given = each if isinstance(each, tuple) else [] if each is True else [each]
                words += [parameter.opts[0], *map(str, given)]
    return shlex.join(words)


def _one_line(
    otherwise: Callable[..., None], options_of_shell: Mapping[str, str]
) -> Callable[..., None]:
    def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
        if issubclass(category, ApsgeoWarning):
            _log("warning", _for_shell(str(message), options_of_shell))
        else:
            otherwise(message, category, *rest, **options)

    return show


def print_scores(scores: Scores, units: str) -> None:
    """Print a table of the scores of an ensemble, or with --json the scores."""
    if _as_json.get():
        names = ("crps", "rmse", "spread_skill", "coverage90", "records")
        report("", event="scores", units=units, **{n: getattr(scores, n) for n in names})
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{scores.records} fields")
    table.add_column("score")
    table.add_column("value", justify="right")
    unit = f" [{units}]" if units else ""
    table.add_row(f"CRPS{unit}", f"{scores.crps:.4g}")
    table.add_row(f"RMSE{unit}", f"{scores.rmse:.4g}")
    table.add_row("spread/skill", f"{scores.spread_skill:.3f}")
    table.add_row("90 % coverage", f"{100 * scores.coverage90:.1f} %")
    Console().print(table, markup=False)
