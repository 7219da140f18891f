"""How the command speaks: errors in one line, scores in a table."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperGroup

from apsgeo.errors import ApsgeoError, ApsgeoWarning

if TYPE_CHECKING:
    from apsgeo.metrics.scoreboard import Scores

__all__ = ["Commands", "command_line", "print_scores"]


class Commands(TyperGroup):
    """Commands whose expected errors are one line on stderr and the exit status 2."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep the command line, for the history of what it writes."""
        ctx.meta[__name__] = shlex.join(["apsgeo", *args])
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        with warnings.catch_warnings():
            warnings.showwarning = _one_line(warnings.showwarning)
            try:
                return super().invoke(ctx)
            except (ApsgeoError, OSError) as error:
                typer.echo(f"error: {' '.join(str(error).split())}", err=True)
                raise typer.Exit(2) from error


def command_line(ctx: typer.Context) -> str:
    """Return the command line of a context, quoted as a shell wants it."""
    return str(ctx.meta[__name__])


def _one_line(otherwise: Callable[..., None]) -> Callable[..., None]:
    def show(message: Warning | str, category: type[Warning], *rest: Any, **options: Any) -> None:
        if issubclass(category, ApsgeoWarning):
            typer.echo(f"warning: {message}", err=True)
        else:
            otherwise(message, category, *rest, **options)

    return show


def print_scores(scores: Scores, units: str) -> None:
    """Print a table of the scores of an ensemble."""
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
