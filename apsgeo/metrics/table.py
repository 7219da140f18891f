"""Tables of rows of labels and numbers: Markdown for people, CSV for programs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from apsgeo.atomic import write_csv

__all__ = ["Column", "Row", "Table", "percent", "write_rows"]

Row = Mapping[str, Any]
"""Labels and numbers by name; what does not apply to a row is left out of it, or NaN."""


def percent(form: str = ".1f") -> Callable[[float], str]:
    """Return a function that writes a share as a percentage, its number in a format."""
    return lambda share: f"{100 * share:{form}} %"


@dataclass(frozen=True)
class Column:
    """One column of a table.

    Attributes:
        heading: Heading of the column.
        key: Name of its values in the rows.
        form: Format of a value, or function that returns its text.
        error: Name of the standard errors that are put after the values, if any.
        best_among: Label; the least value among the rows that share it is bold. None for no bold.
    """

    heading: str
    key: str
    form: str | Callable[[Any], str] = ""
    error: str = ""
    best_among: str = ""

    def cell(self, row: Row) -> str:
        """Return the text of a row's value, empty if it has none."""
        value = row.get(self.key)
        if value is None or value != value:
            return ""
        each = [value, row[self.error]] if self.error else [value]
        return " ± ".join(self.form(x) if callable(self.form) else f"{x:{self.form}}" for x in each)

    def marked(self, row: Row, rows: Sequence[Row]) -> str:
        """Return the text of a row's value, in bold if it is the best."""
        text = self.cell(row)
        if not self.best_among or not text:
            return text
        rivals = [each for each in rows if each[self.best_among] == row[self.best_among]]
        return f"**{text}**" if row[self.key] == min(each[self.key] for each in rivals) else text


class Table:
    """Columns, by which rows are written.

    Args:
        columns: Columns from left to right; those without any value are left out.
    """

    def __init__(self, *columns: Column) -> None:
        self.columns = columns

    def markdown(self, rows: Sequence[Row]) -> str:
        """Return a Markdown table with a line a row, labels to the left and numbers to the right.

        It is made of the digits that `write_rows` keeps, so that the CSV gives the same table.

        >>> table = Table(Column("method", "name"), Column("CRPS [K]", "crps", ".2f"))
        >>> print(table.markdown([{"name": "kriging", "crps": 0.3568}]), end="")
        | method | CRPS [K] |
        | --- | ---: |
        | kriging | 0.36 |
        """
        rows = [{key: _rounded(value) for key, value in row.items()} for row in rows]
        shown = [column for column in self.columns if any(column.cell(row) for row in rows)]
        rule = ["---" if isinstance(rows[0].get(c.key), str) else "---:" for c in shown]
        lines = [[c.heading for c in shown], rule]
        lines += [[column.marked(row, rows) for column in shown] for row in rows]
        return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def write_rows(path: str | os.PathLike[str], rows: Sequence[Row], overwrite: bool = True) -> None:
    """Write rows as CSV, with six digits of what is not whole, and nothing for NaN.

    Raises:
        OutputExistsError: If ``path`` exists and ``overwrite`` is false.
    """
    texts = [{key: _text(value) for key, value in row.items()} for row in rows]
    write_csv(path, texts, overwrite)


def _rounded(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def _text(value: Any) -> str:
    if not isinstance(value, float):
        return str(value)
    return "" if value != value else f"{value:.6g}"
